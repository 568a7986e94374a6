/**
 * Which candidate won, and what that is worth (`docs/metrics.md`): the winner is paired with each rival on the same
 * documents (or prompts), 10,000 stratified resamples give the interval and p of the difference, Holm's correction guards against
 * many rivals, and whoever is not told apart at 0.05 is tied with the winner. The winner among ties is the one with the better
 * figure, and the words say that this is all that speaks for it.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { type Direction, direction, isLossMetric, type MetricName } from "../model/Metric.ts"
import type { Comparison, DocumentScore, Interval, Measured, ModelIdentity } from "../model/Report.ts"
import { type MeasuredSample, type SampleMetric, sampleUnits } from "./Behaviour.ts"
import {
  bootstrapP,
  deltaMethodError,
  holm,
  observed,
  percentileInterval,
  ratioOver,
  replicates,
  resampleSums,
  SAMPLES,
  type Statistic,
  type Units,
} from "./Bootstrap.ts"
import { lossStatistic, lossUnits, type SourceRole } from "./Losses.ts"

export class NotComparable extends Schema.TaggedError<NotComparable>()("NotComparable", {
  metric: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `comparison by ${this.metric}: ${this.problem}\n  hint: ${this.hint}`
  }
}

export interface Contender {
  readonly model: ModelIdentity
  readonly metrics: Readonly<Record<string, Measured>>
  readonly scores: ReadonlyArray<DocumentScore>
  readonly samples: ReadonlyArray<MeasuredSample>
}

export interface Difference {
  /** Rival minus winner. */
  readonly value: number
  readonly ci95: Interval
  readonly p: number
  readonly p_holm: number
  /** Standard error by the delta method: where the interval is far from ±1.96 of it, look at the documents. */
  readonly standardError: number
}

/** The differences of all rivals to the winner, in the order of `rivals`; units must be the same and in the same order. */
export const differences = (
  statistic: Statistic,
  winner: Units,
  rivals: ReadonlyArray<Units>,
  options: { readonly seed: number; readonly samples?: number },
): ReadonlyArray<Difference> => {
  const all = [winner, ...rivals]
  const sums = resampleSums(
    winner.stratum,
    all.flatMap(({ numerator, denominator }) => [numerator, denominator]),
    options,
  )
  const [own, ...others] = all.map((_, index) => replicates(statistic, sums[2 * index]!, sums[2 * index + 1]!))
  const value = observed(statistic, winner)
  const drawn = others.map((other) => other.map((one, sample) => one - own![sample]!))
  // a stratum of one unit is drawn as itself every time: it hides its spread, and nothing can be told apart on it
  const alone = [...Map.groupBy(winner.stratum, (name) => name).values()].some((members) => members.length < 2)
  const p = drawn.map((values) => (alone ? 1 : bootstrapP(values)))
  const corrected = holm(p)
  return rivals.map((rival, index) => ({
    value: observed(statistic, rival) - value,
    ci95: percentileInterval(drawn[index]!) ?? [0, 0],
    p: p[index]!,
    p_holm: corrected[index]!,
    standardError: deltaMethodError(statistic, rival, winner),
  }))
}

export const ALPHA = 0.05

/** Candidates best first, each with its difference to the winner. */
export const compare = ({
  by,
  contenders,
  sources,
  weights,
  seed,
  samples = SAMPLES,
}: {
  readonly by: MetricName
  readonly contenders: ReadonlyArray<Contender>
  readonly sources: ReadonlyArray<SourceRole>
  /** Those of `val_loss_mixed`. */
  readonly weights: Readonly<Record<string, number>>
  readonly seed: number
  readonly samples?: number
}): Result.Result<Comparison, NotComparable> => {
  const fail = (problem: string, hint: string) => Result.fail(new NotComparable({ metric: by, problem, hint }))
  if (contenders.length === 0) return fail("there is no candidate", "give `select` at least one scored model")
  const without = contenders.find(({ metrics }) => metrics[by] === undefined)
  if (without !== undefined)
    return fail(
      `${without.model.candidate} has no such figure`,
      `its benchmark has ${Object.keys(without.metrics).join(", ")}`,
    )
  const better = direction(by)
  const sign = better === "lowest" ? 1 : -1
  // sort is stable: of equals the first named wins
  const ranked = contenders.toSorted((a, b) => sign * (a.metrics[by]!.value - b.metrics[by]!.value))
  const parts = ranked.map((contender) => unitsOf(by, contender, sources, weights))
  const first = parts[0]
  const unlike = ranked.find((_, index) => parts[index]?.ids !== first?.ids)
  if (unlike !== undefined)
    return fail(
      `${unlike.model.candidate} was not measured on the same documents or prompts as ${ranked[0]!.model.candidate}`,
      "benchmark all candidates on the same tokens and suite",
    )
  const found =
    first === undefined
      ? undefined
      : differences(
          first.statistic,
          first.units,
          parts.slice(1).map((part) => part!.units),
          { seed, samples },
        )
  const candidates = ranked.map((contender, index) => {
    const difference = index === 0 ? undefined : found?.[index - 1]
    return {
      ...contender.model,
      metrics: contender.metrics,
      winner: index === 0,
      tied: difference !== undefined && difference.p_holm >= ALPHA,
      ...(difference === undefined
        ? {}
        : {
            difference: {
              value: difference.value,
              ci95: difference.ci95,
              p: difference.p,
              p_holm: difference.p_holm,
            },
          }),
    }
  })
  const units = first === undefined ? undefined : { count: first.units.stratum.length, name: first.name }
  return Result.succeed({
    by,
    direction: better,
    candidates,
    bootstrap: { samples, seed },
    words: words(by, better, candidates, units),
  })
}

