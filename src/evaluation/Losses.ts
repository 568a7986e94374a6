/**
 * From losses of documents to losses of sources, languages and the mix (`docs/metrics.md`). Logarithms are natural,
 * sums fp64; a loss is Σ nll / Σ tokens over documents, never a mean of means; a perplexity is the exponential of a loss.
 *
 * `val_loss_mixed` weighs sources, not tokens, so it always travels with its weights: 4.80 with English at 0.99 and 4.80 with English
 * at 0.5 are different models. Evaluation-only sources are reported and have weight 0.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { DocumentLoss } from "../engine/Engine.ts"
import type { Role } from "../model/Corpus.ts"
import type { LossMetric } from "../model/Metric.ts"
import type { DocumentScore, Interval, Measured, SourceLoss, ValidationMetrics } from "../model/Report.ts"
import { intervalOf, observed, perplexity, replicates, resampleSums, type Statistic, type Units } from "./Bootstrap.ts"

export interface SourceRole {
  readonly source: string
  readonly language: string
  readonly role: Role
}

/** `source_balanced`: each training source equally; `token`: by its tokens; or weights of one's own by source, made to sum to 1. */
export type Weighting = "source_balanced" | "token" | Readonly<Record<string, number>>

export class LossesIncomplete extends Schema.TaggedError<LossesIncomplete>()("LossesIncomplete", {
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `losses: ${this.problem}\n  hint: ${this.hint}`
  }
}

/** Engine losses joined with what the corpus knows of the documents, in the order of `losses`. */
export const scoreDocuments = (
  losses: ReadonlyArray<DocumentLoss>,
  documents: Iterable<{ readonly id: string; readonly source: string; readonly bytes: number }>,
): Result.Result<ReadonlyArray<DocumentScore>, LossesIncomplete> => {
  const known = new Map(Array.from(documents, (document) => [document.id, document]))
  const scores: Array<DocumentScore> = []
  for (const { id, nll, textNll, tokens } of losses) {
    const document = known.get(id)
    if (document === undefined || !Number.isFinite(nll) || tokens === 0)
      return Result.fail(
        new LossesIncomplete({
          problem:
            document === undefined
              ? `document "${id}" was measured but is not in the corpus`
              : `document "${id}" has loss ${nll} over ${tokens} tokens`,
          hint:
            document === undefined
              ? "measure the documents of the same tokens artifact"
              : "run `exp check` on the checkpoint",
        }),
      )
    scores.push({ id, source: document.source, nll, text_nll: textNll, tokens, bytes: document.bytes })
  }
  return Result.succeed(scores)
}

/** Share of each source in `val_loss_mixed`: sums to 1 over training sources, 0 for the others. */
export const mixWeights = (
  weighting: Weighting,
  sources: ReadonlyArray<SourceRole>,
  scores: ReadonlyArray<DocumentScore>,
): Readonly<Record<string, number>> => {
  const raw = sources.map(({ source, role }) => {
    if (role !== "train") return 0
    if (weighting === "source_balanced") return 1
    if (weighting !== "token") return weighting[source] ?? 0
    return scores.reduce((sum, score) => sum + (score.source === source ? score.tokens : 0), 0)
  })
  const total = raw.reduce((sum, weight) => sum + weight, 0)
  return Object.fromEntries(sources.map(({ source }, index) => [source, raw[index]! / total]))
}

/** How a loss metric is made of documents; `undefined` for a name that these sources do not have. */
export const lossStatistic = (
  metric: LossMetric,
  sources: ReadonlyArray<SourceRole>,
  weights: Readonly<Record<string, number>>,
): { readonly statistic: Statistic; readonly of: "nats" | "bits" } | undefined => {
  const [, kind, name] = /^(val_loss|ppl|bpb|loss)_(.+)$/.exec(metric)!
  const exponential = kind === "ppl"
  const of = kind === "bpb" ? "bits" : "nats"
  if (name === "mixed" && (kind === "val_loss" || kind === "ppl")) {
    const terms = sources.flatMap(({ source }) =>
      (weights[source] ?? 0) > 0 ? [{ weight: weights[source]!, strata: [source] }] : [],
    )
    return { statistic: { terms, exponential }, of }
  }
  const strata = sources
    .filter(({ source, language, role }) => (kind === "loss" ? source === name : language === name && role === "train"))
    .map(({ source }) => source)
  return strata.length === 0 ? undefined : { statistic: { terms: [{ weight: 1, strata }], exponential }, of }
}

/** Documents as units of a loss: nats over tokens, or bits over bytes. */
export const lossUnits = (scores: ReadonlyArray<DocumentScore>, of: "nats" | "bits"): Units => ({
  stratum: scores.map(({ source }) => source),
  numerator: Float64Array.from(scores, (score) => (of === "nats" ? score.nll : score.text_nll / Math.LN2)),
  denominator: Float64Array.from(scores, (score) => (of === "nats" ? score.tokens : score.bytes)),
})

