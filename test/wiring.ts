/**
 * Each wrong wiring must be a type error, on the line after the remark. Take the remark away to read what the compiler says.
 */

import { Effect, FileSystem } from "effect"
import {
  benchmark,
  corpus,
  dataset,
  decay,
  each,
  engine,
  experiment,
  pack,
  pretrained,
  publish,
  release,
  select,
  sweep,
  tokenizer,
  train,
} from "exp"

const model = { layers: 1, width: 64, heads: 1 }
const recipe = { model, rowsPerStep: 1, peakLr: 1e-3, warmupSteps: 0, seed: 1, keepEvery: 10 }

export const right = experiment("right", function* () {
  const texts = yield* corpus({ from: "texts", train: { en: ["web_en"] } })
  const words = yield* tokenizer({ corpus: texts, vocabulary: 512 })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 64 })
  const base = yield* train({ tokens, ...recipe, steps: 10 })
  const tail = yield* decay({ from: base.stableAt(10), steps: 5, finalLr: 0, every: 5 })
  const scored = yield* benchmark({ model: tail.last })
  const best = yield* select({ among: [scored], by: "val_loss_mixed" })
  const decoding = yield* sweep({ model: best })

  const web = { repository: "our-org/web", revision: "main", files: "*.parquet" }
  const brought = yield* dataset({ sources: { web_en: web } })
  yield* corpus({ texts: brought, train: { en: ["web_en"] } })
  // @ts-expect-error what was brought is not split yet
  yield* tokenizer({ corpus: brought, vocabulary: 512 })
  // @ts-expect-error a corpus is no data set
  yield* corpus({ texts: [texts], train: { en: ["web_en"] } })
  // @ts-expect-error there is no such markup
  yield* dataset({ sources: { web_en: { ...web, markup: "wiki" } } })
  // @ts-expect-error what is brought is of a revision
  yield* dataset({ sources: { web_en: { repository: "our-org/web", files: "*.parquet" } } })

  yield* engine("torch", { precision: "bf16+adam8bit" })
  // @ts-expect-error there are tfjs, torch and auto
  yield* engine("torhc")
  // @ts-expect-error no engine computes in that
  yield* engine("torch", { precision: "int4" })

  // @ts-expect-error what was not released cannot be published
  yield* publish({ release: best, to: "our-org/model" })
  // quantised files may come along or not
  yield* release({ model: best, decoding, name: "a", license: "MIT" })
  // @ts-expect-error decoding settings are none
  yield* release({ model: best, decoding, quantised: decoding, name: "a", license: "MIT" })
  // @ts-expect-error what licences ask for is set aside by a reason alone
  yield* release({ model: best, decoding, name: "a", license: "MIT", licensing: { override: true } })
  // @ts-expect-error a corpus cannot be swept
  yield* sweep({ model: texts })
  // @ts-expect-error a model that was never measured cannot be swept
  yield* sweep({ model: tail.last })
  // @ts-expect-error training cannot go on from an annealed model: its optimizer state is gone
  yield* decay({ from: tail.last, steps: 5, finalLr: 0, every: 5 })
  // @ts-expect-error a whole training is not one of its checkpoints
  yield* decay({ from: base, steps: 5, finalLr: 0, every: 5 })
  // @ts-expect-error nor is a decay a checkpoint that can be continued
  yield* decay({ from: tail, steps: 5, finalLr: 0, every: 5 })
  // @ts-expect-error nobody measures `val_los_mixed`
  yield* select({ among: [scored], by: "val_los_mixed" })
  // @ts-expect-error unmeasured models cannot be chosen among
  yield* select({ among: tail.checkpoints, by: "val_loss_mixed" })
  // @ts-expect-error nor can they inside a list of measured ones
  yield* select({ among: [scored, tail.last], by: "val_loss_mixed" })
  // @ts-expect-error a corpus cannot be benchmarked
  yield* benchmark({ model: texts })
  // @ts-expect-error a decay is several models: say which
  yield* benchmark({ model: tail })
  // @ts-expect-error a stable checkpoint was not annealed
  yield* benchmark({ model: base.stableAt(10) })
  // @ts-expect-error training reads packed tokens, not a corpus
  yield* train({ tokens: texts, ...recipe, steps: 10 })
  // @ts-expect-error packing needs a tokenizer
  yield* pack({ corpus: texts, context: 64 })
  // @ts-expect-error a tokenizer is not a corpus
  yield* tokenizer({ corpus: words, vocabulary: 512 })
  // @ts-expect-error there is no parameter `vocabulery`
  yield* tokenizer({ corpus: texts, vocabulary: 512, vocabulery: 512 })
  // @ts-expect-error the input is missing
  yield* tokenizer({ vocabulary: 512 })
  // @ts-expect-error a parameter without a default is missing
  yield* tokenizer({ corpus: texts })
  // @ts-expect-error a number is not text
  yield* tokenizer({ corpus: texts, vocabulary: "512" })
  // @ts-expect-error there is no decay of that shape
  yield* decay({ from: base.stableAt(10), steps: 5, finalLr: 0, every: 5, shape: "sqrt" })
  const llama = { ...recipe, model: { family: "llama", layers: 1, width: 64, heads: 1, keyValueHeads: 1 } } as const
  yield* train({ tokens, ...llama, steps: 10 })
  // @ts-expect-error a GPT-2 shares no keys
  yield* train({ tokens, ...recipe, model: { ...model, keyValueHeads: 1 }, steps: 10 })
  // @ts-expect-error there is no such family
  yield* train({ tokens, ...recipe, model: { ...model, family: "mamba" }, steps: 10 })
  const published = yield* pretrained({ from: "folder", model, vocabulary: 512 })
  yield* pack({ corpus: texts, tokenizer: published.tokenizer, context: 64 })
  yield* train({ tokens, ...recipe, from: published, steps: 10 })
  // @ts-expect-error a checkpoint of ours is decayed, not trained from
  yield* train({ tokens, ...recipe, from: base.stableAt(10), steps: 10 })
  // @ts-expect-error a published model was not measured
  yield* sweep({ model: published })
  // @ts-expect-error a step is promised by `yield*`, and nothing without it
  yield* sweep({ model: select({ among: [scored], by: "val_loss_mixed" }) })
  // @ts-expect-error what a sweep found is no model
  yield* sweep({ model: decoding })
  return decoding
})

