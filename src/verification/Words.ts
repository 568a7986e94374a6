/**
 * The sentences that bundles bring with them and the card prints: why the winner won, what the holdout says, what became of the preset.
 * Each is made again from the figures beside it; a sentence that says more, or something else, is nobody's measurement.
 */
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { isConfirmation, type Objective } from "../decoding/Score.ts"
import { measureSample } from "../evaluation/Behaviour.ts"
import { besideInWords } from "../evaluation/Beside.ts"
import { explained } from "../evaluation/Comparison.ts"
import { languageIdentifier } from "../evaluation/Language.ts"
import { direction, type MetricName } from "../model/Metric.ts"
import { GenerationRecord } from "../model/Report.ts"
import { type ReleaseFiles, readLines } from "../release/Folder.ts"
import { type Finding, within } from "./Finding.ts"
import type { Release } from "./Release.ts"

const { ok, wrong } = within("consistency")

const shown = (words: string): string => JSON.stringify(words.length > 200 ? `${words.slice(0, 200)}…` : words)

const measuredIn = Effect.fnUntraced(function* ({ view }: Release, { tokens }: ReleaseFiles) {
  const records = yield* readLines(GenerationRecord, join(view, "behaviour_generations.jsonl"))
  const identify = yield* languageIdentifier(tokens.languages)
  const specials = new Set([tokens.bosId, tokens.eosId, tokens.padId])
  return records.map(({ prompt_id: id, language, token_ids, generated: text, finish }) =>
    measureSample(
      { id, language, tokens: token_ids, text, finish },
      { identify, languages: tokens.languages, specials },
    ),
  )
})

export const checkWords = Effect.fn("verification.checkWords")(function* (release: Release, files: ReleaseFiles) {
  const { benchmark, comparison, decoding, holdout, scores, sourceLosses } = files
  const found: Array<Finding> = []
  const same = (file: string, said: string, made: string) => {
    if (said !== made) found.push(wrong(file, `its words are ${shown(said)}, and follow as ${shown(made)}`))
  }
  const by = comparison.by as MetricName
  if (comparison.direction !== direction(by))
    found.push(wrong("comparison.json", `the best ${by} is the ${direction(by)}`))
  const winner = { scores: scores.documents, samples: yield* measuredIn(release, files) }
  same(
    "comparison.json",
    comparison.words,
    explained({ ...comparison, by }, winner, sourceLosses.sources, benchmark.mix.weights),
  )
  const [before, after] = [benchmark.metrics["val_loss_mixed"], holdout.metrics["val_loss_mixed"]]
  if (before !== undefined && after !== undefined)
    same("holdout.json", holdout.words, besideInWords(holdout.documents.length, { validation: before, holdout: after }))
  const board = (rows: typeof decoding.tuning, prompts: number) => ({
    objective: decoding.objective as Objective,
    rows,
    prompts,
  })
  const [tuning, held] = [
    board(decoding.tuning, decoding.prompts.tuning),
    board(decoding.holdout, decoding.prompts.holdout),
  ]
  if (!isConfirmation(decoding, tuning, held))
    found.push(wrong("decoding_summary.json", `its words are not what its figures say: ${shown(decoding.words)}`))
  return found.length > 0
    ? found
    : [ok("words", "why the winner won, what the holdout says and of the preset: made again from the figures")]
})
