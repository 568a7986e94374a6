import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { makeSampler, processLogits } from "../../src/engine/LogitsProcessors.ts"
import { type DecodingPreset, gridPresets, standardPresets } from "../../src/model/Decoding.ts"
import { stream } from "../../src/model/Random.ts"
import { program as python, skipped } from "../transformers.ts"

const neutral: DecodingPreset = {
  name: "neutral",
  doSample: true,
  temperature: 1,
  topK: 0,
  topP: 1,
  repetitionPenalty: 1,
  noRepeatNgramSize: 0,
}
const golden = JSON.parse(readFileSync(new URL("../golden/logits_processors.json", import.meta.url), "utf8"))

const close = (actual: Float32Array, expected: ReadonlyArray<number | null>) => {
  assert.strictEqual(actual.length, expected.length)
  for (const [id, value] of expected.entries())
    if (value === null) assert.strictEqual(actual[id], Number.NEGATIVE_INFINITY, `token ${id}`)
    else assert.closeTo(actual[id]!, value, 2e-6, `token ${id}`)
}
const row = (...values: Array<number>) => Float32Array.from(values)
const left = (scores: Float32Array) => [...scores.keys()].filter((id) => scores[id]! > Number.NEGATIVE_INFINITY)

describe("logits processors", () => {
  const logits = Float32Array.from(golden.scores as Array<number>)
  const chain: ReadonlyArray<readonly [string, Partial<DecodingPreset>]> = [
    ["repetition_penalty_1.1", { repetitionPenalty: 1.1 }],
    ["then_no_repeat_ngram_2", { noRepeatNgramSize: 2 }],
    ["then_temperature_0.8", { temperature: 0.8 }],
    ["then_top_k_6", { topK: 6 }],
    ["then_top_p_0.9", { topP: 0.9 }],
  ]
  let preset = neutral
  for (const [name, setting] of chain) {
    preset = { ...preset, ...setting }
    const chained = preset
    it(`agree with transformers 5.23: ${name}`, () => {
      close(processLogits(chained, logits, golden.input_ids), golden.chain[name])
    })
  }

  it("draw with the probabilities of transformers", () => {
    const sampler = makeSampler({
      ...neutral,
      repetitionPenalty: 1.1,
      noRepeatNgramSize: 2,
      temperature: 0.8,
      topK: 6,
      topP: 0.9,
    })
    const [low, high] = [golden.chain.final_probs[4], golden.chain.final_probs[7]]
    assert.closeTo(low + high, 1, 1e-6)
    assert.strictEqual(sampler(logits, golden.input_ids, 0), 4)
    assert.strictEqual(sampler(logits, golden.input_ids, low - 1e-5), 4)
    assert.strictEqual(sampler(logits, golden.input_ids, low + 1e-5), 7)
    assert.strictEqual(sampler(logits, golden.input_ids, 1 - 2 ** -53), 7)
  })

  it("keep ties with the k-th score, cut equal scores by index, and keep at least one token", () => {
    close(processLogits({ ...neutral, topK: 2 }, row(1, 1, 1, 0), []), golden.top_k_2_with_ties)
    close(processLogits({ ...neutral, topP: 0.5 }, row(0, 0, 0, 0), []), golden["top_p_0.5_equal"])
    close(processLogits({ ...neutral, topP: 0.1 }, row(3, 2, 1, 0), []), golden["top_p_0.1_one_token"])
    assert.deepStrictEqual(left(processLogits({ ...neutral, topP: 0 }, row(5, 5, 1), [])), [1])
  })

  it("penalise a token once, however often it occurred, and never one outside of the vocabulary", () => {
    const scores = processLogits({ ...neutral, repetitionPenalty: 2 }, row(4, -4, 4), [0, 0, 0, 1, 1, 99])
    assert.deepStrictEqual([...scores], [2, -8, 4])
  })

  it("ban what followed the same tokens before, and nothing in a text shorter than the n-gram", () => {
    const banned = (size: number, previous: ReadonlyArray<number>) => {
      const scores = processLogits({ ...neutral, noRepeatNgramSize: size }, row(0, 0, 0, 0), previous)
      return [...scores.keys()].filter((id) => scores[id] === Number.NEGATIVE_INFINITY)
    }
    assert.deepStrictEqual(banned(3, [0, 1, 2, 0, 1, 3, 0, 1]), [2, 3])
    assert.deepStrictEqual(banned(3, [0, 1]), [])
    assert.deepStrictEqual(banned(1, [2, 2, 0]), [0, 2])
  })

  it("take the first of the largest when greedy, after penalty and n-grams", () => {
    const greedy = { ...neutral, doSample: false }
    assert.strictEqual(makeSampler(greedy)(row(1, 3, 3, 2), [], 0.9), 1)
    assert.strictEqual(makeSampler({ ...greedy, repetitionPenalty: 2 })(row(1, 3, 2.5, 2), [1], 0.9), 2)
    assert.strictEqual(makeSampler({ ...greedy, noRepeatNgramSize: 1 })(row(1, 3, 3, 2), [1], 0), 2)
    assert.strictEqual(makeSampler(greedy)(row(-5, -3, -4), [], 0), 1)
  })

  it("refuse logits of a broken model instead of hiding them in a draw", () => {
    for (const doSample of [true, false]) {
      const sampler = makeSampler({ ...neutral, doSample, topK: 1, topP: 0.5 })
      assert.throws(() => sampler(row(1, Number.NaN, 3), [], 0.5), /logit of token 1 is NaN/)
      assert.throws(() => sampler(row(1, 2, Number.POSITIVE_INFINITY), [], 0.5), /logit of token 2 is Infinity/)
      assert.throws(
        () => sampler(row(Number.NEGATIVE_INFINITY, Number.NEGATIVE_INFINITY), [], 0.5),
        /every token of the vocabulary is banned/,
      )
    }
  })

  it("leave the logits alone and carry nothing from one draw to the next", () => {
    const logits = row(1, 2, 3, 4)
    const sampler = makeSampler({ ...neutral, repetitionPenalty: 1.5, topP: 0.6, temperature: 0.5 })
    const first = sampler(logits, [3, 2], 0.3)
    sampler(logits, [0, 1], 0.9)
    assert.strictEqual(sampler(logits, [3, 2], 0.3), first)
    assert.deepStrictEqual([...logits], [1, 2, 3, 4])
  })

  const Row = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: -40, maximum: 40 }))).check(
    Schema.isMinLength(1),
    Schema.isMaxLength(60),
  )
  const Percent = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 100 }))
  it.prop("top-p keeps what a full sort keeps", [Row, Percent], ([values, percent]) => {
    // tenths of a nat: many ties
    const logits = Float32Array.from(values, (value) => value / 10)
    const p = percent / 100
    const kept = left(processLogits({ ...neutral, topP: p }, logits, []))
    assert.deepStrictEqual(kept, p < 1 ? naiveTopP(logits, p) : [...logits.keys()])
  })
  it.prop(
    "top-k keeps every score that at most k−1 exceed",
    [Row, Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 70 }))],
    ([values, k]) => {
      const logits = Float32Array.from(values)
      const kept = left(processLogits({ ...neutral, topK: k }, logits, []))
      const expected = [...logits.keys()].filter((id) => logits.filter((other) => other > logits[id]!).length < k)
      assert.deepStrictEqual(kept, expected)
    },
  )

  it("draws follow the distribution", () => {
    const sampler = makeSampler(neutral)
    const probabilities = [0.5, 0.3, 0.15, 0.05]
    const logits = Float32Array.from(probabilities, Math.log)
    const counts = [0, 0, 0, 0]
    for (let i = 0; i < 10_000; i++) counts[sampler(logits, [], (i + 0.5) / 10_000)]!++
    for (const [id, p] of probabilities.entries()) assert.closeTo(counts[id]! / 10_000, p, 2e-4)
  })
})

