/**
 * Fixed hostile cases: what is read, and what must come of it (`accepted` or the tag of the error).
 */
import { execFileSync } from "node:child_process"
import { mkdirSync, symlinkSync, truncateSync, writeFileSync } from "node:fs"
import { gzipSync, zstdCompressSync } from "node:zlib"
import {
  type Codec,
  jsonl,
  lyingParquet,
  parquet,
  safetensorsOf,
  thrift,
  tokenizer,
  varint,
  vocabulary,
} from "./files.ts"
import type { Files, Outcome, ReaderName } from "./judge.ts"

export interface Case {
  readonly title: string
  readonly reader: ReaderName
  readonly files: Files
  readonly target: string
  readonly outcome: Outcome | ReadonlyArray<Outcome>
}

const source = (title: string, file: string, content: Files[string], outcome: Case["outcome"]): Case => ({
  title: `${file}: ${title}`,
  reader: "source",
  files: { [file]: content },
  target: file,
  outcome,
})
const shared = (title: string, file: string, content: Files[string], outcome: Case["outcome"]): Case => ({
  ...source(title, file, content, outcome),
  reader: "file",
})
const lines = (title: string, content: string | Uint8Array, outcome: Case["outcome"]) =>
  source(title, "a.jsonl", content, outcome)
const table = (title: string, content: Uint8Array, outcome: Case["outcome"] = "SourceCorrupt") =>
  source(title, "a.parquet", content, outcome)
const weights = (title: string, content: Files[string], outcome: Case["outcome"] = "SafetensorsUnreadable"): Case => ({
  title: `m.safetensors: ${title}`,
  reader: "safetensors",
  files: { "m.safetensors": content },
  target: "m.safetensors",
  outcome,
})
const words = (title: string, files: Files, outcome: Case["outcome"] = "TokenizerUnreadable"): Case => ({
  title: `tokenizer.json: ${title}`,
  reader: "tokenizer",
  files,
  target: "",
  outcome,
})
const entry = (shape: unknown, from: unknown, to: unknown, dtype: unknown = "F32") => ({
  dtype,
  shape,
  data_offsets: [from, to],
})

const text = jsonl({ text: "one" }, { text: "two" })
const bytes = (...parts: ReadonlyArray<string | Uint8Array>) => Buffer.concat(parts.map((part) => Buffer.from(part)))
const many = (count: number, record: (index: number) => object): string =>
  Array.from({ length: count }, (_, index) => jsonl(record(index))).join("")
const deep = (depth: number) => "[".repeat(depth) + "]".repeat(depth)
/** A file of `size` zeros behind a beginning, of which the disk holds only the beginning. */
const sparse = (beginning: string | Uint8Array, size: number) => (path: string) => {
  writeFileSync(path, beginning)
  truncateSync(path, size)
}
const zeros = (megabytes: number) => gzipSync(Buffer.alloc(megabytes * 2 ** 20))
/** Ten million bytes that are `gigabytes` of zeros when unpacked: many small gzip members. */
const bomb = (member: Uint8Array, times: number) => Buffer.concat(Array.from({ length: times }, () => member))
const optional = (page: Uint8Array, values: number) =>
  lyingParquet({ body: Buffer.from(page), repetition: 1, values, rows: values, groupRows: values })
const levels = (...content: ReadonlyArray<Uint8Array>) => {
  const body = Buffer.concat(content)
  const length = Buffer.alloc(4)
  length.writeUInt32LE(body.length)
  return Buffer.concat([length, body])
}

