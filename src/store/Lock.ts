/**
 * One maker per artifact, over all processes of a machine.
 *
 * The lock is an open exclusive transaction on an empty SQLite file: the kernel drops it when its owner dies, however it dies, so
 * there is no stale lock to recognise, no pid to mistake and nothing to unlock by hand. The file itself means nothing and stays.
 *
 * Trap: a process that opens a lock file itself and closes it again drops its own lock, for such is POSIX. Only SQLite opens them.
 */
import { closeSync, existsSync, openSync, rmSync, writeSync } from "node:fs"
import { dirname } from "node:path"
import type { DatabaseSync } from "node:sqlite"
import * as Effect from "effect/Effect"
import { makeFolder } from "./Files.ts"

const isBusy = (cause: unknown): boolean =>
  cause instanceof Error && /database is locked|SQLITE_BUSY/.test(cause.message)

/** What SQLite may need to lock one empty file. */
const DESCRIPTORS = 4
const PAGE = 4096

/** SQLite says that it cannot; the system, asked for as much beside the lock, says why: full, read-only, too many files open. */
const complain = (path: string): void => {
  const beside = `${path}.${process.pid}`
  const open: Array<number> = []
  try {
    for (let n = 0; n < DESCRIPTORS; n++) open.push(openSync(beside, "w"))
    writeSync(open[0]!, Buffer.alloc(PAGE))
  } finally {
    open.forEach(closeSync)
    rmSync(beside, { force: true })
  }
}

const tryLock = (Database: typeof DatabaseSync, path: string): DatabaseSync | undefined => {
  let database: DatabaseSync | undefined
  try {
    database = new Database(path)
    // nothing is ever written, so there is nothing that a journal on disk would be for
    database.exec("PRAGMA busy_timeout = 0; PRAGMA journal_mode = MEMORY; BEGIN EXCLUSIVE")
    return database
  } catch (cause) {
    database?.close()
    if (isBusy(cause)) return undefined
    complain(path)
    throw cause
  }
}

/** Loaded with the first lock: planning needs none. */
let sqlite: Promise<typeof import("node:sqlite")> | undefined

/** Whether a process that lives holds the lock; where that cannot be tried, as on a read-only disk, one may. */
export const isLocked = (path: string): Effect.Effect<boolean> =>
  Effect.gen(function* () {
    if (!existsSync(path)) return false
    const { DatabaseSync } = yield* Effect.promise(() => (sqlite ??= import("node:sqlite")))
    try {
      const held = tryLock(DatabaseSync, path)
      held?.close()
      return held === undefined
    } catch {
      return true
    }
  })

/** Holds the lock while `use` runs. `onWait` is called once if another process has it. */
export const withLock = <A, E, R>(
  path: string,
  onWait: () => void,
  use: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> =>
  Effect.acquireUseRelease(
    Effect.gen(function* () {
      const { DatabaseSync } = yield* Effect.promise(() => (sqlite ??= import("node:sqlite")))
      makeFolder(dirname(path))
      for (let waited = false; ; waited = true) {
        const held = tryLock(DatabaseSync, path)
        if (held !== undefined) return held
        if (!waited) onWait()
        yield* Effect.interruptible(Effect.sleep("200 millis"))
      }
    }),
    () => use,
    (held) => Effect.sync(() => held.close()),
  )
