/**
 * What is in its place and not yet known to be on disk.
 *
 * Writing out every file of a thousand small steps costs more than the steps do. So what was made in an instant is written out with
 * others: when a second of work has come together, and when the store is closed. A power cut takes that second at most. Nor can it pass
 * off half a file for a whole one: only what is known to be on disk has its stat noted, and what has none is hashed before it counts.
 * A process that is killed loses nothing, since its files are the system's by then.
 */
import * as fs from "node:fs"
import { dirname, join } from "node:path"
import * as Effect from "effect/Effect"
import * as Semaphore from "effect/Semaphore"
import { isPlatform } from "./Failed.ts"
import { remove, sync, syncFileSystem, writeIn } from "./Files.ts"

export interface Stat {
  readonly bytes: number
  readonly mtime: string
  readonly ctime: string
  readonly inode: string
}

/** By path in the artifact, the manifest's included. */
export type Stats = Readonly<Record<string, Stat>>

/** Of work, that a power cut may take. */
const SECONDS_AT_RISK = 1

/** So many artifacts are written out one by one; of more, their whole file system at once. */
const FEW = 4

export class Unsynced {
  readonly #root: string
  readonly #waiting = new Map<string, Stats>()
  readonly #turn = Semaphore.makeUnsafe(1)
  #seconds = 0

  constructor(root: string) {
    this.#root = root
  }

  /** `seconds`: what it would take to make it again. */
  add(artifact: string, stats: Stats, seconds: number): void {
    this.#waiting.set(artifact, stats)
    this.#seconds += seconds
  }

  get due(): boolean {
    return this.#seconds >= SECONDS_AT_RISK
  }

  /** As its files were when they were last seen whole; of one that is not known, nothing. */
  statsOf(artifact: string): Stats {
    const waiting = this.#waiting.get(artifact)
    if (waiting !== undefined) return waiting
    try {
      return JSON.parse(fs.readFileSync(this.#notePath(artifact), "utf8"))
    } catch {
      return {} // absent or torn: the bytes are hashed instead
    }
  }

  forget(artifact: string): void {
    this.#waiting.delete(artifact)
    remove(this.#notePath(artifact))
  }

  /**
   * Of one that is on disk. Written in place: one that is torn cannot be read, and then the bytes are hashed instead. It is there to be
   * quicker: when the system refuses it, nothing is lost.
   */
  note(artifact: string): void {
    const stats = this.#waiting.get(artifact)
    this.#waiting.delete(artifact)
    try {
      if (stats !== undefined) writeIn(join(this.#root, ".stat"), `${artifact}.json`, JSON.stringify(stats))
    } catch (cause) {
      if (!isPlatform(cause)) throw cause
    }
  }

  /** Has on disk all that waits, and notes it. Who comes while that is done waits, and then for what came meanwhile. */
  readonly settle: Effect.Effect<void> = Effect.suspend(() =>
    this.#turn.withPermit(
      Effect.suspend(() => {
        const batch = [...this.#waiting]
        if (batch.length === 0) return Effect.void
        this.#seconds = 0
        return Effect.map(this.#sync(batch), () => {
          // one that was looked at anew in the meantime waits on
          for (const [artifact, stats] of batch) if (this.#waiting.get(artifact) === stats) this.note(artifact)
        })
      }),
    ),
  )

  #notePath(artifact: string): string {
    return join(this.#root, ".stat", `${artifact}.json`)
  }

  #sync(batch: ReadonlyArray<readonly [string, Stats]>): Effect.Effect<void> {
    const oneByOne = Effect.suspend(() => {
      const there = batch.filter(([artifact]) => fs.existsSync(join(this.#root, artifact)))
      const files = there.flatMap(([artifact, stats]) =>
        Object.keys(stats).map((path) => join(this.#root, artifact, path)),
      )
      // the root itself may be new
      const folders = new Set([...files.map(dirname), this.#root, dirname(this.#root)])
      return sync(files, [...folders])
    })
    if (batch.length <= FEW) return oneByOne
    return Effect.flatMap(syncFileSystem(this.#root), (done) => (done ? Effect.void : oneByOne))
  }
}
