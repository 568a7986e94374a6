/** The operations of the model one by one: gradients against finite differences, our kernels against composed ones, bits against batches. */

import { readFileSync } from "node:fs"
import { assert, beforeAll, describe, it } from "@effect/vitest"
import * as tf from "@tensorflow/tfjs-core"
import { type Heap, openHeap } from "../../src/engine/tfjs/Kernels.ts"
import { compile } from "../../src/engine/tfjs/kernels/build.ts"
import { type Ops, operations } from "../../src/engine/tfjs/Ops.ts"
import { registerPlain } from "../../src/engine/tfjs/PlainKernels.ts"
import { stream } from "../../src/model/Random.ts"

let heap: Heap
beforeAll(async () => {
  heap = await openHeap()
  registerPlain()
})

const numbers = (name: string, ...shape: ReadonlyArray<number>): tf.Tensor => {
  const random = stream(1, name)
  const size = shape.reduce((a, b) => a * b, 1)
  return tf.tensor(
    Float32Array.from({ length: size }, (_, i) => random.normal(i)),
    [...shape],
  )
}
const values = (tensor: tf.Tensor): Float32Array => tensor.dataSync() as Float32Array
const integers = (size: number, below: number): tf.Tensor =>
  tf.tensor1d(
    Int32Array.from({ length: size }, (_, i) => (i * 7 + 3) % below),
    "int32",
  )

/** Odd sizes: every kernel has a remainder to care for. */
const sizes = { batch: 2, length: 67, heads: 3 }
const rows = sizes.batch * sizes.length

interface Case {
  readonly inputs: () => ReadonlyArray<tf.Tensor>
  readonly compute: (ops: Ops, ...inputs: ReadonlyArray<tf.Tensor>) => tf.Tensor
}

const cases: Readonly<Record<string, Case>> = {
  linear: {
    inputs: () => [numbers("x", 13, 9), numbers("w", 9, 21), numbers("b", 21)],
    compute: (ops, x, w, b) => ops.linear(x!, w!, b!),
  },
  project: {
    inputs: () => [numbers("x", 13, 9), numbers("t", 21, 9)],
    compute: (ops, x, t) => ops.project(x!, t!),
  },
  "project by three": {
    inputs: () => [numbers("x", 13, 9), numbers("a", 6, 9), numbers("b", 5, 9), numbers("c", 7, 9)],
    compute: (ops, x, ...matrices) => ops.project(x!, ...matrices),
  },
  layerNorm: {
    inputs: () => [numbers("x", 5, 11), numbers("g", 11), numbers("b", 11)],
    compute: (ops, x, g, b) => ops.layerNorm(x!, g!, b!),
  },
  rmsNorm: {
    inputs: () => [numbers("x", 5, 11), numbers("g", 11)],
    compute: (ops, x, g) => ops.rmsNorm(x!, g!, 1e-5),
  },
  swiglu: {
    inputs: () => [tf.mul(numbers("x", 7, 18), 3)],
    compute: (ops, x) => ops.swiglu(x!),
  },
  rotate: {
    inputs: () => [numbers("qkv", rows, 70)],
    compute: (ops, qkv) => ops.rotate(qkv!, { ...sizes, keyValueHeads: 1 }, 100),
  },
  gelu: {
    inputs: () => [tf.mul(numbers("x", 7, 9), 3)],
    compute: (ops, x) => ops.gelu(x!),
  },
  attention: {
    inputs: () => [numbers("qkv", rows, 3 * 15)],
    compute: (ops, qkv) => ops.attention(qkv!, sizes),
  },
  "attention with shared keys": {
    inputs: () => [numbers("qkv", rows, 10 * 5)],
    compute: (ops, qkv) => ops.attention(qkv!, { ...sizes, heads: 6, keyValueHeads: 2 }),
  },
  ...Object.fromEntries(
    [1, 5, 64, 66].map((window) => [
      `attention in a window of ${window}`,
      {
        inputs: () => [numbers("qkv", rows, 4 * 5)],
        compute: (ops: Ops, qkv?: tf.Tensor) => ops.attention(qkv!, { ...sizes, heads: 2, keyValueHeads: 1, window }),
      },
    ]),
  ),
  add: {
    inputs: () => [numbers("x", 3, 7), numbers("y", 3, 7)],
    compute: (ops, x, y) => ops.add(x!, y!),
  },
  crossEntropy: {
    inputs: () => [tf.mul(numbers("logits", 5, 1031), 3)],
    compute: (ops, logits) => ops.crossEntropy(logits!, integers(5, 1031)),
  },
  embedding: {
    inputs: () => [numbers("t", 19, 6), numbers("p", 9, 6)],
    compute: (ops, t, p) => ops.embedding(integers(14, 19), t!, p!, { batch: 2, length: 7 }),
  },
  lookup: {
    inputs: () => [numbers("t", 19, 6)],
    compute: (ops, t) => ops.lookup(integers(14, 19), t!),
  },
}

