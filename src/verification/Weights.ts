/**
 * The weights themselves: both files are sound safetensors with the architecture's tensors and nothing else, every number is finite,
 * and what `transformers` loads is what was trained, byte for byte behind the header. Each file is read once, in pieces.
 */
import { type FileHandle, open } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { type ReleaseFiles, weightsName } from "../release/Folder.ts"
import { sha256OfFile } from "../release/Sums.ts"
import { readWeightsHeader, type WeightsHeader } from "../release/Weights.ts"
import { judged } from "./Fault.ts"
import { type Finding, within } from "./Finding.ts"
import type { Release } from "./Release.ts"

const { ok, wrong } = within("weights")

const PIECE = 1 << 20
/** All exponent bits of an fp32 number: set together they mean infinity or no number. */
const EXPONENT = 0x7f800000

const fill = async (file: FileHandle, buffer: Buffer, position: number): Promise<number> => {
  let done = 0
  while (done < buffer.length) {
    const { bytesRead } = await file.read(buffer, done, buffer.length - done, position + done)
    if (bytesRead === 0) break
    done += bytesRead
  }
  return done
}

interface Walk {
  /** Offset in the data of the first byte that differs; undefined when all are equal. */
  readonly difference: number | undefined
  readonly notFinite: number
}

/** Both files side by side, from where their data begins. */
const walk = async (
  a: { readonly path: string; readonly header: WeightsHeader },
  b: { readonly path: string; readonly header: WeightsHeader },
): Promise<Walk> => {
  const one = await open(a.path, "r")
  const other = await open(b.path, "r").catch(async (cause) => {
    await one.close()
    throw cause
  })
  try {
    const [left, right] = [Buffer.from(new ArrayBuffer(PIECE)), Buffer.from(new ArrayBuffer(PIECE))]
    const words = new Uint32Array(left.buffer)
    let notFinite = 0
    let difference: number | undefined
    for (let at = 0; ; at += PIECE) {
      const length = await fill(one, left, a.header.dataOffset + at)
      const beside = await fill(other, right, b.header.dataOffset + at)
      for (let i = 0; i < length >> 2; i++) if ((words[i]! & EXPONENT) === EXPONENT) notFinite++
      if (difference === undefined && left.compare(right, 0, beside, 0, length) !== 0) {
        const most = Math.max(length, beside)
        let i = 0
        while (i < most && i < length && i < beside && left[i] === right[i]) i++
        difference = at + i
      }
      if (length < PIECE && beside < PIECE) return { difference, notFinite }
    }
  } finally {
    await one.close()
    await other.close()
  }
}

const tensorAt = ({ tensors }: WeightsHeader, offset: number): string =>
  [...tensors].find(
    ([
      ,
      {
        data_offsets: [from, to],
      },
    ]) => offset >= from && offset < to,
  )?.[0] ?? "the end"

export const checkWeights = Effect.fn("verification.checkWeights")(function* ({ view }: Release, files: ReleaseFiles) {
  const findings: Array<Finding> = []
  const native = weightsName(files.release)
  const exported = "model.safetensors"
  const opened: Array<{ readonly path: string; readonly header: WeightsHeader }> = []
  for (const name of [native, exported]) {
    const header = yield* judged(readWeightsHeader(join(view, name), files.training.architecture))
    if (header._tag === "Failure") findings.push(wrong(name, header.failure.problem))
    else {
      const { parameters, tensors } = header.success
      findings.push(
        ok(name, `${tensors.size} tensors of the architecture and no other, ${parameters} numbers without a gap`),
      )
      opened.push({ path: join(view, name), header: header.success })
    }
  }
  const sum = yield* judged(sha256OfFile(join(view, native)))
  if (sum._tag === "Failure") findings.push(wrong(native, sum.failure.problem))
  else
    findings.push(
      sum.success === files.state.modelSha256
        ? ok(native, "the bytes that the checkpoint's own state names")
        : wrong(native, "not the bytes that the checkpoint's own state names"),
    )
  const [a, b] = opened
  if (a === undefined || b === undefined) return findings
  const { difference, notFinite } = yield* Effect.promise(() => walk(a, b))
  findings.push(
    difference === undefined
      ? ok(exported, `the same numbers as ${native}, byte for byte`)
      : wrong(exported, `other numbers than ${native}, first in ${tensorAt(a.header, difference)}`),
    notFinite === 0 ? ok(native, "every number is finite") : wrong(native, `${notFinite} numbers are infinite or none`),
  )
  return findings
})