const sources: ReadonlyArray<Case> = [
  lines("an empty file", "", "SourceEmpty"),
  lines("only blank lines", "\n \n\t\n\r\n", "SourceEmpty"),
  lines("only a byte order mark", "\ufeff", "SourceEmpty"),
  lines("a byte order mark and CRLF", `\ufeff${text.replaceAll("\n", "\r\n")}`, "accepted"),
  lines("no line feed at the end", text.trimEnd(), "accepted"),
  lines("CR alone between lines", text.replaceAll("\n", "\r"), "SourceNotJson"),
  lines("UTF-16", Buffer.from(`\ufeff${text}`, "utf16le"), "SourceNotUtf8"),
  lines("Latin-1", Buffer.from('{"text":"perché"}\n', "latin1"), "SourceNotUtf8"),
  lines("an overlong slash", bytes('{"text":"a', Buffer.from([0xc0, 0xaf]), '"}\n'), "SourceNotUtf8"),
  lines("a surrogate in UTF-8", bytes('{"text":"', Buffer.from([0xed, 0xa0, 0x80]), '"}\n'), "SourceNotUtf8"),
  lines("a character cut at the end", bytes('{"text":"', Buffer.from([0xf0, 0x9f])), "SourceNotUtf8"),
  lines("NUL bytes", bytes(text, Buffer.alloc(64)), "SourceNotJson"),
  lines("an escaped NUL in a text", '{"text":"a\\u0000b"}\n', "accepted"),
  lines("lone surrogates in escapes", '{"text":"a\\ud800 \\udc00b","id":"\\ud800"}\n', "accepted"),
  lines("a line cut short", text.slice(0, -6), "SourceNotJson"),
  lines("100,000 levels beside the text", `{"text":"x","a":${deep(100_000)}}\n`, ["accepted", "SourceNotJson"]),
  lines("100,000 levels for a text", `{"text":${deep(100_000)}}\n`, ["SourceFieldInvalid", "SourceNotJson"]),
  lines("100,000 levels that do not end", `{"text":${"[".repeat(100_000)}\n`, "SourceNotJson"),
  lines("the text twice: the last stands", '{"text":1,"text":"x"}\n', "accepted"),
  lines("fields of every object", '{"__proto__":{"text":"no"},"constructor":1,"toString":2,"text":"x"}\n', "accepted"),
  lines("a text in the prototype alone", '{"__proto__":{"text":"no"}}\n', "SourceFieldInvalid"),
  lines("no text", jsonl({ id: "x" }), "SourceFieldInvalid"),
  lines("an empty text", jsonl({ text: "" }), "SourceFieldInvalid"),
  lines("a text of white space", jsonl({ text: "\u00a0\u2003\n" }), "SourceFieldInvalid"),
  lines("a number for a text", jsonl({ text: 1e300 }), "SourceFieldInvalid"),
  lines("a list for a line", `${text}[1]\n`, "SourceNotJson"),
  lines("a string for a line", `${text}"text"\n`, "SourceNotJson"),
  lines("a number too large for an id", '{"text":"x","id":12345678901234567890}\n', "SourceFieldInvalid"),
  lines("an infinite id", '{"text":"x","id":1e999}\n', "SourceFieldInvalid"),
  lines("an id of 5 MB", jsonl({ text: "x", id: "i".repeat(5e6) }), "SourceFieldInvalid"),
  lines("an object for an id", jsonl({ text: "x", id: { toString: 1 } }), "SourceFieldInvalid"),
  lines("an id twice", jsonl({ text: "x", id: "1" }, { text: "y", id: 1 }), "SourceIdRepeated"),
  lines(
    "an id twice, once with its source",
    jsonl({ text: "x", id: "1" }, { text: "y", id: "a:1" }),
    "SourceIdRepeated",
  ),
  lines(
    "ids and licences that are names of methods",
    jsonl(...["__proto__", "constructor", "valueOf"].map((id) => ({ text: id, id, license: id }))),
    "accepted",
  ),
  lines("another language, in 5 MB", jsonl({ text: "x", lang: "q".repeat(5e6) }), "SourceFieldInvalid"),
  lines("another language", jsonl({ text: "x", lang: "\u001b[31m\nhint: rm" }), "SourceLanguageMismatch"),
  lines(
    "10,001 licences",
    many(10_001, (index) => ({ text: "x", license: `L${index}` })),
    "SourceTooVaried",
  ),
  lines(
    "150,000 sources of attribution",
    many(150_000, (index) => ({ text: "x", origin: `o${index}` })),
    "SourceTooVaried",
  ),
  source("a line of 1 GB that never ends", "a.jsonl", sparse('{"text":"', 2 ** 30), "SourceRecordTooLong"),
  source("a line of 1 GB after a good one", "a.jsonl", sparse(`${text}{"text":"`, 2 ** 30), "SourceRecordTooLong"),
  source("one document of 1 GB", "a.txt", sparse("primo\n---\nsecondo", 2 ** 30), "SourceRecordTooLong"),
  source(
    "50 MB of empty lines in a document",
    "a.txt",
    (path) => writeFileSync(path, Buffer.alloc(5e7, 10)),
    "SourceRecordTooLong",
  ),
  source("nothing", "a.txt", "", "SourceEmpty"),
  source("nothing between dashes", "a.txt", "---\n---\n\n---\n", "SourceEmpty"),
  source("a thousand dashes, CRLF, NUL", "a.txt", `a\r\n---\r\n${"-".repeat(1000)}\r\n\u0000\r\n`, "accepted"),
  source("Latin-1", "a.txt", Buffer.from("perché", "latin1"), "SourceNotUtf8"),
  source("10 GB of zeros in 10 MB", "a.jsonl.gz", (path) => writeFileSync(path, bomb(zeros(10), 1000)), [
    "SourceCorrupt",
    "SourceRecordTooLong",
  ]),
  source(
    "10 GB of line feeds in 10 MB",
    "a.jsonl.gz",
    (path) => writeFileSync(path, bomb(gzipSync(Buffer.alloc(10 * 2 ** 20, 10)), 1000)),
    "SourceCorrupt",
  ),
  source(
    "10 GB of one record in 10 MB",
    "a.jsonl.gz",
    (path) => writeFileSync(path, bomb(gzipSync('{"text":"x"}\n'.repeat(800_000)), 1000)),
    "SourceCorrupt",
  ),
  source("cut short", "a.jsonl.gz", gzipSync(text.repeat(50)).subarray(0, -9), "SourceCorrupt"),
  source("a wrong checksum", "a.jsonl.gz", bytes(gzipSync(text).subarray(0, -8), Buffer.alloc(8)), "SourceCorrupt"),
  source("no gzip", "a.jsonl.gz", text, "SourceCorrupt"),
  source("nothing", "a.jsonl.gz", "", ["SourceEmpty", "SourceCorrupt"]),
  source("two members", "a.jsonl.gz", bytes(gzipSync(text), gzipSync(text)), "accepted"),
  source("a folder", "a.jsonl", (path) => mkdirSync(path), "SourceUnknown"),
  source("a pipe nobody writes to", "a.jsonl", (path) => execFileSync("mkfifo", [path]), "SourceUnknown"),
  source("a link to an endless device", "a.jsonl", (path) => symlinkSync("/dev/zero", path), "SourceUnknown"),
  source("a link to nothing", "a.jsonl", (path) => symlinkSync("/nowhere/at/all", path), "SourceUnreadable"),
  source("no reader", "a.csv", "text\nx\n", "SourceFormatUnknown"),
  shared(
    "climbs out of its folder",
    "all.jsonl",
    jsonl({ text: "x", source: "../../etc/passwd" }),
    "SourceNameUnusable",
  ),
  shared("an absolute path", "all.jsonl", jsonl({ text: "x", source: "/etc/passwd" }), "SourceNameUnusable"),
  shared("a path of Windows", "all.jsonl", jsonl({ text: "x", source: "..\\x" }), "SourceNameUnusable"),
  shared("a hidden name", "all.jsonl", jsonl({ text: "x", source: ".." }), "SourceNameUnusable"),
  shared("a name with a NUL", "all.jsonl", jsonl({ text: "x", source: "a\u0000" }), "SourceNameUnusable"),
  shared(
    "a name longer than files may have",
    "all.jsonl",
    jsonl({ text: "x", source: "a".repeat(300) }),
    "SourceNameUnusable",
  ),
  shared("an object for a name", "all.jsonl", jsonl({ text: "x", source: { toString: 1 } }), "SourceFieldInvalid"),
  shared(
    "names of the prototype",
    "all.jsonl",
    jsonl({ text: "x" }, { text: "y", source: "__proto__" }, { text: "z", source: "constructor" }),
    "accepted",
  ),
  shared(
    "20,000 sources",
    "all.jsonl",
    many(20_000, (index) => ({ text: "x", source: `s${index}` })),
    "SourceFieldInvalid",
  ),
  shared("a device", "null.txt", (path) => symlinkSync("/dev/zero", path), "SourceUnreadable"),
]

