/**
 * The weights loaded again, and what was measured measured again: losses of every document, probes, and every sampled text.
 *
 * On the same engine and kind of processor everything comes out to the last bit. Elsewhere sums are added in another order, and a
 * figure may differ by as much as is declared here; a sampled text may then part from the recorded one where two tokens were as good
 * as equal, and nowhere else: that is looked at where the two texts part.
 *
 * | what               | tolerance                                                                                  |
 * |--------------------|--------------------------------------------------------------------------------------------|
 * | loss of a document | 1e-4 of its size                                                                           |
 * | losses of sources, mixes, perplexities | 1e-4 of their size                                                      |
 * | probability        | 1e-3 of its size; a rank by one place                                                       |
 * | greedy token       | another one only where its logit is within 1e-3 of the largest                              |
 * | sampled token      | another one only where the draw falls within 1e-4 of the border between the two             |
 */
import { mkdirSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { loadTokenizer, type Tokenizer } from "../data/Tokenizer.ts"
import { Engine } from "../engine/Engine.ts"
import { makeSampler, processLogits } from "../engine/LogitsProcessors.ts"
import { scoreDocuments, summariseLosses } from "../evaluation/Losses.ts"
import { type Probe, probeReport, probeRequest } from "../evaluation/Probe.ts"
import { DecodingPreset } from "../model/Decoding.ts"
import { stream } from "../model/Random.ts"
import { GenerationRecord } from "../model/Report.ts"
import { type ReleaseFiles, readJson, readLines, weightsName } from "../release/Folder.ts"
import { type Finding, within } from "./Finding.ts"
import { linkOrCopy, type Release, temporary } from "./Release.ts"
import { type Texts, textsFromFolder, textsFromStore } from "./Texts.ts"

const { ok, wrong, skipped } = within("measurements")

const LOSS = 1e-4
const PROBABILITY = 1e-3
const LOGIT = 1e-3
const DRAW = 1e-4

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

  const validation = yield* measure("validation", new Set(roles.map(({ source }) => source)))
  if (validation !== undefined) {
    const again = new Map(validation.map((score) => [score.id, score]))
    const missing = scores.documents.filter(({ id }) => !again.has(id))
    const off = scores.documents.filter((said) => {
      const now = again.get(said.id)
      return (
        now !== undefined &&
        !(
          now.tokens === said.tokens &&
          now.bytes === said.bytes &&
          near(now.nll, said.nll, LOSS) &&
          near(now.text_nll, said.text_nll, LOSS)
        )
      )
    })
    if (missing.length > 0)
      findings.push(
        wrong(
          "losses of documents",
          `${missing.length} of ${scores.documents.length} are not in ${texts.from}, first ${missing[0]!.id}`,
        ),
      )
    for (const { id, nll } of off.slice(0, 5))
      findings.push(wrong("losses of documents", `${id}: ${nll} nats, measured again ${again.get(id)!.nll}`))
    if (off.length > 5) findings.push(wrong("losses of documents", `and ${off.length - 5} others`))
    if (missing.length + off.length === 0) {
      const difference = largest(scores.documents.map(({ id, nll }) => [nll, again.get(id)!.nll] as const))
      findings.push(
        ok(
          "losses of documents",
          `${scores.documents.length} validation documents of ${texts.from}: ${howNear(difference)}`,
        ),
      )
      const { metrics } = yield* Effect.fromResult(
        summariseLosses(validation, roles, { weighting: benchmark.mix.weights, seed: 0, samples: 1 }),
      )
      findings.push(...compareMetrics("validation losses", benchmark.metrics, metrics))
    }
  }
  const held = yield* measure("holdout", new Set(holdout.sources.map(({ source }) => source)))
  if (held === undefined)
    findings.push(
      skipped("holdout losses", "which documents were held out is not in the release; the store that made it knows"),
    )
  else {
    const { metrics } = yield* Effect.fromResult(
      summariseLosses(held, holdout.sources, {
        weighting: Object.fromEntries(holdout.sources.map(({ source, weight }) => [source, weight])),
        seed: 0,
        samples: 1,
      }),
    )
    findings.push(...compareMetrics("holdout losses", holdout.metrics, metrics))
  }
  return findings
})

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

const probes = Effect.fnUntraced(function* (checkpoint: string, files: ReleaseFiles, tokenizer: Tokenizer) {
  const engine = yield* Engine
  const said = files.probes.probes
  const encode = (text: string) => Array.from(tokenizer.encode(text))
  const asked: ReadonlyArray<Probe> = said
  const answers = yield* engine.probe({
    checkpoint,
    probes: asked.map((probe) => probeRequest(probe, encode, files.tokens.bosId)),
  })
  const again = asked.map((probe, position) => probeReport(probe, answers[position]!, (id) => tokenizer.decode([id])))
  const found: Array<Finding> = []
  for (const [position, one] of said.entries()) {
    const now = again[position]!
    const same =
      Math.abs(now.correct_token_rank - one.correct_token_rank) <= 1 &&
      now.target_tokens === one.target_tokens &&
      near(now.correct_token_probability, one.correct_token_probability, PROBABILITY) &&
      near(now.perplexity_on_target_sequence, one.perplexity_on_target_sequence, PROBABILITY) &&
      one.top.every(({ probability }, place) =>
        near(probability, now.top[place]?.probability ?? Number.NaN, PROBABILITY),
      )
    if (!same)
      found.push(
        wrong(
          "probes",
          `${JSON.stringify(one.prompt)}: rank ${one.correct_token_rank} and probability ${one.correct_token_probability}, measured again ${now.correct_token_rank} and ${now.correct_token_probability}`,
        ),
      )
  }
  if (found.length > 0) return found
  const difference = largest(
    said.map((one, position) => [one.correct_token_probability, again[position]!.correct_token_probability] as const),
  )
  return [ok("probes", `${said.length} probes: ranks and probabilities ${howNear(difference)}`)]
})

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

