/** The step, on the smallest model there is: real files, the real engine. */
import { readdirSync, readFileSync, renameSync } from "node:fs"
import { join } from "node:path"
import { Effect, Schema } from "effect"
import { afterAll, describe, expect, it } from "vitest"
import { Quantisation } from "../../../src/model/Report.ts"
import { readSums } from "../../../src/release/gguf/ImportanceFile.ts"
import { pickFile } from "../../../src/release/gguf/Pick.ts"
import { openGguf } from "../../../src/release/gguf/Reader.ts"
import { artifacts, embedded, exp, temporaryFolder, write } from "../../endToEnd/experiment.ts"

const folder = temporaryFolder()
afterAll(folder.remove)

const experiment = `
import { benchmark, corpus, decay, experiment, pack, quantise, select, sweep, tokenizer, train } from "exp"

export default experiment("tiny-gguf", { corpus: ${JSON.stringify(embedded)} }, function* (set) {
  const texts = yield* corpus({
    from: set.corpus,
    train: { en: ["wiki_en"], it: ["wiki_it"] },
    split: { validation: 0.15, holdout: 0.15, minimumDocuments: 10 },
  })
  const words = yield* tokenizer({ corpus: texts, vocabulary: 512 })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 64 })
  const base = yield* train({
    tokens, model: { layers: 2, width: 32, heads: 2 }, steps: 30, rowsPerStep: 8, peakLr: 1e-2, warmupSteps: 4, keepEvery: 30, seed: 3,
  })
  const tail = yield* decay({ from: base.stableAt(30), steps: 8, finalLr: 1e-4, shape: "1-sqrt", every: 8 })
  const best = yield* select({
    among: [yield* benchmark({ model: tail.last, prompts: 3, maxNewTokens: 16 })], by: "val_loss_mixed",
  })
  const decoding = yield* sweep({ model: best, tuningPrompts: 3, holdoutPrompts: 3, behaviourPrompts: 3, maxNewTokens: 16 })
  return yield* quantise({
    model: best, decoding, name: "tiny", license: "CC0-1.0", types: ["F32", "Q8_0", "Q4_0"], calibrationTokens: 2048,
    measuredTokens: 1500,
  })
})
`

