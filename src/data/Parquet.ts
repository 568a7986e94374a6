/**
 * Flat columns of a parquet file, read a page of each at a time (https://parquet.apache.org/docs/file-format).
 *
 * A decoder of our own, because files come from anywhere and nothing in one may be believed: libraries take run lengths, counts and
 * offsets at their word, so that one flipped bit makes them fill memory until the process is gone. Here every length is compared
 * with what is there before anything is allocated, and a page is at most `MAX_PAGE` bytes. What a damaged file may cost is a page
 * of each column.
 *
 * Read: top-level columns of strings and whole numbers; pages of both versions; PLAIN, dictionary and delta encodings; no
 * encryption. Memory and time do not depend on the sizes of row groups: pages are decoded once, in order.
 */
import { type FileHandle, open } from "node:fs/promises"
import { promisify } from "node:util"
import { brotliDecompress, gunzip, zstdDecompress } from "node:zlib"

const MAX_METADATA = 32 * 1024 * 1024
export const MAX_PAGE = 128 * 1024 * 1024
const MAX_PAGE_VALUES = 1 << 22
/** Rows, and bytes of values, handed on at once. */
const BATCH_ROWS = 1024
const BATCH_BYTES = 4 * 1024 * 1024

export type ParquetValue = Uint8Array | number | bigint | undefined

/** Reads forward through bytes; each step beyond the end throws. */
class Reader {
  readonly bytes: Buffer
  at: number

  constructor(bytes: Uint8Array, at = 0) {
    this.bytes = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
    this.at = at
  }

  get left(): number {
    return this.bytes.length - this.at
  }
  byte(): number {
    if (this.at >= this.bytes.length) throw new Error("it ends in the middle of a value")
    return this.bytes[this.at++]!
  }
  take(length: number): Buffer {
    if (!(length >= 0 && length <= this.left))
      throw new Error(`a length of ${length} where ${this.left} bytes are left`)
    this.at += length
    return this.bytes.subarray(this.at - length, this.at)
  }
  /** Unsigned LEB128; inexact above 2^53, which no length or count may reach. */
  varint(): number {
    let value = 0
    for (let shift = 0; shift < 70; shift += 7) {
      const byte = this.byte()
      value += (byte & 127) * 2 ** shift
      if (byte < 128) return value
    }
    throw new Error("a number is longer than 64 bits")
  }
  zigzag(): number {
    const value = this.varint()
    return value % 2 === 0 ? value / 2 : -(value + 1) / 2
  }
}

/** Thrift's compact protocol without names: what stands under each field number. */
interface Struct {
  readonly [field: number]: Thrift
}
type Thrift = number | boolean | Buffer | ReadonlyArray<Thrift> | Struct

const struct = (reader: Reader, depth = 0): Struct => {
  if (depth > 16) throw new Error("structures are nested too deeply")
  const fields: Record<number, Thrift> = Object.create(null)
  let field = 0
  for (;;) {
    const head = reader.byte()
    if (head === 0) return fields
    field = head >> 4 === 0 ? reader.zigzag() : field + (head >> 4)
    const type = head & 15
    if (type === 0 || !(field > 0 && field < 1000)) throw new Error(`a field ${field} of type ${type}`)
    fields[field] = type <= 2 ? type === 1 : thrift(reader, type, depth)
  }
}

const thrift = (reader: Reader, type: number, depth: number): Thrift => {
  switch (type) {
    case 1:
    case 2:
      return reader.byte() === 1
    case 3:
      return reader.byte()
    case 4:
    case 5:
    case 6:
      return reader.zigzag()
    case 7:
      return reader.take(8).readDoubleLE()
    case 8:
      return reader.take(reader.varint())
    case 9:
    case 10: {
      const head = reader.byte()
      const size = head >> 4 === 15 ? reader.varint() : head >> 4
      if (size > reader.left) throw new Error(`a list of ${size} where ${reader.left} bytes are left`)
      return Array.from({ length: size }, () => thrift(reader, head & 15, depth + 1))
    }
    case 12:
      return struct(reader, depth + 1)
    default:
      throw new Error(`a field of unknown type ${type}`)
  }
}

