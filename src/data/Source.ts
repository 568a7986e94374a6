/**
 * Where texts come from: a folder of `<source>.<ext>`, or one file whose records say in `source` which source they belong to
 * (a record without that field belongs to the source named like the file).
 *
 * | extension              | a document is                                                                                  |
 * |------------------------|------------------------------------------------------------------------------------------------|
 * | `.jsonl`, `.jsonl.gz`  | a line: a JSON object; blank lines are skipped                                                  |
 * | `.parquet`             | a row (`Parquet.ts`)                                                                            |
 * | `.txt`                 | what stands between lines that hold `---` and nothing else; a file without one is one document  |
 *
 * A blank line does not part documents in `.txt`: paragraphs have them. Line feeds around a document are not part of it.
 *
 * Fields: `text` (needed), `id` (else the record number; `documentId` below makes it unique in a corpus), `lang`, `license` (else
 * `NOASSERTION`, as SPDX has it), `attribution` or `origin`, `terms` (of use). A field that is `null` is absent. Other fields are not looked at. Only
 * own fields count, so a key `__proto__` is a field like any other. Lone surrogates (possible through JSON escapes) become U+FFFD.
 *
 * Files are read as streams and believed in nothing: a record is at most `MAX_RECORD` bytes, a field other than `text` `MAX_FIELD`
 * characters, a gzip file may not expand beyond what text can. Memory holds a batch, and 16 to 32 bytes a document to know its id by.
 */
import { hash } from "node:crypto"
import { createReadStream } from "node:fs"
import { open, readdir, stat } from "node:fs/promises"
import { basename, join } from "node:path"
import { createGunzip } from "node:zlib"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { because } from "../model/Because.ts"
import { byCodeUnit } from "../model/ByCodeUnit.ts"
import { SourceName } from "../model/Corpus.ts"
import { didYouMean } from "../model/DidYouMean.ts"
import { fileSum, KeptSums } from "./FileSum.ts"

export const noLicense = "NOASSERTION"

const MAX_RECORD = 32 * 1024 * 1024
const MAX_FIELD = 4096
const MAX_SOURCES = 10_000
/** What is shorter when packed than this is no text: gzip itself ends at 1,032. */
const MAX_EXPANSION = 300

/** Foreign words in a message of ours: no longer than a line. */
const short = (text: string): string => (text.length > 100 ? `${text.slice(0, 100)}…` : text)

export class SourceFolderMissing extends Schema.TaggedError<SourceFolderMissing>()("SourceFolderMissing", {
  path: Schema.String,
}) {
  override get message() {
    return `there is no file or folder \`${this.path}\`\n  hint: \`from\` is a folder of \`<source>.jsonl\` (or .jsonl.gz, .parquet, .txt), or one such file`
  }
}

export class SourceUnknown extends Schema.TaggedError<SourceUnknown>()("SourceUnknown", {
  source: Schema.String,
  path: Schema.String,
  available: Schema.Array(Schema.String),
}) {
  override get message() {
    const near = didYouMean(this.source, this.available)
    const there = this.available.length === 0 ? "holds no source" : `has ${this.available.join(", ")}`
    return `source "${this.source}" is not in \`${this.path}\`, which ${there}\n  hint: ${near === undefined ? `add \`${this.source}.jsonl\` or take its name out` : `did you mean "${near}"?`}`
  }
}

export class SourceAmbiguous extends Schema.TaggedError<SourceAmbiguous>()("SourceAmbiguous", {
  source: Schema.String,
  files: Schema.Array(Schema.String),
}) {
  override get message() {
    return `source "${this.source}" has ${this.files.length} files: ${this.files.join(", ")}\n  hint: keep one of them`
  }
}

export class SourceNameUnusable extends Schema.TaggedError<SourceNameUnusable>()("SourceNameUnusable", {
  source: Schema.String,
  file: Schema.String,
}) {
  override get message() {
    return `${this.file}: ${JSON.stringify(short(this.source))} cannot name a source\n  hint: use letters, digits, "_", "-" and "."; it becomes a file name`
  }
}

export class SourceFormatUnknown extends Schema.TaggedError<SourceFormatUnknown>()("SourceFormatUnknown", {
  file: Schema.String,
}) {
  override get message() {
    return `${this.file}: no reader for this extension\n  hint: use .jsonl, .jsonl.gz, .parquet or .txt`
  }
}

const at = { file: Schema.String, record: Schema.Int }

export class SourceNotUtf8 extends Schema.TaggedError<SourceNotUtf8>()("SourceNotUtf8", at) {
  override get message() {
    return `${this.file}, record ${this.record}: not UTF-8\n  hint: convert the file, for instance with \`iconv -f latin1 -t utf-8\``
  }
}

