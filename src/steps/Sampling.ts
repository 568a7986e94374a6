/**
 * Prompts of a corpus, and what a model makes of them, measured: what benchmark and sweep share.
 */
import * as Effect from "effect/Effect"
import { corpusBatches } from "../data/Corpus.ts"
import { buildPrompts, type PromptSet, type TokenizedPrompt } from "../decoding/Prompts.ts"
import { Engine } from "../engine/Engine.ts"
import { type MeasuredSample, measureSample, type Sample } from "../evaluation/Behaviour.ts"
import { languageIdentifier } from "../evaluation/Language.ts"
import type { Document } from "../model/Corpus.ts"
import type { DecodingPreset } from "../model/Decoding.ts"
import type { GenerationRecord } from "../model/Report.ts"
import { type Behind, sourceNames, sourceRoles } from "./Measuring.ts"

export const promptsFor = Effect.fn("promptsFor")(function* (
  { corpus, index, tokenizer }: Behind,
  needs: Readonly<Record<PromptSet, number>>,
  maxNewTokens: number,
  seed: number,
) {
  const documents = yield* Effect.promise(async () => {
    const all: Array<Document> = []
    for (const source of sourceNames(index, "train"))
      for await (const batch of corpusBatches(corpus.path, source)) all.push(...batch)
    return all
  })
  return yield* Effect.fromResult(
    buildPrompts({
      documents,
      sources: sourceRoles(index),
      languages: index.languages,
      maxNewTokens,
      seed,
      needs,
      encode: (text) => Array.from(tokenizer.encode(text)),
      decode: (ids) => tokenizer.decode(ids, { skipSpecial: true }),
    }),
  )
})

export interface Sampled {
  readonly samples: ReadonlyArray<MeasuredSample>
  readonly records: ReadonlyArray<GenerationRecord>
}

const measurer = Effect.fnUntraced(function* ({ index }: Behind) {
  const identify = yield* languageIdentifier(index.languages)
  const specials = new Set([index.bosId, index.eosId, index.padId])
  return (sample: Sample): MeasuredSample => measureSample(sample, { identify, languages: index.languages, specials })
})

/** One continuation of each prompt. The random stream of a prompt is the same for every preset and model. */
export const generateSamples = Effect.fn("generateSamples")(function* (
  of: Behind,
  prompts: ReadonlyArray<TokenizedPrompt>,
  preset: DecodingPreset,
  maxNewTokens: number,
  seed: number,
) {
  const engine = yield* Engine
  const { index, tokenizer } = of
  const generating = engine.generate({
    checkpoint: of.model.path,
    prompts: prompts.map(({ id, ids }) => ({ id, ids: [index.bosId, ...ids] })),
    preset,
    maxNewTokens,
    eosId: index.eosId,
    seed,
  })
  // the language tables are read in this thread while the engine's are at work
  const [generations, measure] = yield* Effect.all([generating, measurer(of)], { concurrency: 2 })
  const byId = new Map(generations.map((generation) => [generation.id, generation]))
  const pairs = prompts.map(({ id, language, text: prompt }) => {
    const { tokens, finish, logProbability } = byId.get(id)!
    const text = tokenizer.decode(tokens, { skipSpecial: true })
    const sample = measure({ id, language, tokens, text, finish, logProbability })
    const record: GenerationRecord = {
      preset: preset.name,
      prompt_id: id,
      language,
      prompt,
      generated: text,
      token_ids: [...tokens],
      finish,
      detected_language: sample.detected,
    }
    return { sample, record }
  })
  return { samples: pairs.map(({ sample }) => sample), records: pairs.map(({ record }) => record) } satisfies Sampled
})

/** The documents' own continuations, measured as if they had been generated. */
export const realSamples = Effect.fn("realSamples")(function* (of: Behind, prompts: ReadonlyArray<TokenizedPrompt>) {
  const engine = yield* Engine
  const { index } = of
  const measure = yield* measurer(of)
  const answers = yield* engine.probe({
    checkpoint: of.model.path,
    probes: prompts.map(({ ids, continuationIds }) => ({ context: [index.bosId, ...ids], target: continuationIds })),
  })
  return prompts.map(({ id, language, continuation, continuationIds }, position) =>
    measure({
      id,
      language,
      tokens: continuationIds,
      text: continuation,
      finish: "length",
      logProbability: answers[position]!.logProbabilities.reduce((sum, value) => sum + value, 0),
    }),
  )
})
