/** The rows of a training run, read from the token shards when they are wanted: memory does not grow with the corpus. */
import { closeSync, fstatSync, openSync, readFileSync, readSync } from "node:fs"
import { join } from "node:path"
import * as Schema from "effect/Schema"
import { openParquet, type ParquetValue } from "../data/Parquet.ts"
import { TokensIndex } from "../model/Corpus.ts"

interface OpenShard {
  readonly file: string
  readonly descriptor: number
  /** Position of its first token among all training tokens. */
  readonly start: number
  readonly tokens: number
}

export class Rows {
  readonly index: TokensIndex
  readonly #folder: string
  readonly #shards: ReadonlyArray<OpenShard>
  readonly #order: number
  readonly #orderRows: number
  readonly #width: 2 | 4

  /** Throws an Error that says what is wrong with the files. */
  constructor(folder: string, order: string) {
    this.index = Schema.decodeUnknownSync(Schema.fromJsonString(TokensIndex))(
      readFileSync(join(folder, "tokens.json"), "utf8"),
    )
    this.#folder = folder
    this.#width = this.index.dtype === "uint16" ? 2 : 4
    const opened: Array<number> = []
    const openFile = (path: string): { readonly descriptor: number; readonly bytes: number } => {
      const descriptor = openSync(path, "r")
      opened.push(descriptor)
      return { descriptor, bytes: fstatSync(descriptor).size }
    }
    try {
      let start = 0
      const shards: Array<OpenShard> = []
      for (const { file, part, tokens } of this.index.shards) {
        if (part !== "train") continue
        const { descriptor, bytes } = openFile(join(folder, file))
        if (bytes !== tokens * this.#width)
          throw new Error(`${file} has ${bytes} bytes, \`tokens.json\` says ${tokens * this.#width}`)
        shards.push({ file, descriptor, start, tokens })
        start += tokens
      }
      this.#shards = shards
      const { descriptor, bytes } = openFile(order)
      if (bytes % 4 !== 0) throw new Error(`${order} has ${bytes} bytes, not a whole number of uint32`)
      this.#order = descriptor
      this.#orderRows = bytes / 4
    } catch (error) {
      for (const descriptor of opened) closeSync(descriptor)
      throw error
    }
  }

  get ordered(): number {
    return this.#orderRows
  }

  close(): void {
    for (const { descriptor } of this.#shards) closeSync(descriptor)
    closeSync(this.#order)
  }

  /** Row numbers [first, first + count) of the order. */
  numbers(first: number, count: number): ReadonlyArray<number> {
    const bytes = Buffer.alloc(4 * count)
    readFully(this.#order, bytes, 4 * first, "the row order")
    return Array.from({ length: count }, (_, i) => bytes.readUInt32LE(4 * i))
  }

  /** context + 1 tokens of each row, one after the other. */
  tokens(rows: ReadonlyArray<number>): Int32Array {
    const length = this.index.context + 1
    const all = new Int32Array(rows.length * length)
    rows.forEach((row, i) => {
      this.#read(this.#position(row), all.subarray(i * length, (i + 1) * length))
    })
    const wrong = all.findIndex((id) => id >= this.index.vocabulary)
    if (wrong >= 0)
      throw new Error(
        `row ${rows[Math.floor(wrong / length)]} has token ${all[wrong]}, the vocabulary ends at ${this.index.vocabulary}`,
      )
    return all
  }

  /** Ids of the documents that have tokens in these rows, in the order of the rows. Reads the table of documents. */
  async documents(rows: ReadonlyArray<number>): Promise<ReadonlyArray<string>> {
    const wanted = rows.map((row) => this.#position(row))
    const starts = new Map(this.#shards.map(({ file, start }) => [file, start]))
    const spans: Array<{ readonly id: string; readonly from: number; readonly to: number }> = []
    await using table = await openParquet(join(this.#folder, "documents.parquet"), ["id", "shard", "offset", "length"])
    for await (const batch of table.batches())
      for (let row = 0; row < (batch.get("shard")?.length ?? 0); row++) {
        const value = (name: string): ParquetValue => batch.get(name)?.[row]
        const start = starts.get(textOf(value("shard")))
        if (start === undefined) continue
        const from = start + Number(value("offset"))
        const to = from + Number(value("length"))
        if (wanted.some((first) => from <= first + this.index.context && first < to))
          spans.push({ id: textOf(value("id")), from, to })
      }
    const found = new Set<string>()
    for (const first of wanted)
      for (const { id, from, to } of spans) if (from <= first + this.index.context && first < to) found.add(id)
    return [...found]
  }

  #position(row: number): number {
    for (const { firstRow, rows, startToken } of this.index.sources)
      if (row >= firstRow && row < firstRow + rows) return startToken + (row - firstRow) * this.index.context
    throw new Error(`row ${row} is not a row of any source`)
  }

  #read(position: number, into: Int32Array): void {
    let done = 0
    for (const { file, descriptor, start, tokens } of this.#shards) {
      const from = position + done - start
      if (from < 0 || from >= tokens || done === into.length) continue
      const count = Math.min(into.length - done, tokens - from)
      const bytes = Buffer.alloc(count * this.#width)
      readFully(descriptor, bytes, from * this.#width, file)
      for (let i = 0; i < count; i++)
        into[done + i] = this.#width === 2 ? bytes.readUInt16LE(2 * i) : bytes.readUInt32LE(4 * i)
      done += count
    }
    if (done < into.length) throw new Error(`the training tokens end before position ${position + into.length}`)
  }
}

const textOf = (value: ParquetValue): string => {
  if (!(value instanceof Uint8Array)) throw new Error("`documents.parquet` has something else for a string")
  return Buffer.from(value.buffer, value.byteOffset, value.byteLength).toString("utf8")
}

const readFully = (descriptor: number, target: Uint8Array, position: number, what: string): void => {
  for (let done = 0; done < target.length; ) {
    const got = readSync(descriptor, target, done, target.length - done, position + done)
    if (got === 0) throw new Error(`${what} ends at byte ${position + done}`)
    done += got
  }
}
