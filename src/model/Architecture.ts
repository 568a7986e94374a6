/**
 * The shape of a model, and everything that follows from it by arithmetic: tensors, parameters, memory, floating-point work.
 *
 * `gpt2` is the GPT-2 pre-layer-norm decoder as Hugging Face `transformers` has it (`GPT2LMHeadModel`): learned positions,
 * `gelu_new`, biases, tied head. Tensor names and layouts are that implementation's, so a checkpoint needs no renaming on export:
 * `Conv1D` weights are [in, out], the columns of `c_attn` are q | k | v.
 */
import * as Schema from "effect/Schema"

const Positive = Schema.Int.check(Schema.isGreaterThan(0))

/** What an experiment writes: context and vocabulary come from the tokens it trains on. */
export const Shape = Schema.Struct({
  layers: Positive,
  width: Positive,
  heads: Positive,
})
export type Shape = typeof Shape.Type

export const Architecture = Schema.Struct({
  family: Schema.Literal("gpt2"),
  ...Shape.fields,
  /** Positions, in tokens. */
  context: Positive,
  /** Rows of the embedding table. */
  vocabulary: Positive,
})
export type Architecture = typeof Architecture.Type

export const LAYER_NORM_EPSILON = 1e-5

export interface TensorSpec {
  readonly name: string
  readonly shape: ReadonlyArray<number>
  /** Decoupled weight decay applies to matrices only: embeddings and projections, not biases and layer norms. */
  readonly decayed: boolean
  /** Initial values: standard deviation of a normal, or a constant (F19 of the metric definitions; GPT-2's scaled residual init). */
  readonly init: { readonly normal: number } | { readonly constant: number }
}

/** All tensors in canonical order (embeddings, layers, final norm). This order is that of every flat buffer and optimizer state. */
export const tensors = (architecture: Architecture): ReadonlyArray<TensorSpec> => {
  const { layers, width, context, vocabulary } = architecture
  const matrix = (name: string, rows: number, columns: number, deviation = 0.02): TensorSpec => ({
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
  const residual = 0.02 / Math.sqrt(2 * layers)
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

/** GPT-2: V·d + P·d + L(12d² + 13d) + 2d (tied head). */
export const parameterCount = (architecture: Architecture): number =>
  tensors(architecture).reduce((sum, tensor) => sum + tensor.shape.reduce((a, b) => a * b, 1), 0)

/** Training floating-point operations per token: 6·N_matmul + 12·L·d·T; the tied head counts once, positions not at all. */
export const trainingFlopsPerToken = ({ layers, width, context, vocabulary }: Architecture): number =>
  6 * (layers * 12 * width * width + vocabulary * width) + 12 * layers * width * context

/** Bytes that whoever trains holds at least: weights, gradient and both AdamW moments in fp32. Engines hold more, each in its way. */
export const trainingBytes = (architecture: Architecture): number => 16 * parameterCount(architecture)

/** Bytes of one checkpoint: fp32 weights, and twice as much again for the AdamW moments. */
export const checkpointBytes = (architecture: Architecture, moments: boolean): number =>
  4 * parameterCount(architecture) * (moments ? 3 : 1)
