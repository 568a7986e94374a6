/**
 * The shape of a model, and everything that follows from it by arithmetic: tensors, parameters, memory, floating-point work.
 *
 * Tensor names and layouts are those of Hugging Face `transformers`, so a checkpoint needs no renaming on export:
 *
 * | family  | there                  | what                                                                                      |
 * |---------|------------------------|-------------------------------------------------------------------------------------------|
 * | `gpt2`  | `GPT2LMHeadModel`      | pre-layer-norm decoder: learned positions, `gelu_new`, biases, tied head. `Conv1D` weights are [in, out], the columns of `c_attn` are q \| k \| v |
 * | `llama` | `LlamaForCausalLM`, with a sliding window `MistralForCausalLM` | rotary positions (a head's two halves are turned against each other), RMS norm, SwiGLU, keys and values shared by groups of heads, no bias. `Linear` weights are [out, in] |
 */
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as SchemaGetter from "effect/SchemaGetter"

const Positive = Schema.Int.check(Schema.isGreaterThan(0))
const Natural = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
const AboveZero = Schema.Finite.check(Schema.isGreaterThan(0))

const common = {
  layers: Positive,
  width: Positive,
  heads: Positive,
}

/** Of a LLaMA; what is left out is said by `complete`. */
const llamaOnly = {
  /** Heads of keys and values, each shared by `heads / keyValueHeads` heads of queries; as many as `heads` by default. */
  keyValueHeads: Schema.optionalKey(Positive),
  /** Width of the gated layer. By default LLaMA's: 8/3 of `width`, rounded up to a multiple of 256. */
  feedForwardWidth: Schema.optionalKey(Positive),
  /** Base of the rotary wavelengths, 10,000 by default. */
  ropeTheta: Schema.optionalKey(AboveZero),
  /** Added to the mean square under the root, 1e-5 by default. */
  normEpsilon: Schema.optionalKey(AboveZero),
  /** Whether the embedding table is the head too; by default the head has its own, as LLaMA's and Mistral's. */
  tiedHead: Schema.optionalKey(Schema.Boolean),
  /** A position sees itself and the `slidingWindow` − 1 before it; all before it where absent. */
  slidingWindow: Schema.optionalKey(Positive),
  /** A token whose row of the embedding table learns nothing from being read, as in `transformers` where a model names a padding token. */
  paddingId: Schema.optionalKey(Natural),
}

const Written = Schema.Struct({
  /** GPT-2 is meant where none is named. Naming it says nothing more, so it is not spelled: the key stays the same. */
  family: Schema.optionalKey(Schema.Literals(["gpt2", "llama"])).pipe(
    Schema.decodeTo(Schema.optionalKey(Schema.Literals(["gpt2", "llama"])), {
      decode: SchemaGetter.passthrough(),
      encode: SchemaGetter.transformOptional(Option.filter((family) => family !== "gpt2")),
    }),
  ),
  ...common,
  ...llamaOnly,
})
type Written = typeof Written.Type

/** What an experiment writes: context and vocabulary come from the tokens it trains on. */
export type Shape =
  | (Pick<Written, keyof typeof common> & { readonly [K in keyof typeof llamaOnly]?: never } & {
      readonly family?: "gpt2"
    })
  | (Written & { readonly family: "llama" })
/** Wider than its type, so that what does not belong together is refused in plain words (`shapeProblem`). */
export const Shape = Written as unknown as Schema.Codec<Shape, typeof Written.Encoded>

const read = {
  /** Positions, in tokens. */
  context: Positive,
  /** Rows of the embedding table. */
  vocabulary: Positive,
}

export const Gpt2Architecture = Schema.Struct({ family: Schema.Literal("gpt2"), ...common, ...read })
export type Gpt2Architecture = typeof Gpt2Architecture.Type

export const LlamaArchitecture = Schema.Struct({
  family: Schema.Literal("llama"),
  ...common,
  keyValueHeads: Positive,
  feedForwardWidth: Positive,
  ropeTheta: AboveZero,
  normEpsilon: AboveZero,
  tiedHead: Schema.Boolean,
  slidingWindow: Schema.optionalKey(Positive),
  paddingId: Schema.optionalKey(Natural),
  ...read,
})
export type LlamaArchitecture = typeof LlamaArchitecture.Type

