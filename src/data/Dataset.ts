/**
 * The files of a data set as documents: the wanted columns of each, as lines of `<source>.jsonl` (format in `src/model/Dataset.ts`).
 *
 * | file                                       | a document is                                |
 * |--------------------------------------------|----------------------------------------------|
 * | `.parquet`                                 | a row                                        |
 * | `.jsonl`, `.json`, with or without `.gz`   | a line: a JSON object                        |
 * | `.txt`                                     | what stands between lines of `---`           |
 *
 * Rows without a text are counted and left out. Files are read as streams by the readers of `Source.ts`, and believed as little.
 *
 * The lines are written as they are. Packed by zlib they would take 0.42 of the room and 96 MB/s of a core to write (level 1; 0.37 and
 * 32 MB/s at level 6), and `corpus`, which reads a source twice, would unpack 260 MB/s: minutes for each ten gigabytes. And what is not
 * packed can be cut back to the last whole file when an attempt was interrupted.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Markup } from "../model/Dataset.ts"
import { didYouMean } from "../model/DidYouMean.ts"
import { openParquet } from "./Parquet.ts"
import {
  type Fields,
  type Format,
  formatOf as formatOfSource,
  isSourceError,
  recordsOf,
  SourceCorrupt,
  type SourceError,
} from "./Source.ts"
import { keepSmall } from "./YoungSpace.ts"

/** A file of a data set is not what the experiment says it is. */
export class DatasetUnfit extends Schema.TaggedError<DatasetUnfit>()("DatasetUnfit", {
  /** Repository and path. */
  file: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `${this.file}: ${this.problem}\n  hint: ${this.hint}`
  }
}

export class DatasetUnwritable extends Schema.TaggedError<DatasetUnwritable>()("DatasetUnwritable", {
  path: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `${this.path} cannot be written: ${this.problem}\n  hint: see that the disk has room and the folder may be written`
  }
}

export type ExtractError = SourceError | DatasetUnfit | DatasetUnwritable

/** As of a source, and `.json` for what has an object a line. */
export const formatOf = (path: string): Format | undefined =>
  formatOfSource(path.replace(/\.json(\.gz)?$/, ".jsonl$1"))?.format

/** How much more may be taken. */
export interface Room {
  readonly documents: number
  readonly textBytes: number
}

export interface ExtractRequest {
  readonly path: string
  /** As people know it: repository and path. */
  readonly file: string
  readonly format: Format
  readonly text: string
  readonly id?: string | undefined
  readonly markup?: Markup | undefined
  readonly room: Room
  /** Takes whole lines; throws a `DatasetUnwritable`. */
  readonly append: (lines: string) => void
  /** Bytes of text taken of this file so far. */
  readonly progress?: (textBytes: number) => void
}

export interface Extracted {
  readonly documents: number
  readonly textBytes: number
  readonly skipped: number
  /** The next document would have been too much: no further file is needed. */
  readonly full: boolean
}

const MAX_ID = 4096

/**
 * Wiki40B has an article as lines: `_START_ARTICLE_` and its title, `_START_SECTION_` and the section's title, `_START_PARAGRAPH_` and
 * one line of text in which `_NEWLINE_` stands between paragraphs. Without them it is titles and paragraphs with blank lines around.
 */
const withoutMarkup: Record<Markup, (text: string) => string | undefined> = {
  wiki40b: (text) => {
    const [before = "", ...blocks] = text.split(/^_START_(?:ARTICLE|SECTION|PARAGRAPH)_$/m)
    if (blocks.length === 0) return undefined
    return [before, ...blocks]
      .map((block) => block.replaceAll("_NEWLINE_", "\n").trim())
      .filter((block) => block !== "")
      .join("\n\n")
  },
}

const valueOf = (fields: Fields, name: string, file: string): string | undefined => {
  const value = fields.get(name) ?? undefined
  const unfit = (problem: string) =>
    new DatasetUnfit({
      file: `${file}, record ${fields.record}`,
      problem: `\`${name}\` ${problem}`,
      hint: "name a column of strings, or of whole numbers for ids, with `text` and `id`",
    })
  if (value === undefined || typeof value === "string") return value?.toWellFormed()
  if (typeof value === "bigint" || Number.isSafeInteger(value)) return String(value)
  throw unfit(`is ${Array.isArray(value) ? "a list" : `of type ${typeof value}`}, not a string`)
}

