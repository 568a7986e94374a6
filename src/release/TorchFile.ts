/**
 * A checkpoint as PyTorch's own `torch.save` lays one out: a zip archive whose records are stored as they are, one of them a pickle.
 *
 * | record, each below `<stem>/` | what                                                                                           |
 * |------------------------------|------------------------------------------------------------------------------------------------|
 * | `data.pkl`                   | the value; a tensor in it is a shape over a storage, which is named by its number               |
 * | `.format_version`            | `1`: storages lie in the order of their numbers, so that a reader can work out where            |
 * | `.storage_alignment`         | `64`                                                                                           |
 * | `byteorder`                  | `little`                                                                                       |
 * | `data/<n>`                   | the numbers of storage n, from a multiple of 64, so that the file can be mapped into memory     |
 * | `version`                    | `3`, of the container                                                                          |
 * | `.data/serialization_id`     | 40 digits that say which content it is                                                         |
 *
 * The pickle (protocol 2) is a program of few words: it makes dictionaries, lists, texts and numbers, and calls two functions, one that
 * makes a tensor and one that makes the empty `OrderedDict` for it. That is what `torch.load(weights_only=True)` takes, which runs
 * nothing else. A tensor that stands in the value twice (a tied head) names one storage twice, and is one in memory.
 *
 * Within the zip, a storage's sum and length stand behind it (bit 3 of its flags), so that a file of any size is written from front to
 * back and its numbers are read once, in pieces. Readers that work out where storages begin count on three habits of PyTorch's writer:
 * an empty record has nothing behind it; what pads a record to 64 is an extra field `FB` of its own; and where a length or an offset does
 * not fit 32 bits, the widened ones come before that field. The end of the archive is that of zip64 for small files too: one way for
 * all sizes. Dates are the first that zip knows. The same value and weights are the same bytes.
 *
 * Sources: PyTorch's notes on serialization semantics and `torch/serialization.py`, `torch/_weights_only_unpickler.py`,
 * `caffe2/serialize/inline_container.cc` and `third_party/miniz` of PyTorch; PKWARE's APPNOTE 6.3; PEP 307 and Python's `pickletools`.
 */
import { createHash } from "node:crypto"
import { closeSync, openSync, readSync, rmSync, writeSync } from "node:fs"
import { crc32 } from "node:zlib"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { because } from "../model/Because.ts"
import { Float } from "./Json.ts"
import { ReleaseFileFailed, ReleaseInputUnreadable } from "./ReleaseError.ts"

const KINDS = {
  F32: { storage: "FloatStorage", bytes: 4 },
  F16: { storage: "HalfStorage", bytes: 2 },
  BF16: { storage: "BFloat16Storage", bytes: 2 },
} as const

/** A tensor by where its numbers lie: row by row, little-endian. */
export class Tensor {
  readonly kind: keyof typeof KINDS
  readonly shape: ReadonlyArray<number>
  /** Of its first number, in bytes from the start of the file of weights. */
  readonly offset: number

  constructor(kind: keyof typeof KINDS, shape: ReadonlyArray<number>, offset: number) {
    this.kind = kind
    this.shape = shape
    this.offset = offset
  }

  get numbers(): number {
    return this.shape.reduce((a, b) => a * b, 1)
  }

  get bytes(): number {
    return this.numbers * KINDS[this.kind].bytes
  }
}

/** What JSON has, floats that are told from integers, and tensors. */
export type Value =
  | null
  | boolean
  | number
  | string
  | Float
  | Tensor
  | ReadonlyArray<Value>
  | { readonly [key: string]: Value | undefined }

/** What a file is made of. */
export interface Making {
  /** A safetensors file, or any that has the numbers of the tensors. */
  readonly weights: string
  /** Folder within the archive; PyTorch takes the file's name without its last suffix. */
  readonly stem: string
  readonly value: Value
}

/** A stretch of a file. */
export interface Piece {
  /** Of which record, or the zip's own `directory`; of a storage the tensor's name. */
  readonly of: string
  /** Good until the next piece is asked for. */
  readonly bytes: Uint8Array
}

/** Little-endian numbers, each with its width in bytes. */
const little = (...fields: ReadonlyArray<readonly [width: 1 | 2 | 4 | 8, value: number]>): Buffer => {
  const bytes = Buffer.alloc(fields.reduce((sum, [width]) => sum + width, 0))
  let at = 0
  for (const [width, value] of fields) {
    if (width === 8) bytes.writeBigInt64LE(BigInt(value), at)
    else bytes.writeUIntLE(value, at, width)
    at += width
  }
  return bytes
}

