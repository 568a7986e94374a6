/**
 * What steps report, as files: the JSON that benchmarks, selections and sweeps write, that a release bundles, and that a model card
 * takes every one of its numbers from. Field names are those of the published files, in snake case as their readers expect.
 *
 * | artifact   | file                             | schema                  |
 * |------------|----------------------------------|-------------------------|
 * | benchmark  | `benchmark_metrics.json`         | `BenchmarkMetrics`      |
 * | benchmark  | `benchmark_source_losses.json`   | `BenchmarkSourceLosses` |
 * | benchmark  | `benchmark_scores.json`          | `BenchmarkScores`       |
 * | benchmark  | `probes.json`                    | `Probes`                |
 * | benchmark  | `behaviour_generations.jsonl`    | `GenerationRecord` a line |
 * | select     | `comparison.json`                | `Comparison`            |
 * | select     | `holdout.json`                   | `HoldoutReport`         |
 * | sweep      | `decoding_summary.json`          | `DecodingSummary`       |
 * | sweep      | `prompts.json`                   | `PromptSets`            |
 * | sweep      | `tuning_generations.jsonl`, `holdout_generations.jsonl` | `GenerationRecord` a line |
 * | sweep      | `tuning_leaderboard.csv`, `holdout_leaderboard.csv`     | `LeaderboardRow` a line   |
 * | quantise   | `quantisation.json`              | `Quantisation`          |
 * | train, decay | `metrics.jsonl`                | `StepMetrics` a line    |
 * | train, decay | `eval_metrics.jsonl`           | `ValidationMetrics` a line |
 * | train, decay | `best_validation.json`         | `ValidationMetrics`     |
 * | train, decay | `probe_generations.jsonl`      | `ProbeGeneration` a line |
 */
import * as Schema from "effect/Schema"
import { DecodingPreset } from "./Decoding.ts"

const Natural = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/** 95% interval: [low, high]. */
export const Interval = Schema.Tuple([Schema.Finite, Schema.Finite])
export type Interval = typeof Interval.Type

/** A number together with how sure of it we are: its 95% interval and how many things it was counted over. */
export const Measured = Schema.Struct({
  value: Schema.Finite,
  ci95: Schema.optionalKey(Interval),
  /** Documents, samples or windows, whichever `unit` says. */
  n: Schema.optionalKey(Natural),
  unit: Schema.optionalKey(Schema.Literals(["documents", "samples", "prompts"])),
})
export type Measured = typeof Measured.Type

/** Which model a report is about. */
export const ModelIdentity = Schema.Struct({
  /** "stable 400 → step 475": parent stable step and own step; a stable checkpoint names itself alone. */
  candidate: Schema.String,
  step: Natural,
  parent_step: Natural,
  tokens_seen: Natural,
  parameters: Natural,
})
export type ModelIdentity = typeof ModelIdentity.Type

/** Every reported metric by name (see `Metric.ts`). `val_loss_mixed` never travels without `mix`. */
export const BenchmarkMetrics = Schema.Struct({
  model: ModelIdentity,
  metrics: Schema.Record(Schema.String, Measured),
  mix: Schema.Struct({ mode: Schema.String, weights: Schema.Record(Schema.String, Schema.Finite) }),
})
export type BenchmarkMetrics = typeof BenchmarkMetrics.Type

export const SourceLoss = Schema.Struct({
  source: Schema.String,
  language: Schema.String,
  /** "train": part of the mix; "evaluate": reported only, weight 0. */
  role: Schema.Literals(["train", "evaluate"]),
  weight: Schema.Finite,
  loss: Schema.Finite,
  ci95: Interval,
  perplexity: Schema.Finite,
  bits_per_byte: Schema.Finite,
  documents: Natural,
  tokens: Natural,
  bytes: Natural,
})
export type SourceLoss = typeof SourceLoss.Type
export const BenchmarkSourceLosses = Schema.Struct({ model: ModelIdentity, sources: Schema.Array(SourceLoss) })

/** Per-document scores: what paired comparisons are made of. */
export const DocumentScore = Schema.Struct({
  id: Schema.String,
  source: Schema.String,
  nll: Schema.Finite,
  text_nll: Schema.Finite,
  tokens: Natural,
  bytes: Natural,
})
export type DocumentScore = typeof DocumentScore.Type
export const BenchmarkScores = Schema.Struct({ model: ModelIdentity, documents: Schema.Array(DocumentScore) })

