import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { expect } from "vitest"
import { DatasetUnwritable, type ExtractRequest, extract, formatOf } from "../../src/data/Dataset.ts"
import { table } from "../hub/dataset.ts"

const everything = { documents: Number.POSITIVE_INFINITY, textBytes: Number.POSITIVE_INFINITY }

/** What comes of a file of this name with these bytes. */
const extracting = (name: string, bytes: string | Uint8Array, options: Partial<ExtractRequest> = {}) =>
  Effect.acquireUseRelease(
    Effect.sync(() => mkdtempSync(join(tmpdir(), "exp-dataset-"))),
    (folder) => {
      const path = join(folder, "0.download")
      writeFileSync(path, bytes)
      const lines: Array<string> = []
      return Effect.map(
        extract({
          path,
          file: `org/set/${name}`,
          format: formatOf(name)!,
          text: "text",
          room: everything,
          append: (text) => void lines.push(text),
          ...options,
        }),
        (counts) => ({ ...counts, lines: lines.join("").split("\n").slice(0, -1) }),
      )
    },
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true })),
  )

const refusal = (name: string, bytes: string | Uint8Array, options: Partial<ExtractRequest> = {}) =>
  Effect.map(Effect.flip(extracting(name, bytes, options)), ({ message }) => message)

const rows = { body: ["uno", "due 😀", null, "  ", "tre"], key: ["a", "b", "c", "d", "e"] }
const lines = ['{"id":"a","text":"uno"}', '{"id":"b","text":"due 😀"}', '{"id":"e","text":"tre"}']

