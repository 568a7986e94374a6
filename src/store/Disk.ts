/**
 * Room for what a step is about to write, asked for before it begins: hours of work should not end in ENOSPC.
 *
 * What is asked for beside the step's own bytes: what steps that are running will still write, and a reserve. What a step has
 * already in its folder, be it of an attempt that was interrupted, it need not write again.
 */
import { type Dirent, existsSync, readdirSync, statfsSync, statSync } from "node:fs"
import { dirname, join, resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** Three figures: enough to compare by. */
export const size = (bytes: number): string => {
  const unit = Math.min(Math.max(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), 0), 5)
  const value = bytes / 1000 ** unit
  return `${unit === 0 ? value : Number(value.toPrecision(3))} ${["B", "kB", "MB", "GB", "TB", "PB"][unit]}`
}

export class DiskFull extends Schema.TaggedError<DiskFull>()("DiskFull", {
  path: Schema.String,
  /** Bytes: the step's own, what running steps will still write, and the reserve. */
  needed: Schema.Finite,
  free: Schema.Finite,
}) {
  override get message() {
    return `${this.path} has ${size(this.free)} free, about ${size(this.needed)} are needed\n  hint: free ${size(this.needed - this.free)}: \`exp gc --dry-run\` says what could go; or choose another disk with \`--runs\``
  }
}

/** Kept free for everybody else: journals, logs, the system. */
export const RESERVE = 64 * 1024 * 1024

/** Free bytes of the disk that a path, which need not exist yet, is or would be on; undefined where that cannot be told. */
export const freeBytes = (path: string): number | undefined => {
  let there = resolve(path)
  while (!existsSync(there) && dirname(there) !== there) there = dirname(there)
  try {
    const { bavail, bsize } = statfsSync(there)
    return bavail * bsize
  } catch {
    return undefined
  }
}

/** Fails when the disk has no room for so many bytes more. A disk that does not say what it has is taken to have enough. */
export const requireDisk = (path: string, bytes: number, freeOf = freeBytes): Effect.Effect<void, DiskFull> =>
  Effect.suspend(() => {
    const free = freeOf(path)
    const needed = bytes + RESERVE
    return free === undefined || free >= needed ? Effect.void : Effect.fail(new DiskFull({ path, needed, free }))
  })

/** Bytes of the files below a folder. Somebody may be writing there: what is gone when it is looked at weighs nothing. */
export const bytesBelow = (folder: string): number => {
  let entries: ReadonlyArray<Dirent>
  try {
    entries = readdirSync(folder, { withFileTypes: true })
  } catch {
    return 0
  }
  return entries.reduce((sum, entry) => {
    const path = join(folder, entry.name)
    return sum + (entry.isDirectory() ? bytesBelow(path) : (statSync(path, { throwIfNoEntry: false })?.size ?? 0))
  }, 0)
}

/** Bytes that will be below some folders once a step is done. */
export interface Promised {
  readonly folders: ReadonlyArray<string>
  readonly bytes: number
}

const stillToWrite = ({ folders, bytes }: Promised): number =>
  folders.reduce((left, folder) => Math.max(0, left - bytesBelow(folder)), bytes)

/** Room on one disk, shared by those who write there side by side. */
export class Room {
  readonly #path: string
  readonly #freeOf: (path: string) => number | undefined
  readonly #promised = new Set<Promised>()

  constructor(path: string, freeOf = freeBytes) {
    this.#path = path
    this.#freeOf = freeOf
  }

  /** Does `work`, which fills its folders with about so many bytes, when there is room for them; 0: nobody asks. */
  within<A, E, R>(promised: Promised, work: Effect.Effect<A, E, R>): Effect.Effect<A, E | DiskFull, R> {
    if (promised.bytes === 0) return work
    return Effect.suspend(() => {
      this.#promised.add(promised)
      const missing = [...this.#promised].reduce((sum, one) => sum + stillToWrite(one), 0)
      return Effect.ensuring(
        Effect.andThen(requireDisk(this.#path, missing, this.#freeOf), work),
        Effect.sync(() => this.#promised.delete(promised)),
      )
    })
  }
}
