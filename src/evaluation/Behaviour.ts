/**
 * How a model behaves when it writes freely (`docs/metrics.md`): on generated tokens only, specials stripped, each sample
 * first, then the set, with n and a 95% interval: Wilson's for shares of samples, the bootstrap's for means.
 *
 * A sample that a question cannot be put to (no bigram, no clear language) has `null` there and is left out of that mean, so that
 * n differs between metrics; `completion_rate` and `undetermined_rate` show how many such samples there were.
 */
import type { BehaviourMetric, DecodingMetric } from "../model/Metric.ts"
import type { Interval, Measured } from "../model/Report.ts"
import { intervalOf, observed, ratioOver, replicates, resampleSums, type Units } from "./Bootstrap.ts"
import { type Identify, UNDETERMINED } from "./Language.ts"

export interface Sample {
  /** Id of the prompt: what pairs the samples of two models or presets. */
  readonly id: string
  /** Language of the prompt. */
  readonly language: string
  readonly tokens: ReadonlyArray<number>
  /** The same decoded, without specials. */
  readonly text: string
  readonly finish: "eos" | "length"
  /** Sum over all generated tokens under the untempered model, nats. */
  readonly logProbability?: number
}

/** What each sample says of each metric: 0 or 1 for rates, a share for means, `null` where the question cannot be put. */
export type SampleMetric = Exclude<BehaviourMetric, "distinct_2" | `language_consistency_${string}`> | SampleOnly
type SampleOnly = "language_consistency_mean" | Extract<DecodingMetric, "log_probability_mean">

export interface MeasuredSample {
  readonly id: string
  readonly language: string
  /** A declared language or "undetermined". */
  readonly detected: string
  /** Generated tokens without specials. */
  readonly content: ReadonlyArray<number>
  readonly measures: Readonly<Record<SampleMetric, number | null>>
}

