/**
 * Everything of the model that is not a matrix product. Pointers are byte addresses of contiguous fp32 (ids: int32).
 * A row's result depends on that row alone, so batches may be cut anywhere.
 */
import { exp1, exp4, max4, sum4 } from "./math"

const GELU_SCALE: f32 = 0.7978845608028654
const GELU_CUBE: f32 = 0.044715

export function add(x: usize, y: usize, out: usize, size: i32): void {
  let i = 0
  for (; i + 4 <= size; i += 4) {
    const at = <usize>i << 2
    v128.store(out + at, f32x4.add(v128.load(x + at), v128.load(y + at)))
  }
  for (; i < size; i++) {
    const at = <usize>i << 2
    store<f32>(out + at, load<f32>(x + at) + load<f32>(y + at))
  }
}

/** out[r] += bias, for every row. */
export function addBias(out: usize, bias: usize, rows: i32, width: i32): void {
  for (let r = 0; r < rows; r++) {
    const row = out + ((<usize>r * <usize>width) << 2)
    add(row, bias, row, width)
  }
}

/** out[c] = Σ x[r][c], rows in ascending order. */
export function columnSums(x: usize, out: usize, rows: i32, width: i32): void {
  const step = <usize>width << 2
  let c = 0
  for (; c + 16 <= width; c += 16) {
    let s0 = f32x4.splat(0)
    let s1 = f32x4.splat(0)
    let s2 = f32x4.splat(0)
    let s3 = f32x4.splat(0)
    let at = x + (<usize>c << 2)
    for (let r = 0; r < rows; r++) {
      s0 = f32x4.add(s0, v128.load(at))
      s1 = f32x4.add(s1, v128.load(at, 16))
      s2 = f32x4.add(s2, v128.load(at, 32))
      s3 = f32x4.add(s3, v128.load(at, 48))
      at += step
    }
    const to = out + (<usize>c << 2)
    v128.store(to, s0)
    v128.store(to, s1, 16)
    v128.store(to, s2, 32)
    v128.store(to, s3, 48)
  }
  for (; c < width; c++) {
    let s: f32 = 0
    let at = x + (<usize>c << 2)
    for (let r = 0; r < rows; r++) {
      s += load<f32>(at)
      at += step
    }
    store<f32>(out + (<usize>c << 2), s)
  }
}

/** `stats` keeps mean and 1/deviation of each row for the way back. */
export function layerNorm(
  x: usize, gain: usize, bias: usize, out: usize, stats: usize, rows: i32, width: i32, epsilon: f32,
): void {
  const bytes = <usize>width << 2
  const whole = <usize>(width & ~3) << 2
  for (let r = 0; r < rows; r++) {
    const row = x + <usize>r * bytes
    const to = out + <usize>r * bytes
    let s = f32x4.splat(0)
    for (let at: usize = 0; at < whole; at += 16) s = f32x4.add(s, v128.load(row + at))
    let total = sum4(s)
    for (let at = whole; at < bytes; at += 4) total += load<f32>(row + at)
    const mean: f32 = total / <f32>width
    const mean4 = f32x4.splat(mean)
    s = f32x4.splat(0)
    for (let at: usize = 0; at < whole; at += 16) {
      const d = f32x4.sub(v128.load(row + at), mean4)
      s = f32x4.relaxed_madd(d, d, s)
    }
    total = sum4(s)
    for (let at = whole; at < bytes; at += 4) {
      const d = load<f32>(row + at) - mean
      total += d * d
    }
    const scale: f32 = <f32>1 / sqrt<f32>(total / <f32>width + epsilon)
    const scale4 = f32x4.splat(scale)
    for (let at: usize = 0; at < whole; at += 16) {
      const n = f32x4.mul(f32x4.sub(v128.load(row + at), mean4), scale4)
      v128.store(to + at, f32x4.relaxed_madd(n, v128.load(gain + at), v128.load(bias + at)))
    }
    for (let at = whole; at < bytes; at += 4) {
      store<f32>(to + at, (load<f32>(row + at) - mean) * scale * load<f32>(gain + at) + load<f32>(bias + at))
    }
    store<f32>(stats + (<usize>r << 3), mean)
    store<f32>(stats + (<usize>r << 3), scale, 4)
  }
}

