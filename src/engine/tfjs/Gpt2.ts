/** GPT-2, pre-layer-norm, tied head, as operations on named weights. */
import type * as tf from "@tensorflow/tfjs-core"
import type { Gpt2Architecture } from "../../model/Architecture.ts"
import type { Ops, Rows, Weights } from "./Ops.ts"

/** Final hidden states [batch·length, width]. */
const hidden = (
  ops: Ops,
  { layers, heads }: Gpt2Architecture,
  weights: Weights,
  ids: tf.Tensor,
  rows: Rows,
): tf.Tensor => {
  const weight = (name: string): tf.Tensor => weights.get(`transformer.${name}`)!
  let x = ops.embedding(ids, weight("wte.weight"), weight("wpe.weight"), rows)
  for (let i = 0; i < layers; i++) {
    const linear = (input: tf.Tensor, name: string) =>
      ops.linear(input, weight(`h.${i}.${name}.weight`), weight(`h.${i}.${name}.bias`))
    const norm = (input: tf.Tensor, name: string) =>
      ops.layerNorm(input, weight(`h.${i}.${name}.weight`), weight(`h.${i}.${name}.bias`))
    const attended = ops.attention(linear(norm(x, "ln_1"), "attn.c_attn"), { ...rows, heads })
    x = ops.add(x, linear(attended, "attn.c_proj"))
    x = ops.add(x, linear(ops.gelu(linear(norm(x, "ln_2"), "mlp.c_fc")), "mlp.c_proj"))
  }
  return ops.layerNorm(x, weight("ln_f.weight"), weight("ln_f.bias"))
}

export const logits = (
  ops: Ops,
  architecture: Gpt2Architecture,
  weights: Weights,
  ids: tf.Tensor,
  rows: Rows,
): tf.Tensor => ops.project(hidden(ops, architecture, weights, ids, rows), weights.get("transformer.wte.weight")!)
