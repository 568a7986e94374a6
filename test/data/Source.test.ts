import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { parquetWriteBuffer } from "hyparquet-writer"
import { expect } from "vitest"
import { documentsOf, list, locate, type SourceDocument } from "../../src/data/Source.ts"
import { sha256 } from "../../src/model/Digest.ts"
import { noSharedData, sharedData } from "./texts.ts"

const folderWith = (files: { readonly [name: string]: string | Uint8Array }) =>
  Effect.acquireRelease(
    Effect.sync(() => {
      const folder = mkdtempSync(join(tmpdir(), "exp-source-"))
      for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content)
      return folder
    }),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true })),
  )

const read = Effect.fnUntraced(function* (from: string, source: string, language?: string) {
  const located = yield* locate(from, source)
  return yield* Stream.runCollect(documentsOf(located, language === undefined ? {} : { language }))
})
const texts = (documents: ReadonlyArray<SourceDocument>) => documents.map(({ text }) => text)
const jsonl = (...records: ReadonlyArray<unknown>) => records.map((record) => `${JSON.stringify(record)}\n`).join("")

/** The error of reading one file, without the folder it lies in. */
const failure = Effect.fnUntraced(function* (name: string, content: string | Uint8Array, language?: string) {
  const folder = yield* folderWith({ [name]: content })
  const error = yield* Effect.flip(read(folder, name.replace(/\..*/, ""), language))
  return error.message.replaceAll(folder, "<folder>")
})

const parquet = (columns: { readonly [name: string]: ReadonlyArray<string> }) =>
  new Uint8Array(
    parquetWriteBuffer({
      columnData: Object.entries(columns).map(([name, data]) => ({ name, data: [...data], type: "STRING" as const })),
      rowGroupSize: 2,
    }),
  )

