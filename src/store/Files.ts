/**
 * What the store does to the file system: every operation that changes something, each one a place where it can be made to fail.
 */
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import { dirname } from "node:path"
import * as Effect from "effect/Effect"
import { isPlatform } from "./Failed.ts"
import { operation } from "./Failpoint.ts"
import type { FileRecord } from "./Manifest.ts"

const CHUNK = 1 << 20

/** How many files are open at once for syncing: far from any `ulimit -n`, and enough for their syncs to share one journal commit. */
const OPEN_AT_ONCE = 16

const hashOpen = (descriptor: number): Effect.Effect<{ readonly bytes: number; readonly sha256: string }> =>
  Effect.gen(function* () {
    const hash = createHash("sha256")
    // one byte more than the file, so that its end is seen in the second read; a megabyte for each tiny file would be all the work
    const buffer = Buffer.allocUnsafe(Math.min(CHUNK, fs.fstatSync(descriptor).size + 1))
    let bytes = 0
    for (let chunks = 1; ; chunks++) {
      const read = fs.readSync(descriptor, buffer)
      if (read === 0) break
      hash.update(buffer.subarray(0, read))
      bytes += read
      if (chunks % 32 === 0) yield* Effect.yieldNow
    }
    return { bytes, sha256: hash.digest("hex") }
  })

export const hashFile = (path: string): Effect.Effect<string> =>
  Effect.acquireUseRelease(
    Effect.sync(() => fs.openSync(path, "r")),
    (descriptor) => Effect.map(hashOpen(descriptor), ({ sha256 }) => sha256),
    (descriptor) => Effect.sync(() => fs.closeSync(descriptor)),
  )

export const makeFolder = (path: string): void => {
  operation("mkdir")
  try {
    fs.mkdirSync(path, { recursive: true })
  } catch (cause) {
    // of a read-only disk Node says that a parent is missing: one level at a time, the system says why
    if (!(isPlatform(cause) && cause.code === "ENOENT")) throw cause
    if (!fs.existsSync(dirname(path))) makeFolder(dirname(path))
    fs.mkdirSync(path)
  }
}

export const write = (path: string, text: string): void => {
  operation("write", () => fs.writeFileSync(path, text.slice(0, text.length / 2)))
  fs.writeFileSync(path, text)
}

export const rename = (from: string, to: string): void => {
  operation("rename")
  fs.renameSync(from, to)
}

export const remove = (path: string): void => {
  operation("rm", () => {
    // the first of what it holds is gone, the rest is not
    if (!fs.lstatSync(path, { throwIfNoEntry: false })?.isDirectory()) return
    const [first] = fs.readdirSync(path)
    if (first !== undefined) fs.rmSync(`${path}/${first}`, { recursive: true, force: true })
  })
  fs.rmSync(path, { recursive: true, force: true })
}

const fsync = (descriptor: number): Effect.Effect<void, NodeJS.ErrnoException> =>
  Effect.callback((resume) => {
    fs.fsync(descriptor, (cause) => resume(cause === null ? Effect.void : Effect.fail(cause)))
  })

// Windows syncs what is open for writing, and no folders
const forSync = process.platform === "win32" ? "r+" : "r"

/** Hashes files and has them on disk when it is done. Their syncs run side by side, so that they share the disk's turns. */
export const hashAndSync = (
  files: ReadonlyArray<{ readonly path: string; readonly full: string }>,
  hashed: () => void,
): Effect.Effect<Array<FileRecord>> =>
  Effect.forEach(
    files,
    ({ path, full }) =>
      Effect.acquireUseRelease(
        Effect.sync(() => {
          operation("open")
          return fs.openSync(full, forSync)
        }),
        (descriptor) =>
          Effect.gen(function* () {
            const record = { path, ...(yield* hashOpen(descriptor)) }
            hashed()
            operation("fsync")
            yield* Effect.orDie(fsync(descriptor))
            return record
          }),
        (descriptor) => Effect.sync(() => fs.closeSync(descriptor)),
      ),
    { concurrency: OPEN_AT_ONCE },
  )

/** Has a folder's entries on disk: without it a power cut may leave files that are whole and have no name. */
export const syncFolder = (path: string): Effect.Effect<void> =>
  process.platform === "win32"
    ? Effect.void
    : Effect.acquireUseRelease(
        Effect.sync(() => {
          operation("open")
          return fs.openSync(path, "r")
        }),
        (descriptor) =>
          Effect.suspend(() => {
            operation("fsync")
            // some file systems keep no folders of their own and say so
            return Effect.catch(fsync(descriptor), (cause) =>
              cause.code === "EINVAL" || cause.code === "ENOTSUP" ? Effect.void : Effect.die(cause),
            )
          }),
        (descriptor) => Effect.sync(() => fs.closeSync(descriptor)),
      )

export const syncFolders = (paths: ReadonlyArray<string>): Effect.Effect<void> =>
  Effect.forEach(paths, syncFolder, { concurrency: OPEN_AT_ONCE, discard: true })
