/**
 * A small English–Italian model, from text to a release, on two CPU cores.
 * Question: is a decay from step 200 already as good as one from step 300?
 */
import { benchmark, corpus, decay, each, experiment, pack, release, select, sweep, tokenizer, train } from "exp"

const settings = { corpus: "experiments/corpus", license: "CC0-1.0", seed: 1337 }

export default experiment("small-en-it", settings, function* (set) {
  const texts = yield* corpus({
    from: set.corpus,
    train: { en: ["web_en", "wiki_en"], it: ["web_it", "wiki_it"] },
    evaluate: { en: ["books_en"], it: ["books_it"], code: ["code"] },
    split: { validation: 0.15, holdout: 0.15, minimumDocuments: 6 },
  })
  const words = yield* tokenizer({ corpus: texts, vocabulary: 2048 })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 128, mix: "source_balanced" })

  const model = { layers: 4, width: 128, heads: 4 }
  const recipe = { rowsPerStep: 16, peakLr: 3e-3, warmupSteps: 30, seed: set.seed }
  const base = yield* train({ tokens, model, ...recipe, steps: 300, keepEvery: 100 })

  const candidates = yield* each([200, 300], function* (step) {
    const tail = yield* decay({ from: base.stableAt(step), steps: 80, finalLr: 1e-5, shape: "1-sqrt", every: 20 })
    return yield* each(tail.checkpoints, function* (model) {
      return yield* benchmark({ model })
    })
  })
  const best = yield* select({ among: candidates, by: "val_loss_mixed" })
  const decoding = yield* sweep({ model: best, temperature: [0.7, 0.9], topP: [0.9, 1] })
  return yield* release({ model: best, decoding, name: "small-en-it", license: set.license })
})
