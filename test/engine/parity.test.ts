/**
 * Is the parity test able to see? A training loop of its own, in plain JavaScript around the operations, makes the golden losses;
 * then each of the mistakes one makes is made on purpose, and must show beyond the tolerance of the contract.
 */

import { assert, beforeAll, describe, it } from "@effect/vitest"
import * as tf from "@tensorflow/tfjs-core"
import { Effect } from "effect"
import { openHeap } from "../../src/engine/tfjs/Kernels.ts"
import { gradients } from "../../src/engine/tfjs/Network.ts"
import { type Ops, operations } from "../../src/engine/tfjs/Ops.ts"
import { type Architecture, tensors } from "../../src/model/Architecture.ts"
import { type GoldenModel, gpt2, llama, norm, optimizer, ROWS, rowsOfStep, STEPS, tensorsOf } from "./golden.ts"

const TOLERANCE = 2e-5

const starts = new Map<GoldenModel, ReadonlyArray<Float32Array>>()
beforeAll(async () => {
  await openHeap()
  for (const model of [gpt2, llama])
    starts.set(
      model,
      (await Effect.runPromise(tensorsOf(model))).map(({ data }) => data),
    )
})

interface Settings {
  readonly model?: GoldenModel
  readonly architecture?: Architecture
  readonly ops?: Ops
  readonly weightDecay?: number
  readonly epsilon?: number
  readonly decayAll?: boolean
}

const learn = (settings: Settings = {}) => {
  const { model = gpt2, ops = operations("Exp"), weightDecay = 0.1, epsilon = 1e-8, decayAll = false } = settings
  const { architecture = model.architecture } = settings
  const { beta1, beta2 } = optimizer
  const specs = tensors(architecture)
  const weights = starts.get(model)!.map((values) => Float64Array.from(values))
  const m = weights.map((values) => new Float64Array(values.length))
  const v = weights.map((values) => new Float64Array(values.length))
  const losses: Array<number> = []
  const gradNorms: Array<number> = []
  let first: ReadonlyArray<number> = []
  for (let step = 0; step < STEPS; step++)
    tf.tidy(() => {
      const held = new Map(
        specs.map(({ name, shape }, i) => [name, tf.tensor(Float32Array.from(weights[i]!), [...shape])]),
      )
      const found = gradients(ops, architecture, held, rowsOfStep(step), ROWS, 1 / (ROWS * 64))
      const values = found.gradients.map((gradient) => gradient.dataSync())
      losses.push((found.nll.dataSync() as Float32Array).reduce((a, b) => a + b, 0) / (ROWS * 64))
      const norms = values.map(norm)
      if (step === 0) first = norms
      gradNorms.push(norm(norms))
      const clip = Math.min(1, 1 / (norm(norms) + 1e-6))
      specs.forEach(({ decayed }, t) => {
        const keep = decayed || decayAll ? 1 - 3e-4 * weightDecay : 1
        values[t]!.forEach((gradient, i) => {
          const g = gradient * clip
          m[t]![i] = beta1 * m[t]![i]! + (1 - beta1) * g
          v[t]![i] = beta2 * v[t]![i]! + (1 - beta2) * g * g
          const mean = m[t]![i]! / (1 - beta1 ** (step + 1))
          const size = Math.sqrt(v[t]![i]! / (1 - beta2 ** (step + 1))) + epsilon
          weights[t]![i] = weights[t]![i]! * keep - (3e-4 * mean) / size
        })
      })
    })
  return { losses, gradNorms, first, weights }
}

const worst = (losses: ReadonlyArray<number>, { golden } = gpt2): number =>
  Math.max(...losses.map((loss, i) => Math.abs(loss - golden.train.losses[i]!)))

/** An operation of one input, computed and differentiated in JavaScript. */
const custom = (
  name: string,
  forward: (x: Float32Array, width: number) => Float32Array,
  backward: (dy: Float32Array, x: Float32Array, width: number) => Float32Array,
): ((x: tf.Tensor) => tf.Tensor) => {
  const data = (tensor: unknown) => (tensor as tf.Tensor).dataSync() as Float32Array
  tf.registerKernel({
    kernelName: name,
    backendName: "wasm",
    kernelFunc: ({ inputs: { x } }) => tf.tensor(forward(data(x), x!.shape[1]!), x!.shape),
  })
  tf.registerGradient({
    kernelName: name,
    inputsToSave: ["x"],
    gradFunc: (dy, [x]) => {
      const dx = tf.tensor(backward(data(dy), data(x), x!.shape[1]!), x!.shape)
      return { x: () => dx }
    },
  })
  return (x) => tf.engine().runKernel(name, { x }) as tf.Tensor
}

