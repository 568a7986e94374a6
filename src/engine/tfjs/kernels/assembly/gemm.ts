/**
 * C (+)= A·B in blocks (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", TOMS 2008): both operands are
 * packed into panels that the 6×8 micro-kernel reads front to back.
 *
 * Every element of C is the same sum in the same order whatever M, N and its place in C: k ascending in blocks of KC, one fused
 * multiply-add each, blocks added to C in turn. So a row's result never depends on which rows share its batch.
 */

const MR: i32 = 6
const NR: i32 = 8
const MC: i32 = 96
const KC: i32 = 256
const NC: i32 = 1024

/** Bytes of scratch that `gemm` wants: a packed block of A, one of B, and a tile for the ragged edge. */
export function gemmScratchBytes(): i32 {
  return (MC * KC + KC * NC + MR * NR) * 4
}

// @ts-expect-error: decorator
@inline
function address(base: usize, row: i32, stride: i32, column: i32): usize {
  return base + ((<usize>row * <usize>stride + <usize>column) << 2)
}

/** Panels of MR rows, k-major; missing rows are zeros. `rowStride` and `kStride`: one of them is 1. */
function packA(target: usize, a: usize, lda: i32, transposed: bool, row0: i32, rows: i32, k0: i32, depth: i32): void {
  for (let i = 0; i < rows; i += MR) {
    const height = min(MR, rows - i)
    if (transposed) {
      let source = address(a, k0, lda, row0 + i)
      const step = <usize>lda << 2
      if (height == MR) {
        for (let k = 0; k < depth; k++) {
          v128.store(target, v128.load(source))
          v128.store64_lane(target, v128.load64_zero(source, 16), 0, 16)
          target += MR * 4
          source += step
        }
      } else {
        for (let k = 0; k < depth; k++) {
          for (let r = 0; r < MR; r++) {
            store<f32>(target + (r << 2), r < height ? load<f32>(source + (r << 2)) : 0)
          }
          target += MR * 4
          source += step
        }
      }
    } else {
      const r0 = address(a, row0 + i, lda, k0)
      const step = <usize>lda << 2
      if (height == MR) {
        const r1 = r0 + step
        const r2 = r1 + step
        const r3 = r2 + step
        const r4 = r3 + step
        const r5 = r4 + step
        let k = 0
        for (; k + 4 <= depth; k += 4) {
          const at = <usize>k << 2
          const a0 = v128.load(r0 + at)
          const a1 = v128.load(r1 + at)
          const a2 = v128.load(r2 + at)
          const a3 = v128.load(r3 + at)
          const a4 = v128.load(r4 + at)
          const a5 = v128.load(r5 + at)
          const t0 = v128.shuffle<f32>(a0, a1, 0, 4, 1, 5)
          const t1 = v128.shuffle<f32>(a2, a3, 0, 4, 1, 5)
          const t2 = v128.shuffle<f32>(a0, a1, 2, 6, 3, 7)
          const t3 = v128.shuffle<f32>(a2, a3, 2, 6, 3, 7)
          const u0 = v128.shuffle<f32>(a4, a5, 0, 4, 1, 5)
          const u1 = v128.shuffle<f32>(a4, a5, 2, 6, 3, 7)
          v128.store(target, v128.shuffle<f32>(t0, t1, 0, 1, 4, 5))
          v128.store64_lane(target, u0, 0, 16)
          v128.store(target, v128.shuffle<f32>(t0, t1, 2, 3, 6, 7), 24)
          v128.store64_lane(target, u0, 1, 40)
          v128.store(target, v128.shuffle<f32>(t2, t3, 0, 1, 4, 5), 48)
          v128.store64_lane(target, u1, 0, 64)
          v128.store(target, v128.shuffle<f32>(t2, t3, 2, 3, 6, 7), 72)
          v128.store64_lane(target, u1, 1, 88)
          target += MR * 4 * 4
        }
        for (; k < depth; k++) {
          const at = <usize>k << 2
          store<f32>(target, load<f32>(r0 + at))
          store<f32>(target, load<f32>(r1 + at), 4)
          store<f32>(target, load<f32>(r2 + at), 8)
          store<f32>(target, load<f32>(r3 + at), 12)
          store<f32>(target, load<f32>(r4 + at), 16)
          store<f32>(target, load<f32>(r5 + at), 20)
          target += MR * 4
        }
      } else {
        for (let k = 0; k < depth; k++) {
          for (let r = 0; r < MR; r++) {
            store<f32>(target + (r << 2), r < height ? load<f32>(r0 + <usize>r * step + (<usize>k << 2)) : 0)
          }
          target += MR * 4
        }
      }
    }
  }
}

