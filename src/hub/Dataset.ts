/**
 * A data set of the hub brought here as the documents of one source (formats in `src/model/Dataset.ts`).
 *
 * Files that match are taken one after the other, in the order of their paths, until the bound is reached: downloaded whole, held
 * against the digest the hub lists, their documents written, and dropped again. So there is room needed for the documents and for one
 * file at a time.
 *
 * | in `scratch`      | what                                                                                                  |
 * |-------------------|-------------------------------------------------------------------------------------------------------|
 * | `taken.ndjson`    | a `Line` for each file whose documents are on disk (a `store/Journal`)                                  |
 * | `NNNNN.download`  | the file after those, or as much of it as came                                                          |
 *
 * An attempt that was interrupted anywhere goes on there: what was written of the file it was in is cut off, what came of it is kept.
 */
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  openSync,
  readdirSync,
  rmSync,
  writeFileSync,
  writeSync,
} from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { DatasetUnfit, DatasetUnwritable, extract, formatOf } from "../data/Dataset.ts"
import { byCodeUnit } from "../model/ByCodeUnit.ts"
import type { SourceRights } from "../model/Corpus.ts"
import { DatasetFile, type DatasetIndex, type Markup } from "../model/Dataset.ts"
import { requireDisk } from "../store/Disk.ts"
import * as Journal from "../store/Journal.ts"
import { bytesOf, type Entry, type Files, ListingHostile, openFiles } from "./Files.ts"
import { pathProblem } from "./Paths.ts"
import type { Patience } from "./Requests.ts"

const MOST_FILES = 200_000
const MEGABYTE = 1e6

export interface Most {
  /** Of text, in UTF-8: a million bytes each. */
  readonly megabytes?: number | undefined
  readonly documents?: number | undefined
}

export interface DatasetRequest {
  readonly source: string
  /** `org/name`. */
  readonly repository: string
  readonly commit: string
  /** Patterns of paths: `*` and `?` within a name, `**` over folders. */
  readonly files: ReadonlyArray<string>
  readonly text: string
  readonly id?: string | undefined
  readonly markup?: Markup | undefined
  readonly language?: string | undefined
  readonly rights: SourceRights
  readonly most: Most
  readonly endpoint: string | undefined
  readonly patience?: Partial<Patience> | undefined
  /** Kept between attempts, both. */
  readonly out: string
  readonly scratch: string
  readonly say: (text: string) => void
  readonly progress: (progress: DatasetProgress) => void
}

export interface DatasetProgress {
  /** Megabytes: of text, where they are bounded, else of the files. */
  readonly done: number
  readonly total: number
  readonly unit: string
  /** Which file, and how much of it. */
  readonly detail: string
}

const Line = Schema.Struct({
  commit: Schema.String,
  file: DatasetFile,
  /** Bytes of `<source>.jsonl` up to here. */
  end: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)),
  /** The bound was reached in it. */
  full: Schema.Boolean,
})
type Line = typeof Line.Type

/** What was taken so far, with its sums: they are asked for with every piece that comes. */
class Taken {
  readonly files: Array<DatasetFile> = []
  bytes = 0
  documents = 0
  textBytes = 0
  end = 0
  full = false

  add({ file, end, full }: Line): this {
    this.files.push(file)
    this.bytes += file.bytes
    this.documents += file.documents
    this.textBytes += file.textBytes
    this.end = end
    this.full = full
    return this
  }
}

/** A pattern as a test of whole paths. */
export const matcher = (pattern: string): ((path: string) => boolean) => {
  const source = pattern.replaceAll(/\*\*\/|\*\*|\*|\?|[\\^$.|+()[\]{}]/g, (part) =>
    part === "**/" ? "(?:.*/)?" : part === "**" ? ".*" : part === "*" ? "[^/]*" : part === "?" ? "[^/]" : `\\${part}`,
  )
  const whole = new RegExp(`^${source}$`, "su")
  return (path) => whole.test(path)
}

