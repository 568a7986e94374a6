/**
 * Causal attention on the output of `c_attn`: rows of q | k | v, `width` floats each, heads side by side.
 *
 * Queries go in blocks of ROWS; a block sees only the keys before its end, so half of the square is never computed. Probabilities
 * are not kept: the way back computes them again (one more product in five), which keeps memory linear in the context.
 */
import { gemm } from "./gemm"
import { sum4 } from "./math"
import { softmaxRow } from "./layers"

const ROWS: i32 = 64

/** Bytes of scratch behind that of `gemm`. */
export function attentionScratchBytes(length: i32): i32 {
  return 2 * ROWS * length * 4
}

function probabilities(
  q: usize, k: usize, stride: i32, i0: i32, rows: i32, keys: i32, headWidth: i32, p: usize, length: i32, packing: usize,
): void {
  gemm(false, true, rows, keys, headWidth, q + ((<usize>i0 * <usize>stride) << 2), stride, k, stride, p, length, false, packing)
  const scale: f32 = <f32>1 / sqrt<f32>(<f32>headWidth)
  for (let i = 0; i < rows; i++) softmaxRow(p + ((<usize>i * <usize>length) << 2), i0 + i + 1, keys, scale)
}

export function attention(
  qkv: usize, out: usize, batch: i32, length: i32, heads: i32, headWidth: i32, packing: usize, scratch: usize,
): void {
  const width = heads * headWidth
  const stride = 3 * width
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const q = qkv + ((<usize>(b * length) * <usize>stride + <usize>(h * headWidth)) << 2)
      const k = q + (<usize>width << 2)
      const v = k + (<usize>width << 2)
      const o = out + ((<usize>(b * length) * <usize>width + <usize>(h * headWidth)) << 2)
      for (let i0 = 0; i0 < length; i0 += ROWS) {
        const rows = min(ROWS, length - i0)
        const keys = i0 + rows
        probabilities(q, k, stride, i0, rows, keys, headWidth, scratch, length, packing)
        gemm(false, false, rows, headWidth, keys, scratch, length, v, stride, o + ((<usize>i0 * <usize>width) << 2), width, false, packing)
      }
    }
  }
}

export function attentionGradient(
  dy: usize, qkv: usize, dqkv: usize, batch: i32, length: i32, heads: i32, headWidth: i32, packing: usize, scratch: usize,
): void {
  const width = heads * headWidth
  const stride = 3 * width
  const scale: f32 = <f32>1 / sqrt<f32>(<f32>headWidth)
  const p = scratch
  const dp = scratch + <usize>(ROWS * length * 4)
  // the last block of queries sees every key: going backwards, its product starts the sums of dk and dv, no zeroing needed
  const last = ((length - 1) / ROWS) * ROWS
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < heads; h++) {
      const head = (<usize>(b * length) * <usize>stride + <usize>(h * headWidth)) << 2
      const q = qkv + head
      const k = q + (<usize>width << 2)
      const v = k + (<usize>width << 2)
      const dq = dqkv + head
      const dk = dq + (<usize>width << 2)
      const dv = dk + (<usize>width << 2)
      const dout = dy + ((<usize>(b * length) * <usize>width + <usize>(h * headWidth)) << 2)
      for (let i0 = last; i0 >= 0; i0 -= ROWS) {
        const rows = min(ROWS, length - i0)
        const keys = i0 + rows
        const dblock = dout + ((<usize>i0 * <usize>width) << 2)
        const qblock = (<usize>i0 * <usize>stride) << 2
        probabilities(q, k, stride, i0, rows, keys, headWidth, p, length, packing)
        gemm(true, false, keys, headWidth, rows, p, length, dblock, width, dv, stride, i0 < last, packing)
        gemm(false, true, rows, keys, headWidth, dblock, width, v, stride, dp, length, false, packing)
        for (let i = 0; i < rows; i++) {
          const at = (<usize>i * <usize>length) << 2
          softmaxGradientRow(p + at, dp + at, keys, scale)
        }
        gemm(false, false, rows, headWidth, keys, dp, length, k, stride, dq + qblock, stride, false, packing)
        gemm(true, false, keys, headWidth, rows, dp, length, q + qblock, stride, dk, stride, i0 < last, packing)
      }
    }
  }
}