// The pickle.

/** By the names of Python's `pickletools`. */
const PROTO = Buffer.of(0x80, 2)
const STOP = Buffer.from(".")
const MARK = Buffer.from("(")
const TUPLE = Buffer.from("t")
const EMPTY_TUPLE = Buffer.from(")")
const EMPTY_LIST = Buffer.from("]")
const APPENDS = Buffer.from("e")
const EMPTY_DICT = Buffer.from("}")
const SETITEMS = Buffer.from("u")
const REDUCE = Buffer.from("R")
const BINPERSID = Buffer.from("Q")
const NONE = Buffer.from("N")
const NEWTRUE = Buffer.of(0x88)
const NEWFALSE = Buffer.of(0x89)
// These are followed by their argument.
const [BININT1, BININT2, BININT, LONG1, BINFLOAT, BINUNICODE] = [0x4b, 0x4d, 0x4a, 0x8a, 0x47, 0x58] as const

const named = (module: string, name: string): Buffer => Buffer.from(`c${module}\n${name}\n`)

const integer = (value: number): Buffer =>
  value >= 0 && value <= 0xff
    ? little([1, BININT1], [1, value])
    : value >= 0 && value <= 0xffff
      ? little([1, BININT2], [2, value])
      : value === (value | 0)
        ? little([1, BININT], [4, value >>> 0])
        : little([1, LONG1], [1, 8], [8, value])

const floating = (value: number): Buffer => {
  const bytes = Buffer.alloc(9, BINFLOAT)
  bytes.writeDoubleBE(value, 1)
  return bytes
}

const text = (value: string): Buffer => {
  const bytes = Buffer.from(value)
  return Buffer.concat([little([1, BINUNICODE], [4, bytes.length]), bytes])
}

const tuple = (items: ReadonlyArray<Buffer>): ReadonlyArray<Buffer> =>
  items.length === 0 ? [EMPTY_TUPLE] : [MARK, ...items, TUPLE]

/** How far apart neighbours along each axis lie, as PyTorch counts it: an empty axis counts for one. */
const stridesOf = (shape: ReadonlyArray<number>): ReadonlyArray<number> =>
  shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * Math.max(1, b), 1))

/** The value as a pickle, and its tensors by name in the order of their storages. */
const pickle = (value: Value): { readonly bytes: Buffer; readonly storages: ReadonlyMap<Tensor, string> } => {
  const storages = new Map<Tensor, { readonly number: number; readonly name: string }>()
  const parts: Array<Buffer> = [PROTO]
  const putTensor = (tensor: Tensor, name: string) => {
    const storage = storages.get(tensor) ?? { number: storages.size, name }
    storages.set(tensor, storage)
    parts.push(
      named("torch._utils", "_rebuild_tensor_v2"),
      MARK,
      ...tuple([
        text("storage"),
        named("torch", KINDS[tensor.kind].storage),
        text(String(storage.number)),
        text("cpu"),
        integer(tensor.numbers),
      ]),
      BINPERSID,
      integer(0), // where in the storage it begins
      ...tuple(tensor.shape.map(integer)),
      ...tuple(stridesOf(tensor.shape).map(integer)),
      NEWFALSE, // wants no gradient
      ...[named("collections", "OrderedDict"), EMPTY_TUPLE, REDUCE], // and has no hooks
      TUPLE,
      REDUCE,
    )
  }
  const put = (value: Value, name: string): void => {
    if (value === null) parts.push(NONE)
    else if (typeof value === "boolean") parts.push(value ? NEWTRUE : NEWFALSE)
    else if (typeof value === "string") parts.push(text(value))
    else if (value instanceof Float) parts.push(floating(value.value))
    else if (typeof value === "number") parts.push(Number.isSafeInteger(value) ? integer(value) : floating(value))
    else if (value instanceof Tensor) putTensor(value, name)
    else if (Array.isArray(value)) {
      parts.push(EMPTY_LIST, MARK)
      for (const item of value as ReadonlyArray<Value>) put(item, name)
      parts.push(APPENDS)
    } else {
      parts.push(EMPTY_DICT, MARK)
      for (const [key, member] of Object.entries(value as { readonly [key: string]: Value | undefined })) {
        if (member === undefined) continue
        parts.push(text(key))
        put(member, key)
      }
      parts.push(SETITEMS)
    }
  }
  put(value, "value")
  parts.push(STOP)
  return {
    bytes: Buffer.concat(parts),
    storages: new Map(Array.from(storages, ([tensor, { name }]) => [tensor, name])),
  }
}

