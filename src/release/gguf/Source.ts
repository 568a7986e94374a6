/**
 * Matrices as they lie in a safetensors file, handed out a few rows at a time: a file of any size costs the memory of one piece.
 * F32, F16 and BF16 are read; what comes out is always single precision, which holds all three exactly.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs"
import type { Streamed } from "../../engine/Safetensors.ts"
import { fromBrains, fromHalves } from "./Halves.ts"

/** How the rows of a tensor in the file become rows of the matrix handed out. */
export type Layout =
  | { readonly _tag: "Rows" }
  /** GPT-2's `Conv1D`: the file has [columns, rows]. */
  | { readonly _tag: "Transposed" }
  /**
   * Queries and keys of LLaMA: llama.cpp turns neighbouring pairs of a head's rows, transformers rows half a head apart, so row
   * 2·j + k of a head is the file's row k·half + j.
   */
  | { readonly _tag: "Paired"; readonly heads: number }

export interface Matrix {
  readonly name: string
  /** [rows, columns], or [length] for a vector. */
  readonly shape: ReadonlyArray<number>
  /** Fills `to` with rows `first` … `first` + `to.length / columns`. */
  readonly read: (first: number, to: Float32Array) => void
}

interface Entry {
  readonly dtype: "F32" | "F16" | "BF16"
  readonly shape: ReadonlyArray<number>
  /** In the file. */
  readonly offset: number
}

const WIDTHS = { F32: 4, F16: 2, BF16: 2 } as const
const MAX_HEADER_BYTES = 100_000_000
/** Rows of a transposed tensor that are read before they are turned. */
const TURNED = 32

const isNatural = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0

const parse = (
  json: string,
  dataStart: number,
  fileBytes: number,
  ignored: RegExp | undefined,
): ReadonlyMap<string, Entry> => {
  const parsed: unknown = JSON.parse(json)
  if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) throw new Error("the header is no object")
  const found = new Map<string, Entry>()
  const ranges: Array<readonly [from: number, to: number, name: string]> = []
  for (const [name, value] of Object.entries(parsed)) {
    if (name === "__metadata__") continue
    const { dtype, shape, data_offsets: offsets } = value as Record<string, unknown>
    if (!Array.isArray(shape) || !shape.every(isNatural) || !Array.isArray(offsets) || !offsets.every(isNatural))
      throw new Error(`\`${name}\` has no shape or no offsets`)
    const [from, to] = offsets as [number, number]
    if (ignored?.test(name)) {
      ranges.push([dataStart + from, dataStart + to, name])
      continue
    }
    if (dtype !== "F32" && dtype !== "F16" && dtype !== "BF16")
      throw new Error(`\`${name}\` is ${String(dtype)}; F32, F16 and BF16 are read`)
    const bytes = shape.reduce((a, b) => a * b, 1) * WIDTHS[dtype]
    if (to - from !== bytes) throw new Error(`\`${name}\` has ${to - from} bytes, its shape needs ${bytes}`)
    found.set(name, { dtype, shape, offset: dataStart + from })
    ranges.push([dataStart + from, dataStart + to, name])
  }
  let end = dataStart
  for (const [from, to, name] of ranges.toSorted((a, b) => a[0] - b[0] || a[1] - b[1])) {
    if (from !== end) throw new Error(`\`${name}\` does not begin where the tensor before it ends`)
    end = to
  }
  if (end !== fileBytes) throw new Error(`the header promises ${end} bytes, the file has ${fileBytes}`)
  return found
}

/** Throws an Error that says what is wrong with the file. */
export class Weights {
  readonly #file: number
  readonly tensors: ReadonlyMap<string, Entry>
  #bytes = new Uint8Array(0)
  #numbers = new Float32Array(0)

