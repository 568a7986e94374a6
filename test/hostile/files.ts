/**
 * Valid small files of every format, and the tools to make ones that lie.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { gzipSync, zstdCompressSync } from "node:zlib"
import { Effect } from "effect"
import { parquetWriteBuffer } from "hyparquet-writer"
import { buildCorpus } from "../../src/data/Corpus.ts"
import { packTokens } from "../../src/data/Pack.ts"
import { tokenizerConfig, tokenizerJson } from "../../src/data/Tokenizer.ts"
import { trainTokenizer } from "../../src/data/TokenizerTraining.ts"
import { byteSymbols } from "../../src/data/Words.ts"
import type { Files, ReaderName } from "./judge.ts"

export const jsonl = (...records: ReadonlyArray<unknown>): string =>
  records.map((record) => `${JSON.stringify(record)}\n`).join("")

const texts = [
  "The miller counts the sacks: one, two, three.",
  "Piove sul fiume; è così perché è così.",
  "漢字かな 😀 <|eos|>",
  "a\tb\r\n\nc",
]
const records = Array.from({ length: 12 }, (_, index) => ({
  id: `n${index}`,
  text: `${texts[index % texts.length]} ${index}`,
  lang: "en",
  license: index % 3 === 0 ? "CC0-1.0" : null,
  origin: "somewhere",
}))

export type Codec = "UNCOMPRESSED" | "SNAPPY" | "GZIP" | "ZSTD"

/** Pages of version 2, optional columns, several pages and row groups. */
export const parquet = (
  rows: ReadonlyArray<Record<string, unknown>> = records,
  options: { readonly codec?: Codec; readonly encoding?: "DELTA_LENGTH_BYTE_ARRAY" | "DELTA_BYTE_ARRAY" } = {},
): Uint8Array => {
  const { codec = "SNAPPY", encoding } = options
  const names = Object.keys(rows[0] ?? { text: "" })
  return new Uint8Array(
    parquetWriteBuffer({
      columnData: names.map((name) => ({
        name,
        data: rows.map((row) => row[name]),
        ...(rows.every((row) => typeof row[name] === "string" || row[name] === null)
          ? { type: "STRING" as const, nullable: true, ...(encoding === undefined ? {} : { encoding }) }
          : {}),
      })),
      codec,
      compressors: { GZIP: (bytes) => gzipSync(bytes), ZSTD: (bytes) => zstdCompressSync(bytes) },
      rowGroupSize: 7,
      pageSize: 120,
    }),
  )
}

/** Thrift's compact protocol: fields in order, each a number, a string, a list or another struct. */
export type Thrift = number | bigint | string | ReadonlyArray<Thrift> | { readonly [field: number]: Thrift }

export const varint = (value: number | bigint): Buffer => {
  const bytes: Array<number> = []
  for (let rest = BigInt.asUintN(64, BigInt(value)); ; rest >>= 7n) {
    bytes.push(Number(rest & 127n) | (rest > 127n ? 128 : 0))
    if (rest <= 127n) return Buffer.from(bytes)
  }
}
const typeOf = (value: Thrift): number =>
  typeof value === "string" ? 8 : Array.isArray(value) ? 9 : typeof value === "object" ? 12 : 6

export const thrift = (value: Thrift): Buffer => {
  if (typeof value === "number" || typeof value === "bigint")
    return varint((BigInt(value) << 1n) ^ (BigInt(value) >> 63n))
  if (typeof value === "string") return Buffer.concat([varint(Buffer.byteLength(value)), Buffer.from(value)])
  if (Array.isArray(value)) {
    const type = value.length === 0 ? 12 : typeOf(value[0])
    return Buffer.concat([Buffer.from([0xf0 | type]), varint(value.length), ...value.map(thrift)])
  }
  let last = 0
  const fields = Object.entries(value).map(([key, field]) => {
    const number = Number(key)
    const head = Buffer.from([((number - last) << 4) | typeOf(field)])
    last = number
    return Buffer.concat([head, thrift(field)])
  })
  return Buffer.concat([...fields, Buffer.from([0])])
}

