/**
 * One maker per artifact, over all processes of a machine.
 *
 * The lock is an open exclusive transaction on an empty SQLite file: the kernel drops it when its owner dies, however it dies, so
 * there is no stale lock to recognise, no pid to mistake and nothing to unlock by hand. The file itself means nothing and stays.
 */
import { mkdirSync } from "node:fs"
import { dirname } from "node:path"
import type { DatabaseSync } from "node:sqlite"
import { Effect } from "effect"

const isBusy = (cause: unknown): boolean =>
  cause instanceof Error && /database is locked|SQLITE_BUSY/.test(cause.message)

const tryLock = (Database: typeof DatabaseSync, path: string): DatabaseSync | undefined => {
  const database = new Database(path)
  try {
    database.exec("PRAGMA busy_timeout = 0; BEGIN EXCLUSIVE")
    return database
  } catch (cause) {
    database.close()
    if (isBusy(cause)) return undefined
    throw cause
  }
}

/** Holds the lock while `use` runs. `onWait` is called once if another process has it. */
export const withLock = <A, E, R>(
  path: string,
  onWait: () => void,
  use: Effect.Effect<A, E, R>,
): Effect.Effect<A, E, R> =>
  Effect.acquireUseRelease(
    Effect.gen(function* () {
      const { DatabaseSync } = yield* Effect.promise(() => import("node:sqlite"))
      mkdirSync(dirname(path), { recursive: true })
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
