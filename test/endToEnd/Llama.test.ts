/** A LLaMA all the way, from texts to files that others load. */
import { spawnSync } from "node:child_process"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { artifacts, embedded, exp, root, temporaryFolder, write } from "./experiment.ts"

const folder = temporaryFolder()
afterAll(folder.remove)

const experiment = `
import { benchmark, corpus, decay, experiment, pack, quantise, release, select, sweep, tokenizer, train } from "exp"

export default experiment("tiny-llama", { corpus: ${JSON.stringify(embedded)}, window: 64 }, function* (set) {
  const texts = yield* corpus({
    from: set.corpus,
    train: { en: ["wiki_en"], it: ["wiki_it"] },
    split: { validation: 0.15, holdout: 0.15, minimumDocuments: 10 },
  })
  const words = yield* tokenizer({ corpus: texts, vocabulary: 512 })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 64 })
  const model = { family: "llama", layers: 2, width: 32, heads: 4, keyValueHeads: 2, slidingWindow: set.window } as const
  const base = yield* train({
    tokens, model, steps: 30, rowsPerStep: 8, peakLr: 1e-2, warmupSteps: 4, keepEvery: 30, seed: 3,
  })
  const tail = yield* decay({ from: base.stableAt(30), steps: 8, finalLr: 1e-4, shape: "1-sqrt", every: 8 })
  const best = yield* select({
    among: [yield* benchmark({ model: tail.last, prompts: 3, maxNewTokens: 16 })], by: "val_loss_mixed",
  })
  const decoding = yield* sweep({ model: best, tuningPrompts: 3, holdoutPrompts: 3, behaviourPrompts: 3, maxNewTokens: 16 })
  const name = "tiny-llama"
  const quantised = yield* quantise({
    model: best, decoding, name, license: "CC0-1.0", types: ["F32", "Q4_0"], calibrationTokens: 2048, measuredTokens: 1500,
  })
  return yield* release({ model: best, decoding, quantised, name, license: "CC0-1.0" })
})
`

const python = process.env["EXP_PYTHON"] ?? "python3"
const importable = spawnSync(python, ["-c", "import torch, transformers"]).status === 0
const unchecked = importable ? "" : ` (not loaded with transformers: \`${python}\` cannot import it; set EXP_PYTHON)`

describe("an experiment with a LLaMA", () => {
  it(`becomes a release that says what it is, and can be verified${unchecked}`, { timeout: 600_000 }, async () => {
    write(folder.path, "a.ts", experiment)
    const run = await exp(folder.path, ["run", "a.ts", "--runs", "runs"])
    expect(run.stderr.includes("error:") ? run.stderr : run.code).toBe(0)
    const release = join(artifacts(join(folder.path, "runs"), "release")[0]!, "release")
    const read = (name: string) => readFileSync(join(release, name), "utf8")
    expect(JSON.parse(read("config.json"))).toMatchObject({
      ...{ model_type: "mistral", architectures: ["MistralForCausalLM"], hidden_size: 32, num_key_value_heads: 2 },
      ...{ intermediate_size: 256, sliding_window: 64, rope_theta: 10_000, tie_word_embeddings: false },
    })
    expect(JSON.parse(read("training_config.json"))).toMatchObject({ block_type: "mistral", tied_head: false })
    const card = read("README.md").replaceAll(/\s+/g, " ")
    expect(card).toContain("a LLaMA style decoder")
    expect(card).toContain("4 heads on 2 of keys and values")
    expect(card).not.toContain("GPT-2")
    // four products of attention, three of the gated layer, and the head
    const quantisation = JSON.parse(read("quantisation.json"))
    const q4 = quantisation.files.find((file: { type: string; importance_matrix: boolean }) => file.importance_matrix)
    expect(Object.keys(q4.matrices)).toHaveLength(2 * 7 + 2)
    expect(quantisation.files[0]).toMatchObject({ type: "F32", losses: { all: { kld: { value: 0 } } } })
    const checked = spawnSync(python, [
      join(root, "test/python/check_release.py"),
      release,
      join(release, "../logits_check.json"),
    ])
    if (importable) expect(checked.status === 0 ? "" : `${checked.stdout}`).toBe("")
    const verified = await exp(folder.path, ["verify", release])
    expect(verified.code === 0 ? "" : verified.stdout + verified.stderr).toBe("")
  })

  it("is refused before it runs where llama.cpp would see more than it", { timeout: 60_000 }, async () => {
    const plan = await exp(folder.path, ["plan", "a.ts", "--set", "window=20"])
    expect(plan.code).toBe(1)
    expect(plan.stderr).toContain("attention sees a window of 20 tokens; llama.cpp would let it see all 64")
  })
})