/** The deepest folder that all patterns are below: nothing else of a large repository needs to be listed. */
export const folderOf = (patterns: ReadonlyArray<string>): string => {
  const folders = patterns.map((pattern) =>
    pattern
      .replace(/[*?].*$/s, "")
      .split("/")
      .slice(0, -1),
  )
  const [first = [], ...others] = folders
  const common = first.findIndex((name, depth) => others.some((other) => other[depth] !== name))
  return (common === -1 ? first : first.slice(0, common)).join("/")
}

/** The files that patterns mean, in the order of their paths; each is one that can be read. */
const choose = Effect.fnUntraced(function* (request: DatasetRequest, entries: ReadonlyArray<Entry>) {
  const { repository, files } = request
  const matches = files.map(matcher)
  const chosen = entries
    // as in a shell, `*` means nothing that is hidden
    .filter(
      ({ type, path }) => type === "file" && !/(?:^|\/)\.[^./]/.test(path) && matches.some((match) => match(path)),
    )
    .toSorted((a, b) => byCodeUnit(a.path, b.path))
  const problems = chosen.flatMap(({ path }, index) => {
    const problem = path === chosen[index - 1]?.path ? "it is there twice" : pathProblem(path)
    return problem === undefined ? [] : [`${JSON.stringify(path)}: ${problem}`]
  })
  if (problems.length > 0)
    return yield* new ListingHostile({ repository, problems, hint: "leave such files out of `files`" })
  if (chosen.length === 0) {
    const there = entries.filter(({ type, path }) => type === "file" && formatOf(path) !== undefined)
    return yield* new DatasetUnfit({
      file: repository,
      problem: `it has no file like ${files.map((pattern) => `\`${pattern}\``).join(" or ")} at ${request.commit.slice(0, 12)}`,
      hint:
        there.length === 0
          ? `see what it has at https://huggingface.co/datasets/${repository}/tree/${request.commit}`
          : `it has ${there.length} others, such as \`${there[0]!.path}\``,
    })
  }
  const unread = chosen.find(({ path }) => formatOf(path) === undefined)
  if (unread !== undefined)
    return yield* new DatasetUnfit({
      file: `${repository}/${unread.path}`,
      problem: "no reader for this extension",
      hint: "files may be .parquet, .jsonl, .json, both also with .gz, or .txt: name those alone in `files`",
    })
  return chosen
})

/** What is below the patterns' folder. A folder that is not there has nothing in it; a repository that is not there is an error. */
const listed = ({ commit, files }: DatasetRequest, hub: Files) => {
  const folder = folderOf(files)
  return hub
    .list(commit, folder, MOST_FILES)
    .pipe(
      Effect.catchTag("HubRefused", (refused) =>
        refused.status === 404 && folder !== "" ? Effect.as(hub.commitOf(commit), []) : Effect.fail(refused),
      ),
    )
}

/** Does what a file system may refuse. */
const writing = <A>(path: string, write: () => A): A => {
  try {
    return write()
  } catch (cause) {
    throw new DatasetUnwritable({ path, problem: cause instanceof Error ? cause.message : String(cause) })
  }
}
const written = <A>(path: string, write: () => A): Effect.Effect<A, DatasetUnwritable> =>
  Effect.try({ try: () => writing(path, write), catch: (cause) => cause as DatasetUnwritable })

const decodeLines = Schema.decodeUnknownOption(Schema.Array(Line))

/** What an earlier attempt took, if its files are those that are wanted. */
const takenBefore = (path: string, commit: string, chosen: ReadonlyArray<Entry>, bytes: number): Taken => {
  const lines = Option.getOrElse(
    Option.flatMap(Option.liftThrowable(() => Journal.read(path))(), decodeLines),
    () => [],
  )
  const wanted =
    (lines.at(-1)?.end ?? 0) <= bytes &&
    lines.every((line, index) => line.commit === commit && line.file.path === chosen[index]?.path)
  return wanted ? lines.reduce((taken, line) => taken.add(line), new Taken()) : new Taken()
}

const mb = (bytes: number): string => `${Math.round(bytes / MEGABYTE)}`

