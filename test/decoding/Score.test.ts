import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { confirm, leaderboard, leaderboardCsv, type Objective, TERMS, winnerOf } from "../../src/decoding/Score.ts"
import type { MeasuredSample } from "../../src/evaluation/Behaviour.ts"
import { type DecodingPreset, standardPresets } from "../../src/model/Decoding.ts"
import { stream } from "../../src/model/Random.ts"
import { LeaderboardRow } from "../../src/model/Report.ts"

const N = 40
const options = { seed: 1, resamples: 500 }
const noise = stream(4, "samples")
interface Shape {
  readonly log?: number
  readonly distinct?: number
  readonly rep?: number
  readonly consistent?: number
  readonly completed?: number
  readonly loops?: number
  readonly spread?: number
  readonly at?: number
}
/** Samples scattered about given means. */
const samples = (shape: Shape = {}, n = N): ReadonlyArray<MeasuredSample> =>
  Array.from({ length: n }, (_, i) => {
    const wave = (shape.spread ?? 1) * noise.normal(i + (shape.at ?? 0))
    const share = (i * 7) % n
    return {
      id: `p${i}`,
      language: i % 2 === 0 ? "en" : "it",
      detected: "en",
      content: [i, i + 1, i + 2],
      measures: {
        loop_rate: share < (shape.loops ?? 0) * n ? 1 : 0,
        repeated_4gram_rate: 0,
        rep_4: Math.max(0, (shape.rep ?? 0.05) + 0.02 * wave),
        distinct_2_mean: Math.min(1, (shape.distinct ?? 0.9) + 0.03 * wave),
        completion_rate: share < (shape.completed ?? 1) * n ? 1 : 0,
        eos_rate: 0,
        sentence_end_rate: 0,
        language_consistency_mean: share < (shape.consistent ?? 1) * n ? 1 : 0,
        language_switch_rate_mean: null,
        undetermined_rate: 0,
        log_probability_mean: (shape.log ?? -3) + 0.5 * wave,
      },
    }
  })
const preset = (name: string): DecodingPreset => ({ ...standardPresets[1]!, name })
const board = (shapes: Readonly<Record<string, Shape>>, real: Shape = { at: 500 }, by: Objective = "decoding_score") =>
  leaderboard(
    by,
    Object.entries(shapes).map(([name, shape]) => ({ preset: preset(name), samples: samples(shape) })),
    samples(real),
    options,
  )
const order = ({ rows }: ReturnType<typeof board>) => rows.map(({ preset, rank }) => `${rank} ${preset}`)

describe("decoding score", () => {
  it("is minus the mean distance to real text, in its own spread", () => {
    const real = samples({ at: 500 })
    const { rows, reference } = leaderboard(
      "decoding_score",
      [{ preset: preset("same"), samples: real }],
      real,
      options,
    )
    assert.deepStrictEqual(Object.values(rows[0]!.z), [0, 0, 0, 0])
    assert.strictEqual(rows[0]!.score! + 0, 0)
    const logs = real.map(({ measures }) => measures.log_probability_mean!)
    const mean = logs.reduce((sum, value) => sum + value, 0) / N
    const sd = Math.sqrt(logs.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (N - 1))
    assert.closeTo(reference["log_probability_mean"]!.mean, mean, 1e-12)
    assert.closeTo(reference["log_probability_mean"]!.sd, sd, 1e-12)
    const shifted = real.map((sample) => ({
      ...sample,
      measures: { ...sample.measures, log_probability_mean: sample.measures.log_probability_mean! + 2 * sd },
    }))
    const [row] = leaderboard("decoding_score", [{ preset: preset("up"), samples: shifted }], real, options).rows
    assert.closeTo(row!.z["log_probability_mean"]!, 2, 1e-9)
    assert.closeTo(row!.score!, -0.5, 1e-9)
  })

  it("prefers text like people's to the hottest and to the most repetitive", () => {
    const found = board({
      hot: { log: -7, distinct: 0.995, rep: 0 },
      near: { log: -3.1, distinct: 0.89 },
      dull: { log: -0.5, distinct: 0.4, rep: 0.6 },
    })
    assert.deepStrictEqual(order(found), ["1 near", "2 hot", "3 dull"])
    const { score, metrics } = found.rows[0]!
    const [low, high] = metrics["decoding_score"]!.ci95!
    assert.isTrue(low <= score! && score! <= high && high <= 0)
  })

  it("has a spread to measure by when no real sample differs", () => {
    const real = { at: 500, consistent: 1 }
    const z = (consistent: number) => board({ x: { consistent } }, real).rows[0]!.z["language_consistency_mean"]!
    assert.strictEqual(z(1), 0)
    // one of n + 2 differs: sqrt(41)/42
    assert.closeTo(z(0.5), 0.5 / (Math.sqrt(41) / 42), 1e-12)
    assert.isTrue(Number.isFinite(z(0)))
  })

  it("does not let silence win", () => {
    const silent = samples({}).map((sample) => ({
      ...sample,
      measures: { ...sample.measures, language_consistency_mean: null },
    }))
    const { rows } = leaderboard(
      "decoding_score",
      [
        { preset: preset("silent"), samples: silent },
        { preset: preset("plain"), samples: samples({}) },
      ],
      samples({ at: 500 }),
      options,
    )
    assert.strictEqual(rows[0]!.preset, "plain")
    assert.isTrue(rows[1]!.z["language_consistency_mean"]! > 5)
  })

  it("rules out presets that complete fewer than 95%, and recommends with reserve when all are", () => {
    const found = board({ best: { completed: 0.9 }, worse: { log: -6, completed: 0.95 } })
    assert.deepStrictEqual(order(found), ["1 worse", "2 best"])
    assert.isFalse(found.rows[0]!.ruled_out, "95% is enough")
    assert.strictEqual(found.rows[1]!.score, null)
    assert.isTrue(found.rows[1]!.ruled_out)
    const none = board({ a: { completed: 0.5 }, b: { completed: 0.8, log: -9 } })
    assert.deepStrictEqual(winnerOf(none), { preset: "b", ruledOut: true })
    assert.match(
      confirm(none, none).words,
      /not confirmed: every preset completed fewer than 95% of the tuning prompts/,
    )
  })

  it("orders by another metric when the experiment names one", () => {
    const shapes = { calm: { loops: 0.1, log: -8 }, looping: { loops: 0.6 } }
    assert.deepStrictEqual(order(board(shapes, {}, "loop_rate")), ["1 calm", "2 looping"])
    assert.deepStrictEqual(order(board(shapes)), ["1 looping", "2 calm"])
  })

  it("refuses presets sampled on other prompts", () => {
    assert.throws(
      () => leaderboard("decoding_score", [{ preset: preset("x"), samples: samples({}, 30) }], samples(), options),
      /x was not sampled on the prompts/,
    )
  })
})