export class SourceNotJson extends Schema.TaggedError<SourceNotJson>()("SourceNotJson", {
  ...at,
  problem: Schema.String,
}) {
  override get message() {
    return `${this.file}, line ${this.record}: ${this.problem}\n  hint: every line is one JSON object with a field \`text\``
  }
}

export class SourceFieldInvalid extends Schema.TaggedError<SourceFieldInvalid>()("SourceFieldInvalid", {
  ...at,
  field: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `${this.file}, record ${this.record}: \`${this.field}\` ${this.problem}\n  hint: ${this.field === "text" ? "give the record a text or take it out" : `write \`${this.field}\` as a string or leave it out`}`
  }
}

export class SourceLanguageMismatch extends Schema.TaggedError<SourceLanguageMismatch>()("SourceLanguageMismatch", {
  ...at,
  declared: Schema.String,
  found: Schema.String,
}) {
  override get message() {
    return `${this.file}, record ${this.record}: \`lang\` is ${JSON.stringify(short(this.found))}, the experiment says "${this.declared}"\n  hint: list the source under its own language, or correct the record`
  }
}

export class SourceIdRepeated extends Schema.TaggedError<SourceIdRepeated>()("SourceIdRepeated", {
  ...at,
  id: Schema.String,
}) {
  override get message() {
    return `${this.file}, record ${this.record}: id ${JSON.stringify(short(this.id))} was there before\n  hint: ids are unique in a source; leave \`id\` out to have records numbered`
  }
}

export class SourceRecordTooLong extends Schema.TaggedError<SourceRecordTooLong>()("SourceRecordTooLong", at) {
  override get message() {
    return `${this.file}, record ${this.record}: longer than ${MAX_RECORD / 2 ** 20} MB\n  hint: one document a line (in .txt: a line \`---\` between documents); cut what is longer`
  }
}

export class SourceCorrupt extends Schema.TaggedError<SourceCorrupt>()("SourceCorrupt", {
  ...at,
  problem: Schema.String,
}) {
  override get message() {
    return `${this.file}, after record ${this.record}: ${this.problem}\n  hint: the file is damaged or cut short; fetch it again`
  }
}

export class SourceUnreadable extends Schema.TaggedError<SourceUnreadable>()("SourceUnreadable", {
  file: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `${this.file}: ${this.problem}\n  hint: see that the file is there and may be read`
  }
}

export const SourceError = Schema.Union([
  SourceFolderMissing,
  SourceUnknown,
  SourceAmbiguous,
  SourceNameUnusable,
  SourceFormatUnknown,
  SourceNotUtf8,
  SourceNotJson,
  SourceFieldInvalid,
  SourceLanguageMismatch,
  SourceIdRepeated,
  SourceRecordTooLong,
  SourceCorrupt,
  SourceUnreadable,
])
export type SourceError = typeof SourceError.Type
export const isSourceError = Schema.is(SourceError)

/** Foreign code throws anything; the readers below throw their own errors, which pass. */
export const sourceErrorOf =
  (file: string) =>
  (cause: unknown): SourceError =>
    isSourceError(cause)
      ? cause
      : because(new SourceUnreadable({ file, problem: cause instanceof Error ? cause.message : String(cause) }), cause)

export interface SourceDocument {
  /** As `documentId` makes it. */
  readonly id: string
  readonly text: string
  readonly language: string | undefined
  readonly license: string
  readonly attribution: string | undefined
  readonly terms: string | undefined
  /** Line or row, from 1. */
  readonly record: number
}

export type Format = "jsonl" | "jsonl.gz" | "parquet" | "txt"

export interface LocatedSource {
  readonly source: string
  readonly path: string
  /** Base name of the file. */
  readonly file: string
  readonly format: Format
  /** The file holds several sources: its records are to be told apart by their field. */
  readonly shared: boolean
}

