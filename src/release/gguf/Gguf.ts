/**
 * The GGUF container, version 3, little-endian
 * (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md):
 *
 * | bytes      | what                                                                                             |
 * |------------|--------------------------------------------------------------------------------------------------|
 * | 4, 4       | `GGUF`, version 3 as uint32                                                                      |
 * | 8, 8       | number of tensors, number of metadata entries, as uint64                                         |
 * | …          | entries: key, type of value as uint32, value. A string is its length as uint64 and UTF-8; an array is the type of its items as uint32, their number as uint64, and they |
 * | …          | tensors: name, number of dimensions as uint32, dimensions as uint64 (the row's length first), block type as uint32, offset in the data as uint64 |
 * | to 32      | zeros                                                                                            |
 * | the rest   | the tensors in that order, each followed by zeros up to a multiple of 32                         |
 *
 * A file that is read is believed in nothing: every length is checked against the bytes that are there.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { because } from "../../model/Because.ts"

export class GgufFailed extends Schema.TaggedError<GgufFailed>()("GgufFailed", {
  path: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `${this.path}: ${this.problem}\n  hint: ${this.hint}`
  }
}

/** What throws, as a failure of a file that says what to do. */
export const attempt = <A>(path: string, hint: string, run: () => A): Effect.Effect<A, GgufFailed> =>
  Effect.try({
    try: run,
    catch: (error) =>
      because(new GgufFailed({ path, problem: error instanceof Error ? error.message : String(error), hint }), error),
  })
/** Where a file could not be written. */
export const NO_ROOM = "look at free space and permissions of the folder, then run again"

export const ALIGNMENT = 32
const VERSION = 3

/** Numbers of the format for kinds of values. */
const kinds = { u32: 4, i32: 5, f32: 6, bool: 7, string: 8, array: 9, u64: 10 } as const
/** Bytes of a value of fixed size, by the number of its kind: what files of others may hold too. */
const widths: Readonly<Record<number, number>> = { 0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8 }

export type Value =
  | { readonly kind: "u32" | "i32" | "f32" | "u64"; readonly value: number }
  | { readonly kind: "bool"; readonly value: boolean }
  | { readonly kind: "string"; readonly value: string }
  | { readonly kind: "strings"; readonly value: ReadonlyArray<string> }
  | { readonly kind: "i32s"; readonly value: ReadonlyArray<number> }

/** Entries in the order they are written. */
export type Metadata = ReadonlyArray<readonly [key: string, value: Value]>

export const u32 = (value: number): Value => ({ kind: "u32", value })
export const i32 = (value: number): Value => ({ kind: "i32", value })
export const f32 = (value: number): Value => ({ kind: "f32", value })
export const u64 = (value: number): Value => ({ kind: "u64", value })
export const bool = (value: boolean): Value => ({ kind: "bool", value })
export const text = (value: string): Value => ({ kind: "string", value })
export const texts = (value: ReadonlyArray<string>): Value => ({ kind: "strings", value })
export const i32s = (value: ReadonlyArray<number>): Value => ({ kind: "i32s", value })

/** A tensor's place in the file. */
export interface TensorInfo {
  readonly name: string
  /** As models have it: [rows, columns], or [length]. */
  readonly shape: ReadonlyArray<number>
  /** Number of the block type. */
  readonly type: number
  /** In the data. */
  readonly offset: number
}

export const aligned = (bytes: number): number => Math.ceil(bytes / ALIGNMENT) * ALIGNMENT

