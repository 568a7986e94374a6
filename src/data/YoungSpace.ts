/**
 * V8's space for young objects. It doubles up to some 100 MB when garbage is made fast. Reading a corpus does that and is no faster for
 * it (500 MB tokenized: 437 MB of memory, 294 without), nor are thousands of small steps; so `bin/exp run` keeps it from growing. What
 * computes with an engine holds its results for a while: in a small space they are moved again and again (a benchmark of the example:
 * 11 s of CPU, 7 when it may grow). So it grows from the first step that computes on, but never while a corpus is read.
 */
import { setFlagsFromString } from "node:v8"
import * as Effect from "effect/Effect"

let computing = false
let reading = 0

const apply = (): void => setFlagsFromString(`--semi-space-growth-factor=${computing && reading === 0 ? 2 : 1}`)

/** From here on it may grow. */
export const letGrow = (): void => {
  computing = true
  apply()
}

const count = (by: 1 | -1) =>
  Effect.sync(() => {
    reading += by
    apply()
  })

/** As large as it is while something is read. */
export const keepSmall = <A, E, R>(work: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.acquireUseRelease(
    count(1),
    () => work,
    () => count(-1),
  )
