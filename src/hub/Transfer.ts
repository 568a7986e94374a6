/**
 * Files of a release go up, commit by commit, and come back to be looked at.
 *
 * Large objects are addressed by content: what the hub has of them it says, and they are not sent again. A commit names the parent it
 * was made for, so that none can happen twice.
 */
import * as Effect from "effect/Effect"
import { Hub } from "./Hub.ts"
import { isWeights, type ReleaseContent, type ReleaseFile } from "./ReleaseFiles.ts"

export type TransferEvent =
  /** All that is still to be sent, of which the next commit may be a part. */
  | { readonly _tag: "Sending"; readonly files: number; readonly bytes: number }
  | {
      readonly _tag: "File"
      readonly path: string
      readonly state: "hashing" | "sending" | "sent"
      readonly bytes: number
    }
  /** Of a file that is being sent or read back: bytes so far. */
  | { readonly _tag: "Part"; readonly path: string; readonly bytes: number }
  | { readonly _tag: "ReadingBack"; readonly files: number; readonly bytes: number }
  | { readonly _tag: "ReadBack"; readonly path: string; readonly bytes: number }

type Report = (event: TransferEvent) => void

const SMALL = 1_000_000
const SMALL_FILES_A_COMMIT = 100
const BYTES_A_COMMIT = 1_000_000_000
const READ_BACK_AT_ONCE = 4

const isLarge = ({ path, bytes }: ReleaseFile): boolean => bytes >= SMALL || isWeights(path)

/**
 * The next files to send: the small ones together, then the large ones, a gigabyte a commit or one alone. Two large files of the same
 * bytes never go together: the client would send both, at once, to one place; the second finds its object there.
 */
export const batchOf = (missing: ReadonlyArray<ReleaseFile>): ReadonlyArray<ReleaseFile> => {
  const small = missing.filter((file) => !isLarge(file))
  if (small.length > 0) return small.slice(0, SMALL_FILES_A_COMMIT)
  const batch: Array<ReleaseFile> = []
  let bytes = 0
  for (const file of missing) {
    if (batch.some(({ sha256 }) => sha256 === file.sha256)) continue
    if (batch.length > 0 && bytes + file.bytes > BYTES_A_COMMIT) break
    batch.push(file)
    bytes += file.bytes
  }
  return batch
}

export interface Sending {
  readonly repository: string
  /** What the branch must be at. */
  readonly parent: string
  /** Of the pull request, where this opens one. */
  readonly title: string
  readonly pullRequest?: number
  /** All that lacks: the first of it goes now. */
  readonly missing: ReadonlyArray<ReleaseFile>
  /** Goes with the last of what lacks. */
  readonly removed: ReadonlyArray<string>
}

/** One commit. */
export const send = Effect.fnUntraced(function* (
  content: ReleaseContent,
  { repository, parent, title, pullRequest, missing, removed }: Sending,
  report: Report,
) {
  const hub = yield* Hub
  const files = batchOf(missing)
  const bytes = new Map(files.map((file) => [file.path, file.bytes]))
  const what = files.length === 1 ? files[0]!.path : `${files.length} files`
  report({ _tag: "Sending", files: missing.length, bytes: missing.reduce((sum, file) => sum + file.bytes, 0) })
  yield* hub.commit({
    repository,
    parent,
    title: pullRequest === undefined ? title : `${content.name}: ${what}`,
    description: `${content.files.length} files, ${content.bytes} bytes; sha256 over all sums: ${content.digest}`,
    ...(pullRequest !== undefined && { pullRequest }),
    files,
    removed: files.length === missing.length ? removed : [],
    file: (path, state) => report({ _tag: "File", path, state, bytes: bytes.get(path) ?? 0 }),
    part: (path, bytes) => report({ _tag: "Part", path, bytes }),
  })
  for (const file of files) report({ _tag: "File", path: file.path, state: "sent", bytes: file.bytes })
})

/** Downloads every file as anybody would. Gives, by path, what is wrong with those that are not the release's. */
export const readBack = Effect.fnUntraced(function* (
  content: ReleaseContent,
  name: string,
  commit: string,
  report: Report,
) {
  const hub = yield* Hub
  report({ _tag: "ReadingBack", files: content.files.length, bytes: content.bytes })
  const found = yield* Effect.forEach(
    content.files,
    ({ path, bytes, sha256 }) =>
      Effect.map(
        hub.hash(name, commit, path, (so) => report({ _tag: "Part", path, bytes: so })),
        (there) => {
          report({ _tag: "ReadBack", path, bytes })
          if (there.sha256 === sha256 && there.bytes === bytes) return []
          const sent = `sent were ${sha256.slice(0, 16)}…, ${bytes} bytes`
          return [[path, `sha256 ${there.sha256.slice(0, 16)}…, ${there.bytes} bytes; ${sent}`] as const]
        },
      ),
    { concurrency: READ_BACK_AT_ONCE },
  )
  return new Map(found.flat())
})
