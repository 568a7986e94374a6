/**
 * K-quants: 256 numbers in a super-block of 8 or 16 groups. A group has a scale, in some formats an offset too, and these are small
 * integers themselves, multiples of d and of dmin, which are halves of the whole super-block:
 *
 * | name | groups  | levels q   | x                        | bytes of a super-block, in order                             |
 * |------|---------|------------|--------------------------|--------------------------------------------------------------|
 * | Q2_K | 16 × 16 | 0 … 3      | (d·s)·q − dmin·o         | 16 of o\|s (4 bits each), 64 of q, d, dmin                   |
 * | Q3_K | 16 × 16 | −4 … 3     | (d·s)·q, s = −32 … 31    | 32 of third bits, 64 of low bits, 12 of scales, d            |
 * | Q4_K | 8 × 32  | 0 … 15     | (d·s)·q − dmin·o         | d, dmin, 12 of scales and offsets (6 bits each), 128 of q    |
 * | Q5_K | 8 × 32  | 0 … 31     | (d·s)·q − dmin·o         | d, dmin, 12 of the same, 32 of fifth bits, 128 of low bits   |
 * | Q6_K | 16 × 16 | −32 … 31   | (d·s)·q, s = −128 … 127  | 128 of low bits, 64 of high bits, 16 of scales, d            |
 *
 * Two bits of a number lie in byte l of its half-block of 128 at place 2·k, where the number is 32·k + l; nibbles, bits and pairs of
 * the other formats follow the same order of 32 (see each `pack`).
 *
 * How they are found: every group's best scale and offset alone (`Fit.ts`); d and dmin so that the largest fits; then, group by
 * group, the integers next to the rounded ones are tried too; then d and dmin by regression over all 256 numbers. The last two are
 * repeated while the error falls.
 */
import type { Block } from "./Blocks.ts"
import { clamp, fitAffine, fitSymmetric, fitted, nearest } from "./Fit.ts"
import { halfAt, halfBits, halfValue, putHalf } from "./Halves.ts"

const NUMBERS = 256
const ROUNDS = 3

interface Format {
  readonly groups: 8 | 16
  /** Levels are [0, 2^bits − 1] with an offset, else [−2^(bits−1), 2^(bits−1) − 1]. */
  readonly bits: number
  readonly offsets: boolean
  /** Scales are [0, scales] with an offset, else [−scales − 1, scales]. */
  readonly scales: number
  readonly bytes: number
  readonly dAt: number
  /** Where dmin is; −1 without offsets. */
  readonly minimumAt: number
  /** Levels above the lowest one, as bits; scales and offsets as integers. */
  readonly pack: (to: Uint8Array, at: number, q: Uint8Array, scales: Int16Array, offsets: Int16Array) => void
  readonly unpack: (from: Uint8Array, at: number, q: Uint8Array, scales: Int16Array, offsets: Int16Array) => void
}