const plainStrings = (values: ReadonlyArray<string>): Buffer =>
  Buffer.concat(
    values.map((value) => {
      const bytes = Buffer.alloc(4 + Buffer.byteLength(value))
      bytes.writeUInt32LE(bytes.length - 4)
      bytes.write(value, 4)
      return bytes
    }),
  )

/** One column `text`, one page of version 1, uncompressed; any part of it may lie. */
export const lyingParquet = (
  lie: {
    readonly body?: Buffer
    readonly packed?: number
    readonly whole?: number
    readonly values?: number
    readonly encoding?: number
    readonly codec?: number
    readonly type?: number
    readonly repetition?: number
    readonly rows?: number | bigint
    readonly groupRows?: number | bigint
    readonly offset?: number
    readonly length?: number
    readonly footer?: number
    readonly children?: number
    readonly path?: string
    readonly levels?: Buffer
    readonly groups?: number
  } = {},
): Buffer => {
  const body = lie.body ?? plainStrings(["uno", "due", "tre"])
  const header = thrift({
    1: 0,
    2: lie.whole ?? body.length,
    3: lie.packed ?? body.length,
    5: { 1: lie.values ?? 3, 2: lie.encoding ?? 0, 3: 3, 4: 3 },
  })
  const column = {
    1: lie.type ?? 6,
    2: [0],
    3: ["text"],
    4: lie.codec ?? 0,
    5: lie.values ?? 3,
    6: header.length + body.length,
    7: lie.length ?? header.length + body.length,
    9: lie.offset ?? 4,
  }
  const group = {
    1: [{ ...(lie.path === undefined ? {} : { 1: lie.path }), 2: 4, 3: column }],
    2: body.length,
    3: lie.groupRows ?? 3,
  }
  const footer = thrift({
    1: 1,
    2: [
      { 4: "root", 5: lie.children ?? 1 },
      { 1: lie.type ?? 6, 3: lie.repetition ?? 0, 4: "text" },
    ],
    3: lie.rows ?? 3,
    4: Array.from({ length: lie.groups ?? 1 }, () => group),
  })
  const tail = Buffer.alloc(8)
  tail.writeUInt32LE(lie.footer ?? footer.length)
  tail.write("PAR1", 4, "latin1")
  return Buffer.concat([Buffer.from("PAR1"), header, body, footer, tail])
}

export const safetensorsOf = (header: unknown, data: number | Uint8Array = 0, length?: bigint): Buffer => {
  const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(length ?? BigInt(json.length))
  return Buffer.concat([prefix, json, typeof data === "number" ? Buffer.alloc(data) : data])
}

export const vocabulary = {
  tokens: ["<|bos|>", "<|eos|>", "<|pad|>", ...byteSymbols, "th", "the", "Ġt", "Ġthe"],
  merges: ["t h", "th e", "Ġ t", "Ġt he"].slice(0, 3),
}
/** `tokenizer.json` as a value to change. */
export const tokenizer = (change: (json: any) => void = () => {}): Files => {
  const json = JSON.parse(tokenizerJson(vocabulary))
  change(json)
  return { "tokenizer.json": JSON.stringify(json), "tokenizer_config.json": JSON.stringify(tokenizerConfig()) }
}

