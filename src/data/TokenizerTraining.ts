/**
 * A tokenizer for a corpus: trained on the train part of its training sources and nothing else, measured on their validation part.
 *
 * | file                      | what                                                                            |
 * |---------------------------|---------------------------------------------------------------------------------|
 * | `tokenizer.json`          | the tokenizer, for every reader of Hugging Face files                             |
 * | `tokenizer_config.json`   | class, special tokens and, once known, the longest input                          |
 * | `special_tokens_map.json` | which transformers 5 no longer reads and others do                                |
 * | `tokenizer_report.json`   | `TokenizerReport`: what it was trained on, and its figures by language and source          |
 */
import { writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Part } from "../model/Corpus.ts"
import { BpeTrainer, type Progress } from "./BpeTrainer.ts"
import { CorpusUnwritable, forEachDocument, problemOf, readInventory } from "./Corpus.ts"
import {
  BpeTokenizer,
  measured,
  noFigures,
  pretty,
  specialTokens,
  type TokenizerFigures,
  writeTokenizer,
} from "./Tokenizer.ts"
import { countWords } from "./Words.ts"
import { keepSmall } from "./YoungSpace.ts"

const minFrequency = 2
const smallestVocabulary = specialTokens.length + 256

export class VocabularyUnreachable extends Schema.TaggedError<VocabularyUnreachable>()("VocabularyUnreachable", {
  asked: Schema.Int,
  /** Entries the texts give. */
  reached: Schema.Int,
}) {
  override get message() {
    return this.asked < smallestVocabulary
      ? `a vocabulary of ${this.asked} has no room for the 256 bytes and ${specialTokens.length} special tokens\n  hint: ask for at least ${smallestVocabulary}`
      : `the texts give ${this.reached} vocabulary entries, ${this.asked} were asked for: no other pair of tokens occurs twice\n  hint: ask for \`vocabulary: ${this.reached}\` or less, or add texts`
  }
}

export interface MeasuredFigures extends TokenizerFigures {
  /** `validation`, or `train` where a language has no validation documents. */
  readonly part: Part
  /** Tokens over tokens of a reference language on parallel documents: null, as a corpus has none. */
  readonly parity: number | null
}

export interface TokenizerReport {
  readonly vocabulary: number
  readonly merges: number
  readonly minFrequency: number
  readonly trainedOn: {
    readonly sources: ReadonlyArray<string>
    readonly documents: number
    readonly bytes: number
    readonly words: number
    /** Different pieces the pre-tokeniser cut. */
    readonly distinctPieces: number
    /** Rare pieces left out because there were too many to count; absent when none was. */
    readonly forgottenPieces?: number
  }
  readonly languages: { readonly [language: string]: MeasuredFigures }
  readonly sources: { readonly [source: string]: MeasuredFigures }
}

export const trainTokenizer = Effect.fn("data.trainTokenizer")(function* (request: {
  readonly corpusFolder: string
  readonly vocabulary: number
  /** Written as `model_max_length`; a tokens artifact may say it later. */
  readonly modelMaxLength?: number | undefined
  readonly out: string
  readonly progress?: Progress | undefined
}) {
  const { corpusFolder, vocabulary, modelMaxLength, out, progress } = request
  if (vocabulary < smallestVocabulary)
    return yield* new VocabularyUnreachable({ asked: vocabulary, reached: smallestVocabulary })
  const inventory = yield* readInventory(corpusFolder)
  const training = inventory.sources.filter(({ role }) => role === "train")

  const trainer = new BpeTrainer()
  let documents = 0
  let bytes = 0
  let words = 0
  for (const { source } of training)
    yield* forEachDocument(corpusFolder, source, ({ part, text }) => {
      if (part !== "train") return
      trainer.add(text)
      documents++
      bytes += Buffer.byteLength(text)
      words += countWords(text)
    })
  const trained = yield* trainer.train({ vocabulary, specialTokens, minFrequency, progress })
  if (trained.tokens.length < vocabulary)
    return yield* new VocabularyUnreachable({ asked: vocabulary, reached: trained.tokens.length })

  const tokenizer = new BpeTokenizer(trained)
  const validated = new Set(
    training.flatMap(({ language, parts }) => (parts.validation.documents > 0 ? [language] : [])),
  )
  const languages = new Map<string, MeasuredFigures>()
  const sources = new Map<string, MeasuredFigures>()
  for (const { source, language, parts } of training) {
    const languagePart: Part = validated.has(language) ? "validation" : "train"
    const sourcePart: Part = parts.validation.documents > 0 ? "validation" : "train"
    let ofLanguage = languages.get(language) ?? { ...noFigures, part: languagePart, parity: null }
    let ofSource: MeasuredFigures = { ...noFigures, part: sourcePart, parity: null }
    yield* forEachDocument(corpusFolder, source, ({ part, text }) => {
      if (part === languagePart) ofLanguage = { ...ofLanguage, ...measured(ofLanguage, tokenizer, text) }
      if (part === sourcePart) ofSource = { ...ofSource, ...measured(ofSource, tokenizer, text) }
    })
    languages.set(language, ofLanguage)
    sources.set(source, ofSource)
  }
  const report: TokenizerReport = {
    vocabulary: trained.tokens.length,
    merges: trained.merges.length,
    minFrequency,
    trainedOn: {
      sources: training.map(({ source }) => source),
      documents,
      bytes,
      words,
      distinctPieces: trainer.words,
      ...(trainer.forgotten > 0 ? { forgottenPieces: trainer.forgotten } : {}),
    },
    languages: Object.fromEntries(languages),
    sources: Object.fromEntries(sources),
  }
  yield* Effect.tryPromise({
    try: async () => {
      await writeTokenizer(out, trained, { modelMaxLength })
      await writeFile(join(out, "tokenizer_report.json"), pretty(report))
    },
    catch: (cause) => new CorpusUnwritable({ path: out, problem: problemOf(cause) }),
  })
  return report
}, keepSmall)