const count = (value: Thrift | undefined, what: string): number => {
  if (typeof value === "number" && Number.isSafeInteger(value) && value >= 0) return value
  throw new Error(`${what} is no count`)
}
const listOf = (value: Thrift | undefined, what: string): ReadonlyArray<Struct> => {
  if (Array.isArray(value) && value.every((each) => typeof each === "object" && !Buffer.isBuffer(each)))
    return value as ReadonlyArray<Struct>
  throw new Error(`there is no list of ${what}`)
}
const structOf = (value: Thrift | undefined, what: string): Struct => {
  if (typeof value === "object" && !Array.isArray(value) && !Buffer.isBuffer(value)) return value as Struct
  throw new Error(`there is no ${what}`)
}
const nameOf = (value: Thrift | undefined): string => (Buffer.isBuffer(value) ? value.toString("utf8") : "")

const readAt = async (file: FileHandle, position: number, length: number): Promise<Buffer> => {
  const bytes = Buffer.alloc(length)
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(bytes, done, length - done, position + done)
    if (bytesRead === 0) throw new Error(`it ends at byte ${position + done}`)
    done += bytesRead
  }
  return bytes
}

const types = ["BOOLEAN", "INT32", "INT64", "INT96", "FLOAT", "DOUBLE", "BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"] as const
const INT32 = 1
const INT64 = 2
const BYTE_ARRAY = 6

interface Column {
  readonly name: string
  readonly type: number
  readonly optional: boolean
}

/** Why a column cannot be read as strings or whole numbers, if it cannot. */
const unfit = (element: Struct): string | undefined => {
  if (count(element[5] ?? 0, "a number of children") > 0 || element[3] === 2)
    return "is a nested column, not one of strings"
  const type = element[1]
  return type === INT32 || type === INT64 || type === BYTE_ARRAY
    ? undefined
    : `is a column of ${types[Number(type)] ?? "an unknown type"}, not of strings`
}

interface Metadata {
  readonly columns: ReadonlyMap<string, Column | string>
  readonly groups: ReadonlyArray<{ readonly rows: number; readonly chunks: ReadonlyMap<string, Struct> }>
}

const metadataOf = async (file: FileHandle, size: number): Promise<Metadata> => {
  if (size < 12) throw new Error(`it has ${size} bytes, too few for parquet`)
  const tail = await readAt(file, size - 8, 8)
  const magic = tail.toString("latin1", 4)
  if (magic === "PARE") throw new Error("it is encrypted")
  if (magic !== "PAR1") throw new Error("it does not end as parquet does")
  const length = tail.readUInt32LE(0)
  if (length > size - 12) throw new Error(`its footer would have ${length} bytes, the file has ${size}`)
  if (length > MAX_METADATA) throw new Error(`its footer has ${length} bytes, more than ${MAX_METADATA}`)
  const root = struct(new Reader(await readAt(file, size - 8 - length, length)))
  const [, ...elements] = listOf(root[2], "columns")
  const columns = new Map<string, Column | string>()
  // depth first: the children of a group follow it
  for (let at = 0; at < elements.length; ) {
    const element = elements[at]!
    const name = nameOf(element[4])
    if (columns.has(name)) throw new Error(`column \`${name}\` stands twice`)
    columns.set(name, unfit(element) ?? { name, type: Number(element[1]), optional: element[3] === 1 })
    for (let inside = 1; inside > 0 && at < elements.length; inside--) inside += Number(elements[at++]![5] ?? 0)
  }
  const groups = listOf(root[4], "row groups").map((group) => {
    const chunks = new Map<string, Struct>()
    for (const chunk of listOf(group[1], "column chunks")) {
      if (chunk[1] !== undefined) throw new Error("its columns lie in other files")
      const about = structOf(chunk[3], "column metadata")
      const path = about[3]
      if (Array.isArray(path) && path.length === 1) chunks.set(nameOf(path[0]), about)
    }
    return { rows: count(group[3], "a number of rows"), chunks }
  })
  const rows = groups.reduce((sum, group) => sum + group.rows, 0)
  if (rows !== count(root[3], "the number of rows")) throw new Error(`it says ${root[3]} rows and has ${rows}`)
  return { columns, groups }
}

