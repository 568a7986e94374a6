/**
 * Formats that keep 32 numbers in one block (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md names them); d and m are
 * halves, q of the first 16 numbers lie in the low nibbles, of the last 16 in the high ones.
 *
 * | name | bytes                                    | x                       |
 * |------|------------------------------------------|-------------------------|
 * | Q8_0 | d, 32 signed bytes                       | d·q                     |
 * | Q4_0 | d, 16 bytes of nibbles                   | d·(q − 8)               |
 * | Q4_1 | d, m, 16 bytes of nibbles                | d·q + m                 |
 * | Q5_0 | d, 32 fifth bits, 16 bytes of nibbles    | d·(q − 16)              |
 * | Q5_1 | d, m, 32 fifth bits, 16 bytes of nibbles | d·q + m                 |
 */
import { clamp, fitAffine, fitSymmetric, fitted, nearest } from "./Fit.ts"
import { halfAt, putHalf } from "./Halves.ts"

/** How one block is written and read. `w`: how much each number matters. */
export interface Block {
  /** Numbers in a block, and bytes. */
  readonly numbers: number
  readonly bytes: number
  readonly encode: (x: Float32Array, at: number, w: Float32Array, wAt: number, to: Uint8Array, toAt: number) => void
  readonly decode: (from: Uint8Array, fromAt: number, to: Float32Array, at: number) => void
}

const NUMBERS = 32

export const q8_0: Block = {
  numbers: NUMBERS,
  bytes: 2 + NUMBERS,
  encode: (x, at, _w, _wAt, to, toAt) => {
    // no branch depends on a sign: signs of weights are as random as can be, and a processor guesses half of them wrong
    let largest = 0
    for (let i = at; i < at + NUMBERS; i++) {
      const amount = Math.abs(x[i]!)
      if (amount > largest) largest = amount
    }
    const scale = Math.fround(largest / 127)
    putHalf(to, toAt, scale)
    const inverse = scale === 0 ? 0 : Math.fround(1 / scale)
    for (let i = 0; i < NUMBERS; i++) {
      // halves away from zero, as C rounds: ⌊(⌊2·|v|⌋ + 1) / 2⌋ with the sign put back
      const twice = (2 * Math.fround(x[at + i]! * inverse)) | 0
      const sign = twice >> 31
      to[toAt + 2 + i] = ((((twice ^ sign) - sign + 1) >> 1) ^ sign) - sign
    }
  },
  decode: (from, fromAt, to, at) => {
    const scale = halfAt(from, fromAt)
    for (let i = 0; i < NUMBERS; i++) to[at + i] = scale * ((from[fromAt + 2 + i]! << 24) >> 24)
  },
}

/** The four others: 4 or 5 bits, with an offset of its own or none. */
const nibbles = (bits: 4 | 5, offset: boolean): Block => {
  const levels = 1 << (bits - 1)
  const top = 2 * levels - 1
  const fifthAt = offset ? 4 : 2
  const nibblesAt = fifthAt + (bits === 5 ? 4 : 0)
  const integers = new Uint8Array(NUMBERS)
  return {
    numbers: NUMBERS,
    bytes: nibblesAt + NUMBERS / 2,
    encode: (x, at, w, wAt, to, toAt) => {
      let inverse = 0
      let zero = 0
      if (offset) {
        fitAffine(x, at, NUMBERS, w, wAt, top, false)
        const scale = putHalf(to, toAt, fitted.scale)
        zero = putHalf(to, toAt + 2, fitted.offset)
        inverse = scale === 0 ? 0 : 1 / scale
      } else {
        const scale = putHalf(to, toAt, fitSymmetric(x, at, NUMBERS, w, wAt, levels))
        inverse = scale === 0 ? 0 : 1 / scale
        zero = -levels * scale
      }
      let fifth = 0
      for (let i = 0; i < NUMBERS; i++) {
        const q = clamp(nearest((x[at + i]! - zero) * inverse), 0, top)
        integers[i] = q & 15
        fifth |= (q >>> 4) << i
      }
      if (bits === 5) for (let i = 0; i < 4; i++) to[toAt + fifthAt + i] = (fifth >>> (8 * i)) & 255
      for (let i = 0; i < 16; i++) to[toAt + nibblesAt + i] = integers[i]! | (integers[i + 16]! << 4)
    },
    decode: (from, fromAt, to, at) => {
      const scale = halfAt(from, fromAt)
      const zero = offset ? halfAt(from, fromAt + 2) : 0
      const from0 = offset ? 0 : levels
      let fifth = 0
      if (bits === 5) for (let i = 0; i < 4; i++) fifth |= from[fromAt + fifthAt + i]! << (8 * i)
      for (let i = 0; i < NUMBERS; i++) {
        const byte = from[fromAt + nibblesAt + (i & 15)]!
        const q = (i < 16 ? byte & 15 : byte >>> 4) | (((fifth >>> i) & 1) << 4)
        const value = Math.fround(scale * (q - from0))
        // adding zero would turn −0 into 0, and readers agree to the bit
        to[at + i] = offset ? value + zero : value
      }
    },
  }
}

export const q4_0 = nibbles(4, false)
export const q4_1 = nibbles(4, true)
export const q5_0 = nibbles(5, false)
export const q5_1 = nibbles(5, true)