const superBlock = (format: Format): Block => {
  const { groups, bits, offsets: hasOffsets, scales: top, dAt, minimumAt } = format
  const size = NUMBERS / groups
  const lowest = hasOffsets ? 0 : -(1 << (bits - 1))
  const highest = lowest + (1 << bits) - 1
  const lowestScale = hasOffsets ? 0 : -top - 1
  const q = new Uint8Array(NUMBERS)
  const bestScales = new Float64Array(groups)
  const bestOffsets = new Float64Array(groups)
  const scales = new Int16Array(groups)
  const offsets = new Int16Array(groups)
  const kept = { scales: new Int16Array(groups), offsets: new Int16Array(groups) }

  /** Σ w·(x − x̂)² of a group with this scale and offset. */
  const groupError = (
    x: Float32Array,
    at: number,
    w: Float32Array,
    wAt: number,
    scale: number,
    offset: number,
  ): number => {
    const inverse = scale === 0 ? 0 : 1 / scale
    let error = 0
    for (let i = 0; i < size; i++) {
      const level = clamp(nearest((x[at + i]! + offset) * inverse), lowest, highest)
      const difference = x[at + i]! + offset - scale * level
      error += w[wAt + i]! * difference * difference
    }
    return error
  }

  /** The integers of every group for this d and dmin, and the error they leave. */
  const chooseIntegers = (
    x: Float32Array,
    at: number,
    w: Float32Array,
    wAt: number,
    d: number,
    minimum: number,
    first: boolean,
  ): number => {
    let total = 0
    for (let g = 0; g < groups; g++) {
      const s = first ? clamp(d === 0 ? 0 : nearest(bestScales[g]! / d), lowestScale, top) : scales[g]!
      const o = first ? clamp(minimum === 0 ? 0 : nearest(bestOffsets[g]! / minimum), 0, top) : offsets[g]!
      let least = Number.POSITIVE_INFINITY
      for (let s1 = Math.max(lowestScale, s - 1); s1 <= Math.min(top, s + 1); s1++)
        for (let o1 = hasOffsets ? Math.max(0, o - 1) : 0; o1 <= (hasOffsets ? Math.min(top, o + 1) : 0); o1++) {
          const error = groupError(x, at + g * size, w, wAt + g * size, d * s1, minimum * o1)
          if (error < least) {
            least = error
            scales[g] = s1
            offsets[g] = o1
          }
        }
      total += least
    }
    return total
  }

  /** d and dmin that fit all numbers best, given the integers. */
  const regress = (x: Float32Array, at: number, w: Float32Array, wAt: number, d: number, minimum: number) => {
    let aa = 0
    let ab = 0
    let bb = 0
    let ax = 0
    let bx = 0
    for (let g = 0; g < groups; g++) {
      const scale = d * scales[g]!
      const offset = minimum * offsets[g]!
      const inverse = scale === 0 ? 0 : 1 / scale
      for (let i = g * size; i < (g + 1) * size; i++) {
        const value = x[at + i]!
        const weight = w[wAt + i]!
        const a = scales[g]! * clamp(nearest((value + offset) * inverse), lowest, highest)
        const b = -offsets[g]!
        aa += weight * a * a
        ab += weight * a * b
        bb += weight * b * b
        ax += weight * a * value
        bx += weight * b * value
      }
    }
    const determinant = aa * bb - ab * ab
    if (determinant > 1e-12 * aa * bb)
      return [(ax * bb - bx * ab) / determinant, (bx * aa - ax * ab) / determinant] as const
    return [aa > 0 ? (ax - minimum * ab) / aa : d, minimum] as const
  }

  const half = (value: number): number => halfValue(halfBits(value))

  return {
    numbers: NUMBERS,
    bytes: format.bytes,
    encode: (x, at, w, wAt, to, toAt) => {
      let extreme = 0
      let largestOffset = 0
      for (let g = 0; g < groups; g++) {
        if (hasOffsets) {
          fitAffine(x, at + g * size, size, w, wAt + g * size, highest, true)
          bestScales[g] = fitted.scale
          bestOffsets[g] = -fitted.offset
          largestOffset = Math.max(largestOffset, -fitted.offset)
        } else bestScales[g] = fitSymmetric(x, at + g * size, size, w, wAt + g * size, -lowest)
        if (Math.abs(bestScales[g]!) > Math.abs(extreme)) extreme = bestScales[g]!
      }
      let d = half(hasOffsets ? extreme / top : extreme / lowestScale)
      let minimum = half(largestOffset / top)
      let least = chooseIntegers(x, at, w, wAt, d, minimum, true)
      for (let round = 0; round < ROUNDS; round++) {
        kept.scales.set(scales)
        kept.offsets.set(offsets)
        const [d1, minimum1] = regress(x, at, w, wAt, d, minimum).map(half) as [number, number]
        const error = minimum1 < 0 ? Number.POSITIVE_INFINITY : chooseIntegers(x, at, w, wAt, d1, minimum1, false)
        if (!(error < least)) {
          scales.set(kept.scales)
          offsets.set(kept.offsets)
          break
        }
        least = error
        d = d1
        minimum = minimum1
      }
      for (let g = 0; g < groups; g++) {
        const scale = d * scales[g]!
        const offset = minimum * offsets[g]!
        const inverse = scale === 0 ? 0 : 1 / scale
        for (let i = g * size; i < (g + 1) * size; i++)
          q[i] = clamp(nearest((x[at + i]! + offset) * inverse), lowest, highest) - lowest
      }
      to.fill(0, toAt, toAt + format.bytes)
      putHalf(to, toAt + dAt, d)
      if (hasOffsets) putHalf(to, toAt + minimumAt, minimum)
      format.pack(to, toAt, q, scales, offsets)
    },
    decode: (from, fromAt, to, at) => {
      const d = halfAt(from, fromAt + dAt)
      const minimum = hasOffsets ? halfAt(from, fromAt + minimumAt) : 0
      offsets.fill(0)
      q.fill(0)
      format.unpack(from, fromAt, q, scales, offsets)
      for (let g = 0; g < groups; g++) {
        const scale = Math.fround(d * scales[g]!)
        const offset = Math.fround(minimum * offsets[g]!)
        for (let i = g * size; i < (g + 1) * size; i++) to[at + i] = Math.fround(scale * (q[i]! + lowest)) - offset
      }
    },
  }
}

