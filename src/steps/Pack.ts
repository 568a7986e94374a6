/**
 * `pack`: a corpus encoded, packed to the context and mixed. What training reads, row by row.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Corpus, Tokenizer, Tokens } from "../model/Artifact.ts"
import { Mix } from "../model/Corpus.ts"
import { suggestion } from "../model/DidYouMean.ts"
import * as Step from "../plan/Step.ts"
import type { Parts, Texts } from "../plan/Texts.ts"

/** Of a tokenizer that does not come of this plan. */
const USUAL_VOCABULARY = 16_384

/** Bytes of text that a token stands for: 3.0 at a vocabulary of 2,048 entries, a third of a byte more for each doubling. */
const bytesPerToken = (vocabulary: number): number => Math.max(1, 3 + 0.33 * (Math.log2(vocabulary) - 11))

const withTokens = (texts: Texts, split: Parts, vocabulary: number): Texts => {
  const tokens = (bytes: number): number => bytes / bytesPerToken(vocabulary)
  return {
    ...texts,
    tokens: {
      train: tokens(split.train),
      validation: tokens(split.validation),
      trainedValidation: tokens(split.trainedValidation),
      holdout: tokens(split.holdout),
    },
    counted: false,
  }
}

export const pack = Step.make("pack", {
  version: 1,
  params: {
    /** Tokens in a row. */
    context: Schema.Int.check(Schema.isBetween({ minimum: 2, maximum: 1_048_576 })),
    mix: Mix.pipe(Schema.withConstructorDefault(Effect.succeed("source_balanced" as const))),
  },
  inputs: { corpus: Corpus, tokenizer: Tokenizer },
  output: (ref, { context }, { corpus, tokenizer }) =>
    new Tokens(ref, { ...corpus.known, context, vocabulary: tokenizer.vocabulary }),
  check: ({ mix }, { corpus }) => {
    if (typeof mix === "string") return undefined
    const { trainSources } = corpus.known
    const unknown = Object.keys(mix).find((source) => !trainSources.includes(source))
    if (unknown !== undefined)
      return {
        problem: `\`mix\` weighs \`${unknown}\`, which is not trained on`,
        hint: suggestion(unknown, trainSources),
      }
    if (trainSources.every((source) => (mix[source] ?? 0) === 0))
      return { problem: "all weights in `mix` are 0", hint: "weigh at least one source" }
    return undefined
  },
  // a token stands for some four bytes of text and takes two, or four where the vocabulary is large; few entries make it more
  writes: (_, { corpus = 0 }) => corpus,
  texts: (_, { corpus, tokenizer }) => {
    const texts = corpus?.[0]?.texts
    return texts?.split && withTokens(texts, texts.split, tokenizer?.[0]?.params.vocabulary ?? USUAL_VOCABULARY)
  },
  readsTexts: true,
  run: (work) =>
    Effect.gen(function* () {
      const { packTokens } = yield* Effect.promise(() => import("../data/Pack.ts"))
      yield* packTokens({
        corpusFolder: work.inputs["corpus"]![0]!.path,
        tokenizerFolder: work.inputs["tokenizer"]![0]!.path,
        context: work.params["context"] as number,
        mix: work.params["mix"] as Mix,
        out: work.out,
        progress: (done, total) => work.progress({ done, total, unit: "documents" }),
      })
      return undefined
    }),
})
