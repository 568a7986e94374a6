/** What Hugging Face `transformers` and PyTorch read, derived from the facts of a release: one function a file, used to write and to check. */
import {
  type Architecture,
  type Gpt2Architecture,
  LAYER_NORM_EPSILON,
  type LlamaArchitecture,
  tensors,
} from "../model/Architecture.ts"
import type { TokensIndex } from "../model/Corpus.ts"
import type { DecodingPreset } from "../model/Decoding.ts"
import type { RecommendedDecoding, ReleaseFiles } from "./Folder.ts"
import { Float, float, type Json } from "./Json.ts"
import { Tensor, type Value } from "./TorchFile.ts"
import type { WeightsHeader } from "./Weights.ts"

type Ids = Pick<TokensIndex, "bosId" | "eosId" | "padId">
type JsonObject = { readonly [key: string]: Json }

/** What a release says of its kind of model, beside the architecture itself. */
export const kindOf = (architecture: Architecture) =>
  architecture.family === "gpt2"
    ? ({ block_type: "gpt2_prelayernorm", tied_head: true } as const)
    : ({ block_type: modelType(architecture), tied_head: architecture.tiedHead } as const)

/** A LLaMA with a sliding window is a Mistral to `transformers`. */
const modelType = ({ slidingWindow }: LlamaArchitecture) => (slidingWindow === undefined ? "llama" : "mistral")

/**
 * `torch_dtype` is for transformers 4, `dtype` for 5; the ids are always written, since the defaults (50256, 2) lie outside of other
 * vocabularies or mean something else there.
 */
export const modelConfig = (architecture: Architecture, ids: Ids): JsonObject => ({
  ...(architecture.family === "gpt2" ? gpt2Config(architecture) : llamaConfig(architecture)),
  bos_token_id: ids.bosId,
  eos_token_id: ids.eosId,
  pad_token_id: ids.padId,
  use_cache: true,
  dtype: "float32",
  torch_dtype: "float32",
})

/** `n_ctx` is for llama.cpp. */
const gpt2Config = (architecture: Gpt2Architecture): JsonObject => ({
  model_type: "gpt2",
  architectures: ["GPT2LMHeadModel"],
  vocab_size: architecture.vocabulary,
  n_positions: architecture.context,
  n_ctx: architecture.context,
  n_embd: architecture.width,
  n_layer: architecture.layers,
  n_head: architecture.heads,
  n_inner: null,
  activation_function: "gelu_new",
  layer_norm_epsilon: float(LAYER_NORM_EPSILON),
  initializer_range: float(0.02),
  resid_pdrop: float(0),
  embd_pdrop: float(0),
  attn_pdrop: float(0),
  scale_attn_weights: true,
  scale_attn_by_inverse_layer_idx: false,
  reorder_and_upcast_attn: false,
  tie_word_embeddings: true,
})

/**
 * `rope_theta` is for transformers 4 and llama.cpp, `rope_parameters` for transformers 5; either alone is misread in silence by some
 * reader where theta is not 10,000. A Mistral whose window is not said gets one of 4096, so it is always said.
 */
const llamaConfig = (architecture: LlamaArchitecture): JsonObject => ({
  model_type: modelType(architecture),
  architectures: [architecture.slidingWindow === undefined ? "LlamaForCausalLM" : "MistralForCausalLM"],
  vocab_size: architecture.vocabulary,
  max_position_embeddings: architecture.context,
  hidden_size: architecture.width,
  intermediate_size: architecture.feedForwardWidth,
  num_hidden_layers: architecture.layers,
  num_attention_heads: architecture.heads,
  num_key_value_heads: architecture.keyValueHeads,
  head_dim: architecture.width / architecture.heads,
  hidden_act: "silu",
  rms_norm_eps: float(architecture.normEpsilon),
  rope_theta: float(architecture.ropeTheta),
  rope_parameters: { rope_theta: float(architecture.ropeTheta), rope_type: "default" },
  ...(architecture.slidingWindow === undefined
    ? { attention_bias: false, mlp_bias: false }
    : { sliding_window: architecture.slidingWindow }),
  attention_dropout: float(0),
  initializer_range: float(0.02),
  tie_word_embeddings: architecture.tiedHead,
})