// The zip.

const ALIGNMENT = 64
/** What does not fit stands in a wider field, and all ones in its place. */
const MAX_U32 = 0xffffffff
const MAX_U16 = 0xffff
const STORED = 0
/** 1980-01-01, 00:00. */
const [TIME, DATE] = [0, 0x21] as const
/** Versions of zip that a reader needs: 4.5 has the wider fields. */
const [PLAIN, WIDE] = [10, 45] as const
const UTF8_NAMES = 0x800
const SUM_BEHIND = 0x8
const PADDING_FIELD = 0x4246
const WIDE_FIELD = 0x1

interface Placed {
  readonly path: Buffer
  readonly bytes: number
  /** Where its header begins. */
  readonly begins: number
}

const widened = ({ bytes, begins }: Placed): Buffer => {
  const wide = [...(bytes >= MAX_U32 ? [bytes, bytes] : []), ...(begins >= MAX_U32 ? [begins] : [])]
  if (wide.length === 0) return Buffer.alloc(0)
  return little([2, WIDE_FIELD], [2, 8 * wide.length], ...wide.map((value) => [8, value] as const))
}

const versionOf = (wide: Buffer): number => (wide.length > 0 ? WIDE : PLAIN)

const flagsOf = ({ bytes }: Placed): number => UTF8_NAMES | (bytes > 0 ? SUM_BEHIND : 0)

/** Before a record: how it is stored, its name, and padding up to where it may begin. */
const headerOf = (record: Placed): Buffer => {
  const { path, begins } = record
  const wide = widened(record)
  const padded = 4 + ((ALIGNMENT - ((begins + 30 + path.length + wide.length + 4) % ALIGNMENT)) % ALIGNMENT)
  return Buffer.concat([
    little([4, 0x04034b50], [2, versionOf(wide)], [2, flagsOf(record)], [2, STORED], [2, TIME], [2, DATE]),
    little([4, 0], [4, 0], [4, 0], [2, path.length], [2, wide.length + padded]),
    path,
    wide,
    little([2, PADDING_FIELD], [2, padded - 4]),
    Buffer.alloc(padded - 4),
  ])
}

/** Behind a record: its sum and, twice, for it is not compressed, its length. */
const footerOf = (record: Placed, sum: number): Buffer => {
  const width = widened(record).length > 0 ? 8 : 4
  return record.bytes === 0
    ? Buffer.alloc(0)
    : little([4, 0x08074b50], [4, sum], [width, record.bytes], [width, record.bytes])
}

/** Of a record in the list at the end. */
const entryOf = (record: Placed, sum: number): Buffer => {
  const { path, bytes, begins } = record
  const wide = widened(record)
  const length = Math.min(bytes, MAX_U32)
  return Buffer.concat([
    little([4, 0x02014b50], [2, WIDE], [2, versionOf(wide)], [2, flagsOf(record)], [2, STORED], [2, TIME], [2, DATE]),
    little([4, sum], [4, length], [4, length], [2, path.length], [2, wide.length], [2, 0], [2, 0], [2, 0], [4, 0]),
    little([4, Math.min(begins, MAX_U32)]),
    path,
    wide,
  ])
}

/** Where that list is and how long, first in wide fields, then in narrow ones. */
const endOf = (entries: number, begins: number, bytes: number): Buffer =>
  Buffer.concat([
    little([4, 0x06064b50], [8, 44], [2, WIDE], [2, WIDE], [4, 0], [4, 0]),
    little([8, entries], [8, entries], [8, bytes], [8, begins]),
    little([4, 0x07064b50], [4, 0], [8, begins + bytes], [4, 1]),
    little([4, 0x06054b50], [2, 0], [2, 0], [2, Math.min(entries, MAX_U16)], [2, Math.min(entries, MAX_U16)]),
    little([4, Math.min(bytes, MAX_U32)], [4, Math.min(begins, MAX_U32)], [2, 0]),
  ])

/** A record to come. */
interface Stored {
  readonly name: string
  readonly of: string
  readonly bytes: number
  readonly pieces: Iterable<Uint8Array>
}

const short = (name: string, content: string | Buffer): Stored => {
  const bytes = Buffer.from(content)
  return { name, of: name, bytes: bytes.length, pieces: [bytes] }
}

const ID = ".data/serialization_id"

