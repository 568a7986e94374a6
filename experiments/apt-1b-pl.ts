/**
 * A Polish base model of 1.06 billion parameters, LLaMA's architecture, on one GPU of 24 GB: twenty tokens a parameter.
 * Question: what does a decay from two thirds of the way lose against one from the end?
 *
 * The model it follows also read 1.35 billion tokens of ebooks that nobody may hand on; here their share is web text.
 * `--set scale=smoke` runs the same graph on two cores in minutes, on the texts of a folder: `--set texts=FOLDER`.
 */
import {
  benchmark,
  corpus,
  dataset,
  decay,
  Effect,
  each,
  engine,
  experiment,
  pack,
  quantise,
  release,
  Schema,
  select,
  sweep,
  tokenizer,
  train,
} from "exp"

const settings = Schema.Struct({
  scale: Schema.Literals(["full", "smoke"]).pipe(Schema.withConstructorDefault(Effect.succeed("full" as const))),
  /** For the small scale: a folder of `web_pl` and `wiki_pl`. */
  texts: Schema.String.pipe(Schema.withConstructorDefault(Effect.succeed("texts"))),
  seed: Schema.Int.pipe(Schema.withConstructorDefault(Effect.succeed(1337))),
})

const scales = {
  full: {
    vocabulary: 8000,
    context: 2048,
    // 1,060,456,448 parameters
    model: { family: "llama", layers: 20, width: 2048, heads: 16, feedForwardWidth: 5632, normEpsilon: 1e-6 },
    // 264 rows are 540,672 tokens; with the longer tail 39,200 steps, 21.2 billion tokens
    recipe: { rowsPerStep: 264, peakLr: 3e-4, warmupSteps: 1000, steps: 35_200, keepEvery: 3200, validateEvery: 800 },
    from: [25_600, 35_200],
    tail: { steps: 4000, finalLr: 3e-5, shape: "1-sqrt", every: 500, validateEvery: 500 },
    split: { validation: 0.05, holdout: 0.05, minimumDocuments: 20 },
    prompts: {},
  },
  smoke: {
    vocabulary: 1024,
    context: 64,
    model: { family: "llama", layers: 2, width: 64, heads: 2, feedForwardWidth: 176, normEpsilon: 1e-6 },
    recipe: { rowsPerStep: 16, peakLr: 3e-3, warmupSteps: 10, steps: 88, keepEvery: 8, validateEvery: 44 },
    from: [64, 88],
    tail: { steps: 8, finalLr: 3e-4, shape: "1-sqrt", every: 4, validateEvery: 8 },
    split: { validation: 0.05, holdout: 0.05, minimumDocuments: 5 },
    prompts: { tuningPrompts: 8, holdoutPrompts: 8, behaviourPrompts: 8 },
  },
} as const

const sources = {
  web_pl: {
    repository: "epfml/FineWeb2-HQ",
    revision: "main",
    files: "pol_Latn/*.parquet",
    text: "text",
    license: "ODC-By-1.0",
    attribution: "FineWeb2-HQ by EPFL, from Common Crawl",
    terms: "https://commoncrawl.org/terms-of-use",
    most: { megabytes: 9000 },
  },
  wiki_pl: {
    repository: "wikimedia/wikipedia",
    revision: "main",
    files: "20231101.pl/*.parquet",
    text: "text",
    id: "id",
    license: "CC-BY-SA-3.0",
    attribution: "the authors of the Polish Wikipedia",
  },
}

export default experiment("apt-1b-pl", settings, function* (set) {
  const scale = scales[set.scale]
  const full = set.scale === "full"
  yield* full ? engine("torch", { precision: "bf16" }) : engine("auto")

  const texts = yield* corpus({
    ...(full ? { texts: yield* dataset({ sources }) } : { from: set.texts }),
    train: { pl: ["web_pl", "wiki_pl"] },
    split: scale.split,
  })
  const words = yield* tokenizer({ corpus: texts, vocabulary: scale.vocabulary })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: scale.context, mix: "proportional" })
  const base = yield* train({ tokens, model: scale.model, ...scale.recipe, seed: set.seed })

  const candidates = yield* each(scale.from, function* (step) {
    const tail = yield* decay({ from: base.stableAt(step), ...scale.tail })
    return yield* each(tail.checkpoints, function* (model) {
      return yield* benchmark({ model })
    })
  })
  const best = yield* select({ among: candidates, by: "val_loss_mixed" })
  const decoding = yield* sweep({ model: best, temperature: [0.7, 0.8, 0.9], topP: [0.9, 0.95], ...scale.prompts })
  const named = { name: "apt-1b-pl", license: "CC-BY-SA-4.0" }
  const quantised = yield* quantise({ model: best, decoding, ...named, types: ["BF16", "Q8_0", "Q4_K_M"] })
  return yield* release({ model: best, decoding, quantised, ...named })
})
