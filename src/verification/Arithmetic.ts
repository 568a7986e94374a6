/**
 * Published figures that follow from others, worked out again from the definitions: by formulas of this file's own, not by the code
 * that made the figures. Sums of many numbers may differ in their last bits: they are compared to 1e-6 of their size.
 */
import { open } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { parseHeader } from "../engine/Safetensors.ts"
import { measureSample, summariseBehaviour } from "../evaluation/Behaviour.ts"
import { languageIdentifier } from "../evaluation/Language.ts"
import { lrAt } from "../model/LrSchedule.ts"
import { GenerationRecord, type Measured, type SourceLoss } from "../model/Report.ts"
import { type ReleaseFiles, readLines } from "../release/Folder.ts"
import { type Finding, within } from "./Finding.ts"
import type { Release } from "./Release.ts"

const { ok, wrong, skipped } = within("arithmetic")

const near = (a: number, b: number, tolerance = 1e-6): boolean =>
  a === b || Math.abs(a - b) <= tolerance * Math.max(Math.abs(a), Math.abs(b))

const sum = (values: Iterable<number>): number => {
  let total = 0
  for (const value of values) total += value
  return total
}

/** One wrong figure makes others wrong: so many are told. */
const MOST = 5

/** Figures of one kind that were worked out again: one line when all are right, one for each that is not. */
class Figures {
  readonly #wrong: Array<Finding> = []
  #count = 0
  readonly #what: string
  readonly #rule: string

  constructor(what: string, rule: string) {
    this.#what = what
    this.#rule = rule
  }

  expect(where: string, said: number, computed: number, tolerance = 1e-6): void {
    this.#count++
    if (!near(said, computed, tolerance))
      this.#wrong.push(wrong(this.#what, `${where}: ${said}, not ${computed} (${this.#rule})`))
  }

