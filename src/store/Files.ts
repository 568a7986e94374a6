/**
 * What the store does to the file system: every operation that changes something, each one a place where it can be made to fail.
 */
import { createHash, hash } from "node:crypto"
import * as fs from "node:fs"
import { dirname, join } from "node:path"
import * as Effect from "effect/Effect"
import { isPlatform } from "./Failed.ts"
import { operation } from "./Failpoint.ts"

const CHUNK = 1 << 20

/** How many files are open at once for syncing: far from any `ulimit -n`, and enough for their syncs to share one journal commit. */
const OPEN_AT_ONCE = 16

interface Hashed {
  readonly bytes: number
  readonly sha256: string
}

const hashLarge = (path: string): Effect.Effect<Hashed> =>
  Effect.acquireUseRelease(
    Effect.sync(() => fs.openSync(path, "r")),
    (descriptor) =>
      Effect.gen(function* () {
        const sum = createHash("sha256")
        const buffer = Buffer.allocUnsafe(CHUNK)
        let bytes = 0
        for (let chunks = 1; ; chunks++) {
          const read = fs.readSync(descriptor, buffer)
          if (read === 0) break
          sum.update(buffer.subarray(0, read))
          bytes += read
          if (chunks % 32 === 0) yield* Effect.yieldNow
        }
        return { bytes, sha256: sum.digest("hex") }
      }),
    (descriptor) => Effect.sync(() => fs.closeSync(descriptor)),
  )

/** Size and sha256 of a file; a small one is read at once. */
export const hashFile = (path: string): Effect.Effect<Hashed> =>
  Effect.suspend(() => {
    if (fs.statSync(path).size > CHUNK) return hashLarge(path)
    const content = fs.readFileSync(path)
    return Effect.succeed({ bytes: content.length, sha256: hash("sha256", content, "hex") })
  })

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

/** Writes into a folder that is nearly always there, and is made when it is not. */
export const writeIn = (folder: string, name: string, text: string): void => {
  try {
    write(join(folder, name), text)
  } catch (cause) {
    if (!(isPlatform(cause) && cause.code === "ENOENT")) throw cause
    makeFolder(folder)
    write(join(folder, name), text)
  }
}

/** The file has its old text or the whole of the new one, whatever happens in between, a power cut included. */
export const replace = (path: string, text: string): void => {
  const aside = `${path}.${process.pid}.new`
  try {
    write(aside, text)
    const descriptor = fs.openSync(aside, "r+")
    try {
      fs.fsyncSync(descriptor)
    } finally {
      fs.closeSync(descriptor)
    }
    rename(aside, path)
  } catch (cause) {
    fs.rmSync(aside, { force: true })
    throw cause
  }
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

// Windows syncs what is open for writing, and no folders
const forSync = process.platform === "win32" ? "r+" : "r"

interface Target {
  readonly path: string
  readonly folder: boolean
}

const fsync = (descriptor: number, folder: boolean): Promise<void> =>
  new Promise((resolve, reject) => {
    operation("fsync")
    fs.fsync(descriptor, (cause) => {
      // some file systems keep no folders of their own and say so
      if (cause === null || (folder && (cause.code === "EINVAL" || cause.code === "ENOTSUP"))) resolve()
      else reject(cause)
    })
  })

/** Trap: all are waited for, also when one fails, so that no descriptor is closed under its own sync. */
const syncOpen = async (targets: ReadonlyArray<Target>): Promise<void> => {
  const open: Array<number> = []
  try {
    for (const { path, folder } of targets) {
      operation("open")
      open.push(fs.openSync(path, folder ? "r" : forSync))
    }
    const ended = await Promise.allSettled(open.map((descriptor, at) => fsync(descriptor, targets[at]!.folder)))
    for (const end of ended) if (end.status === "rejected") throw end.reason
  } finally {
    for (const descriptor of open) fs.closeSync(descriptor)
  }
}

/**
 * Has files, and the entries of folders, on disk when it is done: without the folders a power cut may leave files that are whole and
 * have no name. The syncs run side by side, so that one commit of the file system's own journal serves them all.
 */
export const sync = (files: ReadonlyArray<string>, folders: ReadonlyArray<string>): Effect.Effect<void> =>
  Effect.gen(function* () {
    const targets = [
      ...files.map((path) => ({ path, folder: false })),
      ...(process.platform === "win32" ? [] : folders.map((path) => ({ path, folder: true }))),
    ]
    for (let from = 0; from < targets.length; from += OPEN_AT_ONCE)
      yield* Effect.promise(() => syncOpen(targets.slice(from, from + OPEN_AT_ONCE)))
  })

/**
 * Has on disk all of the file system that a path is on: for a thousand small files that takes a tenth of what their own syncs would.
 * False where that cannot be asked for: then they have to be synced one by one, which also says what is wrong, if something is.
 */
export const syncFileSystem = (path: string): Effect.Effect<boolean> =>
  Effect.promise(async () => {
    operation("syncfs")
    if (process.platform !== "linux") return false
    const { execFile } = await import("node:child_process")
    // Node has no `syncfs`; this is the program of GNU coreutils and of busybox
    return new Promise<boolean>((resolve) => {
      execFile("sync", ["-f", path], (cause) => resolve(cause === null))
    })
  })
