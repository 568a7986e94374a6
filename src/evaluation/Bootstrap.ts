/**
 * Intervals and tests by the stratified bootstrap (`docs/metrics.md`): whole units, documents or prompts, are drawn with
 * replacement within their stratum (source or language), never tokens, because the tokens of a document are not independent.
 *
 * Every statistic here is f(Σ_k w_k · Σ numerator / Σ denominator): source losses, mixes of them, rates, means. So a resample is
 * fully described by its sums per stratum, and these are all that is computed 10,000 times.
 *
 * Draws come from Philox by (seed, stratum, position): the same units in the same order give the same draws for every contender,
 * which pairs them, and a further source changes nothing for the others.
 */
import { philox, stream } from "../model/Random.ts"
import type { Interval } from "../model/Report.ts"

export const SAMPLES = 10_000

/** Units of measurement: `stratum[i]` is where unit i is drawn from. */
export interface Units {
  readonly stratum: ReadonlyArray<string>
  readonly numerator: Float64Array
  readonly denominator: Float64Array
}

export interface Statistic {
  readonly terms: ReadonlyArray<{ readonly weight: number; readonly strata: ReadonlyArray<string> }>
  /** exp of the weighted sum: a perplexity. */
  readonly exponential: boolean
}

/** One ratio over all units. */
export const ratioOver = (strata: Iterable<string>): Statistic => ({
  terms: [{ weight: 1, strata: [...new Set(strata)] }],
  exponential: false,
})

/** exp of a loss; a diverged model's is held at the largest number there is, because JSON has no infinity. */
export const perplexity = (loss: number): number => Math.min(Number.MAX_VALUE, Math.exp(loss))

/** Sums over each resample: for column c and stratum s, `sums[c].get(s)` is [samples]. */
export type Sums = ReadonlyArray<ReadonlyMap<string, Float64Array>>

export const resampleSums = (
  stratum: ReadonlyArray<string>,
  columns: ReadonlyArray<Float64Array>,
  { samples = SAMPLES, seed }: { readonly samples?: number; readonly seed: number },
): Sums => {
  const sums = columns.map(() => new Map<string, Float64Array>())
  for (const [name, members] of membersOf(stratum)) {
    const size = members.length
    const local = columns.map((column) => Float64Array.from(members, (i) => column[i]!))
    const out = columns.map(() => new Float64Array(samples))
    const random = stream(seed, `bootstrap:${name}`)
    const key = [random.word(0), random.word(1)] as const
    const counts = new Uint32Array(size)
    let block = 0
    for (let sample = 0; sample < samples; sample++) {
      counts.fill(0)
      for (let drawn = 0; drawn < size; drawn += 4) {
        const [a, b, c, d] = philox([block++, 0, 0, 0], key)
        counts[Math.floor((a * size) / 2 ** 32)]!++
        if (drawn + 1 < size) counts[Math.floor((b * size) / 2 ** 32)]!++
        if (drawn + 2 < size) counts[Math.floor((c * size) / 2 ** 32)]!++
        if (drawn + 3 < size) counts[Math.floor((d * size) / 2 ** 32)]!++
      }
      for (let column = 0; column < local.length; column++) {
        const values = local[column]!
        let sum = 0
        for (let i = 0; i < size; i++) sum += counts[i]! * values[i]!
        out[column]![sample] = sum
      }
    }
    for (const [column, values] of out.entries()) sums[column]!.set(name, values)
  }
  return sums
}

/** A statistic on every resample, [samples]; NaN where a denominator was zero. */
export const replicates = (
  statistic: Statistic,
  numerator: ReadonlyMap<string, Float64Array>,
  denominator: ReadonlyMap<string, Float64Array>,
): Float64Array => {
  const samples = numerator.values().next().value?.length ?? 0
  const total = new Float64Array(samples)
  for (const { weight, strata } of statistic.terms) {
    const above = strata.map((name) => numerator.get(name)!)
    const below = strata.map((name) => denominator.get(name)!)
    for (let sample = 0; sample < samples; sample++) {
      let sumAbove = 0
      let sumBelow = 0
      for (let s = 0; s < above.length; s++) {
        sumAbove += above[s]![sample]!
        sumBelow += below[s]![sample]!
      }
      total[sample]! += (weight * sumAbove) / sumBelow
    }
  }
  return statistic.exponential ? total.map(perplexity) : total
}

