/**
 * The operations a transformer is made of, as kernels with hand-written gradients, under two prefixes:
 *
 * - `Exp…` (`Kernels.ts`): our own WebAssembly on the heap of tfjs's wasm backend;
 * - `Plain…` (`PlainKernels.ts`): composed of standard tfjs operations, for any other backend (`@tensorflow/tfjs-node`, `-node-gpu`).
 *
 * tfjs's tape differentiates the model; tfjs-core alone brings no gradients, so every operation of the model is one of these.
 * Activations are matrices [batch·length, width].
 */
import * as tf from "@tensorflow/tfjs-core"

/** By the name of the checkpoint format. */
export type Weights = ReadonlyMap<string, tf.Tensor>

export interface Rows {
  readonly batch: number
  readonly length: number
}

export interface Sequences extends Rows {
  readonly heads: number
  /** Heads of keys, and of values; by default as many as of queries. */
  readonly keyValueHeads?: number
  /** Positions that a position sees, the last of them itself; by default all up to it. */
  readonly window?: number
}

export interface Ops {
  /** table[ids] + positions[0 … length). */
  readonly embedding: (ids: tf.Tensor, table: tf.Tensor, positions: tf.Tensor, sizes: Rows) => tf.Tensor
  /** table[ids]; the row of `paddingId` learns nothing from it. */
  readonly lookup: (ids: tf.Tensor, table: tf.Tensor, paddingId?: number) => tf.Tensor
  readonly layerNorm: (x: tf.Tensor, gain: tf.Tensor, bias: tf.Tensor) => tf.Tensor
  readonly rmsNorm: (x: tf.Tensor, gain: tf.Tensor, epsilon: number) => tf.Tensor
  /** x·w + b with w as [in, out]. */
  readonly linear: (x: tf.Tensor, w: tf.Tensor, b: tf.Tensor) => tf.Tensor
  /** `gelu_new`: the tanh approximation. */
  readonly gelu: (x: tf.Tensor) => tf.Tensor
  /** Of rows gate | up: gate · logistic(gate) · up. */
  readonly swiglu: (x: tf.Tensor) => tf.Tensor
  /** Queries and keys of rows q | k | v turned by their positions, the first wavelength being 2π and the last near 2π·theta. */
  readonly rotate: (qkv: tf.Tensor, sizes: Sequences, theta: number) => tf.Tensor
  /** Causal attention of rows q | k | v. */
  readonly attention: (qkv: tf.Tensor, sizes: Sequences) => tf.Tensor
  readonly add: (x: tf.Tensor, y: tf.Tensor) => tf.Tensor
  /** x·wᵀ for each w as [out, in], at most three, side by side. Heads are such products too. */
  readonly project: (x: tf.Tensor, ...matrices: ReadonlyArray<tf.Tensor>) => tf.Tensor
  /** −log p of each row's target. */
  readonly crossEntropy: (logits: tf.Tensor, targets: tf.Tensor) => tf.Tensor
}

export type Prefix = "Exp" | "Plain"

/** What kernels are told beside tensors. */
export interface Attributes extends Sequences {
  readonly theta: number
  readonly epsilon: number
  /** −1: none. */
  readonly paddingId: number
}

/** Names of the matrices that one product may have side by side. */
export const MATRICES = ["a", "b", "c"] as const

export const operations = (prefix: Prefix): Ops => {
  /** First output of a kernel; the others are statistics for the way back, freed by the surrounding tidy. */
  const run = (name: string, inputs: tf.NamedTensorMap, attributes?: object): tf.Tensor =>
    ([tf.engine().runKernel(`${prefix}${name}`, inputs, { ...attributes })].flat() as Array<tf.Tensor>)[0]!
  return {
    embedding: (ids, table, positions, sizes) => run("Embedding", { ids, table, positions }, sizes),
    lookup: (ids, table, paddingId = -1) => run("Lookup", { ids, table }, { paddingId }),
    layerNorm: (x, gain, bias) => run("LayerNorm", { x, gain, bias }),
    rmsNorm: (x, gain, epsilon) => run("RmsNorm", { x, gain }, { epsilon }),
    linear: (x, w, b) => run("Linear", { x, w, b }),
    gelu: (x) => run("Gelu", { x }),
    swiglu: (x) => run("Swiglu", { x }),
    rotate: (qkv, sizes, theta) => run("Rotate", { qkv }, { ...sizes, theta }),
    attention: (qkv, sizes) => run("Attention", { qkv }, sizes),
    add: (x, y) => run("Add", { x, y }),
    project: (x, ...matrices) =>
      run(
        `Project${matrices.length}`,
        Object.fromEntries([["x", x], ...matrices.map((w, i) => [MATRICES[i]!, w] as const)]),
      ),
    crossEntropy: (logits, targets) => run("CrossEntropy", { logits, targets }),
  }
}

/** `<prefix><name>Gradient` takes `dy` and what was saved (`stats` is a second output) and gives the gradients `of` these inputs. */
export const registerGradients = (prefix: Prefix): void => {
  const gradient = (name: string, saved: ReadonlyArray<string>, of: ReadonlyArray<string>): void => {
    const inputs = saved.filter((input) => input !== "stats")
    tf.registerGradient({
      kernelName: `${prefix}${name}`,
      inputsToSave: inputs,
      outputsToSave: inputs.length < saved.length ? [false, true] : [],
      gradFunc: (dys, tensors, attrs) => {
        const named: tf.NamedTensorMap = { dy: Array.isArray(dys) ? dys[0]! : dys }
        saved.forEach((input, i) => {
          named[input] = tensors[i]!
        })
        const gradients = [
          tf.engine().runKernel(`${prefix}${name}Gradient`, named, attrs as tf.NamedAttrMap),
        ].flat() as Array<tf.Tensor>
        return Object.fromEntries(of.map((input, i) => [input, () => gradients[i]!]))
      },
    })
  }
  gradient("Linear", ["x", "w"], ["x", "w", "b"])
  for (const [i] of MATRICES.entries()) {
    const inputs = ["x", ...MATRICES.slice(0, i + 1)]
    gradient(`Project${i + 1}`, inputs, inputs)
  }
  gradient("LayerNorm", ["x", "gain", "stats"], ["x", "gain", "bias"])
  gradient("RmsNorm", ["x", "gain", "stats"], ["x", "gain"])
  gradient("Gelu", ["x"], ["x"])
  gradient("Swiglu", ["x"], ["x"])
  gradient("Rotate", [], ["qkv"])
  gradient("Attention", ["qkv"], ["qkv"])
  gradient("CrossEntropy", ["logits", "targets", "stats"], ["logits"])
  gradient("Embedding", ["ids", "table", "positions"], ["table", "positions"])
  gradient("Lookup", ["ids", "table"], ["table"])
  tf.registerGradient({
    kernelName: `${prefix}Add`,
    // two tensors, because the tape frees a gradient once it has been added to another
    gradFunc: (dy) => ({ x: () => (dy as tf.Tensor).clone(), y: () => (dy as tf.Tensor).clone() }),
  })
}
