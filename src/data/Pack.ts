/**
 * A corpus and a tokenizer become tokens (formats in `src/model/Corpus.ts`).
 *
 * Sources are packed one after another, so the training tokens of one lie together; parts go to shards of their own. A shard ends
 * between two documents once it holds 2^26 tokens or more would not fit: a document never lies in two shards, a training row may.
 *
 * Counting, per source with raw training tokens n and context T: rows = floor((n − 1) / T), packed = rows·T (the inputs of an
 * epoch, and its targets), dropped = n − packed. The last token of a source is only ever a target, so at least one is dropped.
 *
 * `inventory.json` is a `TokensInventory`. Everything is written in one pass over the corpus, in bounded memory.
 */
import { closeSync, openSync, readSync, statSync, writeSync } from "node:fs"
import { readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { because } from "../model/Because.ts"
import { type Mix, type Part, type Role, type SourceRows, type TokenDocument, TokensIndex } from "../model/Corpus.ts"
import { suggestion } from "../model/DidYouMean.ts"
import type { Progress } from "./BpeTrainer.ts"
import { CorpusUnwritable, forEachDocument, problemOf, readInventory } from "./Corpus.ts"
import { openParquet } from "./Parquet.ts"
import { loadTokenizer } from "./Tokenizer.ts"
import { keepSmall } from "./YoungSpace.ts"

export class MixSourceUnknown extends Schema.TaggedError<MixSourceUnknown>()("MixSourceUnknown", {
  source: Schema.String,
  sources: Schema.Array(Schema.String),
}) {
  override get message() {
    return `mix: "${this.source}" is not a training source\n  hint: ${suggestion(this.source, this.sources)}`
  }
}

export class MixEmpty extends Schema.TaggedError<MixEmpty>()("MixEmpty", {}) {
  override get message() {
    return "mix: all weights are 0\n  hint: give a training source some weight"
  }
}

export class SourceTooShort extends Schema.TaggedError<SourceTooShort>()("SourceTooShort", {
  source: Schema.String,
  tokens: Schema.Int,
  context: Schema.Int,
}) {
  override get message() {
    return `source "${this.source}" has ${this.tokens} training tokens: no row of ${this.context} + 1\n  hint: lower \`context\`, add texts, or give it weight 0`
  }
}

export class TokenizerUnfit extends Schema.TaggedError<TokenizerUnfit>()("TokenizerUnfit", {
  path: Schema.String,
  missing: Schema.Array(Schema.String),
}) {
  override get message() {
    return `tokenizer ${this.path} names no ${this.missing.join(" and no ")}\n  hint: documents are BOS, text, EOS: set them in \`tokenizer_config.json\``
  }
}

export class TokensUnreadable extends Schema.TaggedError<TokensUnreadable>()("TokensUnreadable", {
  path: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `tokens ${this.path}: ${this.problem}\n  hint: run \`exp check --repair\``
  }
}

interface TokenCounts {
  readonly raw: number
  readonly packed: number
  readonly dropped: number
}
interface PartCounts {
  documents: number
  /** BOS and EOS included. */
  tokens: number
  /** UTF-8 of the texts. */
  bytes: number
}

export interface TokensInventory {
  readonly sources: ReadonlyArray<
    TokenCounts & {
      readonly source: string
      readonly language: string
      readonly role: Role
      readonly parts: { readonly [part in Part]: PartCounts }
    }
  >
  /** Training tokens by language. */
  readonly languages: { readonly [language: string]: TokenCounts }
  readonly total: TokenCounts & { readonly parts: { readonly [part in Part]: PartCounts } }
}

const parts = ["train", "validation", "holdout"] as const
const noParts = (): { [part in Part]: PartCounts } => ({
  train: { documents: 0, tokens: 0, bytes: 0 },
  validation: { documents: 0, tokens: 0, bytes: 0 },
  holdout: { documents: 0, tokens: 0, bytes: 0 },
})

/** Weights of the training sources, summing to 1. A source that a custom mix does not name has weight 0. */
export const weightsOf = Effect.fnUntraced(function* (
  mix: Mix,
  training: ReadonlyArray<{ readonly source: string; readonly rows: number }>,
) {
  const names = training.map(({ source }) => source)
  if (typeof mix !== "string") {
    for (const source of Object.keys(mix))
      if (!names.includes(source)) return yield* new MixSourceUnknown({ source, sources: names })
  }
  const weights = training.map(({ source, rows }) =>
    mix === "source_balanced" ? 1 : mix === "proportional" ? rows : Object.hasOwn(mix, source) ? mix[source]! : 0,
  )
  const sum = weights.reduce((total, weight) => total + weight, 0)
  if (sum === 0) return yield* new MixEmpty()
  return new Map(names.map((source, index) => [source, weights[index]! / sum]))
})

/** Appends tokens to the shards of one part. */
class ShardWriter {
  readonly shards: Array<{ file: string; part: Part; tokens: number }> = []
  readonly #folder: string
  readonly #part: Part
  readonly #width: 2 | 4
  readonly #limit: number
  readonly #buffer = Buffer.alloc(1 << 20)
  #used = 0
  #descriptor: number | undefined

  constructor(folder: string, part: Part, width: 2 | 4, limit: number) {
    this.#folder = folder
    this.#part = part
    this.#width = width
    this.#limit = limit
  }

  /** Where the document lies. */
  add(ids: Uint32Array, bosId: number, eosId: number): { readonly shard: string; readonly offset: number } {
    const length = ids.length + 2
    let shard = this.shards.at(-1)
    if (shard === undefined || shard.tokens + length > this.#limit) {
      this.close()
      shard = { file: `${this.#part}-${String(this.shards.length).padStart(5, "0")}.bin`, part: this.#part, tokens: 0 }
      this.shards.push(shard)
      this.#descriptor = openSync(join(this.#folder, shard.file), "w")
    }
    const offset = shard.tokens
    this.#put(bosId)
    for (let index = 0; index < ids.length; index++) this.#put(ids[index]!)
    this.#put(eosId)
    shard.tokens += length
    return { shard: shard.file, offset }
  }

  close() {
    if (this.#descriptor === undefined) return
    this.#flush()
    closeSync(this.#descriptor)
    this.#descriptor = undefined
  }

  #put(id: number) {
    if (this.#used === this.#buffer.length) this.#flush()
    if (this.#width === 2) this.#buffer.writeUInt16LE(id, this.#used)
    else this.#buffer.writeUInt32LE(id, this.#used)
    this.#used += this.#width
  }

  #flush() {
    for (let from = 0; from < this.#used; ) from += writeSync(this.#descriptor!, this.#buffer, from, this.#used - from)
    this.#used = 0
  }
}

const ROW_GROUP = 50_000

const documentColumns = [
  ["id", "STRING"],
  ["source", "STRING"],
  ["language", "STRING"],
  ["license", "STRING"],
  ["part", "STRING"],
  ["shard", "STRING"],
  ["offset", "INT32"],
  ["length", "INT32"],
  ["bytes", "INT32"],
] as const

/** Appends rows to `documents.parquet`, a row group at a time. */
const tableWriter = async (path: string) => {
  const { fileWriter, ParquetWriter } = await import("hyparquet-writer")
  const writer = new ParquetWriter({
    writer: fileWriter(path),
    schema: [
      { name: "root", num_children: documentColumns.length },
      ...documentColumns.map(([name, type]) => ({
        name,
        repetition_type: "REQUIRED" as const,
        ...(type === "STRING"
          ? { type: "BYTE_ARRAY" as const, converted_type: "UTF8" as const }
          : { type: "INT32" as const }),
      })),
    ],
  })
  let rows: Array<TokenDocument> = []
  const flush = () => {
    // the writer takes no empty group; a table of no rows is still a table
    if (rows.length > 0)
      writer.write({
        columnData: documentColumns.map(([name]) => ({ name, data: rows.map((row) => row[name]) })),
        rowGroupSize: ROW_GROUP,
      })
    rows = []
  }
  return {
    add: (row: TokenDocument) => {
      rows.push(row)
      if (rows.length === ROW_GROUP) flush()
    },
    close: () => {
      flush()
      writer.finish()
    },
  }
}

export const packTokens = Effect.fn("data.packTokens")(function* (request: {
  readonly corpusFolder: string
  readonly tokenizerFolder: string
  readonly context: number
  readonly mix: Mix
  /** An empty folder. */
  readonly out: string
  /** Tokens a shard holds at most, unless one document alone is longer. */
  readonly shardTokens?: number | undefined
  /** Documents packed, of all. */
  readonly progress?: Progress | undefined
}) {
  const { corpusFolder, tokenizerFolder, context, mix, out, shardTokens = 2 ** 26, progress } = request
  const corpus = yield* readInventory(corpusFolder)
  const tokenizer = yield* loadTokenizer(tokenizerFolder)
  const { bosId, eosId, padId, vocabularySize } = tokenizer
  if (bosId === null || eosId === null) {
    const missing = [...(bosId === null ? ["bos_token"] : []), ...(eosId === null ? ["eos_token"] : [])]
    return yield* new TokenizerUnfit({ path: tokenizerFolder, missing })
  }
  const training = corpus.sources.filter(({ role }) => role === "train")
  // a slip in the mix is found before the work, not after it
  yield* weightsOf(
    typeof mix === "string" ? "source_balanced" : mix,
    training.map(({ source }) => ({ source, rows: 1 })),
  )

  const writing = (cause: unknown) => new CorpusUnwritable({ path: out, problem: problemOf(cause) })
  const dtype = vocabularySize > 65_536 ? "uint32" : "uint16"
  const writers = new Map(
    parts.map((part) => [part, new ShardWriter(out, part, dtype === "uint16" ? 2 : 4, shardTokens)]),
  )
  const table = yield* Effect.tryPromise({ try: () => tableWriter(join(out, "documents.parquet")), catch: writing })
  const counted = new Map(corpus.sources.map(({ source }) => [source, noParts()]))
  const total = corpus.sources
    .flatMap((source) => parts.map((part) => source.parts[part].documents))
    .reduce((sum, documents) => sum + documents, 0)
  let done = 0
  yield* Effect.gen(function* () {
    for (const { source } of corpus.sources) {
      const counts = counted.get(source)!
      let failure: unknown
      yield* forEachDocument(corpusFolder, source, ({ id, text, language, license, part }) => {
        if (failure !== undefined) return
        const ids = tokenizer.encode(text)
        const bytes = Buffer.byteLength(text)
        try {
          const { shard, offset } = writers.get(part)!.add(ids, bosId, eosId)
          table.add({ id, source, language, license, part, shard, offset, length: ids.length + 2, bytes })
        } catch (cause) {
          failure = cause
        }
        counts[part].documents++
        counts[part].tokens += ids.length + 2
        counts[part].bytes += bytes
        if (++done % 100 === 0 || done === total) progress?.(done, total)
      })
      if (failure !== undefined) return yield* writing(failure)
    }
    yield* Effect.try({ try: () => table.close(), catch: writing })
  }).pipe(
    Effect.ensuring(
      Effect.sync(() => {
        for (const writer of writers.values()) writer.close()
      }),
    ),
  )

  const rowsOf = (source: string) => {
    const raw = counted.get(source)!.train.tokens
    return Math.max(0, Math.floor((raw - 1) / context))
  }
  const weights = yield* weightsOf(
    mix,
    training.map(({ source }) => ({ source, rows: rowsOf(source) })),
  )
  const sources: Array<SourceRows> = []
  let startToken = 0
  let firstRow = 0
  for (const { source, language, role } of corpus.sources) {
    const rawTokens = counted.get(source)!.train.tokens
    const rows = rowsOf(source)
    const weight = weights.get(source) ?? 0
    const leftOut = typeof mix !== "string" && weight === 0
    if (role === "train" && rows === 0 && !leftOut)
      return yield* new SourceTooShort({ source, tokens: rawTokens, context })
    const packedTokens = rows * context
    const droppedTokens = rawTokens - packedTokens
    sources.push({ source, language, role, startToken, rawTokens, packedTokens, droppedTokens, firstRow, rows, weight })
    startToken += rawTokens
    firstRow += rows
  }
  const sum = (of: ReadonlyArray<SourceRows>): TokenCounts => ({
    raw: of.reduce((all, each) => all + each.rawTokens, 0),
    packed: of.reduce((all, each) => all + each.packedTokens, 0),
    dropped: of.reduce((all, each) => all + each.droppedTokens, 0),
  })
  const languages = [...new Set(training.map(({ language }) => language))].sort()
  const allParts = noParts()
  for (const each of counted.values())
    for (const part of parts)
      for (const count of ["documents", "tokens", "bytes"] as const) allParts[part][count] += each[part][count]
  const inventory: TokensInventory = {
    sources: sources.map((each) => ({
      source: each.source,
      language: each.language,
      role: each.role,
      ...sum([each]),
      parts: counted.get(each.source)!,
    })),
    languages: Object.fromEntries(
      languages.map((language) => [language, sum(sources.filter((each) => each.language === language))]),
    ),
    total: { ...sum(sources), parts: allParts },
  }
  const index: TokensIndex = {
    context,
    vocabulary: vocabularySize,
    dtype,
    bosId,
    eosId,
    // a published model without a padding token is padded with its EOS, as transformers users do: it is never a target
    padId: padId ?? eosId,
    mix,
    languages,
    sources,
    shards: parts.flatMap((part) => writers.get(part)!.shards),
  }
  yield* Effect.tryPromise({
    try: async () => {
      await writeFile(join(out, "tokens.json"), `${JSON.stringify(index, null, 2)}\n`)
      await writeFile(join(out, "inventory.json"), `${JSON.stringify(inventory, null, 2)}\n`)
    },
    catch: writing,
  })
  return { index, inventory }
}, keepSmall)

export interface Tokens {
  readonly index: TokensIndex
  readonly documents: ReadonlyArray<TokenDocument>
  /** All tokens of a document, BOS and EOS included. */
  tokensOf(document: TokenDocument): Effect.Effect<Uint32Array, TokensUnreadable>
  /** The context + 1 tokens of a training row, by its global number. */
  row(row: number): Effect.Effect<Uint32Array, TokensUnreadable>
  /** The documents that have tokens in a training row. */
  documentsOf(row: number): ReadonlyArray<TokenDocument>
}

export const readTokensIndex = Effect.fn("data.readTokensIndex")(function* (folder: string) {
  const unreadable = (cause: unknown) =>
    because(new TokensUnreadable({ path: folder, problem: problemOf(cause) }), cause)
  const text = yield* Effect.tryPromise({ try: () => readFile(join(folder, "tokens.json"), "utf8"), catch: unreadable })
  return yield* Schema.decodeUnknownEffect(Schema.fromJsonString(TokensIndex))(text).pipe(Effect.mapError(unreadable))
})

/** The rows of `documents.parquet`; throws when one lies outside its shard. */
const readTable = async (folder: string, index: TokensIndex): Promise<ReadonlyArray<TokenDocument>> => {
  await using table = await openParquet(
    join(folder, "documents.parquet"),
    documentColumns.map(([name]) => name),
  )
  const shards = new Map(index.shards.map(({ file, tokens }) => [file, tokens]))
  // most strings come again and again: held once, a table of a million rows is small
  const known = new Map<string, string>()
  const documents: Array<TokenDocument> = []
  for await (const batch of table.batches())
    for (let row = 0; row < (batch.get("id")?.length ?? 0); row++) {
      const value = (name: string) => batch.get(name)?.[row]
      const text = (name: string): string => {
        const bytes = value(name)
        if (!(bytes instanceof Uint8Array)) throw new Error(`documents.parquet: \`${name}\` is not a string`)
        return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8")
      }
      const shared = (name: string): string => {
        const one = text(name)
        if (!known.has(one)) known.set(one, one)
        return known.get(one)!
      }
      const number = (name: string): number => {
        const found = value(name)
        if (typeof found === "number" && found >= 0) return found
        throw new Error(`documents.parquet: \`${name}\` is not a count`)
      }
      const document = {
        id: text("id"),
        source: shared("source"),
        language: shared("language"),
        license: shared("license"),
        part: shared("part") as Part,
        shard: shared("shard"),
        offset: number("offset"),
        length: number("length"),
        bytes: number("bytes"),
      }
      if (!parts.includes(document.part)) throw new Error(`documents.parquet: there is no part \`${document.part}\``)
      if (document.offset + document.length > (shards.get(document.shard) ?? -1))
        throw new Error(`documents.parquet: document \`${document.id}\` lies outside \`${document.shard}\``)
      documents.push(document)
    }
  return documents
}

/** Opens a tokens artifact: the index and the table of documents are held, tokens are read from the files when asked for. */
export const readTokens = Effect.fn("data.readTokens")(function* (folder: string) {
  const unreadable = (cause: unknown) =>
    because(new TokensUnreadable({ path: folder, problem: problemOf(cause) }), cause)
  const index = yield* readTokensIndex(folder)
  const width = index.dtype === "uint16" ? 2 : 4
  const documents = yield* Effect.tryPromise({ try: () => readTable(folder, index), catch: unreadable })
  const trainTokens = index.shards.reduce((sum, { part, tokens }) => sum + (part === "train" ? tokens : 0), 0)
  for (const { source, startToken, rawTokens, rows } of index.sources)
    if (startToken + rawTokens > trainTokens || (rows > 0 && rows * index.context >= rawTokens))
      return yield* unreadable(new Error(`the rows of \`${source}\` lie outside its tokens`))
  const descriptors = new Map<string, number>()
  yield* Effect.acquireRelease(
    Effect.try({
      try: () => {
        for (const { file, tokens } of index.shards) {
          if (file.includes("/") || file.includes("\\"))
            throw new Error(`a shard may not lie in another folder: ${file}`)
          const size = statSync(join(folder, file)).size
          if (size !== tokens * width) throw new Error(`${file} has ${size} bytes, not ${tokens * width}`)
          descriptors.set(file, openSync(join(folder, file), "r"))
        }
      },
      catch: (cause) => {
        for (const descriptor of descriptors.values()) closeSync(descriptor)
        return unreadable(cause)
      },
    }),
    () =>
      Effect.sync(() => {
        for (const descriptor of descriptors.values()) closeSync(descriptor)
      }),
  )

  const readInto = (into: Uint32Array, at: number, file: string, offset: number, length: number) => {
    const bytes = Buffer.alloc(length * width)
    for (let done = 0; done < bytes.length; ) {
      const got = readSync(descriptors.get(file)!, bytes, done, bytes.length - done, offset * width + done)
      if (got === 0) throw new Error(`${file} ends at byte ${offset * width + done}`)
      done += got
    }
    for (let token = 0; token < length; token++)
      into[at + token] = width === 2 ? bytes.readUInt16LE(token * 2) : bytes.readUInt32LE(token * 4)
  }
  let position = 0
  const train = index.shards
    .filter(({ part }) => part === "train")
    .map(({ file, tokens }) => {
      const start = position
      position += tokens
      return { file, start, tokens }
    })
  const startOf = (row: number): number => {
    const source = index.sources.find(({ firstRow, rows }) => row >= firstRow && row < firstRow + rows)
    if (source === undefined) throw new Error(`there is no training row ${row}`)
    return source.startToken + (row - source.firstRow) * index.context
  }
  const shardStart = new Map(train.map(({ file, start }) => [file, start]))
  const trainDocuments = documents.filter(({ part }) => part === "train")
  const globalOffset = ({ shard, offset }: TokenDocument) => shardStart.get(shard)! + offset

  const tokens: Tokens = {
    index,
    documents,
    tokensOf: (document) =>
      Effect.try({
        try: () => {
          const into = new Uint32Array(document.length)
          readInto(into, 0, document.shard, document.offset, document.length)
          return into
        },
        catch: unreadable,
      }),
    row: (row) =>
      Effect.try({
        try: () => {
          const into = new Uint32Array(index.context + 1)
          const first = startOf(row)
          const last = first + into.length
          for (const { file, start, tokens } of train) {
            const from = Math.max(first, start)
            const to = Math.min(last, start + tokens)
            if (from < to) readInto(into, from - first, file, from - start, to - from)
          }
          return into
        },
        catch: unreadable,
      }),
    documentsOf: (row) => {
      const first = startOf(row)
      const last = first + index.context
      // documents lie one after another: the last that begins at or before `first` is the first in the row
      let low = 0
      let high = trainDocuments.length
      while (high - low > 1) {
        const middle = (low + high) >> 1
        if (globalOffset(trainDocuments[middle]!) <= first) low = middle
        else high = middle
      }
      const found: Array<TokenDocument> = []
      for (let at = low; at < trainDocuments.length && globalOffset(trainDocuments[at]!) <= last; at++)
        found.push(trainDocuments[at]!)
      return found
    },
  }
  return tokens
})
