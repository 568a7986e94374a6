import * as fs from "node:fs"
import { join } from "node:path"
import { assert, describe, expect, it } from "vitest"
import { seal, unseal } from "../../src/store/Manifest.ts"
import { exp } from "../cli/command.ts"
import { artifacts, fake, shown, world } from "./world.ts"

const why = (folder: string, ...args: ReadonlyArray<string>) => exp(folder, "why", "fake.ts", ...args)

describe("exp why", () => {
  it("says of a step that is done what it is", async () => {
    assert.match(shown(await why(await world(), "train")), /^exit 0\ntrain 0→4 is done: train-<key 1>/)
  })

  it("names the parameter that differs, and makes nothing", async () => {
    const folder = await world()
    const before = artifacts(folder)
    expect(shown(await why(folder, "train", "--set", "rate=0.2"))).toMatchInlineSnapshot(`
      "exit 0
      train 0→4 will run; nearest in the store is train-<key 1>, which differs in one field
        stored  now
        parameter \`rate\`  0.1  0.2"
    `)
    assert.deepStrictEqual(artifacts(folder), before)
  })

  it("goes back to the first step that will run, and says why that one does", async () => {
    expect(shown(await why(await world(), "release", "--set", "rate=0.2"))).toMatchInlineSnapshot(`
      "exit 0
      release is not known yet: before it, train 0→4 will run

      train 0→4 will run; nearest in the store is train-<key 1>, which differs in one field
        stored  now
        parameter \`rate\`  0.1  0.2"
    `)
    expect(shown(await why(await world(), "benchmark", "--set", "rate=0.2"))).toMatchInlineSnapshot(`
      "exit 0
      benchmark, benchmark are not known yet: before them, train 0→4 will run

      train 0→4 will run; nearest in the store is train-<key 1>, which differs in one field
        stored  now
        parameter \`rate\`  0.1  0.2"
    `)
  })

  it("explains an input down to the parameter that differs in what it was made from", async () => {
    const folder = await world()
    assert.strictEqual((await exp(folder, "run", "fake.ts", "--json", "--set", "rate=0.2", "--until", "train")).code, 0)
    expect(shown(await why(folder, "benchmark", "--set", "rate=0.2"))).toMatchInlineSnapshot(`
      "exit 0
      benchmark will run; nearest in the store is benchmark-<key 1>, which differs in one field
        stored  now
        input \`model\`: train's \`rate\`  0.1  0.2

      benchmark will run; nearest in the store is benchmark-<key 2>, which differs in one field
        stored  now
        input \`model\`: train's \`rate\`  0.1  0.2"
    `)
  })

  it("names the file whose content differs", async () => {
    const folder = await world()
    fs.writeFileSync(join(folder, "texts.txt"), "A dog sleeps in the sun.")
    expect(shown(await why(folder, "corpus"))).toMatchInlineSnapshot(`
      "exit 0
      corpus will run; nearest in the store is corpus-<key 1>, which differs in one field
        stored  now
        file \`file.texts.sha256\`  <sha256>  <sha256>"
    `)
  })

  it("says that a longer training goes on from the shorter one", async () => {
    expect(shown(await why(await world(), "train", "--set", "steps=6"))).toMatchInlineSnapshot(`
      "exit 0
      train 0→6 will run; nearest in the store is train-<key 1>, which differs in one field
        stored  now
        parameter \`steps\`  4  6
        it goes on from there: these change how far and how often, not what"
    `)
  })

  it("names a version that was raised, and does not mind where a file lies", async () => {
    const folder = await world()
    fs.renameSync(join(folder, "texts.txt"), join(folder, "moved.txt"))
    const moved = fake.replace('file: "texts.txt"', 'file: "moved.txt"')
    const raised = moved.replace('Step.make("benchmark", {\n  version: 1', 'Step.make("benchmark", {\n  version: 2')
    fs.writeFileSync(join(folder, "fake.ts"), raised)
    expect(shown(await why(folder, "benchmark"))).toMatchInlineSnapshot(`
      "exit 0
      benchmark will run; nearest in the store is benchmark-<key 1>, which differs in one field
        stored  now
        version of \`benchmark\`  1  2

      benchmark will run; nearest in the store is benchmark-<key 2>, which differs in one field
        stored  now
        version of \`benchmark\`  1  2"
    `)
  })

  it("says what is wrong with a damaged artifact", async () => {
    const folder = await world()
    fs.appendFileSync(join(folder, "runs/store", artifacts(folder, "corpus")[0]!, "texts.txt"), "!")
    expect(shown(await why(folder, "corpus"))).toMatchInlineSnapshot(`
      "exit 0
      corpus will run: corpus-<key 1> is damaged, \`texts.txt\` has 25 bytes, not 24"
    `)
  })

  it("says that other code made a result", async () => {
    const folder = await world()
    const path = join(folder, "runs/store", artifacts(folder, "corpus")[0]!, "manifest.json")
    const manifest = unseal(fs.readFileSync(path, "utf8"))
    assert(manifest._tag === "Success")
    fs.writeFileSync(path, seal({ ...manifest.success, code: "0".repeat(64) }))
    expect(shown(await why(folder, "corpus"))).toMatchInlineSnapshot(`
      "exit 0
      corpus is done: corpus-<key 1>
        made by other code, and reused: the version of its kind is the same"
    `)
  })

  it("says that a step is the first of its kind, and what a name was meant to be", async () => {
    const folder = await world()
    fs.rmSync(join(folder, "runs/store", artifacts(folder, "release")[0]!), { recursive: true })
    expect(shown(await why(folder, "release"))).toMatchInlineSnapshot(`
      "exit 0
      release will run: the store has no other \`release\`"
    `)
    expect(shown(await why(folder, "relaese"))).toMatchInlineSnapshot(`
      "exit 1
      stderr:
      error: no step of the plan is a \`relaese\`
        hint: did you mean \`release\`?"
    `)
  })

  it("looks into a fan-out over what was found in the store, copy by copy", async () => {
    const folder = await world()
    const fan = fake
      .replace("each([base.stableAt(2), base.stableAt(4)],", "each(base.stable,")
      .replace("return yield* benchmark({ model })\n  })", "return yield* benchmark({ model })\n  }, { atMost: 3 })")
    assert.notStrictEqual(fan, fake)
    fs.writeFileSync(join(folder, "fake.ts"), fan)
    expect(shown(await why(folder, "release", "--set", "steps=6"))).toMatchInlineSnapshot(`
      "exit 0
      release is not known yet: before it, train 0→6 will run

      train 0→6 will run; nearest in the store is train-<key 1>, which differs in one field
        stored  now
        parameter \`steps\`  4  6
        it goes on from there: these change how far and how often, not what"
    `)
    expect(shown(await why(folder, "release"))).toMatchInlineSnapshot(`
      "exit 0
      release is done: release-<key 1>"
    `)
    fs.rmSync(join(folder, "runs/store", artifacts(folder, "benchmark")[0]!), { recursive: true })
    fs.rmSync(join(folder, "runs/store", artifacts(folder, "select")[0]!), { recursive: true })
    expect(shown(await why(folder, "release"))).toMatchInlineSnapshot(`
      "exit 0
      release is not known yet: before it, benchmark step_4 will run

      benchmark step_4 will run; nearest in the store is benchmark-<key 1>, which differs in one field
        stored  now
        input \`model\`  step_2  step_4"
    `)
    expect(shown(await exp(folder, "plan", "fake.ts"))).toMatchInlineSnapshot(`
      "exit 0
      fake  (steps=4, rate=0.1)

        step  artifact
      done  corpus  corpus-<key 1>
      done  train 0→4  train-<key 2>
        each ×≤3
      done  benchmark step_2  benchmark-<key 3>
      will run  benchmark step_4  benchmark-<key 4>
      later  select
      later  release

      at most 7 steps: 3 done, 1 will run, 2 known once their inputs are there
      at most 0 optimizer steps on 0 tokens, 0 parameters, <size> on disk"
    `)
    fs.writeFileSync(join(folder, "fake.ts"), fan.replace("atMost: 3", "atMost: 1"))
    expect(shown(await why(folder, "select"))).toMatchInlineSnapshot(`
      "exit 0
      select cannot run: \`each ×≤1\` has more items than the plan allows
        hint: raise \`atMost\`"
    `)
  })

  it("says it to machines as one JSON object", async () => {
    const { code, out } = await why(await world(), "train", "--set", "rate=0.2", "--json")
    assert.strictEqual(code, 0)
    const [reason] = JSON.parse(out).steps
    assert.strictEqual(reason._tag, "WillRun")
    assert.deepStrictEqual(reason.fields, [{ through: [], what: "parameter", name: "rate", a: 0.1, b: 0.2 }])
  })
})
