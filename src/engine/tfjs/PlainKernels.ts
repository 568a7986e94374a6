/** The operations of `Ops.ts` composed of standard tfjs operations: slow on wasm, right on every backend. */
import * as tf from "@tensorflow/tfjs-core"
import { LAYER_NORM_EPSILON } from "../../model/Architecture.ts"
import { type Attributes, MATRICES, registerGradients, type Sequences } from "./Ops.ts"
import { turns } from "./Rotary.ts"

type Inputs = Readonly<Record<string, tf.Tensor2D>>

const GELU_SCALE = Math.sqrt(2 / Math.PI)
const GELU_CUBE = 0.044715

const oneHot = (ids: tf.Tensor, depth: number): tf.Tensor2D =>
  tf.cast(tf.oneHot(ids as tf.Tensor1D, depth), "float32") as tf.Tensor2D

/** Mean and 1/deviation of a row, side by side. */
const columns = (stats: tf.Tensor2D): readonly [tf.Tensor, tf.Tensor] => tf.split(stats, 2, 1) as [tf.Tensor, tf.Tensor]

/**
 * q as [batch, heads, length, width/heads]; k and v the same, each repeated for the heads of queries that share it; and the
 * probabilities.
 */
const attend = (qkv: tf.Tensor, sizes: Sequences) => {
  const { batch, length, heads, keyValueHeads = heads, window = length } = sizes
  const headWidth = qkv.shape[1]! / (heads + 2 * keyValueHeads)
  const shared = keyValueHeads * headWidth
  const split = tf.split(tf.reshape(qkv, [batch, length, -1]), [heads * headWidth, shared, shared], 2)
  const [q, k, v] = split.map((part, i) => {
    const own = byHead(part, sizes, i === 0 ? heads : keyValueHeads)
    return i === 0 ? own : repeated(own, heads / keyValueHeads)
  }) as [tf.Tensor, tf.Tensor, tf.Tensor]
  const scale = 1 / Math.sqrt(headWidth)
  const steps = tf.range(0, length, 1)
  const [key, query] = [tf.reshape(steps, [1, length]), tf.reshape(steps, [length, 1])]
  const hidden = tf.logicalOr(tf.greater(key, query), tf.lessEqual(key, tf.sub(query, window)))
  const scores = tf.mul(tf.matMul(q, k, false, true), scale)
  return { q, k, v, scale, p: tf.softmax(tf.add(scores, tf.mul(tf.cast(hidden, "float32"), -1e9))) }
}

const byHead = (x: tf.Tensor, { batch, length }: Sequences, heads: number): tf.Tensor =>
  tf.transpose(tf.reshape(x, [batch, length, heads, -1]), [0, 2, 1, 3])

const byRow = (x: tf.Tensor, { batch, length }: Sequences): tf.Tensor2D =>
  tf.reshape(tf.transpose(x, [0, 2, 1, 3]), [batch * length, -1])

/** [batch, heads, …] with every head `times` times in a row; and the sums that are its way back. */
const repeated = (x: tf.Tensor, times: number): tf.Tensor => {
  const [batch, heads, length, width] = x.shape as [number, number, number, number]
  if (times === 1) return x
  const all = tf.tile(tf.reshape(x, [batch * heads, 1, length * width]), [1, times, 1])
  return tf.reshape(all, [batch, heads * times, length, width])
}
const summed = (x: tf.Tensor, times: number): tf.Tensor => {
  const [batch, heads, length, width] = x.shape as [number, number, number, number]
  if (times === 1) return x
  const sums = tf.sum(tf.reshape(x, [(batch * heads) / times, times, length * width]), 1)
  return tf.reshape(sums, [batch, heads / times, length, width])
}

/** Queries and keys of rows q | k | v, turned forth or back. */
const rotated = (
  qkv: tf.Tensor2D,
  { batch, length, heads, keyValueHeads = heads, theta }: Attributes,
  sign: 1 | -1,
) => {
  const stride = qkv.shape[1]
  const headWidth = stride / (heads + 2 * keyValueHeads)
  const turned = heads + keyValueHeads
  const [together, values] = tf.split(qkv, [turned * headWidth, keyValueHeads * headWidth], 1) as [tf.Tensor, tf.Tensor]
  const [x, y] = tf.split(tf.reshape(together, [batch, length, turned, headWidth]), 2, 3) as [tf.Tensor, tf.Tensor]
  const table = tf.tensor(turns(length, headWidth, theta), [1, length, 1, headWidth])
  const [cosines, sines] = tf.split(table, 2, 3) as [tf.Tensor, tf.Tensor]
  const s = tf.mul(sines, sign)
  const [a, b] = [tf.sub(tf.mul(x, cosines), tf.mul(y, s)), tf.add(tf.mul(y, cosines), tf.mul(x, s))]
  return tf.concat([tf.reshape(tf.concat([a, b], 3), [batch * length, turned * headWidth]), values], 1)
}

