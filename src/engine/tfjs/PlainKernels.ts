/** The operations of `Ops.ts` composed of standard tfjs operations: slow on wasm, right on every backend. */
import * as tf from "@tensorflow/tfjs-core"
import { LAYER_NORM_EPSILON } from "../../model/Architecture.ts"
import { registerGradients, type Sequences } from "./Ops.ts"

type Inputs = Readonly<Record<string, tf.Tensor2D>>

const GELU_SCALE = Math.sqrt(2 / Math.PI)
const GELU_CUBE = 0.044715

const oneHot = (ids: tf.Tensor, depth: number): tf.Tensor2D =>
  tf.cast(tf.oneHot(ids as tf.Tensor1D, depth), "float32") as tf.Tensor2D

/** Mean and 1/deviation of a row, side by side. */
const columns = (stats: tf.Tensor2D): readonly [tf.Tensor, tf.Tensor] => tf.split(stats, 2, 1) as [tf.Tensor, tf.Tensor]

/** q, k, v as [batch, heads, length, width/heads], and the probabilities. */
const attend = (qkv: tf.Tensor, { batch, length, heads }: Sequences) => {
  const width = qkv.shape[1]! / 3
  const split = tf.split(tf.reshape(qkv, [batch, length, 3 * width]), 3, 2)
  const [q, k, v] = split.map((part) => byHead(part, { batch, length, heads })) as [tf.Tensor, tf.Tensor, tf.Tensor]
  const scale = 1 / Math.sqrt(width / heads)
  const steps = tf.range(0, length, 1)
  const hidden = tf.greater(tf.reshape(steps, [1, length]), tf.reshape(steps, [length, 1]))
  const scores = tf.mul(tf.matMul(q, k, false, true), scale)
  return { q, k, v, scale, p: tf.softmax(tf.add(scores, tf.mul(tf.cast(hidden, "float32"), -1e9))) }
}

const byHead = (x: tf.Tensor, { batch, length, heads }: Sequences): tf.Tensor =>
  tf.transpose(tf.reshape(x, [batch, length, heads, -1]), [0, 2, 1, 3])

const byRow = (x: tf.Tensor, { batch, length }: Sequences): tf.Tensor2D =>
  tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [batch * length, -1])

/** Registers the kernels for the backend now set. */
export const registerPlain = (): void => {
  const kernel = (name: string, compute: (inputs: Inputs, sizes: Sequences) => tf.Tensor | Array<tf.Tensor>) =>
    tf.registerKernel({
      kernelName: `Plain${name}`,
      backendName: tf.getBackend(),
      kernelFunc: ({ inputs, attrs }) =>
        tf.tidy(() => compute(inputs as unknown as Inputs, (attrs ?? {}) as unknown as Sequences)),
    })

  kernel("Add", ({ x, y }) => tf.add(x!, y!))
  kernel("Linear", ({ x, w, b }) => tf.add(tf.matMul(x!, w!), b!))
  kernel("LinearGradient", ({ dy, x, w }) => [
    tf.matMul(dy!, w!, false, true),
    tf.matMul(x!, dy!, true, false),
    tf.sum(dy!, 0),
  ])
  kernel("Head", ({ x, table }) => tf.matMul(x!, table!, false, true))
  kernel("HeadGradient", ({ dy, x, table }) => [tf.matMul(dy!, table!), tf.matMul(dy!, x!, true, false)])

  kernel("LayerNorm", ({ x, gain, bias }) => {
    const mean = tf.mean(x!, -1, true)
    const centred = tf.sub(x!, mean)
    const scale = tf.rsqrt(tf.add(tf.mean(tf.mul(centred, centred), -1, true), LAYER_NORM_EPSILON))
    return [tf.add(tf.mul(tf.mul(centred, scale), gain!), bias!), tf.concat([mean, scale], 1)]
  })
  kernel("LayerNormGradient", ({ dy, x, gain, stats }) => {
    const [mean, scale] = columns(stats!)
    const normed = tf.mul(tf.sub(x!, mean), scale)
    const g = tf.mul(dy!, gain!)
    const along = tf.mul(normed, tf.mean(tf.mul(g, normed), -1, true))
    return [
      tf.mul(tf.sub(tf.sub(g, tf.mean(g, -1, true)), along), scale),
      tf.sum(tf.mul(dy!, normed), 0),
      tf.sum(dy!, 0),
    ]
  })

  const gate = (x: tf.Tensor) =>
    tf.sigmoid(tf.mul(tf.mul(x, 2 * GELU_SCALE), tf.add(tf.mul(tf.mul(x, x), GELU_CUBE), 1)))
  kernel("Gelu", ({ x }) => tf.mul(x!, gate(x!)))
  kernel("GeluGradient", ({ dy, x }) => {
    const g = gate(x!)
    const slope = tf.mul(tf.add(tf.mul(tf.mul(x!, x!), 3 * GELU_CUBE), 1), 2 * GELU_SCALE)
    return tf.mul(dy!, tf.add(g, tf.mul(tf.mul(tf.mul(x!, g), tf.sub(1, g)), slope)))
  })

  kernel("Attention", ({ qkv }, sizes) => {
    const { p, v } = attend(qkv!, sizes)
    return byRow(tf.matMul(p, v), sizes)
  })
  kernel("AttentionGradient", ({ dy, qkv }, sizes) => {
    const { q, k, v, p, scale } = attend(qkv!, sizes)
    const dout = byHead(dy!, sizes)
    const dp = tf.matMul(dout, v, false, true)
    const ds = tf.mul(tf.mul(p, tf.sub(dp, tf.sum(tf.mul(p, dp), -1, true))), scale)
    const parts = [tf.matMul(ds, k), tf.matMul(ds, q, true, false), tf.matMul(p, dout, true, false)]
    return tf.concat(
      parts.map((part) => byRow(part, sizes)),
      1,
    )
  })

  kernel("CrossEntropy", ({ logits, targets }) => {
    const top = tf.max(logits!, -1, true)
    const total = tf.sum(tf.exp(tf.sub(logits!, top)), -1, true)
    const wanted = tf.sum(tf.mul(logits!, oneHot(targets!, logits!.shape[1])), -1, true)
    return [tf.reshape(tf.sub(tf.add(tf.log(total), top), wanted), [-1]), tf.concat([top, total], 1)]
  })
  kernel("CrossEntropyGradient", ({ dy, logits, stats, targets }) => {
    const [top, total] = columns(stats!)
    const p = tf.div(tf.exp(tf.sub(logits!, top)), total)
    return tf.mul(tf.sub(p, oneHot(targets!, logits!.shape[1])), tf.reshape(dy!, [-1, 1]))
  })

  kernel("Embedding", ({ ids, table, positions }, { batch, length }) =>
    tf.add(
      tf.gather(table!, ids as unknown as tf.Tensor1D),
      tf.tile(tf.slice(positions!, [0, 0], [length, -1]), [batch, 1]),
    ),
  )
  kernel("EmbeddingGradient", ({ dy, ids, table, positions }, { batch, length }) => {
    const byPosition = tf.sum(tf.reshape(dy!, [batch, length, -1]), 0) as tf.Tensor2D
    return [
      tf.matMul(oneHot(ids!, table!.shape[0]), dy!, true, false),
      tf.pad(byPosition, [
        [0, positions!.shape[0] - length],
        [0, 0],
      ]),
    ]
  })
  registerGradients("Plain")
}