export const formatOf = (file: string): { readonly stem: string; readonly format: Format } | undefined => {
  const match = /^(.+)\.(jsonl\.gz|jsonl|parquet|txt)$/.exec(file)
  return match === null ? undefined : { stem: match[1]!, format: match[2] as Format }
}

const isUsableName = Schema.is(SourceName)

const CHUNK = 1 << 16

/** What a plain file holds. A stream would read as fast, but starting one costs as much as reading a short file: a plan reads many. */
async function* chunksOf(path: string): AsyncGenerator<Buffer> {
  await using file = await open(path)
  for (;;) {
    const { buffer, bytesRead } = await file.read(Buffer.allocUnsafe(CHUNK))
    if (bytesRead === 0) return
    yield buffer.subarray(0, bytesRead)
  }
}

/** What a packed file holds. `line`: where its reader is, for complaints. */
async function* unpackedOf(path: string, file: string, line: () => number): AsyncGenerator<Buffer> {
  const input = createReadStream(path, { highWaterMark: CHUNK })
  const bytes = input.pipe(createGunzip({ chunkSize: CHUNK }))
  input.on("error", (error) => bytes.destroy(error))
  let read = 0
  try {
    for await (const chunk of bytes as AsyncIterable<Buffer>) {
      read += chunk.length
      if (read > 4e6 && read > MAX_EXPANSION * bytes.bytesWritten)
        throw new SourceCorrupt({ file, record: line() - 1, problem: `it expands more than ${MAX_EXPANSION}-fold` })
      yield chunk
    }
  } finally {
    input.destroy()
    bytes.destroy()
  }
}

/** Batches of lines without their line feed, numbered from 1; a byte order mark at the start is left out. */
async function* linesOf(path: string, file: string, zipped: boolean) {
  let line = 1
  let held: Array<Buffer> = []
  let heldBytes = 0
  const take = (end: Buffer) => {
    const whole = held.length === 0 ? end : Buffer.concat([...held, end])
    held = []
    heldBytes = 0
    const marked = line === 1 && whole[0] === 0xef && whole[1] === 0xbb && whole[2] === 0xbf
    return { number: line++, bytes: marked ? whole.subarray(3) : whole }
  }
  try {
    for await (const chunk of zipped ? unpackedOf(path, file, () => line) : chunksOf(path)) {
      const lines: Array<{ readonly number: number; readonly bytes: Buffer }> = []
      let start = 0
      for (let end = chunk.indexOf(10); end !== -1; end = chunk.indexOf(10, start)) {
        lines.push(take(chunk.subarray(start, end)))
        start = end + 1
      }
      held.push(chunk.subarray(start))
      heldBytes += chunk.length - start
      if (heldBytes > MAX_RECORD) throw new SourceRecordTooLong({ file, record: line })
      if (lines.length > 0) yield lines
    }
    if (heldBytes > 0) yield [take(Buffer.alloc(0))]
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : ""
    if (code.startsWith("Z_")) throw new SourceCorrupt({ file, record: line - 1, problem: (cause as Error).message })
    throw cause
  }
}

/** Fields of a record before anything is known about them. */
export interface Fields {
  readonly record: number
  readonly get: (name: string) => unknown
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true })
const decodeUtf8 = (bytes: Uint8Array, file: string, record: number): string => {
  try {
    return decoder.decode(bytes)
  } catch {
    throw new SourceNotUtf8({ file, record })
  }
}

/** A file to be read, by the name that complaints give it. */
export type Readable = Pick<LocatedSource, "path" | "file" | "format">

async function* jsonRecords({ path, file, format }: Readable): AsyncGenerator<ReadonlyArray<Fields>> {
  for await (const lines of linesOf(path, file, format === "jsonl.gz")) {
    const records: Array<Fields> = []
    for (const { number, bytes } of lines) {
      if (bytes.length === 0) continue
      const text = decodeUtf8(bytes, file, number)
      if (text.trim() === "") continue
      let value: unknown
      try {
        value = JSON.parse(text)
      } catch (cause) {
        throw new SourceNotJson({ file, record: number, problem: (cause as Error).message })
      }
      if (typeof value !== "object" || value === null || Array.isArray(value))
        throw new SourceNotJson({ file, record: number, problem: "not a JSON object" })
      const object = value as Record<string, unknown>
      records.push({ record: number, get: (name) => (Object.hasOwn(object, name) ? object[name] : undefined) })
    }
    yield records
  }
}