/** As transformers writes it: sort ascending and stable, cumulate, remove while ≤ 1−p, keep the last. */
const naiveTopP = (logits: Float32Array, p: number): ReadonlyArray<number> => {
  const ids = [...logits.keys()].sort((a, b) => logits[a]! - logits[b]! || a - b)
  const max = Math.max(...logits)
  const weights = logits.map((score) => Math.exp(Math.fround(score - max)))
  const sum = Math.fround(weights.reduce((total, weight) => total + weight, 0))
  let cumulated = 0
  const kept = ids.filter((id, position) => {
    cumulated += Math.fround(weights[id]! / sum)
    return position === ids.length - 1 || Math.fround(cumulated) > Math.fround(1 - p)
  })
  return kept.sort((a, b) => a - b)
}

describe("logits processors beside the library", () => {
  it.skipIf(skipped !== "")(`agree on 1,000 random rows with every preset${skipped}`, { timeout: 120_000 }, () => {
    const vocabulary = 1024
    const rows = 1000
    const random = stream(7, "oracle")
    const logits = new Float32Array(rows * vocabulary)
    for (let i = 0; i < logits.length; i++) logits[i] = 3 * random.normal(i)
    const presets = [
      ...standardPresets,
      ...standardPresets.map((preset) => ({ ...preset, name: `${preset.name}+ngram`, noRepeatNgramSize: 3 })),
      // the grid of the hero's sweep
      ...gridPresets({ temperature: [0.7, 0.9], topP: [0.9, 1], repetitionPenalty: [1] }),
    ]
    const cases = presets.flatMap((preset, p) =>
      Array.from({ length: rows }, (_, index) => ({
        preset,
        row: index,
        previous: Array.from({ length: 5 + ((index + p) % 40) }, (_, i) => random.word(1e8 + 64 * index + i) % 12),
      })),
    )
    const folder = mkdtempSync(join(tmpdir(), "exp-oracle-"))
    const path = join(folder, "logits.f32")
    writeFileSync(path, logits)
    const run = spawnSync(python, [new URL("transformers_oracle.py", import.meta.url).pathname], {
      input: JSON.stringify({ logits: path, vocabulary, cases }),
      maxBuffer: 2 ** 30,
      encoding: "utf8",
    })
    rmSync(folder, { recursive: true })
    assert.strictEqual(run.status, 0, run.stderr)
    const { out } = JSON.parse(run.stdout) as {
      out: ReadonlyArray<{ argmax: number; ids: ReadonlyArray<number>; scores: ReadonlyArray<number> | null }>
    }
    let border = 0
    for (const [index, { preset, row, previous }] of cases.entries()) {
      const logitsRow = logits.subarray(row * vocabulary, (row + 1) * vocabulary)
      const scores = processLogits(preset, logitsRow, previous)
      const theirs = out[index]!
      const ours = left(scores)
      // PyTorch's softmax sums in fp32 in an order of its own: a token at the very border of top-p may differ
      if (JSON.stringify(ours) !== JSON.stringify(theirs.ids)) {
        assert.isTrue(preset.topP < 1 && Math.abs(ours.length - theirs.ids.length) === 1, `${preset.name} row ${row}`)
        border++
      } else if (theirs.scores !== null)
        for (const [i, id] of ours.entries()) assert.strictEqual(scores[id], theirs.scores[i], `${preset.name} ${row}`)
      if (!preset.doSample) assert.strictEqual(makeSampler(preset)(logitsRow, previous, 0), theirs.argmax)
    }
    assert.isAtMost(border, 5, "rows where the border of top-p differs by one token")
    console.log(`${cases.length} rows compared, ${border} with one token more or less at the border of top-p`)
  })
})
