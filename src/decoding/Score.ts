/**
 * Which decoding preset writes most like people do (`docs/metrics.md`). For each of log-probability per token under the
 * untempered model, distinct_2 per sample, rep_4 and language consistency
 *
 *     z = |mean(generated) − mean(real)| / sd(real),   score = −mean of the z,
 *
 * where *real* are the documents' own continuations of the same prompts, measured in the same way. Maximising distinct-2 alone picks
 * the hottest preset, minimising loops picks it too; nearness to real text has its best point inside.
 *
 * Presets that complete fewer than 95% of the prompts are ruled out. The choice is made on tuning prompts; holdout prompts only say
 * whether it is confirmed.
 *
 * sd(real) = 0: all real continuations may be in the right language, or free of repeated 4-grams. Then the spread taken is that of a
 * share where one of n + 2 samples differs (Laplace's rule of succession), sqrt(n + 1)/(n + 2): the smallest spread that n samples
 * without any cannot contradict. The same holds within each bootstrap resample.
 */
import { type MeasuredSample, type SampleMetric, sampleUnits, summariseBehaviour } from "../evaluation/Behaviour.ts"
import { bootstrapP, holm, percentileInterval, resampleSums, SAMPLES, type Sums } from "../evaluation/Bootstrap.ts"
import { ALPHA, figure } from "../evaluation/Comparison.ts"
import type { DecodingPreset } from "../model/Decoding.ts"
import { type BehaviourMetric, type DecodingMetric, direction } from "../model/Metric.ts"
import type { LeaderboardRow, Measured } from "../model/Report.ts"

export const TERMS = [
  "log_probability_mean",
  "distinct_2_mean",
  "rep_4",
  "language_consistency_mean",
] as const satisfies ReadonlyArray<SampleMetric>

export const COMPLETION = 0.95

export type Objective = BehaviourMetric | DecodingMetric

export interface PresetSamples {
  readonly preset: DecodingPreset
  /** One a prompt, in the same order for all presets and for the real continuations. */
  readonly samples: ReadonlyArray<MeasuredSample>
}

export interface Leaderboard {
  readonly objective: Objective
  /** Best first; presets ruled out come last. */
  readonly rows: ReadonlyArray<LeaderboardRow>
  /** Mean and standard deviation of each term over the real continuations. */
  readonly reference: Readonly<Record<string, { readonly mean: number; readonly sd: number }>>
  /** The objective on each bootstrap resample of the prompts, the same draws for all; absent for figures of the whole set. */
  readonly replicates: ReadonlyMap<string, Float64Array>
  readonly prompts: number
}

interface Options {
  readonly seed: number
  /** Bootstrap resamples, 10,000 unless told. */
  readonly resamples?: number
}

