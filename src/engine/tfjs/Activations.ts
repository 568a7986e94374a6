/**
 * What goes into each matrix of a model, over rows of text: for every column the sum of squares of its inputs. The importance matrix
 * of a quantisation is made of it.
 *
 * The model is that of training (`Network.ts`); its operations are listened to. It runs on tfjs's wasm backend in the thread that asks,
 * whatever engine does the rest: a few thousand tokens are all it is asked for.
 */
import * as tf from "@tensorflow/tfjs-core"
import * as Effect from "effect/Effect"
import { tensors } from "../../model/Architecture.ts"
import type { ActivationsRequest } from "../Activations.ts"
import { EngineFailed } from "../Engine.ts"
import * as Safetensors from "../Safetensors.ts"
import { openHeap } from "./Kernels.ts"
import { logits } from "./Network.ts"
import { type Ops, operations, type Weights } from "./Ops.ts"

/** The same operations; `seen` gets the input of every product with a matrix before it is done. */
export const listening = (ops: Ops, seen: (matrix: tf.Tensor, input: tf.Tensor) => void): Ops => ({
  ...ops,
  linear: (x, w, b) => {
    seen(w, x)
    return ops.linear(x, w, b)
  },
  project: (x, ...matrices) => {
    for (const w of matrices) seen(w, x)
    return ops.project(x, ...matrices)
  },
})

const failed = (error: unknown) =>
  new EngineFailed({
    engine: "tfjs",
    doing: "summing activations",
    problem: error instanceof Error ? error.message : String(error),
    hint: "quantise without an importance matrix, or a smaller model",
  })

/** See `src/engine/Activations.ts`. */
export const activations = Effect.fn("activations")(function* ({ checkpoint, architecture, rows }: ActivationsRequest) {
  const read = yield* Safetensors.read(`${checkpoint}/model.safetensors`).pipe(
    Effect.mapError(({ problem }) => failed(`${checkpoint}: ${problem}`)),
  )
  yield* Effect.tryPromise({ try: openHeap, catch: failed })
  const weights: Weights = yield* Effect.acquireRelease(
    Effect.try({
      try: () =>
        new Map(tensors(architecture).map(({ name, shape }) => [name, tf.tensor(read.get(name)!.data, [...shape])])),
      catch: failed,
    }),
    (weights) => Effect.sync(() => tf.dispose([...weights.values()])),
  )
  const names = new Map([...weights].map(([name, tensor]) => [tensor.dataId, name]))
  const sums = new Map<string, Float64Array>()
  const ops = listening(operations("Exp"), (matrix, input) => {
    const name = names.get(matrix.dataId)!
    const columns = input.shape[1]!
    const sum = sums.get(name) ?? new Float64Array(columns)
    sums.set(name, sum)
    const values = input.dataSync()
    for (let at = 0; at < values.length; at += columns)
      for (let column = 0; column < columns; column++) sum[column]! += values[at + column]! ** 2
  })
  for (const row of rows) {
    yield* Effect.try({
      try: () =>
        tf.tidy(() => {
          const ids = tf.tensor1d(Int32Array.from(row), "int32")
          logits(ops, architecture, weights, ids, { batch: 1, length: row.length })
        }),
      catch: failed,
    })
    yield* Effect.yieldNow
  }
  return sums as ReadonlyMap<string, Float64Array>
}, Effect.scoped)
