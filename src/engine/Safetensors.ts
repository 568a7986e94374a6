/**
 * Weights on disk (https://github.com/huggingface/safetensors, format):
 *
 * | bytes     | what                                                                                          |
 * |-----------|-----------------------------------------------------------------------------------------------|
 * | 8         | length n of the header, little-endian uint64                                                  |
 * | n         | JSON: name → { dtype, shape, data_offsets: [from, to) in the data }, padded with spaces to 8   |
 * | the rest  | the tensors, end to end, without gaps                                                         |
 *
 * Written here: fp32 only, names sorted, `__metadata__: {"format":"pt"}` first (transformers 4.57 refuses metadata without it), so
 * the same tensors are the same bytes. A file that is read is believed in nothing: it comes from disks and hubs.
 */
import { createHash } from "node:crypto"
import { type FileHandle, mkdir, open, rename, rm } from "node:fs/promises"
import { dirname } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { because } from "../model/Because.ts"

export class SafetensorsUnreadable extends Schema.TaggedError<SafetensorsUnreadable>()("SafetensorsUnreadable", {
  path: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `${this.path}: ${this.problem}\n  hint: the file is damaged or not fp32 safetensors; make or download it again`
  }
}

export class SafetensorsUnwritable extends Schema.TaggedError<SafetensorsUnwritable>()("SafetensorsUnwritable", {
  path: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `${this.path}: ${this.problem}\n  hint: look at free space and permissions of the folder`
  }
}

export interface Tensor {
  readonly name: string
  readonly shape: ReadonlyArray<number>
  readonly data: Float32Array
}

/** A tensor whose numbers are fetched when they are written. */
export interface Streamed {
  readonly name: string
  readonly shape: ReadonlyArray<number>
  /** Fills `to` with the numbers from `first` on: whole rows. */
  readonly fill: (first: number, to: Float32Array) => void
}

const sizeOf = (shape: ReadonlyArray<number>): number => shape.reduce((a, b) => a * b, 1)

export interface TensorHeader {
  readonly name: string
  readonly shape: ReadonlyArray<number>
  /** In the file. */
  readonly offset: number
  readonly elements: number
}

/** The library's own bound. */
const MAX_HEADER_BYTES = 100_000_000
/** fp32 tensors are read and written in pieces of this size: views on shared memory must be copied before they can be. */
const PIECE_BYTES = 1 << 22

/** No longer than a few lines: names and types in a header are as long as whoever wrote it likes. */
const problem = (error: unknown): string => {
  const text = error instanceof Error ? error.message : String(error)
  return text.length > 300 ? `${text.slice(0, 300)}…` : text
}
const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value)
const isNatural = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

/** Checks a header against the size of its file; throws an Error that says what is wrong. */
export const parseHeader = (
  json: string,
  dataStart: number,
  fileBytes: number,
): { readonly tensors: ReadonlyArray<TensorHeader>; readonly metadata: Readonly<Record<string, string>> } => {
  let parsed: unknown
  try {
    parsed = JSON.parse(json)
  } catch (error) {
    throw new Error(`the header is not JSON: ${problem(error)}`)
  }
  if (!isRecord(parsed)) throw new Error("the header is not a JSON object")
  const metadata: Record<string, string> = {}
  const found: Array<TensorHeader & { readonly end: number }> = []
  for (const [name, entry] of Object.entries(parsed)) {
    if (!isRecord(entry)) throw new Error(`the entry of \`${name}\` is not an object`)
    if (name === "__metadata__") {
      for (const [key, value] of Object.entries(entry)) {
        if (typeof value !== "string") throw new Error(`metadata \`${key}\` is not a string`)
        metadata[key] = value
      }
      continue
    }
    const { dtype, shape, data_offsets: offsets } = entry
    if (dtype !== "F32") throw new Error(`\`${name}\` has dtype ${JSON.stringify(dtype)}, expected "F32"`)
    if (!Array.isArray(shape) || !shape.every(isNatural))
      throw new Error(`the shape of \`${name}\` is not a list of sizes`)
    if (!Array.isArray(offsets) || offsets.length !== 2 || !offsets.every(isNatural))
      throw new Error(`\`${name}\` has no two data offsets`)
    const [from, to] = offsets as [number, number]
    const elements = (shape as Array<number>).reduce((a, b) => a * b, 1)
    if (to - from !== elements * 4)
      throw new Error(`\`${name}\` has ${to - from} bytes, its shape [${shape.join(", ")}] needs ${elements * 4}`)
    found.push({ name, shape: shape as Array<number>, offset: dataStart + from, elements, end: dataStart + to })
  }
  let position = dataStart
  for (const { name, offset, end } of found.toSorted((a, b) => a.offset - b.offset || a.end - b.end)) {
    if (offset < position) throw new Error(`\`${name}\` overlaps the tensor before it`)
    if (offset > position) throw new Error(`${offset - position} bytes before \`${name}\` belong to no tensor`)
    position = end
  }
  if (position !== fileBytes)
    throw new Error(
      position > fileBytes
        ? `the header promises ${position} bytes, the file has ${fileBytes}`
        : `${fileBytes - position} bytes at the end belong to no tensor`,
    )
  return { tensors: found, metadata }
}

/** `await using` would do, but Node 22 does not parse it. */
const withFile = async <A>(path: string, flags: "r" | "w", use: (file: FileHandle) => Promise<A>): Promise<A> => {
  const file = await open(path, flags)
  try {
    return await use(file)
  } finally {
    await file.close()
  }
}

