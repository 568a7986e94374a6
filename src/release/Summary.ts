/** Figures that follow from other files of the release: computed here once, written by `Bundle.ts`, computed again by `Consistency.ts`. */
import type { TokensIndex } from "../model/Corpus.ts"
import type {
  BenchmarkMetrics,
  BenchmarkSourceLosses,
  Comparison,
  DecodingSummary,
  HoldoutReport,
  Measured,
  Probes,
} from "../model/Report.ts"
import type { EvalSummary, TrainingConfig } from "./Folder.ts"

/** A member of a record whose keys are names somebody chose: `constructor` is then a name like any other. */
export const own = <A>(record: { readonly [key: string]: A }, key: string): A | undefined =>
  Object.hasOwn(record, key) ? record[key] : undefined

const total = (values: ReadonlyArray<number>): number => values.reduce((sum, value) => sum + value, 0)

export const trainingData = (tokens: TokensIndex, tokensSeen: number): TrainingConfig["data"] => {
  const sources = tokens.sources.filter((source) => source.role === "train")
  const packed = total(sources.map((source) => source.packedTokens))
  const languages = [...new Set(sources.map((source) => source.language))].sort()
  return {
    mix: tokens.mix,
    weights: Object.fromEntries(sources.map(({ source, weight }) => [source, weight])),
    raw_tokens: total(sources.map((source) => source.rawTokens)),
    packed_tokens: packed,
    dropped_tokens: total(sources.map((source) => source.droppedTokens)),
    raw_tokens_by_language: Object.fromEntries(
      languages.map((language) => [
        language,
        total(sources.filter((source) => source.language === language).map((source) => source.rawTokens)),
      ]),
    ),
    epochs: packed === 0 ? 0 : tokensSeen / packed,
  }
}

/** Shares over samples that are whole counts: a mean of ratios (`distinct_2_mean`) is not one. */
const wholeCounts = (metrics: { readonly [name: string]: Measured }): EvalSummary["counts"] => {
  const counts: Array<[string, { count: number; of: number }]> = []
  for (const name of Object.keys(metrics).sort()) {
    const { value, n, unit } = metrics[name]!
    if (n === undefined || unit === undefined || unit === "documents") continue
    const isShare = name.endsWith("_rate") || /^language_consistency_(?!mean$)/.test(name)
    const count = Math.round(value * n)
    if (isShare && Math.abs(value * n - count) < 1e-6) counts.push([name, { count, of: n }])
  }
  return Object.fromEntries(counts)
}

export const evaluationSummary = (files: {
  readonly benchmark: BenchmarkMetrics
  readonly sourceLosses: typeof BenchmarkSourceLosses.Type
  readonly comparison: Comparison
  readonly holdout: HoldoutReport
  readonly decoding: DecodingSummary
  readonly probes: typeof Probes.Type
}): EvalSummary => {
  const { benchmark, comparison, holdout, decoding } = files
  const mixed = files.sourceLosses.sources.filter((source) => source.weight > 0)
  const beside: Array<[string, EvalSummary["validation_beside_holdout"][string]]> = []
  for (const name of Object.keys(benchmark.metrics).sort()) {
    const validation = benchmark.metrics[name]!
    const held = own(holdout.metrics, name)
    if (held !== undefined)
      beside.push([name, { validation, holdout: held, difference: held.value - validation.value }])
  }
  const recommended = decoding.holdout.find((row) => row.preset === decoding.recommended.name)
  return {
    model: benchmark.model,
    by: comparison.by,
    direction: comparison.direction,
    candidates: comparison.candidates.length,
    winner: comparison.candidates.find((candidate) => candidate.winner)?.candidate ?? "",
    tied: comparison.candidates
      .filter((candidate) => candidate.tied && !candidate.winner)
      .map(({ candidate }) => candidate),
    mix: benchmark.mix,
    documents: total(mixed.map((source) => source.documents)),
    tokens: total(mixed.map((source) => source.tokens)),
    validation_beside_holdout: Object.fromEntries(beside),
    counts: wholeCounts(benchmark.metrics),
    decoding_counts: recommended === undefined ? {} : wholeCounts(recommended.metrics),
    probes: {
      first: files.probes.probes.filter((probe) => probe.correct_token_rank === 1).length,
      of: files.probes.probes.length,
    },
  }
}
