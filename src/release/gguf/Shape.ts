/**
 * What a model is in llama.cpp's terms: its keys, and how each tensor is called and lies there. From `config.json` and the names in
 * `model.safetensors`, as `transformers` has them; GPT-2 and LLaMA (Mistral, without a sliding window) are known.
 *
 * A shape that llama.cpp would load as something else than it is, is refused: scaled rotary positions, windows of attention, another
 * activation.
 */
import { f32, type Metadata, text, u32 } from "./Gguf.ts"
import type { MixtureModel } from "./Mixture.ts"
import type { Layout } from "./Source.ts"

export interface TensorPlan {
  /** Name in the safetensors file, and in GGUF. */
  readonly from: string
  readonly name: string
  readonly layout: Layout
}

export interface Shape {
  readonly metadata: Metadata
  readonly tensors: ReadonlyArray<TensorPlan>
  readonly mixture: MixtureModel
  readonly context: number
  readonly vocabulary: number
}

type Config = Readonly<Record<string, unknown>>

const rows: Layout = { _tag: "Rows" }
const transposed: Layout = { _tag: "Transposed" }

const natural = (config: Config, key: string, otherwise?: number): number => {
  const value = config[key] ?? otherwise
  if (!Number.isSafeInteger(value) || (value as number) <= 0)
    throw new Error(`\`${key}\` of the configuration is ${JSON.stringify(value)}, not a number above 0`)
  return value as number
}
const positive = (config: Config, key: string, otherwise?: number): number => {
  const value = config[key] ?? otherwise
  if (typeof value !== "number" || !(value > 0))
    throw new Error(`\`${key}\` of the configuration is ${JSON.stringify(value)}, not a number above 0`)
  return value
}
const mustBe = (config: Config, key: string, allowed: ReadonlyArray<unknown>): void => {
  if (!allowed.includes(config[key] ?? allowed[0]))
    throw new Error(`\`${key}\` is ${JSON.stringify(config[key])}, which llama.cpp does not compute for this shape`)
}

/** Throws an Error that says what of the model has no place in llama.cpp. `names`: tensors of the safetensors file. */
export const shapeOf = (config: Config, names: ReadonlySet<string>): Shape => {
  const type = config["model_type"]
  const shape =
    type === "gpt2" ? gpt2(config, names) : type === "llama" || type === "mistral" ? llama(config, names) : undefined
  if (shape === undefined)
    throw new Error(`\`model_type\` is ${JSON.stringify(type)}; gpt2, llama and mistral are known`)
  const used = new Set(shape.tensors.map(({ from }) => from))
  const extra = [...names].filter(
    (name) => !used.has(name) && !/\.attn\.(masked_)?bias$|rotary_emb\.inv_freq$/.test(name),
  )
  if (extra.length > 0) throw new Error(`tensors the shape does not have: ${extra.slice(0, 5).join(", ")}`)
  return shape
}

const gpt2 = (config: Config, names: ReadonlySet<string>): Shape => {
  mustBe(config, "activation_function", ["gelu_new", "gelu_pytorch_tanh"])
  mustBe(config, "scale_attn_weights", [true])
  mustBe(config, "scale_attn_by_inverse_layer_idx", [false])
  const layers = natural(config, "n_layer")
  const width = natural(config, "n_embd")
  const context = natural(config, "n_positions")
  const prefix = names.has("wte.weight") ? "" : "transformer."
  const both = (from: string, name: string, layout: Layout): ReadonlyArray<TensorPlan> => [
    { from: `${prefix}${from}.weight`, name: `${name}.weight`, layout },
    { from: `${prefix}${from}.bias`, name: `${name}.bias`, layout: rows },
  ]
  // a head beside a tied embedding is refused below: transformers 4 would ignore it, 5 would use it
  const head = names.has("lm_head.weight") && config["tie_word_embeddings"] === false
  return {
    context,
    vocabulary: natural(config, "vocab_size"),
    mixture: { layers, sharing: 1, tiedHead: !head },
    metadata: [
      ["general.architecture", text("gpt2")],
      ["gpt2.context_length", u32(context)],
      ["gpt2.embedding_length", u32(width)],
      ["gpt2.block_count", u32(layers)],
      ["gpt2.feed_forward_length", u32(natural(config, "n_inner", 4 * width))],
      ["gpt2.attention.head_count", u32(natural(config, "n_head"))],
      ["gpt2.attention.layer_norm_epsilon", f32(positive(config, "layer_norm_epsilon", 1e-5))],
    ],
    tensors: [
      { from: `${prefix}wte.weight`, name: "token_embd.weight", layout: rows },
      { from: `${prefix}wpe.weight`, name: "position_embd.weight", layout: rows },
      ...Array.from({ length: layers }, (_, i) => [
        ...both(`h.${i}.ln_1`, `blk.${i}.attn_norm`, rows),
        ...both(`h.${i}.attn.c_attn`, `blk.${i}.attn_qkv`, transposed),
        ...both(`h.${i}.attn.c_proj`, `blk.${i}.attn_output`, transposed),
        ...both(`h.${i}.ln_2`, `blk.${i}.ffn_norm`, rows),
        ...both(`h.${i}.mlp.c_fc`, `blk.${i}.ffn_up`, transposed),
        ...both(`h.${i}.mlp.c_proj`, `blk.${i}.ffn_down`, transposed),
      ]).flat(),
      ...both("ln_f", "output_norm", rows),
      ...(head ? [{ from: "lm_head.weight", name: "output.weight", layout: rows }] : []),
    ],
  }
}