const codecs: ReadonlyArray<Codec> = ["UNCOMPRESSED", "SNAPPY", "GZIP", "ZSTD"]
const valid = parquet()
const footerAt = valid.length - 8
const tables: ReadonlyArray<Case> = [
  ...codecs.map((codec) => table(`packed by ${codec}`, parquet(undefined, { codec }), "accepted")),
  ...(["DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"] as const).map((encoding) =>
    table(`in ${encoding}`, parquet(undefined, { encoding }), "accepted"),
  ),
  ...codecs.map((codec) => {
    const whole = parquet(undefined, { codec })
    const damaged = Buffer.from(whole)
    for (let at = 30; at < 60; at++) damaged[at]! ^= 0xff
    return table(`damaged inside, packed by ${codec}`, damaged, ["SourceCorrupt", "SourceNotUtf8"])
  }),
  table("as the next cases make it", lyingParquet(), "accepted"),
  table("nothing", Buffer.alloc(0)),
  table("only its magic", Buffer.from("PAR1PAR1")),
  table("cut at the end", valid.subarray(0, -3)),
  table("cut in the middle", bytes(valid.subarray(0, 100), valid.subarray(-40))),
  table("encrypted", bytes(valid.subarray(0, -4), "PARE")),
  table("a footer longer than the file", lyingParquet({ footer: 0x7fffffff })),
  table("a footer of 4 GB", lyingParquet({ footer: 0xffffffff })),
  table("a footer of no bytes", lyingParquet({ footer: 0 })),
  table("a footer that begins elsewhere", lyingParquet({ footer: 40 })),
  table(
    "a footer of one endless number",
    bytes("PAR1", Buffer.from([0x16]), Buffer.alloc(1e6, 0x80), Buffer.from([0x40, 0x42, 0x0f, 0]), "PAR1"),
  ),
  table(
    "a footer nested 100,000 deep",
    bytes("PAR1", Buffer.alloc(100_000, 0x1c), Buffer.from([0xa0, 0x86, 0x01, 0]), "PAR1"),
  ),
  table(
    "a list of two billion columns",
    bytes("PAR1", Buffer.from([0x29, 0xfc]), varint(2 ** 31), Buffer.from([7, 0, 0, 0]), "PAR1"),
  ),
  table("more rows than values", lyingParquet({ rows: 4, groupRows: 4 })),
  table("rows that do not add up", lyingParquet({ rows: 2 })),
  table("two to the 62 rows", lyingParquet({ rows: 2n ** 62n, groupRows: 2n ** 62n })),
  table("a negative number of rows", lyingParquet({ rows: -3, groupRows: -3 })),
  table(
    "two billion values in a page",
    lyingParquet({ values: 2 ** 31 - 1, rows: 2 ** 31 - 1, groupRows: 2 ** 31 - 1 }),
  ),
  table("a negative number of values", lyingParquet({ values: -1 })),
  table("a page longer than its column", lyingParquet({ packed: 1e6 })),
  table("a page of negative length", lyingParquet({ packed: -40 })),
  table("a page that says 2 GB unpacked", lyingParquet({ whole: 2 ** 31 - 1, codec: 6 })),
  table(
    "1 GB of zeros in a zstd page",
    lyingParquet({ body: zstdCompressSync(Buffer.alloc(2 ** 20)), whole: 2 ** 30, codec: 6 }),
  ),
  table(
    "20 MB that a zstd page denies",
    lyingParquet({ body: zstdCompressSync(Buffer.alloc(20 * 2 ** 20)), whole: 30, codec: 6 }),
  ),
  table("20 MB that a gzip page denies", lyingParquet({ body: zeros(20), whole: 30, codec: 2 })),
  table("snappy that is none", lyingParquet({ codec: 1 })),
  table("lz4 that is none", lyingParquet({ codec: 7 })),
  table("an unknown compression", lyingParquet({ codec: 99 })),
  table("an unknown encoding", lyingParquet({ encoding: 99 })),
  table("a dictionary that is not there", lyingParquet({ encoding: 8 })),
  table("strings longer than their page", lyingParquet({ body: Buffer.alloc(24, 0x7f) })),
  table("a run of a billion values", optional(bytes(levels(varint(2 ** 31 - 2), Buffer.from([1])), "xxxx"), 3)),
  table("runs of no values", optional(bytes(levels(Buffer.alloc(1000)), "xxxx"), 3)),
  table("only absent texts", optional(levels(varint(6), Buffer.from([0])), 3), "SourceFieldInvalid"),
  table("numbers for texts", lyingParquet({ type: 1 }), "SourceFieldInvalid"),
  table("true and false for texts", lyingParquet({ type: 0 }), "SourceFieldInvalid"),
  table("lists of texts", lyingParquet({ repetition: 2 }), "SourceFieldInvalid"),
  table("a column with a million children", lyingParquet({ children: 1_000_000 }), "accepted"),
  table("columns in another file", lyingParquet({ path: "../../etc/passwd" })),
  table("columns before the file", lyingParquet({ offset: -100 })),
  table("columns behind the file", lyingParquet({ offset: 1e9 })),
  table("row groups that overlap", lyingParquet({ groups: 2, rows: 6 }), "accepted"),
  table("a delta of an endless number", lyingParquet({ encoding: 7, body: Buffer.alloc(1e6, 0x80) })),
  table(
    "deltas that share a prefix out of nothing",
    lyingParquet({
      encoding: 7,
      body: bytes(
        varint(128),
        varint(4),
        varint(3),
        thrift(9),
        thrift(0),
        Buffer.alloc(4),
        varint(128),
        varint(4),
        varint(3),
        thrift(0),
        thrift(0),
        Buffer.alloc(4),
      ),
    }),
  ),
  table("no column of texts", parquet([{ words: "x" }]), "SourceFieldInvalid"),
  table("no rows", parquet([]), ["SourceEmpty", "SourceFieldInvalid", "SourceCorrupt"]),
  table(
    "an id that is repeated",
    parquet([
      { text: "x", id: "1" },
      { text: "y", id: "1" },
    ]),
    "SourceIdRepeated",
  ),
  table(
    "a footer with its length changed by one",
    bytes(valid.subarray(0, footerAt), Buffer.from([valid[footerAt]! + 1]), valid.subarray(footerAt + 1)),
    ["SourceCorrupt", "SourceFieldInvalid"],
  ),
]