/** The metric's units of one contender; `undefined` for a figure of the whole set (`distinct_2`), which has no units to draw. */
const unitsOf = (
  by: MetricName,
  { scores, samples }: Pick<Contender, "scores" | "samples">,
  sources: ReadonlyArray<SourceRole>,
  weights: Readonly<Record<string, number>>,
) => {
  if (isLossMetric(by)) {
    const measured = new Set(scores.map(({ source }) => source))
    const found = lossStatistic(
      by,
      sources.filter(({ source }) => measured.has(source)),
      weights,
    )
    if (found === undefined) return undefined
    const used = new Set(found.statistic.terms.flatMap(({ strata }) => strata))
    const ordered = scores
      .filter(({ source }) => used.has(source))
      .toSorted((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0))
    const ids = JSON.stringify(ordered.map(({ id, source, tokens }) => [id, source, tokens]))
    return { statistic: found.statistic, units: lossUnits(ordered, found.of), ids, name: "documents" }
  }
  if (by === "distinct_2" || by === "decoding_score") return undefined
  const language = /^language_consistency_(?!mean$)(.+)$/.exec(by)?.[1]
  const metric = (language === undefined ? by : "language_consistency_mean") as SampleMetric
  const ordered = samples
    .filter((sample) => language === undefined || sample.language === language)
    .toSorted((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0))
  if (ordered.length === 0) return undefined
  const units = sampleUnits(ordered, metric)
  const ids = JSON.stringify(ordered.map(({ id }) => id))
  return { statistic: ratioOver(units.stratum), units, ids, name: "prompts" }
}

/** The words of a comparison, by its figures and what the winner was measured on. */
export const explained = (
  { by, candidates }: Pick<Comparison, "candidates"> & { readonly by: MetricName },
  winner: Pick<Contender, "scores" | "samples">,
  sources: ReadonlyArray<SourceRole>,
  weights: Readonly<Record<string, number>>,
): string => {
  const found = unitsOf(by, winner, sources, weights)
  return words(by, direction(by), candidates, found && { count: found.units.stratum.length, name: found.name })
}

const words = (
  by: string,
  better: Direction,
  candidates: Comparison["candidates"],
  units: { readonly count: number; readonly name: string } | undefined,
): string => {
  const [winner, second] = candidates
  const value = figure(winner!.metrics[by]!.value)
  if (second === undefined) return `${winner!.candidate} is the only candidate: ${by} ${value}`
  const head = `${winner!.candidate} has the ${better} ${by}, ${value}`
  if (units === undefined)
    return `${head}, before ${second.candidate} with ${figure(second.metrics[by]!.value)}; no interval can be given for it, so how sure this is cannot be said`
  const { value: difference, ci95 } = second.difference!
  const margin =
    better === "lowest"
      ? { value: difference, low: ci95[0], high: ci95[1] }
      : { value: -difference, low: -ci95[1], high: -ci95[0] }
  const lead = `${head}, by ${figure(margin.value)} [${figure(margin.low)}, ${figure(margin.high)}] over ${second.candidate} (95% interval, ${units.count} ${units.name})`
  const tied = candidates.filter((candidate) => candidate.tied).map(({ candidate }) => candidate)
  if (tied.length === 0)
    return `${lead}; told apart from ${candidates.length === 2 ? "it" : `all ${candidates.length - 1} rivals`} at ${ALPHA}${candidates.length === 2 ? "" : " after Holm's correction"}`
  return `${lead}; tied with ${tied.join(", ")}: not told apart at ${ALPHA}${candidates.length === 2 ? "" : " after Holm's correction"}, so between these only the better figure decided`
}

/** Four decimals, or two significant digits for what would vanish in them. */
export const figure = (value: number): string =>
  value !== 0 && Math.abs(value) < 0.001 ? value.toPrecision(2) : value.toFixed(4)