const llama = (config: Config, names: ReadonlySet<string>): Shape => {
  mustBe(config, "hidden_act", ["silu"])
  mustBe(config, "mlp_bias", [false])
  const layers = natural(config, "num_hidden_layers")
  const width = natural(config, "hidden_size")
  const heads = natural(config, "num_attention_heads")
  const sharedHeads = natural(config, "num_key_value_heads", heads)
  const size = natural(config, "head_dim", width / heads)
  const context = natural(config, "max_position_embeddings")
  const window =
    config["sliding_window"] ?? (config["model_type"] === "mistral" && !("sliding_window" in config) ? 4096 : null)
  if (window !== null && Number(window) < context)
    throw new Error(`attention sees a window of ${window} tokens; llama.cpp would let it see all ${context}`)
  const scaling = config["rope_scaling"] as Config | null | undefined
  const rope = config["rope_parameters"] as Config | null | undefined
  const kind = rope?.["rope_type"] ?? scaling?.["rope_type"] ?? scaling?.["type"] ?? "default"
  if (kind !== "default") throw new Error(`rotary positions are scaled (\`${kind}\`), which is not written`)
  const head = config["tie_word_embeddings"] !== true
  const bias = names.has("model.layers.0.self_attn.q_proj.bias")
  const vocabulary = natural(config, "vocab_size")
  const paired = (count: number): Layout => ({ _tag: "Paired", heads: count })
  const attention = (i: number, from: string, name: string, layout: Layout): ReadonlyArray<TensorPlan> =>
    ["weight", ...(bias && names.has(`model.layers.${i}.self_attn.${from}.bias`) ? ["bias"] : [])].map((part) => ({
      from: `model.layers.${i}.self_attn.${from}.${part}`,
      name: `blk.${i}.${name}.${part}`,
      layout,
    }))
  return {
    context,
    vocabulary,
    mixture: { layers, sharing: heads / sharedHeads, tiedHead: !head },
    metadata: [
      ["general.architecture", text("llama")],
      ["llama.vocab_size", u32(vocabulary)],
      ["llama.context_length", u32(context)],
      ["llama.embedding_length", u32(width)],
      ["llama.block_count", u32(layers)],
      ["llama.feed_forward_length", u32(natural(config, "intermediate_size"))],
      ["llama.attention.head_count", u32(heads)],
      ["llama.attention.head_count_kv", u32(sharedHeads)],
      ["llama.attention.key_length", u32(size)],
      ["llama.attention.value_length", u32(size)],
      ["llama.attention.layer_norm_rms_epsilon", f32(positive(config, "rms_norm_eps", 1e-6))],
      ["llama.rope.dimension_count", u32(size)],
      ["llama.rope.freq_base", f32(positive({ ...rope, ...config }, "rope_theta", 10_000))],
    ],
    tensors: [
      { from: "model.embed_tokens.weight", name: "token_embd.weight", layout: rows },
      ...Array.from({ length: layers }, (_, i): ReadonlyArray<TensorPlan> => {
        const plan = (from: string, name: string): TensorPlan => ({
          from: `model.layers.${i}.${from}.weight`,
          name: `blk.${i}.${name}.weight`,
          layout: rows,
        })
        return [
          plan("input_layernorm", "attn_norm"),
          ...attention(i, "q_proj", "attn_q", paired(heads)),
          ...attention(i, "k_proj", "attn_k", paired(sharedHeads)),
          ...attention(i, "v_proj", "attn_v", rows),
          ...attention(i, "o_proj", "attn_output", rows),
          plan("post_attention_layernorm", "ffn_norm"),
          plan("mlp.gate_proj", "ffn_gate"),
          plan("mlp.up_proj", "ffn_up"),
          plan("mlp.down_proj", "ffn_down"),
        ]
      }).flat(),
      { from: "model.norm.weight", name: "output_norm.weight", layout: rows },
      ...(head ? [{ from: "lm_head.weight", name: "output.weight", layout: rows }] : []),
    ],
  }
}
