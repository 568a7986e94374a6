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

export interface Sequences {
  readonly batch: number
  readonly length: number
  readonly heads: number
}

export interface Ops {
  /** table[ids] + positions[0 … length). */
  readonly embedding: (ids: tf.Tensor, table: tf.Tensor, positions: tf.Tensor, sizes: Sequences) => tf.Tensor
  readonly layerNorm: (x: tf.Tensor, gain: tf.Tensor, bias: tf.Tensor) => tf.Tensor
  /** x·w + b with w as [in, out]. */
  readonly linear: (x: tf.Tensor, w: tf.Tensor, b: tf.Tensor) => tf.Tensor
  /** `gelu_new`: the tanh approximation. */
  readonly gelu: (x: tf.Tensor) => tf.Tensor
  /** Causal attention of rows q | k | v. */
  readonly attention: (qkv: tf.Tensor, sizes: Sequences) => tf.Tensor
  readonly add: (x: tf.Tensor, y: tf.Tensor) => tf.Tensor
  /** x·tableᵀ: the tied head. */
  readonly head: (x: tf.Tensor, table: tf.Tensor) => tf.Tensor
  /** −log p of each row's target. */
  readonly crossEntropy: (logits: tf.Tensor, targets: tf.Tensor) => tf.Tensor
}

export type Prefix = "Exp" | "Plain"

export const operations = (prefix: Prefix): Ops => {
  /** First output of a kernel; the others are statistics for the way back, freed by the surrounding tidy. */
  const run = (name: string, inputs: tf.NamedTensorMap, sizes?: Sequences): tf.Tensor =>
    ([tf.engine().runKernel(`${prefix}${name}`, inputs, { ...sizes })].flat() as Array<tf.Tensor>)[0]!
  return {
    embedding: (ids, table, positions, sizes) => run("Embedding", { ids, table, positions }, sizes),
    layerNorm: (x, gain, bias) => run("LayerNorm", { x, gain, bias }),
    linear: (x, w, b) => run("Linear", { x, w, b }),
    gelu: (x) => run("Gelu", { x }),
    attention: (qkv, sizes) => run("Attention", { qkv }, sizes),
    add: (x, y) => run("Add", { x, y }),
    head: (x, table) => run("Head", { x, table }),
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
  gradient("Head", ["x", "table"], ["x", "table"])
  gradient("LayerNorm", ["x", "gain", "stats"], ["x", "gain", "bias"])
  gradient("Gelu", ["x"], ["x"])
  gradient("Attention", ["qkv"], ["qkv"])
  gradient("CrossEntropy", ["logits", "targets", "stats"], ["logits"])
  gradient("Embedding", ["ids", "table", "positions"], ["table", "positions"])
  tf.registerGradient({
    kernelName: `${prefix}Add`,
    // two tensors, because the tape frees a gradient once it has been added to another
    gradFunc: (dy) => ({ x: () => (dy as tf.Tensor).clone(), y: () => (dy as tf.Tensor).clone() }),
  })
}