/** Value and gradients of Σ weight·f, with weights that no symmetry hides in. */
const differentiate = (ops: Ops, { inputs, compute }: Case) => {
  const variables = inputs()
  const shape = compute(ops, ...variables).shape
  const { value, grads } = tf
    .engine()
    .gradients(() => compute(ops, ...variables), [...variables], numbers("dy", ...shape))
  return { variables, value, gradients: grads }
}

const largest = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let worst = 0
  for (let i = 0; i < a.length; i++) worst = Math.max(worst, Math.abs(a[i]! - b[i]!))
  return worst
}

describe.each(Object.entries(cases))("%s", (_, one) => {
  it("agrees with standard operations, forwards and backwards", () =>
    tf.tidy(() => {
      const ours = differentiate(operations("Exp"), one)
      const plain = differentiate(operations("Plain"), one)
      assert.isAtMost(largest(values(ours.value), values(plain.value)), 2e-5)
      ours.gradients.forEach((gradient, i) => {
        assert.deepStrictEqual(gradient.shape, plain.gradients[i]!.shape)
        assert.isAtMost(largest(values(gradient), values(plain.gradients[i]!)), 5e-5)
      })
    }))

  it("has the gradient that finite differences give", () =>
    tf.tidy(() => {
      const ops = operations("Exp")
      const { variables, value, gradients } = differentiate(ops, one)
      const weight = values(numbers("dy", ...value.shape))
      const objective = (inputs: ReadonlyArray<tf.Tensor>): number =>
        tf.tidy(() => values(one.compute(ops, ...inputs)).reduce((sum, y, i) => sum + y * weight[i]!, 0))
      variables.forEach((variable, v) => {
        // along a random direction: one number stands for all elements
        const direction = numbers(`direction ${v}`, ...variable.shape)
        const along = (step: number) =>
          objective(variables.map((other, o) => (o === v ? tf.add(other, tf.mul(direction, step)) : other)))
        const step = 2e-3
        const numeric = (8 * (along(step) - along(-step)) - (along(2 * step) - along(-2 * step))) / (12 * step)
        const d = values(direction)
        const exact = values(gradients[v]!).reduce((sum, g, i) => sum + g * d[i]!, 0)
        assert.isAtMost(
          Math.abs(numeric - exact),
          2e-3 * Math.max(1, Math.abs(exact)),
          `input ${v}: ${numeric}, ${exact}`,
        )
      })
    }))
})