export const ProbeReport = Schema.Struct({
  language: Schema.String,
  kind: Schema.Literals(["factual", "procedural"]),
  prompt: Schema.String,
  expected: Schema.String,
  correct_token_rank: Schema.Int,
  rank_ties: Natural,
  correct_token_probability: Schema.Finite,
  perplexity_on_target_sequence: Schema.Finite,
  target_tokens: Natural,
  top: Schema.Array(Schema.Struct({ token: Schema.String, probability: Schema.Finite })),
})
export type ProbeReport = typeof ProbeReport.Type
export const Probes = Schema.Struct({ model: ModelIdentity, probes: Schema.Array(ProbeReport) })

export const GenerationRecord = Schema.Struct({
  preset: Schema.String,
  prompt_id: Schema.String,
  language: Schema.String,
  prompt: Schema.String,
  generated: Schema.String,
  token_ids: Schema.Array(Natural),
  finish: Schema.Literals(["eos", "length"]),
  detected_language: Schema.String,
})
export type GenerationRecord = typeof GenerationRecord.Type

export const Candidate = Schema.Struct({
  ...ModelIdentity.fields,
  metrics: Schema.Record(Schema.String, Measured),
  winner: Schema.Boolean,
  /** Not told apart from the winner at 0.05 after Holm's correction. */
  tied: Schema.Boolean,
  /** This candidate minus the winner; absent for the winner itself. */
  difference: Schema.optionalKey(
    Schema.Struct({ value: Schema.Finite, ci95: Interval, p: Schema.Finite, p_holm: Schema.Finite }),
  ),
})
export type Candidate = typeof Candidate.Type
export const Comparison = Schema.Struct({
  by: Schema.String,
  direction: Schema.Literals(["lowest", "highest"]),
  /** Best first. */
  candidates: Schema.Array(Candidate),
  bootstrap: Schema.Struct({ samples: Natural, seed: Schema.Int }),
  /** Why the winner won, in words. */
  words: Schema.String,
})
export type Comparison = typeof Comparison.Type

/** Read once, for the winner alone, after the choice. */
export const HoldoutReport = Schema.Struct({
  model: ModelIdentity,
  metrics: Schema.Record(Schema.String, Measured),
  sources: Schema.Array(SourceLoss),
  /** What all of it is made of, and by which anybody who has the texts finds the documents again. */
  documents: Schema.Array(DocumentScore),
  /** What the holdout says beside the validation figure the choice was made on. */
  words: Schema.String,
})
export type HoldoutReport = typeof HoldoutReport.Type

export const LeaderboardRow = Schema.Struct({
  preset: Schema.String,
  rank: Schema.Int,
  /** Minus the mean of the z-terms; null when the preset was ruled out. */
  score: Schema.NullOr(Schema.Finite),
  ruled_out: Schema.Boolean,
  /** |mean(generated) − mean(real)| / sd(real), by term. */
  z: Schema.Record(Schema.String, Schema.Finite),
  metrics: Schema.Record(Schema.String, Measured),
})
export type LeaderboardRow = typeof LeaderboardRow.Type
export const DecodingSummary = Schema.Struct({
  objective: Schema.String,
  presets: Schema.Array(DecodingPreset),
  recommended: DecodingPreset,
  max_new_tokens: Natural,
  seed: Schema.Int,
  prompts: Schema.Struct({ tuning: Natural, holdout: Natural }),
  /** Mean and standard deviation of each term over the real continuations. */
  reference: Schema.Record(Schema.String, Schema.Struct({ mean: Schema.Finite, sd: Schema.Finite })),
  tuning: Schema.Array(LeaderboardRow),
  holdout: Schema.Array(LeaderboardRow),
  confirmed: Schema.Boolean,
  words: Schema.String,
})
export type DecodingSummary = typeof DecodingSummary.Type

export const Prompt = Schema.Struct({
  id: Schema.String,
  language: Schema.String,
  source: Schema.String,
  /** Id of the held-out document the opening comes from. */
  document: Schema.String,
  text: Schema.String,
  /** The document's own continuation. */
  continuation: Schema.String,
})
export type Prompt = typeof Prompt.Type
export const PromptSets = Schema.Struct({
  tuning: Schema.Array(Prompt),
  holdout: Schema.Array(Prompt),
  behaviour: Schema.Array(Prompt),
})
export type PromptSets = typeof PromptSets.Type