class Bytes {
  #buffer = Buffer.alloc(1 << 16)
  #length = 0
  reserve(more: number): number {
    const at = this.#length
    this.#length += more
    if (this.#length > this.#buffer.length) {
      const larger = Buffer.alloc(Math.max(this.#length, 2 * this.#buffer.length))
      this.#buffer.copy(larger)
      this.#buffer = larger
    }
    return at
  }
  u32(value: number): void {
    const at = this.reserve(4)
    this.#buffer.writeUInt32LE(value, at)
  }
  i32(value: number): void {
    const at = this.reserve(4)
    this.#buffer.writeInt32LE(value, at)
  }
  f32(value: number): void {
    const at = this.reserve(4)
    this.#buffer.writeFloatLE(value, at)
  }
  u64(value: number): void {
    const at = this.reserve(8)
    this.#buffer.writeBigUInt64LE(BigInt(value), at)
  }
  byte(value: number): void {
    const at = this.reserve(1)
    this.#buffer[at] = value
  }
  string(value: string): void {
    const bytes = Buffer.byteLength(value)
    this.u64(bytes)
    const at = this.reserve(bytes)
    this.#buffer.write(value, at)
  }
  finish(): Uint8Array {
    this.reserve(aligned(this.#length) - this.#length)
    return this.#buffer.subarray(0, this.#length)
  }
}

const put = (bytes: Bytes, entry: Value): void => {
  switch (entry.kind) {
    case "strings":
      bytes.u32(kinds.array)
      bytes.u32(kinds.string)
      bytes.u64(entry.value.length)
      for (const item of entry.value) bytes.string(item)
      return
    case "i32s":
      bytes.u32(kinds.array)
      bytes.u32(kinds.i32)
      bytes.u64(entry.value.length)
      for (const item of entry.value) bytes.i32(item)
      return
    case "string":
      bytes.u32(kinds.string)
      bytes.string(entry.value)
      return
    case "bool":
      bytes.u32(kinds.bool)
      bytes.byte(entry.value ? 1 : 0)
      return
    default:
      bytes.u32(kinds[entry.kind])
      bytes[entry.kind](entry.value)
  }
}

/** Everything before the data, padding included. */
export const encodeHeader = (metadata: Metadata, tensors: ReadonlyArray<TensorInfo>): Uint8Array => {
  const bytes = new Bytes()
  for (const letter of Buffer.from("GGUF")) bytes.byte(letter)
  bytes.u32(VERSION)
  bytes.u64(tensors.length)
  bytes.u64(metadata.length)
  for (const [key, value] of metadata) {
    bytes.string(key)
    put(bytes, value)
  }
  for (const { name, shape, type, offset } of tensors) {
    bytes.string(name)
    bytes.u32(shape.length)
    for (const size of shape.toReversed()) bytes.u64(size)
    bytes.u32(type)
    bytes.u64(offset)
  }
  return bytes.finish()
}

export type Plain = number | boolean | string | ReadonlyArray<number | boolean | string>

export interface Header {
  readonly metadata: ReadonlyMap<string, Plain>
  readonly tensors: ReadonlyArray<TensorInfo>
  /** Where the data begins in the file. */
  readonly dataStart: number
}

/** Larger than any vocabulary with its merges needs. */
export const MAX_HEADER_BYTES = 1 << 28

/** `undefined` when the header goes on beyond `bytes`; throws an Error that says what is wrong with it. */
export const decodeHeader = (bytes: Buffer): Header | undefined => {
  let at = 0
  class Short extends Error {}
  const take = (length: number): number => {
    if (length > bytes.length - at) throw new Short()
    at += length
    return at - length
  }
  const number32 = (): number => bytes.readUInt32LE(take(4))
  const count = (): number => {
    const value = bytes.readBigUInt64LE(take(8))
    if (value > BigInt(Number.MAX_SAFE_INTEGER)) throw new Error(`a length of ${value}`)
    return Number(value)
  }
  const string = (): string => {
    const length = count()
    if (length > MAX_HEADER_BYTES) throw new Error(`a string of ${length} bytes`)
    const from = take(length)
    return bytes.toString("utf8", from, from + length)
  }
  const scalar = (kind: number): number | boolean | string => {
    if (kind === kinds.string) return string()
    const width = widths[kind]
    if (width === undefined) throw new Error(`a value of kind ${kind}, which version ${VERSION} does not have`)
    const from = take(width)
    if (kind === kinds.bool) return bytes[from] !== 0
    if (kind === kinds.f32) return bytes.readFloatLE(from)
    if (kind === 12) return bytes.readDoubleLE(from)
    if (width === 8) return Number(kind === 10 ? bytes.readBigUInt64LE(from) : bytes.readBigInt64LE(from))
    return kind % 2 === 0 ? bytes.readUIntLE(from, width) : bytes.readIntLE(from, width)
  }
  try {
    if (bytes.toString("latin1", take(4), 4) !== "GGUF") throw new Error("it does not begin with `GGUF`")
    const version = number32()
    if (version !== VERSION) throw new Error(`it is version ${version}, not ${VERSION}`)
    const tensorCount = count()
    const entryCount = count()
    const metadata = new Map<string, Plain>()
    for (let i = 0; i < entryCount; i++) {
      const key = string()
      const kind = number32()
      if (metadata.has(key)) throw new Error(`\`${key.slice(0, 80)}\` stands twice`)
      if (kind !== kinds.array) {
        metadata.set(key, scalar(kind))
        continue
      }
      const itemKind = number32()
      const items: Array<number | boolean | string> = []
      for (let left = count(); left > 0; left--) items.push(scalar(itemKind))
      metadata.set(key, items)
    }
    const tensors: Array<TensorInfo> = []
    for (let i = 0; i < tensorCount; i++) {
      const name = string()
      const dimensions = number32()
      if (dimensions > 4) throw new Error(`\`${name.slice(0, 80)}\` has ${dimensions} dimensions`)
      const shape = Array.from({ length: dimensions }, count).reverse()
      tensors.push({ name, shape, type: number32(), offset: count() })
    }
    const alignment = metadata.get("general.alignment") ?? ALIGNMENT
    if (typeof alignment !== "number" || alignment < 8 || alignment % 8 !== 0)
      throw new Error(`an alignment of ${alignment}`)
    return { metadata, tensors, dataStart: Math.ceil(at / alignment) * alignment }
  } catch (error) {
    if (error instanceof Short) return undefined
    throw error
  }
}