export function layerNormGradient(
  dy: usize, x: usize, gain: usize, stats: usize, dx: usize, dgain: usize, dbias: usize, rows: i32, width: i32,
): void {
  const bytes = <usize>width << 2
  const whole = <usize>(width & ~3) << 2
  memory.fill(dgain, 0, bytes)
  memory.fill(dbias, 0, bytes)
  for (let r = 0; r < rows; r++) {
    const row = x + <usize>r * bytes
    const from = dy + <usize>r * bytes
    const to = dx + <usize>r * bytes
    const mean = load<f32>(stats + (<usize>r << 3))
    const scale = load<f32>(stats + (<usize>r << 3), 4)
    const mean4 = f32x4.splat(mean)
    const scale4 = f32x4.splat(scale)
    let s = f32x4.splat(0)
    let t = f32x4.splat(0)
    for (let at: usize = 0; at < whole; at += 16) {
      const d = v128.load(from + at)
      const n = f32x4.mul(f32x4.sub(v128.load(row + at), mean4), scale4)
      const g = f32x4.mul(d, v128.load(gain + at))
      s = f32x4.add(s, g)
      t = f32x4.relaxed_madd(g, n, t)
      v128.store(dgain + at, f32x4.relaxed_madd(d, n, v128.load(dgain + at)))
      v128.store(dbias + at, f32x4.add(v128.load(dbias + at), d))
    }
    let total = sum4(s)
    let along = sum4(t)
    for (let at = whole; at < bytes; at += 4) {
      const d = load<f32>(from + at)
      const n = (load<f32>(row + at) - mean) * scale
      const g = d * load<f32>(gain + at)
      total += g
      along += g * n
      store<f32>(dgain + at, load<f32>(dgain + at) + d * n)
      store<f32>(dbias + at, load<f32>(dbias + at) + d)
    }
    total /= <f32>width
    along /= <f32>width
    const total4 = f32x4.splat(total)
    const along4 = f32x4.splat(along)
    for (let at: usize = 0; at < whole; at += 16) {
      const n = f32x4.mul(f32x4.sub(v128.load(row + at), mean4), scale4)
      const g = f32x4.mul(v128.load(from + at), v128.load(gain + at))
      v128.store(to + at, f32x4.mul(f32x4.sub(f32x4.sub(g, total4), f32x4.mul(n, along4)), scale4))
    }
    for (let at = whole; at < bytes; at += 4) {
      const n = (load<f32>(row + at) - mean) * scale
      store<f32>(to + at, (load<f32>(from + at) * load<f32>(gain + at) - total - n * along) * scale)
    }
  }
}

/** out[r] = x[r] · gain / √(mean of squares + epsilon); stats[r] keeps 1/√…. */
export function rmsNorm(
  x: usize, gain: usize, out: usize, stats: usize, rows: i32, width: i32, epsilon: f32,
): void {
  const bytes = <usize>width << 2
  const whole = <usize>(width & ~3) << 2
  for (let r = 0; r < rows; r++) {
    const row = x + <usize>r * bytes
    const to = out + <usize>r * bytes
    let s = f32x4.splat(0)
    for (let at: usize = 0; at < whole; at += 16) {
      const v = v128.load(row + at)
      s = f32x4.relaxed_madd(v, v, s)
    }
    let total = sum4(s)
    for (let at = whole; at < bytes; at += 4) total += load<f32>(row + at) * load<f32>(row + at)
    const scale: f32 = <f32>1 / sqrt<f32>(total / <f32>width + epsilon)
    const scale4 = f32x4.splat(scale)
    for (let at: usize = 0; at < whole; at += 16) {
      v128.store(to + at, f32x4.mul(f32x4.mul(v128.load(row + at), scale4), v128.load(gain + at)))
    }
    for (let at = whole; at < bytes; at += 4) {
      store<f32>(to + at, load<f32>(row + at) * scale * load<f32>(gain + at))
    }
    store<f32>(stats + (<usize>r << 2), scale)
  }
}

