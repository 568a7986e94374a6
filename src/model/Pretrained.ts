/**
 * What the `config.json` of a published model says, in the words of `Architecture.ts`: GPT-2, LLaMA and Mistral as Hugging Face
 * `transformers` has them. Keys that are left out mean what they mean there. A model that computes anything else is refused: weights
 * that fit into another arithmetic would train, and be wrong.
 */
import * as Result from "effect/Result"
import { type Architecture, LAYER_NORM_EPSILON, shapeProblem } from "./Architecture.ts"

export interface Unfit {
  readonly problem: string
  readonly hint: string
}

export type Config = Readonly<Record<string, unknown>>

const OTHERS =
  "GPT-2, LLaMA and Mistral are trained further, as they were published, without changes of their arithmetic"

class Unknown extends Error {}

const isObject = (value: unknown): value is Config =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const natural = (config: Config, key: string, otherwise?: number): number => {
  const value = config[key] ?? otherwise
  if (!Number.isSafeInteger(value) || (value as number) <= 0)
    throw new Unknown(`\`${key}\` is ${JSON.stringify(value)}, not a number above 0`)
  return value as number
}
const positive = (config: Config, key: string, otherwise: number): number => {
  const value = config[key] ?? otherwise
  if (typeof value !== "number" || !(value > 0))
    throw new Unknown(`\`${key}\` is ${JSON.stringify(value)}, not a number above 0`)
  return value
}
/** The first is what is meant where the key is left out. */
const mustBe = (config: Config, key: string, ...allowed: ReadonlyArray<unknown>): void => {
  if (!allowed.includes(config[key] ?? allowed[0]))
    throw new Unknown(`\`${key}\` is ${JSON.stringify(config[key])}, which is not computed here`)
}

export const architectureOf = (config: Config): Result.Result<Architecture, Unfit> =>
  Result.try({
    try: () => {
      if (isObject(config["quantization_config"])) throw new Unknown("its weights are quantised")
      const architecture = familyOf(config)
      const wrong = shapeProblem(architecture)
      if (wrong !== undefined) throw new Unknown(wrong.problem)
      return architecture
    },
    catch: (cause) => ({ problem: cause instanceof Error ? cause.message : String(cause), hint: OTHERS }),
  })

const familyOf = (config: Config): Architecture => {
  const type = config["model_type"]
  if (type === "gpt2") return gpt2(config)
  if (type === "llama" || type === "mistral") return llama(config, type)
  throw new Unknown(`\`model_type\` is ${JSON.stringify(type)}`)
}

const gpt2 = (config: Config): Architecture => {
  const width = natural(config, "n_embd", 768)
  mustBe(config, "activation_function", "gelu_new", "gelu_pytorch_tanh")
  mustBe(config, "n_inner", null, 4 * width)
  mustBe(config, "layer_norm_epsilon", LAYER_NORM_EPSILON)
  mustBe(config, "scale_attn_weights", true)
  mustBe(config, "scale_attn_by_inverse_layer_idx", false)
  mustBe(config, "add_cross_attention", false)
  mustBe(config, "tie_word_embeddings", true)
  return {
    family: "gpt2",
    layers: natural(config, "n_layer", 12),
    width,
    heads: natural(config, "n_head", 12),
    context: natural(config, "n_positions", 1024),
    vocabulary: natural(config, "vocab_size", 50_257),
  }
}

const llama = (config: Config, type: "llama" | "mistral"): Architecture => {
  const width = natural(config, "hidden_size", 4096)
  const heads = natural(config, "num_attention_heads", 32)
  const vocabulary = natural(config, "vocab_size", 32_000)
  mustBe(config, "hidden_act", "silu")
  mustBe(config, "attention_bias", false)
  mustBe(config, "mlp_bias", false)
  mustBe(config, "head_dim", null, width / heads)
  mustBe(config, "partial_rotary_factor", 1)
  const rope = isObject(config["rope_parameters"]) ? config["rope_parameters"] : {}
  const scaling = isObject(config["rope_scaling"]) ? config["rope_scaling"] : {}
  const kind = rope["rope_type"] ?? scaling["rope_type"] ?? scaling["type"] ?? "default"
  if (kind !== "default") throw new Unknown(`rotary positions are scaled (\`${kind}\`), which is not computed here`)
  const window = type === "mistral" && !("sliding_window" in config) ? 4096 : config["sliding_window"]
  const padding = config["pad_token_id"]
  return {
    family: "llama",
    layers: natural(config, "num_hidden_layers", 32),
    width,
    heads,
    keyValueHeads: natural(config, "num_key_value_heads", type === "mistral" ? 8 : heads),
    feedForwardWidth: natural(config, "intermediate_size", type === "mistral" ? 14_336 : 11_008),
    ropeTheta: positive({ ...config, ...rope }, "rope_theta", 10_000),
    normEpsilon: positive(config, "rms_norm_eps", 1e-6),
    tiedHead: config["tie_word_embeddings"] === true,
    // a LLaMA computes no window, whatever its configuration says of one
    ...(type === "mistral" && typeof window === "number" && { slidingWindow: window }),
    // counted from the end where it is negative, as PyTorch does
    ...(Number.isSafeInteger(padding) && {
      paddingId: (padding as number) < 0 ? vocabulary + (padding as number) : (padding as number),
    }),
    context: natural(config, "max_position_embeddings", type === "mistral" ? 131_072 : 2048),
    vocabulary,
  }
}
