/**
 * A Polish GPT-2 of 1.3 billion parameters on one GPU of 12 GB: fp16, moments of 8 bits, activations computed twice.
 * Question: what is the most that a card of 12 GB can train, and how far does it come when it reads its texts many times over?
 *
 * The model it follows is told of with 28 layers of width 1,536, which are 0.87 billion parameters; here the count is kept, and the
 * width is 1,920. `--set scale=smoke` runs the same graph on two cores in minutes, on the texts of a folder: `--set texts=FOLDER`.
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
  /** For the small scale: a folder of `wiki_pl`. */
  texts: Schema.String.pipe(Schema.withConstructorDefault(Effect.succeed("texts"))),
  seed: Schema.Int.pipe(Schema.withConstructorDefault(Effect.succeed(1337))),
})

const scales = {
  full: {
    vocabulary: 32_000,
    context: 1024,
    model: { layers: 28, width: 1920, heads: 16 },
    // 256 rows are 262,144 tokens
    recipe: { rowsPerStep: 256, peakLr: 2e-4, warmupSteps: 1000, steps: 30_000, keepEvery: 5000, validateEvery: 500 },
    tail: { steps: 4000, finalLr: 2e-5, shape: "1-sqrt", every: 1000, validateEvery: 500 },
    split: { validation: 0.05, holdout: 0.05, minimumDocuments: 20 },
    prompts: {},
  },
  smoke: {
    vocabulary: 1024,
    context: 64,
    model: { layers: 4, width: 48, heads: 2 },
    recipe: { rowsPerStep: 16, peakLr: 3e-3, warmupSteps: 10, steps: 90, keepEvery: 15, validateEvery: 45 },
    tail: { steps: 12, finalLr: 3e-4, shape: "1-sqrt", every: 3, validateEvery: 6 },
    split: { validation: 0.05, holdout: 0.05, minimumDocuments: 5 },
    prompts: { tuningPrompts: 8, holdoutPrompts: 8, behaviourPrompts: 8 },
  },
} as const

const sources = {
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

export default experiment("polish-1b3-12gb", settings, function* (set) {
  const scale = scales[set.scale]
  const full = set.scale === "full"
  yield* full ? engine("torch", { precision: "fp16+adam8bit" }) : engine("auto")

  const texts = yield* corpus({
    ...(full ? { texts: yield* dataset({ sources }) } : { from: set.texts }),
    train: { pl: ["wiki_pl"] },
    split: scale.split,
  })
  const words = yield* tokenizer({ corpus: texts, vocabulary: scale.vocabulary })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: scale.context })
  const base = yield* train({ tokens, model: scale.model, ...scale.recipe, seed: set.seed })
  const tail = yield* decay({ from: base.stableAt(scale.recipe.steps), ...scale.tail })
  const candidates = yield* each(tail.checkpoints, function* (model) {
    return yield* benchmark({ model })
  })
  const best = yield* select({ among: candidates, by: "val_loss_mixed" })
  const decoding = yield* sweep({ model: best, temperature: [0.7, 0.8, 0.9], topP: [0.9, 0.95], ...scale.prompts })
  const named = { name: "polish-1b3-12gb", license: "CC-BY-SA-4.0" }
  const types = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "Q3_K_M", "Q2_K"] as const
  const quantised = yield* quantise({ model: best, decoding, ...named, types })
  return yield* release({ model: best, decoding, quantised, ...named })
})
