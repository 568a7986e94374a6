import { readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import {
  corpusDistinctShare,
  distinctShare,
  measureSample,
  repeatedShare,
  type Sample,
  summariseBehaviour,
  tailLoop,
  wilson,
} from "../../src/evaluation/Behaviour.ts"
import { UNDETERMINED } from "../../src/evaluation/Language.ts"
import { Measured } from "../../src/model/Report.ts"

const golden = JSON.parse(readFileSync(new URL("../golden/metrics.json", import.meta.url), "utf8"))
const texts = [golden.A, golden.B, golden.C] as ReadonlyArray<ReadonlyArray<number>>

/** Says of a text what its first word is called. */
const identify = (text: string) => (/^(en|it)/.exec(text) ?? [UNDETERMINED])[0]!
const settings = { identify, languages: ["en", "it"], specials: new Set([0, 1]) }
const sample = (over: Partial<Sample> = {}): Sample => ({
  id: "p",
  language: "en",
  tokens: [10, 11, 12, 13, 14, 15, 16, 17],
  text: "en a whole sentence.",
  finish: "length",
  ...over,
})
const measure = (over: Partial<Sample> = {}) => measureSample(sample(over), settings).measures

describe("generation metrics", () => {
  it("agree with the golden loops, repetitions and distinct shares", () => {
    for (const [index, tokens] of texts.entries()) {
      const { loop, ...expected } = golden.loop[index]
      assert.deepStrictEqual(tailLoop(tokens), loop ? expected : undefined)
      assert.closeTo(repeatedShare(tokens, 4)!, golden.rep_4[index], 1e-15)
    }
    assert.closeTo(corpusDistinctShare(texts, 2)!, golden.distinct_2_corpus, 1e-15)
    assert.closeTo(
      texts.reduce((sum, tokens) => sum + distinctShare(tokens, 2)! / 3, 0),
      golden.distinct_2_mean,
      1e-15,
    )
    const rep = texts.map((tokens) => measure({ tokens: tokens.map((id) => id + 2) }).repeated_4gram_rate === 1)
    assert.deepStrictEqual(rep, golden.repeated_4gram_any)
  })

  it("agree with the golden Wilson intervals", () => {
    for (const [share, [low, high]] of Object.entries(golden.wilson_95 as Record<string, [number, number]>)) {
      const [successes, n] = share.split("/").map(Number)
      const found = wilson(successes!, n!)
      assert.closeTo(found[0], low, 1e-9, share)
      assert.closeTo(found[1], high, 1e-9, share)
    }
  })

  it("find a loop only at the end, of three copies and twelve tokens", () => {
    const looping = [9, 8, 7, 6, 5, 4, 5, 4, 5, 4, 5, 4, 5, 4, 5, 4]
    assert.deepStrictEqual(tailLoop(looping), { period: 2, repeats: 6 })
    assert.isUndefined(tailLoop([...looping, 99]))
    assert.isUndefined(tailLoop(Array<number>(11).fill(3)))
    assert.deepStrictEqual(tailLoop(Array<number>(12).fill(3)), { period: 1, repeats: 12 })
    const period = [...Array(33).keys()]
    assert.isUndefined(tailLoop([...period, ...period, ...period]))
    assert.isUndefined(tailLoop([1, 2, 3, 4, 5, 6, 1, 2, 3, 4, 5, 6]))
  })

  it("strip specials before they count", () => {
    const { content, measures } = measureSample(sample({ tokens: [10, 11, 12, 13, 14, 15, 16, 1] }), settings)
    assert.deepStrictEqual(content, [10, 11, 12, 13, 14, 15, 16])
    assert.strictEqual(measures.completion_rate, 0)
    assert.strictEqual(measure().completion_rate, 1)
    assert.strictEqual(measure({ text: " \n" }).completion_rate, 0)
  })

  it("put no question to a sample that cannot answer it", () => {
    const empty = measure({ tokens: [], text: "" })
    assert.deepStrictEqual(
      [empty.distinct_2_mean, empty.rep_4, empty.language_consistency_mean, empty.language_switch_rate_mean],
      [null, null, null, null],
    )
    assert.deepStrictEqual([empty.loop_rate, empty.repeated_4gram_rate, empty.undetermined_rate], [0, 0, 1])
    assert.strictEqual(empty.log_probability_mean, null)
    assert.strictEqual(measure({ logProbability: -16 }).log_probability_mean, -2)
  })

  it("know a finished sentence, quoted or not", () => {
    for (const text of ["Basta.", "Really?\n", "«Basta!»", '"Yes."', "and so on…", "(see above.)"])
      assert.strictEqual(measure({ text }).sentence_end_rate, 1, text)
    for (const text of ["and so", "1.5 and", "a, b,", ""])
      assert.strictEqual(measure({ text }).sentence_end_rate, 0, text)
  })

  it("count windows of 12 words every 6 that turn to another declared language", () => {
    const words = (...starts: ReadonlyArray<string>) => starts.flatMap((start) => [start, ..."abcde"]).join(" ")
    assert.strictEqual(measure({ text: words("en", "it", "en", "en") }).language_switch_rate_mean, 1 / 3)
    assert.strictEqual(measure({ text: words("en", "xx", "en") }).language_switch_rate_mean, 0)
    assert.strictEqual(measure({ text: words("en", "en") }).language_switch_rate_mean, 0)
    assert.strictEqual(measure({ text: words("en") }).language_switch_rate_mean, null)
  })

  it("are summed up with n and intervals, undetermined samples apart", () => {
    const made = (id: number, over: Partial<Sample>) => measureSample(sample({ id: `p${id}`, ...over }), settings)
    const summary = summariseBehaviour(
      [
        made(1, {}),
        made(2, { text: "it wrong" }),
        made(3, { text: "??" }),
        made(4, { language: "it", text: "it giusto", finish: "eos" }),
      ],
      { seed: 1, resamples: 200 },
    )
    assert.deepInclude(summary["language_consistency_en"]!, { value: 0.5, n: 2 })
    assert.deepInclude(summary["language_consistency_it"]!, { value: 1, n: 1 })
    assert.deepStrictEqual(summary["language_consistency_mean"], {
      value: 2 / 3,
      ci95: wilson(2, 3),
      n: 3,
      unit: "samples",
    })
    assert.deepInclude(summary["undetermined_rate"]!, { value: 0.25, n: 4 })
    assert.deepInclude(summary["eos_rate"]!, { value: 0.25, ci95: wilson(1, 4) })
    assert.strictEqual(summary["distinct_2"]!.value, 7 / 28)
    assert.strictEqual(summary["distinct_2_mean"]!.value, 1)
    assert.isUndefined(summary["distinct_2"]!.ci95)
    assert.isUndefined(summary["log_probability_mean"])
    Schema.encodeUnknownSync(Schema.Record(Schema.String, Measured))(summary)
    assert.deepStrictEqual(summariseBehaviour([], { seed: 1 }), {})
  })

  const Tokens = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3 }))).check(
    Schema.isMaxLength(80),
  )
  it.prop("find every loop that is appended", [Tokens, Tokens.check(Schema.isMinLength(1))], ([head, cycle]) => {
    const period = cycle.slice(0, 32)
    const copies = Math.max(3, Math.ceil(12 / period.length))
    const tokens = [...head, ...Array.from({ length: copies }, () => period).flat()]
    const found = tailLoop(tokens)
    assert.isDefined(found)
    assert.isTrue(found!.period <= period.length)
    assert.isTrue(repeatedShare(tokens, 4)! > 0)
  })
  it.prop("keep shares between 0 and 1", [Tokens], ([tokens]) => {
    for (const share of [distinctShare(tokens, 2), repeatedShare(tokens, 4)])
      assert.isTrue(share === null || (share >= 0 && share <= 1))
  })
  const N = Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 500 }))
  it.prop("Wilson's interval holds the share and stays within 0 and 1", [N, Schema.Natural], ([n, some]) => {
    const successes = some % (n + 1)
    const [low, high] = wilson(successes, n)
    assert.isTrue(low >= 0 && high <= 1 && low <= successes / n && successes / n <= high && low < high)
  })
})