/** Panels of NR columns, k-major; missing columns are zeros. */
function packB(target: usize, b: usize, ldb: i32, transposed: bool, k0: i32, depth: i32, column0: i32, columns: i32): void {
  for (let j = 0; j < columns; j += NR) {
    const width = min(NR, columns - j)
    const step = <usize>ldb << 2
    if (!transposed) {
      let source = address(b, k0, ldb, column0 + j)
      if (width == NR) {
        for (let k = 0; k < depth; k++) {
          v128.store(target, v128.load(source))
          v128.store(target, v128.load(source, 16), 16)
          target += NR * 4
          source += step
        }
      } else {
        for (let k = 0; k < depth; k++) {
          for (let c = 0; c < NR; c++) store<f32>(target + (c << 2), c < width ? load<f32>(source + (c << 2)) : 0)
          target += NR * 4
          source += step
        }
      }
    } else {
      const c0 = address(b, column0 + j, ldb, k0)
      if (width == NR) {
        let k = 0
        for (; k + 4 <= depth; k += 4) {
          for (let half = 0; half < 2; half++) {
            const row = c0 + <usize>(half << 2) * step + (<usize>k << 2)
            const b0 = v128.load(row)
            const b1 = v128.load(row + step)
            const b2 = v128.load(row + 2 * step)
            const b3 = v128.load(row + 3 * step)
            const t0 = v128.shuffle<f32>(b0, b1, 0, 4, 1, 5)
            const t1 = v128.shuffle<f32>(b2, b3, 0, 4, 1, 5)
            const t2 = v128.shuffle<f32>(b0, b1, 2, 6, 3, 7)
            const t3 = v128.shuffle<f32>(b2, b3, 2, 6, 3, 7)
            const to = target + (half << 4)
            v128.store(to, v128.shuffle<f32>(t0, t1, 0, 1, 4, 5))
            v128.store(to, v128.shuffle<f32>(t0, t1, 2, 3, 6, 7), 32)
            v128.store(to, v128.shuffle<f32>(t2, t3, 0, 1, 4, 5), 64)
            v128.store(to, v128.shuffle<f32>(t2, t3, 2, 3, 6, 7), 96)
          }
          target += NR * 4 * 4
        }
        for (; k < depth; k++) {
          for (let c = 0; c < NR; c++) store<f32>(target + (c << 2), load<f32>(c0 + <usize>c * step + (<usize>k << 2)))
          target += NR * 4
        }
      } else {
        for (let k = 0; k < depth; k++) {
          for (let c = 0; c < NR; c++) {
            store<f32>(target + (c << 2), c < width ? load<f32>(c0 + <usize>c * step + (<usize>k << 2)) : 0)
          }
          target += NR * 4
        }
      }
    }
  }
}

// @ts-expect-error: decorator
@inline
function put(c: usize, x: v128, y: v128, add: bool): void {
  if (add) {
    v128.store(c, f32x4.add(v128.load(c), x))
    v128.store(c, f32x4.add(v128.load(c, 16), y), 16)
  } else {
    v128.store(c, x)
    v128.store(c, y, 16)
  }
}

