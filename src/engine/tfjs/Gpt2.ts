/** GPT-2, pre-layer-norm, tied head, as operations on named weights; and its gradient by tfjs's tape. */
import * as tf from "@tensorflow/tfjs-core"
import { type Architecture, tensors } from "../../model/Architecture.ts"
import type { Ops, Sequences } from "./Ops.ts"

export type Weights = ReadonlyMap<string, tf.Tensor>

/** Final hidden states [batch·length, width]. */
export const hidden = (
  ops: Ops,
  architecture: Architecture,
  weights: Weights,
  ids: tf.Tensor,
  sizes: Sequences,
): tf.Tensor => {
  const weight = (name: string): tf.Tensor => weights.get(`transformer.${name}`)!
  let x = ops.embedding(ids, weight("wte.weight"), weight("wpe.weight"), sizes)
  for (let i = 0; i < architecture.layers; i++) {
    const linear = (input: tf.Tensor, name: string) =>
      ops.linear(input, weight(`h.${i}.${name}.weight`), weight(`h.${i}.${name}.bias`))
    const norm = (input: tf.Tensor, name: string) =>
      ops.layerNorm(input, weight(`h.${i}.${name}.weight`), weight(`h.${i}.${name}.bias`))
    const attended = ops.attention(linear(norm(x, "ln_1"), "attn.c_attn"), sizes)
    x = ops.add(x, linear(attended, "attn.c_proj"))
    x = ops.add(x, linear(ops.gelu(linear(norm(x, "ln_2"), "mlp.c_fc")), "mlp.c_proj"))
  }
  return ops.layerNorm(x, weight("ln_f.weight"), weight("ln_f.bias"))
}

export const logits = (
  ops: Ops,
  architecture: Architecture,
  weights: Weights,
  ids: tf.Tensor,
  sizes: Sequences,
): tf.Tensor => ops.head(hidden(ops, architecture, weights, ids, sizes), weights.get("transformer.wte.weight")!)

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
        () =>
          ops.crossEntropy(
            logits(ops, architecture, weights, ids, { batch, length, heads: architecture.heads }),
            wanted,
          ),
        variables,
        tf.fill([batch * length], scale),
      )
    return { nll: value, gradients: grads }
  })