const two = { a: entry([2], 0, 8), b: entry([1], 8, 12) }
const tensors: ReadonlyArray<Case> = [
  weights("as it should be", safetensorsOf(two, 12), "accepted"),
  weights("nothing", ""),
  weights("seven bytes", Buffer.alloc(7)),
  weights("a header longer than the file", safetensorsOf(two, 12, 1000n)),
  weights("a header of 2^64 - 1 bytes", safetensorsOf(two, 12, 2n ** 64n - 1n)),
  weights("a header of no bytes", Buffer.alloc(8)),
  weights("a header that is not JSON", safetensorsOf("{'a': 1}", 4)),
  weights("a header that is a list", safetensorsOf("[]")),
  weights("a header nested 100,000 deep", safetensorsOf(`{"a":${deep(100_000)}}`)),
  weights(
    "a data type nested 100,000 deep",
    safetensorsOf(`{"a":{"dtype":${deep(100_000)},"shape":[1],"data_offsets":[0,4]}}`, 4),
  ),
  weights("a data type of 5 MB", safetensorsOf({ a: entry([1], 0, 4, "F".repeat(5e6)) }, 4)),
  weights("a name of 5 MB", safetensorsOf({ ["n".repeat(5e6)]: entry([1], 0, 8) }, 8)),
  weights("a header that is not UTF-8", safetensorsOf(JSON.stringify(two), 12).fill(0xff, 10, 11)),
  weights("a sparse header of 1 GB", sparse(safetensorsOf("{", 0, 10n ** 9n), 2 ** 30)),
  weights("tensors that overlap", safetensorsOf({ a: entry([2], 0, 8), b: entry([2], 4, 12) }, 12)),
  weights("a gap", safetensorsOf({ a: entry([1], 0, 4), b: entry([1], 8, 12) }, 12)),
  weights("bytes of nobody at the end", safetensorsOf(two, 13)),
  weights("less data than promised", safetensorsOf(two, 11)),
  weights("negative offsets", safetensorsOf({ a: entry([2], -8, 0) }, 8)),
  weights("offsets that run backwards", safetensorsOf({ a: entry([0], 4, 0) }, 4)),
  weights("offsets that are strings", safetensorsOf({ a: entry([1], "0", "4") }, 4)),
  weights("a huge tensor", safetensorsOf({ a: entry([2 ** 30, 2 ** 20], 0, 2 ** 52) }, 8)),
  weights(
    "a shape beyond all numbers",
    safetensorsOf(
      `{"a":{"dtype":"F32","shape":[${Array(40).fill("9007199254740991").join()}],"data_offsets":[0,4]}}`,
      4,
    ),
  ),
  weights(
    "a shape of nothing times everything",
    safetensorsOf(
      `{"a":{"dtype":"F32","shape":[0,${Array(40).fill("9007199254740991").join()}],"data_offsets":[0,0]}}`,
    ),
    "accepted",
  ),
  weights("another data type", safetensorsOf({ a: entry([1], 0, 8, "F64") }, 8)),
  weights("metadata that are numbers", safetensorsOf({ __metadata__: { a: 1 }, ...two }, 12)),
  weights(
    "a tensor called __proto__",
    safetensorsOf(`{"__proto__":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4),
    "accepted",
  ),
  weights("a pickle", Buffer.from("80049520000000000000008c05706f736978948c0673797374656d9493942e", "hex")),
  weights("a folder", (path) => mkdirSync(path)),
]

const merge = (...merges: ReadonlyArray<unknown>) =>
  tokenizer((json) => {
    json.model.merges = merges
  })
const vocab = (more: object) =>
  tokenizer((json) => {
    Object.assign(json.model.vocab, more)
  })
const tokenizers: ReadonlyArray<Case> = [
  words("as it should be", tokenizer(), "accepted"),
  words("not there", {}),
  words("nothing", { "tokenizer.json": "" }),
  words("not UTF-8", { "tokenizer.json": Buffer.from([0x7b, 0xff, 0x7d]) }),
  words("cut short", { "tokenizer.json": String(tokenizer()["tokenizer.json"]).slice(0, -20) }),
  words("null", { "tokenizer.json": "null" }),
  words("100,000 levels", { "tokenizer.json": deep(100_000) }),
  words("100,000 levels for a model", { "tokenizer.json": `{"model":${deep(100_000)}}` }),
  words("1 GB of zeros", { "tokenizer.json": sparse("{", 2 ** 30) }),
  words("a pipe nobody writes to", { "tokenizer.json": (path) => execFileSync("mkfifo", [path]) }),
  words("a broken tokenizer_config.json", { ...tokenizer(), "tokenizer_config.json": "{" }),
  words("a merge of two tokens that are none", merge("t zz")),
  words("a merge whose result is no token", merge("t t")),
  words("a merge that stands twice", merge("t h", "t h")),
  words("merges in a circle", merge("th e", "t h", "the t")),
  words("a merge of nothing", merge(" ")),
  words("a merge of three", merge("t h e")),
  words("a merge of lists", merge([["t"], ["h"]])),
  words("a number for a merge", merge(7)),
  words(
    "merges that are no list",
    tokenizer((json) => {
      json.model.merges = { 0: "t h" }
    }),
    ["TokenizerUnreadable", "accepted"],
  ),
  words(
    "a byte without a token",
    tokenizer((json) => {
      delete json.model.vocab.a
    }),
  ),
  words("ids with a gap", vocab({ zzz: 5000 }), "accepted"),
  words("an id beyond all vocabularies", vocab({ zzz: 2 ** 31 })),
  words("an id of 2^53", vocab({ zzz: 2 ** 53 })),
  words("a negative id", vocab({ zzz: -1 })),
  words("an id of a half", vocab({ zzz: 0.5 })),
  words("a string for an id", vocab({ zzz: "9" })),
  words("an id with two tokens", vocab({ zzz: 7 })),
  words(
    "a token called __proto__",
    { "tokenizer.json": String(tokenizer()["tokenizer.json"]).replace('"the":', '"__proto__":9999,"the":') },
    "accepted",
  ),
  words(
    "an added token with a huge id",
    tokenizer((json) => {
      json.added_tokens[0].id = 1e15
    }),
    ["accepted", "TokenizerUnreadable"],
  ),
  words(
    "an added token in another's place",
    tokenizer((json) => {
      json.added_tokens[0].id = 50
    }),
  ),
  words(
    "a vocabulary of 300,000",
    vocab(
      Object.fromEntries(
        Array.from({ length: 300_000 }, (_, index) => [`tok${index}`, vocabulary.tokens.length + index]),
      ),
    ),
    "accepted",
  ),
  words("another kind, and empty", { "tokenizer.json": '{"model":{"type":"WordPiece","vocab":{}}}' }, [
    "accepted",
    "TokenizerUnreadable",
  ]),
  words(
    "another kind, with a huge id",
    tokenizer((json) => {
      json.normalizer = { type: "NFC" }
      json.model.vocab.zzz = 2 ** 40
    }),
  ),
  words("an unknown kind", { "tokenizer.json": '{"model":{"type":"Magic","vocab":{"a":0},"merges":[]}}' }),
]

export const cases: ReadonlyArray<Case> = [...sources, ...tables, ...tensors, ...tokenizers]
