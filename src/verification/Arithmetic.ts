/**
 * Published figures that follow from others, worked out again from the definitions: by formulas of this file's own, not by the code
 * that made the figures. Sums of many numbers may differ in their last bits: they are compared to 1e-6 of their size.
 */
import { open } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { COMPLETION, TERMS } from "../decoding/Score.ts"
import { parseHeader } from "../engine/Safetensors.ts"
import { measureSample, summariseBehaviour } from "../evaluation/Behaviour.ts"
import { languageIdentifier } from "../evaluation/Language.ts"
import { summariseLosses } from "../evaluation/Losses.ts"
import { DecodingPreset } from "../model/Decoding.ts"
import { lrAt } from "../model/LrSchedule.ts"
import { metricsOf } from "../model/Metric.ts"
import { GenerationRecord, type Measured, type SourceLoss } from "../model/Report.ts"
import { type ReleaseFiles, readJson, readLines } from "../release/Folder.ts"
import { judged } from "./Fault.ts"
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

/** GPT-2 has positions, LLaMA a most of them. */
const contextOf = (config: { readonly [key: string]: unknown }): number =>
  number(config, "n_positions" in config ? "n_positions" : "max_position_embeddings")

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
  if (config["model_type"] === "llama" || config["model_type"] === "mistral") {
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
const numbersIn = (path: string): Effect.Effect<number, Error> =>
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
    catch: (cause) => (cause instanceof Error ? cause : new Error(String(cause))),
  })

const parameters = Effect.fnUntraced(function* ({ view }: Release, { training, benchmark, config }: ReleaseFiles) {
  const rule = parametersByFormula(config)
  if (rule === undefined)
    return [skipped("parameters", `no formula for model_type ${JSON.stringify(config["model_type"])}`)]
  const figures = new Figures("parameters", rule.formula)
  const stored = yield* judged(numbersIn(join(view, "model.safetensors")))
  if (stored._tag === "Failure") return [wrong("parameters", `model.safetensors: ${stored.failure.message}`)]
  figures.expect("numbers in model.safetensors", stored.success, rule.parameters, 0)
  figures.expect("training_config.json", training.parameters, rule.parameters, 0)
  figures.expect("benchmark_metrics.json", benchmark.model.parameters, rule.parameters, 0)
  return figures.findings
})

