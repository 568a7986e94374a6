/**
 * The layers of each family, forward only, on addresses of the heap: what `Inference.ts` runs. The sums are those of training.
 */
import {
  type Architecture,
  type Gpt2Architecture,
  keyValueWidth,
  LAYER_NORM_EPSILON,
  type LlamaArchitecture,
} from "../../model/Architecture.ts"
import type { Heap } from "./Kernels.ts"
import { headOf } from "./Llama.ts"

/** A matrix by address, [from][to] or transposed; `packed` is where it lies among the packed ones. */
export interface Matrix {
  readonly weight: number
  readonly transposed: 0 | 1
  readonly from: number
  readonly to: number
  readonly packed: number
}

/** Where rows lie: `x` is the residual stream, the others are free between layers. */
export interface Buffers {
  readonly x: number
  /** As wide as `x`. */
  readonly y: number
  readonly qkv: number
  readonly wide: number
  readonly active: number
  readonly stats: number
}

export interface Columns {
  readonly qkv: number
  /** Of the keys, and of the values, of a position. */
  readonly keyValue: number
  readonly wide: number
  readonly active: number
}

export interface Blocks {
  readonly columns: Columns
  /** Heads of keys, and of values. */
  readonly keyValueHeads: number
  /** Positions that a position sees. */
  readonly window: number
  /** All matrices that rows are multiplied by, the head's last. */
  readonly matrices: ReadonlyArray<Matrix>
  /** Rows of a text, from `position` on. */
  readonly embed: (ids: number, x: number, rows: number, position: number) => void
  /** Tells queries and keys of a text's rows, from `position` on, where they stand. */
  readonly place: (qkv: number, rows: number, position: number) => void
  /** One layer over `rows` rows; `attend` goes from `qkv` to `y`. */
  readonly layer: (i: number, rows: number, buffers: Buffers, attend: () => void) => void
  /** The norm after the last layer, from `x` to `y`. */
  readonly finish: (rows: number, buffers: Buffers) => void
}

/** y = x·matrix for rows of `stride` floats, by default as many as the matrix has columns. */
type Multiply = (x: number, matrix: Matrix, y: number, rows: number, stride?: number) => void

export const blocksOf = (
  heap: Heap,
  architecture: Architecture,
  addresses: ReadonlyMap<string, number>,
  multiply: Multiply,
): Blocks =>
  architecture.family === "gpt2"
    ? gpt2(heap, architecture, addresses, multiply)
    : llama(heap, architecture, addresses, multiply)

/** Notes matrices down, one behind the other as they will be packed. */
const packing = (heap: Heap) => {
  const matrices: Array<Matrix> = []
  let packed = 0
  const matrix = (weight: number, transposed: 0 | 1, from: number, to: number): Matrix => {
    const placed = { weight, transposed, from, to, packed }
    packed += heap.kernels.packedBytes(to, from)
    matrices.push(placed)
    return placed
  }
  return { matrices, matrix }
}

const gpt2 = (
  heap: Heap,
  { layers, width, heads, context, vocabulary }: Gpt2Architecture,
  addresses: ReadonlyMap<string, number>,
  multiply: Multiply,
): Blocks => {
  const { kernels } = heap
  const { matrices, matrix } = packing(heap)
  const at = (name: string): number => addresses.get(`transformer.${name}`)!
  const linear = (name: string, from: number, to: number) => ({
    matrix: matrix(at(`${name}.weight`), 0, from, to),
    bias: at(`${name}.bias`),
  })
  const all = Array.from({ length: layers }, (_, i) => ({
    qkv: linear(`h.${i}.attn.c_attn`, width, 3 * width),
    mix: linear(`h.${i}.attn.c_proj`, width, width),
    up: linear(`h.${i}.mlp.c_fc`, width, 4 * width),
    down: linear(`h.${i}.mlp.c_proj`, 4 * width, width),
  }))
  const table = at("wte.weight")
  matrix(table, 1, width, vocabulary)
  const norm = (name: string, rows: number, { x, y, stats }: Buffers): void =>
    kernels.layerNorm(x, at(`${name}.weight`), at(`${name}.bias`), y, stats, rows, width, LAYER_NORM_EPSILON)
  const product = (x: number, { matrix, bias }: ReturnType<typeof linear>, y: number, rows: number): void => {
    multiply(x, matrix, y, rows)
    kernels.addBias(y, bias, rows, matrix.to)
  }
  return {
    columns: { qkv: 3 * width, keyValue: width, wide: 4 * width, active: 4 * width },
    keyValueHeads: heads,
    window: context,
    matrices,
    embed: (ids, x, rows, position) =>
      kernels.embedding(ids, table, at("wpe.weight") + 4 * width * position, x, rows, rows, width),
    place: () => {},
    layer: (i, rows, buffers, attend) => {
      const { x, y, qkv, wide, active } = buffers
      const layer = all[i]!
      norm(`h.${i}.ln_1`, rows, buffers)
      product(y, layer.qkv, qkv, rows)
      attend()
      product(y, layer.mix, wide, rows)
      kernels.add(x, wide, x, rows * width)
      norm(`h.${i}.ln_2`, rows, buffers)
      product(y, layer.up, wide, rows)
      kernels.gelu(wide, active, 4 * rows * width)
      product(active, layer.down, y, rows)
      kernels.add(x, y, x, rows * width)
    },
    finish: (rows, buffers) => norm("ln_f", rows, buffers),
  }
}

