/**
 * A release folder opened for checking: what lies in it, its files as figures, and a folder of links to the release's own files alone,
 * so that what was added on the way here (and the signatures, which came later) changes nothing that is made again.
 */
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from "node:fs"
import { open } from "node:fs/promises"
import { tmpdir } from "node:os"
import { dirname, join, resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { isWeights, type ReleaseFiles, readFolder } from "../release/Folder.ts"
import { STATEMENT } from "../release/Provenance.ts"
import { ReleaseInputUnreadable } from "../release/ReleaseError.ts"
import { ENVELOPE } from "../release/Signature.ts"
import { BUNDLE } from "../release/Sigstore.ts"
import { SUMS } from "../release/Sums.ts"
import { caught } from "./Fault.ts"
import { type Entry, type Listing, listRelease } from "./Listing.ts"

export class NoRelease extends Schema.TaggedError<NoRelease>()("NoRelease", {
  folder: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `${this.folder}: ${this.problem}\n  hint: ${this.hint}`
  }
}

export interface Release {
  readonly listing: Listing
  /** Folder of links to the release's own files. */
  readonly view: string
  /** Absent when a file cannot be read; `problem` says which. */
  readonly files: ReleaseFiles | undefined
  readonly problem: string | undefined
}

/** By any of these a release is known, even if the others are gone. */
const MARKS = ["release.json", SUMS, STATEMENT]

/** Longer than any text of a release: what is longer is hashed, and not read. */
export const LONGEST_TEXT = 1 << 28
/** A document of JSON takes many times its length in memory. */
const LONGEST_DOCUMENT = 1 << 26
/** More than any training takes steps. */
const MOST_LINES = 1 << 22
/** Deeper than any model. What is asked for by name alone, such as a list of tensors, is made for no more than this. */
const MOST_LAYERS = 4096

export const isText = (path: string): boolean => !isWeights(path)

const tooLong = ({ path, bytes }: Entry): string => `${path} has ${bytes} bytes: no text of a release is so long`

const PIECE = 1 << 20
const LINE_END = 0x0a

/** What no file of lines of ours has, found without holding it: too many lines, or one without anything in it. */
const problemOfLines = async (path: string): Promise<string | undefined> => {
  const file = await open(path, "r")
  try {
    const piece = Buffer.allocUnsafe(PIECE)
    let [lines, before] = [0, LINE_END]
    for (;;) {
      const { bytesRead } = await file.read(piece, 0, PIECE, null)
      if (bytesRead === 0) return undefined
      for (let i = 0; i < bytesRead; i++) {
        const byte = piece[i]!
        if (byte === LINE_END && before === LINE_END) return `line ${lines + 1} is empty`
        if (byte === LINE_END && ++lines > MOST_LINES) return `it has more than ${MOST_LINES} lines`
        before = byte
      }
    }
  } finally {
    await file.close()
  }
}

const unreadable = (failure: unknown, view: string): string =>
  failure instanceof ReleaseInputUnreadable
    ? `${failure.path.slice(view.length + 1)}: ${failure.problem}`
    : failure instanceof Error
      ? failure.message
      : String(failure)

/** The files as figures, or why they are not looked at. Whatever a stranger wrote into them, this ends soon and in little memory. */
const figuresIn = Effect.fnUntraced(function* ({ files: entries }: Listing, view: string) {
  const long = entries.find(
    ({ path, bytes }) => isText(path) && bytes > (path.endsWith(".json") ? LONGEST_DOCUMENT : LONGEST_TEXT),
  )
  if (long !== undefined) return { problem: tooLong(long) }
  for (const { path } of entries.filter(({ path }) => path.endsWith(".jsonl"))) {
    const problem = yield* Effect.promise(() => problemOfLines(join(view, path)))
    if (problem !== undefined) return { problem: `${path}: ${problem}, as no release has it` }
  }
  const read = yield* caught(readFolder(view))
  if (read._tag === "Failure") return { problem: unreadable(read.failure, view).slice(0, 1000) }
  const { training, state } = read.success
  const layers = Math.max(training.architecture.layers, state.architecture.layers)
  return layers > MOST_LAYERS ? { problem: `it says that it has ${layers} layers` } : { files: read.success }
})

/** A link where links can be made, else a copy. */
export const linkOrCopy = (from: string, to: string): void => {
  mkdirSync(dirname(to), { recursive: true })
  try {
    symlinkSync(resolve(from), to)
  } catch {
    copyFileSync(from, to)
  }
}

/** A folder for what checks make, gone with the scope. */
export const temporary = Effect.acquireRelease(
  Effect.sync(() => mkdtempSync(join(tmpdir(), "exp-verify-"))),
  (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true })),
)

/** What lies there, before any of it is read. */
export const lookAt = Effect.fn("verification.lookAt")(function* (folder: string) {
  if (!existsSync(folder))
    return yield* new NoRelease({
      folder,
      problem: "there is no such folder",
      hint: "name a release folder, a run (`exp ls`), or a repository of the Hub as org/name",
    })
  // looked for before anything is walked through: somebody may have named a home folder
  if (!MARKS.some((mark) => existsSync(join(folder, mark))))
    return yield* new NoRelease({
      folder,
      problem: `it is no release: it has none of ${MARKS.join(", ")}`,
      hint: "a release is the folder that `exp run` names at its end",
    })
  return yield* Effect.try({
    try: () => listRelease(folder),
    catch: (cause) =>
      new NoRelease({
        folder,
        problem: cause instanceof Error ? cause.message : String(cause),
        hint: "see that it is a folder and can be read",
      }),
  })
})

export const openListing = Effect.fn("verification.openListing")(function* (listing: Listing) {
  const view = yield* temporary
  for (const { path } of listing.files)
    if (path !== ENVELOPE && path !== BUNDLE) linkOrCopy(join(listing.folder, path), join(view, path))
  const { files, problem } = { files: undefined, problem: undefined, ...(yield* figuresIn(listing, view)) }
  return { listing, view, files, problem } satisfies Release
})

export const openRelease = Effect.fn("verification.openRelease")(function* (folder: string) {
  return yield* openListing(yield* lookAt(folder))
})
