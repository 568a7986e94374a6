import { readFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { BpeTrainer } from "../../src/data/BpeTrainer.ts"
import { BpeTokenizer, specialTokens } from "../../src/data/Tokenizer.ts"
import { askPython, noPython, trainWithPython } from "./texts.ts"

interface Line {
  readonly id: string
  readonly text: string
  readonly source: string
  readonly lang: string
  readonly license: string
}

const folder = join(import.meta.dirname, "../../experiments/corpus")
const read = (source: string): ReadonlyArray<Line> =>
  readFileSync(join(folder, `${source}.jsonl`), "utf8")
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line))

const sizes: ReadonlyArray<readonly [source: string, kilobytes: number, documents: number]> = [
  ["web_en", 40, 100],
  ["web_it", 40, 100],
  ["wiki_en", 40, 100],
  ["wiki_it", 40, 100],
  ["books_en", 20, 40],
  ["books_it", 20, 40],
]

describe("the embedded corpus", () => {
  for (const [source, kilobytes, documents] of sizes)
    it(`has at least ${kilobytes} kB in ${documents} documents of ${source}, each with its licence`, () => {
      const lines = read(source)
      assert.isAtLeast(lines.length, documents)
      assert.isAtLeast(Buffer.byteLength(lines.map(({ text }) => text).join("")), kilobytes * 1000)
      for (const line of lines) {
        assert.deepStrictEqual(Object.keys(line).sort(), ["id", "lang", "license", "source", "text"])
        assert.deepStrictEqual([line.source, line.lang, line.license], [source, source.slice(-2), "CC0-1.0"])
      }
    })

  it("never says a sentence of more than 40 characters twice", () => {
    const seen = new Map<string, string>()
    for (const [source] of sizes)
      for (const { id, text } of read(source))
        for (const sentence of text.split(/(?<=[.!?»”])\s+/)) {
          if (sentence.length <= 40) continue
          assert.isUndefined(seen.get(sentence), `${id} repeats ${seen.get(sentence)}: ${sentence}`)
          seen.set(sentence, id)
        }
    assert.isAbove(seen.size, 2000)
  })

  it("holds a dated copy of some of the project's own source, apart from the source itself", () => {
    const lines = read("code")
    assert.isAbove(lines.length, 10)
    for (const { id } of lines) assert.match(id, /^code-\d{4}-\d{2}-\d{2}\//)
  })

  const withPython = noPython === undefined ? it.effect : it.effect.skip
  withPython(`gives the merges and ids of the Python library${noPython ? ` (skipped: ${noPython})` : ""}`, () =>
    Effect.gen(function* () {
      const texts = sizes.flatMap(([source]) => read(source).map(({ text }) => text))
      const trainer = new BpeTrainer()
      for (const text of texts) trainer.add(text)
      const learned = yield* trainer.train({ vocabulary: 2048, specialTokens })
      const answer = askPython(
        `${trainWithPython}new = trained(given, 2048)\nanswer = {"merges": merges(new), "ids": [new.encode(text).ids for text in given]}`,
        texts,
      ) as { readonly merges: ReadonlyArray<string>; readonly ids: ReadonlyArray<ReadonlyArray<number>> }
      assert.deepStrictEqual(learned.merges, answer.merges)
      const tokenizer = new BpeTokenizer(learned)
      for (const [index, text] of texts.entries())
        assert.deepStrictEqual(Array.from(tokenizer.encode(text)), answer.ids[index])
    }),
  )
})