export const leaderboard = (
  objective: Objective,
  presets: ReadonlyArray<PresetSamples>,
  real: ReadonlyArray<MeasuredSample>,
  { seed, resamples = SAMPLES }: Options,
): Leaderboard => {
  const prompts = real.map(({ id }) => id).join("\n")
  for (const { preset, samples } of presets)
    if (samples.map(({ id }) => id).join("\n") !== prompts)
      throw new Error(`preset ${preset.name} was not sampled on the prompts of the real continuations`)
  const stratum = real.map(({ language }) => language)
  const realColumns = TERMS.map((term) => columnsOf(real, term))
  const columns = [
    ...realColumns.flatMap(({ value, count, square }) => [value, count, square]),
    ...presets.flatMap(({ samples }) =>
      TERMS.flatMap((term) => {
        const { value, count } = columnsOf(samples, term)
        return [value, count]
      }),
    ),
  ]
  const drawn = totals(resampleSums(stratum, columns, { seed, samples: resamples }), resamples)
  const whole = columns.map((column) => Float64Array.of(column.reduce((sum, value) => sum + value, 0)))
  const scoresOf = (index: number, sums: ReadonlyArray<Float64Array>) => {
    const terms = TERMS.map((_, term) => {
      const [realValue, realCount, realSquare] = sums.slice(3 * term, 3 * term + 3)
      const at = 3 * TERMS.length + 2 * (TERMS.length * index + term)
      return zTerm(sums[at]!, sums[at + 1]!, realValue!, realCount!, realSquare!)
    })
    const score = terms[0]!.map((_, sample) => -terms.reduce((sum, term) => sum + term[sample]!, 0) / TERMS.length)
    return { terms, score }
  }
  const replicates = new Map<string, Float64Array>()
  const rows = presets.map(({ preset, samples }, index) => {
    const { terms, score } = scoresOf(index, whole)
    const scores = scoresOf(index, drawn).score
    const ci95 = percentileInterval(scores)
    const metrics: Record<string, Measured> = {
      decoding_score: {
        value: score[0]!,
        ...(ci95 === undefined ? {} : { ci95 }),
        n: real.length,
        unit: "prompts",
      },
      ...summariseBehaviour(samples, { seed, resamples }),
    }
    const values = objective === "decoding_score" ? scores : objectiveReplicates(objective, samples, seed, resamples)
    if (values !== undefined) replicates.set(preset.name, values)
    const ruledOut = !(metrics["completion_rate"]!.value >= COMPLETION)
    return {
      preset: preset.name,
      rank: 0,
      score: ruledOut ? null : score[0]!,
      ruled_out: ruledOut,
      z: Object.fromEntries(TERMS.map((term, position) => [term, terms[position]![0]!])),
      metrics,
    }
  })
  const sign = direction(objective) === "lowest" ? 1 : -1
  const worst = Number.POSITIVE_INFINITY
  const place = ({ metrics }: LeaderboardRow) => {
    const measured = metrics[objective]
    return measured === undefined ? worst : sign * measured.value
  }
  const ordered = rows.toSorted((a, b) => {
    if (a.ruled_out !== b.ruled_out) return a.ruled_out ? 1 : -1
    const completion = b.metrics["completion_rate"]!.value - a.metrics["completion_rate"]!.value
    if (a.ruled_out && completion !== 0) return completion
    const [placeA, placeB] = [place(a), place(b)]
    return placeA === placeB ? 0 : placeA - placeB
  })
  return {
    objective,
    rows: ordered.map((row, index) => ({ ...row, rank: index + 1 })),
    reference: Object.fromEntries(
      TERMS.map((term, position) => {
        const [value, count, square] = whole.slice(3 * position, 3 * position + 3).map((sum) => sum[0]!)
        return [
          term,
          count === 0 ? { mean: 0, sd: 0 } : { mean: value! / count!, sd: deviation(value!, count!, square!) },
        ]
      }),
    ),
    replicates,
    prompts: real.length,
  }
}

/**
 * The z of one term on many resamples at once. Without a single real value there is nothing to be near to, z = 0; without a generated
 * one (no sample in any clear language) the mean is taken as 0, so that silence does not win.
 */
const zTerm = (
  value: Float64Array,
  count: Float64Array,
  realValue: Float64Array,
  realCount: Float64Array,
  realSquare: Float64Array,
): Float64Array =>
  value.map((sum, sample) => {
    const n = realCount[sample]!
    if (n === 0) return 0
    const mean = count[sample] === 0 ? 0 : sum / count[sample]!
    const real = realValue[sample]! / n
    const sd = deviation(realValue[sample]!, n, realSquare[sample]!)
    return Math.abs(mean - real) / (sd > 0 ? sd : Math.sqrt(n + 1) / (n + 2))
  })

/** Sample standard deviation (n − 1) from sums; 0 where rounding alone is left. */
const deviation = (sum: number, n: number, squares: number): number => {
  if (n < 2) return 0
  const left = squares - sum ** 2 / n
  return left <= 1e-12 * squares ? 0 : Math.sqrt(left / (n - 1))
}

const columnsOf = (samples: ReadonlyArray<MeasuredSample>, metric: SampleMetric) => {
  const { numerator, denominator } = sampleUnits(samples, metric)
  return { value: numerator, count: denominator, square: numerator.map((value) => value ** 2) }
}

/** Sums over all strata. */
const totals = (sums: Sums, samples: number): ReadonlyArray<Float64Array> =>
  sums.map((byStratum) => {
    const total = new Float64Array(samples)
    for (const values of byStratum.values()) for (let i = 0; i < samples; i++) total[i]! += values[i]!
    return total
  })

