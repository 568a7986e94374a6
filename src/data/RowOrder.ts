/**
 * The order in which training rows are read: endless, and the same for the same index, weights and seed, so a longer run reads what
 * the shorter one read and goes on.
 *
 * Draw i goes to the source that is furthest behind its share, the one with the largest weight·(i + 1) − drawn (the first of equals):
 * two sources stay within one row of their shares at every moment, several within a few.
 * Inside a source rows come in epochs, each a permutation of its own: nothing is read again before all has been read.
 *
 * On disk (`order-<seed>.bin`): global row numbers, uint32, little endian.
 */
import { type FileHandle, open } from "node:fs/promises"
import * as Effect from "effect/Effect"
import type { SourceRows, TokensIndex } from "../model/Corpus.ts"
import { permutation } from "../model/Random.ts"
import type { Progress } from "./BpeTrainer.ts"
import { CorpusUnwritable, problemOf } from "./Corpus.ts"

/** Rows without end (none when no source has weight). */
export function* rowOrder(index: Pick<TokensIndex, "sources">, seed: number): Generator<number, void> {
  const sources = index.sources
    .filter(({ rows, weight }) => weight > 0 && rows > 0)
    .map(({ source, firstRow, rows, weight }: SourceRows) => ({
      source,
      firstRow,
      rows,
      weight,
      drawn: 0,
      order: new Uint32Array(0) as Uint32Array,
    }))
  if (sources.length === 0) return
  for (let draw = 1; ; draw++) {
    let behind = sources[0]!
    for (const each of sources) if (each.weight * draw - each.drawn > behind.weight * draw - behind.drawn) behind = each
    const within = behind.drawn % behind.rows
    if (within === 0)
      behind.order = permutation(seed, `order:${behind.source}:${Math.floor(behind.drawn / behind.rows)}`, behind.rows)
    behind.drawn++
    yield behind.firstRow + behind.order[within]!
  }
}

const CHUNK = 1 << 16

/** Writes the first `count` rows of the order. */
export const writeOrder = (
  index: Pick<TokensIndex, "sources">,
  seed: number,
  count: number,
  path: string,
  progress?: Progress,
): Effect.Effect<void, CorpusUnwritable> =>
  Effect.acquireUseRelease(
    Effect.tryPromise({
      try: () => open(path, "w"),
      catch: (cause) => new CorpusUnwritable({ path, problem: problemOf(cause) }),
    }),
    (handle: FileHandle) =>
      Effect.gen(function* () {
        const rows = rowOrder(index, seed)
        for (let done = 0; done < count; ) {
          const bytes = Buffer.alloc(Math.min(CHUNK, count - done) * 4)
          for (let at = 0; at < bytes.length; at += 4) {
            const { done: ended, value } = rows.next()
            if (ended || value === undefined)
              return yield* new CorpusUnwritable({ path, problem: "no training source has both weight and rows" })
            bytes.writeUInt32LE(value, at)
          }
          yield* Effect.tryPromise({
            try: () => handle.writeFile(bytes),
            catch: (cause) => new CorpusUnwritable({ path, problem: problemOf(cause) }),
          })
          done += bytes.length / 4
          progress?.(done, count)
          yield* Effect.yieldNow
        }
      }),
    (handle) => Effect.promise(() => handle.close()),
  )
