import { describe, expect, it } from "vitest"
import { tokenizerJson } from "../../../src/data/Tokenizer.ts"
import { byteSymbols } from "../../../src/data/Words.ts"
import { vocabularyKeys } from "../../../src/release/gguf/Vocabulary.ts"

const tokens = ["<|bos|>", "<|eos|>", "<|pad|>", ...byteSymbols, "Ġt"]
const ours = JSON.parse(tokenizerJson({ tokens, merges: ["Ġ t"] })) as Record<string, unknown>
const ids = { bosId: 0, eosId: 1, padId: 2 }
const keys = (changes: Record<string, unknown> = {}, rows = tokens.length) =>
  new Map(vocabularyKeys({ ...ours, ...changes }, ids, rows).map(([key, { value }]) => [key, value] as const))
const pre = (cut: unknown, model: Record<string, unknown> = {}) =>
  keys({ pre_tokenizer: cut, model: { ...(ours["model"] as object), ...model } }).get("tokenizer.ggml.pre")

const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true }
const bare = { ...byteLevel, use_regex: false }
const split = (Regex: string) => ({ type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false })
const sequence = (...pretokenizers: ReadonlyArray<unknown>) => ({ type: "Sequence", pretokenizers })
const qwen =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
const llama = qwen.replace("\\p{N}|", "\\p{N}{1,3}|")

describe("a vocabulary", () => {
  it("has the name of its cut by what the tokenizer says", () => {
    expect(pre(byteLevel)).toBe("gpt-2")
    expect(pre({ type: "ByteLevel", add_prefix_space: false })).toBe("gpt-2")
    expect(pre(sequence({ type: "Digits", individual_digits: true }, byteLevel))).toBe("smollm")
    expect(pre(sequence(split(llama), bare), { ignore_merges: true })).toBe("llama-bpe")
    expect(pre(sequence(split(qwen), bare))).toBe("qwen2")
  })

  it.each([
    ["with a space put in front", { ...byteLevel, add_prefix_space: true }],
    ["with digits in threes", sequence({ type: "Digits", individual_digits: false }, byteLevel)],
    ["with LLaMA's cut but merges inside of tokens", sequence(split(llama), bare)],
    ["with a pattern nobody knows", sequence(split("\\w+"), bare)],
    ["with a pattern and another after it", sequence(split(qwen), byteLevel)],
    ["that does not cut", bare],
    ["without a cut", null],
  ])("%s is refused", (_, cut) => {
    expect(() => pre(cut)).toThrow("has no name in llama.cpp")
  })

  it("marks rows that no token has, and tells BOS from the template", () => {
    const padded = keys({}, tokens.length + 2)
    expect((padded.get("tokenizer.ggml.tokens") as ReadonlyArray<string>).slice(-2)).toEqual(["[PAD260]", "[PAD261]"])
    expect((padded.get("tokenizer.ggml.token_type") as ReadonlyArray<number>).slice(-3)).toEqual([1, 5, 5])
    expect(padded.get("tokenizer.ggml.add_bos_token")).toBe(true)
    expect(keys({ post_processor: null }).get("tokenizer.ggml.add_bos_token")).toBe(false)
  })
})