const objectiveReplicates = (
  objective: Objective,
  samples: ReadonlyArray<MeasuredSample>,
  seed: number,
  resamples: number,
): Float64Array | undefined => {
  if (objective === "distinct_2" || objective === "decoding_score") return undefined
  const language = /^language_consistency_(?!mean$)(.+)$/.exec(objective)?.[1]
  const of = language === undefined ? samples : samples.filter((sample) => sample.language === language)
  const metric = (language === undefined ? objective : "language_consistency_mean") as SampleMetric
  const units = sampleUnits(of, metric)
  const [value, count] = totals(
    resampleSums(units.stratum, [units.numerator, units.denominator], { seed, samples: resamples }),
    resamples,
  )
  return value!.map((sum, sample) => sum / count![sample]!)
}

/** Preset to recommend, and whether it met the conditions: where all were ruled out, the one that completes most is taken. */
export const winnerOf = (tuning: Leaderboard): { readonly preset: string; readonly ruledOut: boolean } => {
  const first = tuning.rows[0]
  if (first === undefined) throw new Error("a leaderboard without presets has no winner")
  return { preset: first.preset, ruledOut: first.ruled_out }
}

/**
 * What the holdout says of the preset chosen on tuning. Confirmed: it completes there too, and no other preset is better beyond chance
 * (paired bootstrap over prompts, Holm, 0.05). The choice stays as it is in either case.
 */
