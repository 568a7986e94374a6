import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { didYouMean } from "../../src/model/DidYouMean.ts"
import { decodingMetricsOf, direction, isLossMetric, type MetricName, metricsOf } from "../../src/model/Metric.ts"

const names = metricsOf({ languages: ["en", "it"], sources: ["web_en", "web_it", "code"] })

describe("metric names", () => {
  it("are those that languages and sources have, each once", () => {
    for (const name of [
      "val_loss_mixed",
      "ppl_mixed",
      "val_loss_en",
      "ppl_it",
      "bpb_en",
      "loss_code",
      "language_consistency_it",
      "distinct_2",
    ] as const)
      assert.include(names, name)
    assert.notInclude(names, "val_loss_code" as never)
    assert.strictEqual(new Set(names).size, names.length)
    assert.include(decodingMetricsOf(["en"]), "decoding_score")
  })

  it("know their better end", () => {
    const highest = [...names, ...decodingMetricsOf(["en"])].filter((name) => direction(name) === "highest")
    assert.deepStrictEqual([...new Set(highest)].sort(), [
      "completion_rate",
      "decoding_score",
      "distinct_2",
      "distinct_2_mean",
      "eos_rate",
      "language_consistency_en",
      "language_consistency_it",
      "language_consistency_mean",
      "log_probability_mean",
      "sentence_end_rate",
    ])
    assert.deepStrictEqual(
      names.filter((name) => isLossMetric(name) && direction(name) !== "lowest"),
      [],
    )
  })

  it("do not compile when misspelt", () => {
    const right: MetricName = "val_loss_en"
    // @ts-expect-error a letter is missing
    const wrong: MetricName = "val_los_mixed"
    assert.strictEqual(didYouMean(wrong, names), "val_loss_mixed")
    assert.strictEqual(didYouMean(right, names), right)
  })
})

describe("did you mean", () => {
  it("counts swapped neighbours as one slip, and says nothing when nothing is near", () => {
    assert.strictEqual(didYouMean("pubilsh", ["push", "publish"]), "publish")
    assert.strictEqual(didYouMean("PLAN", ["run", "plan"]), "plan")
    assert.isUndefined(didYouMean("temperature", ["run", "plan", "top_p"]))
    assert.isUndefined(didYouMean("", ["run"]))
  })

  const Word = Schema.String.check(Schema.isMinLength(4), Schema.isMaxLength(12))
  it.prop("finds a word with one letter dropped", [Word, Schema.Natural], ([word, at]) => {
    const cut = word.slice(0, at % word.length) + word.slice((at % word.length) + 1)
    assert.isDefined(didYouMean(cut, [word]))
  })
})
