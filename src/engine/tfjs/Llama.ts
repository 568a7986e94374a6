/** LLaMA, and with a sliding window Mistral, as operations on named weights. */
import type * as tf from "@tensorflow/tfjs-core"
import type { LlamaArchitecture } from "../../model/Architecture.ts"
import type { Ops, Rows, Weights } from "./Ops.ts"

/** Where the head's matrix is. */
export const headOf = ({ tiedHead }: LlamaArchitecture): string =>
  tiedHead ? "model.embed_tokens.weight" : "lm_head.weight"

export const logits = (
  ops: Ops,
  architecture: LlamaArchitecture,
  weights: Weights,
  ids: tf.Tensor,
  rows: Rows,
): tf.Tensor => {
  const { layers, heads, keyValueHeads, slidingWindow, ropeTheta, normEpsilon } = architecture
  const sequences = { ...rows, heads, keyValueHeads, window: slidingWindow ?? rows.length }
  const weight = (name: string): tf.Tensor => weights.get(name)!
  let x = ops.lookup(ids, weight("model.embed_tokens.weight"), architecture.paddingId)
  for (let i = 0; i < layers; i++) {
    const of = (name: string): tf.Tensor => weight(`model.layers.${i}.${name}.weight`)
    const norm = (input: tf.Tensor, name: string) => ops.rmsNorm(input, of(name), normEpsilon)
    const [q, k, v] = [of("self_attn.q_proj"), of("self_attn.k_proj"), of("self_attn.v_proj")]
    const qkv = ops.rotate(ops.project(norm(x, "input_layernorm"), q, k, v), sequences, ropeTheta)
    x = ops.add(x, ops.project(ops.attention(qkv, sequences), of("self_attn.o_proj")))
    const wide = ops.project(norm(x, "post_attention_layernorm"), of("mlp.gate_proj"), of("mlp.up_proj"))
    x = ops.add(x, ops.project(ops.swiglu(wide), of("mlp.down_proj")))
  }
  return ops.project(ops.rmsNorm(x, weight("model.norm.weight"), normEpsilon), weight(headOf(architecture)))
}