/** As PyTorch makes one, twenty digits for the names and twenty for the sums; by which hash is nobody's concern. */
const idOf = (names: ReadonlyArray<string>, sums: ReadonlyArray<number>): string =>
  [names, sums]
    .map((list) => createHash("sha256").update(list.join("\n")).digest().readBigUInt64LE().toString().padStart(20, "0"))
    .join("")

function* archive(stem: string, records: ReadonlyArray<Stored>): Generator<Piece, undefined> {
  const entries: Array<Buffer> = []
  const sums: Array<number> = []
  let at = 0
  const put = function* ({ name, of, bytes, pieces }: Stored): Generator<Piece> {
    const record: Placed = { path: Buffer.from(`${stem}/${name}`), bytes, begins: at }
    const header = headerOf(record)
    yield { of, bytes: header }
    let sum = 0
    for (const piece of pieces) {
      sum = crc32(piece, sum)
      yield { of, bytes: piece }
    }
    const footer = footerOf(record, sum)
    yield { of, bytes: footer }
    at += header.length + bytes + footer.length
    entries.push(entryOf(record, sum))
    sums.push(sum)
  }
  for (const record of records) yield* put(record)
  const names = records.map(({ name }) => name)
  yield* put(short(ID, idOf(names, sums)))
  const directory = Buffer.concat(entries)
  yield { of: "directory", bytes: directory }
  yield { of: "directory", bytes: endOf(entries.length, at, directory.length) }
}

/** Bytes that are held at once. */
const PIECE = 1 << 20

/** Fills `into` with what lies at `offset`. */
type Read = (offset: number, into: Uint8Array) => void

function* stretch(read: Read, { offset, bytes }: Tensor, buffer: Uint8Array): Generator<Uint8Array> {
  for (let done = 0; done < bytes; done += PIECE) {
    const piece = buffer.subarray(0, Math.min(PIECE, bytes - done))
    read(offset + done, piece)
    yield piece
  }
}

/** A whole file, piece by piece. */
export function* torchFile(stem: string, value: Value, read: Read): Generator<Piece, undefined> {
  const { bytes, storages } = pickle(value)
  const buffer = Buffer.alloc(PIECE)
  yield* archive(stem, [
    short("data.pkl", bytes),
    short(".format_version", "1"),
    short(".storage_alignment", String(ALIGNMENT)),
    short("byteorder", "little"),
    ...Array.from(storages, ([tensor, name], number) => ({
      name: `data/${number}`,
      of: name,
      bytes: tensor.bytes,
      pieces: stretch(read, tensor, buffer),
    })),
    short("version", "3\n"),
  ])
}

const attempt = <A, E extends Error>(run: () => A, failure: (problem: string) => E): Effect.Effect<A, E> =>
  Effect.try({
    try: run,
    catch: (cause) => because(failure(cause instanceof Error ? cause.message : String(cause)), cause),
  })

/** What the file is, while the scope is open: an effect for the next piece, until there is none. */
export const torchPieces = Effect.fn("TorchFile.pieces")(function* ({ weights: path, stem, value }: Making) {
  const unreadable = (problem: string) => new ReleaseInputUnreadable({ path, problem })
  const file = yield* Effect.acquireRelease(
    attempt(() => openSync(path, "r"), unreadable),
    (file) => Effect.sync(() => closeSync(file)),
  )
  const pieces = torchFile(stem, value, (offset, into) => {
    for (let done = 0; done < into.length; ) {
      const read = readSync(file, into, done, into.length - done, offset + done)
      if (read === 0) throw new Error(`it ends at ${offset + done}, within a tensor`)
      done += read
    }
  })
  return attempt(() => pieces.next().value, unreadable)
})

/** Writes a file that is not there yet. It is whole, or where that fails gone again. */
export const writeTorchFile = Effect.fn("TorchFile.write")(function* (making: Making, to: string) {
  const next = yield* torchPieces(making)
  const unwritable = (problem: string) => new ReleaseFileFailed({ path: to, problem })
  const file = yield* Effect.acquireRelease(
    attempt(() => openSync(to, "wx"), unwritable),
    (file, exit) =>
      Effect.sync(() => {
        closeSync(file)
        if (Exit.isFailure(exit)) rmSync(to, { force: true })
      }),
  )
  for (let piece = yield* next; piece !== undefined; piece = yield* next) {
    const { bytes } = piece
    yield* attempt(() => {
      for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done)
    }, unwritable)
    yield* Effect.yieldNow
  }
}, Effect.scoped)