export const measureSample = (
  sample: Sample,
  {
    identify,
    languages,
    specials,
  }: { readonly identify: Identify; readonly languages: ReadonlyArray<string>; readonly specials: ReadonlySet<number> },
): MeasuredSample => {
  const content = sample.tokens.filter((id) => !specials.has(id))
  const detected = identify(sample.text)
  const repeated = repeatedShare(content, 4)
  return {
    id: sample.id,
    language: sample.language,
    detected,
    content,
    measures: {
      loop_rate: tailLoop(content) === undefined ? 0 : 1,
      repeated_4gram_rate: repeated !== null && repeated > 0 ? 1 : 0,
      rep_4: repeated,
      distinct_2_mean: distinctShare(content, 2),
      completion_rate: content.length >= 8 && sample.text.trim() !== "" ? 1 : 0,
      eos_rate: sample.finish === "eos" ? 1 : 0,
      sentence_end_rate: /[.!?…]["'”’»)\]]*$/u.test(sample.text.trimEnd()) ? 1 : 0,
      language_consistency_mean: detected === UNDETERMINED ? null : detected === sample.language ? 1 : 0,
      language_switch_rate_mean: switchShare(sample.text, sample.language, identify, languages),
      undetermined_rate: detected === UNDETERMINED ? 1 : 0,
      log_probability_mean:
        sample.logProbability === undefined || sample.tokens.length === 0
          ? null
          : sample.logProbability / sample.tokens.length,
    },
  }
}

/** At least 3 copies of a period of at most 32 tokens, together at least 12, at the very end. The shortest period, and its copies. */
export const tailLoop = (
  tokens: ArrayLike<number>,
): { readonly period: number; readonly repeats: number } | undefined => {
  for (let period = 1; period <= 32; period++) {
    let matched = 0
    while (
      matched + period < tokens.length &&
      tokens[tokens.length - 1 - matched] === tokens[tokens.length - 1 - matched - period]
    )
      matched++
    const repeats = Math.floor(matched / period) + 1
    if (repeats >= 3 && repeats * period >= 12) return { period, repeats }
  }
  return undefined
}

/** Unique n-grams over all n-grams of one text; `null` without any. */
export const distinctShare = (tokens: ReadonlyArray<number>, n: number): number | null => {
  const total = tokens.length - n + 1
  return total < 1 ? null : ngrams(tokens, n).size / total
}

/** 1 − unique/total n-grams; `null` without any. */
export const repeatedShare = (tokens: ReadonlyArray<number>, n: number): number | null => {
  const total = tokens.length - n + 1
  return total < 1 ? null : (total - ngrams(tokens, n).size) / total
}

/** Unique n-grams over all n-grams of a set of texts; none spans two texts. */
export const corpusDistinctShare = (texts: ReadonlyArray<ReadonlyArray<number>>, n: number): number | null => {
  const total = texts.reduce((sum, tokens) => sum + Math.max(0, tokens.length - n + 1), 0)
  const unique = new Set<string>()
  for (const tokens of texts) for (const ngram of ngrams(tokens, n)) unique.add(ngram)
  return total === 0 ? null : unique.size / total
}

const ngrams = (tokens: ReadonlyArray<number>, n: number): ReadonlySet<string> => {
  const seen = new Set<string>()
  for (let start = 0; start + n <= tokens.length; start++) seen.add(tokens.slice(start, start + n).join(" "))
  return seen
}

const WINDOW = 12
const STRIDE = 6

/** Share of 12-word windows (stride 6) that are in another declared language; `null` for fewer than 12 words. */
const switchShare = (
  text: string,
  language: string,
  identify: Identify,
  languages: ReadonlyArray<string>,
): number | null => {
  const words = text.split(/\s+/u).filter((word) => word !== "")
  let windows = 0
  let switched = 0
  for (let start = 0; start + WINDOW <= words.length; start += STRIDE) {
    const found = identify(words.slice(start, start + WINDOW).join(" "))
    windows++
    if (found !== language && languages.includes(found)) switched++
  }
  return windows === 0 ? null : switched / windows
}

const rates: ReadonlySet<SampleMetric> = new Set([
  "loop_rate",
  "repeated_4gram_rate",
  "completion_rate",
  "eos_rate",
  "sentence_end_rate",
  "language_consistency_mean",
  "undetermined_rate",
])

/** All behaviour metrics of a set of samples, and `language_consistency_<lang>`; those without a single sample are absent. */
export const summariseBehaviour = (
  samples: ReadonlyArray<MeasuredSample>,
  { seed, resamples }: { readonly seed: number; readonly resamples?: number },
): Readonly<Record<string, Measured>> => {
  const metrics = Object.keys(samples[0]?.measures ?? {}) as ReadonlyArray<SampleMetric>
  const stratum = samples.map(({ language }) => language)
  const means = metrics
    .filter((metric) => !rates.has(metric))
    .map((metric) => [metric, sampleUnits(samples, metric)] as const)
  const sums = resampleSums(
    stratum,
    means.flatMap(([, { numerator, denominator }]) => [numerator, denominator]),
    { seed, ...(resamples === undefined ? {} : { samples: resamples }) },
  )
  const statistic = ratioOver(stratum)
  const summary: Record<string, Measured> = {}
  for (const [index, [metric, units]] of means.entries()) {
    const n = total(units.denominator)
    if (n === 0) continue
    const ci95 = intervalOf(statistic, stratum, replicates(statistic, sums[2 * index]!, sums[2 * index + 1]!))
    summary[metric] = {
      value: observed(statistic, units),
      ...(ci95 === undefined ? {} : { ci95 }),
      n,
      unit: "samples",
    }
  }
  const rate = (name: string, metric: SampleMetric, of: ReadonlyArray<MeasuredSample>) => {
    const units = sampleUnits(of, metric)
    const n = total(units.denominator)
    if (n === 0) return
    const count = total(units.numerator)
    summary[name] = { value: count / n, ci95: wilson(count, n), n, unit: "samples" }
  }
  for (const metric of metrics) if (rates.has(metric)) rate(metric, metric, samples)
  for (const [language, of] of Map.groupBy(samples, (sample) => sample.language))
    rate(`language_consistency_${language}`, "language_consistency_mean", of)
  // of the whole set at once: no mean over samples, so no interval over them
  const distinct = corpusDistinctShare(
    samples.map(({ content }) => content),
    2,
  )
  if (distinct !== null) summary["distinct_2"] = { value: distinct, n: samples.length, unit: "samples" }
  return summary
}

const total = (values: Float64Array): number => values.reduce((sum, value) => sum + value, 0)

/** Samples as units of a metric, in strata of the prompt's language. */
export const sampleUnits = (samples: ReadonlyArray<MeasuredSample>, metric: SampleMetric): Units => ({
  stratum: samples.map(({ language }) => language),
  numerator: Float64Array.from(samples, ({ measures }) => measures[metric] ?? 0),
  denominator: Float64Array.from(samples, ({ measures }) => (measures[metric] === null ? 0 : 1)),
})

/** Wilson's 95% interval of a share: (p + z²/2n ± z·sqrt(p(1−p)/n + z²/4n²))/(1 + z²/n). */
export const wilson = (successes: number, n: number): Interval => {
  const z = 1.959963984540054
  const p = successes / n
  const centre = p + z ** 2 / (2 * n)
  const half = z * Math.sqrt((p * (1 - p)) / n + z ** 2 / (4 * n ** 2))
  const scale = 1 + z ** 2 / n
  // at 0 and n of n the bound is exact, and rounding must not carry it past
  return [
    successes === 0 ? 0 : Math.max(0, (centre - half) / scale),
    successes === n ? 1 : Math.min(1, (centre + half) / scale),
  ]
}