describe("matrix products", () => {
  const layouts = [
    [0, 0],
    [0, 1],
    [1, 0],
    [1, 1],
  ] as const
  const product = (ta: 0 | 1, tb: 0 | 1, m: number, n: number, k: number, start?: Float32Array) => {
    const a = numbers("a", m * k)
    const b = numbers("b", k * n)
    const c = start === undefined ? tf.zeros([m * n]) : tf.tensor1d(start)
    const at = (tensor: tf.Tensor) => heap.address(tensor)
    const add = start === undefined ? 0 : 1
    heap.kernels.gemm(ta, tb, m, n, k, at(a), ta ? m : k, at(b), tb ? k : n, at(c), n, add, heap.packing)
    return { a: values(a), b: values(b), c: c.dataSync() as Float32Array }
  }

  it("are right in all layouts, with and without adding, at all ragged sizes", () =>
    tf.tidy(() => {
      for (const [ta, tb] of layouts)
        for (const [m, n, k] of [
          [1, 1, 1],
          [7, 9, 5],
          [100, 31, 300],
          [13, 1030, 4],
          [6, 8, 515],
        ] as const) {
          const first = product(ta, tb, m, n, k)
          const second = product(ta, tb, m, n, k, first.c.slice())
          for (let i = 0; i < m; i++)
            for (let j = 0; j < n; j++) {
              let sum = 0
              for (let p = 0; p < k; p++)
                sum += first.a[ta ? p * m + i : i * k + p]! * first.b[tb ? j * k + p : p * n + j]!
              assert.isAtMost(Math.abs(first.c[i * n + j]! - sum), 1e-4)
              assert.isAtMost(Math.abs(second.c[i * n + j]! - 2 * sum), 2e-4)
            }
        }
    }))

  /** x·w with w packed beforehand, as decoding does it. */
  const packed = (x: Float32Array, w: Float32Array, m: number, n: number, k: number, tb: 0 | 1 = 0): Float32Array => {
    const { gemmPacked, pack, packedBytes } = heap.kernels
    const [a, b, c] = [tf.tensor1d(x), tf.tensor1d(w), tf.zeros([m * n])].map((tensor) => heap.address(tensor)) as [
      number,
      number,
      number,
    ]
    const panels = heap.allocate(packedBytes(n, k))
    pack(tb, n, k, b, tb ? k : n, panels)
    gemmPacked(m, n, k, a, k, panels, c, n, heap.packing)
    heap.free(panels)
    return heap.floats(c, m * n).slice()
  }

  it("give a row the same bits whatever rows share its batch, packed beforehand or not", () =>
    tf.tidy(() => {
      const [n, k] = [77, 600]
      const { a, b, c } = product(0, 0, 29, n, k)
      const of = (first: number, rows: number) => c.slice(first * n, (first + rows) * n)
      for (const i of [0, 5, 28]) {
        const x = tf.tensor1d(a.slice(i * k, (i + 1) * k))
        const y = tf.zeros([n])
        const w = tf.tensor1d(b)
        heap.kernels.gemm(0, 0, 1, n, k, heap.address(x), k, heap.address(w), n, heap.address(y), n, 0, heap.packing)
        assert.deepStrictEqual(values(y), of(i, 1))
      }
      // every way to make up a number of rows of kernels of six, four, two and one
      for (const m of [1, 2, 3, 4, 5, 6, 7, 11, 29])
        assert.deepStrictEqual(packed(a, b, m, n, k), of(0, m), `${m} rows`)
    }))

  it("are the same with B packed beforehand, transposed or not, wide or ragged", () =>
    tf.tidy(() => {
      for (const tb of [0, 1] as const)
        for (const [m, n, k] of [
          [1, 1, 1],
          [103, 31, 300],
          [5, 1093, 4],
          [7, 2056, 257],
        ] as const) {
          const { a, b, c } = product(0, tb, m, n, k)
          assert.deepStrictEqual(packed(a, b, m, n, k, tb), c)
        }
    }))
})

