/**
 * The weights loaded again, and what was measured measured again: losses of every document, probes, and every sampled text.
 *
 * On the same engine and kind of processor everything comes out to the last bit. Elsewhere sums are added in another order, and a
 * figure may differ by as much as is declared here; a sampled text may then part from the recorded one where two tokens were as good
 * as equal, and nowhere else: that is looked at where the two texts part, and for every recorded token after it.
 *
 * | what               | tolerance                                                                                  |
 * |--------------------|--------------------------------------------------------------------------------------------|
 * | loss of a document | 1e-4 of its size                                                                           |
 * | losses of sources, mixes, perplexities | 1e-4 of their size                                                      |
 * | probability        | 1e-3 of its size                                                                            |
 * | rank, likeliest tokens | another one only where the logits between are within 1e-3                                |
 * | greedy token       | another one only where its logit is within 1e-3 of the largest                              |
 * | sampled token      | another one only where the draw falls within 1e-4 of the border between the two             |
 */
import { mkdirSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import { loadTokenizer, type Tokenizer } from "../data/Tokenizer.ts"
import { Engine, type Generation } from "../engine/Engine.ts"
import { makeSampler, processLogits } from "../engine/LogitsProcessors.ts"
import { scoreDocuments, summariseLosses } from "../evaluation/Losses.ts"
import { probeReport, probeRequest } from "../evaluation/Probe.ts"
import type { DecodingPreset } from "../model/Decoding.ts"
import { type Probe, probesOf, SAMPLE_TOKENS } from "../model/Probe.ts"
import { stream } from "../model/Random.ts"
import { type DocumentScore, GenerationRecord, type ProbeReport } from "../model/Report.ts"
import { type ReleaseFiles, readJson, readLines, weightsName } from "../release/Folder.ts"
import { BehaviourSettings } from "./Arithmetic.ts"
import { judged, load } from "./Fault.ts"
import { type Finding, isWrong, within } from "./Finding.ts"
import { hasQuantised, measureQuantised, unmeasured } from "./Quantised.ts"
import { linkOrCopy, type Release, temporary } from "./Release.ts"
import { type Texts, textsFromFolder, textsFromStore } from "./Texts.ts"

const { ok, wrong, skipped } = within("measurements")

const LOSS = 1e-4
const PROBABILITY = 1e-3
const LOGIT = 1e-3
const DRAW = 1e-4

const NO_TEXTS =
  "the texts are not in the release: give their folder with `--corpus`, or the store they were packed in with `--runs`"

export interface MeasurementOptions {
  /** Folder of a store that may have the tokens. */
  readonly store: string
  /** Folder of sources, or one file. */
  readonly corpus: string | undefined
  readonly say: (text: string) => void
}

const near = (a: number, b: number, tolerance: number): boolean =>
  Math.abs(a - b) <= tolerance * Math.max(Math.abs(a), Math.abs(b))

/** How far apart two lists of figures are, as a share of their size. */
const largest = (pairs: Iterable<readonly [number, number]>): number => {
  let most = 0
  for (const [a, b] of pairs) if (a !== b) most = Math.max(most, Math.abs(a - b) / Math.max(Math.abs(a), Math.abs(b)))
  return most
}

const howNear = (difference: number): string =>
  difference === 0 ? "to the last bit" : `within tolerance, at most ${difference.toExponential(1)} of their size apart`

/** The released checkpoint as a folder that engines read. */
export const checkpointOf = Effect.fnUntraced(function* ({ view }: Release, files: ReleaseFiles) {
  const folder = join(yield* temporary, "checkpoint")
  const native = weightsName(files.release)
  mkdirSync(folder)
  linkOrCopy(join(view, native), join(folder, "model.safetensors"))
  linkOrCopy(join(view, native.replace(/\.safetensors$/, ".json")), join(folder, "state.json"))
  return folder
})

const losses = Effect.fnUntraced(function* (checkpoint: string, files: ReleaseFiles, texts: Texts) {
  const engine = yield* Engine
  const { tokens, sourceLosses, scores, benchmark, holdout } = files
  const findings: Array<Finding> = []
  const roles = sourceLosses.sources.map(({ source, language, role }) => ({ source, language, role }))
  const measure = Effect.fnUntraced(function* (part: "validation" | "holdout", sources: ReadonlySet<string>) {
    const found = yield* texts.documents(part)
    if (found === undefined) return undefined
    const documents = found.documents.filter(({ source }) => sources.has(source))
    const ids = new Set(documents.map(({ id }) => id))
    const measured = yield* engine.losses({
      checkpoint,
      documents: found.sequences.filter(({ id }) => ids.has(id)),
      specialIds: [tokens.bosId, tokens.eosId, tokens.padId],
    })
    return yield* Effect.fromResult(scoreDocuments(measured, documents))
  })

  for (const { part, said, sources, metrics, weighting } of [
    {
      part: "validation",
      said: scores.documents,
      sources: roles,
      metrics: benchmark.metrics,
      weighting: benchmark.mix.weights,
    },
    {
      part: "holdout",
      said: holdout.documents,
      sources: holdout.sources,
      metrics: holdout.metrics,
      weighting: Object.fromEntries(holdout.sources.map(({ source, weight }) => [source, weight])),
    },
  ] as const) {
    const measured = yield* measure(part, new Set(sources.map(({ source }) => source)))
    if (measured === undefined) continue
    const off = compareScores(`losses of ${part} documents`, said, measured, texts.from)
    findings.push(...off)
    if (off.some(isWrong)) continue
    const again = yield* Effect.fromResult(summariseLosses(measured, sources, { weighting, seed: 0, samples: 1 }))
    findings.push(...compareMetrics(`${part} losses`, metrics, again.metrics))
  }
  return findings
})

/** Every document that was measured, measured again, and no other. */
const compareScores = (
  what: string,
  said: ReadonlyArray<DocumentScore>,
  measured: ReadonlyArray<DocumentScore>,
  from: string,
): ReadonlyArray<Finding> => {
  const again = new Map(measured.map((score) => [score.id, score]))
  const missing = said.filter(({ id }) => !again.has(id))
  const off = said.filter((one) => {
    const now = again.get(one.id)
    return (
      now !== undefined &&
      !(
        now.source === one.source &&
        now.tokens === one.tokens &&
        now.bytes === one.bytes &&
        near(now.nll, one.nll, LOSS) &&
        near(now.text_nll, one.text_nll, LOSS)
      )
    )
  })
  const ids = new Set(said.map(({ id }) => id))
  const more = measured.filter(({ id }) => !ids.has(id))
  const found = [
    ...(missing.length === 0
      ? []
      : [wrong(what, `${missing.length} of ${said.length} are not in ${from}, first ${missing[0]!.id}`)]),
    ...(more.length === 0
      ? []
      : [wrong(what, `${more.length} of ${measured.length} in ${from} are not told of, first ${more[0]!.id}`)]),
    ...off.slice(0, 5).map(({ id, nll }) => wrong(what, `${id}: ${nll} nats, measured again ${again.get(id)!.nll}`)),
    ...(off.length > 5 ? [wrong(what, `and ${off.length - 5} others`)] : []),
  ]
  if (found.length > 0) return found
  const difference = largest(said.map(({ id, nll }) => [nll, again.get(id)!.nll] as const))
  return [ok(what, `${said.length} documents of ${from}: ${howNear(difference)}`)]
}

type Values = { readonly [name: string]: { readonly value: number } }

/** Those that both have. */
const compareMetrics = (what: string, said: Values, again: Values): ReadonlyArray<Finding> => {
  const names = Object.keys(again).filter((name) => Object.hasOwn(said, name))
  const off = names.filter((name) => !near(said[name]!.value, again[name]!.value, LOSS))
  return off.length > 0
    ? off.map((name) => wrong(what, `${name} is ${said[name]!.value}, measured again ${again[name]!.value}`))
    : [
        ok(
          what,
          `${names.length} figures: ${howNear(largest(names.map((name) => [said[name]!.value, again[name]!.value] as const)))}`,
        ),
      ]
}

/** Whether the answers of one probe are those of these logits [vocabulary], give or take what rounding moves. */
export const isAnswer = (
  said: Pick<ProbeReport, "correct_token_rank" | "rank_ties" | "top">,
  logits: Float32Array,
  target: number,
  decode: (id: number) => string,
): boolean => {
  const own = logits[target]!
  let [above, beside, equal] = [0, 0, 0]
  for (const [id, logit] of logits.entries()) {
    if (id === target) continue
    if (logit > own + LOGIT) above++
    else if (logit >= own - LOGIT) beside++
    if (logit === own) equal++
  }
  const { correct_token_rank: rank, rank_ties: ties, top } = said
  if (rank < above + 1 || rank > above + 1 + beside) return false
  if (ties !== equal && ties > beside) return false
  const ordered = Array.from(logits.keys()).sort((a, b) => logits[b]! - logits[a]!)
  const used = new Set<number>()
  return top.every(({ token }, place) => {
    const least = logits[ordered[place]!]! - LOGIT
    const most = logits[ordered[place]!]! + LOGIT
    const id = ordered.find(
      (id) => !used.has(id) && logits[id]! >= least && logits[id]! <= most && decode(id) === token,
    )
    if (id !== undefined) used.add(id)
    return id !== undefined
  })
}

const probes = Effect.fnUntraced(function* (checkpoint: string, files: ReleaseFiles, tokenizer: Tokenizer) {
  const engine = yield* Engine
  const said = files.probes.probes
  const encode = (text: string) => Array.from(tokenizer.encode(text))
  const decode = (id: number) => tokenizer.decode([id])
  const asked: ReadonlyArray<Probe> = probesOf(files.tokens.languages)
  const named = (probe: Probe) => [probe.language, probe.kind, probe.prompt, probe.expected].join("\0")
  if (asked.map(named).join("\0") !== said.map(named).join("\0"))
    return [wrong("probes", `they are not the ${asked.length} that models of these languages are asked`)]
  const requests = asked.map((probe) => probeRequest(probe, encode, files.tokens.bosId))
  const answers = yield* engine.probe({ checkpoint, probes: requests })
  const again = asked.map((probe, position) => probeReport(probe, answers[position]!, decode))
  const found: Array<Finding> = []
  for (const [position, one] of said.entries()) {
    const now = again[position]!
    const near3 = (a: number, b: number) => near(a, b, PROBABILITY)
    const figures =
      now.target_tokens === one.target_tokens &&
      one.top.length === now.top.length &&
      near3(now.correct_token_probability, one.correct_token_probability) &&
      near3(now.perplexity_on_target_sequence, one.perplexity_on_target_sequence) &&
      one.top.every(({ probability }, place) => near3(probability, now.top[place]!.probability))
    const places =
      now.correct_token_rank === one.correct_token_rank &&
      now.rank_ties === one.rank_ties &&
      one.top.every(({ token }, place) => token === now.top[place]?.token)
    const { context, target } = requests[position]!
    const same =
      figures &&
      (places || isAnswer(one, (yield* engine.logits({ checkpoint, ids: context })).at(-1)!, target[0]!, decode))
    if (!same)
      found.push(wrong("probes", `${JSON.stringify(one.prompt)}: ${inPlace(one)}, measured again ${inPlace(now)}`))
  }
  if (found.length > 0) return found
  const difference = largest(
    said.map((one, position) => [one.correct_token_probability, again[position]!.correct_token_probability] as const),
  )
  return [ok("probes", `${said.length} probes: ranks and probabilities ${howNear(difference)}`)]
})

const inPlace = ({ correct_token_rank: rank, correct_token_probability: probability, top }: ProbeReport): string =>
  `rank ${rank} and probability ${probability}, likeliest ${top.map(({ token }) => JSON.stringify(token)).join(" ")}`

/** Whether the recorded token was as good as the one drawn now: see the tolerances above. */
export const asGood = (
  preset: DecodingPreset,
  logits: Float32Array,
  before: ReadonlyArray<number>,
  recorded: number,
  uniform: number,
): boolean => {
  if (!preset.doSample) {
    const scores = processLogits(preset, logits, before)
    return scores[recorded]! >= scores.reduce((most, score) => Math.max(most, score)) - LOGIT
  }
  // a token at the edge of the kept ones may be in or out, which moves the borders of all after it
  return [0, -DRAW, DRAW].some((edge) => {
    const sampler = makeSampler({ ...preset, topP: preset.topP < 1 ? preset.topP + edge : preset.topP })
    return [0, -DRAW, DRAW].some(
      (shift) => sampler(logits, before, Math.min(1 - DRAW, Math.max(0, uniform + shift))) === recorded,
    )
  })
}

const firstDifference = (a: ReadonlyArray<number>, b: ReadonlyArray<number>): number =>
  Array.from({ length: Math.max(a.length, b.length) }).findIndex((_, index) => a[index] !== b[index])

/** A text ends with the first EOS, or where there is no more room. */
const endProblem = (
  { token_ids: tokens, finish }: GenerationRecord,
  { eosId, atMost }: { readonly eosId: number; readonly atMost: number },
): string | undefined => {
  const first = tokens.indexOf(eosId)
  if (first >= 0 && first < tokens.length - 1) return `it goes on after its end, token ${first + 1}`
  if (first >= 0 ? finish !== "eos" : finish !== "length") return `it is said to end by ${finish}, which it does not`
  return first < 0 && tokens.length !== atMost ? `it has ${tokens.length} tokens of ${atMost}` : undefined
}

/** The model led along the recorded tokens, from where they part to their end. */
const goesOn = Effect.fnUntraced(function* (
  checkpoint: string,
  preset: DecodingPreset,
  prompt: ReadonlyArray<number>,
  { prompt_id, token_ids: tokens }: GenerationRecord,
  from: number,
  seed: number,
) {
  const engine = yield* Engine
  const ids = [...prompt, ...tokens]
  const logits = yield* engine.logits({ checkpoint, ids: ids.slice(0, -1) })
  for (let at = from; at < tokens.length; at++) {
    const place = prompt.length + at
    const uniform = stream(seed, `sample:${prompt_id}`).uniform(at)
    if (!asGood(preset, logits[place - 1]!, ids.slice(0, place), tokens[at]!, uniform))
      return `the model goes on otherwise from token ${at + 1} on`
  }
  return undefined
})

interface Sampled {
  readonly what: string
  readonly records: ReadonlyArray<GenerationRecord>
  readonly presets: ReadonlyArray<DecodingPreset>
  readonly maxNewTokens: number
  readonly seed: number
  /** `log_probability_mean` of a preset, as it is told. */
  readonly likelihood: (preset: string) => number | undefined
}

/** Mean over texts of what the model gives a token of each. */
const likelihoodOf = (generations: ReadonlyArray<Generation>): number => {
  const each = generations.flatMap(({ tokens, logProbability }) =>
    tokens.length === 0 ? [] : [logProbability / tokens.length],
  )
  return each.reduce((sum, one) => sum + one, 0) / each.length
}

const samples = Effect.fnUntraced(function* (
  checkpoint: string,
  files: ReleaseFiles,
  tokenizer: Tokenizer,
  { what, records, presets, maxNewTokens, seed, likelihood }: Sampled,
) {
  const engine = yield* Engine
  const found: Array<Finding> = []
  let [same, parted] = [0, 0]
  for (const [name, own] of Map.groupBy(records, ({ preset }) => preset)) {
    const preset = presets.find((one) => one.name === name)
    if (preset === undefined) {
      found.push(wrong(what, `preset ${name} is described nowhere`))
      continue
    }
    const prompts = own.map(({ prompt_id: id, prompt }) => ({
      id,
      ids: [files.tokens.bosId, ...tokenizer.encode(prompt)],
    }))
    const generations = yield* engine.generate({
      checkpoint,
      prompts,
      preset,
      maxNewTokens,
      eosId: files.tokens.eosId,
      seed,
    })
    const [said, before] = [likelihood(name), same]
    for (const [position, record] of own.entries()) {
      const { tokens, finish } = generations[position]!
      const text = tokenizer.decode(record.token_ids, { skipSpecial: true })
      if (text !== record.generated) {
        found.push(wrong(what, `${name}, ${record.prompt_id}: its text is not that of its tokens`))
        continue
      }
      const at = firstDifference(tokens, record.token_ids)
      if (at < 0 && finish === record.finish) {
        same++
        continue
      }
      const { eosId } = files.tokens
      const { ids } = prompts[position]!
      const problem =
        endProblem(record, { eosId, atMost: Math.min(maxNewTokens, files.tokens.context - ids.length) }) ??
        (yield* goesOn(checkpoint, preset, ids, record, Math.max(0, at), seed))
      if (problem === undefined) parted++
      else found.push(wrong(what, `${name}, ${record.prompt_id}: ${problem}`))
    }
    const now = likelihoodOf(generations)
    if (said !== undefined && same - before === own.length && !near(said, now, LOSS))
      found.push(wrong(what, `${name}: log_probability_mean is ${said}, measured again ${now}`))
  }
  if (found.length > 0)
    return found.length <= 5 ? found : [...found.slice(0, 5), wrong(what, `and ${found.length - 5} others`)]
  return [
    ok(
      what,
      parted === 0
        ? `${same} texts, token by token the same`
        : `${same} texts the same token by token, ${parted} part where two tokens were as good as equal`,
    ),
  ]
})

const greedyWhileTraining = Effect.fnUntraced(function* (
  checkpoint: string,
  files: ReleaseFiles,
  tokenizer: Tokenizer,
) {
  const engine = yield* Engine
  const { greedy } = yield* load(() => import("../model/Decoding.ts"))
  const said = files.samples.filter(({ step }) => step === files.release.released_step)
  if (said.length === 0)
    return [skipped("greedy texts of the training", `none was written at step ${files.release.released_step}`)]
  const generations = yield* engine.generate({
    checkpoint,
    prompts: said.map(({ prompt }, index) => ({
      id: String(index),
      ids: [files.tokens.bosId, ...tokenizer.encode(prompt)],
    })),
    preset: greedy,
    maxNewTokens: SAMPLE_TOKENS,
    eosId: files.tokens.eosId,
    seed: 0,
  })
  const what = "greedy texts of the training"
  const found: Array<Finding> = []
  let parted = 0
  for (const [index, { prompt, generated }] of said.entries()) {
    if (tokenizer.decode(generations[index]!.tokens, { skipSpecial: true }) === generated) continue
    const ids = [files.tokens.bosId, ...tokenizer.encode(prompt)]
    const atMost = Math.min(SAMPLE_TOKENS, files.tokens.context - ids.length)
    if (yield* writesGreedily(checkpoint, tokenizer, ids, generated, { eosId: files.tokens.eosId, atMost })) parted++
    else found.push(wrong(what, `${JSON.stringify(prompt)}: the model goes on otherwise`))
  }
  if (found.length > 0) return found
  const rest = parted === 0 ? "the same" : `${parted} part where two tokens were as good as equal`
  return [ok(what, `${said.length} texts of step ${files.release.released_step}, ${rest}`)]
})

/** More than this many places where two tokens are as good as equal are not followed. */
const MOST_STEPS = 500

/** Whether tokens that are each as good as the best write this text: only the text is kept, not its tokens. */
const writesGreedily = Effect.fnUntraced(function* (
  checkpoint: string,
  tokenizer: Tokenizer,
  prompt: ReadonlyArray<number>,
  text: string,
  { eosId, atMost }: { readonly eosId: number; readonly atMost: number },
) {
  const engine = yield* Engine
  const open: Array<ReadonlyArray<number>> = [[]]
  for (let steps = 0; open.length > 0 && steps < MOST_STEPS; steps++) {
    const tokens = open.pop()!
    const written = tokenizer.decode(tokens, { skipSpecial: true })
    if ((tokens.length === atMost || tokens.at(-1) === eosId) && written === text) return true
    // the bytes of a character may be spread over tokens
    const whole = written.replace(/\ufffd+$/u, "")
    if (tokens.length === atMost || tokens.at(-1) === eosId || !text.startsWith(whole)) continue
    const logits = (yield* engine.logits({ checkpoint, ids: [...prompt, ...tokens] })).at(-1)!
    const least = logits.reduce((most, logit) => Math.max(most, logit)) - LOGIT
    for (const [id, logit] of logits.entries()) if (logit >= least) open.push([...tokens, id])
  }
  return false
})

export const checkMeasurements = Effect.fn("verification.checkMeasurements")(function* (
  release: Release,
  files: ReleaseFiles,
  options: MeasurementOptions,
) {
  const engine = yield* Engine
  const { view } = release
  const findings: Array<Finding> = []
  const { name, precision } = files.training.engine
  if (engine.numerics.name !== name || engine.numerics.precision !== precision)
    findings.push(
      skipped(
        "engine",
        `made by engine ${name} (${precision}), measured again by ${engine.numerics.name} (${engine.numerics.precision})`,
      ),
    )
  const checkpoint = yield* checkpointOf(release, files)
  const tokenizer = yield* loadTokenizer(view)

  options.say("measuring losses again")
  // what is wrong with texts that somebody has beside a release is nothing about the release
  const finding: Effect.Effect<Texts | undefined, Error, Scope.Scope> =
    options.corpus === undefined
      ? textsFromStore(options.store, files)
      : textsFromFolder(options.corpus, files, tokenizer)
  const texts = yield* judged(finding)
  if (Result.isSuccess(texts) && texts.success !== undefined) {
    findings.push(...(yield* losses(checkpoint, files, texts.success)))
    if (hasQuantised(files))
      findings.push(...(yield* measureQuantised(release, checkpoint, files, texts.success, options.say)))
  } else {
    const why = Result.isFailure(texts) ? texts.failure.message : NO_TEXTS
    findings.push(skipped("losses", why), ...(hasQuantised(files) ? unmeasured(why) : []))
  }
  options.say("asking the probes again")
  findings.push(...(yield* probes(checkpoint, files, tokenizer)))
  findings.push(...(yield* greedyWhileTraining(checkpoint, files, tokenizer)))

  const { decoding } = files
  const sets: Array<Sampled> = [
    { what: "tuning samples", records: files.tuningGenerations, rows: decoding.tuning },
    { what: "holdout samples", records: files.holdoutGenerations, rows: decoding.holdout },
  ].map(({ rows, ...set }) => ({
    ...set,
    presets: decoding.presets,
    maxNewTokens: decoding.max_new_tokens,
    seed: decoding.seed,
    likelihood: (preset) => rows.find((row) => row.preset === preset)?.metrics["log_probability_mean"]?.value,
  }))
  const benchmark = yield* judged(readJson(BehaviourSettings, join(view, "benchmark_metrics.json")))
  const records = yield* judged(readLines(GenerationRecord, join(view, "behaviour_generations.jsonl")))
  if (benchmark._tag === "Failure" || records._tag === "Failure")
    findings.push(skipped("benchmark samples", "how they were drawn is not in benchmark_metrics.json"))
  else {
    const { preset, max_new_tokens: maxNewTokens, seed } = benchmark.success.behaviour
    const likelihood = () => files.benchmark.metrics["log_probability_mean"]?.value
    const what = "benchmark samples"
    sets.unshift({ what, records: records.success, presets: [preset], maxNewTokens, seed, likelihood })
  }
  for (const set of sets) {
    options.say(`drawing ${set.what} again`)
    findings.push(...(yield* samples(checkpoint, files, tokenizer, set)))
  }
  return findings
})