describe("the files of a data set", () => {
  for (const codec of ["UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD"] as const)
    it.effect(`are read from parquet, ${codec}, by the columns that are named`, () =>
      Effect.gen(function* () {
        const found = yield* extracting("data/0.parquet", table(rows, codec), { text: "body", id: "key" })
        assert.deepStrictEqual(found, { documents: 3, textBytes: 14, skipped: 2, full: false, lines })
      }),
    )

  it.effect("are read from JSON lines, packed or not, and from text", () =>
    Effect.gen(function* () {
      const json = rows.body.map((body, index) => `${JSON.stringify({ body, key: rows.key[index] })}\n`).join("")
      const named = { text: "body", id: "key" }
      for (const name of ["a.jsonl", "a.json"])
        assert.deepStrictEqual((yield* extracting(name, json, named)).lines, lines, name)
      for (const name of ["a.jsonl.gz", "a.json.gz"])
        assert.deepStrictEqual((yield* extracting(name, gzipSync(json), named)).lines, lines, name)
      const { documents, lines: plain } = yield* extracting("a.txt", "uno\n---\ndue\n\ndue\n---\n")
      assert.deepStrictEqual([documents, plain], [2, ['{"text":"uno"}', '{"text":"due\\n\\ndue"}']])
    }),
  )

  it.effect("number ids that are whole, and leave out those that are not there", () =>
    Effect.gen(function* () {
      const json = '{"text":"a","n":7}\n{"text":"b","n":null}\n{"text":"c"}\n'
      const { lines } = yield* extracting("a.jsonl", json, { id: "n" })
      assert.deepStrictEqual(lines, ['{"id":"7","text":"a"}', '{"text":"b"}', '{"text":"c"}'])
    }),
  )

  it.effect("are taken as long as the next document fits", () =>
    Effect.gen(function* () {
      const json = ["aaaa", "bbbb", "cc", "d"].map((text) => `{"text":"${text}"}\n`).join("")
      const taken = (room: Partial<typeof everything>) =>
        Effect.map(
          extracting("a.jsonl", json, { room: { ...everything, ...room } }),
          ({ documents, textBytes, full }) => [documents, textBytes, full],
        )
      assert.deepStrictEqual(yield* taken({}), [4, 11, false])
      assert.deepStrictEqual(yield* taken({ textBytes: 11 }), [4, 11, false])
      assert.deepStrictEqual(yield* taken({ textBytes: 9 }), [2, 8, true])
      assert.deepStrictEqual(yield* taken({ textBytes: 3 }), [0, 0, true])
      assert.deepStrictEqual(yield* taken({ documents: 3 }), [3, 10, true])
    }),
  )

  it.effect("lose the markers of Wiki40B, and keep titles and paragraphs", () =>
    Effect.gen(function* () {
      const article =
        "\n_START_ARTICLE_\nLa mora\n_START_PARAGRAPH_\nLa mora è un frutto._NEWLINE_Matura in agosto.\n_START_SECTION_\nUsi\n_START_PARAGRAPH_\nSi mangia; il_NEWLINE_marker resta dov'è scritto _START_SECTION_ in una riga."
      const { lines } = yield* extracting("a.parquet", table({ text: [article] }), { markup: "wiki40b" })
      expect((JSON.parse(lines[0]!) as { text: string }).text).toMatchInlineSnapshot(`
        "La mora

        La mora è un frutto.
        Matura in agosto.

        Usi

        Si mangia; il
        marker resta dov'è scritto _START_SECTION_ in una riga."
      `)
      expect(
        yield* refusal("a.parquet", table({ text: ["plain words"] }), { markup: "wiki40b" }),
      ).toMatchInlineSnapshot(`
        "org/set/a.parquet: no text of it is marked up as in wiki40b
          hint: take \`markup\` out, or name the files that are"
      `)
    }),
  )

  it.effect("are refused in words when they are not what the experiment says", () =>
    Effect.gen(function* () {
      expect(
        [
          yield* refusal("a.parquet", table({ content: ["x"], id: ["1"] }), {}),
          yield* refusal("a.parquet", table({ text: ["x"], url: ["1"] }), { id: "uri" }),
          yield* refusal("a.parquet", Buffer.from("PAR1 this is no table PAR1")),
          yield* refusal("a.jsonl", '{"content":"x"}\n'),
          yield* refusal("a.jsonl", '{"text":["x"]}\n'),
          yield* refusal("a.jsonl", '{"text":"x","id":0.5}\n', { id: "id" }),
          yield* refusal("a.jsonl", `{"text":"x","id":"${"y".repeat(5000)}"}\n`, { id: "id" }),
          yield* refusal("a.jsonl", "[1, 2]\n"),
          yield* refusal("a.jsonl", Buffer.from([0x22, 0xff, 0x22, 0x0a])),
          yield* refusal("a.jsonl.gz", gzipSync('{"text":"x"}\n').subarray(0, -6)),
        ].join("\n"),
      ).toMatchInlineSnapshot(`
        "org/set/a.parquet: it has no column \`text\`
          hint: its columns are content, id, embeddings
        org/set/a.parquet: it has no column \`uri\`
          hint: did you mean \`url\`?
        org/set/a.parquet: its footer would have 543517794 bytes, the file has 26
          hint: it cannot be read here; leave it out of \`files\`, or take another revision
        org/set/a.jsonl: no record of it has a text in \`text\`
          hint: say with \`text\` which field holds the texts
        org/set/a.jsonl, record 1: \`text\` is a list, not a string
          hint: name a column of strings, or of whole numbers for ids, with \`text\` and \`id\`
        org/set/a.jsonl, record 1: \`id\` is of type number, not a string
          hint: name a column of strings, or of whole numbers for ids, with \`text\` and \`id\`
        org/set/a.jsonl, record 1: \`id\` is longer than 4096 characters
          hint: name another column with \`id\`, or none: then records are numbered
        org/set/a.jsonl, line 1: not a JSON object
          hint: every line is one JSON object with a field \`text\`
        org/set/a.jsonl, record 1: not UTF-8
          hint: convert the file, for instance with \`iconv -f latin1 -t utf-8\`
        org/set/a.jsonl.gz: unexpected end of file
          hint: it cannot be read here; leave it out of \`files\`, or take another revision"
      `)
    }),
  )

  it.effect("end with what the disk says when it takes no more", () =>
    Effect.gen(function* () {
      const append = () => {
        throw new DatasetUnwritable({ path: "out/a.jsonl", problem: "ENOSPC: no space left on device" })
      }
      expect(yield* refusal("a.jsonl", '{"text":"x"}\n', { append })).toMatch(
        /^out\/a\.jsonl cannot be written: ENOSPC/,
      )
    }),
  )
})