/** A model as somebody might have published it: our own weights, in transformers' files. */
const continued = (from: string, model: string, vocabulary: number, changes = "") => `
import { benchmark, corpus, decay, experiment, pack, pretrained, release, select, sweep, train } from "exp"

export default experiment("continued", { corpus: ${JSON.stringify(embedded)} }, function* (set) {
  const texts = yield* corpus({
    from: set.corpus, train: { en: ["wiki_en"], it: ["wiki_it"] },
    split: { validation: 0.15, holdout: 0.15, minimumDocuments: 10 },
  })
  const base = yield* pretrained({ from: ${JSON.stringify(from)}, license: "CC0-1.0", model: ${model}, vocabulary: ${vocabulary} })
  const tokens = yield* pack({ corpus: texts, tokenizer: base.tokenizer, context: 64 })
  const run = yield* train({
    tokens, from: base, steps: 4, rowsPerStep: 4, peakLr: 1e-4, warmupSteps: 1, keepEvery: 2, validateEvery: 2, seed: 3, ${changes}
  })
  const tail = yield* decay({ from: run.stableAt(4), steps: 2, finalLr: 1e-5, every: 2 })
  const best = yield* select({ among: [yield* benchmark({ model: tail.last, prompts: 3, maxNewTokens: 16 })], by: "val_loss_mixed" })
  const decoding = yield* sweep({ model: best, tuningPrompts: 3, holdoutPrompts: 3, behaviourPrompts: 3, maxNewTokens: 16 })
  return yield* release({ model: best, decoding, name: "continued", license: "CC0-1.0" })
})
`

describe("continued pre-training", () => {
  it("goes on from the weights, the loss and the tokenizer of a published model", { timeout: 600_000 }, async () => {
    const release = join(artifacts(join(folder.path, "runs"), "release")[0]!, "release")
    const model = '{ family: "llama", layers: 2, width: 32, heads: 4, keyValueHeads: 2, slidingWindow: 64 }'
    write(folder.path, "b.ts", continued(release, model, 512))
    const run = await exp(folder.path, ["run", "b.ts", "--runs", "runs"])
    expect(run.stderr.includes("error:") ? run.stderr : run.code).toBe(0)
    const trained = artifacts(join(folder.path, "runs"), "train").find(
      (path) => JSON.parse(readFileSync(join(path, "training_config.json"), "utf8")).end_step === 4,
    )!
    const lossesOf = (path: string): ReadonlyArray<number> =>
      readFileSync(join(path, "metrics.jsonl"), "utf8")
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line).loss)
    const fresh = artifacts(join(folder.path, "runs"), "train").find((path) => path !== trained)!
    // where the other one ended, and far below where it began
    expect(lossesOf(trained)[0]!).toBeLessThan(lossesOf(fresh).at(-1)! + 0.3)
    expect(lossesOf(trained)[0]!).toBeLessThan(lossesOf(fresh)[0]! - 1)
    expect(JSON.parse(readFileSync(join(trained, "training_config.json"), "utf8")).architecture).toMatchObject({
      ...{ family: "llama", context: 64, slidingWindow: 64, paddingId: 2, vocabulary: 512 },
    })
    const made = artifacts(join(folder.path, "runs"), "release")
      .map((path) => join(path, "release"))
      .find((path) => JSON.parse(readFileSync(join(path, "release.json"), "utf8")).name === "continued")!
    expect(JSON.parse(readFileSync(join(made, "release.json"), "utf8")).base).toEqual({
      ...{ name: "release", license: "CC0-1.0" },
    })
    const card = readFileSync(join(made, "README.md"), "utf8").replaceAll(/\s+/g, " ")
    expect(card).toContain("trained further from the weights of release (CC0-1.0) on texts in")
    expect(card).not.toContain("from nothing")
    const verified = await exp(folder.path, ["verify", made])
    expect(verified.code === 0 ? "" : verified.stdout + verified.stderr).toBe("")
  })

  it("says in the plan what does not go together", { timeout: 120_000 }, async () => {
    const refused = async (text: string) => {
      write(folder.path, "c.ts", text)
      const { code, stderr } = await exp(folder.path, ["plan", "c.ts"])
      expect(code).toBe(1)
      return stderr
    }
    const model = "{ layers: 2, width: 32, heads: 4 }"
    expect(await refused(continued("x", model, 512, `model: ${model}`))).toContain(
      "leave `model` out: it is that of `from`",
    )
    expect(await refused(continued("x", model, 512).replace("from: base, ", ""))).toContain(
      "nothing says what is trained",
    )
    expect(await refused(continued("x", model, 512).replace('license: "CC0-1.0", model', "model"))).toContain(
      "nothing says what the weights of x were published under",
    )
    expect(await refused(continued("x", model, 512).replace('from: "x"', 'repository: "a/b"'))).toContain(
      "no commit of a/b is named",
    )
  })
})