/** Registers the kernels for the backend now set. */
export const registerPlain = (): void => {
  const kernel = (name: string, compute: (inputs: Inputs, sizes: Attributes) => tf.Tensor | Array<tf.Tensor>) =>
    tf.registerKernel({
      kernelName: `Plain${name}`,
      backendName: tf.getBackend(),
      kernelFunc: ({ inputs, attrs }) =>
        tf.tidy(() => compute(inputs as unknown as Inputs, (attrs ?? {}) as unknown as Attributes)),
    })

  kernel("Add", ({ x, y }) => tf.add(x!, y!))
  kernel("Linear", ({ x, w, b }) => tf.add(tf.matMul(x!, w!), b!))
  kernel("LinearGradient", ({ dy, x, w }) => [
    tf.matMul(dy!, w!, false, true),
    tf.matMul(x!, dy!, true, false),
    tf.sum(dy!, 0),
  ])
  for (const [i] of MATRICES.entries()) {
    const names = MATRICES.slice(0, i + 1)
    const product = (inputs: Inputs, name: string) => tf.matMul(inputs["x"]!, inputs[name]!, false, true)
    kernel(`Project${i + 1}`, (inputs) =>
      i === 0
        ? product(inputs, names[0]!)
        : tf.concat(
            names.map((name) => product(inputs, name)),
            1,
          ),
    )
    kernel(`Project${i + 1}Gradient`, (inputs) => {
      const widths = names.map((name) => inputs[name]!.shape[0])
      const parts = (i === 0 ? [inputs["dy"]!] : tf.split(inputs["dy"]!, widths, 1)) as Array<tf.Tensor2D>
      const dx = names.map((name, n) => tf.matMul(parts[n]!, inputs[name]!)).reduce((a, b) => tf.add(a, b))
      return [dx, ...parts.map((part) => tf.matMul(part, inputs["x"]!, true, false))]
    })
  }

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

  kernel("RmsNorm", ({ x, gain }, { epsilon }) => {
    const scale = tf.rsqrt(tf.add(tf.mean(tf.mul(x!, x!), -1, true), epsilon))
    return [tf.mul(tf.mul(x!, scale), gain!), scale]
  })
  kernel("RmsNormGradient", ({ dy, x, gain, stats }) => {
    const normed = tf.mul(x!, stats!)
    const g = tf.mul(dy!, gain!)
    const along = tf.mul(normed, tf.mean(tf.mul(g, normed), -1, true))
    return [tf.mul(tf.sub(g, along), stats!), tf.sum(tf.mul(dy!, normed), 0)]
  })

  const gate = (x: tf.Tensor) =>
    tf.sigmoid(tf.mul(tf.mul(x, 2 * GELU_SCALE), tf.add(tf.mul(tf.mul(x, x), GELU_CUBE), 1)))
  kernel("Gelu", ({ x }) => tf.mul(x!, gate(x!)))
  kernel("GeluGradient", ({ dy, x }) => {
    const g = gate(x!)
    const slope = tf.mul(tf.add(tf.mul(tf.mul(x!, x!), 3 * GELU_CUBE), 1), 2 * GELU_SCALE)
    return tf.mul(dy!, tf.add(g, tf.mul(tf.mul(tf.mul(x!, g), tf.sub(1, g)), slope)))
  })

  kernel("Swiglu", ({ x }) => {
    const [g, up] = tf.split(x!, 2, 1) as [tf.Tensor, tf.Tensor]
    return tf.mul(tf.mul(g, tf.sigmoid(g)), up)
  })
  kernel("SwigluGradient", ({ dy, x }) => {
    const [g, up] = tf.split(x!, 2, 1) as [tf.Tensor, tf.Tensor]
    const s = tf.sigmoid(g)
    const slope = tf.mul(s, tf.add(tf.mul(g, tf.sub(1, s)), 1))
    return tf.concat([tf.mul(tf.mul(dy!, up), slope), tf.mul(dy!, tf.mul(g, s))], 1)
  })

  kernel("Rotate", ({ qkv }, sizes) => rotated(qkv!, sizes, 1))
  kernel("RotateGradient", ({ dy }, sizes) => rotated(dy!, sizes, -1))
  kernel("Attention", ({ qkv }, sizes) => {
    const { p, v } = attend(qkv!, sizes)
    return byRow(tf.matMul(p, v), sizes)
  })
  kernel("AttentionGradient", ({ dy, qkv }, sizes) => {
    const { q, k, v, p, scale } = attend(qkv!, sizes)
    const { heads, keyValueHeads = heads } = sizes
    const dout = byHead(dy!, sizes, heads)
    const dp = tf.matMul(dout, v, false, true)
    const ds = tf.mul(tf.mul(p, tf.sub(dp, tf.sum(tf.mul(p, dp), -1, true))), scale)
    const shared = [tf.matMul(ds, q, true, false), tf.matMul(p, dout, true, false)]
    const parts = [tf.matMul(ds, k), ...shared.map((part) => summed(part, heads / keyValueHeads))]
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
  kernel("Lookup", ({ ids, table }) => tf.gather(table!, ids as unknown as tf.Tensor1D))
  kernel("LookupGradient", ({ dy, ids, table }, { paddingId }) => {
    const learning = tf.cast(tf.notEqual(ids!, tf.scalar(paddingId, "int32")), "float32")
    return tf.matMul(oneHot(ids!, table!.shape[0]), tf.mul(dy!, tf.reshape(learning, [-1, 1])), true, false)
  })
  registerGradients("Plain")
}
