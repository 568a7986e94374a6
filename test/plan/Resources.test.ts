import { statSync } from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import { benchmark, corpus, decay, each, experiment, pack, release, select, sweep, tokenizer, train } from "exp"
import { assert, describe, expect, it } from "vitest"
import { laneCount, trainMemoryBytes } from "../../src/engine/tfjs/TrainMemory.ts"
import { checkpointBytes, trainingBytes } from "../../src/model/Architecture.ts"
import { type Node, plan } from "../../src/plan/Plan.ts"
import { listFiles } from "../../src/store/Store.ts"
import { run } from "../run/running.ts"
import { temporaryFolder } from "../temporary.ts"

const model = { layers: 2, width: 64, heads: 2 }
const architecture = { family: "gpt2", ...model, context: 64, vocabulary: 512 } as const
const sources = { train: { en: ["web_en"], it: ["web_it"] }, evaluate: { en: ["books_en"] } }
const split = { validation: 0.15, holdout: 0.15, minimumDocuments: 6 }

const recipeWith = (torchCheckpoint: boolean) =>
  experiment("recipe", function* () {
    const texts = yield* corpus({ from: "experiments/corpus", ...sources, split })
    const tokens = yield* pack({
      corpus: texts,
      tokenizer: yield* tokenizer({ corpus: texts, vocabulary: 512 }),
      context: 64,
    })
    const base = yield* train({
      tokens,
      model,
      rowsPerStep: 4,
      steps: 300,
      peakLr: 1e-3,
      warmupSteps: 10,
      keepEvery: 100,
      seed: 1,
    })
    const among = yield* each(
      base.stable,
      function* (from) {
        const tail = yield* decay({ from, steps: 50, finalLr: 0, every: 25 })
        return yield* benchmark({ model: tail.last })
      },
      { atMost: 3 },
    )
    const best = yield* select({ among, by: "val_loss_mixed" })
    const decoding = yield* sweep({ model: best })
    return yield* release({ model: best, decoding, name: "recipe", license: "CC-BY-SA-4.0", torchCheckpoint })
  })
const recipe = recipeWith(true)

const nodes = (all: ReadonlyArray<Node> = Effect.runSync(plan(recipe)).nodes): ReadonlyArray<Node> =>
  all.flatMap((node) => [node, ...nodes(node.body?.nodes ?? [])])
const only = (kind: string, all?: ReadonlyArray<Node>): Node =>
  nodes(all).find(({ definition }) => definition.kind === kind)!

describe("what steps declare", () => {
  it("says that training takes all cores, and whatever else one", () => {
    const cores = nodes().flatMap(({ body, definition, resources }) =>
      body === undefined ? `${definition.kind} ${resources?.cpus ?? 1}` : [],
    )
    expect(cores).toMatchInlineSnapshot(`
      [
        "corpus 1",
        "tokenizer 1",
        "pack 1",
        "train all",
        "decay all",
        "benchmark 1",
        "select 1",
        "sweep 1",
        "release 1",
      ]
    `)
  })

  it("never asks for more memory than an engine takes: nothing that could run is refused", () => {
    for (const kind of ["train", "decay"])
      assert.strictEqual(only(kind).resources!.memoryBytes, trainingBytes(architecture))
    for (const rows of [1, 4, 64])
      assert.isAtMost(
        trainingBytes(architecture),
        trainMemoryBytes(architecture, laneCount(rows, architecture.context)),
      )
  })

  it("counts two resume points beside what training keeps", () => {
    const whole = checkpointBytes(architecture, true)
    assert.deepInclude(only("train").forecast, { diskBytes: 3 * whole, scratchBytes: 2 * whole })
    assert.deepInclude(only("decay").forecast, {
      diskBytes: 2 * checkpointBytes(architecture, false),
      scratchBytes: 2 * whole,
    })
  })

  it("counts the weights of a release three times, or twice where it has no checkpoint for PyTorch", () => {
    const weights = checkpointBytes(architecture, false)
    const without = Effect.runSync(plan(recipeWith(false))).nodes
    assert.deepInclude(only("release").forecast, { diskBytes: 3 * weights })
    assert.deepInclude(only("release", without).forecast, { diskBytes: 2 * weights })
  })

  it("foretells what a corpus and its tokens take on disk, never too little and not twice too much", async () => {
    const root = temporaryFolder()
    const ran = await run(root, recipe, { until: "pack" })
    assert.isUndefined(ran.error)
    const weigh = (label: string) => {
      const folder = join(root, ran.artifact(label))
      return listFiles(folder).reduce((sum, path) => sum + statSync(join(folder, path)).size, 0)
    }
    const foretold = (kind: string, inputs: Readonly<Record<string, number>>) => {
      const { definition, params } = only(kind)
      return definition.writes!(params, inputs)!
    }
    const texts = weigh("corpus")
    for (const [written, expected] of [
      [texts, foretold("corpus", {})],
      [weigh("pack"), foretold("pack", { corpus: texts })],
    ] as const) {
      assert.isAtLeast(expected, written)
      assert.isAtMost(expected, 2 * written)
    }
  })
})
