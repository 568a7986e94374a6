/**
 * A model as a worker holds it: weights in the backend, and what can be done with them. Two of them: `WasmModel` computes on tfjs's
 * wasm heap without going through tensors except for training; `PlainModel` serves any other tfjs backend.
 */
import * as tf from "@tensorflow/tfjs-core"
import type { Architecture } from "../../model/Architecture.ts"
import { Inference } from "./Inference.ts"
import type { Heap } from "./Kernels.ts"
import { gradients, logits } from "./Network.ts"
import { operations, type Weights } from "./Ops.ts"
import { flatLayout, rowsAtOnce } from "./TrainMemory.ts"

/** One sequence under way: its logits at the last position, and a way to put a token behind it. */
export interface Decoding {
  /** Starts sequences; gives the logits at the end of each. `capacity`: tokens each may reach. */
  readonly start: (
    prompts: ReadonlyArray<{ readonly ids: ArrayLike<number>; readonly capacity: number }>,
  ) => Float32Array
  /** Appends one token to each of these sequences (by their number in `start`); gives the logits after it, in the same order. */
  readonly append: (sequences: ReadonlyArray<number>, tokens: ReadonlyArray<number>) => Float32Array
  readonly close: () => void
}

export interface Model {
  readonly architecture: Architecture
  readonly load: (weights: Float32Array) => void
  /** Adds nothing: `target` becomes the gradient of scale·Σ −log p over these rows; gives Σ −log p. */
  readonly gradient: (rows: Int32Array, batch: number, scale: number, target: Float32Array) => number
  /** −log p of ids[1 …]. At most context + 1 ids. */
  readonly losses: (ids: ArrayLike<number>) => Float32Array
  /** Logits at every position, [length·vocabulary]. At most context ids. */
  readonly logits: (ids: ArrayLike<number>) => Float32Array
  readonly decoding: () => Decoding
  /** Sequences that may be decoded at once: by memory, never by result. */
  readonly sequencesAtOnce: number
  readonly dispose: () => void
}

/** Rows in groups of `rowsAtOnce`, their gradients added up in order. */
const accumulate = (
  architecture: Architecture,
  rows: Int32Array,
  batch: number,
  target: Float32Array,
  group: (rows: Int32Array, batch: number) => { readonly nll: tf.Tensor; readonly gradients: ReadonlyArray<tf.Tensor> },
  view: (tensor: tf.Tensor) => Float32Array,
): number => {
  const stride = rows.length / batch
  const atOnce = rowsAtOnce(stride - 1)
  const layout = flatLayout(architecture)
  let total = 0
  for (let first = 0; first < batch; first += atOnce) {
    const count = Math.min(atOnce, batch - first)
    const { nll, gradients } = group(rows.subarray(first * stride, (first + count) * stride), count)
    for (const loss of view(nll)) total += loss
    gradients.forEach((tensor, i) => {
      const source = view(tensor)
      const { first: at, size } = layout[i]!
      if (first === 0) target.set(source, at)
      else for (let j = 0; j < size; j++) target[at + j]! += source[j]!
    })
    tf.dispose([nll, ...gradients])
  }
  return total
}

export const wasmModel = (heap: Heap, architecture: Architecture): Model => {
  const ops = operations("Exp")
  const layout = flatLayout(architecture)
  const weights: Weights = new Map(layout.map(({ spec }) => [spec.name, tf.keep(tf.zeros([...spec.shape]))]))
  const addresses = new Map(layout.map(({ spec }) => [spec.name, heap.address(weights.get(spec.name)!)]))
  const inference = new Inference(heap, architecture, addresses)
  return {
    architecture,
    // the tensors keep their ids: our kernels, unlike XNNPACK's, remember nothing about them
    load: (flat) => {
      for (const { spec, first, size } of layout)
        heap.floats(addresses.get(spec.name)!, size).set(flat.subarray(first, first + size))
      inference.weightsChanged()
    },
    gradient: (rows, batch, scale, target) =>
      accumulate(
        architecture,
        rows,
        batch,
        target,
        (part, count) => gradients(ops, architecture, weights, part, count, scale),
        (tensor) => heap.floats(heap.address(tensor), tensor.size),
      ),
    losses: (ids) => inference.losses(ids),
    logits: (ids) => inference.logits(ids),
    decoding: () => inference.decoding(),
    sequencesAtOnce: inference.sequencesAtOnce,
    dispose: () => {
      inference.dispose()
      tf.dispose([...weights.values()])
    },
  }
}

/** Decoding here computes every sequence anew for each token: right everywhere, fast nowhere. */
export const plainModel = (architecture: Architecture): Model => {
  const ops = operations("Plain")
  const layout = flatLayout(architecture)
  let weights: Weights = new Map()
  const unload = () => tf.dispose([...weights.values()])
  const allLogits = (ids: ArrayLike<number>): Float32Array =>
    tf.tidy(
      () =>
        logits(ops, architecture, weights, tf.tensor1d(Int32Array.from(ids), "int32"), {
          batch: 1,
          length: ids.length,
        }).dataSync() as Float32Array,
    )
  return {
    architecture,
    // new tensors: backends may keep what they derived from the contents of an id
    load: (flat) => {
      unload()
      weights = new Map(
        layout.map(({ spec, first, size }) => [
          spec.name,
          tf.keep(tf.tensor(Float32Array.from(flat.subarray(first, first + size)), [...spec.shape])),
        ]),
      )
    },
    gradient: (rows, batch, scale, target) =>
      accumulate(
        architecture,
        rows,
        batch,
        target,
        (part, count) => gradients(ops, architecture, weights, part, count, scale),
        (tensor) => tensor.dataSync() as Float32Array,
      ),
    losses: (ids) =>
      tf.tidy(() => {
        const all = Int32Array.from(ids)
        const inputs = tf.tensor1d(all.subarray(0, -1), "int32")
        const targets = tf.tensor1d(all.subarray(1), "int32")
        const scores = logits(ops, architecture, weights, inputs, { batch: 1, length: all.length - 1 })
        return Float32Array.from(ops.crossEntropy(scores, targets).dataSync())
      }),
    logits: allLogits,
    decoding: () => {
      const texts: Array<Array<number>> = []
      const ends = (which: ReadonlyArray<number>): Float32Array => {
        const { vocabulary } = architecture
        const all = new Float32Array(which.length * vocabulary)
        which.forEach((sequence, i) => {
          all.set(allLogits(texts[sequence]!).subarray(-vocabulary), i * vocabulary)
        })
        return all
      }
      return {
        start: (prompts) => {
          for (const { ids } of prompts) texts.push(Array.from(ids))
          return ends(prompts.map((_, i) => i))
        },
        append: (sequences, tokens) => {
          sequences.forEach((sequence, i) => {
            texts[sequence]!.push(tokens[i]!)
          })
          return ends(sequences)
        },
        close: () => {},
      }
    },
    sequencesAtOnce: 64,
    dispose: unload,
  }
}