const llama = (
  heap: Heap,
  architecture: LlamaArchitecture,
  addresses: ReadonlyMap<string, number>,
  multiply: Multiply,
): Blocks => {
  const { layers, width, heads, keyValueHeads, feedForwardWidth, ropeTheta, normEpsilon, context } = architecture
  const { kernels } = heap
  const { matrices, matrix } = packing(heap)
  const at = (name: string): number => addresses.get(`${name}.weight`)!
  const headWidth = width / heads
  const shared = keyValueWidth(architecture)
  const columns = { qkv: width + 2 * shared, keyValue: shared, wide: 2 * feedForwardWidth, active: feedForwardWidth }
  const all = Array.from({ length: layers }, (_, i) => {
    const linear = (name: string, from: number, to: number) => matrix(at(`model.layers.${i}.${name}_proj`), 1, from, to)
    return {
      q: linear("self_attn.q", width, width),
      k: linear("self_attn.k", width, shared),
      v: linear("self_attn.v", width, shared),
      mix: linear("self_attn.o", width, width),
      gate: linear("mlp.gate", width, feedForwardWidth),
      up: linear("mlp.up", width, feedForwardWidth),
      down: linear("mlp.down", feedForwardWidth, width),
    }
  })
  const table = at("model.embed_tokens")
  matrix(addresses.get(headOf(architecture))!, 1, width, architecture.vocabulary)
  const norm = (name: string, rows: number, { x, y, stats }: Buffers): void =>
    kernels.rmsNorm(x, at(name), y, stats, rows, width, normEpsilon)
  return {
    // the products of attention and of the way down go to `wide` and to `y`
    columns: { ...columns, wide: Math.max(columns.wide, width) },
    keyValueHeads,
    window: architecture.slidingWindow ?? context,
    matrices,
    embed: (ids, x, rows) => kernels.lookup(ids, table, x, rows, width),
    place: (qkv, rows, position) => {
      const turns = heap.turns(context, headWidth, ropeTheta) + 4 * headWidth * position
      kernels.rotate(qkv, turns, qkv, rows, rows, heads + keyValueHeads, headWidth, columns.qkv, 1)
    },
    layer: (i, rows, buffers, attend) => {
      const { x, y, qkv, wide, active } = buffers
      const { q, k, v, mix, gate, up, down } = all[i]!
      norm(`model.layers.${i}.input_layernorm`, rows, buffers)
      multiply(y, q, qkv, rows, columns.qkv)
      multiply(y, k, qkv + 4 * width, rows, columns.qkv)
      multiply(y, v, qkv + 4 * (width + shared), rows, columns.qkv)
      attend()
      multiply(y, mix, wide, rows)
      kernels.add(x, wide, x, rows * width)
      norm(`model.layers.${i}.post_attention_layernorm`, rows, buffers)
      multiply(y, gate, wide, rows, columns.wide)
      multiply(y, up, wide + 4 * feedForwardWidth, rows, columns.wide)
      kernels.swiglu(wide, active, rows, feedForwardWidth)
      multiply(active, down, y, rows)
      kernels.add(x, y, x, rows * width)
    },
    finish: (rows, buffers) => norm("model.norm", rows, buffers),
  }
}
