/**
 * An English–Italian base model of 136 million parameters on one GPU of 16 GB, in about a day: 2.064 billion tokens.
 * Question: is a decay from step 8,000 better than one from step 7,000, and is the last checkpoint of a tail its best?
 *
 * `--set scale=smoke` runs the same graph on two cores in minutes, on the embedded texts or `--set texts=FOLDER`.
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
  release,
  Schema,
  select,
  sweep,
  tokenizer,
  train,
} from "exp"

const settings = Schema.Struct({
  scale: Schema.Literals(["full", "smoke"]).pipe(Schema.withConstructorDefault(Effect.succeed("full" as const))),
  /** For the small scale: a folder of `web_en`, `wiki_en`, `web_it` and `wiki_it`; here the embedded one. */
  texts: Schema.String.pipe(Schema.withConstructorDefault(Effect.succeed("experiments/corpus"))),
  seed: Schema.Int.pipe(Schema.withConstructorDefault(Effect.succeed(1337))),
})

const scales = {
  full: {
    vocabulary: 64_000,
    context: 2500,
    model: { layers: 12, width: 768, heads: 12 }, // 136,128,000 parameters
    // 96 rows are 240,000 tokens
    recipe: { rowsPerStep: 96, peakLr: 2e-4, warmupSteps: 400, steps: 8000, keepEvery: 1000, validateEvery: 250 },
    from: [7000, 8000],
    tail: { steps: 800, finalLr: 2e-5, every: 50, validateEvery: 50 },
    split: { validation: 0.05, holdout: 0.05, minimumDocuments: 20 },
    prompts: {},
  },
  smoke: {
    vocabulary: 1024,
    context: 64,
    model: { layers: 2, width: 64, heads: 2 },
    recipe: { rowsPerStep: 16, peakLr: 3e-3, warmupSteps: 10, steps: 80, keepEvery: 10, validateEvery: 40 },
    from: [70, 80],
    tail: { steps: 8, finalLr: 3e-4, every: 2, validateEvery: 8 },
    split: { validation: 0.05, holdout: 0.05, minimumDocuments: 5 },
    prompts: { tuningPrompts: 8, holdoutPrompts: 8, behaviourPrompts: 8 },
  },
} as const

const web = {
  license: "ODC-By-1.0",
  attribution: "FineWeb-HQ and FineWeb2-HQ by EPFL, from Common Crawl",
  terms: "https://commoncrawl.org/terms-of-use",
  text: "text",
}
const wikipedia = {
  license: "CC-BY-SA-3.0",
  attribution: "the authors of Wikipedia, by way of Wiki40B",
  text: "text",
  markup: "wiki40b",
} as const
/** Megabytes of text: together some 6.9 billion tokens. */
const sources = {
  web_en: {
    ...web,
    repository: "epfml/FineWeb-HQ",
    revision: "main",
    files: "data/**/*.parquet",
    most: { megabytes: 13_000 },
  },
  web_it: {
    ...web,
    repository: "epfml/FineWeb2-HQ",
    revision: "main",
    files: "ita_Latn/*.parquet",
    most: { megabytes: 13_000 },
  },
  wiki_en: { ...wikipedia, repository: "google/wiki40b", revision: "main", files: "en/train-*.parquet" },
  wiki_it: { ...wikipedia, repository: "google/wiki40b", revision: "main", files: "it/train-*.parquet" },
}

export default experiment("1gpu-small-en-it", settings, function* (set) {
  const scale = scales[set.scale]
  const full = set.scale === "full"
  yield* full ? engine("torch", { precision: "bf16" }) : engine("auto")

  const texts = yield* corpus({
    ...(set.scale === "full"
      ? { texts: yield* dataset({ sources }), from: "experiments/corpus" }
      : { from: set.texts }),
    train: { en: ["web_en", "wiki_en"], it: ["web_it", "wiki_it"] },
    evaluate: { ...(full ? { en: ["books_en"], it: ["books_it"] } : {}), code: ["code"] },
    split: scale.split,
  })
  const words = yield* tokenizer({ corpus: texts, vocabulary: scale.vocabulary })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: scale.context, mix: "source_balanced" })
  const base = yield* train({ tokens, model: scale.model, ...scale.recipe, seed: set.seed })

  const candidates = yield* each(scale.from, function* (step) {
    const tail = yield* decay({ from: base.stableAt(step), ...scale.tail })
    return yield* each(tail.checkpoints, function* (model) {
      return yield* benchmark({ model })
    })
  })
  const best = yield* select({ among: candidates, by: "val_loss_mixed" })
  const decoding = yield* sweep({ model: best, temperature: [0.7, 0.8, 0.9, 1], topP: [0.9, 0.95], ...scale.prompts })
  return yield* release({ model: best, decoding, name: "1gpu-small-en-it", license: "CC-BY-SA-4.0" })
})