/** Brings the documents of a source into `out`, from the beginning or from where an earlier attempt was interrupted. */
export const bringDataset = Effect.fn("hub.bringDataset")(function* (request: DatasetRequest) {
  const { source, repository, commit, most, out, scratch, say } = request
  const hub = yield* openFiles({ ...request, kind: "datasets" })
  const chosen = yield* choose(request, yield* listed(request, hub))
  const state = join(scratch, "taken.ndjson")
  const lines = join(out, `${source}.jsonl`)
  const file = yield* Effect.acquireRelease(
    written(lines, () => {
      closeSync(openSync(lines, "a"))
      return openSync(lines, "r+")
    }),
    (file) => Effect.sync(() => closeSync(file)),
  )
  const taken = yield* written(lines, () => takenBefore(state, commit, chosen, fstatSync(file).size))
  if (taken.files.length === 0) yield* written(state, () => rmSync(state, { force: true }))
  else say(`${taken.files.length} of ${chosen.length} files were taken before`)
  const allBytes = chosen.reduce((sum, entry) => sum + bytesOf(entry), 0)
  const textMost = (most.megabytes ?? Number.POSITIVE_INFINITY) * MEGABYTE

  /** Of the file being taken: its bytes that are here, and bytes of text found in it. */
  const tell = (entry: Entry, here: number, found: number) => {
    const bounded = most.megabytes !== undefined
    request.progress({
      done: Math.round((bounded ? taken.textBytes + found : taken.bytes + here) / MEGABYTE),
      total: Math.ceil((bounded ? textMost : allBytes) / MEGABYTE),
      unit: bounded ? "MB of text" : "MB",
      detail: `file ${taken.files.length + 1} of ${chosen.length}, ${entry.path}: ${mb(here)} of ${mb(bytesOf(entry))} MB`,
    })
  }

  const take = (entry: Entry, download: string, sha256: string) => {
    let end = taken.end
    const append = (text: string) =>
      writing(lines, () => {
        const bytes = Buffer.from(text)
        for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done, bytes.length - done, end + done)
        end += bytes.length
      })
    return Effect.map(
      extract({
        ...request,
        path: download,
        file: `${repository}/${entry.path}`,
        format: formatOf(entry.path)!,
        room: {
          documents: (most.documents ?? Number.POSITIVE_INFINITY) - taken.documents,
          textBytes: textMost - taken.textBytes,
        },
        append,
        progress: (found) => tell(entry, bytesOf(entry), found),
      }),
      ({ full, ...counts }): Line => ({
        commit,
        file: { path: entry.path, bytes: bytesOf(entry), sha256, ...counts },
        end,
        full,
      }),
    )
  }

  for (let index = taken.files.length; index < chosen.length && !taken.full; index++) {
    const entry = chosen[index]!
    const name = `${String(index).padStart(5, "0")}.download`
    const download = join(scratch, name)
    yield* written(scratch, () => {
      for (const left of readdirSync(scratch))
        if (left.endsWith(".download") && left !== name) rmSync(join(scratch, left))
      ftruncateSync(file, taken.end)
    })
    if (!existsSync(download)) yield* requireDisk(scratch, bytesOf(entry))
    tell(entry, 0, 0)
    const sha256 = yield* hub.bring(commit, entry, download, (here) => tell(entry, here, 0))
    const line = yield* take(entry, download, sha256)
    yield* written(state, () => {
      // a line that a power cut takes costs one file more; one whose documents it took would be believed
      fsyncSync(file)
      Journal.append(state, line)
      rmSync(download)
    })
    taken.add(line)
  }

  const { files, documents, textBytes, full } = taken
  if (documents === 0)
    return yield* new DatasetUnfit({
      file: repository,
      problem: full ? "its first document is larger than all that may be taken" : "its files hold no documents",
      hint: full ? "raise `most`" : "name other files in `files`",
    })
  const index: DatasetIndex = {
    source,
    ...(request.language !== undefined && { language: request.language }),
    repository,
    commit,
    text: request.text,
    ...(request.id !== undefined && { id: request.id }),
    ...(request.markup !== undefined && { markup: request.markup }),
    rights: request.rights,
    files,
    documents,
    textBytes,
    bounded: full,
  }
  yield* written(out, () => {
    ftruncateSync(file, taken.end)
    writeFileSync(join(out, "dataset.json"), `${JSON.stringify(index, null, 2)}\n`)
  })
  return index
}, Effect.scoped)
