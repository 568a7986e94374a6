/**
 * Weights as safetensors: u64 little-endian header length, JSON header, data. Here a header is only read, checked against the
 * architecture and rewritten; the numbers are never parsed, so a file of any size costs the same memory.
 *
 * Traps: `transformers` 4.57 refuses a file whose `__metadata__` has no `format`; 5.x loads an `lm_head.weight` beside a tied
 * embedding and is silently another model than 4.57's. So the header is always ours, and only canonical tensors pass.
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { type Architecture, tensors } from "../model/Architecture.ts"
import { type ReleaseFileFailed, ReleaseInputUnreadable, unreadable, unwritable } from "./ReleaseError.ts"

const Entry = Schema.Struct({
  dtype: Schema.String,
  shape: Schema.Array(Schema.Int),
  data_offsets: Schema.Tuple([Schema.Int, Schema.Int]),
})
const Header = Schema.Record(Schema.String, Schema.Json)

export interface WeightsHeader {
  readonly tensors: ReadonlyMap<string, typeof Entry.Type>
  /** Where the data begins in the file. */
  readonly dataOffset: number
  readonly parameters: number
}

const HEADER_LIMIT = 100_000_000

const readBytes = Effect.fnUntraced(function* (path: string, offset: number, length: number) {
  const fs = yield* FileSystem.FileSystem
  const chunks = yield* fs.stream(path, { offset, bytesToRead: length }).pipe(Stream.runCollect, unreadable(path))
  return Buffer.concat(chunks)
})

/** Reads the header and fails unless the file holds exactly the fp32 tensors of the architecture, without gap or overlap. */
export const readWeightsHeader = Effect.fn("Weights.readHeader")(function* (
  path: string,
  architecture: Architecture,
): Effect.fn.Return<WeightsHeader, ReleaseInputUnreadable, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const refuse = (problem: string) => new ReleaseInputUnreadable({ path, problem })
  const size = Number((yield* fs.stat(path).pipe(unreadable(path))).size)
  const prefix = yield* readBytes(path, 0, 8)
  const length = prefix.length === 8 ? Number(prefix.readBigUInt64LE(0)) : Number.NaN
  if (!(length > 1 && length <= HEADER_LIMIT && 8 + length <= size)) return yield* refuse("not a safetensors file")
  const text = (yield* readBytes(path, 8, length)).toString("utf8")
  const header = yield* Effect.try({
    try: () => JSON.parse(text) as unknown,
    catch: () => refuse("its header is not JSON"),
  }).pipe(
    Effect.flatMap((value) =>
      Schema.decodeUnknownEffect(Header)(value).pipe(Effect.mapError((error) => refuse(error.message))),
    ),
  )
  const found = new Map<string, typeof Entry.Type>()
  for (const [name, value] of Object.entries(header)) {
    if (name === "__metadata__") continue
    found.set(
      name,
      yield* Schema.decodeUnknownEffect(Entry)(value).pipe(
        Effect.mapError((error) => refuse(`${name}: ${error.message}`)),
      ),
    )
  }
  let parameters = 0
  for (const { name, shape } of tensors(architecture)) {
    const entry = found.get(name)
    const count = shape.reduce((a, b) => a * b, 1)
    parameters += count
    if (entry === undefined) return yield* refuse(`tensor ${name} is missing`)
    if (entry.dtype !== "F32") return yield* refuse(`tensor ${name} is ${entry.dtype}, not F32`)
    if (entry.shape.join("×") !== shape.join("×"))
      return yield* refuse(`tensor ${name} is ${entry.shape.join("×")}, not ${shape.join("×")}`)
    if (entry.data_offsets[1] - entry.data_offsets[0] !== 4 * count)
      return yield* refuse(`tensor ${name} has a wrong length`)
  }
  if (found.size !== tensors(architecture).length) {
    const canonical = new Set(tensors(architecture).map((tensor) => tensor.name))
    const extra = [...found.keys()].filter((name) => !canonical.has(name))
    return yield* refuse(`tensors the architecture does not have: ${extra.slice(0, 5).join(", ")}`)
  }
  let end = 0
  for (const [name, { data_offsets }] of [...found].sort((a, b) => a[1].data_offsets[0] - b[1].data_offsets[0])) {
    if (data_offsets[0] !== end) return yield* refuse(`tensor ${name} does not begin where the one before it ends`)
    end = data_offsets[1]
  }
  if (8 + length + end !== size) return yield* refuse(`${size - 8 - length - end} bytes after the last tensor`)
  return { tensors: found, dataOffset: 8 + length, parameters }
})

/** The same tensors for `transformers`: our header, then the data as it is. */
export const writeTransformersWeights = Effect.fn("Weights.writeTransformers")(function* (
  from: string,
  to: string,
  header: WeightsHeader,
): Effect.fn.Return<void, ReleaseInputUnreadable | ReleaseFileFailed, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const json = JSON.stringify({ __metadata__: { format: "pt" }, ...Object.fromEntries(header.tensors) })
  const body = Buffer.from(json, "utf8")
  const padded = Buffer.concat([body, Buffer.alloc((8 - (body.length % 8)) % 8, " ")])
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(padded.length))
  yield* fs.writeFile(to, Buffer.concat([prefix, padded])).pipe(unwritable(to))
  yield* fs
    .stream(from, { offset: header.dataOffset, chunkSize: 1 << 20 })
    .pipe(Stream.run(fs.sink(to, { flag: "a" })), unwritable(to))
})
