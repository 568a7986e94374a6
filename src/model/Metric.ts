/**
 * The names under which figures are computed, compared, printed and released, and which way each is better. One meaning a name, told
 * exactly in `docs/metrics.md`:
 *
 * | metric                                        | what                                                                          |
 * |-----------------------------------------------|-------------------------------------------------------------------------------|
 * | `loss_<source>`                               | nats per token of one source                                                  |
 * | `val_loss_<lang>`, `ppl_<lang>`               | the same over the training sources of a language, and its exponential         |
 * | `bpb_<lang>`                                  | bits per UTF-8 byte of text; specials have neither nats nor bytes             |
 * | `val_loss_mixed`, `ppl_mixed`                 | weighted sum of source losses, and its exponential                            |
 * | `loop_rate`, `repeated_4gram_rate`            | share of generated samples that end in a loop, that repeat any token 4-gram   |
 * | `rep_4`                                       | repeated share of a sample's 4-grams, mean over samples                       |
 * | `distinct_2`, `distinct_2_mean`               | distinct share of bigrams: of the whole set; per sample, mean over samples    |
 * | `completion_rate`, `eos_rate`, `sentence_end_rate` | share of samples with at least 8 content tokens; ended by EOS; ended like a sentence |
 * | `language_consistency_<lang>`, `…_mean`       | share of samples in the prompt's language, of those whose language is clear   |
 * | `language_switch_rate_mean`                   | share of 12-word windows in another declared language, mean over samples      |
 * | `undetermined_rate`                           | share of samples whose language is not clear                                  |
 * | `log_probability_mean`                        | nats per generated token under the untempered model, mean over samples        |
 * | `decoding_score`                              | how near to real text a decoding preset writes                                |
 */

const behaviour = {
  loop_rate: "lowest",
  repeated_4gram_rate: "lowest",
  rep_4: "lowest",
  distinct_2: "highest",
  distinct_2_mean: "highest",
  completion_rate: "highest",
  eos_rate: "highest",
  sentence_end_rate: "highest",
  language_consistency_mean: "highest",
  language_switch_rate_mean: "lowest",
  undetermined_rate: "lowest",
} as const

export type BehaviourMetric = keyof typeof behaviour | `language_consistency_${string}`
export type LossMetric = `val_loss_${string}` | `ppl_${string}` | `bpb_${string}` | `loss_${string}`
/** Only a sweep of decoding presets has these. */
export type DecodingMetric = "decoding_score" | "log_probability_mean"
export type MetricName = LossMetric | BehaviourMetric | DecodingMetric

export type Direction = "lowest" | "highest"

/** Which end of a metric is the better one. */
export const direction = (metric: MetricName): Direction => {
  if (metric in behaviour) return behaviour[metric as keyof typeof behaviour]
  if (metric === "decoding_score" || metric === "log_probability_mean") return "highest"
  return metric.startsWith("language_consistency_") ? "highest" : "lowest"
}

export const isLossMetric = (metric: MetricName): metric is LossMetric => /^(val_loss|ppl|bpb|loss)_/.test(metric)

/** Everything a benchmark of these languages and sources reports. `languages`: those with a training source. */
export const metricsOf = ({
  languages,
  sources,
}: {
  readonly languages: ReadonlyArray<string>
  readonly sources: ReadonlyArray<string>
}): ReadonlyArray<LossMetric | BehaviourMetric> => [
  "val_loss_mixed",
  "ppl_mixed",
  ...languages.flatMap((language) => [`val_loss_${language}`, `ppl_${language}`, `bpb_${language}`] as const),
  ...sources.map((source) => `loss_${source}` as const),
  ...(Object.keys(behaviour) as ReadonlyArray<keyof typeof behaviour>),
  ...languages.map((language) => `language_consistency_${language}` as const),
]

/** Everything a decoding sweep may be judged by. */
export const decodingMetricsOf = (
  languages: ReadonlyArray<string>,
): ReadonlyArray<BehaviourMetric | DecodingMetric> => [
  "decoding_score",
  "log_probability_mean",
  ...(Object.keys(behaviour) as ReadonlyArray<keyof typeof behaviour>),
  ...languages.map((language) => `language_consistency_${language}` as const),
]
