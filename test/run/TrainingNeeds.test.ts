import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Layer } from "effect"
import { corpus, decay, each, experiment, pack, tokenizer, train } from "exp"
import { assert, describe, expect, it } from "vitest"
import { totalOf } from "../../src/engine/Components.ts"
import { Engine } from "../../src/engine/Engine.ts"
import { remedyFor, trainingMemory } from "../../src/engine/Memory.ts"
import { plan } from "../../src/plan/Plan.ts"
import { memoryQuestion } from "../../src/run/forecast/Memory.ts"
import { requireMachine, TrainingTooLarge, withNeeds } from "../../src/run/Needs.ts"
import { Store } from "../../src/store/Store.ts"
import { temporaryFolder } from "../temporary.ts"

const recipe = (model: { readonly layers: number; readonly width: number; readonly heads: number }, rowsPerStep = 16) =>
  experiment("recipe", function* () {
    const texts = yield* corpus({ from: "experiments/corpus", train: { en: ["web_en"] } })
    const words = yield* tokenizer({ corpus: texts, vocabulary: 4096 })
    const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 256 })
    const base = yield* train({
      tokens,
      model,
      rowsPerStep,
      steps: 100,
      peakLr: 1e-3,
      warmupSteps: 10,
      keepEvery: 50,
      seed: 1,
    })
    return yield* each(
      base.stable,
      function* (from) {
        return yield* decay({ from, steps: 10, finalLr: 0, every: 10 })
      },
      { atMost: 2 },
    )
  })

const tfjs = { numerics: { name: "tfjs", numerics: 1, precision: "fp32" }, workers: 2 }
const torch = { numerics: { name: "torch", numerics: 1, precision: "bf16" }, workers: 2 }
const host = (gigabytes: number) => ({ device: "host", hostBytes: gigabytes * 1e9 }) as const
const machine = (gigabytes: number) => ({ cpus: 2, gpus: 0, memoryBytes: gigabytes * 1e9 })

const asked = (model: Parameters<typeof recipe>[0], memory: number, engine = tfjs) =>
  Effect.gen(function* () {
    const { nodes } = yield* plan(recipe(model))
    yield* requireMachine(nodes, machine(memory), { ...engine, room: host(memory) })
  }).pipe(
    Effect.provide(
      Layer.mergeAll(
        Store.layer(join(temporaryFolder(), "store")),
        Layer.mock(Engine, { numerics: tfjs.numerics }),
        NodeServices.layer,
      ),
    ),
    Effect.result,
    Effect.runPromise,
  )

describe("a plan that cannot fit", () => {
  it("is refused before it starts, with the change that would make it fit", async () => {
    const refused = await asked({ layers: 12, width: 768, heads: 12 }, 24)
    assert.instanceOf(refused._tag === "Failure" && refused.failure, TrainingTooLarge)
    expect((refused as unknown as { readonly failure: Error }).failure.message).toMatchInlineSnapshot(`
      "train 0→100 does not fit: weights, moments and 8 gradients take 4.95 GB, WebAssembly addresses 4.29 GB
        hint: take the PyTorch engine: \`--engine torch\`"
    `)
  })

  it("fits once that is changed", async () => {
    const model = { layers: 6, width: 512, heads: 8 }
    const { nodes } = Effect.runSync(plan(recipe(model)))
    const step = nodes.find(({ definition }) => definition.kind === "train")!
    const whole = totalOf(trainingMemory(memoryQuestion(step, { ...tfjs, room: host(24) })!).parts)
    const memory = (0.97 * whole) / 1e9
    const question = memoryQuestion(step, { ...tfjs, room: host(memory) })!
    assert.isDefined(trainingMemory(question).lacks)
    const remedy = remedyFor(question)!
    assert.strictEqual(remedy.change, "set EXP_WORKERS=1: slower, and the same bits")
    assert.strictEqual((await asked(model, memory))._tag, "Failure")
    assert.strictEqual((await asked(model, memory, { ...tfjs, workers: 1 }))._tag, "Success")
  })

  it("is not refused when it fits: neither is anything inside its fan-outs", async () => {
    assert.strictEqual((await asked({ layers: 2, width: 64, heads: 2 }, 2))._tag, "Success")
  })
})

describe("what a training needs", () => {
  it("is what its engine holds, in the machine's memory where it computes there and beside a GPU where it does not", () => {
    const { nodes } = Effect.runSync(plan(recipe({ layers: 2, width: 64, heads: 2 })))
    const train = (engine: Parameters<typeof withNeeds>[1]) =>
      withNeeds(nodes, engine).find(({ definition }) => definition.kind === "train")!.resources!
    const here = train({ ...tfjs, room: host(24) })
    assert.deepInclude(here, { cpus: "all", gpus: 0 })
    assert.isAbove(here.memoryBytes, 150e6)
    const room = { device: "gpu", gpuBytes: 16e9, hostBytes: 24e9 } as const
    assert.deepInclude(train({ ...torch, room }), { cpus: "all", gpus: 1 })
    const inside = withNeeds(nodes, { ...tfjs, room: host(24) }).flatMap(({ body }) => body?.nodes ?? [])
    assert.strictEqual(inside[0]!.resources!.memoryBytes, here.memoryBytes)
  })

  it("is no part of what a step is", () => {
    const { nodes } = Effect.runSync(plan(recipe({ layers: 2, width: 64, heads: 2 })))
    assert.deepStrictEqual(
      withNeeds(nodes, { ...tfjs, room: host(24) }).map(({ id }) => id),
      nodes.map(({ id }) => id),
    )
  })
})
