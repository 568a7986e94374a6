/**
 * Room for what a step is about to write, asked for before it begins: hours of work should not end in ENOSPC.
 */
import { existsSync, statfsSync } from "node:fs"
import { dirname, resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

/** Three figures: enough to compare by. */
const size = (bytes: number): string => {
  const unit = Math.min(Math.max(Math.floor(Math.log10(Math.max(bytes, 1)) / 3), 0), 5)
  const value = bytes / 1000 ** unit
  return `${unit === 0 ? value : Number(value.toPrecision(3))} ${["B", "kB", "MB", "GB", "TB", "PB"][unit]}`
}

export class DiskFull extends Schema.TaggedError<DiskFull>()("DiskFull", {
  path: Schema.String,
  needed: Schema.Finite,
  free: Schema.Finite,
}) {
  override get message() {
    return `${this.path} has ${size(this.free)} free, about ${size(this.needed)} are needed\n  hint: free ${size(this.needed - this.free)}, or put the store on another disk`
  }
}

/** Kept free for everybody else: journals, logs, the system. */
const RESERVE = 64 * 1024 * 1024

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
export const requireDisk = (path: string, bytes: number): Effect.Effect<void, DiskFull> =>
  Effect.suspend(() => {
    const free = freeBytes(path)
    const needed = bytes + RESERVE
    return free === undefined || free >= needed ? Effect.void : Effect.fail(new DiskFull({ path, needed, free }))
  })
