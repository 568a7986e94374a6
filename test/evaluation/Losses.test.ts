import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import { resampleSums } from "../../src/evaluation/Bootstrap.ts"
import { type SourceRole, scoreDocuments, summariseLosses, validationMetrics } from "../../src/evaluation/Losses.ts"
import * as Report from "../../src/model/Report.ts"

const sources: ReadonlyArray<SourceRole> = [
  { source: "web_en", language: "en", role: "train" },
  { source: "wiki_en", language: "en", role: "train" },
  { source: "web_it", language: "it", role: "train" },
  { source: "code", language: "code", role: "evaluate" },
  { source: "books_en", language: "en", role: "evaluate" },
]
const score = (source: string, id: number, nll: number, tokens: number, bytes = 4 * tokens): Report.DocumentScore => ({
  id: `${source}-${id}`,
  source,
  nll,
  text_nll: nll - 1,
  tokens,
  bytes,
})
const scores = [
  score("web_en", 1, 400, 100),
  score("web_en", 2, 1000, 200),
  score("wiki_en", 1, 300, 100),
  score("wiki_en", 2, 350, 100),
  score("web_it", 1, 500, 100),
  score("web_it", 2, 450, 100),
  score("code", 1, 50, 50),
  score("books_en", 1, 900, 100),
]
const options = { seed: 1, samples: 500 }
const summary = Result.getOrThrow(summariseLosses(scores, sources, options))
const value = (name: string, of = summary) => of.metrics[name]!.value