/** Two bits of each number: 64 bytes. */
const packPairs = (to: Uint8Array, at: number, q: Uint8Array): void => {
  for (let i = 0; i < NUMBERS; i++) to[at + 32 * (i >> 7) + (i & 31)]! |= (q[i]! & 3) << (2 * ((i >> 5) & 3))
}
const pairOf = (from: Uint8Array, at: number, i: number): number =>
  (from[at + 32 * (i >> 7) + (i & 31)]! >> (2 * ((i >> 5) & 3))) & 3

/** One bit of each number: 32 bytes, the bit of number 32·k + l at place k of byte l. */
const packBit = (to: Uint8Array, at: number, q: Uint8Array, bit: number): void => {
  for (let i = 0; i < NUMBERS; i++) to[at + (i & 31)]! |= ((q[i]! >> bit) & 1) << (i >> 5)
}
const bitOf = (from: Uint8Array, at: number, i: number): number => (from[at + (i & 31)]! >> (i >> 5)) & 1

/** Four bits of each number, 64 numbers to 32 bytes: the first 32 low, the others high. */
const packNibbles = (to: Uint8Array, at: number, q: Uint8Array): void => {
  for (let i = 0; i < NUMBERS; i++) to[at + 32 * (i >> 6) + (i & 31)]! |= (q[i]! & 15) << (4 * ((i >> 5) & 1))
}
const nibbleOf = (from: Uint8Array, at: number, i: number): number =>
  (from[at + 32 * (i >> 6) + (i & 31)]! >> (4 * ((i >> 5) & 1))) & 15

/** Eight scales and eight offsets of 6 bits each in 12 bytes; the upper two bits of the last four ride on the first eight bytes. */
const packSixes = (to: Uint8Array, at: number, scales: Int16Array, offsets: Int16Array): void => {
  for (let g = 0; g < 4; g++) {
    to[at + g] = scales[g]! | ((scales[g + 4]! >> 4) << 6)
    to[at + 4 + g] = offsets[g]! | ((offsets[g + 4]! >> 4) << 6)
    to[at + 8 + g] = (scales[g + 4]! & 15) | ((offsets[g + 4]! & 15) << 4)
  }
}
const unpackSixes = (from: Uint8Array, at: number, scales: Int16Array, offsets: Int16Array): void => {
  for (let g = 0; g < 4; g++) {
    scales[g] = from[at + g]! & 63
    offsets[g] = from[at + 4 + g]! & 63
    scales[g + 4] = (from[at + 8 + g]! & 15) | ((from[at + g]! >> 6) << 4)
    offsets[g + 4] = (from[at + 8 + g]! >> 4) | ((from[at + 4 + g]! >> 6) << 4)
  }
}

export const q2_k = superBlock({
  groups: 16,
  bits: 2,
  offsets: true,
  scales: 15,
  bytes: 84,
  dAt: 80,
  minimumAt: 82,
  pack: (to, at, q, scales, offsets) => {
    for (let g = 0; g < 16; g++) to[at + g] = scales[g]! | (offsets[g]! << 4)
    packPairs(to, at + 16, q)
  },
  unpack: (from, at, q, scales, offsets) => {
    for (let g = 0; g < 16; g++) {
      scales[g] = from[at + g]! & 15
      offsets[g] = from[at + g]! >> 4
    }
    for (let i = 0; i < NUMBERS; i++) q[i] = pairOf(from, at + 16, i)
  },
})