async function* textRecords({ path, file }: Readable): AsyncGenerator<ReadonlyArray<Fields>> {
  let lines: Array<string> = []
  let bytesHeld = 0
  let record = 0
  const finished = (): ReadonlyArray<Fields> => {
    const text = lines.join("\n").replace(/^[\r\n]+|[\r\n]+$/g, "")
    lines = []
    bytesHeld = 0
    if (text.trim() === "") return []
    record++
    return [{ record, get: (name) => (name === "text" ? text : undefined) }]
  }
  for await (const batch of linesOf(path, file, false)) {
    const records: Array<Fields> = []
    for (const { bytes } of batch) {
      const line = decodeUtf8(bytes, file, record + 1)
      if (line.trimEnd() === "---") records.push(...finished())
      else {
        // a line costs its place in the list too
        bytesHeld += bytes.length + 32
        if (bytesHeld > MAX_RECORD) throw new SourceRecordTooLong({ file, record: record + 1 })
        lines.push(line)
      }
    }
    yield records
  }
  yield finished()
}

const FIELDS = ["id", "text", "source", "lang", "license", "attribution", "origin", "terms"]

async function* parquetRecords(
  { path, file }: Readable,
  columns: ReadonlyArray<string>,
  text: string,
): AsyncGenerator<ReadonlyArray<Fields>> {
  let record = 0
  const { openParquet } = await import("./Parquet.ts")
  try {
    await using table = await openParquet(path, columns)
    const invalid = (field: string, problem: string) => new SourceFieldInvalid({ file, record: 1, field, problem })
    if (!table.names.has(text)) throw invalid(text, "is no column of this file")
    for (const [field, problem] of table.unfit) throw invalid(field, problem)
    for await (const batch of table.batches())
      yield batch.get(text)!.map((_, row) => {
        const number = ++record
        return {
          record: number,
          get: (name) => {
            const value = batch.get(name)?.[row]
            if (!(value instanceof Uint8Array)) return value
            if (value.length > MAX_RECORD) throw new SourceRecordTooLong({ file, record: number })
            return decodeUtf8(value, file, number)
          },
        }
      })
  } catch (cause) {
    if (isSourceError(cause)) throw cause
    const code = cause instanceof Error && "code" in cause ? String(cause.code) : ""
    if (code === "ENOENT" || code === "EACCES" || code === "EISDIR") throw cause
    throw new SourceCorrupt({ file, record, problem: cause instanceof Error ? cause.message : String(cause) })
  }
}

/** The records of a file in batches; of a table those columns, the one with the texts among them. */
export const recordsOf = (
  located: Readable,
  columns: ReadonlyArray<string> = FIELDS,
  text = "text",
): AsyncGenerator<ReadonlyArray<Fields>> =>
  located.format === "parquet"
    ? parquetRecords(located, columns, text)
    : located.format === "txt"
      ? textRecords(located)
      : jsonRecords(located)

const sourceOf = (file: string, fields: Fields): string => {
  const value = fields.get("source")
  if (value === undefined || value === null) return formatOf(file)?.stem ?? file
  if (typeof value !== "string")
    throw new SourceFieldInvalid({
      file,
      record: fields.record,
      field: "source",
      problem: `is a ${typeof value}, not a string`,
    })
  if (!isUsableName(value)) throw new SourceNameUnusable({ file, source: value })
  return value
}

/**
 * The id of a document in a corpus: what its record says behind `<source>:`, unless it begins so already. No name of a source has a
 * colon, so what stands before the first one says the source, and ids that are unique in their source are unique in the corpus.
 */
const documentId = (source: string, given: string): string =>
  given.startsWith(`${source}:`) ? given : `${source}:${given}`