const tokens = ({ training, state, benchmark, steps, config }: ReleaseFiles): ReadonlyArray<Finding> => {
  const figures = new Figures("tokens", "steps × rows × length")
  const perStep = state.rowsPerStep * contextOf(config)
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

const sources = ({ sourceLosses, scores, benchmark, holdout }: ReleaseFiles): ReadonlyArray<Finding> => {
  const figures = new Figures(
    "sources",
    "sums over their documents: Σ nll / Σ tokens, bits = Σ nll of text / (ln 2 · Σ bytes)",
  )
  for (const { where, said, reports, scored } of [
    { where: "", said: benchmark.metrics, reports: sourceLosses.sources, scored: scores.documents },
    { where: "holdout, ", said: holdout.metrics, reports: holdout.sources, scored: holdout.documents },
  ]) {
    const bySource = Map.groupBy(scored, ({ source }) => source)
    const stranger = [...bySource.keys()].find((source) => !reports.some((one) => one.source === source))
    figures.expect(
      `${where}documents of other sources`,
      stranger === undefined ? 0 : bySource.get(stranger)!.length,
      0,
      0,
    )
    figures.expect(`${where}documents that are there once`, new Set(scored.map(({ id }) => id)).size, scored.length, 0)
    for (const one of reports) {
      const documents = bySource.get(one.source) ?? []
      const [nll, text] = [sum(documents.map((each) => each.nll)), sum(documents.map((each) => each.text_nll))]
      const [count, bytes] = [sum(documents.map((each) => each.tokens)), sum(documents.map((each) => each.bytes))]
      figures.expect(`${where}${one.source}: documents`, one.documents, documents.length, 0)
      figures.expect(`${where}${one.source}: tokens`, one.tokens, count, 0)
      figures.expect(`${where}${one.source}: bytes`, one.bytes, bytes, 0)
      if (documents.length === 0) continue
      figures.expect(`${where}${one.source}: loss`, one.loss, nll / count)
      figures.expect(`${where}${one.source}: bits per byte`, one.bits_per_byte, text / (Math.LN2 * bytes))
    }
    for (const language of new Set(reports.map((each) => each.language))) {
      const own = reports.filter((each) => each.language === language && each.role === "train")
      const value = valueOf(said, `val_loss_${language}`)
      const documents = own.flatMap(({ source }) => bySource.get(source) ?? [])
      if (value !== undefined && documents.length > 0)
        figures.expect(
          `${where}val_loss_${language}`,
          value,
          sum(documents.map(({ nll }) => nll)) / sum(documents.map((each) => each.tokens)),
        )
    }
  }
  const chosenOn = new Set(scores.documents.map(({ id }) => id))
  const both = holdout.documents.filter(({ id }) => chosenOn.has(id)).length
  figures.expect("holdout documents that a choice was made on", both, 0, 0)
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

/** How the samples of a benchmark were drawn, and its intervals. */
export const BehaviourSettings = Schema.Struct({
  behaviour: Schema.Struct({
    preset: DecodingPreset,
    prompts_per_language: Schema.Int,
    max_new_tokens: Schema.Int,
    seed: Schema.Int,
  }),
})

/** One text for every preset and prompt, with that prompt's words: what was left out could be what spoke against the model. */
const completeness = ({ prompts, decoding, tuningGenerations, holdoutGenerations }: ReleaseFiles) => {
  const found: Array<Finding> = []
  const presets = decoding.presets.map(({ name }) => name)
  for (const [set, records, rows] of [
    ["tuning", tuningGenerations, decoding.tuning],
    ["holdout", holdoutGenerations, decoding.holdout],
  ] as const) {
    const what = `${set} samples`
    if (
      rows
        .map(({ preset }) => preset)
        .toSorted()
        .join("\0") !== presets.toSorted().join("\0")
    )
      found.push(wrong(what, "decoding_summary.json has not one row for each of its presets"))
    const name = (preset: string, id: string) => `${preset}\0${id}`
    const byName = Map.groupBy(records, ({ preset, prompt_id: id }) => name(preset, id))
    const wanted = presets.flatMap((preset) => prompts[set].map((prompt) => ({ preset, prompt })))
    const off = wanted.filter(({ preset, prompt }) => {
      const [record, ...more] = byName.get(name(preset, prompt.id)) ?? []
      return more.length > 0 || record?.prompt !== prompt.text || record.language !== prompt.language
    })
    if (wanted.length === 0) found.push(wrong(what, "there are no prompts"))
    if (off.length > 0)
      found.push(
        wrong(
          what,
          `${off.length} of ${wanted.length} are missing, there twice, or of another prompt, first ${off[0]!.preset}, ${off[0]!.prompt.id}`,
        ),
      )
    else if (records.length !== wanted.length)
      found.push(wrong(what, `${records.length} texts of ${presets.length} presets and ${prompts[set].length} prompts`))
    else if (decoding.prompts[set] !== prompts[set].length)
      found.push(wrong(what, `${prompts[set].length} prompts, not ${decoding.prompts[set]}`))
    else if (wanted.length > 0) found.push(ok(what, `${wanted.length} texts, one for each preset and prompt`))
  }
  return found
}

/** Names of figures that are not among the computed ones, nor among others that are known. */
const strangers = (metrics: Metrics, computed: Metrics, known: ReadonlyArray<string> = []): ReadonlyArray<string> =>
  Object.keys(metrics).filter((name) => !Object.hasOwn(computed, name) && !known.includes(name))

/** It needs the model, and `decoding_score` the real continuations besides. */
const LOG_PROBABILITY = "log_probability_mean"
const UNCOMPUTED = ["decoding_score", LOG_PROBABILITY]

/**
 * How near each preset writes to real text, by the figures beside it: z = |mean − real| / sd, the score is minus their mean, and the best of
 * those that complete enough is first. What the real continuations are like on holdout prompts is not in the release.
 */
const decodingScores = ({ decoding }: ReleaseFiles): ReadonlyArray<Finding> => {
  const figures = new Figures("decoding scores", "z = |mean − real| / sd, score = −mean of z; best first")
  for (const [set, rows] of [
    ["tuning", decoding.tuning],
    ["holdout", decoding.holdout],
  ] as const) {
    for (const { preset, z, score, metrics, ruled_out } of rows) {
      const where = `${set}, ${preset}`
      const own = valueOf(metrics, "decoding_score") ?? Number.NaN
      const completed = valueOf(metrics, "completion_rate") ?? Number.NaN
      figures.expect(`${where}, decoding_score`, own, -sum(TERMS.map((term) => z[term] ?? Number.NaN)) / TERMS.length)
      figures.expect(`${where}, score`, score ?? own, own)
      figures.expect(`${where}, ruled out`, Number(ruled_out), Number(!(completed >= COMPLETION)), 0)
      figures.expect(`${where}, without a score`, Number(score === null), Number(ruled_out), 0)
      if (set === "holdout") continue
      for (const term of TERMS) {
        const real = decoding.reference[term] ?? { mean: Number.NaN, sd: Number.NaN }
        // where no sample has a value its mean counts as 0; without a deviation the spread goes by a number that is not told
        const away = Math.abs((valueOf(metrics, term) ?? 0) - real.mean) / real.sd
        if (real.sd !== 0) figures.expect(`${where}, z of ${term}`, z[term] ?? Number.NaN, away, 1e-5)
      }
    }
    const order = rows.toSorted((a, b) => Number(a.ruled_out) - Number(b.ruled_out) || placeOf(b) - placeOf(a))
    for (const [place, row] of rows.entries()) {
      figures.expect(`${set}, rank of ${row.preset}`, row.rank, place + 1, 0)
      figures.expect(`${set}, order at rank ${place + 1}`, placeOf(row), placeOf(order[place]!), 1e-9)
    }
  }
  return figures.findings
}

/** Presets that are ruled out are ordered by how many texts they complete. */
const placeOf = ({ ruled_out, metrics }: ReleaseFiles["decoding"]["tuning"][number]): number =>
  valueOf(metrics, ruled_out ? "completion_rate" : "decoding_score") ?? Number.NaN

/** What training measured at the step that is released is what the benchmark measured: the same documents, the same weights. */
const lastValidation = ({ validations, sourceLosses, release }: ReleaseFiles): ReadonlyArray<Finding> => {
  const figures = new Figures(
    "validation of the released step",
    "eval_metrics.jsonl and the benchmark measured the same",
  )
  for (const { step, source_loss } of validations)
    if (step === release.released_step)
      for (const { source, role, loss } of sourceLosses.sources)
        if (role === "train") figures.expect(source, source_loss[source] ?? Number.NaN, loss, 1e-4)
  return figures.findings
}

/** Everything that is said of samples and of scored documents, worked out again with the draws of the intervals. */
const measured = Effect.fnUntraced(function* (
  { view }: Release,
  {
    tokens,
    benchmark,
    comparison,
    decoding,
    holdout,
    scores,
    sourceLosses,
    tuningGenerations,
    holdoutGenerations,
  }: ReleaseFiles,
) {
  const figures = new Figures(
    "behaviour",
    "measured again on the samples in the folder, with the draws of its intervals",
  )
  const intervals = new Figures(
    "loss intervals",
    "the bootstrap over benchmark_scores.json and holdout.json, drawn again",
  )
  const found: Array<Finding> = []
  const { languages } = tokens
  const identify = yield* languageIdentifier(languages)
  const specials = new Set([tokens.bosId, tokens.eosId, tokens.padId])
  const again = (records: ReadonlyArray<GenerationRecord>, seed: number): Metrics => {
    const samples = records.map(({ prompt_id: id, language, token_ids: tokens, generated: text, finish }) =>
      measureSample({ id, language, tokens, text, finish }, { identify, languages, specials }),
    )
    return samples.length === 0 ? {} : summariseBehaviour(samples, { seed })
  }
  const compare = (into: Figures, where: string, metrics: Metrics, computed: Metrics) => {
    for (const [name, { value, n = 0, ci95 }] of Object.entries(computed)) {
      const said = Object.hasOwn(metrics, name) ? metrics[name]! : undefined
      if (said === undefined) {
        found.push(wrong("names of figures", `${where}: ${name} is missing`))
        continue
      }
      into.expect(`${where}, ${name}`, said.value, value)
      into.expect(`${where}, n of ${name}`, said.n ?? 0, n, 0)
      if (ci95 === undefined && said.ci95 === undefined) continue
      into.expect(`${where}, lower end of ${name}`, said.ci95?.[0] ?? Number.NaN, ci95?.[0] ?? Number.NaN)
      into.expect(`${where}, upper end of ${name}`, said.ci95?.[1] ?? Number.NaN, ci95?.[1] ?? Number.NaN)
    }
  }
  const named = (where: string, names: ReadonlyArray<string>) =>
    found.push(...names.map((name) => wrong("names of figures", `${where}: nothing computes ${name}`)))

  const { behaviour } = yield* readJson(BehaviourSettings, join(view, "benchmark_metrics.json"))
  const records = yield* readLines(GenerationRecord, join(view, "behaviour_generations.jsonl"))
  const wanted = behaviour.prompts_per_language * new Set(records.map(({ language }) => language)).size
  const ids = new Set(records.map(({ prompt_id }) => prompt_id))
  found.push(
    records.length === 0 || records.length !== wanted || ids.size !== records.length
      ? wrong(
          "benchmark samples",
          `${records.length} texts on ${ids.size} prompts; ${behaviour.prompts_per_language} prompts of each language were asked`,
        )
      : ok("benchmark samples", `${records.length} texts, one for each prompt`),
  )
  const sampled = again(records, behaviour.seed)
  compare(figures, "benchmark", benchmark.metrics, sampled)
  const losses = yield* Effect.fromResult(
    summariseLosses(scores.documents, sourceLosses.sources, { weighting: benchmark.mix.weights, seed: behaviour.seed }),
  )
  compare(intervals, "benchmark", benchmark.metrics, losses.metrics)
  const held = yield* Effect.fromResult(
    summariseLosses(holdout.documents, holdout.sources, {
      weighting: Object.fromEntries(holdout.sources.map(({ source, weight }) => [source, weight])),
      seed: comparison.bootstrap.seed,
    }),
  )
  compare(intervals, "holdout", holdout.metrics, held.metrics)
  for (const [where, reports, computed] of [
    ["", sourceLosses.sources, losses.sources],
    ["holdout, ", holdout.sources, held.sources],
  ] as const)
    for (const one of computed) {
      const said = reports.find(({ source }) => source === one.source)
      intervals.expect(`${where}${one.source}: lower end`, said?.ci95[0] ?? Number.NaN, one.ci95[0])
      intervals.expect(`${where}${one.source}: upper end`, said?.ci95[1] ?? Number.NaN, one.ci95[1])
    }
  named("benchmark_metrics.json", strangers(benchmark.metrics, { ...sampled, ...losses.metrics }, [LOG_PROBABILITY]))
  named("holdout.json", strangers(holdout.metrics, held.metrics))
  for (const [set, records, rows] of [
    ["tuning", tuningGenerations, decoding.tuning],
    ["holdout", holdoutGenerations, decoding.holdout],
  ] as const) {
    const byPreset = Map.groupBy(records, ({ preset }) => preset)
    for (const { preset, metrics } of rows) {
      const computed = again(byPreset.get(preset) ?? [], decoding.seed)
      compare(figures, `${set}, ${preset}`, metrics, computed)
      named(`${set}, ${preset}`, strangers(metrics, computed, UNCOMPUTED))
    }
  }
  return [
    ...figures.findings,
    ...intervals.findings,
    ...found,
    skipped(
      "other figures",
      "what real text is like, differences between candidates and the other validations while training need texts or models that are not in the release",
    ),
  ]
})

/** Nothing of the other candidates is in the release, so of their figures only the names can be judged. */
const candidates = ({ comparison, benchmark, tokens, sourceLosses }: ReleaseFiles): ReadonlyArray<Finding> => {
  const sources = sourceLosses.sources.map(({ source }) => source)
  const known = [...metricsOf({ languages: tokens.languages, sources }), LOG_PROBABILITY]
  const named = (file: string, metrics: Metrics, among: ReadonlyArray<string>) =>
    strangers(metrics, {}, among).map((name) => wrong("names of figures", `${file}: nothing computes ${name}`))
  return comparison.candidates.flatMap(({ candidate, metrics, winner }) =>
    named(`comparison.json, ${candidate}`, metrics, winner ? Object.keys(benchmark.metrics) : known),
  )
}

const learningRates = ({ steps, training }: ReleaseFiles): ReadonlyArray<Finding> => {
  const figures = new Figures("learning rates", "the schedule at each step")
  // an engine may count them in fp32
  for (const { step, lr } of steps) figures.expect(`step ${step}`, lr, lrAt(training.schedule, step - 1), 1e-5)
  const gap = steps.findIndex(({ step }, index) => step !== index + 1)
  if (gap >= 0)
    return [...figures.findings, wrong("telemetry", `metrics.jsonl has no line for step ${gap + 1}, or has it twice`)]
  const { released_step: released, parent_step: parent, decay_steps: decay } = training
  // the telemetry of a decay goes on past a checkpoint in its middle
  const last = Math.max(released, parent + decay)
  const phase = steps.find(({ step, phase }) => (phase === "decay") !== step > parent)
  return [
    ...figures.findings,
    steps.length !== last
      ? wrong("telemetry", `metrics.jsonl ends at step ${steps.length}, the training at step ${last}`)
      : phase === undefined
        ? ok("telemetry", `metrics.jsonl has every step to ${steps.length}, once`)
        : wrong("telemetry", `metrics.jsonl, step ${phase.step}: it is not of phase ${phase.phase}`),
  ]
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
    ...completeness(files),
    ...decodingScores(files),
    ...lastValidation(files),
    ...(yield* measured(release, files)),
    ...candidates(files),
    ...learningRates(files),
  ]
})