/** Greedy leaves the sampling settings out: `GenerationConfig` refuses to save them without `do_sample`. */
export const recommendedDecoding = (preset: DecodingPreset, maxNewTokens: number): RecommendedDecoding => ({
  preset: preset.name,
  do_sample: preset.doSample,
  ...(preset.doSample ? { temperature: preset.temperature, top_k: preset.topK, top_p: preset.topP } : {}),
  repetition_penalty: preset.repetitionPenalty,
  no_repeat_ngram_size: preset.noRepeatNgramSize,
  max_new_tokens: maxNewTokens,
})

const floats = new Set(["temperature", "top_p", "repetition_penalty"])

export const recommendedJson = (recommended: RecommendedDecoding): JsonObject =>
  Object.fromEntries(
    Object.entries(recommended).map(([key, value]) => [
      key,
      floats.has(key) && typeof value === "number" ? float(value) : value,
    ]),
  )

export const generationConfig = (recommended: RecommendedDecoding, ids: Ids): JsonObject => {
  const { preset: _, ...settings } = recommendedJson(recommended)
  return { bos_token_id: ids.bosId, eos_token_id: ids.eosId, pad_token_id: ids.padId, ...settings }
}

/** As a JSON reader sees it: floats are numbers again. */
export const plain = (value: Json): Exclude<Json, Float> =>
  value instanceof Float
    ? value.value
    : Array.isArray(value)
      ? value.map(plain)
      : value !== null && typeof value === "object"
        ? Object.fromEntries(
            Object.entries(value as { readonly [key: string]: Json | undefined })
              .filter((entry): entry is [string, Json] => entry[1] !== undefined)
              .map(([key, member]) => [key, plain(member)]),
          )
        : (value as Exclude<Json, Float>)

/**
 * `PreTrainedTokenizerFast` is the only class that both majors of transformers take `tokenizer.json` from verbatim: with GPT-2's
 * own class 5.x rebuilds the tokenizer and drops its normaliser, and 4.57 does not know `TokenizersBackend`.
 */
export const tokenizerConfig = (
  given: { readonly [key: string]: Json },
  special: { readonly bos: string; readonly eos: string; readonly pad: string },
  context: number,
): JsonObject => ({
  ...given,
  tokenizer_class: "PreTrainedTokenizerFast",
  bos_token: special.bos,
  eos_token: special.eos,
  pad_token: special.pad,
  model_max_length: context,
  clean_up_tokenization_spaces: false,
})

/**
 * The released checkpoint as `torch.load` gives it back, which is what `load_state_dict` of a model made from `config` takes whole.
 * Nothing in it means anything else than beside it:
 *
 * | key                             | what                                                                            |
 * |---------------------------------|---------------------------------------------------------------------------------|
 * | `format`                        | 1: this table                                                                   |
 * | `name`, `license`, `experiment` | as in `release.json`                                                            |
 * | `config`                        | as `config.json`                                                                |
 * | `state`                         | as `<name>-step_<n>.json`: step, tokens seen, architecture, sha256 of the weights |
 * | `model`                         | tensors by the names of `transformers`; a tied head is the embedding itself       |
 */
export const torchCheckpoint = (
  { release, state, tokens }: Pick<ReleaseFiles, "release" | "state" | "tokens">,
  { dataOffset, tensors: stored }: WeightsHeader,
): Value => {
  const { architecture } = state
  const model = Object.fromEntries(
    tensors(architecture).map(({ name, shape }) => [
      name,
      new Tensor("F32", shape, dataOffset + stored.get(name)!.data_offsets[0]),
    ]),
  )
  const embedding = architecture.family === "gpt2" ? "transformer.wte.weight" : "model.embed_tokens.weight"
  const tied = kindOf(architecture).tied_head ? { "lm_head.weight": model[embedding] } : {}
  return {
    format: 1,
    name: release.name,
    license: release.license,
    experiment: release.experiment,
    config: modelConfig(architecture, tokens),
    state: state as Value,
    model: { ...model, ...tied },
  }
}
