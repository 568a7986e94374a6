import { mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { buildCorpus } from "../../src/data/Corpus.ts"
import { packTokens, readTokens } from "../../src/data/Pack.ts"
import { type BpeTokenizer, loadTokenizer, tokenizerJson } from "../../src/data/Tokenizer.ts"
import { type TokenizerReport, trainTokenizer } from "../../src/data/TokenizerTraining.ts"
import type { Mix } from "../../src/model/Corpus.ts"
import { stream } from "../../src/model/Random.ts"
import { temporary } from "../temporary.ts"

/** Documents of random length over a few words. */
const write = (folder: string, source: string, count: number) => {
  const words = "the river rises and boats move, il fiume cresce perché piove sempre qui 1920 …".split(" ")
  const random = stream(3, source)
  let at = 0
  const texts = Array.from({ length: count }, () =>
    Array.from(
      { length: 3 + Math.floor(random.uniform(at++) * 60) },
      () => words[Math.floor(random.uniform(at++) * words.length)],
    ).join(" "),
  )
  writeFileSync(
    join(folder, `${source}.jsonl`),
    texts.map((text) => `${JSON.stringify({ text, license: "MIT" })}\n`).join(""),
  )
}

const prepared = Effect.gen(function* () {
  const root = yield* temporary
  const [from, corpusFolder, tokenizerFolder] = ["from", "corpus", "tokenizer"].map((name) => {
    mkdirSync(join(root, name))
    return join(root, name)
  }) as [string, string, string]
  write(from, "web_en", 60)
  write(from, "web_it", 25)
  write(from, "books_it", 8)
  yield* buildCorpus({
    from,
    train: { en: ["web_en"], it: ["web_it"] },
    evaluate: { it: ["books_it"] },
    split: { validation: 0.1, holdout: 0.1, minimumDocuments: 1 },
    out: corpusFolder,
  })
  const report = yield* trainTokenizer({ corpusFolder, vocabulary: 300, out: tokenizerFolder })
  return { root, corpusFolder, tokenizerFolder, report }
})

let folders = 0
const pack = Effect.fnUntraced(function* (
  {
    root,
    corpusFolder,
    tokenizerFolder,
  }: { readonly root: string; readonly corpusFolder: string; readonly tokenizerFolder: string },
  options: { readonly context?: number; readonly mix?: Mix; readonly shardTokens?: number } = {},
) {
  const out = join(root, `tokens-${folders++}`)
  mkdirSync(out)
  const packed = yield* packTokens({
    corpusFolder,
    tokenizerFolder,
    context: 32,
    mix: "source_balanced",
    out,
    ...options,
  })
  return { out, ...packed }
})

describe("trainTokenizer", () => {
  it.effect("learns from the train part alone and measures on validation", () =>
    Effect.gen(function* () {
      const { tokenizerFolder, report } = yield* prepared
      assert.strictEqual(report.trainedOn.documents, 60 - 12 + 25 - 6)
      assert.deepStrictEqual(report.trainedOn.sources, ["web_en", "web_it"])
      assert.strictEqual(report.languages.en!.documents, 6)
      assert.strictEqual(report.languages.it!.part, "validation")
      assert.isNull(report.languages.it!.parity)
      assert.isAbove(report.languages.en!.charactersPerToken!, 1)
      const stored: TokenizerReport = JSON.parse(readFileSync(join(tokenizerFolder, "tokenizer_report.json"), "utf8"))
      assert.deepStrictEqual(stored, report)
      assert.strictEqual((yield* loadTokenizer(tokenizerFolder)).vocabularySize, 300)
      assert.deepStrictEqual(JSON.parse(readFileSync(join(tokenizerFolder, "special_tokens_map.json"), "utf8")), {
        bos_token: "<|bos|>",
        eos_token: "<|eos|>",
        pad_token: "<|pad|>",
      })
    }),
  )

  it.effect("says how large a vocabulary the texts give when it is less than asked for", () =>
    Effect.gen(function* () {
      const { root, corpusFolder } = yield* prepared
      const error = yield* Effect.flip(trainTokenizer({ corpusFolder, vocabulary: 5000, out: root }))
      assert.match(error.message, /the texts give \d+ vocabulary entries, 5000 were asked for/)
      const less = yield* Effect.flip(trainTokenizer({ corpusFolder, vocabulary: 258, out: root }))
      assert.match(less.message, /hint: ask for at least 259/)
    }),
  )
})

describe("packTokens", () => {
  it.effect("gives every document back, BOS first and EOS last", () =>
    Effect.gen(function* () {
      const given = yield* prepared
      const { out } = yield* pack(given, { shardTokens: 700 })
      const tokens = yield* readTokens(out)
      const tokenizer = yield* loadTokenizer(given.tokenizerFolder)
      assert.isAbove(tokens.index.shards.filter(({ part }) => part === "train").length, 1)
      assert.isTrue(tokens.index.shards.every(({ tokens }) => tokens <= 700))
      const texts = ["web_en", "web_it", "books_it"].flatMap((source) =>
        readFileSync(join(given.corpusFolder, "documents", `${source}.jsonl`), "utf8")
          .trimEnd()
          .split("\n")
          .map((line) => JSON.parse(line)),
      )
      assert.strictEqual(tokens.documents.length, 93)
      for (const [index, document] of tokens.documents.entries()) {
        const ids = Array.from(yield* tokens.tokensOf(document))
        const { id, text, source, part } = texts[index]
        assert.deepStrictEqual([document.id, document.source, document.part], [id, source, part])
        assert.strictEqual(tokenizer.decode(ids), `<|bos|>${text}<|eos|>`)
        assert.strictEqual(document.bytes, Buffer.byteLength(text))
        assert.strictEqual(document.license, "MIT")
      }
    }),
  )

  it.effect("cuts rows that overlap by one token, across shards, and never across sources", () =>
    Effect.gen(function* () {
      const given = yield* prepared
      const { out, index } = yield* pack(given, { shardTokens: 700 })
      const tokens = yield* readTokens(out)
      for (const source of index.sources) {
        const documents = tokens.documents.filter((each) => each.source === source.source && each.part === "train")
        const stream: Array<number> = []
        for (const document of documents) stream.push(...(yield* tokens.tokensOf(document)))
        assert.strictEqual(source.rawTokens, stream.length)
        for (let row = 0; row < source.rows; row++) {
          const ids = yield* tokens.row(source.firstRow + row)
          assert.deepStrictEqual(Array.from(ids), stream.slice(row * 32, row * 32 + 33))
          const seen = new Set(tokens.documentsOf(source.firstRow + row).map(({ id }) => id))
          let position = 0
          for (const { id, length } of documents) {
            const inside = position <= row * 32 + 32 && position + length > row * 32
            assert.strictEqual(seen.has(id), inside)
            position += length
          }
        }
      }
      assert.match((yield* Effect.flip(tokens.row(99_999))).message, /no training row 99999/)
    }),
  )

  it.effect("counts raw, packed and dropped so that they add up", () =>
    Effect.gen(function* () {
      const { index, inventory } = yield* pack(yield* prepared)
      const [english, italian, books] = index.sources
      for (const { rawTokens, packedTokens, droppedTokens, rows } of index.sources) {
        assert.strictEqual(packedTokens, rows * 32)
        assert.strictEqual(packedTokens + droppedTokens, rawTokens)
        assert.isAtMost(droppedTokens, 32)
      }
      assert.deepStrictEqual([books!.rows, books!.weight, books!.role], [0, 0, "evaluate"])
      assert.deepStrictEqual([italian!.startToken, italian!.firstRow], [english!.rawTokens, english!.rows])
      assert.strictEqual(inventory.total.raw, english!.rawTokens + italian!.rawTokens)
      assert.strictEqual(inventory.languages.it!.packed, italian!.packedTokens)
      assert.strictEqual(inventory.total.parts.validation.documents, 6 + 3 + 8)
      assert.deepStrictEqual(index.languages, ["en", "it"])
    }),
  )

  it.effect("weighs sources equally, by their rows, or as told", () =>
    Effect.gen(function* () {
      const given = yield* prepared
      const weights = Effect.fnUntraced(function* (mix: Mix) {
        return (yield* pack(given, { mix })).index.sources.map(({ weight }) => weight)
      })
      assert.deepStrictEqual(yield* weights("source_balanced"), [0.5, 0.5, 0])
      const [english, italian] = (yield* pack(given)).index.sources
      const rows = english!.rows + italian!.rows
      assert.deepStrictEqual(yield* weights("proportional"), [english!.rows / rows, italian!.rows / rows, 0])
      assert.deepStrictEqual(yield* weights({ web_en: 3, web_it: 1 }), [0.75, 0.25, 0])
      assert.deepStrictEqual(yield* weights({ web_it: 2 }), [0, 1, 0])
      const unknown = yield* Effect.flip(pack(given, { mix: { web_em: 1, web_it: 1 } }))
      assert.match(unknown.message, /"web_em" is not a training source\n {2}hint: did you mean `web_en`\?/)
      assert.match((yield* Effect.flip(pack(given, { mix: { books_it: 1 } }))).message, /not a training source/)
      assert.match((yield* Effect.flip(pack(given, { mix: { web_en: 0 } }))).message, /all weights are 0/)
      assert.match((yield* Effect.flip(pack(given, { context: 100_000 }))).message, /no row of 100000 \+ 1/)
    }),
  )

  it.effect("makes the same bytes again", () =>
    Effect.gen(function* () {
      const given = yield* prepared
      const [one, two] = [yield* pack(given), yield* pack(given)]
      for (const file of [
        "tokens.json",
        "inventory.json",
        "documents.parquet",
        "train-00000.bin",
        "validation-00000.bin",
        "holdout-00000.bin",
      ])
        assert.deepStrictEqual(readFileSync(join(one.out, file)), readFileSync(join(two.out, file)))
    }),
  )

  it.effect("writes ids of four bytes for a vocabulary above 65,536", () =>
    Effect.gen(function* () {
      const given = yield* prepared
      const small = (yield* loadTokenizer(given.tokenizerFolder)) as BpeTokenizer
      const tokens = [...small.tokens, ...Array.from({ length: 66_000 }, (_, index) => `filler${index}`), "ĠĠĠ"]
      writeFileSync(join(given.tokenizerFolder, "tokenizer.json"), tokenizerJson({ tokens, merges: small.merges }))
      const { out, index } = yield* pack(given)
      assert.deepStrictEqual([index.dtype, index.vocabulary], ["uint32", 66_301])
      const read = yield* readTokens(out)
      const ids = yield* read.tokensOf(read.documents[3]!)
      assert.deepStrictEqual([ids[0], ids.at(-1)], [0, 1])
    }),
  )

  it.effect("does not open shards that are cut short", () =>
    Effect.gen(function* () {
      const { out } = yield* pack(yield* prepared)
      truncateSync(join(out, "train-00000.bin"), 100)
      assert.match((yield* Effect.flip(readTokens(out))).message, /train-00000.bin has 100 bytes/)
    }),
  )

  it.effect("reports progress in documents", () =>
    Effect.gen(function* () {
      const { root, corpusFolder, tokenizerFolder } = yield* prepared
      const out = join(root, "told")
      mkdirSync(out)
      const seen: Array<readonly [number, number]> = []
      yield* packTokens({
        corpusFolder,
        tokenizerFolder,
        context: 32,
        mix: "proportional",
        out,
        progress: (...now) => seen.push(now),
      })
      assert.deepStrictEqual(seen.at(-1), [93, 93])
    }),
  )
})
