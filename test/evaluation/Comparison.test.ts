import { readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import type { MeasuredSample } from "../../src/evaluation/Behaviour.ts"
import { bootstrapP, holm } from "../../src/evaluation/Bootstrap.ts"
import { type Contender, compare, differences } from "../../src/evaluation/Comparison.ts"
import { lossStatistic, lossUnits, type SourceRole, summariseLosses } from "../../src/evaluation/Losses.ts"
import { stream } from "../../src/model/Random.ts"
import { Comparison, type DocumentScore } from "../../src/model/Report.ts"

const golden = JSON.parse(readFileSync(new URL("../golden/metrics.json", import.meta.url), "utf8"))
  .paired_bootstrap_example as {
  readonly documents: ReadonlyArray<{ source: string; tokens: number; nll_a: number; nll_b: number }>
  readonly weights: Readonly<Record<string, number>>
  readonly observed_delta_a_minus_b: number
  readonly delta_method_se: number
  readonly bootstrap_10000_percentile_ci95: readonly [number, number]
}
const sources: ReadonlyArray<SourceRole> = [
  { source: "wiki_en", language: "en", role: "train" },
  { source: "wiki_it", language: "it", role: "train" },
]
const scoresOf = (nll: (document: (typeof golden.documents)[number], index: number) => number) =>
  golden.documents.map(
    (document, index): DocumentScore => ({
      id: String(index),
      source: document.source,
      nll: nll(document, index),
      text_nll: nll(document, index),
      tokens: document.tokens,
      bytes: 4 * document.tokens,
    }),
  )
const contender = (candidate: string, scores: ReadonlyArray<DocumentScore>): Contender => ({
  model: { candidate, step: 1, parent_step: 0, tokens_seen: 10, parameters: 100 },
  metrics: Result.getOrThrow(summariseLosses(scores, sources, { seed: 1, samples: 200 })).metrics,
  scores,
  samples: [],
})
const choose = (contenders: ReadonlyArray<Contender>, by: Parameters<typeof compare>[0]["by"] = "val_loss_mixed") =>
  Result.getOrThrow(compare({ by, contenders, sources, weights: golden.weights, seed: 5, samples: 2000 }))

describe("paired comparison", () => {
  it("agrees with the golden example: difference, interval, delta-method error", () => {
    const { statistic, of } = lossStatistic("val_loss_mixed", sources, golden.weights)!
    const [a, b] = [scoresOf(({ nll_a }) => nll_a), scoresOf(({ nll_b }) => nll_b)].map((s) => lossUnits(s, of))
    const [found] = differences(statistic, b!, [a!], { seed: 1 })
    assert.closeTo(found!.value, golden.observed_delta_a_minus_b, 1e-12)
    assert.closeTo(found!.standardError, golden.delta_method_se, 1e-12)
    for (const end of [0, 1] as const)
      assert.closeTo(found!.ci95[end], golden.bootstrap_10000_percentile_ci95[end], 0.002)
    // two ways to the same width
    assert.closeTo(found!.ci95[1] - found!.ci95[0], 2 * 1.96 * found!.standardError, 0.004)
    assert.isTrue(found!.p > 0.15 && found!.p < 0.45)
  })

  it("checks perplexities and bits per byte by the delta method too", () => {
    for (const metric of ["ppl_mixed", "bpb_en", "val_loss_it", "ppl_it"] as const) {
      const { statistic, of } = lossStatistic(metric, sources, golden.weights)!
      const [a, b] = [scoresOf(({ nll_a }) => nll_a), scoresOf(({ nll_b }) => nll_b)].map((s) => lossUnits(s, of))
      const [found] = differences(statistic, b!, [a!], { seed: 1 })
      const width = found!.ci95[1] - found!.ci95[0]
      assert.closeTo(width / (2 * 1.96 * found!.standardError), 1, 0.12, metric)
    }
  })

  const noise = stream(9, "noise")
  const a = contender(
    "stable 400 → step 475",
    scoresOf(({ nll_a }) => nll_a),
  )
  const near = contender(
    "stable 300 → step 375",
    scoresOf(({ nll_a }, i) => nll_a + 12 * noise.normal(i) + 1),
  )
  const far = contender(
    "stable 200 → step 275",
    scoresOf(({ nll_a, tokens }, i) => nll_a + tokens * (0.2 + 0.02 * noise.normal(i))),
  )

  it("says who won, by how much, and who is tied", () => {
    const found = choose([far, near, a])
    assert.deepStrictEqual(
      found.candidates.map(({ candidate, winner, tied }) => [candidate, winner, tied]),
      [
        ["stable 400 → step 475", true, false],
        ["stable 300 → step 375", false, true],
        ["stable 200 → step 275", false, false],
      ],
    )
    assert.isUndefined(found.candidates[0]!.difference)
    assert.closeTo(found.candidates[2]!.difference!.value, 0.2, 0.02)
    assert.match(
      found.words,
      /^stable 400 → step 475 has the lowest val_loss_mixed, 4\.\d{4}, by \S+ \[-\d\.\d+, \d\.\d+\] over stable 300 → step 375 \(95% interval, 60 documents\); tied with stable 300 → step 375: not told apart at 0\.05 after Holm's correction, so between these only the better figure decided$/,
    )
    Schema.encodeUnknownSync(Comparison)(found)
  })

  it("says that a clear winner is clear, and that a lone candidate is alone", () => {
    assert.match(
      choose([far, a]).words,
      /has the lowest val_loss_mixed, 4\.\d{4}, by 0\.\d{4} \[0\.1\d{3}, 0\.2\d{3}\] over stable 200 → step 275 .*; told apart from it at 0\.05$/,
    )
    assert.match(choose([a]).words, /^stable 400 → step 475 is the only candidate: val_loss_mixed 4\.\d{4}$/)
  })

  it("does not depend on the order of candidates or documents", () => {
    const shuffled = { ...near, scores: near.scores.toReversed() }
    assert.deepStrictEqual(choose([a, shuffled, far]), choose([far, near, a]))
  })

  it("ties equals, and lets the first named win", () => {
    const twin = { ...a, model: { ...a.model, candidate: "twin" } }
    const found = choose([twin, a])
    assert.strictEqual(found.candidates[0]!.candidate, "twin")
    assert.isTrue(found.candidates[1]!.tied)
    assert.strictEqual(found.candidates[1]!.difference!.p, 1)
  })

  it("tells nothing apart on a single document", () => {
    const one = (candidate: string, nll: number): Contender => {
      const scores = [0, 1].map((i) => ({ ...a.scores[i === 0 ? 0 : 50]!, nll }))
      return contender(candidate, scores)
    }
    assert.isTrue(choose([one("a", 100), one("b", 900)]).candidates[1]!.tied)
  })

  it("is refused on different documents, and for figures that a benchmark lacks", () => {
    const message = (result: ReturnType<typeof compare>) => (Result.isFailure(result) ? result.failure.message : "none")
    const fewer = contender("fewer", a.scores.slice(1))
    const args = { sources, weights: golden.weights, seed: 1, samples: 100 }
    assert.match(
      message(compare({ ...args, by: "val_loss_mixed", contenders: [a, fewer] })),
      /not measured on the same documents or prompts.*\n {2}hint: benchmark all/,
    )
    assert.match(message(compare({ ...args, by: "val_loss_pl", contenders: [a, near] })), /has no such figure/)
    assert.match(message(compare({ ...args, by: "val_loss_mixed", contenders: [] })), /there is no candidate/)
  })

  it("pairs rates over prompts, and takes the highest where that is better", () => {
    const samples = (rate: number): ReadonlyArray<MeasuredSample> =>
      Array.from({ length: 60 }, (_, i) => ({
        id: `p${i}`,
        language: i % 2 === 0 ? "en" : "it",
        detected: "en",
        content: [],
        measures: {
          loop_rate: (i * 7) % 60 < rate * 60 ? 1 : 0,
          language_consistency_mean: i % 5 === 0 ? null : (i * 7) % 60 < rate * 60 ? 1 : 0,
        } as MeasuredSample["measures"],
      }))
    const with_ = (candidate: string, rate: number): Contender => ({
      ...a,
      model: { ...a.model, candidate },
      metrics: { loop_rate: { value: rate }, language_consistency_en: { value: rate } },
      samples: samples(rate),
    })
    const loops = choose([with_("looping", 0.9), with_("calm", 0.1)], "loop_rate")
    assert.strictEqual(loops.candidates[0]!.candidate, "calm")
    assert.closeTo(loops.candidates[1]!.difference!.value, 0.8, 0.02)
    assert.match(loops.words, /the lowest loop_rate, 0\.1000, by 0\.8\d* \[0\.\d+, 0\.\d+\].*60 prompts\)/)
    const consistent = choose([with_("low", 0.1), with_("high", 0.9)], "language_consistency_en")
    assert.strictEqual(consistent.candidates[0]!.candidate, "high")
    assert.isTrue(consistent.candidates[1]!.difference!.value < 0)
    assert.match(consistent.words, /the highest .* by 0\.\d+ \[0\.\d+, .*30 prompts\)/)
  })

  it("admits that a figure of the whole set has no interval", () => {
    const [x, y] = [0.5, 0.6].map((value) => ({ ...a, metrics: { distinct_2: { value } } }))
    assert.match(
      choose([x!, y!], "distinct_2").words,
      /has the highest distinct_2, 0\.6000, .*no interval can be given/,
    )
  })
})

describe("bootstrap p and Holm's correction", () => {
  it("count both sides and never reach zero", () => {
    assert.strictEqual(bootstrapP(Float64Array.of(1, 2, 3)), 2 / 4)
    assert.strictEqual(bootstrapP(Float64Array.of(0, 0, 0)), 1)
    assert.strictEqual(bootstrapP(new Float64Array(9999).fill(-1)), 2 / 10_000)
  })

  it("corrects the example of Holm's paper and keeps the order", () => {
    assert.deepStrictEqual(
      holm([0.01, 0.04, 0.03, 0.005]).map((p) => Number(p.toFixed(6))),
      [0.03, 0.06, 0.06, 0.02],
    )
    assert.deepStrictEqual(holm([]), [])
  })

  const P = Schema.Array(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))).check(
    Schema.isMaxLength(20),
  )
  it.prop("never lowers a p, never passes 1, and never reorders", [P], ([p]) => {
    const corrected = holm(p)
    for (const [i, one] of corrected.entries()) {
      assert.isTrue(one >= p[i]! && one <= 1)
      for (const [j, other] of corrected.entries()) if (p[i]! < p[j]!) assert.isTrue(one <= other)
    }
  })
})
