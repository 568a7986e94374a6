/**
 * The step on the weights, in the shared memory that all workers see. Compiled on its own, because a module is linked either to a
 * shared memory or to a private one.
 *
 * Pieces of the flat parameter vector are handled alone, in any order, by anybody: sums of squares are kept by piece.
 */

/** lane 0 += lane 1 += … over one piece, in lane order; returns the sum of squares of the result. */
export function reduceLanes(gradients: usize, laneBytes: usize, lanes: i32, first: i32, size: i32): f64 {
  let low = f64x2.splat(0)
  let high = f64x2.splat(0)
  let rest: f64 = 0
  let i = 0
  const start = gradients + (<usize>first << 2)
  for (; i + 4 <= size; i += 4) {
    let at = start + (<usize>i << 2)
    const to = at
    let g = v128.load(at)
    for (let lane = 1; lane < lanes; lane++) {
      at += laneBytes
      g = f32x4.add(g, v128.load(at))
    }
    v128.store(to, g)
    const a = f64x2.promote_low_f32x4(g)
    const b = f64x2.promote_low_f32x4(v128.shuffle<f32>(g, g, 2, 3, 2, 3))
    low = f64x2.add(low, f64x2.mul(a, a))
    high = f64x2.add(high, f64x2.mul(b, b))
  }
  for (; i < size; i++) {
    let at = start + (<usize>i << 2)
    const to = at
    let g = load<f32>(at)
    for (let lane = 1; lane < lanes; lane++) {
      at += laneBytes
      g += load<f32>(at)
    }
    store<f32>(to, g)
    rest += <f64>g * <f64>g
  }
  const both = f64x2.add(low, high)
  return f64x2.extract_lane(both, 0) + f64x2.extract_lane(both, 1) + rest
}

/**
 * torch's AdamW, operation by operation, from one generation of weights and moments to the next: the old one stays whole.
 * `keep` = 1 − lr·decay, `rate` = lr / (1 − β1^t), `root` = √(1 − β2^t).
 */
export function adamW(
  weights: usize,
  m: usize,
  v: usize,
  newWeights: usize,
  newM: usize,
  newV: usize,
  gradient: usize,
  size: i32,
  clip: f32,
  keep: f32,
  rate: f32,
  root: f32,
  beta1: f32,
  oneLessBeta1: f32,
  beta2: f32,
  oneLessBeta2: f32,
  epsilon: f32,
): void {
  let i = 0
  for (; i + 4 <= size; i += 4) {
    const at = <usize>i << 2
    const g = f32x4.mul(v128.load(gradient + at), f32x4.splat(clip))
    let m4 = v128.load(m + at)
    m4 = f32x4.add(m4, f32x4.mul(f32x4.sub(g, m4), f32x4.splat(oneLessBeta1)))
    v128.store(newM + at, m4)
    const kept = f32x4.mul(v128.load(v + at), f32x4.splat(beta2))
    const v4 = f32x4.add(kept, f32x4.mul(f32x4.mul(g, g), f32x4.splat(oneLessBeta2)))
    v128.store(newV + at, v4)
    const size4 = f32x4.add(f32x4.div(f32x4.sqrt(v4), f32x4.splat(root)), f32x4.splat(epsilon))
    const w = f32x4.mul(v128.load(weights + at), f32x4.splat(keep))
    v128.store(newWeights + at, f32x4.sub(w, f32x4.mul(f32x4.splat(rate), f32x4.div(m4, size4))))
  }
  for (; i < size; i++) {
    const at = <usize>i << 2
    const g: f32 = load<f32>(gradient + at) * clip
    let m1 = load<f32>(m + at)
    m1 = m1 + (g - m1) * oneLessBeta1
    store<f32>(newM + at, m1)
    const v1: f32 = load<f32>(v + at) * beta2 + g * g * oneLessBeta2
    store<f32>(newV + at, v1)
    const w: f32 = load<f32>(weights + at) * keep
    store<f32>(newWeights + at, w - rate * (m1 / (sqrt<f32>(v1) / root + epsilon)))
  }
}
