/**
 * Whether the files of a release tell one story. Every published figure that follows from others is computed again from them:
 * a figure changed in one file alone is found here, or shows in the card.
 *
 * Figures that are sums over the same numbers in another order may differ in the last bits: they are compared to 1e-6 relative.
 * Learning rates to 1e-5: an engine may count them in fp32.
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import { parameterCount, trainingFlopsPerToken } from "../model/Architecture.ts"
import { canonicalJson } from "../model/Digest.ts"
import { objections } from "../model/License.ts"
import { lrAt } from "../model/LrSchedule.ts"
import type { LeaderboardRow, SourceLoss } from "../model/Report.ts"
import { generationConfig, modelConfig, plain, recommendedDecoding } from "./Export.ts"
import { type FileKey, fileNames, type ReleaseFiles, weightsName } from "./Folder.ts"
import { ReleaseInconsistent, ReleaseInputUnreadable, unreadable } from "./ReleaseError.ts"
import { evaluationSummary, own, trainingData } from "./Summary.ts"
import { sha256OfFile } from "./Sums.ts"
import { readWeightsHeader } from "./Weights.ts"

const near = (a: number, b: number, tolerance = 1e-6): boolean =>
  a === b || Math.abs(a - b) <= tolerance * Math.max(Math.abs(a), Math.abs(b))

const same = (a: unknown, b: unknown): boolean => canonicalJson(a) === canonicalJson(b)

/** All disagreements between decoded files; pure, so that it can be tried on any change of any figure. */
export const disagreements = (files: ReleaseFiles): ReadonlyArray<ReleaseInconsistent> => {
  const found: Array<ReleaseInconsistent> = []
  const names = fileNames(files.release)
  const expect = (holds: boolean, first: FileKey, second: FileKey, problem: string) => {
    if (!holds) found.push(new ReleaseInconsistent({ first: names[first], second: names[second], problem }))
  }
  const { release, training, state, tokens, benchmark, comparison, holdout, decoding, evaluation } = files

  // What was trained.
  const { architecture } = training
  expect(same(architecture, state.architecture), "training", "state", "architecture")
  expect(same(training.schedule, state.schedule), "training", "state", "schedule")
  expect(same(training.optimizer, state.optimizer), "training", "state", "optimizer")
  expect(same(training.engine, state.engine), "training", "state", "engine")
  expect(training.seed === state.seed, "training", "state", "seed")
  expect(training.rows_per_step === state.rowsPerStep, "training", "state", "rows per step")
  expect(training.released_step === state.step, "training", "state", "released step")
  expect(training.tokens_seen === state.tokensSeen, "training", "state", "tokens seen")
  expect(state.rowCursor === state.step * state.rowsPerStep, "training", "state", "rows consumed")
  expect(training.parameters === parameterCount(architecture), "training", "config", "parameters")
  expect(architecture.context === tokens.context, "training", "tokens", "context")
  expect(architecture.vocabulary === tokens.vocabulary, "training", "tokens", "vocabulary")
  expect(release.released_step === training.released_step, "release", "training", "released step")
  expect(release.parent_step === training.parent_step, "release", "training", "parent step")
  const { schedule } = training
  expect(
    schedule.decay === undefined
      ? training.decay_steps === 0
      : training.decay_steps === schedule.decay.steps && training.parent_step === schedule.decay.startStep,
    "training",
    "state",
    "the decay's first step and length",
  )
  const decayed = training.released_step - training.parent_step
  expect(
    decayed >= 0 && decayed <= training.decay_steps,
    "release",
    "training",
    "released step lies outside of the decay",
  )

  // Steps × rows × context = tokens.
  expect(
    training.tokens_per_step === training.rows_per_step * architecture.context,
    "training",
    "state",
    "tokens per step",
  )
  expect(training.tokens_seen === training.released_step * training.tokens_per_step, "training", "state", "tokens seen")
  expect(
    training.tokens_stable === training.parent_step * training.tokens_per_step,
    "training",
    "state",
    "stable tokens",
  )
  expect(training.tokens_decay === training.tokens_seen - training.tokens_stable, "training", "state", "decay tokens")
  expect(
    training.training_flops === trainingFlopsPerToken(architecture) * training.tokens_seen,
    "training",
    "state",
    "floating-point operations",
  )
  expect(
    release.license_override !== null || objections(release.license, files.inventory.sources).length === 0,
    "release",
    "inventory",
    `${release.license} is not possible for these texts, and no reason is written`,
  )
  expect(
    same(training.data, trainingData(tokens, training.tokens_seen)),
    "training",
    "tokens",
    "token counts of the data",
  )
  for (const row of tokens.sources) {
    const inventory = files.inventory.sources.find(({ source }) => source === row.source)
    expect(
      inventory !== undefined && inventory.language === row.language && inventory.role === row.role,
      "tokens",
      "inventory",
      `source ${row.source}`,
    )
    if (row.role !== "train") continue
    expect(
      row.rawTokens === row.packedTokens + row.droppedTokens,
      "tokens",
      "inventory",
      `${row.source}: raw = packed + dropped`,
    )
    expect(row.rows === Math.floor(row.packedTokens / tokens.context), "tokens", "inventory", `${row.source}: rows`)
  }
  const weight = tokens.sources.reduce((sum, row) => sum + row.weight, 0)
  expect(near(weight, 1), "tokens", "inventory", `training weights sum to ${weight}`)

  // What transformers reads.
  expect(same(files.config, plain(modelConfig(architecture, tokens))), "config", "training", "the model's shape or ids")
  expect(
    same(files.generation, plain(generationConfig(files.recommended, tokens))),
    "generation",
    "recommended",
    "decoding settings",
  )
  expect(files.tokenizerConfig.model_max_length === tokens.context, "tokenizerConfig", "tokens", "context")
  expect(
    files.recommended.max_new_tokens < tokens.context,
    "recommended",
    "tokens",
    "more new tokens than the context holds",
  )

  // Who the reports are about.
  const identity = benchmark.model
  expect(identity.step === training.released_step, "benchmark", "training", "released step")
  expect(identity.parent_step === training.parent_step, "benchmark", "training", "parent step")
  expect(identity.tokens_seen === training.tokens_seen, "benchmark", "training", "tokens seen")
  expect(identity.parameters === training.parameters, "benchmark", "training", "parameters")
  for (const key of ["sourceLosses", "scores", "probes", "holdout", "evaluation"] as const)
    expect(same(files[key].model, identity), key, "benchmark", "the model it is about")

  const { quantisation } = files
  if (quantisation !== undefined) {
    expect(same(quantisation.model, identity), "quantisation", "benchmark", "the model it is about")
    expect(same(quantisation.preset, decoding.recommended), "quantisation", "decoding", "the recommended preset")
    expect(
      quantisation.files.some(({ file }) => file === quantisation.picked),
      "quantisation",
      "release",
      `${quantisation.picked} is recommended, and none of its files`,
    )
    for (const { file, losses } of quantisation.files)
      for (const [texts, { ppl }] of Object.entries(losses))
        expect(ppl.value >= 1, "quantisation", "release", `${file}, ${texts}: a perplexity below 1`)
  }

  // Losses, perplexities, mixes.
  const mixes = (key: "benchmark" | "holdout", sources: ReadonlyArray<SourceLoss>, beside: FileKey) => {
    const { metrics } = files[key]
    const value = (name: string): number | undefined => own(metrics, name)?.value
    const mixed = value("val_loss_mixed")
    expect(mixed !== undefined, key, beside, "there is no val_loss_mixed")
    const sum = sources.reduce((total, { weight, loss }) => total + weight * loss, 0)
    if (mixed !== undefined)
      expect(near(mixed, sum), key, beside, `val_loss_mixed ${mixed} is not the weighted sum ${sum}`)
    for (const { source, loss, perplexity, ci95 } of sources) {
      expect(near(perplexity, Math.exp(loss)), beside, key, `${source}: perplexity is not exp(loss)`)
      expect(ci95[0] <= ci95[1], beside, key, `${source}: interval`)
    }
    for (const name of Object.keys(metrics)) {
      const measured = metrics[name]!
      if (measured.ci95 !== undefined) expect(measured.ci95[0] <= measured.ci95[1], key, beside, `${name}: interval`)
      if (!name.startsWith("ppl_")) continue
      const loss = value(`val_loss_${name.slice("ppl_".length)}`)
      if (loss !== undefined) expect(near(measured.value, Math.exp(loss)), key, beside, `${name} is not exp(loss)`)
    }
    for (const language of new Set(sources.map((source) => source.language))) {
      const own = sources.filter((source) => source.language === language && source.role === "train")
      const targets = own.reduce((total, source) => total + source.tokens, 0)
      const reported = value(`val_loss_${language}`)
      if (reported === undefined || targets === 0) continue
      const mean = own.reduce((total, source) => total + source.loss * source.tokens, 0) / targets
      expect(near(reported, mean), key, beside, `val_loss_${language} ${reported} is not ${mean}`)
    }
  }
  mixes("benchmark", files.sourceLosses.sources, "sourceLosses")
  mixes("holdout", holdout.sources, "holdout")
  for (const source of files.sourceLosses.sources) {
    const weight = own(benchmark.mix.weights, source.source) ?? 0
    expect(near(source.weight, weight), "sourceLosses", "benchmark", `${source.source}: weight`)
    // Per-document scores add up to the loss of their source.
    const documents = files.scores.documents.filter((document) => document.source === source.source)
    if (documents.length === 0) {
      expect(source.weight === 0, "sourceLosses", "scores", `${source.source}: no document is scored`)
      continue
    }
    const sum = { nll: 0, textNll: 0, tokens: 0, bytes: 0 }
    for (const document of documents) {
      sum.nll += document.nll
      sum.textNll += document.text_nll
      sum.tokens += document.tokens
      sum.bytes += document.bytes
    }
    const counts = source.documents === documents.length && source.tokens === sum.tokens && source.bytes === sum.bytes
    expect(counts, "sourceLosses", "scores", `${source.source}: documents, tokens or bytes`)
    expect(near(source.loss, sum.nll / sum.tokens), "sourceLosses", "scores", `${source.source}: loss`)
    expect(
      near(source.bits_per_byte, sum.textNll / (Math.LN2 * sum.bytes)),
      "sourceLosses",
      "scores",
      `${source.source}: bits per byte`,
    )
  }
  for (const probe of files.probes.probes) {
    const single =
      probe.target_tokens !== 1 || near(probe.perplexity_on_target_sequence, 1 / probe.correct_token_probability, 1e-4)
    expect(single, "probes", "probes", `${probe.prompt}: perplexity of one token is not 1 / probability`)
  }

  // The choice.
  const winners = comparison.candidates.filter((candidate) => candidate.winner)
  const winner = winners[0]
  expect(winners.length === 1, "comparison", "release", `${winners.length} winners`)
  if (winner !== undefined) {
    expect(
      winner.step === training.released_step && winner.parent_step === training.parent_step,
      "comparison",
      "training",
      "winner step",
    )
    expect(winner.tokens_seen === training.tokens_seen, "comparison", "training", "tokens seen")
    expect(winner.parameters === training.parameters, "comparison", "training", "parameters")
    expect(winner.candidate === identity.candidate, "comparison", "benchmark", "the winner's name")
    for (const name of new Set([comparison.by, ...Object.keys(winner.metrics)]))
      expect(
        same(own(winner.metrics, name) ?? null, own(benchmark.metrics, name) ?? null),
        "comparison",
        "benchmark",
        `the winner's ${name}`,
      )
  }
  for (const candidate of comparison.candidates) {
    if (candidate.winner || comparison.by !== "val_loss_mixed" || candidate.difference === undefined) continue
    const distance =
      (own(candidate.metrics, comparison.by)?.value ?? Number.NaN) -
      (own(winner?.metrics ?? {}, comparison.by)?.value ?? Number.NaN)
    const agrees = Math.abs(candidate.difference.value - distance) <= 1e-6
    expect(agrees, "comparison", "benchmark", `${candidate.candidate}: difference is not ${distance}`)
    expect(
      candidate.tied === candidate.difference.p_holm >= 0.05,
      "comparison",
      "benchmark",
      `${candidate.candidate}: tied`,
    )
  }
  expect(same(evaluation, evaluationSummary(files)), "evaluation", "benchmark", "the summary of these reports")

  // Decoding.
  expect(
    same(files.recommended, recommendedDecoding(decoding.recommended, decoding.max_new_tokens)),
    "recommended",
    "decoding",
    "the recommended preset",
  )
  expect(
    decoding.presets.some((preset) => same(preset, decoding.recommended)),
    "decoding",
    "recommended",
    "the recommended preset is not among those judged",
  )
  // Where every preset was ruled out, the first of these is the one that completed most.
  const first = decoding.tuning[0]
  expect(first?.preset === decoding.recommended.name, "decoding", "recommended", "the first of the tuning leaderboard")
  expect(decoding.prompts.tuning === files.prompts.tuning.length, "decoding", "prompts", "tuning prompts")
  expect(decoding.prompts.holdout === files.prompts.holdout.length, "decoding", "prompts", "holdout prompts")
  const generated = (key: "tuningGenerations" | "holdoutGenerations", rows: ReadonlyArray<LeaderboardRow>) => {
    const judged = new Set(rows.map((row) => row.preset))
    for (const record of files[key]) {
      if (judged.has(record.preset)) continue
      expect(false, key, "decoding", `preset ${record.preset} has no line in the leaderboard`)
      return
    }
  }
  generated("tuningGenerations", decoding.tuning)
  generated("holdoutGenerations", decoding.holdout)

  // The model's own history.
  for (const line of files.steps) {
    const place = `step ${line.step}`
    expect(line.tokens_seen === line.step * training.tokens_per_step, "steps", "training", `${place}: tokens seen`)
    expect(near(line.lr, lrAt(schedule, line.step - 1), 1e-5), "steps", "training", `${place}: learning rate`)
    expect((line.phase === "decay") === line.step > training.parent_step, "steps", "training", `${place}: phase`)
  }
  for (const line of files.validations) {
    const place = `validation after step ${line.step}`
    expect(
      line.tokens_seen === line.step * training.tokens_per_step,
      "validations",
      "training",
      `${place}: tokens seen`,
    )
    const sum = Object.entries(line.weights).reduce(
      (total, [source, w]) => total + w * (own(line.source_loss, source) ?? Number.NaN),
      0,
    )
    expect(
      near(line.val_loss_mixed, sum),
      "validations",
      "validations",
      `${place}: val_loss_mixed is not the weighted sum`,
    )
    expect(line.val_loss_mixed >= files.best.val_loss_mixed, "best", "validations", `${place} was better`)
  }
  expect(
    files.validations.some((line) => same(line, files.best)),
    "best",
    "validations",
    "the best validation is not among them",
  )
  return found
}