/** Twelve accumulators, two columns of B, one broadcast of A: all fifteen registers that V8 leaves on x64. */
function micro(depth: i32, a: usize, b: usize, c: usize, ldc: i32, add: bool): void {
  let c00 = f32x4.splat(0)
  let c01 = f32x4.splat(0)
  let c10 = f32x4.splat(0)
  let c11 = f32x4.splat(0)
  let c20 = f32x4.splat(0)
  let c21 = f32x4.splat(0)
  let c30 = f32x4.splat(0)
  let c31 = f32x4.splat(0)
  let c40 = f32x4.splat(0)
  let c41 = f32x4.splat(0)
  let c50 = f32x4.splat(0)
  let c51 = f32x4.splat(0)
  const end = b + <usize>(depth * NR * 4)
  while (b < end) {
    const b0 = v128.load(b)
    const b1 = v128.load(b, 16)
    let x = v128.load32_splat(a)
    c00 = f32x4.relaxed_madd(x, b0, c00)
    c01 = f32x4.relaxed_madd(x, b1, c01)
    x = v128.load32_splat(a, 4)
    c10 = f32x4.relaxed_madd(x, b0, c10)
    c11 = f32x4.relaxed_madd(x, b1, c11)
    x = v128.load32_splat(a, 8)
    c20 = f32x4.relaxed_madd(x, b0, c20)
    c21 = f32x4.relaxed_madd(x, b1, c21)
    x = v128.load32_splat(a, 12)
    c30 = f32x4.relaxed_madd(x, b0, c30)
    c31 = f32x4.relaxed_madd(x, b1, c31)
    x = v128.load32_splat(a, 16)
    c40 = f32x4.relaxed_madd(x, b0, c40)
    c41 = f32x4.relaxed_madd(x, b1, c41)
    x = v128.load32_splat(a, 20)
    c50 = f32x4.relaxed_madd(x, b0, c50)
    c51 = f32x4.relaxed_madd(x, b1, c51)
    a += MR * 4
    b += NR * 4
  }
  const step = <usize>ldc << 2
  put(c, c00, c01, add)
  c += step
  put(c, c10, c11, add)
  c += step
  put(c, c20, c21, add)
  c += step
  put(c, c30, c31, add)
  c += step
  put(c, c40, c41, add)
  c += step
  put(c, c50, c51, add)
}

/**
 * C[m][n] = A·B, or += with `accumulate`. `transposedA`: A lies as [k][m]; `transposedB`: B lies as [n][k].
 * The leading dimensions count floats, so operands may be column ranges of wider matrices.
 */
export function gemm(
  transposedA: bool,
  transposedB: bool,
  m: i32,
  n: i32,
  k: i32,
  a: usize,
  lda: i32,
  b: usize,
  ldb: i32,
  c: usize,
  ldc: i32,
  accumulate: bool,
  scratch: usize,
): void {
  const blockA = scratch
  const blockB = blockA + MC * KC * 4
  const tile = blockB + KC * NC * 4
  for (let j0 = 0; j0 < n; j0 += NC) {
    const columns = min(NC, n - j0)
    for (let k0 = 0; k0 < k; k0 += KC) {
      const depth = min(KC, k - k0)
      const add = accumulate || k0 > 0
      packB(blockB, b, ldb, transposedB, k0, depth, j0, columns)
      for (let i0 = 0; i0 < m; i0 += MC) {
        const rows = min(MC, m - i0)
        packA(blockA, a, lda, transposedA, i0, rows, k0, depth)
        for (let j = 0; j < columns; j += NR) {
          const width = min(NR, columns - j)
          const panelB = blockB + <usize>(j * depth * 4)
          for (let i = 0; i < rows; i += MR) {
            const height = min(MR, rows - i)
            const panelA = blockA + <usize>(i * depth * 4)
            const corner = address(c, i0 + i, ldc, j0 + j)
            if (height == MR && width == NR) micro(depth, panelA, panelB, corner, ldc, add)
            else {
              micro(depth, panelA, panelB, tile, NR, false)
              for (let r = 0; r < height; r++) {
                for (let s = 0; s < width; s++) {
                  const to = address(corner, r, ldc, s)
                  const value = load<f32>(address(tile, r, NR, s))
                  store<f32>(to, add ? load<f32>(to) + value : value)
                }
              }
            }
          }
        }
      }
    }
  }
}