export function rmsNormGradient(
  dy: usize, x: usize, gain: usize, stats: usize, dx: usize, dgain: usize, rows: i32, width: i32,
): void {
  const bytes = <usize>width << 2
  const whole = <usize>(width & ~3) << 2
  memory.fill(dgain, 0, bytes)
  for (let r = 0; r < rows; r++) {
    const row = x + <usize>r * bytes
    const from = dy + <usize>r * bytes
    const to = dx + <usize>r * bytes
    const scale = load<f32>(stats + (<usize>r << 2))
    const scale4 = f32x4.splat(scale)
    let t = f32x4.splat(0)
    for (let at: usize = 0; at < whole; at += 16) {
      const d = v128.load(from + at)
      const n = f32x4.mul(v128.load(row + at), scale4)
      t = f32x4.relaxed_madd(f32x4.mul(d, v128.load(gain + at)), n, t)
      v128.store(dgain + at, f32x4.relaxed_madd(d, n, v128.load(dgain + at)))
    }
    let along = sum4(t)
    for (let at = whole; at < bytes; at += 4) {
      const d = load<f32>(from + at)
      const n = load<f32>(row + at) * scale
      along += d * load<f32>(gain + at) * n
      store<f32>(dgain + at, load<f32>(dgain + at) + d * n)
    }
    along /= <f32>width
    const along4 = f32x4.splat(along)
    for (let at: usize = 0; at < whole; at += 16) {
      const n = f32x4.mul(v128.load(row + at), scale4)
      const g = f32x4.mul(v128.load(from + at), v128.load(gain + at))
      v128.store(to + at, f32x4.mul(f32x4.sub(g, f32x4.mul(n, along4)), scale4))
    }
    for (let at = whole; at < bytes; at += 4) {
      const n = load<f32>(row + at) * scale
      store<f32>(to + at, (load<f32>(from + at) * load<f32>(gain + at) - n * along) * scale)
    }
  }
}

/**
 * Rotary positions (Su et al., arXiv 2104.09864), in the layout of `transformers`: column c of the first half of a head and column c of
 * the second are turned as a pair. `turns` holds, for each position, the cosines of all columns of a half, then their sines; row r is at
 * position r mod length. `sign` −1 turns back. The first `heads` heads of a row are turned, what is behind them is copied; `out` may be x.
 */
export function rotate(
  x: usize, turns: usize, out: usize, rows: i32, length: i32, heads: i32, headWidth: i32, stride: i32, sign: f32,
): void {
  const bytes = <usize>stride << 2
  const half = <usize>(headWidth >> 1) << 2
  const turned = <usize>(heads * headWidth) << 2
  const whole = half & ~15
  const sign4 = f32x4.splat(sign)
  for (let r = 0; r < rows; r++) {
    const row = x + <usize>r * bytes
    const to = out + <usize>r * bytes
    const cosines = turns + <usize>(r % length) * 2 * half
    const sines = cosines + half
    for (let head: usize = 0; head < turned; head += 2 * half) {
      for (let at: usize = 0; at < whole; at += 16) {
        const c = v128.load(cosines + at)
        const s = f32x4.mul(v128.load(sines + at), sign4)
        const a = v128.load(row + head + at)
        const b = v128.load(row + head + half + at)
        v128.store(to + head + at, f32x4.sub(f32x4.mul(a, c), f32x4.mul(b, s)))
        v128.store(to + head + half + at, f32x4.add(f32x4.mul(b, c), f32x4.mul(a, s)))
      }
      for (let at = whole; at < half; at += 4) {
        const c = load<f32>(cosines + at)
        const s: f32 = load<f32>(sines + at) * sign
        const a = load<f32>(row + head + at)
        const b = load<f32>(row + head + half + at)
        store<f32>(to + head + at, a * c - b * s)
        store<f32>(to + head + half + at, b * c + a * s)
      }
    }
    if (to != row) memory.copy(to + turned, row + turned, bytes - turned)
  }
}

