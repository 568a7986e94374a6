/** All kinds of blocks by name, with the numbers that ggml gives them, and rows of numbers as their bytes and back. */
import type { BlockName } from "../../model/GgufType.ts"
import { type Block, q4_0, q4_1, q5_0, q5_1, q8_0 } from "./Blocks.ts"
import { fromBrains, fromHalves, toBrains, toHalves } from "./Halves.ts"
import { q2_k, q3_k, q4_k, q5_k, q6_k } from "./SuperBlocks.ts"

/** Raised when the same numbers and importance would give other bytes: by it a file is known as one that can be made again here. */
export const ENCODING = 1

export interface BlockType {
  readonly name: BlockName
  /** ggml's number. */
  readonly id: number
  readonly numbers: number
  readonly bytes: number
  /** Rows end to end, `importance` a value a column; `to` begins at a multiple of 4. */
  readonly encode: (rows: Float32Array, columns: number, importance: Float32Array, to: Uint8Array) => void
  readonly decode: (from: Uint8Array, to: Float32Array) => void
}

const blocks = (name: BlockName, id: number, block: Block): BlockType => ({
  name,
  id,
  numbers: block.numbers,
  bytes: block.bytes,
  encode: (rows, columns, importance, to) => {
    const { numbers, bytes, encode } = block
    for (let at = 0, toAt = 0; at < rows.length; at += numbers, toAt += bytes)
      encode(rows, at, importance, at % columns, to, toAt)
  },
  decode: (from, to) => {
    const { numbers, bytes, decode } = block
    for (let at = 0, fromAt = 0; at < to.length; at += numbers, fromAt += bytes) decode(from, fromAt, to, at)
  },
})

const plain = (
  name: BlockName,
  id: number,
  bytes: number,
  write: (from: Float32Array, to: Uint8Array) => void,
  read: (from: Uint8Array, to: Float32Array) => void,
): BlockType => ({
  name,
  id,
  numbers: 1,
  bytes,
  encode: (rows, _columns, _importance, to) => write(rows, to),
  decode: read,
})

const singleBytes = (numbers: Float32Array): Uint8Array =>
  new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength)

export const blockTypes: Readonly<Record<BlockName, BlockType>> = {
  F32: plain(
    "F32",
    0,
    4,
    (from, to) => to.set(singleBytes(from)),
    (from, to) => singleBytes(to).set(from),
  ),
  F16: plain("F16", 1, 2, toHalves, fromHalves),
  BF16: plain("BF16", 30, 2, toBrains, fromBrains),
  Q4_0: blocks("Q4_0", 2, q4_0),
  Q4_1: blocks("Q4_1", 3, q4_1),
  Q5_0: blocks("Q5_0", 6, q5_0),
  Q5_1: blocks("Q5_1", 7, q5_1),
  Q8_0: blocks("Q8_0", 8, q8_0),
  Q2_K: blocks("Q2_K", 10, q2_k),
  Q3_K: blocks("Q3_K", 11, q3_k),
  Q4_K: blocks("Q4_K", 12, q4_k),
  Q5_K: blocks("Q5_K", 13, q5_k),
  Q6_K: blocks("Q6_K", 14, q6_k),
}

export const blockTypeById = (id: number): BlockType | undefined =>
  Object.values(blockTypes).find((type) => type.id === id)

export const bytesOf = ({ numbers, bytes }: BlockType, count: number): number => (count / numbers) * bytes
