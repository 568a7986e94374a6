import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { Engine, type TrainEvent, type TrainRequest } from "../../src/engine/Engine.ts"
import * as Safetensors from "../../src/engine/Safetensors.ts"
import { layerWith as tfjs } from "../../src/engine/tfjs/TfjsEngine.ts"
import { commandOf, layerWith, type Settings } from "../../src/engine/torch/TorchEngine.ts"
import type { CheckpointState } from "../../src/model/Checkpoint.ts"
import { temporary } from "../temporary.ts"
import { contract } from "./contract.ts"
import { type GoldenModel, goldenRequest, gpt2, llama, norm, STEPS } from "./golden.ts"
import { KEY_BIAS, program, python, skipped } from "./torch.ts"

const TOLERANCE = 2e-5

const torch = (settings: Partial<Settings> = {}) =>
  layerWith({ command: commandOf(program), machine: { device: "cpu", threads: 1 }, ...settings })

if (python === undefined) describe("the torch engine", () => void it.skip(`keeps the contract of engines${skipped}`))
else for (const model of [gpt2, llama]) contract("torch", torch(), model, { runsAhead: true, keyBias: KEY_BIAS })

const train = (request: TrainRequest) => Effect.flatMap(Engine, (engine) => Stream.runCollect(engine.train(request)))
const lossesOf = (events: ReadonlyArray<TrainEvent>) =>
  events.flatMap((event) => (event._tag === "Step" ? [event.loss] : []))
const worst = (losses: ReadonlyArray<number>, expected: ReadonlyArray<number>): number =>
  Math.max(...losses.map((loss, i) => Math.abs(loss - expected[i]!)))

describe.skipIf(python === undefined)(`the parity of the torch engine with PyTorch${skipped}`, () => {
  const script = join(import.meta.dirname, "../torch/faults.py")
  /** Twenty steps from weights ×10: the largest difference of a loss, and of a tensor's norm at the end. */
  const learn = (fault: string, model: GoldenModel) =>
    Effect.gen(function* () {
      const folder = yield* temporary
      const { request } = yield* goldenRequest(folder, model)
      const events = yield* train(request)
      const weights = yield* Safetensors.read(join(folder, "checkpoints", `step_${STEPS}`, "model.safetensors"))
      const { losses, final_weight_norms: norms } = model.golden.train
      const gain = Object.keys(norms).find((name) => /ln_f\.weight|model\.norm\.weight/.test(name))!
      return {
        loss: worst(lossesOf(events), losses),
        gain: Math.abs(norm(weights.get(gain)!.data) - norms[gain]!),
      }
      // set already: it need not import PyTorch twice, to start itself again
    }).pipe(Effect.provide(torch({ command: [program, script, fault], environment: { MALLOC_MMAP_MAX_: "0" } })))

  it.live.each([gpt2, llama])("holds with nothing wrong", (model) =>
    Effect.gen(function* () {
      const { loss, gain } = yield* learn("nothing", model)
      assert.isAtMost(loss, TOLERANCE)
      assert.isAtMost(gain, TOLERANCE)
    }),
  )

  it.live.each([
    ["the erf form of gelu", gpt2],
    ["another epsilon in layer norm", gpt2],
    ["forgotten weight decay", gpt2],
    ["another epsilon in Adam", gpt2],
    ["another epsilon in RMS norm", llama],
    ["a window that is one short", llama],
    ["forgotten weight decay", llama],
  ] as const)("sees %s", ([fault, model]) =>
    Effect.gen(function* () {
      const { loss } = yield* learn(fault, model)
      assert.isAbove(loss, TOLERANCE, `${fault} of a ${model.architecture.family}`)
    }),
  )

  it.live("sees decay of biases and norms, in the weights", () =>
    Effect.gen(function* () {
      assert.isAbove((yield* learn("decay of biases and norms", gpt2)).gain, TOLERANCE)
    }),
  )
})

describe.skipIf(python === undefined)(`a checkpoint of one engine${skipped}`, () => {
  it.live.each([
    { family: gpt2, first: "tfjs", second: "torch" },
    { family: gpt2, first: "torch", second: "tfjs" },
    { family: llama, first: "tfjs", second: "torch" },
    { family: llama, first: "torch", second: "tfjs" },
  ] as const)("is gone on from by the other: $first, then $second", ({ family, first, second }) =>
    Effect.gen(function* () {
      const folder = yield* temporary
      const { request } = yield* goldenRequest(folder, family)
      const engines = { tfjs: tfjs({ backend: "wasm" }), torch: torch() }
      const half = yield* train({
        ...request,
        endStep: 9,
        checkpoints: { folder: join(folder, "half"), at: [9], moments: true },
      }).pipe(Effect.provide(engines[first]))
      const rest = yield* train({
        ...request,
        from: { _tag: "Checkpoint", path: join(folder, "half", "step_9") },
      }).pipe(Effect.provide(engines[second]))
      const losses = [...lossesOf(half), ...lossesOf(rest)]
      assert.strictEqual(losses.length, STEPS)
      assert.isAtMost(worst(losses, family.golden.train.losses), TOLERANCE)
      // each says of its own who made it
      const maker = (path: string) =>
        (JSON.parse(readFileSync(join(folder, path, "state.json"), "utf8")) as CheckpointState).engine.name
      assert.strictEqual(maker("half/step_9"), first)
      assert.strictEqual(maker(`checkpoints/step_${STEPS}`), second)
    }),
  )

  it.live("has the same files, states and tensors as the other's, and both begin from the same bits", () =>
    Effect.gen(function* () {
      for (const model of [gpt2, llama]) {
        const folder = yield* temporary
        const { request } = yield* goldenRequest(folder, model)
        const fresh = (name: string): TrainRequest => ({
          ...request,
          from: { _tag: "Fresh" },
          seed: 11,
          endStep: 1,
          // so small a rate leaves the weights as drawn
          schedule: { peakLr: 1e-30, warmupSteps: 0 },
          checkpoints: { folder: join(folder, name), at: [1], moments: false },
        })
        yield* train(fresh("tfjs")).pipe(Effect.provide(tfjs({ backend: "wasm" })))
        yield* train(fresh("torch")).pipe(Effect.provide(torch()))
        const of = (name: string) =>
          Effect.gen(function* () {
            const path = join(folder, name, "step_1")
            const { engine: _, modelSha256: __, ...state } = JSON.parse(readFileSync(join(path, "state.json"), "utf8"))
            const tensors = yield* Safetensors.read(join(path, "model.safetensors"))
            const values = [...tensors].map(([name, { shape, data }]) => ({
              ...{ name, shape },
              // what is drawn as zero has become as small as the step was
              data: data.map((value) => (Math.abs(value) < 1e-20 ? 0 : value)),
            }))
            return { files: readdirSync(path), state, values }
          })
        assert.deepStrictEqual(yield* of("torch"), yield* of("tfjs"))
      }
    }),
  )
})