describe("losses", () => {
  it("divide summed nats by summed tokens, never average documents", () => {
    assert.closeTo(value("loss_web_en"), 1400 / 300, 1e-12)
    assert.closeTo(value("val_loss_en"), 2050 / 500, 1e-12)
    assert.closeTo(value("ppl_en"), Math.exp(2050 / 500), 1e-9)
    assert.closeTo(value("bpb_en"), (2050 - 4) / Math.LN2 / 2000, 1e-12)
  })

  it("mix sources by weight, evaluation sources at none", () => {
    const mixed = (1400 / 300 + 650 / 200 + 950 / 200) / 3
    assert.closeTo(value("val_loss_mixed"), mixed, 1e-12)
    assert.closeTo(value("ppl_mixed"), Math.exp(mixed), 1e-9)
    assert.closeTo(summary.mix.weights["web_it"]!, 1 / 3, 1e-15)
    assert.strictEqual(summary.mix.weights["code"], 0)
    assert.strictEqual(summary.metrics["val_loss_mixed"]!.n, 6)
    const byToken = Result.getOrThrow(summariseLosses(scores, sources, { ...options, weighting: "token" }))
    assert.closeTo(value("val_loss_mixed", byToken), (2050 + 950) / 700, 1e-12)
    const own = { web_en: 3, wiki_en: 0, web_it: 1, code: 9 }
    const custom = Result.getOrThrow(summariseLosses(scores, sources, { ...options, weighting: own }))
    assert.deepStrictEqual(custom.mix, {
      mode: "custom",
      weights: { web_en: 0.75, wiki_en: 0, web_it: 0.25, code: 0, books_en: 0 },
    })
  })

  it("name a language only through its training sources", () => {
    assert.isUndefined(summary.metrics["val_loss_code"])
    assert.strictEqual(value("loss_code"), 1)
    assert.strictEqual(value("loss_books_en"), 9)
    assert.strictEqual(summary.metrics["val_loss_en"]!.n, 4)
  })

  it("give no interval to a single document", () => {
    assert.isUndefined(summary.metrics["loss_code"]!.ci95)
    const [low, high] = summary.metrics["val_loss_mixed"]!.ci95!
    assert.isTrue(low < value("val_loss_mixed") && value("val_loss_mixed") < high)
  })

  it("are the same for the same seed, and others for another", () => {
    assert.deepStrictEqual(Result.getOrThrow(summariseLosses(scores, sources, options)), summary)
    // with two documents a source, 2.5% of resamples are the worst and 2.5% the best there is, whatever the seed
    const more = [...scores, ...[3, 4, 5, 6, 7].map((id) => score("web_en", id, 300 + 37 * id, 100))]
    const [one, other] = [1, 2].map((seed) => Result.getOrThrow(summariseLosses(more, sources, { ...options, seed })))
    assert.notDeepEqual(one!.metrics["loss_web_en"]!.ci95, other!.metrics["loss_web_en"]!.ci95)
    assert.strictEqual(value("loss_web_en", one), value("loss_web_en", other))
  })

  it("leave the intervals of other sources alone when a source is added", () => {
    const fewer = Result.getOrThrow(
      summariseLosses(
        scores.filter(({ source }) => source !== "web_it"),
        sources.filter(({ source }) => source !== "web_it"),
        options,
      ),
    )
    assert.deepStrictEqual(fewer.metrics["loss_web_en"], summary.metrics["loss_web_en"])
  })

  it("draw each source by itself", () => {
    const stratum = ["a", "a", "a", "a", "b", "b", "b", "b"]
    const [sums] = resampleSums(stratum, [Float64Array.of(1, 2, 4, 8, 1, 2, 4, 8)], { seed: 1, samples: 50 })
    assert.notDeepEqual(sums!.get("a"), sums!.get("b"))
    for (const sum of sums!.get("a")!) assert.isTrue(sum >= 4 && sum <= 32)
  })

  it("are refused when a source of the mix was not measured", () => {
    const without = summariseLosses(
      scores.filter(({ source }) => source !== "web_it"),
      sources,
      options,
    )
    assert.isTrue(Result.isFailure(without))
    if (Result.isFailure(without))
      assert.match(
        without.failure.message,
        /source "web_it" has weight 0\.33\d* in the mix but no document.*\n {2}hint: /,
      )
  })

  it("are joined with their documents by id", () => {
    const documents = [{ id: "a", source: "web_en", bytes: 7 }]
    const loss = { id: "a", nll: 3, textNll: 2, tokens: 4 }
    assert.deepStrictEqual(Result.getOrThrow(scoreDocuments([loss], documents)), [
      { id: "a", source: "web_en", nll: 3, text_nll: 2, tokens: 4, bytes: 7 },
    ])
    for (const wrong of [
      { ...loss, id: "b" },
      { ...loss, nll: Number.NaN },
      { ...loss, tokens: 0 },
    ])
      assert.isTrue(Result.isFailure(scoreDocuments([wrong], documents)))
  })

  it("fit the files they are written to", () => {
    Schema.encodeUnknownSync(Schema.Array(Report.SourceLoss))(summary.sources)
    Schema.encodeUnknownSync(Schema.Record(Schema.String, Report.Measured))(summary.metrics)
    const line = Result.getOrThrow(validationMetrics({ step: 5, tokens_seen: 50 }, scores, sources, options))
    Schema.encodeUnknownSync(Report.ValidationMetrics)(line)
    assert.deepStrictEqual(Object.keys(line.val_loss), ["en", "it"])
    assert.strictEqual(line.tokens, 850)
  })

  const Nats = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 5000 }))
  const Tokens = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 500 }))
  const Documents = Schema.Array(Schema.Tuple([Nats, Tokens])).check(Schema.isMinLength(2), Schema.isMaxLength(30))
  it.prop("of a mix lie between the best and the worst source", [Documents, Documents], ([en, it]) => {
    const all = [
      ...en.map(([nll, tokens], i) => score("web_en", i, nll, tokens)),
      ...it.map(([nll, tokens], i) => score("web_it", i, nll, tokens)),
    ]
    const { metrics } = Result.getOrThrow(summariseLosses(all, [sources[0]!, sources[2]!], { seed: 3, samples: 50 }))
    const [a, b, mixed] = ["loss_web_en", "loss_web_it", "val_loss_mixed"].map((name) => metrics[name]!.value)
    assert.isTrue(mixed! >= Math.min(a!, b!) - 1e-9 && mixed! <= Math.max(a!, b!) + 1e-9)
    for (const { value, ci95 } of Object.values(metrics)) {
      assert.isTrue(Number.isFinite(value))
      assert.isTrue(ci95![0] <= ci95![1])
    }
  })
})
