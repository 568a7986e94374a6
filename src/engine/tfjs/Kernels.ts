/**
 * Our own WebAssembly kernels, linked to the heap of tfjs's wasm backend: tfjs allocates and frees tensors, these compute on them.
 *
 * Why not tfjs's own: its matMul runs at 25–46 GFLOP/s a thread and at 1–2 with a transposed or batched operand; ours makes 50 in
 * all layouts. `kernels.wasm` is compiled from `kernels/assembly` (`kernels/build.ts`); it has no static memory, or it would write
 * over tfjs's.
 */
import { readFileSync } from "node:fs"
import "@tensorflow/tfjs-backend-wasm"
import * as tf from "@tensorflow/tfjs-core"
import { LAYER_NORM_EPSILON } from "../../model/Architecture.ts"
import { type Attributes, MATRICES, registerGradients } from "./Ops.ts"
import { turns } from "./Rotary.ts"

type Numbers<Count extends number, All extends ReadonlyArray<number> = []> = All["length"] extends Count
  ? All
  : Numbers<Count, readonly [...All, number]>
type Kernel<Count extends number> = (...pointersAndSizes: Numbers<Count>) => void

/** Pointers are byte addresses; the meaning of the arguments is told in `kernels/assembly`. */
export interface Kernels {
  readonly gemm: Kernel<13>
  readonly gemmPacked: Kernel<9>
  readonly pack: Kernel<6>
  readonly add: Kernel<4>
  readonly addBias: Kernel<4>
  readonly columnSums: Kernel<4>
  readonly layerNorm: Kernel<8>
  readonly layerNormGradient: Kernel<9>
  readonly rmsNorm: Kernel<7>
  readonly rmsNormGradient: Kernel<8>
  readonly gelu: Kernel<3>
  readonly geluGradient: Kernel<4>
  readonly swiglu: Kernel<4>
  readonly swigluGradient: Kernel<5>
  readonly rotate: Kernel<9>
  readonly attention: Kernel<10>
  readonly attentionGradient: Kernel<11>
  readonly attendCached: Kernel<11>
  readonly fillCache: Kernel<8>
  readonly logSumExp: Kernel<4>
  readonly crossEntropyGradient: Kernel<7>
  readonly embedding: Kernel<7>
  readonly embeddingGradient: Kernel<9>
  readonly lookup: Kernel<5>
  readonly lookupGradient: Kernel<7>
  readonly packedBytes: (n: number, k: number) => number
  readonly gemmScratchBytes: () => number
  readonly attentionScratchBytes: (length: number) => number
}

/** The parts of tfjs's wasm backend that we rely on; not in its public types, checked when it is opened. */
interface WasmBackend {
  readonly wasm: {
    readonly asm: { readonly memory: WebAssembly.Memory }
    /** Replaced when the memory grows: never keep it. */
    readonly HEAPF32: Float32Array
    readonly HEAP32: Int32Array
    readonly _malloc: (bytes: number) => number
    readonly _free: (address: number) => void
  }
  readonly dataIdMap: { get(dataId: object): { readonly memoryOffset: number } }
  makeOutput(shape: ReadonlyArray<number>, dtype: tf.DataType): tf.TensorInfo
}

export class Heap {
  readonly backend: WasmBackend
  readonly kernels: Kernels
  /** Scratch for packed panels of matrix products, kept for good. */
  readonly packing: number
  #scratch = { address: 0, bytes: 0 }
  readonly #turns = new Map<string, { readonly address: number; readonly length: number }>()

  constructor(backend: WasmBackend) {
    this.backend = backend
    const module = new WebAssembly.Module(readFileSync(new URL("./kernels/kernels.wasm", import.meta.url)))
    const instance = new WebAssembly.Instance(module, { env: { memory: backend.wasm.asm.memory } })
    this.kernels = instance.exports as unknown as Kernels
    this.packing = this.allocate(this.kernels.gemmScratchBytes())
  }