/** dp becomes scale · p · (dp − Σ p·dp). */
function softmaxGradientRow(p: usize, dp: usize, width: i32, scale: f32): void {
  const whole = <usize>(width & ~3) << 2
  const bytes = <usize>width << 2
  let s = f32x4.splat(0)
  for (let at: usize = 0; at < whole; at += 16) s = f32x4.relaxed_madd(v128.load(p + at), v128.load(dp + at), s)
  let total = sum4(s)
  for (let at = whole; at < bytes; at += 4) total += load<f32>(p + at) * load<f32>(dp + at)
  const total4 = f32x4.splat(total)
  const scale4 = f32x4.splat(scale)
  for (let at: usize = 0; at < whole; at += 16) {
    const d = f32x4.sub(v128.load(dp + at), total4)
    v128.store(dp + at, f32x4.mul(f32x4.mul(v128.load(p + at), scale4), d))
  }
  for (let at = whole; at < bytes; at += 4) {
    store<f32>(dp + at, load<f32>(p + at) * scale * (load<f32>(dp + at) - total))
  }
}

/**
 * One new token of one sequence: its key and value are put at `position` of the caches ([context][width] each), then its query
 * looks at positions 0 … position. `scratch` holds position + 1 floats.
 */
export function attendCached(
  qkv: usize, keys: usize, values: usize, out: usize, position: i32, heads: i32, headWidth: i32, scratch: usize,
): void {
  const width = heads * headWidth
  const bytes = <usize>width << 2
  memory.copy(keys + <usize>position * bytes, qkv + bytes, bytes)
  memory.copy(values + <usize>position * bytes, qkv + 2 * bytes, bytes)
  const scale: f32 = <f32>1 / sqrt<f32>(<f32>headWidth)
  const headBytes = <usize>headWidth << 2
  const whole = <usize>(headWidth & ~3) << 2
  for (let h = 0; h < heads; h++) {
    const shift = <usize>h * headBytes
    const q = qkv + shift
    for (let j = 0; j <= position; j++) {
      const k = keys + <usize>j * bytes + shift
      let s = f32x4.splat(0)
      for (let at: usize = 0; at < whole; at += 16) s = f32x4.relaxed_madd(v128.load(q + at), v128.load(k + at), s)
      let dot = sum4(s)
      for (let at = whole; at < headBytes; at += 4) dot += load<f32>(q + at) * load<f32>(k + at)
      store<f32>(scratch + (<usize>j << 2), dot)
    }
    softmaxRow(scratch, position + 1, position + 1, scale)
    const o = out + shift
    memory.fill(o, 0, headBytes)
    for (let j = 0; j <= position; j++) {
      const v = values + <usize>j * bytes + shift
      const p = load<f32>(scratch + (<usize>j << 2))
      const p4 = f32x4.splat(p)
      for (let at: usize = 0; at < whole; at += 16) {
        v128.store(o + at, f32x4.relaxed_madd(p4, v128.load(v + at), v128.load(o + at)))
      }
      for (let at = whole; at < headBytes; at += 4) store<f32>(o + at, load<f32>(o + at) + p * load<f32>(v + at))
    }
  }
}

/** Keys and values of `rows` rows of q | k | v go to the first rows of the caches of one sequence. */
export function fillCache(qkv: usize, keys: usize, values: usize, rows: i32, width: i32): void {
  const bytes = <usize>width << 2
  for (let r = 0; r < rows; r++) {
    const row = qkv + <usize>(3 * r) * bytes
    memory.copy(keys + <usize>r * bytes, row + bytes, bytes)
    memory.copy(values + <usize>r * bytes, row + 2 * bytes, bytes)
  }
}
