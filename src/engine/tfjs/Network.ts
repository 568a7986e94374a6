/** A model of any family as operations on named weights; and its gradient by tfjs's tape. */
import * as tf from "@tensorflow/tfjs-core"
import { type Architecture, tensors } from "../../model/Architecture.ts"
import * as Gpt2 from "./Gpt2.ts"
import * as Llama from "./Llama.ts"
import type { Ops, Rows, Weights } from "./Ops.ts"

/** Logits [batch·length, vocabulary]. */
export const logits = (
  ops: Ops,
  architecture: Architecture,
  weights: Weights,
  ids: tf.Tensor,
  rows: Rows,
): tf.Tensor =>
  architecture.family === "gpt2"
    ? Gpt2.logits(ops, architecture, weights, ids, rows)
    : Llama.logits(ops, architecture, weights, ids, rows)

/**
 * −log p of every target of `batch` rows of `length` + 1 tokens, and Σ scale·(−log p) differentiated by every weight, in the
 * canonical order of tensors. The caller disposes of both.
 */
export const gradients = (
  ops: Ops,
  architecture: Architecture,
  weights: Weights,
  rows: Int32Array,
  batch: number,
  scale: number,
): { readonly nll: tf.Tensor; readonly gradients: ReadonlyArray<tf.Tensor> } =>
  tf.tidy(() => {
    const length = rows.length / batch - 1
    const inputs = new Int32Array(batch * length)
    const targets = new Int32Array(batch * length)
    for (let r = 0; r < batch; r++) {
      const row = rows.subarray(r * (length + 1), (r + 1) * (length + 1))
      inputs.set(row.subarray(0, length), r * length)
      targets.set(row.subarray(1), r * length)
    }
    const ids = tf.tensor1d(inputs, "int32")
    const wanted = tf.tensor1d(targets, "int32")
    const variables = tensors(architecture).map(({ name }) => weights.get(name)!)
    const { value, grads } = tf
      .engine()
      .gradients(
        () => ops.crossEntropy(logits(ops, architecture, weights, ids, { batch, length }), wanted),
        variables,
        tf.fill([batch * length], scale),
      )
    return { nll: value, gradients: grads }
  })
