import * as fs from "node:fs"
import { join } from "node:path"
import { assert, describe, expect, it } from "vitest"
import { sha256 } from "../../src/model/Digest.ts"
import { seal, unseal } from "../../src/store/Manifest.ts"
import { exp, writeCorpus } from "../cli/command.ts"
import { temporaryFolder } from "../temporary.ts"
import { shown } from "./world.ts"

const small = `import { corpus, decay, experiment, pack, tokenizer, train } from "exp"

export default experiment("small", function* () {
  const split = { validation: 0.2, holdout: 0.2, minimumDocuments: 1 }
  const texts = yield* corpus({ from: "texts", train: { en: ["web_en"], it: ["web_it"] }, split })
  const words = yield* tokenizer({ corpus: texts, vocabulary: 300 })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 16 })
  const model = { layers: 1, width: 16, heads: 2 }
  const base = yield* train({ tokens, model, steps: 8, rowsPerStep: 2, peakLr: 1e-2, warmupSteps: 2, keepEvery: 4, seed: 3 })
  return yield* decay({ from: base.stableAt(4), steps: 2, finalLr: 0, every: 2 })
})
`

describe("exp resume --prove", () => {
  it("shows that training cut in the middle is the same to the byte, and tells when it is not", async () => {
    const folder = temporaryFolder()
    writeCorpus(folder)
    fs.writeFileSync(join(folder, "small.ts"), small)
    assert.strictEqual((await exp(folder, "run", "small.ts", "--json")).code, 0)
    const cached = fs.readdirSync(join(folder, "runs/.cache"))
    const store = join(folder, "runs/store")
    const of = (kind: string) => fs.readdirSync(store).find((name) => name.startsWith(kind))!
    const digests = (text: string) => text.replaceAll(/\b[0-9a-f]{64}\b/g, "<sha256>")
    const prove = (...args: ReadonlyArray<string>) => exp(folder, "resume", "--prove", ...args)

    const proved = await prove(`runs/store/${of("train")}/checkpoints/step_4`)
    expect(digests(shown(proved))).toMatchInlineSnapshot(`
      "exit 0
      train-<key 1>: steps 4 to 8, at a stretch and cut by a resume point after step 6

        after step 8  sha256
      weights  at a stretch  <sha256>
        cut at step 6  <sha256>
        stored step_8  <sha256>
      moments  at a stretch  <sha256>
        cut at step 6  <sha256>
        stored step_8  <sha256>
      state  at a stretch  <sha256>
        cut at step 6  <sha256>
        stored step_8  <sha256>

      weights, moments and state are byte-equal"
    `)
    const distinct = new Set(proved.out.match(/\b[0-9a-f]{64}\b/g))
    assert.lengthOf([...distinct], 3, "weights, moments and state have one digest each")

    expect(digests(shown(await prove(`${of("train")}#step_8`, "--steps", "3")))).toMatchInlineSnapshot(`
      "exit 0
      train-<key 1>: steps 8 to 11, at a stretch and cut by a resume point after step 9

        after step 11  sha256
      weights  at a stretch  <sha256>
        cut at step 9  <sha256>
      moments  at a stretch  <sha256>
        cut at step 9  <sha256>
      state  at a stretch  <sha256>
        cut at step 9  <sha256>

      weights, moments and state are byte-equal
      not compared with a stored checkpoint: no checkpoint was kept after step 11"
    `)
    expect(shown(await prove(`${of("train")}#step_5`))).toMatchInlineSnapshot(`
      "exit 1
      stderr:
      error: checkpoint \`train-<key 1>#step_5\`: no checkpoint was kept after step 5
        hint: did you mean \`step_4\`?"
    `)
    // a checkpoint in a tail keeps no moments: the way to it from its parent is taken twice
    expect(digests(shown(await prove(`${of("decay")}#step_6`)))).toMatchInlineSnapshot(`
      "exit 0
      decay-<key 1>: steps 4 to 6, at a stretch and cut by a resume point after step 5

        after step 6  sha256
      weights  at a stretch  <sha256>
        cut at step 5  <sha256>
        stored step_6  <sha256>
      state  at a stretch  <sha256>
        cut at step 5  <sha256>
        stored step_6  <sha256>

      weights and state are byte-equal"
    `)
    assert.strictEqual((await prove("nowhere/step_4")).code, 1)
    assert.strictEqual((await prove(`${of("train")}#step_4`, "--steps", "1")).code, 1)

    // a store whose checkpoint is whole and yet not what training gives
    const path = join(store, of("train"))
    const file = "checkpoints/step_8/model.safetensors"
    const bytes = fs.readFileSync(join(path, file))
    bytes[bytes.length - 1]! ^= 1
    fs.writeFileSync(join(path, file), bytes)
    const rotten = await prove(`${of("train")}#step_4`)
    assert.match(rotten.err, /is damaged: `checkpoints\/step_8\/model.safetensors`/)
    const manifest = unseal(fs.readFileSync(join(path, "manifest.json"), "utf8"))
    assert(manifest._tag === "Success")
    const files = manifest.success.files.map((one) => (one.path === file ? { ...one, sha256: sha256(bytes) } : one))
    fs.writeFileSync(join(path, "manifest.json"), seal({ ...manifest.success, files }))
    const differing = await prove(`${of("train")}#step_4`)
    assert.strictEqual(differing.code, 1)
    assert.match(differing.out, /they are not byte-equal/)
    assert.match(differing.err, /the checkpoints after step 8 are not byte-equal\n {2}hint: /)
    assert.deepStrictEqual(fs.readdirSync(join(folder, "runs/.cache")), cached, "nothing of the proof is left behind")
  })
})