const codecs = ["UNCOMPRESSED", "SNAPPY", "GZIP", "LZO", "BROTLI", "LZ4", "ZSTD", "LZ4_RAW"] as const
const unpackers = {
  GZIP: promisify(gunzip),
  BROTLI: promisify(brotliDecompress),
  ZSTD: promisify(zstdDecompress),
}

const unpacked = async (bytes: Buffer, codec: number, size: number): Promise<Uint8Array> => {
  const name = codecs[codec] ?? `number ${codec}`
  let page: Uint8Array
  if (name === "UNCOMPRESSED") page = bytes
  else if (name === "GZIP" || name === "BROTLI" || name === "ZSTD")
    page = size === 0 ? Buffer.alloc(0) : await unpackers[name](bytes, { maxOutputLength: size })
  else {
    const { compressors } = await import("hyparquet-compressors")
    const unpack = compressors[name as keyof typeof compressors]
    if (unpack === undefined) throw new Error(`compression ${name} cannot be read`)
    page = unpack(bytes, size)
  }
  if (page.length !== size) throw new Error(`a page has ${page.length} bytes, its header says ${size}`)
  return page
}

/** Runs and bit-packed groups of numbers of `width` bits, `length` of them. */
const hybrid = (reader: Reader, width: number, length: number): Uint32Array => {
  const values = new Uint32Array(length)
  if (width === 0) return values
  if (width > 32) throw new Error(`numbers of ${width} bits`)
  for (let seen = 0; seen < length; ) {
    const head = reader.varint()
    if (head % 2 === 0) {
      const bytes = reader.take((width + 7) >> 3)
      const run = head / 2
      if (run === 0) throw new Error("a run of no values")
      values.fill(bytes.readUIntLE(0, bytes.length), seen, Math.min(seen + run, length))
      seen += run
    } else {
      const here = Math.min(((head - 1) / 2) * 8, length - seen)
      if (here === 0) throw new Error("a group of no values")
      // the last group is padded to eight values, by some writers only on paper
      const bytes = reader.take(Math.min(((head - 1) / 2) * width, reader.left))
      bits(bytes, width, values, seen, here)
      seen += here
    }
  }
  return values
}

/** Unpacks numbers of `width` bits, lowest bit first. */
const bits = (bytes: Buffer, width: number, into: Uint32Array | Float64Array, first: number, length: number) => {
  if (bytes.length * 8 < width * length) throw new Error("packed numbers end too soon")
  let bit = 0
  for (let index = 0; index < length; index++) {
    let value = 0
    for (let got = 0; got < width; ) {
      const offset = bit & 7
      const part = Math.min(8 - offset, width - got)
      value += ((bytes[bit >> 3]! >> offset) & ((1 << part) - 1)) * 2 ** got
      got += part
      bit += part
    }
    into[first + index] = value
  }
}

/** DELTA_BINARY_PACKED; numbers beyond 2^53 are refused. */
const deltas = (reader: Reader, length: number): Float64Array => {
  const block = reader.varint()
  const parts = reader.varint()
  const total = reader.varint()
  const size = block / parts
  if (total !== length) throw new Error(`${total} numbers where ${length} belong`)
  if (!(Number.isInteger(size) && size >= 8 && size % 8 === 0 && block <= 1 << 20))
    throw new Error("blocks of odd size")
  const values = new Float64Array(length)
  let value = reader.zigzag()
  const piece = new Float64Array(size)
  if (length > 0) values[0] = value
  for (let seen = 1; seen < length; ) {
    const smallest = reader.zigzag()
    const widths = reader.take(parts)
    for (let part = 0; part < parts && seen < length; part++) {
      const width = widths[part]!
      if (width > 53) throw new Error(`differences of ${width} bits`)
      const here = Math.min(size, length - seen)
      bits(reader.take(Math.min((size / 8) * width, reader.left)), width, piece, 0, here)
      for (let index = 0; index < here; index++) {
        value += smallest + piece[index]!
        values[seen++] = value
      }
    }
  }
  if (!values.every(Number.isSafeInteger)) throw new Error("numbers out of range")
  return values
}