// @ts-ignore: decorator
@inline
function logistic4(x: v128): v128 {
  return f32x4.div(f32x4.splat(1), f32x4.add(f32x4.splat(1), exp4(f32x4.neg(x))))
}

// @ts-ignore: decorator
@inline
function swiglu4(gate: v128, up: v128): v128 {
  return f32x4.mul(f32x4.mul(gate, logistic4(gate)), up)
}

/** out[r] = gate · logistic(gate) · up of rows gate | up, `width` floats each (Shazeer, arXiv 2002.05202). */
export function swiglu(x: usize, out: usize, rows: i32, width: i32): void {
  const bytes = <usize>width << 2
  const whole = <usize>(width & ~3) << 2
  for (let r = 0; r < rows; r++) {
    const gate = x + 2 * <usize>r * bytes
    const up = gate + bytes
    const to = out + <usize>r * bytes
    for (let at: usize = 0; at < whole; at += 16) {
      v128.store(to + at, swiglu4(v128.load(gate + at), v128.load(up + at)))
    }
    for (let at = whole; at < bytes; at += 4) {
      const y = swiglu4(f32x4.splat(load<f32>(gate + at)), f32x4.splat(load<f32>(up + at)))
      store<f32>(to + at, f32x4.extract_lane(y, 0))
    }
  }
}

/** With s the logistic of the gate: d gate = dy·up·s·(1 + gate·(1 − s)), d up = dy·gate·s. */
export function swigluGradient(dy: usize, x: usize, dx: usize, rows: i32, width: i32): void {
  const bytes = <usize>width << 2
  const whole = <usize>(width & ~3) << 2
  const one = f32x4.splat(1)
  for (let r = 0; r < rows; r++) {
    const gate = x + 2 * <usize>r * bytes
    const dgate = dx + 2 * <usize>r * bytes
    const from = dy + <usize>r * bytes
    for (let at: usize = 0; at < whole; at += 16) {
      const g = v128.load(gate + at)
      const d = v128.load(from + at)
      const s = logistic4(g)
      const slope = f32x4.mul(s, f32x4.relaxed_madd(g, f32x4.sub(one, s), one))
      v128.store(dgate + at, f32x4.mul(f32x4.mul(d, v128.load(gate + bytes + at)), slope))
      v128.store(dgate + bytes + at, f32x4.mul(d, f32x4.mul(g, s)))
    }
    for (let at = whole; at < bytes; at += 4) {
      const g = load<f32>(gate + at)
      const d = load<f32>(from + at)
      const s = f32x4.extract_lane(logistic4(f32x4.splat(g)), 0)
      store<f32>(dgate + at, d * load<f32>(gate + bytes + at) * s * (g * (1 - s) + 1))
      store<f32>(dgate + bytes + at, d * (g * s))
    }
  }
}

/** ½(1 + tanh u) is the logistic function of 2u: no cancellation for small u. */
// @ts-ignore: decorator
@inline
function gate4(x: v128): v128 {
  const cubic = f32x4.mul(f32x4.mul(x, x), f32x4.splat(GELU_CUBE))
  const u = f32x4.mul(f32x4.mul(x, f32x4.splat(GELU_SCALE)), f32x4.add(cubic, f32x4.splat(1)))
  return f32x4.div(f32x4.splat(1), f32x4.add(f32x4.splat(1), exp4(f32x4.mul(u, f32x4.splat(-2)))))
}

