/**
 * `pack`: a corpus encoded, packed to the context and mixed. What training reads, row by row.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Corpus, Tokenizer, Tokens } from "../model/Artifact.ts"
import { Mix } from "../model/Corpus.ts"
import { suggestion } from "../model/DidYouMean.ts"
import * as Step from "../plan/Step.ts"

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
