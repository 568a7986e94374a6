/**
 * Causal attention on rows of q | k | v, heads side by side: `heads` heads of queries, then `keyValueHeads` heads of keys and as many of
 * values, each shared by `heads / keyValueHeads` neighbouring heads of queries. A position sees itself and the `window` − 1 before it.
 *
 * Queries go in blocks of ROWS; a block sees only the keys from the first one's window to its end, so what is hidden is hardly computed.
 * Probabilities are not kept: the way back computes them again (one more product in five), which keeps memory linear in the context.
 */
import { gemm } from "./gemm"
import { sum4, sums4 } from "./math"
import { softmaxRow } from "./layers"

const ROWS: i32 = 64

/** Bytes of scratch behind that of `gemm`. */
export function attentionScratchBytes(length: i32): i32 {
  return 2 * ROWS * length * 4
}

/** Of queries [i0, i0 + rows) at the keys from `first` on. */
function probabilities(
  q: usize, k: usize, stride: i32, i0: i32, rows: i32, first: i32, keys: i32, headWidth: i32, window: i32, p: usize, length: i32, packing: usize,
): void {
  gemm(false, true, rows, keys, headWidth, q + ((<usize>i0 * <usize>stride) << 2), stride, k, stride, p, length, false, packing)
  const scale: f32 = <f32>1 / sqrt<f32>(<f32>headWidth)
  for (let i = 0; i < rows; i++) {
    const row = p + ((<usize>i * <usize>length) << 2)
    const hidden = max(0, i0 + i + 1 - window - first)
    memory.fill(row, 0, <usize>hidden << 2)
    softmaxRow(row + (<usize>hidden << 2), i0 + i + 1 - first - hidden, keys - hidden, scale)
  }
}

/** The first key that a query at `position` sees. */
// @ts-ignore: decorator
@inline
function firstSeen(position: i32, window: i32): i32 {
  return max(0, position + 1 - window)
}

export function attention(
  qkv: usize, out: usize, batch: i32, length: i32, heads: i32, keyValueHeads: i32, headWidth: i32, window: i32, packing: usize, scratch: usize,
): void {
  const width = heads * headWidth
  const stride = width + 2 * keyValueHeads * headWidth
  const group = heads / keyValueHeads
  for (let b = 0; b < batch; b++) {
    const start = qkv + ((<usize>(b * length) * <usize>stride) << 2)
    for (let h = 0; h < heads; h++) {
      const q = start + (<usize>(h * headWidth) << 2)
      const k = start + (<usize>(width + (h / group) * headWidth) << 2)
      const v = k + (<usize>(keyValueHeads * headWidth) << 2)
      const o = out + ((<usize>(b * length) * <usize>width + <usize>(h * headWidth)) << 2)
      for (let i0 = 0; i0 < length; i0 += ROWS) {
        const rows = min(ROWS, length - i0)
        const first = firstSeen(i0, window)
        const keys = i0 + rows - first
        const from = (<usize>first * <usize>stride) << 2
        probabilities(q, k + from, stride, i0, rows, first, keys, headWidth, window, scratch, length, packing)
        gemm(false, false, rows, headWidth, keys, scratch, length, v + from, stride, o + ((<usize>i0 * <usize>width) << 2), width, false, packing)
      }
    }
  }
}

