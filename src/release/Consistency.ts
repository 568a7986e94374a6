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
import { because } from "../model/Because.ts"
import { canonicalJson } from "../model/Digest.ts"
import { objections } from "../model/License.ts"
import { lrAt } from "../model/LrSchedule.ts"
import type { LeaderboardRow, QuantisationLoss, SourceLoss } from "../model/Report.ts"
import { generationConfig, kindOf, modelConfig, plain, recommendedDecoding } from "./Export.ts"
import { type FileKey, fileNames, type ReleaseFiles, weightsName } from "./Folder.ts"
import { llamaCommand, modelfile, type Usage } from "./gguf/About.ts"
import { pickFile } from "./gguf/Pick.ts"
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
  const { block_type: kind, tied_head: tied } = training
  expect(same({ block_type: kind, tied_head: tied }, kindOf(architecture)), "training", "config", "the kind of model")
  expect(architecture.context === tokens.context, "training", "tokens", "context")
  expect(architecture.vocabulary >= tokens.vocabulary, "training", "tokens", "vocabulary")
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
    const choice = pickFile(quantisation.files, quantisation.pick)
    const chosen = quantisation.picked === choice.file && quantisation.rule_kept === choice.kept
    expect(
      chosen && quantisation.rule === choice.words,
      "quantisation",
      "quantisation",
      `by its figures and its rule ${choice.file} is to be recommended${choice.kept ? "" : ", which does not keep the rule"}`,
    )
    for (const problem of quantisationProblems(quantisation, training.parameters))
      expect(false, "quantisation", "quantisation", problem)
    const { llama_cpp, ollama } = quantisation.commands
    const opening = (files.prompts.behaviour[0] ?? files.prompts.tuning[0])?.text ?? ""
    expect(
      llama_cpp === llamaCommand(usageOf(files, quantisation), opening),
      "quantisation",
      "prompts",
      "the line for llama.cpp",
    )
    const name = release.name.toLowerCase()
    expect(
      ollama === `ollama create ${name} -f Modelfile && ollama run ${name}`,
      "quantisation",
      "release",
      "the line for Ollama",
    )
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
  }
  // Per-document scores add up to the loss of their source.
  for (const [reports, key, scores, beside] of [
    [files.sourceLosses.sources, "sourceLosses", files.scores.documents, "scores"],
    [holdout.sources, "holdout", holdout.documents, "holdout"],
  ] as const)
    for (const source of reports) {
      const documents = scores.filter((document) => document.source === source.source)
      if (documents.length === 0) {
        expect(source.weight === 0, key, beside, `${source.source}: no document is scored`)
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
      expect(counts, key, beside, `${source.source}: documents, tokens or bytes`)
      expect(near(source.loss, sum.nll / sum.tokens), key, beside, `${source.source}: loss`)
      const bits = sum.textNll / (Math.LN2 * sum.bytes)
      expect(near(source.bits_per_byte, bits), key, beside, `${source.source}: bits per byte`)
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

type Quantisation = NonNullable<ReleaseFiles["quantisation"]>

/** What divergences may fall short of 0 by: they are sums of fp64 over what fp32 says, and leave out the rarest tokens. */
const ROUNDING = 1e-6

/** What the figures of quantised files say against one another. */
const quantisationProblems = ({ files, tokens }: Quantisation, parameters: number): ReadonlyArray<string> => {
  const problems: Array<string> = []
  const expect = (holds: boolean, problem: string) => {
    if (!holds) problems.push(problem)
  }
  const bases = new Map<string, number>()
  for (const { file, bytes, bits_per_weight, losses } of files) {
    expect(near(bits_per_weight, (8 * bytes) / parameters), `${file}: bits a weight are not 8 × bytes / parameters`)
    const all = own(losses, "all")
    const parts = Object.entries(losses).filter(([texts]) => texts !== "all")
    expect(all?.ppl.n === tokens, `${file}: ${all?.ppl.n} tokens are measured, not ${tokens}`)
    for (const [texts, loss] of Object.entries(losses)) {
      const place = `${file}, ${texts}`
      const { ppl, delta_ppl, kld, kld_median, kld_p99, kld_max, mean_delta_p, rms_delta_p, same_top_p } = loss
      for (const [name, { value, ci95, n }] of Object.entries({
        ppl,
        delta_ppl,
        kld,
        mean_delta_p,
        rms_delta_p,
        same_top_p,
      })) {
        expect(
          ci95 !== undefined && ci95[0] <= value && value <= ci95[1],
          `${place}: ${name} lies outside of its interval`,
        )
        expect(n === ppl.n, `${place}: ${name} is over ${n} tokens, the perplexity over ${ppl.n}`)
      }
      expect(ppl.value >= 1, `${place}: a perplexity below 1`)
      const base = ppl.value - delta_ppl.value
      if (!bases.has(texts)) bases.set(texts, base)
      expect(near(base, bases.get(texts)!), `${place}: perplexity less its change is not that of the other files`)
      expect(kld.value >= -ROUNDING, `${place}: a divergence below 0`)
      expect(
        kld_median <= kld_p99 && kld_p99 <= kld_max && kld.value <= kld_max + ROUNDING,
        `${place}: the order of divergences`,
      )
      expect(
        Math.abs(mean_delta_p.value) <= rms_delta_p.value + ROUNDING,
        `${place}: a mean above the root mean square`,
      )
      expect(0 <= same_top_p.value && same_top_p.value <= 1, `${place}: a share outside of 0 to 1`)
    }
    if (all === undefined || parts.length === 0) continue
    // All texts together are their languages, each by its tokens.
    const counted = parts.reduce((total, [, { ppl }]) => total + (ppl.n ?? 0), 0)
    expect(counted === tokens, `${file}: its languages have ${counted} tokens, not ${tokens}`)
    const mean = (of: (loss: QuantisationLoss) => number): number =>
      parts.reduce((total, [, loss]) => total + of(loss) * (loss.ppl.n ?? 0), 0) / counted
    const combined = (name: string, of: (loss: QuantisationLoss) => number) => {
      const distance = Math.abs(of(all) - mean(of))
      expect(distance <= 1e-9 + 1e-6 * Math.abs(of(all)), `${file}: ${name} of all is not the mean of its languages`)
    }
    combined("perplexity", ({ ppl }) => Math.log(ppl.value))
    combined("divergence", ({ kld }) => kld.value)
    combined("change of probability", ({ mean_delta_p }) => mean_delta_p.value)
    combined("mean square of that change", ({ rms_delta_p }) => rms_delta_p.value ** 2)
    combined("same first choice", ({ same_top_p }) => same_top_p.value)
  }
  return problems
}

const usageOf = ({ decoding, training }: ReleaseFiles, { picked, preset }: Quantisation): Usage => ({
  file: picked,
  preset,
  context: training.architecture.context,
  maxNewTokens: decoding.max_new_tokens,
})

/** The quantised files of a folder against what is said of them. */
export const quantisedDisagreements = Effect.fn("Consistency.quantised")(function* (
  folder: string,
  files: ReleaseFiles,
): Effect.fn.Return<ReadonlyArray<ReleaseInconsistent>, ReleaseInputUnreadable, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const { quantisation, tokenizerConfig, release } = files
  if (quantisation === undefined) return []
  const second = fileNames(release).quantisation
  const found: Array<ReleaseInconsistent> = []
  for (const { file, bytes } of quantisation.files) {
    const { size } = yield* fs.stat(`${folder}/${file}`).pipe(unreadable(`${folder}/${file}`))
    if (Number(size) !== bytes)
      found.push(new ReleaseInconsistent({ first: file, second, problem: `${size} bytes, not ${bytes}` }))
  }
  const there = yield* fs.readFileString(`${folder}/Modelfile`).pipe(unreadable(`${folder}/Modelfile`))
  const eos = String(tokenizerConfig["eos_token"])
  if (there !== modelfile(usageOf(files, quantisation), eos, release.license))
    found.push(
      new ReleaseInconsistent({ first: "Modelfile", second, problem: "made again from it, it reads otherwise" }),
    )
  return found
})

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
          ? because(new ReleaseInconsistent({ first: weights, second: names.training, problem: error.problem }), error)
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
  const [quantised] = yield* quantisedDisagreements(folder, files)
  if (quantised !== undefined) return yield* quantised
})
