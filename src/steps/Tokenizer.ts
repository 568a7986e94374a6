/**
 * `tokenizer`: a byte-level BPE vocabulary trained on the training documents of a corpus.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Corpus, Tokenizer } from "../model/Artifact.ts"
import * as Step from "../plan/Step.ts"

export const tokenizer = Step.make("tokenizer", {
  version: 2,
  params: {
    /** Entries, special tokens and the 256 bytes included. */
    vocabulary: Schema.Int.check(Schema.isBetween({ minimum: 259, maximum: 1_000_000 })),
  },
  inputs: { corpus: Corpus },
  output: (ref, { vocabulary }) => new Tokenizer(ref, vocabulary),
  readsTexts: true,
  run: (work) =>
    Effect.gen(function* () {
      const { trainTokenizer } = yield* Effect.promise(() => import("../data/TokenizerTraining.ts"))
      yield* trainTokenizer({
        corpusFolder: work.inputs["corpus"]![0]!.path,
        vocabulary: work.params["vocabulary"] as number,
        out: work.out,
        progress: (done, total) => work.progress({ done, total, unit: "merges" }),
      })
      return undefined
    }),
})