const columnsOf = ({ text, id }: Pick<ExtractRequest, "text" | "id">) => (id === undefined ? [text] : [text, id])

/** Says which column is missing, and what there is: libraries of data sets name them as they like. */
const requireColumns = async (request: ExtractRequest): Promise<void> => {
  if (request.format !== "parquet") return
  await using table = await openParquet(request.path, columnsOf(request))
  for (const column of columnsOf(request)) {
    const unfit = table.unfit.get(column)
    if (unfit === undefined && table.names.has(column)) continue
    const names = [...table.names].slice(0, 30)
    const near = didYouMean(column, names)
    throw new DatasetUnfit({
      file: request.file,
      problem: unfit === undefined ? `it has no column \`${column}\`` : `\`${column}\` ${unfit}`,
      hint: near === undefined ? `its columns are ${names.join(", ")}` : `did you mean \`${near}\`?`,
    })
  }
}

const nothingIn = ({ file, text, markup }: ExtractRequest, marked: boolean): DatasetUnfit =>
  marked
    ? new DatasetUnfit({
        file,
        problem: `no text of it is marked up as in ${markup}`,
        hint: "take `markup` out, or name the files that are",
      })
    : new DatasetUnfit({
        file,
        problem: `no record of it has a text in \`${text}\``,
        hint: "say with `text` which field holds the texts",
      })

/** Hands the documents of one file on as lines, as long as there is room. */
export const extract = Effect.fn("data.extract")(function* (request: ExtractRequest) {
  const { file, text: textName, id: idName, markup, room, append } = request
  const source = { path: request.path, file, format: request.format }
  return yield* Effect.tryPromise({
    try: async (signal): Promise<Extracted> => {
      await requireColumns(request)
      let [documents, textBytes, skipped, unmarked] = [0, 0, 0, 0]
      const done = (full: boolean): Extracted => ({ documents, textBytes, skipped, full })
      for await (const records of recordsOf(source, columnsOf(request), textName)) {
        signal.throwIfAborted()
        const lines: Array<string> = []
        for (const fields of records) {
          const given = valueOf(fields, textName, file)
          const text = given === undefined || markup === undefined ? given : withoutMarkup[markup](given)
          if (given !== undefined && text === undefined) unmarked++
          if (text === undefined || text.trim() === "") {
            skipped++
            continue
          }
          const bytes = Buffer.byteLength(text)
          if (documents >= room.documents || textBytes + bytes > room.textBytes) {
            append(lines.join(""))
            return done(true)
          }
          const id = idName === undefined ? undefined : valueOf(fields, idName, file)
          if (id !== undefined && id.length > MAX_ID)
            throw new DatasetUnfit({
              file: `${file}, record ${fields.record}`,
              problem: `\`${idName}\` is longer than ${MAX_ID} characters`,
              hint: "name another column with `id`, or none: then records are numbered",
            })
          documents++
          textBytes += bytes
          lines.push(`${JSON.stringify({ ...(id && { id }), text })}\n`)
        }
        append(lines.join(""))
        request.progress?.(textBytes)
      }
      if (documents === 0 && skipped > 0) throw nothingIn(request, unmarked > 0)
      return done(false)
    },
    catch: (cause) => {
      if (cause instanceof DatasetUnfit || cause instanceof DatasetUnwritable) return cause
      if (isSourceError(cause) && cause._tag !== "SourceCorrupt") return cause
      // its bytes are those the hub lists: what is wrong with it is so for everybody
      const problem = cause instanceof SourceCorrupt ? cause.problem : String((cause as Error).message ?? cause)
      return new DatasetUnfit({
        file,
        problem,
        hint: "it cannot be read here; leave it out of `files`, or take another revision",
      })
    },
  })
}, keepSmall)