/**
 * A leaderboard as a table says what the summary says: by every column whose name is one of the summary's. Numbers are compared,
 * other columns are left to whoever writes the table.
 */
const checkLeaderboard = Effect.fnUntraced(function* (
  folder: string,
  file: string,
  rows: ReadonlyArray<LeaderboardRow>,
  summary: string,
) {
  const fs = yield* FileSystem.FileSystem
  const text = yield* fs.readFileString(`${folder}/${file}`).pipe(unreadable(`${folder}/${file}`))
  const [head, ...lines] = csvCells(text)
  const refuse = (problem: string) => new ReleaseInconsistent({ first: file, second: summary, problem })
  const preset = head?.indexOf("preset") ?? -1
  if (head === undefined || preset < 0) return yield* refuse("there is no column `preset`")
  if (lines.length !== rows.length) return yield* refuse(`${lines.length} lines for ${rows.length} presets`)
  for (const line of lines) {
    if (line.length !== head.length) return yield* refuse(`a line of ${line.length} cells under ${head.length} columns`)
    const row = rows.find((each) => each.preset === line[preset])
    if (row === undefined) return yield* refuse(`preset ${line[preset]} is not judged`)
    for (const [index, column] of head.entries()) {
      const cell = line[index] ?? ""
      const expected =
        column === "rank"
          ? row.rank
          : column === "score"
            ? row.score
            : (own(row.metrics, column)?.value ??
              (column.startsWith("z_") ? own(row.z, column.slice(2)) : endOfInterval(row, column)))
      if (typeof expected !== "number") continue
      // Tables may be rounded; a figure that was changed is further off than that.
      if (cell.trim() === "" || !near(Number(cell), expected, 1e-3))
        return yield* refuse(`${row.preset}: ${column} is ${cell}, not ${expected}`)
    }
  }
})