export interface LossSummary {
  /** `val_loss_mixed`, `ppl_mixed`, by language `val_loss_`, `ppl_`, `bpb_`, by source `loss_`. */
  readonly metrics: Readonly<Record<string, Measured>>
  readonly mix: { readonly mode: string; readonly weights: Readonly<Record<string, number>> }
  readonly sources: ReadonlyArray<SourceLoss>
}

export interface LossOptions {
  readonly weighting?: Weighting
  readonly seed: number
  /** Bootstrap resamples, 10,000 unless told. */
  readonly samples?: number
}

export const summariseLosses = (
  scores: ReadonlyArray<DocumentScore>,
  sources: ReadonlyArray<SourceRole>,
  { weighting = "source_balanced", seed, samples }: LossOptions,
): Result.Result<LossSummary, LossesIncomplete> => {
  const weights = mixWeights(weighting, sources, scores)
  const bySource = Map.groupBy(scores, ({ source }) => source)
  const unknown = [...bySource.keys()].find((source) => weights[source] === undefined)
  const missing = sources.find(
    ({ source }) => !(weights[source]! >= 0) || (weights[source]! > 0 && !bySource.has(source)),
  )
  if (unknown !== undefined || missing !== undefined)
    return Result.fail(
      new LossesIncomplete({
        problem:
          unknown !== undefined
            ? `documents of source "${unknown}", which the corpus does not name`
            : bySource.has(missing!.source)
              ? `source "${missing!.source}" has weight ${weights[missing!.source]}`
              : `source "${missing!.source}" has weight ${weights[missing!.source]} in the mix but no document was measured`,
        hint: "every training source needs a weight of at least 0 and, above 0, validation documents",
      }),
    )
  const measured = sources.filter(({ source }) => bySource.has(source))
  const nats = lossUnits(scores, "nats")
  const bits = lossUnits(scores, "bits")
  const [nll, tokens, textBits, bytes] = resampleSums(
    nats.stratum,
    [nats.numerator, nats.denominator, bits.numerator, bits.denominator],
    { seed, ...(samples === undefined ? {} : { samples }) },
  )
  const measure = (metric: LossMetric): Measured & { readonly n: number } => {
    const { statistic, of } = lossStatistic(metric, measured, weights)!
    const units = of === "nats" ? nats : bits
    const draws = of === "nats" ? replicates(statistic, nll!, tokens!) : replicates(statistic, textBits!, bytes!)
    const ci95 = intervalOf(statistic, units.stratum, draws)
    const inside = new Set(statistic.terms.flatMap(({ strata }) => strata))
    const n = scores.reduce((count, { source }) => count + (inside.has(source) ? 1 : 0), 0)
    return { value: observed(statistic, units), ...(ci95 === undefined ? {} : { ci95 }), n, unit: "documents" }
  }
  const languages = [...new Set(measured.filter(({ role }) => role === "train").map(({ language }) => language))]
  const names: ReadonlyArray<LossMetric> = [
    "val_loss_mixed",
    "ppl_mixed",
    ...languages.flatMap((language) => [`val_loss_${language}`, `ppl_${language}`, `bpb_${language}`] as const),
    ...measured.map(({ source }) => `loss_${source}` as const),
  ]
  const metrics = Object.fromEntries(names.map((name) => [name, measure(name)]))
  const sum = (source: string, field: "nll" | "text_nll" | "tokens" | "bytes") =>
    bySource.get(source)!.reduce((total, score) => total + score[field], 0)
  return Result.succeed({
    metrics,
    mix: { mode: typeof weighting === "string" ? weighting : "custom", weights },
    sources: measured.map(({ source, language, role }): SourceLoss => {
      const { value, ci95, n } = metrics[`loss_${source}`]!
      // a single document has no spread to show: the interval is the point, and `documents` says why
      const interval: Interval = ci95 ?? [value, value]
      return {
        source,
        language,
        role,
        weight: weights[source]!,
        loss: value,
        ci95: interval,
        perplexity: perplexity(value),
        bits_per_byte: sum(source, "text_nll") / (Math.LN2 * sum(source, "bytes")),
        documents: n,
        tokens: sum(source, "tokens"),
        bytes: sum(source, "bytes"),
      }
    }),
  })
}

/** One line of `eval_metrics.jsonl`. */
export const validationMetrics = (
  at: { readonly step: number; readonly tokens_seen: number },
  scores: ReadonlyArray<DocumentScore>,
  sources: ReadonlyArray<SourceRole>,
  options: LossOptions,
): Result.Result<ValidationMetrics, LossesIncomplete> =>
  Result.map(summariseLosses(scores, sources, options), ({ metrics, mix, sources: losses }) => {
    const { value, ci95 } = metrics["val_loss_mixed"]!
    const languages = new Set(losses.filter(({ role }) => role === "train").map(({ language }) => language))
    return {
      ...at,
      val_loss_mixed: value,
      ci95: ci95 ?? [value, value],
      val_loss: Object.fromEntries(
        [...languages].map((language) => [language, metrics[`val_loss_${language}`]!.value]),
      ),
      source_loss: Object.fromEntries(losses.map(({ source, loss }) => [source, loss])),
      weights: mix.weights,
      documents: scores.length,
      tokens: scores.reduce((sum, score) => sum + score.tokens, 0),
    }
  })
