import { existsSync, readFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { artifacts, exp, root, temporaryFolder, write } from "./experiment.ts"

const shared = resolve(root, process.env["EXP_SHARED_DATA"] ?? "../shared/data")
const place = temporaryFolder()
afterAll(() => place.remove())

const polish = `
import { benchmark, corpus, decay, experiment, pack, release, select, sweep, tokenizer, train } from "exp"

export default experiment("polish", { corpus: ${JSON.stringify(join(shared, "corpus"))} }, function* (set) {
  const texts = yield* corpus({
    from: set.corpus,
    train: { pl: ["wiki_pl"] },
    split: { validation: 0.05, holdout: 0.05, minimumDocuments: 10 },
  })
  const words = yield* tokenizer({ corpus: texts, vocabulary: 1024 })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 64 })
  const base = yield* train({
    tokens, model: { layers: 1, width: 32, heads: 2 }, steps: 12, rowsPerStep: 4, peakLr: 3e-3, warmupSteps: 4, keepEvery: 12, seed: 1,
  })
  const tail = yield* decay({ from: base.stableAt(12), steps: 4, finalLr: 1e-5, every: 4 })
  const best = yield* select({
    among: [yield* benchmark({ model: tail.last, prompts: 3, maxNewTokens: 16 })],
    by: "val_loss_pl",
  })
  const decoding = yield* sweep({ model: best, tuningPrompts: 4, holdoutPrompts: 4, behaviourPrompts: 3, maxNewTokens: 16 })
  return yield* release({ model: best, decoding, name: "polish", license: "CC-BY-SA-4.0" })
})
`

describe("an experiment in Polish alone", () => {
  const skipped = existsSync(join(shared, "corpus")) ? false : `skipped: there is no data in ${shared}`
  it.skipIf(skipped)(
    `has metrics, probes and a release of its own language${skipped ? ` (${skipped})` : ""}`,
    async () => {
      write(place.path, "polish.ts", polish)
      const { code, stderr } = await exp(place.path, ["run", "polish.ts"])
      expect(stderr).toBe("")
      expect(code).toBe(0)
      const folder = join(artifacts(join(place.path, "runs"), "release")[0]!, "release")
      const { metrics } = JSON.parse(readFileSync(join(folder, "benchmark_metrics.json"), "utf8"))
      expect(Object.keys(metrics)).toEqual(
        expect.arrayContaining(["val_loss_pl", "language_consistency_pl", "loss_wiki_pl"]),
      )
      expect(Object.keys(metrics).filter((name) => /_(en|it)$/.test(name))).toEqual([])
      expect(readFileSync(join(folder, "README.md"), "utf8")).toMatch(/Stolicą Włoch jest/)
    },
    240_000,
  )
})