/** `<metric>_low`, `<metric>_high`, `<metric>_n`. */
const endOfInterval = (row: LeaderboardRow, column: string): number | undefined => {
  const [, metric, end] = /^(.*)_(low|high|n)$/.exec(column) ?? []
  const measured = metric === undefined ? undefined : own(row.metrics, metric)
  return end === "n" ? measured?.n : measured?.ci95?.[end === "low" ? 0 : 1]
}

const csvCells = (text: string): ReadonlyArray<ReadonlyArray<string>> =>
  text
    .split(/\r?\n/)
    .filter((line) => line !== "")
    .map((line) =>
      Array.from(line.matchAll(/(?:^|,)(?:"((?:[^"]|"")*)"|([^,]*))/g), ([, quoted, bare]) =>
        quoted === undefined ? (bare ?? "") : quoted.replaceAll('""', '"'),
      ),
    )

/** Weights against the facts: their tensors are the architecture's, their bytes those the checkpoint named. */
const checkWeights = Effect.fnUntraced(function* (folder: string, files: ReleaseFiles) {
  const { architecture } = files.training
  const names = fileNames(files.release)
  const native = weightsName(files.release)
  for (const weights of [native, "model.safetensors"]) {
    yield* readWeightsHeader(`${folder}/${weights}`, architecture).pipe(
      Effect.mapError((error) =>
        error instanceof ReleaseInputUnreadable
          ? new ReleaseInconsistent({ first: weights, second: names.training, problem: error.problem })
          : error,
      ),
    )
  }
  if ((yield* sha256OfFile(`${folder}/${native}`)) !== files.state.modelSha256)
    return yield* new ReleaseInconsistent({ first: native, second: names.state, problem: "sha256 of the weights" })
})

export const checkConsistency = Effect.fn("Consistency.check")(function* (
  folder: string,
  files: ReleaseFiles,
): Effect.fn.Return<void, ReleaseInconsistent | ReleaseInputUnreadable, FileSystem.FileSystem> {
  const first = disagreements(files)[0]
  if (first !== undefined) return yield* first
  yield* checkLeaderboard(folder, "tuning_leaderboard.csv", files.decoding.tuning, "decoding_summary.json")
  yield* checkLeaderboard(folder, "holdout_leaderboard.csv", files.decoding.holdout, "decoding_summary.json")
  yield* checkWeights(folder, files)
})