describe("parity with PyTorch", () => {
  it.each([gpt2, llama])(
    "holds for loss, gradients of every tensor, twenty AdamW steps and the weights after them",
    (model) => {
      const { golden } = model
      const { losses, gradNorms, first, weights } = learn({ model })
      assert.isAtMost(worst(losses, model), TOLERANCE)
      tensors(model.architecture).forEach(({ name }, i) => {
        assert.isAtMost(Math.abs(first[i]! - golden.grad_norms_step0[name]!), 1e-5, name)
        assert.isAtMost(Math.abs(norm(weights[i]!) - golden.train.final_weight_norms[name]!), TOLERANCE, name)
      })
      gradNorms.forEach((one, i) => {
        assert.isAtMost(Math.abs(one - golden.train.grad_norm_before_clip[i]!), TOLERANCE)
      })
    },
  )

  it("sees the erf form of gelu", () => {
    const erf = (x: number) => {
      // Abramowitz and Stegun 7.1.26 is too coarse; the series is exact enough for |x| < 3
      if (Math.abs(x) > 3.5) return Math.sign(x)
      let sum = 0
      let term = x
      for (let n = 0; Math.abs(term) > 1e-9; n++) {
        sum += term / (2 * n + 1)
        term *= -(x * x) / (n + 1)
      }
      return (2 / Math.sqrt(Math.PI)) * sum
    }
    const phi = (x: number) => 0.5 * (1 + erf(x / Math.SQRT2))
    const gelu = custom(
      "FaultGelu",
      (x) => x.map((v) => v * phi(v)),
      (dy, x) => dy.map((d, i) => d * (phi(x[i]!) + (x[i]! * Math.exp((-x[i]! * x[i]!) / 2)) / Math.sqrt(2 * Math.PI))),
    )
    assert.isAbove(worst(learn({ ops: { ...operations("Exp"), gelu } }).losses), TOLERANCE)
  })

  it("sees another epsilon in layer norm", () => {
    const epsilon = 1e-6
    const normed = (x: Float32Array, width: number) => {
      const n = new Float32Array(x.length)
      const scales: Array<number> = []
      for (let r = 0; r < x.length; r += width) {
        const row = x.subarray(r, r + width)
        const mean = row.reduce((a, b) => a + b, 0) / width
        const scale = 1 / Math.sqrt(row.reduce((a, b) => a + (b - mean) ** 2, 0) / width + epsilon)
        row.forEach((v, i) => {
          n[r + i] = (v - mean) * scale
        })
        scales.push(scale)
      }
      return { n, scales }
    }
    const normalise = custom(
      "FaultNorm",
      (x, width) => normed(x, width).n,
      (dy, x, width) => {
        const { n, scales } = normed(x, width)
        const dx = new Float32Array(x.length)
        for (let r = 0; r < x.length; r += width) {
          let total = 0
          let along = 0
          for (let i = r; i < r + width; i++) {
            total += dy[i]! / width
            along += (dy[i]! * n[i]!) / width
          }
          for (let i = r; i < r + width; i++) dx[i] = (dy[i]! - total - n[i]! * along) * scales[r / width]!
        }
        return dx
      },
    )
    // gain and bias as a product with a diagonal matrix would do; here by kernels of their own
    tf.registerKernel({
      kernelName: "FaultAffine",
      backendName: "wasm",
      kernelFunc: ({ inputs: { x, g, b } }) =>
        tf.tidy(() => tf.add(tf.mul(x as tf.Tensor, g as tf.Tensor), b as tf.Tensor)),
    })
    tf.registerGradient({
      kernelName: "FaultAffine",
      inputsToSave: ["x", "g"],
      gradFunc: (dy, [x, g]) => ({
        x: () => tf.mul(dy as tf.Tensor, g!),
        g: () => tf.sum(tf.mul(dy as tf.Tensor, x!), 0),
        b: () => tf.sum(dy as tf.Tensor, 0),
      }),
    })
    const layerNorm: Ops["layerNorm"] = (x, g, b) =>
      tf.engine().runKernel("FaultAffine", { x: normalise(x), g, b }) as tf.Tensor
    assert.isAbove(worst(learn({ ops: { ...operations("Exp"), layerNorm } }).losses), TOLERANCE)
  })

  it("sees forgotten weight decay, and another epsilon in Adam", () => {
    assert.isAbove(worst(learn({ weightDecay: 0 }).losses), TOLERANCE)
    assert.isAbove(worst(learn({ epsilon: 1e-6 }).losses), TOLERANCE)
  })

  it("sees decay of biases and layer norms, in the weights", () => {
    const { weights } = learn({ decayAll: true })
    const { architecture, golden } = gpt2
    const gain = tensors(architecture).findIndex(({ name }) => name === "transformer.ln_f.weight")
    assert.isAbove(
      Math.abs(norm(weights[gain]!) - golden.train.final_weight_norms["transformer.ln_f.weight"]!),
      TOLERANCE,
    )
  })

  it.each([
    { normEpsilon: 1e-5 },
    { ropeTheta: 9900 },
    { slidingWindow: 63 },
    // the row of the padding token learns
    { paddingId: 255 },
  ])("sees of a LLaMA %o", (fault) => {
    const architecture = { ...llama.architecture, ...fault } as Architecture
    assert.isAbove(worst(learn({ model: llama, architecture }).losses, llama), TOLERANCE)
  })
})