/** A field of a record that is absent or a string. */
const textIn =
  (file: string, { record, get }: Fields) =>
  (name: string): string | undefined => {
    const value = get(name) ?? undefined
    const invalid = (problem: string) => new SourceFieldInvalid({ file, record, field: name, problem })
    if (value === undefined) return undefined
    if (typeof value !== "string") throw invalid(`is ${JSON.stringify(typeof value)}, not a string`)
    if (name !== "text" && value.length > MAX_FIELD) throw invalid(`is longer than ${MAX_FIELD} characters`)
    return value.toWellFormed()
  }

/** What a record says of licence, attribution and terms of use. */
export const rightsIn = (
  { file }: LocatedSource,
  fields: Fields,
): Pick<SourceDocument, "license" | "attribution" | "terms"> => {
  const text = textIn(file, fields)
  return {
    license: text("license") || noLicense,
    attribution: text("attribution") || text("origin") || undefined,
    terms: text("terms") || undefined,
  }
}

const documentOf = (located: LocatedSource, fields: Fields): SourceDocument => {
  const { file, source } = located
  const { record } = fields
  const text = textIn(file, fields)
  const body = text("text")
  if (body === undefined || body.trim() === "")
    throw new SourceFieldInvalid({
      file,
      record,
      field: "text",
      problem: body === undefined ? "is missing" : "is empty",
    })
  const given = fields.get("id")
  // a number that JSON rounds would be the id of its neighbours too
  const whole = typeof given === "bigint" || Number.isSafeInteger(given)
  if (typeof given === "number" && !whole)
    throw new SourceFieldInvalid({ file, record, field: "id", problem: `is ${given}, not a whole number below 2^53` })
  const id = whole ? String(given) : text("id")
  return {
    id: documentId(source, id || String(record)),
    text: body,
    language: text("lang"),
    ...rightsIn(located, fields),
    record,
  }
}

/** The first 64 bits of the sha256 of a text: they sort as the whole does. */
export const fingerprint = (text: string): bigint => hash("sha256", text, "buffer").readBigUInt64BE(0)

/** Texts that were there before, by fingerprint: among a million, two share one with a chance of 1 to 30 million. */
class Seen {
  #slots = new BigUint64Array(1 << 10)
  #size = 0

  /** Whether the text is new. */
  add(text: string): boolean {
    const added = this.#put(fingerprint(text) || 1n)
    if (added && ++this.#size * 2 > this.#slots.length) {
      const old = this.#slots
      this.#slots = new BigUint64Array(old.length * 2)
      for (const print of old) if (print !== 0n) this.#put(print)
    }
    return added
  }