export const fan = experiment("fan", function* () {
  const texts = yield* corpus({ from: "texts", train: { en: ["web_en"] } })
  const words = yield* tokenizer({ corpus: texts, vocabulary: 512 })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 64 })
  const base = yield* train({ tokens, ...recipe, steps: 10 })
  const last = function* (from: ReturnType<typeof base.stableAt>) {
    return (yield* decay({ from, steps: 5, finalLr: 0, every: 5 })).last
  }
  // @ts-expect-error a fan-out over what training will leave needs a bound
  yield* each(base.stable, last)
  const models = yield* each(base.stable, last, { atMost: 3 })
  // @ts-expect-error how many there will be is not known yet
  models.length
  // @ts-expect-error unmeasured models cannot be chosen among, however many they are
  return yield* select({ among: models, by: "val_loss_mixed" })
})

// @ts-expect-error a plan touches nothing: FileSystem is not among what an experiment may ask for
export const impure = experiment("impure", function* () {
  return yield* (yield* FileSystem.FileSystem).readFileString("x")
})

// @ts-expect-error nor may it fail in ways of its own
export const failing = experiment("failing", function* () {
  return yield* Effect.fail("no")
})

export const set = experiment("set", { seed: 1, name: "a" }, function* (given) {
  // @ts-expect-error there is no parameter `sede`
  given.sede
  // @ts-expect-error a parameter whose default is text is not a number
  return yield* tokenizer({ corpus: yield* corpus({ from: given.seed, train: {} }), vocabulary: 512 })
})
