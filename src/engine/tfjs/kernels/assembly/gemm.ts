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
        block(rows, columns, depth, blockA, blockB, address(c, i0, ldc, j0), ldc, add, tile)
      }
    }
  }
}

/** All of a packed block of A times all of a packed block of B. */
function block(
  rows: i32, columns: i32, depth: i32, a: usize, b: usize, c: usize, ldc: i32, add: bool, tile: usize,
): void {
  for (let j = 0; j < columns; j += NR) {
    const width = min(NR, columns - j)
    const panelB = b + <usize>(j * depth * 4)
    for (let i = 0; i < rows; i += MR) {
      const height = min(MR, rows - i)
      const panelA = a + <usize>(i * depth * 4)
      const corner = address(c, i, ldc, j)
      if (height == MR && width == NR) micro(depth, panelA, panelB, corner, ldc, add)
      else {
        micro(depth, panelA, panelB, tile, NR, false)
        copyTile(tile, corner, ldc, height, width, add)
      }
    }
  }
}

function copyTile(tile: usize, c: usize, ldc: i32, height: i32, width: i32, add: bool): void {
  for (let r = 0; r < height; r++) {
    for (let s = 0; s < width; s++) {
      const to = address(c, r, ldc, s)
      const value = load<f32>(address(tile, r, NR, s))
      store<f32>(to, add ? load<f32>(to) + value : value)
    }
  }
}

/** Bytes of an operand B of k × n, packed for good. */
export function packedBytes(n: i32, k: i32): i32 {
  return panels(n) * NR * k * 4
}

// @ts-expect-error: decorator
@inline
function panels(columns: i32): i32 {
  return (columns + NR - 1) / NR
}

/** What `gemm` makes of B for itself, block after block, kept in `target` for many products with the same B. */
export function pack(transposed: bool, n: i32, k: i32, b: usize, ldb: i32, target: usize): void {
  for (let j0 = 0; j0 < n; j0 += NC) {
    const columns = min(NC, n - j0)
    for (let k0 = 0; k0 < k; k0 += KC) {
      const depth = min(KC, k - k0)
      packB(target, b, ldb, transposed, k0, depth, j0, columns)
      target += <usize>(panels(columns) * NR * depth * 4)
    }
  }
}

/**
 * C = A·B with B from `pack`, bit for bit equal to `gemm`. Where rows are few, as in decoding, packing would be most of the work,
 * and a panel of six rows mostly empty: what is left of six is read as it lies, by kernels of four, two and one rows.
 */
export function gemmPacked(
  m: i32, n: i32, k: i32, a: usize, lda: i32, packed: usize, c: usize, ldc: i32, scratch: usize,
): void {
  const tile = scratch + MC * KC * 4
  const full = m - (m % MR)
  for (let j0 = 0; j0 < n; j0 += NC) {
    const columns = min(NC, n - j0)
    for (let k0 = 0; k0 < k; k0 += KC) {
      const depth = min(KC, k - k0)
      for (let i0 = 0; i0 < full; i0 += MC) {
        const rows = min(MC, full - i0)
        packA(scratch, a, lda, false, i0, rows, k0, depth)
        block(rows, columns, depth, scratch, packed, address(c, i0, ldc, j0), ldc, k0 > 0, tile)
      }
      if (full < m) {
        const corner = address(c, full, ldc, j0)
        fewRows(m - full, columns, depth, address(a, full, lda, k0), lda, packed, corner, ldc, k0 > 0, tile)
      }
      packed += <usize>(panels(columns) * NR * depth * 4)
    }
  }
}

/** Columns that the kernels of few rows take at once: eight accumulators, as many as keep the multipliers busy. */
const WIDE: i32 = 4 * NR

function fewRows(
  rows: i32, columns: i32, depth: i32, a: usize, lda: i32, b: usize, c: usize, ldc: i32, add: bool, tile: usize,
): void {
  const panel = <usize>(depth * NR * 4)
  const step = <usize>lda << 2
  for (let j = 0; j < columns; j += WIDE) {
    const from = b + <usize>(j / NR) * panel
    const to = c + (<usize>j << 2)
    if (columns - j < WIDE) {
      for (let i = 0; i < rows; i++) narrow(depth, a + <usize>i * step, from, address(to, i, ldc, 0), columns - j, add, tile)
      continue
    }
    let i = 0
    if ((rows & 4) != 0) {
      for (let p = 0; p < 4; p++) micro4(depth, a, step, from + <usize>p * panel, to + <usize>(p * NR * 4), ldc, add)
      i = 4
    }
    if ((rows & 2) != 0) {
      for (let p = 0; p < 4; p += 2) {
        const at = address(to, i, ldc, p * NR)
        micro2(depth, a + <usize>i * step, step, from + <usize>p * panel, panel, at, ldc, add)
      }
      i += 2
    }
    if ((rows & 1) != 0) micro1(depth, a + <usize>i * step, from, panel, address(to, i, ldc, 0), add)
  }
}