  get findings(): ReadonlyArray<Finding> {
    const { length } = this.#wrong
    if (length > MOST) return [...this.#wrong.slice(0, MOST), wrong(this.#what, `and ${length - MOST} others`)]
    if (length > 0) return this.#wrong
    const figures = this.#count === 1 ? "1 figure" : `${this.#count} figures`
    return [
      this.#count === 0
        ? skipped(this.#what, `there is no such figure (${this.#rule})`)
        : ok(this.#what, `${this.#rule}: ${figures}`),
    ]
  }
}

const number = (config: { readonly [key: string]: unknown }, key: string): number => {
  const value = config[key]
  return typeof value === "number" ? value : Number.NaN
}

/** Parameters of a decoder from the fields that `transformers` knows it by; undefined for a kind without a formula here. */
export const parametersByFormula = (config: {
  readonly [key: string]: unknown
}): { readonly parameters: number; readonly formula: string } | undefined => {
  const of = (key: string) => number(config, key)
  if (config["model_type"] === "gpt2") {
    const [d, layers] = [of("n_embd"), of("n_layer")]
    const inner = config["n_inner"] === null || config["n_inner"] === undefined ? 4 * d : of("n_inner")
    return {
      parameters:
        of("vocab_size") * d + of("n_positions") * d + layers * (4 * d * d + 9 * d + 2 * d * inner + inner) + 2 * d,
      formula: "V·d + P·d + L·(4d² + 9d + 2d·f + f) + 2d, with f = 4d",
    }
  }
  if (config["model_type"] === "llama") {
    const [d, heads] = [of("hidden_size"), of("num_attention_heads")]
    const groups = config["num_key_value_heads"] === undefined ? heads : of("num_key_value_heads")
    const size = typeof config["head_dim"] === "number" ? of("head_dim") : d / heads
    const embeddings = (config["tie_word_embeddings"] === true ? 1 : 2) * of("vocab_size") * d
    const layer = 2 * d * heads * size + 2 * d * groups * size + 3 * d * of("intermediate_size") + 2 * d
    return {
      parameters: embeddings + of("num_hidden_layers") * layer + d,
      formula: "V·d (twice if untied) + L·(2d·h·k + 2d·g·k + 3d·f + 2d) + d",
    }
  }
  return undefined
}

/** Numbers in a file of weights, by its header alone. */
const numbersIn = (path: string): Effect.Effect<number, string> =>
  Effect.tryPromise({
    try: async () => {
      const file = await open(path, "r")
      try {
        const { size } = await file.stat()
        const prefix = Buffer.alloc(8)
        await file.read(prefix, 0, 8, 0)
        const length = Number(prefix.readBigUInt64LE(0))
        if (!(length > 1 && length <= 100_000_000 && 8 + length <= size)) throw new Error("it is no safetensors file")
        const header = Buffer.alloc(length)
        await file.read(header, 0, length, 8)
        return sum(parseHeader(header.toString("utf8"), 8 + length, size).tensors.map(({ elements }) => elements))
      } finally {
        await file.close()
      }
    },
    catch: (cause) => (cause instanceof Error ? cause.message : String(cause)),
  })

const parameters = Effect.fnUntraced(function* ({ view }: Release, { training, benchmark, config }: ReleaseFiles) {
  const rule = parametersByFormula(config)
  if (rule === undefined)
    return [skipped("parameters", `no formula for model_type ${JSON.stringify(config["model_type"])}`)]
  const figures = new Figures("parameters", rule.formula)
  const stored = yield* Effect.result(numbersIn(join(view, "model.safetensors")))
  if (stored._tag === "Failure") return [wrong("parameters", `model.safetensors: ${stored.failure}`)]
  figures.expect("numbers in model.safetensors", stored.success, rule.parameters, 0)
  figures.expect("training_config.json", training.parameters, rule.parameters, 0)
  figures.expect("benchmark_metrics.json", benchmark.model.parameters, rule.parameters, 0)
  return figures.findings
})

const tokens = ({ training, state, benchmark, steps, config }: ReleaseFiles): ReadonlyArray<Finding> => {
  const figures = new Figures("tokens", "steps × rows × length")
  const perStep = state.rowsPerStep * number(config, "n_positions")
  figures.expect("tokens a step", training.tokens_per_step, perStep, 0)
  figures.expect("tokens seen", training.tokens_seen, training.released_step * perStep, 0)
  figures.expect("tokens of the stable phase", training.tokens_stable, training.parent_step * perStep, 0)
  figures.expect(
    "tokens of the decay",
    training.tokens_decay,
    (training.released_step - training.parent_step) * perStep,
    0,
  )
  figures.expect("the checkpoint's state", state.tokensSeen, state.step * perStep, 0)
  figures.expect("benchmark_metrics.json", benchmark.model.tokens_seen, benchmark.model.step * perStep, 0)
  for (const { step, tokens_seen } of steps) figures.expect(`step ${step}`, tokens_seen, step * perStep, 0)
  return figures.findings
}

const data = ({ tokens, training }: ReleaseFiles): ReadonlyArray<Finding> => {
  const figures = new Figures("data", "raw = packed + dropped; rows = ⌊packed / length⌋; totals are sums of sources")
  const trained = tokens.sources.filter(({ role }) => role === "train")
  for (const { source, rawTokens, packedTokens, droppedTokens, rows } of trained) {
    figures.expect(`${source}: raw`, rawTokens, packedTokens + droppedTokens, 0)
    figures.expect(`${source}: rows`, rows, Math.floor(packedTokens / tokens.context), 0)
  }
  const packed = sum(trained.map(({ packedTokens }) => packedTokens))
  figures.expect("raw tokens", training.data.raw_tokens, sum(trained.map(({ rawTokens }) => rawTokens)), 0)
  figures.expect("packed tokens", training.data.packed_tokens, packed, 0)
  figures.expect(
    "dropped tokens",
    training.data.dropped_tokens,
    sum(trained.map(({ droppedTokens }) => droppedTokens)),
    0,
  )
  figures.expect("languages", sum(Object.values(training.data.raw_tokens_by_language)), training.data.raw_tokens, 0)
  figures.expect("epochs", training.data.epochs, packed === 0 ? 0 : training.tokens_seen / packed)
  figures.expect("weights of the mix", sum(Object.values(training.data.weights)), 1)
  return figures.findings
}

type Metrics = { readonly [name: string]: Measured }
const valueOf = (metrics: Metrics, name: string): number | undefined =>
  Object.hasOwn(metrics, name) ? metrics[name]!.value : undefined

const losses = (files: ReleaseFiles): ReadonlyArray<Finding> => {
  const perplexity = new Figures("perplexities", "ppl = exp(loss)")
  const mixed = new Figures("mixed losses", "Σ weight × loss of the sources")
  const reports: ReadonlyArray<readonly [string, Metrics, ReadonlyArray<SourceLoss>]> = [
    ["validation", files.benchmark.metrics, files.sourceLosses.sources],
    ["holdout", files.holdout.metrics, files.holdout.sources],
  ]
  for (const [part, metrics, sources] of reports) {
    for (const { source, loss, perplexity: said } of sources)
      perplexity.expect(`${part}, ${source}`, said, Math.exp(loss))
    for (const name of Object.keys(metrics)) {
      const loss = name.startsWith("ppl_") ? valueOf(metrics, `val_loss_${name.slice(4)}`) : undefined
      if (loss !== undefined) perplexity.expect(`${part}, ${name}`, metrics[name]!.value, Math.exp(loss))
    }
    const said = valueOf(metrics, "val_loss_mixed")
    if (said !== undefined) mixed.expect(part, said, sum(sources.map(({ weight, loss }) => weight * loss)))
    mixed.expect(`${part}, weights`, sum(sources.map(({ weight }) => weight)), 1)
  }
  for (const line of files.validations)
    mixed.expect(
      `eval_metrics.jsonl, step ${line.step}`,
      line.val_loss_mixed,
      sum(Object.entries(line.weights).map(([source, weight]) => weight * (line.source_loss[source] ?? Number.NaN))),
    )
  return [...perplexity.findings, ...mixed.findings]
}

const sources = ({ sourceLosses, scores, benchmark }: ReleaseFiles): ReadonlyArray<Finding> => {
  const figures = new Figures(
    "sources",
    "sums over their documents: Σ nll / Σ tokens, bits = Σ nll of text / (ln 2 · Σ bytes)",
  )
  const bySource = Map.groupBy(scores.documents, ({ source }) => source)
  for (const one of sourceLosses.sources) {
    const documents = bySource.get(one.source) ?? []
    const [nll, text] = [sum(documents.map((each) => each.nll)), sum(documents.map((each) => each.text_nll))]
    const [count, bytes] = [sum(documents.map((each) => each.tokens)), sum(documents.map((each) => each.bytes))]
    figures.expect(`${one.source}: documents`, one.documents, documents.length, 0)
    figures.expect(`${one.source}: tokens`, one.tokens, count, 0)
    figures.expect(`${one.source}: bytes`, one.bytes, bytes, 0)
    if (documents.length === 0) continue
    figures.expect(`${one.source}: loss`, one.loss, nll / count)
    figures.expect(`${one.source}: bits per byte`, one.bits_per_byte, text / (Math.LN2 * bytes))
  }
  for (const language of new Set(sourceLosses.sources.map((each) => each.language))) {
    const own = sourceLosses.sources.filter((each) => each.language === language && each.role === "train")
    const said = valueOf(benchmark.metrics, `val_loss_${language}`)
    const documents = own.flatMap(({ source }) => bySource.get(source) ?? [])
    if (said !== undefined && documents.length > 0)
      figures.expect(
        `val_loss_${language}`,
        said,
        sum(documents.map(({ nll }) => nll)) / sum(documents.map((each) => each.tokens)),
      )
  }
  return figures.findings
}

/** A share of samples is a whole number of them. */
const counts = ({ benchmark, decoding, evaluation, probes }: ReleaseFiles): ReadonlyArray<Finding> => {
  const figures = new Figures("rates", "a rate × n is a whole number; a count / n is the rate beside it")
  const share = /^(?:.*_rate|language_consistency_(?!mean$).*)$/
  const sets: ReadonlyArray<readonly [string, Metrics]> = [
    ["benchmark", benchmark.metrics],
    ...decoding.tuning.map(({ preset, metrics }) => [`tuning, ${preset}`, metrics] as const),
    ...decoding.holdout.map(({ preset, metrics }) => [`holdout, ${preset}`, metrics] as const),
  ]
  for (const [where, metrics] of sets)
    for (const [name, { value, n, unit }] of Object.entries(metrics))
      if (share.test(name) && n !== undefined && unit === "samples")
        figures.expect(`${where}, ${name}`, value * n, Math.round(value * n), 1e-9)
  for (const [name, { count, of }] of Object.entries(evaluation.counts))
    figures.expect(`eval_summary.json, ${name}`, count / of, valueOf(benchmark.metrics, name) ?? Number.NaN)
  figures.expect(
    "probes answered first",
    evaluation.probes.first,
    probes.probes.filter(({ correct_token_rank }) => correct_token_rank === 1).length,
    0,
  )
  return figures.findings
}

/** What is said of samples, measured again on the samples in the folder. */
const behaviour = Effect.fnUntraced(function* (
  { view }: Release,
  { tokens, benchmark, decoding, tuningGenerations, holdoutGenerations }: ReleaseFiles,
) {
  const figures = new Figures("behaviour", "measured again on the samples in the folder")
  const identify = yield* languageIdentifier(tokens.languages)
  const specials = new Set([tokens.bosId, tokens.eosId, tokens.padId])
  const compare = (where: string, records: ReadonlyArray<GenerationRecord>, metrics: Metrics) => {
    const samples = records.map(({ prompt_id: id, language, token_ids: tokens, generated: text, finish }) =>
      measureSample({ id, language, tokens, text, finish }, { identify, languages, specials }),
    )
    // only values and the intervals of rates follow from the samples alone: those of means are drawn
    const measured = samples.length === 0 ? {} : summariseBehaviour(samples, { seed: 0, resamples: 1 })
    for (const [name, { value, n = 0, ci95 }] of Object.entries(measured)) {
      const said = Object.hasOwn(metrics, name) ? metrics[name]! : undefined
      if (said === undefined) continue
      figures.expect(`${where}, ${name}`, said.value, value)
      figures.expect(`${where}, n of ${name}`, said.n ?? 0, n, 0)
      if (!/(?:_rate|^language_consistency_\w+)$/.test(name) || ci95 === undefined || said.ci95 === undefined) continue
      figures.expect(`${where}, lower end of ${name}`, said.ci95[0], ci95[0])
      figures.expect(`${where}, upper end of ${name}`, said.ci95[1], ci95[1])
    }
  }
  const { languages } = tokens
  const own = yield* Effect.result(readLines(GenerationRecord, join(view, "behaviour_generations.jsonl")))
  if (own._tag === "Failure") return [wrong("behaviour", own.failure.problem)]
  compare("benchmark", own.success, benchmark.metrics)
  for (const [set, records, rows] of [
    ["tuning", tuningGenerations, decoding.tuning],
    ["holdout", holdoutGenerations, decoding.holdout],
  ] as const) {
    const byPreset = Map.groupBy(records, ({ preset }) => preset)
    for (const { preset, metrics } of rows) compare(`${set}, ${preset}`, byPreset.get(preset) ?? [], metrics)
  }
  return figures.findings
})

const learningRates = ({ steps, training }: ReleaseFiles): ReadonlyArray<Finding> => {
  const figures = new Figures("learning rates", "the schedule at each step")
  // an engine may count them in fp32
  for (const { step, lr } of steps) figures.expect(`step ${step}`, lr, lrAt(training.schedule, step - 1), 1e-5)
  const gap = steps.findIndex(({ step }, index) => step !== index + 1)
  return gap < 0
    ? figures.findings
    : [...figures.findings, wrong("telemetry", `metrics.jsonl has no line for step ${gap + 1}, or has it twice`)]
}

export const checkArithmetic = Effect.fn("verification.checkArithmetic")(function* (
  release: Release,
  files: ReleaseFiles,
) {
  return [
    ...(yield* parameters(release, files)),
    ...tokens(files),
    ...data(files),
    ...sources(files),
    ...losses(files),
    ...counts(files),
    ...(yield* behaviour(release, files)),
    ...learningRates(files),
  ]
})