export const Architecture = Schema.Union([Gpt2Architecture, LlamaArchitecture])
export type Architecture = typeof Architecture.Type

/** Of GPT-2's layer norms. */
export const LAYER_NORM_EPSILON = 1e-5

/** A shape with what it left out, and what the tokens say. Of an architecture it takes what belongs to the shape. */
export const complete = (shape: Shape, context: number, vocabulary: number): Architecture => {
  const { layers, width, heads } = shape
  if (shape.family !== "llama") return { family: "gpt2", layers, width, heads, context, vocabulary }
  return {
    family: "llama",
    layers,
    width,
    heads,
    keyValueHeads: shape.keyValueHeads ?? heads,
    feedForwardWidth: shape.feedForwardWidth ?? 256 * Math.ceil(Math.floor((8 * width) / 3) / 256),
    ropeTheta: shape.ropeTheta ?? 10_000,
    normEpsilon: shape.normEpsilon ?? 1e-5,
    tiedHead: shape.tiedHead ?? false,
    ...(shape.slidingWindow !== undefined && { slidingWindow: shape.slidingWindow }),
    ...(shape.paddingId !== undefined && { paddingId: shape.paddingId }),
    context,
    vocabulary,
  }
}

/** Why no model has such a shape, with what to do; undefined where one has. */
export const shapeProblem = (shape: Shape): { readonly problem: string; readonly hint: string } | undefined => {
  const { width, heads } = shape
  if (width % heads !== 0)
    return {
      problem: `width ${width} does not divide into ${heads} heads`,
      hint: "choose heads that divide the width, 64 wide each is usual",
    }
  const foreign = shape.family === "llama" ? undefined : Object.keys(llamaOnly).find((name) => name in shape)
  if (foreign !== undefined)
    return { problem: `a GPT-2 has no \`${foreign}\``, hint: 'leave it out, or write `family: "llama"`' }
  if (shape.family !== "llama") return undefined
  if ((width / heads) % 2 !== 0)
    return {
      problem: `heads ${width / heads} wide have no halves to turn against each other`,
      hint: "rotary positions want heads of an even width, 64 is usual",
    }
  if (shape.keyValueHeads !== undefined && heads % shape.keyValueHeads !== 0)
    return {
      problem: `${heads} heads do not share ${shape.keyValueHeads} heads of keys and values evenly`,
      hint: `choose \`keyValueHeads\` among ${divisors(heads).join(", ")}`,
    }
  return undefined
}

const divisors = (of: number): ReadonlyArray<number> =>
  Array.from({ length: of }, (_, i) => i + 1).filter((divisor) => of % divisor === 0)

export interface TensorSpec {
  readonly name: string
  readonly shape: ReadonlyArray<number>
  /** Decoupled weight decay applies to matrices only: embeddings and projections, not biases and norms. */
  readonly decayed: boolean
  /** Initial values: standard deviation of a normal, or a constant (GPT-2's scaled residual init). */
  readonly init: { readonly normal: number } | { readonly constant: number }
}

const DEVIATION = 0.02
/** Of the projections that add to the residual stream, so that its size does not grow with the layers (GPT-2). */
const residualDeviation = (layers: number): number => DEVIATION / Math.sqrt(2 * layers)

const matrix = (name: string, rows: number, columns: number, deviation = DEVIATION): TensorSpec => ({
  name,
  shape: [rows, columns],
  decayed: true,
  init: { normal: deviation },
})
const vector = (name: string, size: number, constant: number): TensorSpec => ({
  name,
  shape: [size],
  decayed: false,
  init: { constant },
})

/** All tensors in canonical order (embeddings, layers, final norm, head). This order is that of every flat buffer and optimizer state. */
export const tensors = (architecture: Architecture): ReadonlyArray<TensorSpec> =>
  architecture.family === "gpt2" ? gpt2Tensors(architecture) : llamaTensors(architecture)

