import { readFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { makeSampler } from "../../src/engine/LogitsProcessors.ts"
import { type DecodingPreset, greedy } from "../../src/model/Decoding.ts"
import { parametersByFormula } from "../../src/verification/Arithmetic.ts"
import { plainly } from "../../src/verification/Finding.ts"
import { asGood, isAnswer } from "../../src/verification/Measurements.ts"

const golden = JSON.parse(readFileSync(join(import.meta.dirname, "../golden/param_counts.json"), "utf8"))

describe("parameters by formula", () => {
  it("are those of models that everybody can count", () => {
    const gpt2 = (vocab_size: number, n_positions: number, n_embd: number, n_layer: number) =>
      parametersByFormula({ model_type: "gpt2", vocab_size, n_positions, n_embd, n_layer, n_inner: null })?.parameters
    expect(gpt2(50257, 1024, 768, 12)).toBe(golden["gpt2_124M"])
    expect(gpt2(64000, 2500, 768, 12)).toBe(golden["1gpu_llm_small"].params)
    const llama = (d: number, layers: number, heads: number, groups: number, inner: number) =>
      parametersByFormula({
        model_type: "llama",
        vocab_size: 32000,
        hidden_size: d,
        num_hidden_layers: layers,
        num_attention_heads: heads,
        num_key_value_heads: groups,
        intermediate_size: inner,
        tie_word_embeddings: false,
      })?.parameters
    expect(llama(2048, 22, 32, 4, 5632)).toBe(golden["TinyLlama-1.1B"])
    expect(llama(4096, 32, 32, 8, 14336)).toBe(golden["Bielik-7B/Mistral-7B"])
    expect(parametersByFormula({ model_type: "mamba" })).toBeUndefined()
  })
})

describe("a token other than the recorded one", () => {
  const logits = Float32Array.from([1, 4, 3.9995, -2, 3])
  it("is as good for greedy only where the logits are as good as equal", () => {
    expect(asGood(greedy, logits, [0], 1, 0)).toBe(true)
    expect(asGood(greedy, logits, [0], 2, 0)).toBe(true)
    expect(asGood(greedy, logits, [0], 4, 0)).toBe(false)
    expect(asGood(greedy, logits, [0], 3, 0)).toBe(false)
  })

  it("is as good for a draw only where the draw falls on the border between the two", () => {
    const preset: DecodingPreset = { ...greedy, name: "sampled", doSample: true, temperature: 1, topK: 0, topP: 1 }
    const sampler = makeSampler(preset)
    const at = (uniform: number) => sampler(logits, [0], uniform)
    // the border between the first two tokens, by halving
    let [low, high] = [0, 0.5]
    for (let i = 0; i < 60; i++)
      [low, high] = at((low + high) / 2) === 0 ? [(low + high) / 2, high] : [low, (low + high) / 2]
    for (const [recorded, uniform, good] of [
      [0, low, true],
      [1, low, true],
      [1, low - 5e-5, true],
      [1, low - 5e-4, false],
      [0, low + 5e-5, true],
      [0, low + 5e-4, false],
      [4, low, false],
    ] as const)
      expect(asGood(preset, logits, [0], recorded, uniform), `${recorded} at ${uniform - low}`).toBe(good)
  })
})

describe("words of a stranger's file", () => {
  it("are shown on one line, and steer no terminal", () => {
    expect(plainly("a\n  b\u001b[2Jc\u202ed\u0000")).toBe("a; b\\u{1b}[2Jc\\u{202e}d\\u{0}")
    expect(plainly("perché “così” – ok")).toBe("perché “così” – ok")
  })
})

describe("an answer to a probe", () => {
  const logits = Float32Array.of(3, 2.9995, 1, 0.9995, -2)
  const decode = (id: number) => "abcde"[id]!
  const answer = (rank: number, tokens: string, target: number, ties = 0): boolean =>
    isAnswer(
      {
        correct_token_rank: rank,
        rank_ties: ties,
        top: [...tokens].map((token) => ({ token, probability: 0 })),
      },
      logits,
      target,
      decode,
    )

  it("has another rank only where the tokens between are as good as equal", () => {
    expect([1, 2, 3].map((rank) => answer(rank, "ab", 1))).toEqual([true, true, false])
    expect([2, 3, 4, 5].map((rank) => answer(rank, "ab", 2))).toEqual([false, true, true, false])
    expect([4, 5].map((rank) => answer(rank, "ab", 4))).toEqual([false, true])
    expect(answer(5, "ab", 4, 1)).toBe(false)
  })

  it("names the likeliest tokens, in another order only where they are as good as equal", () => {
    expect(["ab", "ba", "abcd", "badc"].map((tokens) => answer(5, tokens, 4))).toEqual([true, true, true, true])
    expect(["ac", "aa", "e", "abec"].map((tokens) => answer(5, tokens, 4))).toEqual([false, false, false, false])
  })
})