const readExactly = async (file: FileHandle, target: Uint8Array, position: number): Promise<void> => {
  let done = 0
  while (done < target.length) {
    const { bytesRead } = await file.read(target, done, target.length - done, position + done)
    if (bytesRead === 0) throw new Error(`the file ends at byte ${position + done}`)
    done += bytesRead
  }
}

/**
 * All tensors of a file. `place` may say where a tensor's numbers go (shared memory, say), or refuse it by throwing;
 * without it they get memory of their own.
 */
export const read = (
  path: string,
  place: (header: TensorHeader) => Float32Array = ({ elements }) => new Float32Array(elements),
): Effect.Effect<ReadonlyMap<string, Tensor>, SafetensorsUnreadable> =>
  Effect.tryPromise({
    try: () =>
      withFile(path, "r", async (file) => {
        const { size } = await file.stat()
        if (size < 8) throw new Error(`the file has ${size} bytes, not even the length of a header`)
        const prefix = Buffer.alloc(8)
        await readExactly(file, prefix, 0)
        const length = prefix.readBigUInt64LE(0)
        if (length > BigInt(size - 8)) throw new Error(`the header would have ${length} bytes, the file has ${size}`)
        if (length > BigInt(MAX_HEADER_BYTES)) throw new Error(`the header would have ${length} bytes`)
        const header = Buffer.alloc(Number(length))
        await readExactly(file, header, 8)
        const { tensors } = parseHeader(
          new TextDecoder("utf-8", { fatal: true }).decode(header),
          8 + header.length,
          size,
        )
        const read = new Map<string, Tensor>()
        const piece = new Float32Array(PIECE_BYTES / 4)
        for (const tensor of tensors) {
          const data = place(tensor)
          if (data.length !== tensor.elements) throw new Error(`\`${tensor.name}\` does not fit`)
          for (let first = 0; first < tensor.elements; first += piece.length) {
            const part = piece.subarray(0, Math.min(piece.length, tensor.elements - first))
            await readExactly(
              file,
              new Uint8Array(part.buffer, part.byteOffset, part.byteLength),
              tensor.offset + 4 * first,
            )
            data.set(part, first)
          }
          read.set(tensor.name, { name: tensor.name, shape: tensor.shape, data })
        }
        return read
      }),
    catch: (error) => because(new SafetensorsUnreadable({ path, problem: problem(error) }), error),
  })

/** Bytes before the data. */
export const header = (tensors: ReadonlyArray<Pick<Tensor, "name" | "shape">>): Uint8Array => {
  const entries: Record<string, unknown> = { __metadata__: { format: "pt" } }
  let offset = 0
  for (const { name, shape } of tensors) {
    const bytes = 4 * sizeOf(shape)
    entries[name] = { dtype: "F32", shape, data_offsets: [offset, offset + bytes] }
    offset += bytes
  }
  const json = Buffer.from(JSON.stringify(entries))
  const padded = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, " ")
  padded.writeBigUInt64LE(BigInt(padded.length - 8), 0)
  json.copy(padded, 8)
  return padded
}

/** Writes beside, syncs, renames: the file is whole or absent. Gives its sha256. */
export const write = (
  path: string,
  tensors: ReadonlyArray<Tensor | Streamed>,
): Effect.Effect<{ readonly sha256: string; readonly bytes: number }, SafetensorsUnwritable> =>
  Effect.tryPromise({
    try: async () => {
      const sorted = tensors.toSorted((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0))
      sorted.forEach((tensor, i) => {
        const { name, shape } = tensor
        if (name === sorted[i + 1]?.name || name === "__metadata__")
          throw new Error(`two tensors are named \`${name}\``)
        if ("data" in tensor && tensor.data.length !== sizeOf(shape))
          throw new Error(`\`${name}\` has ${tensor.data.length} numbers, its shape [${shape.join(", ")}] needs others`)
      })
      const temporary = `${path}.${process.pid}.tmp`
      await mkdir(dirname(path), { recursive: true })
      try {
        const hash = createHash("sha256")
        let bytes = 0
        await withFile(temporary, "w", async (file) => {
          const put = async (part: Uint8Array) => {
            hash.update(part)
            for (let done = 0; done < part.length; )
              done += (await file.write(part, done, part.length - done)).bytesWritten
            bytes += part.length
          }
          await put(header(sorted))
          let piece = new Float32Array(PIECE_BYTES / 4)
          for (const tensor of sorted) {
            const row = tensor.shape.at(-1) ?? 1
            if (row > piece.length) piece = new Float32Array(row)
            const most = piece.length - (piece.length % row)
            const size = sizeOf(tensor.shape)
            for (let first = 0; first < size; first += most) {
              const part = piece.subarray(0, Math.min(most, size - first))
              if ("data" in tensor) part.set(tensor.data.subarray(first, first + part.length))
              else tensor.fill(first, part)
              await put(new Uint8Array(piece.buffer, 0, part.byteLength))
            }
          }
          await file.sync()
        })
        await rename(temporary, path)
        return { sha256: hash.digest("hex"), bytes }
      } catch (error) {
        await rm(temporary, { force: true })
        throw error
      }
    },
    catch: (error) => new SafetensorsUnwritable({ path, problem: problem(error) }),
  })