  #put(print: bigint): boolean {
    const mask = this.#slots.length - 1
    for (let slot = Number(print & 0x3fffffffn) & mask; ; slot = (slot + 1) & mask) {
      if (this.#slots[slot] === print) return false
      if (this.#slots[slot] !== 0n) continue
      this.#slots[slot] = print
      return true
    }
  }
}

/** The records of a source in batches, also where its file holds several. */
export async function* ownRecordsOf(located: LocatedSource): AsyncGenerator<ReadonlyArray<Fields>> {
  const { file, shared, source } = located
  for await (const records of recordsOf(located))
    yield shared ? records.filter((fields) => sourceOf(file, fields) === source) : records
}

/** Documents in batches; throws a `SourceError` (or what the file system says). */
export async function* batchesOf(
  located: LocatedSource,
  language: string | undefined,
): AsyncGenerator<ReadonlyArray<SourceDocument>> {
  const { file } = located
  const ids = new Seen()
  for await (const records of ownRecordsOf(located)) {
    const documents: Array<SourceDocument> = []
    for (const fields of records) {
      const document = documentOf(located, fields)
      const { id, record } = document
      if (language !== undefined && document.language !== undefined && document.language !== language)
        throw new SourceLanguageMismatch({ file, record, declared: language, found: document.language })
      if (!ids.add(id)) throw new SourceIdRepeated({ file, record, id })
      documents.push(document)
    }
    if (documents.length > 0) yield documents
  }
}

/** The documents of a source in the order of its file. With `language`, a record that says another one is an error. */
export const documentsOf = (
  located: LocatedSource,
  options: { readonly language?: string } = {},
): Stream.Stream<SourceDocument, SourceError> =>
  Stream.fromAsyncIterable(batchesOf(located, options.language), sourceErrorOf(located.file)).pipe(
    Stream.flattenIterable,
  )

/** Runs over all batches; between two the event loop turns. */
export const forEachBatch = (
  located: LocatedSource,
  language: string | undefined,
  f: (documents: ReadonlyArray<SourceDocument>) => void,
): Effect.Effect<void, SourceError> =>
  Effect.tryPromise({
    try: async (signal) => {
      for await (const documents of batchesOf(located, language)) {
        if (signal.aborted) return
        f(documents)
      }
    },
    catch: sourceErrorOf(located.file),
  })

interface Listing {
  /** By source name, all files that could be it. */
  readonly sources: ReadonlyMap<string, ReadonlyArray<LocatedSource>>
  /** Base names of all other visible files. */
  readonly others: ReadonlyArray<string>
  readonly shared: boolean
}

/** What lies in a folder, or in one file (which is read through once for its `source` fields). */
export const list = Effect.fn("data.list")(function* (from: string) {
  return yield* Effect.tryPromise({
    try: async (): Promise<Listing> => {
      const found = await stat(from).catch(() => undefined)
      if (found === undefined) throw new SourceFolderMissing({ path: from })
      // a pipe or a device would be waited for, or read, for ever
      const isRegular = async (path: string) => (await stat(path).catch(() => undefined))?.isFile() ?? true
      const sources = new Map<string, Array<LocatedSource>>()
      const others: Array<string> = []
      if (found.isDirectory()) {
        const entries = await readdir(from, { withFileTypes: true })
        for (const file of entries
          .filter((entry) => !entry.isDirectory() && !entry.name.startsWith("."))
          .map((entry) => entry.name)
          .sort(byCodeUnit)) {
          if (!(await isRegular(join(from, file)))) continue
          const format = formatOf(file)
          if (format === undefined || !isUsableName(format.stem)) others.push(file)
          else {
            const located = { source: format.stem, path: join(from, file), file, format: format.format, shared: false }
            sources.set(format.stem, [...(sources.get(format.stem) ?? []), located])
          }
        }
        return { sources, others, shared: false }
      }
      if (!found.isFile()) throw new SourceUnreadable({ file: from, problem: "it is neither a file nor a folder" })
      const file = basename(from)
      const format = formatOf(file)
      if (format === undefined) throw new SourceFormatUnknown({ file })
      const whole: LocatedSource = { source: format.stem, path: from, file, format: format.format, shared: true }
      for await (const records of recordsOf(whole))
        for (const fields of records) {
          const source = sourceOf(file, fields)
          if (sources.size === MAX_SOURCES && !sources.has(source))
            throw new SourceFieldInvalid({
              file,
              record: fields.record,
              field: "source",
              problem: `names one source more than ${MAX_SOURCES}`,
            })
          if (!sources.has(source)) sources.set(source, [{ ...whole, source }])
        }
      return { sources, others, shared: true }
    },
    catch: sourceErrorOf(from),
  })
})

/** The file of a source. */
export const find = Effect.fnUntraced(function* (from: string, listing: Listing, source: string) {
  const [located, ...more] = listing.sources.get(source) ?? []
  if (located === undefined) {
    const unread = listing.others.find((file) => file.startsWith(`${source}.`))
    if (unread !== undefined) return yield* new SourceFormatUnknown({ file: unread })
    return yield* new SourceUnknown({ source, path: from, available: [...listing.sources.keys()].sort(byCodeUnit) })
  }
  if (more.length > 0) return yield* new SourceAmbiguous({ source, files: [located, ...more].map((each) => each.file) })
  return located
})

/** sha256 of a file's bytes; `fresh`: read to the last of them now. */
export const sha256OfFile = (path: string, fresh = false): Effect.Effect<string, SourceUnreadable> =>
  Effect.flatMap(KeptSums, (kept) =>
    Effect.tryPromise({
      try: () => fileSum(path, { kept, fresh }),
      catch: (cause) =>
        because(
          new SourceUnreadable({ file: path, problem: cause instanceof Error ? cause.message : String(cause) }),
          cause,
        ),
    }),
  )

/** The file of a source and the sha256 of its content: what an experiment's key is made of. */
export const locate = Effect.fn("data.locate")(function* (from: string, source: string) {
  const located = yield* find(from, yield* list(from), source)
  return { ...located, sha256: yield* sha256OfFile(located.path) }
})