const gpt2Tensors = ({ layers, width, context, vocabulary }: Gpt2Architecture): ReadonlyArray<TensorSpec> => {
  const residual = residualDeviation(layers)
  const layer = (i: number): ReadonlyArray<TensorSpec> => {
    const prefix = `transformer.h.${i}`
    return [
      vector(`${prefix}.ln_1.weight`, width, 1),
      vector(`${prefix}.ln_1.bias`, width, 0),
      matrix(`${prefix}.attn.c_attn.weight`, width, 3 * width),
      vector(`${prefix}.attn.c_attn.bias`, 3 * width, 0),
      matrix(`${prefix}.attn.c_proj.weight`, width, width, residual),
      vector(`${prefix}.attn.c_proj.bias`, width, 0),
      vector(`${prefix}.ln_2.weight`, width, 1),
      vector(`${prefix}.ln_2.bias`, width, 0),
      matrix(`${prefix}.mlp.c_fc.weight`, width, 4 * width),
      vector(`${prefix}.mlp.c_fc.bias`, 4 * width, 0),
      matrix(`${prefix}.mlp.c_proj.weight`, 4 * width, width, residual),
      vector(`${prefix}.mlp.c_proj.bias`, width, 0),
    ]
  }
  return [
    matrix("transformer.wte.weight", vocabulary, width),
    matrix("transformer.wpe.weight", context, width),
    ...Array.from({ length: layers }, (_, i) => layer(i)).flat(),
    vector("transformer.ln_f.weight", width, 1),
    vector("transformer.ln_f.bias", width, 0),
  ]
}

const llamaTensors = (architecture: LlamaArchitecture): ReadonlyArray<TensorSpec> => {
  const { layers, width, feedForwardWidth: wide, vocabulary, tiedHead } = architecture
  const residual = residualDeviation(layers)
  const layer = (i: number): ReadonlyArray<TensorSpec> => {
    const prefix = `model.layers.${i}`
    return [
      vector(`${prefix}.input_layernorm.weight`, width, 1),
      matrix(`${prefix}.self_attn.q_proj.weight`, width, width),
      matrix(`${prefix}.self_attn.k_proj.weight`, keyValueWidth(architecture), width),
      matrix(`${prefix}.self_attn.v_proj.weight`, keyValueWidth(architecture), width),
      matrix(`${prefix}.self_attn.o_proj.weight`, width, width, residual),
      vector(`${prefix}.post_attention_layernorm.weight`, width, 1),
      matrix(`${prefix}.mlp.gate_proj.weight`, wide, width),
      matrix(`${prefix}.mlp.up_proj.weight`, wide, width),
      matrix(`${prefix}.mlp.down_proj.weight`, width, wide, residual),
    ]
  }
  return [
    matrix("model.embed_tokens.weight", vocabulary, width),
    ...Array.from({ length: layers }, (_, i) => layer(i)).flat(),
    vector("model.norm.weight", width, 1),
    ...(tiedHead ? [] : [matrix("lm_head.weight", vocabulary, width)]),
  ]
}

/** Columns of the keys, and of the values, of one position. */
export const keyValueWidth = ({ width, heads, keyValueHeads }: LlamaArchitecture): number =>
  (width / heads) * keyValueHeads

/** GPT-2: V·d + P·d + L(12d² + 13d) + 2d. LLaMA: V·d (twice where untied) + L(2d² + 2d·kv + 3d·f + 2d) + d. */
export const parameterCount = (architecture: Architecture): number =>
  tensors(architecture).reduce((sum, tensor) => sum + tensor.shape.reduce((a, b) => a * b, 1), 0)

/**
 * Training floating-point operations per token: 6·N_matmul + 12·L·d·T. N counts the matrices that are multiplied, the head among them
 * once whether tied or not, the embedding table not. T is the context: that half of attention is hidden, or more by a sliding window,
 * makes no difference to this figure by convention.
 */
export const trainingFlopsPerToken = (architecture: Architecture): number => {
  const { layers, width, context, vocabulary } = architecture
  const attention = 12 * layers * width * context
  if (architecture.family === "gpt2") return 6 * (layers * 12 * width * width + vocabulary * width) + attention
  const layer = 2 * width * width + 2 * width * keyValueWidth(architecture) + 3 * width * architecture.feedForwardWidth
  return 6 * (layers * layer + vocabulary * width) + attention
}

/** Bytes that whoever trains holds at least: weights, gradient and both AdamW moments in fp32. Engines hold more, each in its way. */
export const trainingBytes = (architecture: Architecture): number => 16 * parameterCount(architecture)

/** Bytes of one checkpoint: fp32 weights, and twice as much again for the AdamW moments. */
export const checkpointBytes = (architecture: Architecture, moments: boolean): number =>
  4 * parameterCount(architecture) * (moments ? 3 : 1)
