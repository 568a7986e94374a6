/**
 * The checkpoint for PyTorch, made again from the weights and the facts beside them, and compared byte for byte. Its pickle is a
 * program, however small: one that makes anything else than these tensors and facts is never of a release.
 */
import { closeSync, openSync, readSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { torchCheckpoint } from "../release/Export.ts"
import { checkpointStem, type ReleaseFiles, torchName, weightsName } from "../release/Folder.ts"
import { type Making, torchPieces } from "../release/TorchFile.ts"
import { readWeightsHeader } from "../release/Weights.ts"
import { judged } from "./Fault.ts"
import { within } from "./Finding.ts"
import type { Release } from "./Release.ts"

const { ok, wrong } = within("weights")

/** Reads on in the same memory: what lies at a place of the file, up to its end. */
const reader = (file: number) => {
  let buffer = Buffer.alloc(0)
  return (position: number, wanted: number): Buffer => {
    if (buffer.length < wanted) buffer = Buffer.allocUnsafe(wanted)
    let done = 0
    while (done < wanted) {
      const read = readSync(file, buffer, done, wanted - done, position + done)
      if (read === 0) break
      done += read
    }
    return buffer.subarray(0, done)
  }
}

/** What of a file is not as it is made: each tensor or record once, with where it begins to differ. */
export const torchProblems = Effect.fn("verification.torchProblems")(function* (
  path: string,
  bytes: number,
  making: Making,
) {
  const next = yield* torchPieces(making)
  const file = yield* Effect.acquireRelease(
    Effect.sync(() => openSync(path, "r")),
    (file) => Effect.sync(() => closeSync(file)),
  )
  const bytesAt = reader(file)
  const problems = new Map<string, string>()
  let at = 0
  for (let piece = yield* next; piece !== undefined; piece = yield* next) {
    const { of, bytes } = piece
    const there = bytesAt(at, bytes.length)
    if (!there.equals(bytes) && !problems.has(of)) {
      const first = there.findIndex((byte, i) => byte !== bytes[i])
      const place = at + (first < 0 ? there.length : first)
      problems.set(of, `\`${of}\` is not what the release gives, first at byte ${place} of the file`)
    }
    at += bytes.length
    yield* Effect.yieldNow
  }
  return [...problems.values(), ...(bytes === at ? [] : [`it has ${bytes} bytes, and follows with ${at}`])]
}, Effect.scoped)

export const checkTorchFile = Effect.fn("verification.checkTorchFile")(function* (
  { view, listing }: Release,
  files: ReleaseFiles,
) {
  const name = torchName(files.release)
  const entry = listing.files.find(({ path }) => path === name)
  if (entry === undefined) return [wrong(name, "is missing: release.json says that it is there")]
  const weights = join(view, weightsName(files.release))
  const header = yield* judged(readWeightsHeader(weights, files.state.architecture))
  if (header._tag === "Failure") return [wrong(name, `${weightsName(files.release)}: ${header.failure.problem}`)]
  const making = { weights, stem: checkpointStem(files.release), value: torchCheckpoint(files, header.success) }
  const problems = yield* torchProblems(join(view, name), entry.bytes, making)
  if (problems.length === 0) return [ok(name, "made again from weights, configuration and state, byte for byte")]
  return [
    ...problems.slice(0, 5).map((problem) => wrong(name, problem)),
    ...(problems.length > 5 ? [wrong(name, `and ${problems.length - 5} others`)] : []),
  ]
})
