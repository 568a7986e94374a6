import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { BpeTrainer } from "../../src/data/BpeTrainer.ts"
import { BpeTokenizer, specialTokens } from "../../src/data/Tokenizer.ts"
import { stream } from "../../src/model/Random.ts"
import { askPython, lessons, noPython, noSharedData, tinyTexts, trainWithPython } from "./texts.ts"

const golden = (name: string) => JSON.parse(readFileSync(join(import.meta.dirname, "../golden", name), "utf8"))
const hashOfLines = (lines: ReadonlyArray<string>) => createHash("sha256").update(lines.join("\n")).digest("hex")

const train = (texts: ReadonlyArray<string>, vocabulary: number, minFrequency?: number) => {
  const trainer = new BpeTrainer()
  for (const text of texts) trainer.add(text)
  return trainer.train({ vocabulary, specialTokens, ...(minFrequency === undefined ? {} : { minFrequency }) })
}

describe("BpeTrainer", () => {
  it.effect("makes the merges of the Python library, in its order", () =>
    Effect.gen(function* () {
      const { merges, vocabulary } = golden("tokenizer_ids.json")
      const trained = yield* train(lessons, vocabulary)
      assert.deepStrictEqual(trained.merges, merges)
    }),
  )

  it.effect("numbers special tokens first, then the bytes by their symbols, then merges", () =>
    Effect.gen(function* () {
      const { tokens, merges } = yield* train(lessons, 300)
      assert.deepStrictEqual(tokens.slice(0, 5), ["<|bos|>", "<|eos|>", "<|pad|>", "!", '"'])
      assert.strictEqual(tokens[258], "Ń")
      assert.strictEqual(tokens[259], merges[0]!.replace(" ", ""))
      assert.strictEqual(tokens.length, 300)
    }),
  )

  it.effect("stops early when no pair occurs often enough", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual((yield* train(["abc"], 1000)).merges, [])
      assert.deepStrictEqual((yield* train(["ab ab"], 1000, 1)).merges, ["a b", "Ġ ab"])
      assert.deepStrictEqual((yield* train([], 1000)).tokens.length, 259)
    }),
  )

  it.effect("does not depend on the order of the texts", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* train(lessons.toReversed(), 400), yield* train(lessons, 400))
    }),
  )

  it.effect("tells how far it is", () =>
    Effect.gen(function* () {
      const trainer = new BpeTrainer()
      for (const text of lessons) trainer.add(text)
      const seen: Array<readonly [number, number]> = []
      yield* trainer.train({ vocabulary: 300, specialTokens, progress: (...now) => seen.push(now) })
      assert.deepStrictEqual(seen.at(-1), [300, 300])
    }),
  )

  const onShared = noSharedData === undefined ? it.effect : it.effect.skip
  onShared(`makes the golden vocabulary of the shared texts${noSharedData ? ` (skipped: ${noSharedData})` : ""}`, () =>
    Effect.gen(function* () {
      const expected = golden("bpe.json")
      const trained = yield* train(tinyTexts(), expected.parameters.vocab_size)
      assert.deepStrictEqual(trained.merges.slice(0, 64), expected.first_merges)
      assert.strictEqual(hashOfLines(trained.merges), expected.merges_sha256)
      assert.strictEqual(hashOfLines(trained.tokens), expected.vocab_sha256)
      assert.deepStrictEqual(Array.from(new BpeTokenizer(trained).encode(expected.encode.text)), expected.encode.ids)
    }),
  )

  const withPython = noPython === undefined ? it.effect : it.effect.skip
  withPython(
    `makes what the library makes of random texts full of ties${noPython ? ` (skipped: ${noPython})` : ""}`,
    () =>
      Effect.gen(function* () {
        const random = stream(7, "random texts")
        let position = 0
        const below = (n: number) => Math.floor(random.uniform(position++) * n)
        const cases = Array.from({ length: 120 }, () => {
          const alphabet = Array.from(["ab", "abc", "abcde ", "ab '.", "aé漢 ", "a b\n\t 1", "xyz'st "][below(7)]!)
          const text = () => Array.from({ length: 1 + below(120) }, () => alphabet[below(alphabet.length)]!).join("")
          return {
            texts: Array.from({ length: 1 + below(25) }, text),
            vocabulary: [265, 280, 300, 400, 1000][below(5)]!,
          }
        })
        const answer = askPython(
          `${trainWithPython}answer = [merges(trained(each["texts"], each["vocabulary"])) for each in given]`,
          cases,
        ) as ReadonlyArray<ReadonlyArray<string>>
        for (const [index, { texts, vocabulary }] of cases.entries())
          assert.deepStrictEqual((yield* train(texts, vocabulary)).merges, answer[index])
      }),
  )

  it.effect("forgets the rarest words when there are too many, and learns from the others", () =>
    Effect.gen(function* () {
      const trainer = new BpeTrainer({ words: 50 })
      for (let index = 0; index < 2000; index++) trainer.add(`the river the river rare${index.toString(36)}`)
      assert.isAtMost(trainer.words, 50)
      assert.isAbove(trainer.forgotten, 1000)
      const { tokens } = yield* trainer.train({ vocabulary: 270, specialTokens })
      assert.includeMembers([...tokens], ["the", "Ġriver"])
    }),
  )
})