interface Sampled {
  readonly what: string
  readonly records: ReadonlyArray<GenerationRecord>
  readonly presets: ReadonlyArray<DecodingPreset>
  readonly maxNewTokens: number
  readonly seed: number
}

const samples = Effect.fnUntraced(function* (
  checkpoint: string,
  files: ReleaseFiles,
  tokenizer: Tokenizer,
  { what, records, presets, maxNewTokens, seed }: Sampled,
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
    for (const [position, record] of own.entries()) {
      const { tokens, finish } = generations[position]!
      const text = tokenizer.decode(record.token_ids, { skipSpecial: true })
      if (text !== record.generated) {
        found.push(wrong(what, `${name}, ${record.prompt_id}: its text is not that of its tokens`))
        continue
      }
      const at = Array.from({ length: Math.max(tokens.length, record.token_ids.length) }).findIndex(
        (_, index) => tokens[index] !== record.token_ids[index],
      )
      if (at < 0 && finish === record.finish) {
        same++
        continue
      }
      const recorded = record.token_ids[at]
      const before = [...prompts[position]!.ids, ...record.token_ids.slice(0, Math.max(0, at))]
      const logits = at < 0 || recorded === undefined ? undefined : yield* engine.logits({ checkpoint, ids: before })
      const uniform = stream(seed, `sample:${record.prompt_id}`).uniform(at)
      if (logits !== undefined && asGood(preset, logits.at(-1)!, before, recorded!, uniform)) parted++
      else
        found.push(
          wrong(
            what,
            `${name}, ${record.prompt_id}: the model goes on otherwise from token ${at < 0 ? "the last" : at + 1} on`,
          ),
        )
    }
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

const BehaviourSettings = Schema.Struct({
  behaviour: Schema.Struct({ preset: DecodingPreset, max_new_tokens: Schema.Int, seed: Schema.Int }),
})

const greedyWhileTraining = Effect.fnUntraced(function* (
  checkpoint: string,
  files: ReleaseFiles,
  tokenizer: Tokenizer,
) {
  const engine = yield* Engine
  const { SAMPLE_TOKENS } = yield* Effect.promise(() => import("../steps/TrainingRun.ts"))
  const { greedy } = yield* Effect.promise(() => import("../model/Decoding.ts"))
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
  const off = said.filter(
    ({ generated }, index) => tokenizer.decode(generations[index]!.tokens, { skipSpecial: true }) !== generated,
  )
  return off.length === 0
    ? [ok("greedy texts of the training", `${said.length} texts of step ${files.release.released_step}, the same`)]
    : off.map(({ prompt }) =>
        wrong("greedy texts of the training", `${JSON.stringify(prompt)}: the model goes on otherwise`),
      )
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
  if (options.corpus === undefined) {
    const texts = yield* textsFromStore(options.store, files)
    findings.push(
      ...(texts === undefined
        ? [
            skipped(
              "losses",
              "the texts are not in the release: give their folder with `--corpus`, or the store they were packed in with `--runs`",
            ),
          ]
        : yield* losses(checkpoint, files, texts)),
    )
  } else {
    // what is wrong with texts that somebody has beside a release is nothing about the release
    const texts = yield* Effect.result(textsFromFolder(options.corpus, files, tokenizer))
    findings.push(
      ...(texts._tag === "Failure"
        ? [skipped("losses", texts.failure.message)]
        : yield* losses(checkpoint, files, texts.success)),
    )
  }
  options.say("asking the probes again")
  findings.push(...(yield* probes(checkpoint, files, tokenizer)))
  findings.push(...(yield* greedyWhileTraining(checkpoint, files, tokenizer)))

  const { decoding } = files
  const sets: Array<Sampled> = [
    { what: "tuning samples", records: files.tuningGenerations },
    { what: "holdout samples", records: files.holdoutGenerations },
  ].map((set) => ({ ...set, presets: decoding.presets, maxNewTokens: decoding.max_new_tokens, seed: decoding.seed }))
  const benchmark = yield* Effect.result(readJson(BehaviourSettings, join(view, "benchmark_metrics.json")))
  const records = yield* Effect.result(readLines(GenerationRecord, join(view, "behaviour_generations.jsonl")))
  if (benchmark._tag === "Failure" || records._tag === "Failure")
    findings.push(skipped("benchmark samples", "how they were drawn is not in benchmark_metrics.json"))
  else {
    const { preset, max_new_tokens: maxNewTokens, seed } = benchmark.success.behaviour
    sets.unshift({ what: "benchmark samples", records: records.success, presets: [preset], maxNewTokens, seed })
  }
  for (const set of sets) {
    options.say(`drawing ${set.what} again`)
    findings.push(...(yield* samples(checkpoint, files, tokenizer, set)))
  }
  return findings
})