/** The statistic on the units themselves. */
export const observed = (statistic: Statistic, units: Units): number => {
  const members = membersOf(units.stratum)
  let total = 0
  for (const { weight, strata } of statistic.terms) {
    let above = 0
    let below = 0
    for (const name of strata)
      for (const i of members.get(name) ?? []) {
        above += units.numerator[i]!
        below += units.denominator[i]!
      }
    total += (weight * above) / below
  }
  return statistic.exponential ? perplexity(total) : total
}

/** 95% percentile interval, or nothing where a stratum has a single unit and so says nothing of its spread. */
export const intervalOf = (
  statistic: Statistic,
  stratum: ReadonlyArray<string>,
  values: Float64Array,
): Interval | undefined => {
  const members = membersOf(stratum)
  const alone = statistic.terms.some(
    ({ weight, strata }) =>
      weight !== 0 && strata.reduce((count, name) => count + (members.get(name)?.length ?? 0), 0) < 2,
  )
  return alone ? undefined : percentileInterval(values)
}

/** 2.5th and 97.5th percentile, linearly interpolated; resamples without a value are left out. */
export const percentileInterval = (values: Float64Array): Interval | undefined => {
  const sorted = values.filter((value) => Number.isFinite(value)).sort()
  return sorted.length === 0 ? undefined : [quantile(sorted, 0.025), quantile(sorted, 0.975)]
}

const quantile = (sorted: Float64Array, share: number): number => {
  const position = share * (sorted.length - 1)
  const low = Math.floor(position)
  const high = Math.min(sorted.length - 1, low + 1)
  return sorted[low]! + (sorted[high]! - sorted[low]!) * (position - low)
}

/** Two-sided bootstrap p of "no difference": 2·min(#D* ≥ 0 + 1, #D* ≤ 0 + 1)/(B + 1), at most 1. */
export const bootstrapP = (differences: Float64Array): number => {
  let above = 0
  let below = 0
  let counted = 0
  for (const difference of differences) {
    if (Number.isNaN(difference)) continue
    counted++
    if (difference >= 0) above++
    if (difference <= 0) below++
  }
  return Math.min(1, (2 * (Math.min(above, below) + 1)) / (counted + 1))
}

/** Holm's step-down correction, in the order given. */
export const holm = (p: ReadonlyArray<number>): ReadonlyArray<number> => {
  const corrected = new Array<number>(p.length).fill(1)
  let floor = 0
  const order = p.map((_, index) => index).sort((a, b) => p[a]! - p[b]!)
  for (const [position, index] of order.entries()) {
    floor = Math.max(floor, Math.min(1, p[index]! * (p.length - position)))
    corrected[index] = floor
  }
  return corrected
}

/**
 * Standard error of statistic(a) − statistic(b) by the delta method, the cross-check of the bootstrap: each unit's influence
 * f′·w·(numerator − ratio·denominator)/Σ denominator, differences of influences between a and b, variance of their sum within strata.
 * For one source this is sqrt(Σ((S^a−S^b) − Δ·T)² · n/(n−1))/ΣT.
 */
export const deltaMethodError = (statistic: Statistic, a: Units, b: Units): number => {
  const influenceA = influence(statistic, a)
  const influenceB = influence(statistic, b)
  let variance = 0
  for (const members of membersOf(a.stratum).values()) {
    const n = members.length
    const differences = members.map((i) => influenceA[i]! - influenceB[i]!)
    const mean = differences.reduce((sum, value) => sum + value, 0) / n
    variance += (n / (n - 1)) * differences.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  }
  return Math.sqrt(variance)
}

const influence = (statistic: Statistic, units: Units): Float64Array => {
  const out = new Float64Array(units.stratum.length)
  const slope = statistic.exponential ? observed(statistic, units) : 1
  for (const { weight, strata } of statistic.terms) {
    const inside = new Set(strata)
    const members = units.stratum.flatMap((name, i) => (inside.has(name) ? [i] : []))
    const below = members.reduce((sum, i) => sum + units.denominator[i]!, 0)
    const ratio = members.reduce((sum, i) => sum + units.numerator[i]!, 0) / below
    for (const i of members) out[i]! += (slope * weight * (units.numerator[i]! - ratio * units.denominator[i]!)) / below
  }
  return out
}

const membersOf = (stratum: ReadonlyArray<string>): ReadonlyMap<string, ReadonlyArray<number>> => {
  const members = new Map<string, Array<number>>()
  for (const [index, name] of stratum.entries()) {
    const list = members.get(name)
    if (list === undefined) members.set(name, [index])
    else list.push(index)
  }
  return members
}