describe("attention of one token against caches", () => {
  const layouts = [
    { heads: 3, keyValueHeads: 3, window: 60 },
    { heads: 6, keyValueHeads: 2, window: 60 },
    { heads: 2, keyValueHeads: 1, window: 7 },
  ]
  const cases = [5, 32, 36, 66].flatMap((headWidth) => layouts.map((layout) => ({ headWidth, ...layout })))
  it.each(cases)(
    "is that of the last row of the whole sequence, with $heads heads of $headWidth on $keyValueHeads, seeing $window",
    ({ headWidth, heads, keyValueHeads, window }) =>
      tf.tidy(() => {
        const capacity = 60
        const width = heads * headWidth
        const shared = keyValueHeads * headWidth
        const stride = width + 2 * shared
        const at = (tensor: tf.Tensor) => heap.address(tensor)
        const qkv = numbers("qkv", capacity, stride)
        const [cachedKeys, cachedValues, ours] = [
          tf.zeros([capacity, shared]),
          tf.zeros([capacity, shared]),
          tf.zeros([width]),
        ] as const
        const scratch = tf.zeros([capacity])
        const { attendCached, fillCache } = heap.kernels
        const half = 23
        const sizes = [capacity, heads, keyValueHeads, headWidth] as const
        fillCache(at(qkv), at(cachedKeys), at(cachedValues), half, ...sizes)
        for (let position = half; position < capacity; position++) {
          const row = at(qkv) + 4 * position * stride
          attendCached(row, at(cachedKeys), at(cachedValues), at(ours), position, ...sizes, window, at(scratch))
          const seen = tf.slice(qkv, [0, 0], [position + 1, stride])
          const sequences = { batch: 1, length: position + 1, heads, keyValueHeads, window }
          const whole = operations("Exp").attention(seen, sequences)
          assert.isAtMost(largest(values(ours), values(whole).subarray(position * width)), 2e-6)
        }
      }),
  )
})

describe("functions", () => {
  it("exp is good to 2e-7 over its range, and passes NaN on", () =>
    tf.tidy(() => {
      // through softmax's normaliser: x and a maximum of 0
      const x = Float32Array.from({ length: 4000 }, (_, i) => -i / 50)
      const pairs = tf.tensor2d(
        Float32Array.from({ length: 8000 }, (_, i) => (i % 2 === 0 ? 0 : x[(i - 1) / 2]!)),
        [4000, 2],
      )
      const stats = tf.zeros([4000, 2])
      heap.kernels.logSumExp(heap.address(pairs), heap.address(stats), 4000, 2)
      const sums = values(stats)
      x.forEach((value, i) => {
        assert.isAtMost(Math.abs(sums[2 * i + 1]! - (1 + Math.exp(value))), 2.5e-7)
      })
      const nan = tf.tensor2d([0, Number.NaN, 1, 2], [1, 4])
      heap.kernels.logSumExp(heap.address(nan), heap.address(stats), 1, 4)
      assert.isNaN(values(stats)[1])
    }))

  it("gelu is good to 4e-6 relative, also where it is tiny", () =>
    tf.tidy(() => {
      const x = Float32Array.from({ length: 2001 }, (_, i) => (i - 1000) / 200)
      const y = operations("Exp").gelu(tf.tensor1d(x)).dataSync()
      x.forEach((v, i) => {
        const gate = 1 / (1 + Math.exp(-2 * Math.sqrt(2 / Math.PI) * (v + 0.044715 * v ** 3)))
        assert.isAtMost(Math.abs(y[i]! - v * gate), 4e-6 * Math.abs(v * gate) + 1e-38)
      })
    }))
})

describe("kernels.wasm and optimizer.wasm", () => {
  let compiled: ReadonlyMap<string, Uint8Array>
  beforeAll(async () => {
    compiled = await compile()
  })

  it("are what their sources compile to", () => {
    for (const [file, bytes] of compiled) {
      const committed = readFileSync(new URL(`../../src/engine/tfjs/kernels/${file}`, import.meta.url))
      assert.isTrue(committed.equals(bytes), `${file} is stale: run \`npx node src/engine/tfjs/kernels/build.ts\``)
    }
  })

  it("own no static memory, which would be tfjs's", () => {
    for (const bytes of compiled.values()) {
      const sections: Array<number> = []
      // section: id, size as LEB128, contents
      for (let at = 8; at < bytes.length; ) {
        sections.push(bytes[at++]!)
        let size = 0
        for (let shift = 0; ; shift += 7) {
          const byte = bytes[at++]!
          size |= (byte & 127) << shift
          if (byte < 128) break
        }
        at += size
      }
      assert.notInclude(sections, 11)
    }
  })
})