describe("holdout", () => {
  const tuning = board({ near: { log: -3.1 }, hot: { log: -7 } })

  it("confirms a winner that wins again", () => {
    const { confirmed, words } = confirm(tuning, board({ hot: { log: -7 }, near: { log: -3.2, at: 900 } }))
    assert.isTrue(confirmed)
    assert.match(
      words,
      /^near, chosen on 40 tuning prompts \(decoding_score -0\.\d{4} \[-\d\.\d{4}, -?0\.\d{4}\]\), has decoding_score -\d\.\d{4} \[.*\] on 40 holdout prompts, the best of 2; confirmed: no other preset is better there$/,
    )
  })

  it("confirms a winner that another one beats by chance", () => {
    const { confirmed, words } = confirm(tuning, board({ hot: { log: -3.3, at: 100 }, near: { log: -3.4, at: 200 } }))
    assert.match(words, /number 2 of 2; confirmed: no preset is better beyond chance \(paired over prompts/)
    assert.isTrue(confirmed)
  })

  it("does not confirm a winner that is clearly beaten, and keeps the choice", () => {
    const { confirmed, words } = confirm(tuning, board({ hot: { log: -3 }, near: { log: -9 } }))
    assert.isFalse(confirmed)
    assert.match(
      words,
      /number 2 of 2; not confirmed: hot is better there beyond chance \(hot by \[\d.*\]\); the choice stays/,
    )
  })

  it("does not confirm a winner that stops completing", () => {
    const { confirmed, words } = confirm(tuning, board({ near: { completed: 0.8 }, hot: { log: -7 } }))
    assert.isFalse(confirmed)
    assert.match(words, /completes only 0\.8000 of them, under 0\.95$/)
  })
})

describe("leaderboard files", () => {
  it("are one line a preset, with interval and n of each metric", () => {
    const { rows } = board({ 'a "b", c': {}, plain: { log: -5 } })
    Schema.encodeUnknownSync(Schema.Array(LeaderboardRow))(rows)
    const csv = leaderboardCsv(rows, [preset('a "b", c'), preset("plain")])
    const [header, first, second, end] = csv.split("\n")
    assert.strictEqual(end, "")
    assert.match(
      header!,
      /^rank,preset,score,ruled_out,do_sample,temperature,top_k,top_p,repetition_penalty,no_repeat_ngram_size,z_log_probability_mean,/,
    )
    assert.match(first!, /^1,"a ""b"", c",-\d\.\d+,false,true,0\.6,40,0\.9,1\.15,0,/)
    assert.match(second!, /^2,plain,/)
    assert.strictEqual(second!.split(",").length, header!.split(",").length)
    assert.include(header!, "decoding_score,decoding_score_low,decoding_score_high,decoding_score_n")
    assert.strictEqual(
      TERMS.every((term) => header!.includes(`z_${term}`)),
      true,
    )
  })
})