  /** `ignored`: tensors that are taken for absent, of whatever type. */
  constructor(path: string, ignored?: RegExp) {
    this.#file = openSync(path, "r")
    try {
      const { size } = fstatSync(this.#file)
      const prefix = Buffer.alloc(8)
      if (size < 8) throw new Error(`the file has ${size} bytes, not even the length of a header`)
      this.#exactly(prefix, 0)
      const length = prefix.readBigUInt64LE(0)
      if (length > BigInt(Math.min(size - 8, MAX_HEADER_BYTES)))
        throw new Error(`the header would have ${length} bytes`)
      const header = Buffer.alloc(Number(length))
      this.#exactly(header, 8)
      this.tensors = parse(header.toString("utf8"), 8 + header.length, size, ignored)
    } catch (error) {
      this.close()
      throw error
    }
  }

  close(): void {
    closeSync(this.#file)
  }

  /** A tensor under a new name, in the layout asked for. */
  matrix(from: string, name: string, layout: Layout): Matrix {
    const entry = this.tensors.get(from)
    if (entry === undefined) throw new Error(`tensor \`${from}\` is missing`)
    const { shape } = entry
    if (layout._tag === "Transposed") {
      if (shape.length !== 2) throw new Error(`tensor \`${from}\` is no matrix`)
      const [columns, rows] = shape as [number, number]
      return { name, shape: [rows, columns], read: (first, to) => this.#turned(entry, rows, columns, first, to) }
    }
    const columns = shape.length > 1 ? shape.at(-1)! : 1
    if (layout._tag === "Rows") return { name, shape, read: (first, to) => this.#numbersAt(entry, first * columns, to) }
    const size = shape[0]! / layout.heads
    if (size % 2 !== 0) throw new Error(`the ${shape[0]} rows of \`${from}\` are not ${layout.heads} heads of pairs`)
    return {
      name,
      shape,
      read: (first, to) => {
        for (let r = 0; r < to.length / columns; r++) {
          const row = first + r
          const within = row % size
          const source = row - within + (within % 2) * (size / 2) + (within >> 1)
          this.#numbersAt(entry, source * columns, to.subarray(r * columns, (r + 1) * columns))
        }
      },
    }
  }

  /** A tensor as it lies there, under a new name, for whoever writes it as safetensors. */
  streamed(from: string, name: string): Streamed {
    const { shape, read } = this.matrix(from, name, { _tag: "Rows" })
    const columns = shape.length > 1 ? shape.at(-1)! : 1
    return { name, shape, fill: (first, to) => read(first / columns, to) }
  }

  #turned(entry: Entry, rows: number, columns: number, first: number, to: Float32Array): void {
    const count = to.length / columns
    if (this.#numbers.length < TURNED * count) this.#numbers = new Float32Array(TURNED * count)
    const band = this.#numbers
    for (let column = 0; column < columns; column += TURNED) {
      const some = Math.min(TURNED, columns - column)
      for (let t = 0; t < some; t++)
        this.#numbersAt(entry, (column + t) * rows + first, band.subarray(t * count, (t + 1) * count))
      for (let r = 0; r < count; r++)
        for (let t = 0, at = r * columns + column; t < some; t++) to[at + t] = band[t * count + r]!
    }
  }

  #numbersAt({ dtype, offset }: Entry, first: number, to: Float32Array): void {
    if (dtype === "F32") {
      this.#exactly(new Uint8Array(to.buffer, to.byteOffset, to.byteLength), offset + 4 * first)
      return
    }
    if (this.#bytes.length < 2 * to.length) this.#bytes = new Uint8Array(2 * to.length)
    const bytes = this.#bytes.subarray(0, 2 * to.length)
    this.#exactly(bytes, offset + 2 * first)
    if (dtype === "F16") fromHalves(bytes, to)
    else fromBrains(bytes, to)
  }

  #exactly(target: Uint8Array, position: number): void {
    for (let done = 0; done < target.length; ) {
      const read = readSync(this.#file, target, done, target.length - done, position + done)
      if (read === 0) throw new Error(`the file ends at byte ${position + done}`)
      done += read
    }
  }
}