  allocate(bytes: number): number {
    const address = this.backend.wasm._malloc(bytes) >>> 0
    if (address === 0)
      throw new RangeError(`tfjs-wasm: no ${bytes} bytes left of the 4 GiB that WebAssembly can address`)
    return address
  }
  free(address: number): void {
    this.backend.wasm._free(address)
  }
  /** Scratch whose contents last until the next call. */
  scratch(bytes: number): number {
    if (bytes > this.#scratch.bytes) {
      if (this.#scratch.address !== 0) this.free(this.#scratch.address)
      this.#scratch = { address: this.allocate(bytes), bytes }
    }
    return this.#scratch.address
  }
  /** Address of `turns` (`Rotary.ts`) for at least `length` positions, kept for good. */
  turns(length: number, headWidth: number, theta: number): number {
    const key = `${headWidth} ${theta}`
    const kept = this.#turns.get(key)
    if (kept !== undefined && kept.length >= length) return kept.address
    if (kept !== undefined) this.free(kept.address)
    const values = turns(length, headWidth, theta)
    const address = this.allocate(4 * values.length)
    this.floats(address, values.length).set(values)
    this.#turns.set(key, { address, length })
    return address
  }
  address(tensor: tf.TensorInfo): number {
    return this.backend.dataIdMap.get(tensor.dataId).memoryOffset
  }
  output(shape: ReadonlyArray<number>, dtype: tf.DataType = "float32"): tf.TensorInfo {
    const info = this.backend.makeOutput(shape, dtype)
    if (this.address(info) === 0)
      throw new RangeError(
        `tfjs-wasm: no room for ${shape.join("×")} numbers in the 4 GiB that WebAssembly can address`,
      )
    return info
  }
  /** A view that dies with the next allocation. */
  floats(address: number, length: number): Float32Array {
    return this.backend.wasm.HEAPF32.subarray(address >>> 2, (address >>> 2) + length)
  }
  integers(address: number, length: number): Int32Array {
    return this.backend.wasm.HEAP32.subarray(address >>> 2, (address >>> 2) + length)
  }
  get bytes(): number {
    return this.backend.wasm.asm.memory.buffer.byteLength
  }
}

let opened: Promise<Heap> | undefined

/** Starts tfjs's wasm backend in this thread (once) and registers the custom kernels. */
export const openHeap = (): Promise<Heap> => {
  opened ??= (async () => {
    await tf.setBackend("wasm")
    await tf.ready()
    const backend = tf.backend() as unknown as WasmBackend
    if (!(backend.wasm?.asm?.memory instanceof WebAssembly.Memory) || typeof backend.makeOutput !== "function")
      throw new Error(`tfjs-backend-wasm ${tf.version_core} does not show its memory`)
    const heap = new Heap(backend)
    register(heap)
    return heap
  })()
  return opened
}

const register = (heap: Heap): void => {
  const { kernels } = heap
  const kernel = (
    kernelName: string,
    compute: (inputs: Record<string, tf.TensorInfo>, attrs: Attributes) => tf.TensorInfo | Array<tf.TensorInfo>,
  ) =>
    tf.registerKernel({
      kernelName,
      backendName: "wasm",
      kernelFunc: ({ inputs, attrs }) =>
        compute(inputs as Record<string, tf.TensorInfo>, (attrs ?? {}) as unknown as Attributes),
    })
  const at = (tensor: tf.TensorInfo | undefined): number => heap.address(tensor!)

  kernel("ExpLinear", ({ x, w, b }) => {
    const [rows, from] = x!.shape as [number, number]
    const to = w!.shape[1]!
    const y = heap.output([rows, to])
    kernels.gemm(0, 0, rows, to, from, at(x), from, at(w), to, at(y), to, 0, heap.packing)
    kernels.addBias(at(y), at(b), rows, to)
    return y
  })
  kernel("ExpLinearGradient", ({ dy, x, w }) => {
    const [rows, from] = x!.shape as [number, number]
    const to = w!.shape[1]!
    const dx = heap.output([rows, from])
    const dw = heap.output([from, to])
    const db = heap.output([to])
    kernels.gemm(0, 1, rows, from, to, at(dy), to, at(w), to, at(dx), from, 0, heap.packing)
    kernels.gemm(1, 0, from, to, rows, at(x), from, at(dy), to, at(dw), to, 0, heap.packing)
    kernels.columnSums(at(dy), at(db), rows, to)
    return [dx, dw, db]
  })
  for (const [i] of MATRICES.entries()) {
    const names = MATRICES.slice(0, i + 1)
    kernel(`ExpProject${i + 1}`, (inputs) => {
      const [rows, from] = inputs["x"]!.shape as [number, number]
      const columns = names.map((name) => inputs[name]!.shape[0]!)
      const width = columns.reduce((a, b) => a + b)
      const y = heap.output([rows, width])
      let to = at(y)
      names.forEach((name, n) => {
        const w = at(inputs[name])
        kernels.gemm(0, 1, rows, columns[n]!, from, at(inputs["x"]), from, w, from, to, width, 0, heap.packing)
        to += 4 * columns[n]!
      })
      return y
    })
    kernel(`ExpProject${i + 1}Gradient`, (inputs) => {
      const [rows, from] = inputs["x"]!.shape as [number, number]
      const width = inputs["dy"]!.shape[1]!
      const dx = heap.output([rows, from])
      const gradients = names.map((name) => heap.output(inputs[name]!.shape))
      let dy = at(inputs["dy"])
      names.forEach((name, n) => {
        const [to] = inputs[name]!.shape as [number, number]
        const [w, dw] = [at(inputs[name]), at(gradients[n])]
        kernels.gemm(0, 0, rows, from, to, dy, width, w, from, at(dx), from, n > 0 ? 1 : 0, heap.packing)
        kernels.gemm(1, 0, to, from, rows, dy, width, at(inputs["x"]), from, dw, from, 0, heap.packing)
        dy += 4 * to
      })
      return [dx, ...gradients]
    })
  }
  kernel("ExpLayerNorm", ({ x, gain, bias }) => {
    const [rows, width] = x!.shape as [number, number]
    const y = heap.output([rows, width])
    const stats = heap.output([rows, 2])
    kernels.layerNorm(at(x), at(gain), at(bias), at(y), at(stats), rows, width, LAYER_NORM_EPSILON)
    return [y, stats]
  })
  kernel("ExpLayerNormGradient", ({ dy, x, gain, stats }) => {
    const [rows, width] = x!.shape as [number, number]
    const dx = heap.output([rows, width])
    const dgain = heap.output([width])
    const dbias = heap.output([width])
    kernels.layerNormGradient(at(dy), at(x), at(gain), at(stats), at(dx), at(dgain), at(dbias), rows, width)
    return [dx, dgain, dbias]
  })
  kernel("ExpRmsNorm", ({ x, gain }, { epsilon }) => {
    const [rows, width] = x!.shape as [number, number]
    const y = heap.output([rows, width])
    const stats = heap.output([rows])
    kernels.rmsNorm(at(x), at(gain), at(y), at(stats), rows, width, epsilon)
    return [y, stats]
  })
  kernel("ExpRmsNormGradient", ({ dy, x, gain, stats }) => {
    const [rows, width] = x!.shape as [number, number]
    const dx = heap.output([rows, width])
    const dgain = heap.output([width])
    kernels.rmsNormGradient(at(dy), at(x), at(gain), at(stats), at(dx), at(dgain), rows, width)
    return [dx, dgain]
  })
  kernel("ExpGelu", ({ x }) => {
    const y = heap.output(x!.shape)
    kernels.gelu(at(x), at(y), tf.util.sizeFromShape(x!.shape))
    return y
  })
  kernel("ExpGeluGradient", ({ dy, x }) => {
    const dx = heap.output(x!.shape)
    kernels.geluGradient(at(dy), at(x), at(dx), tf.util.sizeFromShape(x!.shape))
    return dx
  })
  kernel("ExpSwiglu", ({ x }) => {
    const [rows, both] = x!.shape as [number, number]
    const y = heap.output([rows, both / 2])
    kernels.swiglu(at(x), at(y), rows, both / 2)
    return y
  })
  kernel("ExpSwigluGradient", ({ dy, x }) => {
    const [rows, both] = x!.shape as [number, number]
    const dx = heap.output([rows, both])
    kernels.swigluGradient(at(dy), at(x), at(dx), rows, both / 2)
    return dx
  })
  const rotate = (x: tf.TensorInfo, attributes: Attributes, sign: 1 | -1) => {
    const [rows, stride] = x.shape as [number, number]
    const { length, heads, keyValueHeads = heads, theta } = attributes
    const headWidth = stride / (heads + 2 * keyValueHeads)
    const y = heap.output([rows, stride])
    const table = heap.turns(length, headWidth, theta)
    kernels.rotate(at(x), table, at(y), rows, length, heads + keyValueHeads, headWidth, stride, sign)
    return y
  }
  kernel("ExpRotate", ({ qkv }, attributes) => rotate(qkv!, attributes, 1))
  kernel("ExpRotateGradient", ({ dy }, attributes) => rotate(dy!, attributes, -1))
  kernel("ExpAttention", ({ qkv }, { batch, length, heads, keyValueHeads = heads, window = length }) => {
    const headWidth = qkv!.shape[1]! / (heads + 2 * keyValueHeads)
    const y = heap.output([batch * length, heads * headWidth])
    const scratch = heap.scratch(kernels.attentionScratchBytes(length))
    const sizes = [batch, length, heads, keyValueHeads, headWidth, window] as const
    kernels.attention(at(qkv), at(y), ...sizes, heap.packing, scratch)
    return y
  })
  kernel("ExpAttentionGradient", ({ dy, qkv }, { batch, length, heads, keyValueHeads = heads, window = length }) => {
    const headWidth = qkv!.shape[1]! / (heads + 2 * keyValueHeads)
    const d = heap.output(qkv!.shape)
    const scratch = heap.scratch(kernels.attentionScratchBytes(length))
    const sizes = [batch, length, heads, keyValueHeads, headWidth, window] as const
    kernels.attentionGradient(at(dy), at(qkv), at(d), ...sizes, heap.packing, scratch)
    return d
  })
  kernel("ExpCrossEntropy", ({ logits, targets }) => {
    const [rows, vocabulary] = logits!.shape as [number, number]
    const nll = heap.output([rows])
    const stats = heap.output([rows, 2])
    kernels.logSumExp(at(logits), at(stats), rows, vocabulary)
    const losses = heap.floats(at(nll), rows)
    const pairs = heap.floats(at(stats), 2 * rows)
    const wanted = heap.integers(at(targets), rows)
    const all = heap.floats(at(logits), rows * vocabulary)
    for (let r = 0; r < rows; r++)
      losses[r] = Math.log(pairs[2 * r + 1]!) + pairs[2 * r]! - all[r * vocabulary + wanted[r]!]!
    return [nll, stats]
  })
  kernel("ExpCrossEntropyGradient", ({ dy, logits, stats, targets }) => {
    const [rows, vocabulary] = logits!.shape as [number, number]
    const dx = heap.output([rows, vocabulary])
    kernels.crossEntropyGradient(at(dy), at(logits), at(stats), at(targets), at(dx), rows, vocabulary)
    return dx
  })
  kernel("ExpEmbedding", ({ ids, table, positions }, { length }) => {
    const rows = ids!.shape[0]!
    const width = table!.shape[1]!
    const y = heap.output([rows, width])
    kernels.embedding(at(ids), at(table), at(positions), at(y), rows, length, width)
    return y
  })
  kernel("ExpEmbeddingGradient", ({ dy, ids, table, positions }, { length }) => {
    const [vocabulary, width] = table!.shape as [number, number]
    const context = positions!.shape[0]!
    const dtable = heap.output([vocabulary, width])
    const dpositions = heap.output([context, width])
    const rows = ids!.shape[0]!
    kernels.embeddingGradient(at(dy), at(ids), at(dtable), at(dpositions), rows, length, width, vocabulary, context)
    return [dtable, dpositions]
  })
  kernel("ExpLookup", ({ ids, table }) => {
    const rows = ids!.shape[0]!
    const width = table!.shape[1]!
    const y = heap.output([rows, width])
    kernels.lookup(at(ids), at(table), at(y), rows, width)
    return y
  })
  kernel("ExpLookupGradient", ({ dy, ids, table }, { paddingId }) => {
    const [vocabulary, width] = table!.shape as [number, number]
    const dtable = heap.output([vocabulary, width])
    kernels.lookupGradient(at(dy), at(ids), at(dtable), ids!.shape[0]!, width, vocabulary, paddingId)
    return dtable
  })
  kernel("ExpAdd", ({ x, y }) => {
    const sum = heap.output(x!.shape)
    kernels.add(at(x), at(y), at(sum), tf.util.sizeFromShape(x!.shape))
    return sum
  })
  registerGradients("Exp")
}