/**
 * The same sums as `gemm` for a handful of rows and B as [k][n], without packing: what one decoding step wants, where reading the
 * weights once is all the work. Bit for bit equal to `gemm`. `scratch` holds n floats.
 */
export function gemmThin(m: i32, n: i32, k: i32, a: usize, lda: i32, b: usize, c: usize, ldc: i32, scratch: usize): void {
  const step = <usize>n << 2
  const whole = n & ~3
  for (let k0 = 0; k0 < k; k0 += KC) {
    const end = min(k, k0 + KC)
    for (let i = 0; i < m; i++) {
      const row = address(c, i, ldc, 0)
      const sums = k0 == 0 ? row : scratch
      memory.fill(sums, 0, step)
      let p = k0
      for (; p + 4 <= end; p += 4) {
        const from = address(a, i, lda, p)
        const x0 = v128.load32_splat(from)
        const x1 = v128.load32_splat(from, 4)
        const x2 = v128.load32_splat(from, 8)
        const x3 = v128.load32_splat(from, 12)
        const b0 = b + <usize>p * step
        const b1 = b0 + step
        const b2 = b1 + step
        const b3 = b2 + step
        let j = 0
        for (; j < whole; j += 4) {
          const at = <usize>j << 2
          let s = v128.load(sums + at)
          s = f32x4.relaxed_madd(x0, v128.load(b0 + at), s)
          s = f32x4.relaxed_madd(x1, v128.load(b1 + at), s)
          s = f32x4.relaxed_madd(x2, v128.load(b2 + at), s)
          s = f32x4.relaxed_madd(x3, v128.load(b3 + at), s)
          v128.store(sums + at, s)
        }
        for (; j < n; j++) {
          const at = <usize>j << 2
          let s = v128.load32_splat(sums + at)
          s = f32x4.relaxed_madd(x0, v128.load32_splat(b0 + at), s)
          s = f32x4.relaxed_madd(x1, v128.load32_splat(b1 + at), s)
          s = f32x4.relaxed_madd(x2, v128.load32_splat(b2 + at), s)
          s = f32x4.relaxed_madd(x3, v128.load32_splat(b3 + at), s)
          store<f32>(sums + at, f32x4.extract_lane(s, 0))
        }
      }
      for (; p < end; p++) {
        const x = v128.load32_splat(address(a, i, lda, p))
        const row0 = b + <usize>p * step
        for (let j = 0; j < n; j++) {
          const at = <usize>j << 2
          const s = f32x4.relaxed_madd(x, v128.load32_splat(row0 + at), v128.load32_splat(sums + at))
          store<f32>(sums + at, f32x4.extract_lane(s, 0))
        }
      }
      if (k0 > 0) {
        for (let j = 0; j < n; j++) {
          const at = <usize>j << 2
          store<f32>(row + at, load<f32>(row + at) + load<f32>(sums + at))
        }
      }
    }
  }
}

/** out[column][row] = x[row][column]. */
export function transpose(x: usize, out: usize, rows: i32, columns: i32): void {
  for (let r0 = 0; r0 < rows; r0 += 16) {
    const r1 = min(rows, r0 + 16)
    for (let c = 0; c < columns; c++) {
      for (let r = r0; r < r1; r++) store<f32>(address(out, c, rows, r), load<f32>(address(x, r, columns, c)))
    }
  }
}