describe("a source", () => {
  it.effect("reads JSON lines, packed or not, and fills in what records leave out", () =>
    Effect.gen(function* () {
      const lines = jsonl(
        { text: "uno", id: 7, lang: "it", license: "CC0-1.0", origin: "un giornale" },
        { text: "due", id: null, source: "elsewhere", terms: "ask first" },
      )
      const folder = yield* folderWith({
        "a.jsonl": `\ufeff${lines}\n  \n`,
        "b.jsonl.gz": gzipSync(lines.trimEnd().replaceAll("\n", "\r\n")),
      })
      assert.deepStrictEqual(yield* read(folder, "a"), [
        {
          id: "a:7",
          text: "uno",
          language: "it",
          license: "CC0-1.0",
          attribution: "un giornale",
          terms: undefined,
          record: 1,
        },
        {
          id: "a:2",
          text: "due",
          language: undefined,
          license: "NOASSERTION",
          attribution: undefined,
          terms: "ask first",
          record: 2,
        },
      ])
      assert.deepStrictEqual(texts(yield* read(folder, "b")), ["uno", "due"])
    }),
  )

  it.effect("cuts a text file at lines of three dashes, and nowhere else", () =>
    Effect.gen(function* () {
      const folder = yield* folderWith({
        "t.txt": "---\r\nprimo\n\nancora --- primo\n---\n---\n\nsecondo\n ---\n---\n",
        "one.txt": "a\n\nb",
      })
      assert.deepStrictEqual(texts(yield* read(folder, "t")), ["primo\n\nancora --- primo", "secondo\n ---"])
      assert.deepStrictEqual(texts(yield* read(folder, "one")), ["a\n\nb"])
    }),
  )

  it.effect("reads parquet", () =>
    Effect.gen(function* () {
      const folder = yield* folderWith({
        "p.parquet": parquet({ text: ["uno", "due 😀", "tre"], id: ["x", "y", "z"], extra: ["", "", ""] }),
      })
      const documents = yield* read(folder, "p")
      assert.deepStrictEqual(texts(documents), ["uno", "due 😀", "tre"])
      assert.deepStrictEqual(
        documents.map(({ id }) => id),
        ["p:x", "p:y", "p:z"],
      )
    }),
  )

  it.effect("is told apart by its records in a file of several", () =>
    Effect.gen(function* () {
      const folder = yield* folderWith({
        "all.jsonl": jsonl(
          { text: "1", source: "a" },
          { text: "2", source: "b" },
          { text: "3" },
          { text: "4", source: "a" },
        ),
      })
      const file = join(folder, "all.jsonl")
      assert.deepStrictEqual([...(yield* list(file)).sources.keys()], ["a", "b", "all"])
      assert.deepStrictEqual(texts(yield* read(file, "a")), ["1", "4"])
      assert.deepStrictEqual(texts(yield* read(file, "all")), ["3"])
    }),
  )

  it.effect("is located with the sha256 of its file", () =>
    Effect.gen(function* () {
      const folder = yield* folderWith({ "a.jsonl": jsonl({ text: "uno" }) })
      const { file, sha256: sum } = yield* locate(folder, "a")
      assert.deepStrictEqual([file, sum], ["a.jsonl", sha256(jsonl({ text: "uno" }))])
    }),
  )

  it.effect("takes keys named __proto__ for keys and mends lone surrogates", () =>
    Effect.gen(function* () {
      const folder = yield* folderWith({
        "a.jsonl": '{"__proto__":{"lang":"xx","text":"no"},"text":"a\\ud800","constructor":1}\n',
        "b.jsonl": '{"__proto__":{"text":"no"}}\n',
      })
      assert.deepStrictEqual(yield* read(folder, "a", "it"), [
        {
          id: "a:1",
          text: "a\ufffd",
          language: undefined,
          license: "NOASSERTION",
          attribution: undefined,
          terms: undefined,
          record: 1,
        },
      ])
      assert.match((yield* Effect.flip(read(folder, "b"))).message, /`text` is missing/)
      assert.isUndefined(({} as { text?: string }).text)
    }),
  )

  it.effect("may have lines longer than any buffer, cut anywhere in a character", () =>
    Effect.gen(function* () {
      const long = "è漢😀".repeat(100_000)
      const folder = yield* folderWith({
        "a.jsonl": jsonl({ text: long }, { text: `x${long}` }, { text: `xy${long}` }),
      })
      assert.deepStrictEqual(texts(yield* read(folder, "a")), [long, `x${long}`, `xy${long}`])
    }),
  )

  it.effect("that is not there is an error which says what is", () =>
    Effect.gen(function* () {
      const folder = yield* folderWith({ "web_en.jsonl": "", "wiki_en.jsonl": "", "notes.pdf": "", "web_it.csv": "" })
      const message = (error: { readonly message: string }) => error.message.replaceAll(folder, "<folder>")
      expect(message(yield* Effect.flip(locate(folder, "web_em")))).toMatchInlineSnapshot(`
        "source "web_em" is not in \`<folder>\`, which has web_en, wiki_en
          hint: did you mean "web_en"?"
      `)
      expect(message(yield* Effect.flip(locate(folder, "books")))).toMatchInlineSnapshot(`
        "source "books" is not in \`<folder>\`, which has web_en, wiki_en
          hint: add \`books.jsonl\` or take its name out"
      `)
      expect(message(yield* Effect.flip(locate(folder, "web_it")))).toMatchInlineSnapshot(`
        "web_it.csv: no reader for this extension
          hint: use .jsonl, .jsonl.gz, .parquet or .txt"
      `)
      expect(message(yield* Effect.flip(locate(join(folder, "nowhere"), "a")))).toMatchInlineSnapshot(`
        "there is no file or folder \`<folder>/nowhere\`
          hint: \`from\` is a folder of \`<source>.jsonl\` (or .jsonl.gz, .parquet, .txt), or one such file"
      `)
      expect(message(yield* Effect.flip(locate(join(folder, "notes.pdf"), "a")))).toMatchInlineSnapshot(`
        "notes.pdf: no reader for this extension
          hint: use .jsonl, .jsonl.gz, .parquet or .txt"
      `)
    }),
  )

  it.effect("with two files, or a folder where its file should be, is an error", () =>
    Effect.gen(function* () {
      const folder = yield* folderWith({ "a.jsonl": "", "a.txt": "" })
      mkdirSync(join(folder, "b.jsonl"))
      assert.match((yield* Effect.flip(locate(folder, "a"))).message, /has 2 files: a.jsonl, a.txt/)
      assert.match((yield* Effect.flip(locate(folder, "b"))).message, /source "b" is not in/)
    }),
  )

  it.effect("may not name itself out of its folder", () =>
    Effect.gen(function* () {
      const folder = yield* folderWith({ "all.jsonl": jsonl({ text: "1", source: "../../etc/x" }) })
      assert.match((yield* Effect.flip(list(join(folder, "all.jsonl")))).message, /cannot name a source/)
    }),
  )

  it.effect("that is damaged says where, record by record", () =>
    Effect.gen(function* () {
      const good = jsonl({ text: "uno", id: "1" })
      const found = [
        yield* failure("a.jsonl", `${good}{"text": "due",}\n`),
        yield* failure("a.jsonl", `${good}["text"]\n`),
        yield* failure("a.jsonl", Buffer.concat([Buffer.from(good), Buffer.from('{"text":"perch\xe9"}\n', "latin1")])),
        yield* failure("a.txt", Buffer.from("uno\n---\nperch\xe9\n", "latin1")),
        yield* failure("a.jsonl", `${good}${jsonl({ id: "2" })}`),
        yield* failure("a.jsonl", `${good}${jsonl({ text: " \n" })}`),
        yield* failure("a.jsonl", `${good}${jsonl({ text: 3 })}`),
        yield* failure("a.jsonl", `${good}${jsonl({ text: "x", license: ["MIT"] })}`),
        yield* failure("a.jsonl", `${good}${jsonl({ text: "ciao", lang: "it" })}`, "en"),
        yield* failure("a.jsonl", `${good}${good}`),
      ]
      expect(found.join("\n")).toMatchInlineSnapshot(`
        "a.jsonl, line 2: Expected double-quoted property name in JSON at position 15 (line 1 column 16)
          hint: every line is one JSON object with a field \`text\`
        a.jsonl, line 2: not a JSON object
          hint: every line is one JSON object with a field \`text\`
        a.jsonl, record 2: not UTF-8
          hint: convert the file, for instance with \`iconv -f latin1 -t utf-8\`
        a.txt, record 2: not UTF-8
          hint: convert the file, for instance with \`iconv -f latin1 -t utf-8\`
        a.jsonl, record 2: \`text\` is missing
          hint: give the record a text or take it out
        a.jsonl, record 2: \`text\` is empty
          hint: give the record a text or take it out
        a.jsonl, record 2: \`text\` is "number", not a string
          hint: give the record a text or take it out
        a.jsonl, record 2: \`license\` is "object", not a string
          hint: write \`license\` as a string or leave it out
        a.jsonl, record 2: \`lang\` is "it", the experiment says "en"
          hint: list the source under its own language, or correct the record
        a.jsonl, record 2: id "a:1" was there before
          hint: ids are unique in a source; leave \`id\` out to have records numbered"
      `)
    }),
  )

  it.effect("that is cut short or corrupt says so", () =>
    Effect.gen(function* () {
      const zipped = gzipSync(jsonl(...Array.from({ length: 200 }, (_, index) => ({ text: `document ${index}` }))))
      const table = parquet({ text: ["uno", "due", "tre"] })
      const flipped = Buffer.from(table)
      for (let at = 4; at < 30; at++) flipped[at]! ^= 0xff
      for (const [name, content] of [
        ["a.jsonl.gz", zipped.subarray(0, zipped.length - 20)],
        ["a.jsonl.gz", Buffer.from("no gzip at all")],
        ["a.parquet", table.subarray(0, table.length - 5)],
        ["a.parquet", Buffer.from("PAR1")],
        ["a.parquet", flipped],
      ] as const)
        assert.match(yield* failure(name, content), /damaged or cut short/)
      assert.match(yield* failure("a.parquet", parquet({ words: ["a"] })), /`text` is no column of this file/)
    }),
  )

  it.effect("in parquet that is not UTF-8 is an error, not a replacement character", () =>
    Effect.gen(function* () {
      const table = Buffer.from(
        parquetWriteBuffer({
          columnData: [{ name: "text", data: ["perchX!"], type: "STRING" }],
          codec: "UNCOMPRESSED",
          statistics: false,
        }),
      )
      table[table.indexOf("X!")] = 0xe9
      assert.match(yield* failure("a.parquet", table), /record 1: not UTF-8/)
    }),
  )

  const onShared = noSharedData === undefined ? it.effect : it.effect.skip
  onShared(`reads parquet with gzip pages${noSharedData ? ` (skipped: ${noSharedData})` : ""}`, () =>
    Effect.gen(function* () {
      const documents = yield* read(join(sharedData, "corpus"), "wiki_en", "en")
      assert.strictEqual(documents.length, 114)
      assert.strictEqual(
        documents.reduce((sum, { text }) => sum + Buffer.byteLength(text), 0),
        1_740_771,
      )
    }),
  )
})
