/**
 * Checkpoints held against the one they were made from, target by target. An engine keeps the weights of one checkpoint, so each is asked
 * for all its logits before the next one is; those of the base wait in a file meanwhile, as the fp32 numbers they are.
 */
import { closeSync, openSync, readSync, writeSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import type * as Scope from "effect/Scope"
import { Engine, type EngineError } from "../../engine/Engine.ts"
import { type TokenDivergence, tokenDivergence } from "../../evaluation/Divergence.ts"
import { attempt, type GgufFailed, NO_ROOM } from "./Gguf.ts"

export interface CompareRequest {
  readonly base: string
  readonly checkpoints: ReadonlyArray<string>
  /** Token ids; of each all but the last are read, all but the first are targets. */
  readonly windows: ReadonlyArray<ReadonlyArray<number>>
  readonly vocabulary: number
  /** A folder for the file. */
  readonly scratch: string
  /** Bytes of the base's logits that may lie there at a time. */
  readonly heldBytes: number
  /** Called when a checkpoint is measured for the first time. */
  readonly begin: (checkpoint: number) => void
}

/** By checkpoint and window: every target. */
export const compare = Effect.fn("gguf.compare")(function* (
  request: CompareRequest,
): Effect.fn.Return<
  ReadonlyArray<ReadonlyArray<ReadonlyArray<TokenDivergence>>>,
  EngineError | GgufFailed,
  Engine | Scope.Scope
> {
  const { base, checkpoints, windows, vocabulary } = request
  const engine = yield* Engine
  const logitsOf = (checkpoint: string, ids: ReadonlyArray<number>) =>
    engine.logits({ checkpoint, ids: ids.slice(0, -1) })
  const compared = checkpoints.map((): Array<ReadonlyArray<TokenDivergence>> => [])
  const held = yield* heldIn(join(request.scratch, "base.logits"))
  const portions = portionsOf(windows, 4 * vocabulary, request.heldBytes)
  for (const [p, portion] of portions.entries()) {
    yield* held.rewind
    for (const ids of portion) yield* held.put(yield* logitsOf(base, ids))
    for (const [i, checkpoint] of checkpoints.entries()) {
      if (p === 0) request.begin(i)
      yield* held.rewind
      for (const ids of portion) {
        const before = yield* held.take((ids.length - 1) * vocabulary)
        const changed = yield* logitsOf(checkpoint, ids)
        compared[i]!.push(
          changed.map((logits, at) =>
            tokenDivergence(before.subarray(at * vocabulary, (at + 1) * vocabulary), logits, ids[at + 1]!),
          ),
        )
      }
    }
  }
  return compared
}, Effect.scoped)

/** Windows in their order, as many at a time as have no more than so many bytes of logits. */
const portionsOf = (
  windows: ReadonlyArray<ReadonlyArray<number>>,
  bytesEach: number,
  atMost: number,
): ReadonlyArray<ReadonlyArray<ReadonlyArray<number>>> => {
  const portions: Array<Array<ReadonlyArray<number>>> = []
  let left = 0
  for (const ids of windows) {
    const bytes = (ids.length - 1) * bytesEach
    if (portions.length === 0 || bytes > left) {
      portions.push([])
      left = atMost
    }
    portions.at(-1)!.push(ids)
    left -= bytes
  }
  return portions
}

/** Numbers in a file, written from its start and read from its start. */
const heldIn = Effect.fnUntraced(function* (path: string) {
  const trying = <A>(run: () => A) => attempt(path, NO_ROOM, run)
  const file = yield* Effect.acquireRelease(
    trying(() => openSync(path, "w+")),
    (file) => Effect.sync(() => closeSync(file)),
  )
  let at = 0
  const rewind = Effect.sync(() => {
    at = 0
  })
  const put = (rows: ReadonlyArray<Float32Array>) =>
    trying(() => {
      for (const { buffer, byteOffset, byteLength } of rows) {
        const bytes = new Uint8Array(buffer, byteOffset, byteLength)
        for (let done = 0; done < byteLength; ) done += writeSync(file, bytes, done, byteLength - done, at + done)
        at += byteLength
      }
    })
  const take = (count: number) =>
    trying(() => {
      const bytes = new Uint8Array(4 * count)
      for (let done = 0; done < bytes.length; ) {
        const read = readSync(file, bytes, done, bytes.length - done, at + done)
        if (read === 0) throw new Error("it is shorter than what was written")
        done += read
      }
      at += bytes.length
      return new Float32Array(bytes.buffer)
    })
  return { rewind, put, take }
})