/** One line an optimizer step. No clock, no speed: the same recipe writes the same lines. */
export const StepMetrics = Schema.Struct({
  step: Natural,
  loss: Schema.Finite,
  lr: Schema.Finite,
  grad_norm: Schema.Finite,
  tokens_seen: Natural,
})
export type StepMetrics = typeof StepMetrics.Type
export const ValidationMetrics = Schema.Struct({
  step: Natural,
  tokens_seen: Natural,
  val_loss_mixed: Schema.Finite,
  ci95: Interval,
  val_loss: Schema.Record(Schema.String, Schema.Finite),
  source_loss: Schema.Record(Schema.String, Schema.Finite),
  weights: Schema.Record(Schema.String, Schema.Finite),
  documents: Natural,
  tokens: Natural,
})
export type ValidationMetrics = typeof ValidationMetrics.Type
export const ProbeGeneration = Schema.Struct({
  step: Natural,
  language: Schema.String,
  prompt: Schema.String,
  generated: Schema.String,
})
export type ProbeGeneration = typeof ProbeGeneration.Type

/**
 * Of one language, or of `all`: what a quantised file costs beside the weights it was made from, over the same tokens. Intervals
 * are ± 1.96 of llama.cpp's uncertainties; `n` counts tokens.
 */
export const QuantisationLoss = Schema.Struct({
  ppl: Measured,
  delta_ppl: Measured,
  /** Mean Kullback–Leibler divergence to the reference, nats a token. */
  kld: Measured,
  kld_median: Schema.Finite,
  kld_p99: Schema.Finite,
  kld_max: Schema.Finite,
  /** Change of the right token's probability (0 to 1): mean, and root of the mean square. */
  mean_delta_p: Measured,
  rms_delta_p: Measured,
  /** Share of tokens for which both have the same first choice. */
  same_top_p: Measured,
})
export type QuantisationLoss = typeof QuantisationLoss.Type

export const QuantisedFile = Schema.Struct({
  /** Name in the release folder. */
  file: Schema.String,
  /** As llama.cpp calls it: `Q4_K_M`. */
  type: Schema.String,
  importance_matrix: Schema.Boolean,
  bytes: Natural,
  bits_per_weight: Schema.Finite,
  /** What each matrix is really kept as: rows that are no multiple of 256 cannot be K-quants. */
  matrices: Schema.Record(Schema.String, Schema.String),
  /** The same, counted. */
  types: Schema.Record(Schema.String, Natural),
  losses: Schema.Record(Schema.String, QuantisationLoss),
})
export type QuantisedFile = typeof QuantisedFile.Type

/** The smallest file whose figure, its interval included, is at most so much in every language. */
export const PickRule = Schema.Struct({
  by: Schema.Literals(["kld", "delta_ppl", "rms_delta_p"]),
  at_most: Schema.Finite,
})
export type PickRule = typeof PickRule.Type

/** `quantisation.json` of a release that has GGUF files. */
export const Quantisation = Schema.Struct({
  model: ModelIdentity,
  /** The file all others are held against. */
  reference: Schema.String,
  documents: Natural,
  tokens: Natural,
  files: Schema.Array(QuantisedFile).check(Schema.isMinLength(1)),
  /** Documents of the validation part that were measured, by source. */
  sources: Schema.Record(Schema.String, Natural),
  /** Of the search for scales: another one makes other bytes of the same weights. */
  encoding: Natural,
  /** Training rows whose activations weigh the columns, and the file that has them; absent where no file was made so. */
  importance: Schema.optionalKey(
    Schema.Struct({ file: Schema.String, rows: Natural, tokens: Natural, dataset: Schema.String }),
  ),
  /** Name of the file recommended, and the rule that picked it, in words. */
  picked: Schema.String,
  pick: PickRule,
  rule: Schema.String,
  /** false: no file kept the rule, and `picked` is the one that comes nearest. */
  rule_kept: Schema.Boolean,
  preset: DecodingPreset,
  /** Lines for a shell. */
  commands: Schema.Struct({ llama_cpp: Schema.String, ollama: Schema.String }),
})
export type Quantisation = typeof Quantisation.Type