export const confirm = (
  tuning: Leaderboard,
  holdout: Leaderboard,
): { readonly confirmed: boolean; readonly words: string } => {
  const { preset: winner, ruledOut } = winnerOf(tuning)
  const { objective } = holdout
  const own = holdout.rows.find(({ preset }) => preset === winner)
  if (own === undefined) return { confirmed: false, words: `${winner} was not sampled on the holdout prompts` }
  const head = headOf(tuning, holdout)
  if (ruledOut)
    return {
      confirmed: false,
      words: `${head}; not confirmed: every preset completed fewer than ${100 * COMPLETION}% of the tuning prompts, so it is only the one that completed most`,
    }
  if (own.ruled_out)
    return {
      confirmed: false,
      words: `${head}; not confirmed: it completes only ${figure(own.metrics["completion_rate"]!.value)} of them, under ${COMPLETION}`,
    }
  const standing = holdout.rows.filter(({ ruled_out }) => !ruled_out)
  const place = standing.indexOf(own) + 1
  const among = `${place === 1 ? "the best" : `number ${place}`} of ${standing.length}`
  const ownDraws = holdout.replicates.get(winner)
  if (ownDraws === undefined)
    return {
      confirmed: place === 1,
      words: `${head}, ${among}; ${place === 1 ? "confirmed" : "not confirmed"}, though ${objective} has no interval`,
    }
  const sign = direction(objective) === "lowest" ? -1 : 1
  const rivals = standing.filter(({ preset }) => preset !== winner)
  const advantage = rivals.map(({ preset }) =>
    holdout.replicates.get(preset)!.map((value, sample) => sign * (value - ownDraws[sample]!)),
  )
  const p = holm(advantage.map(bootstrapP))
  const better = rivals.filter((rival, index) => standing.indexOf(rival) < place - 1 && p[index]! < ALPHA)
  if (better.length === 0)
    return {
      confirmed: true,
      words: `${head}, ${among}; confirmed: ${place === 1 ? "no other preset is better there" : `no preset is better beyond chance (paired over prompts, ${ALPHA} after Holm's correction)`}`,
    }
  const [first] = better
  const interval = percentileInterval(advantage[rivals.indexOf(first!)]!)!
  return {
    confirmed: false,
    words: `${head}, ${among}; not confirmed: ${better.map(({ preset }) => preset).join(", ")} ${better.length === 1 ? "is" : "are"} better there beyond chance (${first!.preset} by [${figure(interval[0])}, ${figure(interval[1])}]); the choice stays, because the holdout is not for choosing`,
  }
}

type Board = Pick<Leaderboard, "objective" | "rows" | "prompts">

const show = (objective: string, { metrics }: LeaderboardRow): string => {
  const measured = metrics[objective]
  if (measured === undefined) return `no ${objective}`
  const { value, ci95 } = measured
  return `${objective} ${figure(value)}${ci95 === undefined ? "" : ` [${figure(ci95[0])}, ${figure(ci95[1])}]`}`
}

/** The first half of what is said of the preset chosen on tuning: its figures. */
const headOf = (tuning: Board, holdout: Board): string => {
  const [first] = tuning.rows
  const own = holdout.rows.find(({ preset }) => preset === first!.preset)!
  return `${first!.preset}, chosen on ${tuning.prompts} tuning prompts (${show(holdout.objective, first!)}), has ${show(holdout.objective, own)} on ${holdout.prompts} holdout prompts`
}

/**
 * Whether words are what `confirm` can have said of these leaderboards. Where another preset did better on the holdout, it takes the
 * real continuations to know whether beyond chance: then either is believed, in the same words.
 */
export const isConfirmation = (
  { confirmed, words }: { readonly confirmed: boolean; readonly words: string },
  tuning: Board,
  holdout: Board,
): boolean => {
  const [first] = tuning.rows
  const own = holdout.rows.find(({ preset }) => preset === first?.preset)
  if (own === undefined) return false
  const standing = holdout.rows.filter(({ ruled_out }) => !ruled_out)
  const place = standing.indexOf(own) + 1
  if (first!.ruled_out || own.ruled_out || place <= 1) {
    // what is best has no rival before it, so that no draw is looked at
    const replicates = new Map(standing.map(({ preset }) => [preset, Float64Array.of(0)]))
    const whole = (board: Board) => ({ ...board, reference: {}, replicates }) as Leaderboard
    const made = confirm(whole(tuning), whole(holdout))
    return made.confirmed === confirmed && made.words === words
  }
  const head = `${headOf(tuning, holdout)}, number ${place} of ${standing.length}; `
  if (!words.startsWith(head)) return false
  const rest = words.slice(head.length)
  if (confirmed)
    return (
      rest === `confirmed: no preset is better beyond chance (paired over prompts, ${ALPHA} after Holm's correction)`
    )
  const before = standing.slice(0, place - 1).map(({ preset }) => preset)
  const [, named, number, rival] =
    /^not confirmed: (.+) (is|are) better there beyond chance \((\S+) by \[-?[\d.e-]+, -?[\d.e-]+\]\); the choice stays, because the holdout is not for choosing$/.exec(
      rest,
    ) ?? []
  const names = named?.split(", ") ?? []
  return (
    names.length > 0 &&
    names[0] === rival &&
    names.every((name) => before.includes(name)) &&
    (names.length === 1) === (number === "is")
  )
}

/**
 * `tuning_leaderboard.csv`, `holdout_leaderboard.csv`: a line a preset, best first; each metric as value, low and high end of its 95%
 * interval, and n. Fields of RFC 4180, lines ended by a line feed.
 */
export const leaderboardCsv = (rows: ReadonlyArray<LeaderboardRow>, presets: ReadonlyArray<DecodingPreset>): string => {
  const metrics = [...new Set(rows.flatMap((row) => Object.keys(row.metrics)))]
  const header = [
    ...["rank", "preset", "score", "ruled_out"],
    ...["do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "no_repeat_ngram_size"],
    ...TERMS.map((term) => `z_${term}`),
    ...metrics.flatMap((metric) => [metric, `${metric}_low`, `${metric}_high`, `${metric}_n`]),
  ]
  const lines = rows.map((row) => {
    const preset = presets.find(({ name }) => name === row.preset)
    return [
      ...[row.rank, row.preset, row.score, row.ruled_out],
      ...[preset?.doSample, preset?.temperature, preset?.topK, preset?.topP],
      ...[preset?.repetitionPenalty, preset?.noRepeatNgramSize],
      ...TERMS.map((term) => row.z[term]),
      ...metrics.flatMap((metric) => {
        const measured = row.metrics[metric]
        return [measured?.value, measured?.ci95?.[0], measured?.ci95?.[1], measured?.n]
      }),
    ]
  })
  return [header, ...lines].map((line) => `${line.map(field).join(",")}\n`).join("")
}

const field = (value: string | number | boolean | null | undefined): string => {
  const text = value === null || value === undefined ? "" : String(value)
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text
}
