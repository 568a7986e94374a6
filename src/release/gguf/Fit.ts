/**
 * The scale of a few numbers that shall be kept as small integers: the one whose weighted squared error Σ w·(x − x̂)² is least.
 *
 * The error as a function of the scale has many small valleys, one for each way to round. So a handful of scales around the obvious
 * one are tried; for the integers each of them gives, the best scale is a weighted regression, exactly known; the best pair wins.
 * `w` is 1, or how much a column matters (see `Importance.ts`).
 */

const SYMMETRIC_STEPS = 9
const AFFINE_STEPS = 8
/** In levels: how far a tried scale stretches the range beyond or within the levels there are. */
const STEP = 0.1
const REPEATS = 3

/** Much faster than `Math.round`, which minds −0. */
export const nearest = (value: number): number => Math.floor(value + 0.5)

export const clamp = (value: number, low: number, high: number): number =>
  value < low ? low : value > high ? high : value

/** x ≈ scale·q with integers q in [−levels, levels − 1]; 0 when all x are. May be negative: the extreme value takes −levels. */
export const fitSymmetric = (
  x: Float32Array,
  at: number,
  count: number,
  w: Float32Array,
  wAt: number,
  levels: number,
): number => {
  let extreme = 0
  for (let i = 0; i < count; i++) if (Math.abs(x[at + i]!) > Math.abs(extreme)) extreme = x[at + i]!
  if (extreme === 0) return 0
  let best = 0
  let scale = -extreme / levels
  for (let step = -SYMMETRIC_STEPS; step <= SYMMETRIC_STEPS; step++) {
    const inverse = -(levels + STEP * step) / extreme
    let xq = 0
    let qq = 0
    for (let i = 0; i < count; i++) {
      const value = x[at + i]!
      const q = clamp(nearest(value * inverse), -levels, levels - 1)
      const weighted = w[wAt + i]! * q
      xq += weighted * value
      qq += weighted * q
    }
    // what the regression explains of Σ w·x²
    if (qq > 0 && xq * xq > best * qq) {
      best = (xq * xq) / qq
      scale = xq / qq
    }
  }
  return scale
}

/** Of `fitAffine`. */
export const fitted = { scale: 0, offset: 0 }

/**
 * x ≈ scale·q + offset with integers q in [0, top]; the answer is left in `fitted`. `below`: the offset may not be positive, as
 * formats have it that store its amount alone.
 */
export const fitAffine = (
  x: Float32Array,
  at: number,
  count: number,
  w: Float32Array,
  wAt: number,
  top: number,
  below: boolean,
): void => {
  let low = x[at]!
  let high = low
  let total = 0
  let totalX = 0
  for (let i = 0; i < count; i++) {
    const value = x[at + i]!
    if (value < low) low = value
    if (value > high) high = value
    total += w[wAt + i]!
    totalX += w[wAt + i]! * value
  }
  if (below && low > 0) low = 0
  fitted.scale = 0
  fitted.offset = low
  if (high <= low || total <= 0) return
  let least = Number.POSITIVE_INFINITY
  const attempt = (scale: number, offset: number): void => {
    const inverse = 1 / scale
    let q1 = 0
    let qq = 0
    let xq = 0
    for (let i = 0; i < count; i++) {
      const value = x[at + i]!
      const q = clamp(nearest((value - offset) * inverse), 0, top)
      const weighted = w[wAt + i]! * q
      q1 += weighted
      qq += weighted * q
      xq += weighted * value
    }
    const determinant = total * qq - q1 * q1
    if (qq <= 0) return
    let newOffset = determinant > 0 ? (qq * totalX - q1 * xq) / determinant : offset
    if (below && newOffset > 0) newOffset = 0
    const newScale = (xq - newOffset * q1) / qq
    // Σ w·(x − x̂)² without Σ w·x², which is the same for all
    const error =
      newScale * newScale * qq +
      2 * newScale * newOffset * q1 +
      newOffset * newOffset * total -
      2 * (newScale * xq + newOffset * totalX)
    if (error < least && newScale > 0) {
      least = error
      fitted.scale = newScale
      fitted.offset = newOffset
    }
  }
  for (let step = -AFFINE_STEPS; step <= AFFINE_STEPS; step++) attempt((high - low) / (top + STEP * step), low)
  for (let repeat = 0; repeat < REPEATS && fitted.scale > 0; repeat++) attempt(fitted.scale, fitted.offset)
}