// @ts-ignore: decorator
@inline
function geluGradient4(x: v128): v128 {
  const gate = gate4(x)
  const slope = f32x4.mul(
    f32x4.relaxed_madd(f32x4.mul(x, x), f32x4.splat(3 * GELU_CUBE), f32x4.splat(1)),
    f32x4.splat(2 * GELU_SCALE),
  )
  const bend = f32x4.mul(f32x4.mul(x, gate), f32x4.sub(f32x4.splat(1), gate))
  return f32x4.relaxed_madd(bend, slope, gate)
}

export function gelu(x: usize, out: usize, size: i32): void {
  let i = 0
  for (; i + 4 <= size; i += 4) {
    const at = <usize>i << 2
    const v = v128.load(x + at)
    v128.store(out + at, f32x4.mul(v, gate4(v)))
  }
  for (; i < size; i++) {
    const at = <usize>i << 2
    const v = f32x4.splat(load<f32>(x + at))
    store<f32>(out + at, f32x4.extract_lane(f32x4.mul(v, gate4(v)), 0))
  }
}

export function geluGradient(dy: usize, x: usize, dx: usize, size: i32): void {
  let i = 0
  for (; i + 4 <= size; i += 4) {
    const at = <usize>i << 2
    v128.store(dx + at, f32x4.mul(v128.load(dy + at), geluGradient4(v128.load(x + at))))
  }
  for (; i < size; i++) {
    const at = <usize>i << 2
    const slope = f32x4.extract_lane(geluGradient4(f32x4.splat(load<f32>(x + at))), 0)
    store<f32>(dx + at, load<f32>(dy + at) * slope)
  }
}

/** x[0 … valid) becomes softmax(scale·x); x[valid … width) becomes 0. */
export function softmaxRow(x: usize, valid: i32, width: i32, scale: f32): void {
  const whole = <usize>(valid & ~3) << 2
  const bytes = <usize>valid << 2
  let top4 = f32x4.splat(-Infinity)
  for (let at: usize = 0; at < whole; at += 16) top4 = f32x4.max(top4, v128.load(x + at))
  let top = max4(top4)
  for (let at = whole; at < bytes; at += 4) top = max(top, load<f32>(x + at))
  top4 = f32x4.splat(top)
  const scale4 = f32x4.splat(scale)
  let s = f32x4.splat(0)
  for (let at: usize = 0; at < whole; at += 16) {
    const e = exp4(f32x4.mul(f32x4.sub(v128.load(x + at), top4), scale4))
    v128.store(x + at, e)
    s = f32x4.add(s, e)
  }
  let total = sum4(s)
  for (let at = whole; at < bytes; at += 4) {
    const e = exp1((load<f32>(x + at) - top) * scale)
    store<f32>(x + at, e)
    total += e
  }
  const share: f32 = <f32>1 / total
  const share4 = f32x4.splat(share)
  for (let at: usize = 0; at < whole; at += 16) v128.store(x + at, f32x4.mul(v128.load(x + at), share4))
  for (let at = whole; at < bytes; at += 4) store<f32>(x + at, load<f32>(x + at) * share)
  memory.fill(x + bytes, 0, <usize>(width - valid) << 2)
}

/** stats[r] = (max, Σ exp(x − max)); the logarithm is left to JavaScript, whose Math.log needs no table here. */
export function logSumExp(x: usize, stats: usize, rows: i32, width: i32): void {
  const bytes = <usize>width << 2
  const whole = <usize>(width & ~3) << 2
  for (let r = 0; r < rows; r++) {
    const row = x + <usize>r * bytes
    let top4 = f32x4.splat(-Infinity)
    for (let at: usize = 0; at < whole; at += 16) top4 = f32x4.max(top4, v128.load(row + at))
    let top = max4(top4)
    for (let at = whole; at < bytes; at += 4) top = max(top, load<f32>(row + at))
    top4 = f32x4.splat(top)
    let total: f64 = 0
    for (let block: usize = 0; block < whole; block += 1024) {
      const end = min(block + 1024, whole)
      let s = f32x4.splat(0)
      for (let at = block; at < end; at += 16) s = f32x4.add(s, exp4(f32x4.sub(v128.load(row + at), top4)))
      total += <f64>sum4(s)
    }
    for (let at = whole; at < bytes; at += 4) total += <f64>exp1(load<f32>(row + at) - top)
    store<f32>(stats + (<usize>r << 3), top)
    store<f32>(stats + (<usize>r << 3), <f32>total, 4)
  }
}