const read = (folder: string): { readonly [path: string]: Buffer } =>
  Object.fromEntries(
    readdirSync(folder, { recursive: true, withFileTypes: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .map((path) => [path.slice(folder.length + 1), readFileSync(path)]),
  )

/** A corpus, a tokenizer and tokens as the steps make them, by path. */
const artifacts = Effect.gen(function* () {
  const root = mkdtempSync(join(tmpdir(), "exp-hostile-valid-"))
  const folder = (name: string) => {
    mkdirSync(join(root, name))
    return join(root, name)
  }
  const [from, corpus, tokenizerFolder, tokens] = ["from", "corpus", "tokenizer", "tokens"].map(folder) as [
    string,
    string,
    string,
    string,
  ]
  writeFileSync(join(from, "a.jsonl"), jsonl(...records))
  const split = { validation: 0.1, holdout: 0.1, minimumDocuments: 1 }
  yield* buildCorpus({ from, train: { en: ["a"] }, split, out: corpus })
  yield* trainTokenizer({ corpusFolder: corpus, vocabulary: 270, out: tokenizerFolder })
  yield* packTokens({
    corpusFolder: corpus,
    tokenizerFolder,
    context: 8,
    mix: "source_balanced",
    out: tokens,
  })
  const files = { corpus: read(corpus), tokenizer: read(tokenizerFolder), tokens: read(tokens) }
  rmSync(root, { recursive: true })
  return files
})

/** What is mutated: `victim` is the file that is changed, `target` what is read. */
export interface Seed {
  readonly name: string
  readonly reader: ReaderName
  readonly files: Files
  readonly victim: string
  readonly target: string
}

const under = (folder: string, files: Files): Files =>
  Object.fromEntries(Object.entries(files).map(([path, content]) => [`${folder}/${path}`, content]))

export const seeds = Effect.gen(function* () {
  const { corpus, tokenizer: trained, tokens } = yield* artifacts
  const source = (name: string, file: string, content: string | Uint8Array): Seed => ({
    name,
    reader: "source",
    files: { [file]: content },
    victim: file,
    target: file,
  })
  const folder = (name: string, reader: ReaderName, files: Files, victim: string): Seed => ({
    name,
    reader,
    files,
    victim,
    target: "",
  })
  const library = tokenizer((json) => {
    json.normalizer = { type: "NFC" }
  })
  const weights = safetensorsOf(
    {
      __metadata__: { format: "pt" },
      a: { dtype: "F32", shape: [2, 3], data_offsets: [0, 24] },
      b: { dtype: "F32", shape: [4], data_offsets: [24, 40] },
    },
    Float32Array.from({ length: 10 }, (_, index) => index / 3).length * 4,
  )
  return [
    source("jsonl", "a.jsonl", jsonl(...records)),
    source("jsonl.gz", "a.jsonl.gz", gzipSync(jsonl(...records))),
    source("txt", "a.txt", texts.join("\n---\n")),
    source("parquet", "a.parquet", parquet(records, { codec: "UNCOMPRESSED" })),
    source("parquet-snappy", "a.parquet", parquet(records)),
    source("parquet-gzip", "a.parquet", parquet(records, { codec: "GZIP" })),
    source("parquet-zstd", "a.parquet", parquet(records, { codec: "ZSTD" })),
    source("parquet-delta", "a.parquet", parquet(records, { codec: "UNCOMPRESSED", encoding: "DELTA_BYTE_ARRAY" })),
    source("parquet-page-1", "a.parquet", lyingParquet()),
    {
      ...source("shared", "all.jsonl", jsonl(...records.map((record) => ({ ...record, source: "all" })))),
      reader: "file",
    },
    {
      name: "safetensors",
      reader: "safetensors",
      files: { "m.safetensors": weights },
      victim: "m.safetensors",
      target: "m.safetensors",
    },
    folder("tokenizer", "tokenizer", tokenizer(), "tokenizer.json"),
    folder("tokenizer-library", "tokenizer", library, "tokenizer.json"),
    folder("tokenizer-config", "tokenizer", tokenizer(), "tokenizer_config.json"),
    folder("inventory", "corpus", corpus, "inventory.json"),
    folder(
      "documents",
      "packed",
      { ...under("corpus", corpus), ...under("tokenizer", trained) },
      "corpus/documents/a.jsonl",
    ),
    folder("tokens-index", "tokens", tokens, "tokens.json"),
    folder("tokens-table", "tokens", tokens, "documents.parquet"),
  ] satisfies ReadonlyArray<Seed>
})