describe("quantise", () => {
  it("writes files, measures what is really in them, and picks one by the rule", { timeout: 300_000 }, async () => {
    write(folder.path, "a.ts", experiment)
    const run = await exp(folder.path, ["run", "a.ts", "--runs", "runs"])
    expect(run.stderr.includes("error:") ? run.stderr : run.code).toBe(0)
    const [made] = artifacts(join(folder.path, "runs"), "quantise")
    const found = Schema.decodeUnknownSync(Schema.fromJsonString(Quantisation))(
      readFileSync(join(made!, "quantisation.json"), "utf8"),
    )
    expect(readdirSync(made!).toSorted()).toEqual([
      "Modelfile",
      "manifest.json",
      "quantisation.json",
      "tiny-F32.gguf",
      "tiny-Q4_0.gguf",
      "tiny-Q8_0.gguf",
      "tiny-imatrix-Q4_0.gguf",
      "tiny-imatrix.gguf",
    ])
    const [single, bytes, ...fours] = found.files
    expect(single).toMatchObject({ type: "F32", losses: { all: { kld: { value: 0 }, delta_ppl: { value: 0 } } } })
    expect(single!.losses["all"]!.same_top_p.value).toBe(1)
    expect(bytes!.losses["all"]!.kld.value).toBeGreaterThan(0)
    const plain = fours.find(({ importance_matrix }) => !importance_matrix)!
    const weighed = fours.find(({ importance_matrix }) => importance_matrix)!
    expect(plain.losses["all"]!.kld.value).toBeGreaterThan(bytes!.losses["all"]!.kld.value)
    expect(weighed.losses["all"]!.kld.value).not.toBe(plain.losses["all"]!.kld.value)
    expect(Object.keys(plain.losses)).toEqual(["all", "en", "it"])
    // rows of 32: the head falls back from Q6_K to Q8_0
    expect(plain.matrices).toMatchObject({ "token_embd.weight": "Q8_0", "blk.0.attn_qkv.weight": "Q4_0" })
    expect(found.tokens).toBe(plain.losses["en"]!.kld.n! + plain.losses["it"]!.kld.n!)
    expect(found.pick).toEqual({ by: "kld", at_most: 0.01 })
    expect(pickFile(found.files, found.pick)).toEqual({ file: found.picked, kept: found.rule_kept, words: found.rule })

    const keys = await Effect.runPromise(
      Effect.scoped(Effect.map(openGguf(join(made!, "tiny-imatrix-Q4_0.gguf")), ({ metadata }) => metadata)),
    )
    expect(keys.get("quantize.imatrix.chunks_count")).toBe(32)
    // each matrix of the model, the tied head too, over as many tokens as were asked for
    const sums = await Effect.runPromise(readSums(join(made!, found.importance!.file)))
    expect([...sums.columns.keys()].toSorted()).toEqual(Object.keys(plain.matrices).toSorted())
    expect(found.importance).toMatchObject({ file: "tiny-imatrix.gguf", rows: 32, tokens: 2048 })
    expect([sums.rows, sums.length]).toEqual([32, 64])
    expect(keys.get("general.sampling.temp")).toBeCloseTo(found.preset.doSample ? found.preset.temperature : 0, 6)
    expect(keys.get("general.dataset.1.name")).toBe("wiki_it")
    expect(keys.get("exp.model.sha256")).toMatch(/^[0-9a-f]{64}$/)
    const file = readFileSync(join(made!, "Modelfile"), "utf8")
    expect(file).toContain(`FROM ./${found.picked}\n`)
    expect(file).toContain("PARAMETER num_predict 16\n")
    expect(file).toContain('PARAMETER stop "<|eos|>"\n')
    expect(found.commands.llama_cpp).toContain(`-m ${found.picked} `)
    expect(found.commands.llama_cpp).toContain(" -n 16 ")
  })

  it("makes the same bytes when it is done again", { timeout: 300_000 }, async () => {
    const [made] = artifacts(join(folder.path, "runs"), "quantise")
    const before = join(folder.path, "before")
    renameSync(made!, before)
    const run = await exp(folder.path, ["run", "a.ts", "--runs", "runs"])
    expect(run.stderr.includes("error:") ? run.stderr : run.code).toBe(0)
    for (const name of readdirSync(before).filter((name) => name !== "manifest.json"))
      expect(readFileSync(join(before, name)).equals(readFileSync(join(made!, name))), name).toBe(true)
  })

  it("is in the keys of a release it belongs to, and so is what was set, but for paths of this machine", {
    timeout: 300_000,
  }, async () => {
    const releasing = experiment
      .replace("quantise, select", "quantise, release, select")
      .replace("return yield* quantise", "const quantised = yield* quantise")
      .replace("corpus: ", 'name: "tiny", corpus: ')
      .replace('name: "tiny", license', "name: set.name, license")
      .replace(
        /\n\}\)\s*$/,
        '\n  return yield* release({ model: best, decoding, quantised, name: set.name, license: "CC0-1.0" })\n})\n',
      )
    write(folder.path, "c.ts", releasing)
    const run = await exp(folder.path, [
      ...["run", "c.ts", "--runs", "runs"],
      ...["--set", "name=other", "--set", `corpus=${embedded}/../corpus`],
    ])
    expect(run.stderr.includes("error:") ? run.stderr : run.code).toBe(0)
    const [made] = artifacts(join(folder.path, "runs"), "release")
    const { keys, parameters } = JSON.parse(readFileSync(join(made!, "release/release.json"), "utf8"))
    const quantised = artifacts(join(folder.path, "runs"), "quantise").map(
      (path) => JSON.parse(readFileSync(join(path, "manifest.json"), "utf8")).identity,
    )
    expect(quantised).toContain(keys.quantise)
    expect(parameters).toEqual({ name: "other" })
  })

  it("refuses a licence that nobody knows, as soon as it is planned", { timeout: 60_000 }, async () => {
    write(folder.path, "b.ts", experiment.replace('"CC0-1.0"', '"CC0"'))
    const { code, stderr } = await exp(folder.path, ["plan", "b.ts", "--runs", "runs"])
    expect(stderr).toMatch(/`CC0` is no licence that is known of SPDX's list\n {2}hint: .*`LicenseRef-<name>`/)
    expect(code).toBe(1)
  })
})

describe("the rule", () => {
  const measured = (value: number, high: number) => ({ value, ci95: [2 * value - high, high] as const, n: 10 })
  const file = (name: string, bytes: number, en: readonly [number, number], it = en) => {
    const loss = ([value, high]: readonly [number, number]) => ({
      ppl: measured(9, 9),
      delta_ppl: measured(0, 0),
      kld: measured(value, high),
      kld_median: 0,
      kld_p99: 0,
      kld_max: 0,
      mean_delta_p: measured(0, 0),
      rms_delta_p: measured(0, 0),
      same_top_p: measured(1, 1),
    })
    return {
      file: name,
      type: name,
      importance_matrix: false,
      bytes,
      bits_per_weight: 8,
      matrices: {},
      types: {},
      losses: { all: loss(en), en: loss(en), it: loss(it) },
    }
  }
  const rule = { by: "kld", at_most: 0.01 } as const

  it("takes the smallest file that keeps it in every language, intervals included", () => {
    const large = file("large", 3000, [0.001, 0.002])
    const uneven = file("uneven", 2000, [0.002, 0.003], [0.009, 0.011])
    const unsure = file("unsure", 1000, [0.005, 0.02])
    expect(pickFile([large, uneven, unsure], rule)).toMatchObject({ file: "large", kept: true })
    expect(pickFile([large, file("even", 2000, [0.008, 0.009])], rule).file).toBe("even")
  })

  it("takes the better of two that differ by some keys only", () => {
    expect(
      pickFile([file("weighed", 100_100, [0.001, 0.002]), file("plain", 100_000, [0.004, 0.005])], rule).file,
    ).toBe("weighed")
  })

  it("says so when no file keeps it, and takes the nearest", () => {
    const picked = pickFile([file("a", 10, [0.5, 0.6]), file("b", 20, [0.2, 0.3])], rule)
    expect(picked).toMatchObject({ file: "b", kept: false })
    expect(picked.words).toMatch(
      /^the smallest file whose .* is at most 0.01 in every language.*; none is, so the one that comes nearest$/,
    )
  })
})