/** Four rows, one panel. */
function micro4(depth: i32, a: usize, step: usize, b: usize, c: usize, ldc: i32, add: bool): void {
  let c00 = f32x4.splat(0)
  let c01 = f32x4.splat(0)
  let c10 = f32x4.splat(0)
  let c11 = f32x4.splat(0)
  let c20 = f32x4.splat(0)
  let c21 = f32x4.splat(0)
  let c30 = f32x4.splat(0)
  let c31 = f32x4.splat(0)
  let a1 = a + step
  let a2 = a1 + step
  let a3 = a2 + step
  const end = b + <usize>(depth * NR * 4)
  while (b < end) {
    const b0 = v128.load(b)
    const b1 = v128.load(b, 16)
    let x = v128.load32_splat(a)
    c00 = f32x4.relaxed_madd(x, b0, c00)
    c01 = f32x4.relaxed_madd(x, b1, c01)
    x = v128.load32_splat(a1)
    c10 = f32x4.relaxed_madd(x, b0, c10)
    c11 = f32x4.relaxed_madd(x, b1, c11)
    x = v128.load32_splat(a2)
    c20 = f32x4.relaxed_madd(x, b0, c20)
    c21 = f32x4.relaxed_madd(x, b1, c21)
    x = v128.load32_splat(a3)
    c30 = f32x4.relaxed_madd(x, b0, c30)
    c31 = f32x4.relaxed_madd(x, b1, c31)
    a += 4
    a1 += 4
    a2 += 4
    a3 += 4
    b += NR * 4
  }
  const below = <usize>ldc << 2
  put(c, c00, c01, add)
  c += below
  put(c, c10, c11, add)
  c += below
  put(c, c20, c21, add)
  c += below
  put(c, c30, c31, add)
}

/** Two rows, two panels. */
function micro2(depth: i32, a: usize, step: usize, b: usize, panel: usize, c: usize, ldc: i32, add: bool): void {
  let c00 = f32x4.splat(0)
  let c01 = f32x4.splat(0)
  let c02 = f32x4.splat(0)
  let c03 = f32x4.splat(0)
  let c10 = f32x4.splat(0)
  let c11 = f32x4.splat(0)
  let c12 = f32x4.splat(0)
  let c13 = f32x4.splat(0)
  let a1 = a + step
  let d = b + panel
  const end = d
  while (b < end) {
    const b0 = v128.load(b)
    const b1 = v128.load(b, 16)
    const b2 = v128.load(d)
    const b3 = v128.load(d, 16)
    let x = v128.load32_splat(a)
    c00 = f32x4.relaxed_madd(x, b0, c00)
    c01 = f32x4.relaxed_madd(x, b1, c01)
    c02 = f32x4.relaxed_madd(x, b2, c02)
    c03 = f32x4.relaxed_madd(x, b3, c03)
    x = v128.load32_splat(a1)
    c10 = f32x4.relaxed_madd(x, b0, c10)
    c11 = f32x4.relaxed_madd(x, b1, c11)
    c12 = f32x4.relaxed_madd(x, b2, c12)
    c13 = f32x4.relaxed_madd(x, b3, c13)
    a += 4
    a1 += 4
    b += NR * 4
    d += NR * 4
  }
  put(c, c00, c01, add)
  put(c + NR * 4, c02, c03, add)
  c += <usize>ldc << 2
  put(c, c10, c11, add)
  put(c + NR * 4, c12, c13, add)
}

/** One row, four panels. */
function micro1(depth: i32, a: usize, b: usize, panel: usize, c: usize, add: bool): void {
  let c0 = f32x4.splat(0)
  let c1 = f32x4.splat(0)
  let c2 = f32x4.splat(0)
  let c3 = f32x4.splat(0)
  let c4 = f32x4.splat(0)
  let c5 = f32x4.splat(0)
  let c6 = f32x4.splat(0)
  let c7 = f32x4.splat(0)
  let d = b + panel
  let e = d + panel
  let f = e + panel
  const end = d
  while (b < end) {
    const x = v128.load32_splat(a)
    c0 = f32x4.relaxed_madd(x, v128.load(b), c0)
    c1 = f32x4.relaxed_madd(x, v128.load(b, 16), c1)
    c2 = f32x4.relaxed_madd(x, v128.load(d), c2)
    c3 = f32x4.relaxed_madd(x, v128.load(d, 16), c3)
    c4 = f32x4.relaxed_madd(x, v128.load(e), c4)
    c5 = f32x4.relaxed_madd(x, v128.load(e, 16), c5)
    c6 = f32x4.relaxed_madd(x, v128.load(f), c6)
    c7 = f32x4.relaxed_madd(x, v128.load(f, 16), c7)
    a += 4
    b += NR * 4
    d += NR * 4
    e += NR * 4
    f += NR * 4
  }
  put(c, c0, c1, add)
  put(c + NR * 4, c2, c3, add)
  put(c + 2 * NR * 4, c4, c5, add)
  put(c + 3 * NR * 4, c6, c7, add)
}

/** One row and the fewer than WIDE columns at the right edge. */
function narrow(depth: i32, a: usize, b: usize, c: usize, columns: i32, add: bool, tile: usize): void {
  for (let j = 0; j < columns; j += NR) {
    let c0 = f32x4.splat(0)
    let c1 = f32x4.splat(0)
    const end = a + (<usize>depth << 2)
    for (let at = a; at < end; at += 4) {
      const x = v128.load32_splat(at)
      c0 = f32x4.relaxed_madd(x, v128.load(b), c0)
      c1 = f32x4.relaxed_madd(x, v128.load(b, 16), c1)
      b += NR * 4
    }
    const to = c + (<usize>j << 2)
    if (columns - j >= NR) put(to, c0, c1, add)
    else {
      put(tile, c0, c1, false)
      copyTile(tile, to, 0, 1, columns - j, add)
    }
  }
}