export function attentionGradient(
  dy: usize, qkv: usize, dqkv: usize, batch: i32, length: i32, heads: i32, keyValueHeads: i32, headWidth: i32, window: i32, packing: usize, scratch: usize,
): void {
  const width = heads * headWidth
  const stride = width + 2 * keyValueHeads * headWidth
  const group = heads / keyValueHeads
  const scale: f32 = <f32>1 / sqrt<f32>(<f32>headWidth)
  const p = scratch
  const dp = scratch + <usize>(ROWS * length * 4)
  // the last block of queries sees every key where no window hides some: going backwards, its product starts the sums of dk and dv
  const last = ((length - 1) / ROWS) * ROWS
  const whole = window >= length
  if (!whole) memory.fill(dqkv, 0, (<usize>(batch * length) * <usize>stride) << 2)
  for (let b = 0; b < batch; b++) {
    const start = (<usize>(b * length) * <usize>stride) << 2
    for (let h = 0; h < heads; h++) {
      const query = start + (<usize>(h * headWidth) << 2)
      const key = start + (<usize>(width + (h / group) * headWidth) << 2)
      const value = key + (<usize>(keyValueHeads * headWidth) << 2)
      const dout = dy + ((<usize>(b * length) * <usize>width + <usize>(h * headWidth)) << 2)
      for (let i0 = last; i0 >= 0; i0 -= ROWS) {
        const rows = min(ROWS, length - i0)
        const first = firstSeen(i0, window)
        const keys = i0 + rows - first
        const from = (<usize>first * <usize>stride) << 2
        const k = qkv + key + from
        const v = qkv + value + from
        const dblock = dout + ((<usize>i0 * <usize>width) << 2)
        const qblock = query + ((<usize>i0 * <usize>stride) << 2)
        const add = !whole || i0 < last || h % group > 0
        probabilities(qkv + query, k, stride, i0, rows, first, keys, headWidth, window, p, length, packing)
        gemm(true, false, keys, headWidth, rows, p, length, dblock, width, dqkv + value + from, stride, add, packing)
        gemm(false, true, rows, keys, headWidth, dblock, width, v, stride, dp, length, false, packing)
        for (let i = 0; i < rows; i++) {
          const at = (<usize>i * <usize>length) << 2
          softmaxGradientRow(p + at, dp + at, keys, scale)
        }
        gemm(false, false, rows, headWidth, keys, dp, length, k, stride, dqkv + qblock, stride, false, packing)
        gemm(true, false, keys, headWidth, rows, dp, length, qkv + qblock, stride, dqkv + key + from, stride, add, packing)
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
 * One new token of one sequence: its key and value are put at `position` of the caches, then its query looks at the `window` positions
 * up to it. Caches are [keyValueHeads][capacity][headWidth], so that a head reads its own front to back. `scratch` holds position + 1
 * floats.
 */
export function attendCached(
  qkv: usize, keys: usize, values: usize, out: usize, position: i32, capacity: i32, heads: i32, keyValueHeads: i32, headWidth: i32, window: i32, scratch: usize,
): void {
  const scale: f32 = <f32>1 / sqrt<f32>(<f32>headWidth)
  const bytes = <usize>headWidth << 2
  const group = heads / keyValueHeads
  const first = firstSeen(position, window)
  const seen = position + 1 - first
  fillCache(qkv, keys + <usize>position * bytes, values + <usize>position * bytes, 1, capacity, heads, keyValueHeads, headWidth)
  for (let h = 0; h < heads; h++) {
    const shift = <usize>h * bytes
    const head = <usize>capacity * <usize>(h / group) * bytes + <usize>first * bytes
    scores(qkv + shift, keys + head, seen, headWidth, scratch)
    softmaxRow(scratch, seen, seen, scale)
    weighted(scratch, values + head, seen, headWidth, out + shift)
  }
}

/** out[j] = q·keys[j]. Four keys at a time, where heads allow it: a key alone waits for each of its own sums. */
function scores(q: usize, keys: usize, count: i32, headWidth: i32, out: usize): void {
  const step = <usize>headWidth << 2
  const whole = <usize>(headWidth & ~3) << 2
  let j = 0
  if (whole == step) {
    for (; j + 4 <= count; j += 4) {
      const k0 = keys + <usize>j * step
      const k1 = k0 + step
      const k2 = k1 + step
      const k3 = k2 + step
      let s0 = f32x4.splat(0)
      let s1 = f32x4.splat(0)
      let s2 = f32x4.splat(0)
      let s3 = f32x4.splat(0)
      for (let at: usize = 0; at < whole; at += 16) {
        const x = v128.load(q + at)
        s0 = f32x4.relaxed_madd(x, v128.load(k0 + at), s0)
        s1 = f32x4.relaxed_madd(x, v128.load(k1 + at), s1)
        s2 = f32x4.relaxed_madd(x, v128.load(k2 + at), s2)
        s3 = f32x4.relaxed_madd(x, v128.load(k3 + at), s3)
      }
      v128.store(out + (<usize>j << 2), sums4(s0, s1, s2, s3))
    }
  }
  for (; j < count; j++) {
    const k = keys + <usize>j * step
    let s = f32x4.splat(0)
    for (let at: usize = 0; at < whole; at += 16) s = f32x4.relaxed_madd(v128.load(q + at), v128.load(k + at), s)
    let dot = sum4(s)
    for (let at = whole; at < step; at += 4) dot += load<f32>(q + at) * load<f32>(k + at)
    store<f32>(out + (<usize>j << 2), dot)
  }
}

/** out = Σ p[j]·values[j], j ascending; 32 columns of the sum stay in registers. */
function weighted(p: usize, values: usize, count: i32, headWidth: i32, out: usize): void {
  const step = <usize>headWidth << 2
  const end = p + (<usize>count << 2)
  let c = 0
  for (; c + 32 <= headWidth; c += 32) {
    let v = values + (<usize>c << 2)
    let s0 = f32x4.splat(0)
    let s1 = f32x4.splat(0)
    let s2 = f32x4.splat(0)
    let s3 = f32x4.splat(0)
    let s4 = f32x4.splat(0)
    let s5 = f32x4.splat(0)
    let s6 = f32x4.splat(0)
    let s7 = f32x4.splat(0)
    for (let at = p; at < end; at += 4) {
      const x = v128.load32_splat(at)
      s0 = f32x4.relaxed_madd(x, v128.load(v), s0)
      s1 = f32x4.relaxed_madd(x, v128.load(v, 16), s1)
      s2 = f32x4.relaxed_madd(x, v128.load(v, 32), s2)
      s3 = f32x4.relaxed_madd(x, v128.load(v, 48), s3)
      s4 = f32x4.relaxed_madd(x, v128.load(v, 64), s4)
      s5 = f32x4.relaxed_madd(x, v128.load(v, 80), s5)
      s6 = f32x4.relaxed_madd(x, v128.load(v, 96), s6)
      s7 = f32x4.relaxed_madd(x, v128.load(v, 112), s7)
      v += step
    }
    const to = out + (<usize>c << 2)
    v128.store(to, s0)
    v128.store(to, s1, 16)
    v128.store(to, s2, 32)
    v128.store(to, s3, 48)
    v128.store(to, s4, 64)
    v128.store(to, s5, 80)
    v128.store(to, s6, 96)
    v128.store(to, s7, 112)
  }
  for (; c + 4 <= headWidth; c += 4) {
    let v = values + (<usize>c << 2)
    let s = f32x4.splat(0)
    for (let at = p; at < end; at += 4) {
      s = f32x4.relaxed_madd(v128.load32_splat(at), v128.load(v), s)
      v += step
    }
    v128.store(out + (<usize>c << 2), s)
  }
  for (; c < headWidth; c++) {
    let v = values + (<usize>c << 2)
    let s: f32 = 0
    for (let at = p; at < end; at += 4) {
      s += load<f32>(at) * load<f32>(v)
      v += step
    }
    store<f32>(out + (<usize>c << 2), s)
  }
}

/** Keys and values of `rows` rows of q | k | v go to the first places of the caches of one sequence. */
export function fillCache(
  qkv: usize, keys: usize, values: usize, rows: i32, capacity: i32, heads: i32, keyValueHeads: i32, headWidth: i32,
): void {
  const bytes = <usize>headWidth << 2
  const width = <usize>heads * bytes
  const shared = <usize>keyValueHeads * bytes
  for (let r = 0; r < rows; r++) {
    for (let h = 0; h < keyValueHeads; h++) {
      const from = qkv + <usize>r * (width + 2 * shared) + width + <usize>h * bytes
      const to = (<usize>h * <usize>capacity + <usize>r) * bytes
      memory.copy(keys + to, from, bytes)
      memory.copy(values + to, from + shared, bytes)
    }
  }
}
