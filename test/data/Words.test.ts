import { createHash } from "node:crypto"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { characterClass, countCharacters, countWords, PairTable, WordTable, wordEnd } from "../../src/data/Words.ts"
import { hostile } from "./texts.ts"

const cut = (text: string): ReadonlyArray<string> => {
  const words: Array<string> = []
  for (let start = 0; start < text.length; ) {
    const end = wordEnd(text, start)
    words.push(text.slice(start, end))
    start = end
  }
  return words
}

/** GPT-2's own pattern, with Unicode's white space for `\s`. */
const pattern =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu

describe("words", () => {
  it("are cut where GPT-2's pattern cuts them", () => {
    for (const text of hostile) {
      // letters that Unicode 17 added are letters to a new runtime's pattern and not here
      if (!text.includes("newer letters")) assert.deepStrictEqual(cut(text), text.match(pattern) ?? [])
    }
  })

  it.effect.prop(
    "are cut the same from any characters",
    [Schema.Array(Schema.Literals(["a", "é", "1", "'", "s", "l", " ", " ", "\n", "\u00a0", "-", "😀", "漢", "ve"]))],
    ([pieces]) => Effect.sync(() => assert.deepStrictEqual(cut(pieces.join("")), pieces.join("").match(pattern) ?? [])),
  )

  it("classify every character as the library does, whatever Unicode version the runtime has", () => {
    const classes = Uint8Array.from({ length: 0x110000 }, (_, codePoint) =>
      codePoint >= 0xd800 && codePoint < 0xe000 ? 0 : characterClass(codePoint),
    )
    // made with Python tokenizers 0.23.3: a character is a letter when "a" takes it in, a number when "1" does, other when "!" does
    assert.strictEqual(
      createHash("sha256").update(classes).digest("hex"),
      "aecb3296bf91b685a5873b3c255c81f726f2c652a55d7bdef27ae102a230ad0c",
    )
  })

  it("are counted between white space, characters by code point", () => {
    assert.strictEqual(countWords("  due\u00a0parole,\nuna terza  "), 4)
    assert.strictEqual(countWords(""), 0)
    assert.strictEqual(countCharacters("a😀è"), 3)
  })

  it("keep their numbers while tables grow", () => {
    const words = new WordTable()
    const text = Array.from({ length: 20_000 }, (_, index) => `w${index} `).join("")
    const starts: Array<readonly [number, number]> = []
    for (let start = 0; start < text.length; ) {
      const end = text.indexOf(" ", start) + 1
      starts.push([start, end])
      start = end
    }
    for (const [index, [start, end]] of starts.entries()) assert.strictEqual(words.intern(text, start, end), -1 - index)
    for (const [index, [start, end]] of starts.entries()) assert.strictEqual(words.intern(text, start, end), index)
    assert.strictEqual(words.text(12_345), "w12345 ")

    const pairs = new PairTable(16)
    for (let left = 0; left < 300; left++) for (let right = 0; right < 30; right++) pairs.intern(left, right)
    assert.strictEqual(pairs.size, 9000)
    assert.strictEqual(pairs.find(17, 4), 17 * 30 + 4)
    assert.strictEqual(pairs.find(4, 300), -1)
  })
})