export const q3_k = superBlock({
  groups: 16,
  bits: 3,
  offsets: false,
  scales: 31,
  bytes: 110,
  dAt: 108,
  minimumAt: -1,
  pack: (to, at, q, scales) => {
    packBit(to, at, q, 2)
    packPairs(to, at + 32, q)
    // 6 bits: the low four in bytes 0 to 7, group g beside g + 8; the upper two in bytes 8 to 11
    for (let g = 0; g < 16; g++) {
      const scale = scales[g]! + 32
      to[at + 96 + (g & 7)]! |= (scale & 15) << (g < 8 ? 0 : 4)
      to[at + 104 + (g & 3)]! |= (scale >> 4) << (2 * (g >> 2))
    }
  },
  unpack: (from, at, q, scales) => {
    for (let g = 0; g < 16; g++) {
      const low = (from[at + 96 + (g & 7)]! >> (g < 8 ? 0 : 4)) & 15
      const high = (from[at + 104 + (g & 3)]! >> (2 * (g >> 2))) & 3
      scales[g] = (low | (high << 4)) - 32
    }
    for (let i = 0; i < NUMBERS; i++) q[i] = pairOf(from, at + 32, i) | (bitOf(from, at, i) << 2)
  },
})

export const q4_k = superBlock({
  groups: 8,
  bits: 4,
  offsets: true,
  scales: 63,
  bytes: 144,
  dAt: 0,
  minimumAt: 2,
  pack: (to, at, q, scales, offsets) => {
    packSixes(to, at + 4, scales, offsets)
    packNibbles(to, at + 16, q)
  },
  unpack: (from, at, q, scales, offsets) => {
    unpackSixes(from, at + 4, scales, offsets)
    for (let i = 0; i < NUMBERS; i++) q[i] = nibbleOf(from, at + 16, i)
  },
})

export const q5_k = superBlock({
  groups: 8,
  bits: 5,
  offsets: true,
  scales: 63,
  bytes: 176,
  dAt: 0,
  minimumAt: 2,
  pack: (to, at, q, scales, offsets) => {
    packSixes(to, at + 4, scales, offsets)
    packBit(to, at + 16, q, 4)
    packNibbles(to, at + 48, q)
  },
  unpack: (from, at, q, scales, offsets) => {
    unpackSixes(from, at + 4, scales, offsets)
    for (let i = 0; i < NUMBERS; i++) q[i] = nibbleOf(from, at + 48, i) | (bitOf(from, at + 16, i) << 4)
  },
})

/** Of number i in its half of 128: l = i mod 32, k = i / 32. Bytes 32·(k mod 2) + l of 64 have the low nibble of k < 2, the high of others. */
const sixAt = (i: number): number => 64 * (i >> 7) + (i & 63)

export const q6_k = superBlock({
  groups: 16,
  bits: 6,
  offsets: false,
  scales: 127,
  bytes: 210,
  dAt: 208,
  minimumAt: -1,
  pack: (to, at, q, scales) => {
    for (let i = 0; i < NUMBERS; i++) {
      to[at + sixAt(i)]! |= (q[i]! & 15) << (4 * ((i >> 6) & 1))
      to[at + 128 + 32 * (i >> 7) + (i & 31)]! |= (q[i]! >> 4) << (2 * ((i >> 5) & 3))
    }
    for (let g = 0; g < 16; g++) to[at + 192 + g] = scales[g]!
  },
  unpack: (from, at, q, scales) => {
    for (let i = 0; i < NUMBERS; i++)
      q[i] = ((from[at + sixAt(i)]! >> (4 * ((i >> 6) & 1))) & 15) | (pairOf(from, at + 128, i) << 4)
    for (let g = 0; g < 16; g++) scales[g] = (from[at + 192 + g]! << 24) >> 24
  },
})
