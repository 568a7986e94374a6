/**
 * Numbers of 16 bits: IEEE half precision (F16) and the upper half of a single (BF16), both rounded to the nearest, ties to even.
 */

/** Node has them since 24; the bits are the same without. */
const Half = (
  globalThis as { readonly Float16Array?: new (buffer: ArrayBufferLike, at: number, length: number) => HalfArray }
).Float16Array
interface HalfArray extends ArrayLike<number> {
  set(from: ArrayLike<number>): void
}

const single = new Float32Array(1)
const bits = new Uint32Array(single.buffer)

export const halfBits = (value: number): number => {
  single[0] = value
  const all = bits[0]!
  const sign = (all >>> 16) & 0x8000
  const rest = all & 0x7fffffff
  if (rest > 0x7f800000) return sign | 0x7e00
  if (rest >= 0x477ff000) return sign | 0x7c00
  if (rest >= 0x38800000) {
    const shifted = rest - 0x38000000
    return sign | ((shifted + 0xfff + ((shifted >>> 13) & 1)) >>> 13)
  }
  // subnormal: a multiple of 2^-24; adding 0.5 rounds to just that place of a single
  single[0] = Math.abs(value) + 0.5
  return sign | (bits[0]! - 0x3f000000)
}

export const halfValue = (half: number): number => {
  const sign = half & 0x8000 ? -1 : 1
  const exponent = (half >>> 10) & 31
  const fraction = half & 1023
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN
  return sign * (exponent === 0 ? fraction * 2 ** -24 : (1024 + fraction) * 2 ** (exponent - 25))
}

const halves = new Float32Array(65536)
for (let half = 0; half < 65536; half++) halves[half] = halfValue(half)

/** By table. */
export const halfAt = (bytes: Uint8Array, at: number): number => halves[bytes[at]! | (bytes[at + 1]! << 8)]!

/** Writes a half and gives back what a reader will see. */
export const putHalf = (bytes: Uint8Array, at: number, value: number): number => {
  const half = halfBits(value)
  bytes[at] = half & 255
  bytes[at + 1] = half >>> 8
  return halves[half]!
}

/** `to` begins at an even address. */
export const toHalves = (from: Float32Array, to: Uint8Array): void => {
  if (Half !== undefined) new Half(to.buffer, to.byteOffset, from.length).set(from)
  else for (let i = 0; i < from.length; i++) putHalf(to, 2 * i, from[i]!)
}

export const fromHalves = (from: Uint8Array, to: Float32Array): void => {
  for (let i = 0; i < to.length; i++) to[i] = halfAt(from, 2 * i)
}

export const toBrains = (from: Float32Array, to: Uint8Array): void => {
  const all = new Uint32Array(from.buffer, from.byteOffset, from.length)
  const upper = new Uint16Array(to.buffer, to.byteOffset, from.length)
  for (let i = 0; i < all.length; i++) {
    const value = all[i]!
    // a NaN keeps its upper bits and stays one
    upper[i] = (value & 0x7fffffff) > 0x7f800000 ? (value >>> 16) | 64 : (value + 0x7fff + ((value >>> 16) & 1)) >>> 16
  }
}

export const fromBrains = (from: Uint8Array, to: Float32Array): void => {
  const all = new Uint32Array(to.buffer, to.byteOffset, to.length)
  for (let i = 0; i < all.length; i++) all[i] = (from[2 * i]! | (from[2 * i + 1]! << 8)) << 16
}