/** dx[r] = dy[r] · (softmax(x[r]) − [target]). */
export function crossEntropyGradient(
  dy: usize, x: usize, stats: usize, targets: usize, dx: usize, rows: i32, width: i32,
): void {
  const bytes = <usize>width << 2
  const whole = <usize>(width & ~3) << 2
  for (let r = 0; r < rows; r++) {
    const row = x + <usize>r * bytes
    const to = dx + <usize>r * bytes
    const d = load<f32>(dy + (<usize>r << 2))
    const top = load<f32>(stats + (<usize>r << 3))
    const share: f32 = d / load<f32>(stats + (<usize>r << 3), 4)
    const top4 = f32x4.splat(top)
    const share4 = f32x4.splat(share)
    for (let at: usize = 0; at < whole; at += 16) {
      v128.store(to + at, f32x4.mul(exp4(f32x4.sub(v128.load(row + at), top4)), share4))
    }
    for (let at = whole; at < bytes; at += 4) store<f32>(to + at, exp1(load<f32>(row + at) - top) * share)
    const target = to + (<usize>load<i32>(targets + (<usize>r << 2)) << 2)
    store<f32>(target, load<f32>(target) - d)
  }
}

/** out[r] = table[ids[r]] + positions[r mod length]. */
export function embedding(
  ids: usize, table: usize, positions: usize, out: usize, rows: i32, length: i32, width: i32,
): void {
  const bytes = <usize>width << 2
  for (let r = 0; r < rows; r++) {
    const id = <usize>load<i32>(ids + (<usize>r << 2))
    add(table + id * bytes, positions + <usize>(r % length) * bytes, out + <usize>r * bytes, width)
  }
}

export function embeddingGradient(
  dy: usize, ids: usize, dtable: usize, dpositions: usize, rows: i32, length: i32, width: i32, vocabulary: i32, context: i32,
): void {
  const bytes = <usize>width << 2
  memory.fill(dtable, 0, <usize>vocabulary * bytes)
  memory.fill(dpositions, 0, <usize>context * bytes)
  for (let r = 0; r < rows; r++) {
    const from = dy + <usize>r * bytes
    const entry = dtable + <usize>load<i32>(ids + (<usize>r << 2)) * bytes
    const position = dpositions + <usize>(r % length) * bytes
    add(entry, from, entry, width)
    add(position, from, position, width)
  }
}

/** out[r] = table[ids[r]]. */
export function lookup(ids: usize, table: usize, out: usize, rows: i32, width: i32): void {
  const bytes = <usize>width << 2
  for (let r = 0; r < rows; r++) {
    memory.copy(out + <usize>r * bytes, table + <usize>load<i32>(ids + (<usize>r << 2)) * bytes, bytes)
  }
}

/** Rows of `padding` (−1: none) learn nothing. */
export function lookupGradient(
  dy: usize, ids: usize, dtable: usize, rows: i32, width: i32, vocabulary: i32, padding: i32,
): void {
  const bytes = <usize>width << 2
  memory.fill(dtable, 0, <usize>vocabulary * bytes)
  for (let r = 0; r < rows; r++) {
    const id = load<i32>(ids + (<usize>r << 2))
    if (id == padding) continue
    const entry = dtable + <usize>id * bytes
    add(entry, dy + <usize>r * bytes, entry, width)
  }
}