const plain = (reader: Reader, type: number, length: number): Array<ParquetValue> => {
  const width = type === INT32 ? 4 : type === INT64 ? 8 : 4
  // strings have their length in front, so each value is at least as long as this
  if (length * width > reader.left) throw new Error(`${length} values where ${reader.left} bytes are left`)
  return Array.from({ length }, () =>
    type === INT32
      ? reader.take(4).readInt32LE()
      : type === INT64
        ? reader.take(8).readBigInt64LE()
        : reader.take(reader.take(4).readUInt32LE()),
  )
}

const decoded = (
  reader: Reader,
  encoding: number,
  type: number,
  length: number,
  dictionary: ReadonlyArray<ParquetValue> | undefined,
): Array<ParquetValue> => {
  switch (encoding) {
    case 0:
      return plain(reader, type, length)
    case 2:
    case 8: {
      if (dictionary === undefined) throw new Error("a page needs a dictionary, which is missing")
      if (length === 0) return []
      return Array.from(hybrid(reader, reader.byte(), length), (index) => {
        if (index >= dictionary.length) throw new Error(`entry ${index} of a dictionary of ${dictionary.length}`)
        return dictionary[index]
      })
    }
    case 5:
      if (type !== BYTE_ARRAY) return Array.from(deltas(reader, length))
      break
    case 6:
      if (type === BYTE_ARRAY) return Array.from(deltas(reader, length), (bytes) => reader.take(bytes))
      break
    case 7: {
      if (type !== BYTE_ARRAY) break
      const shared = deltas(reader, length)
      const suffixes = deltas(reader, length)
      let before: Uint8Array = Buffer.alloc(0)
      let size = 0
      return Array.from(suffixes, (bytes, index) => {
        const prefix = shared[index]!
        if (prefix < 0 || prefix > before.length) throw new Error(`a prefix of ${prefix} of ${before.length} bytes`)
        size += prefix + bytes
        if (size > MAX_PAGE) throw new Error(`a page expands to more than ${MAX_PAGE} bytes`)
        before = Buffer.concat([before.subarray(0, prefix), reader.take(bytes)])
        return before
      })
    }
  }
  throw new Error(`encoding ${encoding} of ${types[type]} cannot be read`)
}

/** The values of a column chunk, page by page. */
async function* pagesOf(file: FileHandle, size: number, column: Column, chunk: Struct, rows: number) {
  if (Number(chunk[1]) !== column.type) throw new Error(`\`${column.name}\` changes its type`)
  const codec = count(chunk[4], "a codec")
  const data = count(chunk[9], "an offset")
  // some writers say 0 where there is no dictionary, some do not say where it is
  const start = Math.min(data, count(chunk[11] ?? 0, "an offset") || data)
  const end = start + count(chunk[7], "a length")
  if (start < 4 || end > size)
    throw new Error(`column \`${column.name}\` would lie at bytes ${start} to ${end} of ${size}`)
  let dictionary: ReadonlyArray<ParquetValue> | undefined
  let position = start
  for (let seen = 0; seen < rows; ) {
    if (position >= end) throw new Error(`column \`${column.name}\` has ${seen} values for ${rows} rows`)
    let head: Reader
    let header: Struct
    for (let window = 1 << 12; ; window <<= 6) {
      head = new Reader(await readAt(file, position, Math.min(window, end - position)))
      try {
        header = struct(head)
        break
      } catch (cause) {
        if (window > 1 << 20 || head.bytes.length < window) throw cause
      }
    }
    const packed = count(header[3], "a page size")
    const whole = count(header[2], "a page size")
    if (packed > end - position - head.at) throw new Error(`a page of ${packed} bytes does not fit its column`)
    if (whole > MAX_PAGE) throw new Error(`a page has ${whole} bytes, at most ${MAX_PAGE} are read`)
    const body = await readAt(file, position + head.at, packed)
    position += head.at + packed
    const type = header[1]
    if (type === 2) {
      const about = structOf(header[7], "dictionary header")
      const entries = new Reader(await unpacked(body, codec, whole))
      dictionary = plain(entries, column.type, count(about[1], "a number of values"))
      continue
    }
    if (type !== 0 && type !== 3) continue
    const about = structOf(header[type === 0 ? 5 : 8], "page header")
    const length = count(about[1], "a number of values")
    if (length > rows - seen) throw new Error(`column \`${column.name}\` has more than ${rows} values`)
    if (length > MAX_PAGE_VALUES) throw new Error(`a page has ${length} values, at most ${MAX_PAGE_VALUES} are read`)
    let reader: Reader
    let present: Uint32Array | undefined
    if (type === 0) {
      reader = new Reader(await unpacked(body, codec, whole))
      if (column.optional) {
        if (about[3] !== undefined && about[3] !== 3) throw new Error(`levels in encoding ${about[3]} cannot be read`)
        present = hybrid(new Reader(reader.take(reader.take(4).readUInt32LE())), 1, length)
      }
    } else {
      // the levels of a page of version 2 are not compressed
      const levels = count(about[5], "a length")
      if (count(about[6], "a length") !== 0) throw new Error("a flat column has repeated values")
      if (levels > body.length || levels > whole) throw new Error("levels are longer than their page")
      if (column.optional) present = hybrid(new Reader(body.subarray(0, levels)), 1, length)
      const rest = body.subarray(levels)
      reader = new Reader(await unpacked(rest, about[7] === false ? 0 : codec, whole - levels))
    }
    const encoding = count(about[type === 0 ? 2 : 4], "an encoding")
    const there = present === undefined ? length : present.reduce((sum, one) => sum + one, 0)
    const values = decoded(reader, encoding, column.type, there, dictionary)
    let next = 0
    yield present === undefined ? values : Array.from(present, (one) => (one === 1 ? values[next++] : undefined))
    seen += length
  }
}

