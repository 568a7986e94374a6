import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Layer } from "effect"
import { benchmark, corpus, decay, each, experiment, pack, tokenizer, train } from "exp"
import { assert, describe, it } from "vitest"
import { Engine } from "../../src/engine/Engine.ts"
import { plan } from "../../src/plan/Plan.ts"
import type { Circumstances } from "../../src/run/forecast/Circumstances.ts"
import { forecastOn } from "../../src/run/forecast/PlanForecast.ts"
import { foretell } from "../../src/run/forecast/RunForecast.ts"
import { survey } from "../../src/run/Survey.ts"
import { Store } from "../../src/store/Store.ts"
import { temporaryFolder } from "../temporary.ts"
import { calibrationOf } from "./calibration.ts"

const calibration = calibrationOf({
  ...{ family: "gpt2", layers: 4, width: 128, heads: 4, context: 128, vocabulary: 2048 },
})
const { engine: numerics, device } = calibration

/** A training with so many tails. */
const recipe = (tails: number) =>
  experiment("tails", function* () {
    const texts = yield* corpus({ from: "experiments/corpus", train: { en: ["web_en"] } })
    const words = yield* tokenizer({ corpus: texts, vocabulary: 2048 })
    const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 128 })
    const model = { layers: 4, width: 128, heads: 4 }
    const rates = { peakLr: 1e-3, warmupSteps: 10 }
    const base = yield* train({ tokens, model, rowsPerStep: 16, steps: 100, ...rates, keepEvery: 100, seed: 1 })
    const lengths = Array.from({ length: tails }, (_, i) => i + 1)
    return yield* each(lengths, function* (steps) {
      const tail = yield* decay({ from: base.stableAt(100), steps, finalLr: 1e-5, every: steps })
      return yield* each(tail.checkpoints, function* (model) {
        return yield* benchmark({ model })
      })
    })
  })

const circumstances = (more: Partial<Circumstances> = {}): Circumstances => ({
  ...{ numerics, device, room: { device: "host", hostBytes: 24e9 }, workers: 2, calibrations: [calibration] },
  ...{ paces: {}, rates: {}, pathOf: (artifact: string) => artifact },
  ...more,
})

const told = (tails: number, here: Circumstances) =>
  Effect.gen(function* () {
    const { nodes } = yield* plan(recipe(tails))
    return { foretold: yield* foretell(nodes, here), forecast: forecastOn(nodes, yield* survey(nodes), here) }
  }).pipe(
    Effect.provide(
      Layer.mergeAll(
        Store.layer(join(temporaryFolder(), "store")),
        Layer.mock(Engine, { numerics }),
        NodeServices.layer,
      ),
    ),
    Effect.runPromise,
  )

describe("what a run is foretold", () => {
  it("is there for every step, however many there are", async () => {
    const { foretold, forecast } = await told(600, circumstances())
    // three that read texts, a training, and a tail with its benchmark for each
    assert.lengthOf(foretold!, 4 + 2 * 600)
    assert.deepStrictEqual(
      foretold!.map(({ step, seconds }) => [step, seconds]),
      forecast.steps.map(({ step, seconds }) => [step, seconds]),
    )
    assert.isAbove(foretold!.filter(({ memoryBytes }) => memoryBytes !== undefined).length, 600)
  })

  it("is of memory what will be measured: on a host the process, on a GPU what the allocator gives out", async () => {
    const memoryOf = async (here: Circumstances) => {
      const { foretold, forecast } = await told(1, here)
      const training = forecast.steps.find(({ kind }) => kind === "train")!
      const { memoryBytes } = foretold!.find(({ step }) => step === training.step)!
      return { memoryBytes, memory: training.memory! }
    }
    const host = await memoryOf(circumstances())
    assert.strictEqual(host.memoryBytes, host.memory.bytes)
    const torch = { name: "torch", numerics: 1, precision: "bf16" }
    const room = { device: "gpu", gpuBytes: 16e9, hostBytes: 24e9 } as const
    const gpu = await memoryOf(circumstances({ numerics: torch, room }))
    assert.isAbove(gpu.memory.parts.runtime, 0)
    assert.closeTo(gpu.memoryBytes!, gpu.memory.bytes - gpu.memory.parts.runtime, 1)
  })
})