export interface ParquetRows {
  /** Why a column that was asked for cannot be read, by name; a column that is not there is in neither. */
  readonly unfit: ReadonlyMap<string, string>
  readonly names: ReadonlySet<string>
  /** By column, the same number of values each. */
  readonly batches: () => AsyncGenerator<ReadonlyMap<string, ReadonlyArray<ParquetValue>>>
}

const sizeOf = (value: ParquetValue): number => (value instanceof Uint8Array ? value.length : 8)

/** Opens a file for those of `wanted` that it has. Throws an Error that says what is wrong with it. */
export const openParquet = async (
  path: string,
  wanted: ReadonlyArray<string>,
): Promise<ParquetRows & AsyncDisposable> => {
  const file = await open(path, "r")
  try {
    const { size } = await file.stat()
    const { columns, groups } = await metadataOf(file, size)
    const found = wanted.flatMap((name) => columns.get(name) ?? [])
    const fit = found.filter((column) => typeof column !== "string")
    async function* batches() {
      for (const { rows, chunks } of groups) {
        const cursors = fit.map((column) => {
          const chunk = chunks.get(column.name)
          if (chunk === undefined) throw new Error(`a row group lacks the column \`${column.name}\``)
          return { ...column, pages: pagesOf(file, size, column, chunk, rows), page: [] as Array<ParquetValue>, at: 0 }
        })
        for (let row = 0; row < rows; ) {
          let here = Math.min(BATCH_ROWS, rows - row)
          for (const cursor of cursors) {
            while (cursor.at === cursor.page.length) {
              const { value, done } = await cursor.pages.next()
              if (done) throw new Error(`column \`${cursor.name}\` ends too soon`)
              cursor.page = value
              cursor.at = 0
            }
            here = Math.min(here, cursor.page.length - cursor.at)
          }
          // one page of a dictionary can spell far more than a page of text
          let bytes = 0
          for (let index = 0; index < here; index++) {
            for (const { page, at } of cursors) bytes += sizeOf(page[at + index])
            if (bytes > BATCH_BYTES) here = index + 1
          }
          if (cursors.length === 0) return
          yield new Map(
            cursors.map((cursor) => {
              const from = cursor.at
              cursor.at += here
              return [cursor.name, cursor.page.slice(from, cursor.at)] as const
            }),
          )
          row += here
        }
      }
    }
    return {
      names: new Set(columns.keys()),
      unfit: new Map(
        wanted.flatMap((name) => {
          const column = columns.get(name)
          return typeof column === "string" ? [[name, column] as const] : []
        }),
      ),
      batches,
      [Symbol.asyncDispose]: () => file.close(),
    }
  } catch (cause) {
    await file.close()
    throw cause
  }
}
