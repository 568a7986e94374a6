/**
 * Forward only, straight on the heap: no tensors, no tape, buffers kept between calls. The kernels are those of training, so the
 * numbers are too. A position's result depends on what stands before it and on nothing else: not on batch, window or neighbours.
 */
import { type Architecture, LAYER_NORM_EPSILON } from "../../model/Architecture.ts"
import type { Heap } from "./Kernels.ts"
import type { Decoding } from "./Model.ts"

/** Rows of logits computed at once: bounds memory where vocabularies are large. */
const LOGIT_ROWS = 128
/** Up to this many rows, reading the weights as they lie beats packing them. */
const THIN_ROWS = 4
const CACHE_BYTES = 512 << 20

interface LayerWeights {
  readonly norm1: readonly [number, number]
  readonly qkv: readonly [number, number]
  readonly mix: readonly [number, number]
  readonly norm2: readonly [number, number]
  readonly up: readonly [number, number]
  readonly down: readonly [number, number]
}

interface Buffers {
  readonly rows: number
  readonly x: number
  readonly y: number
  readonly qkv: number
  readonly wide: number
  readonly gelu: number
  readonly stats: number
  readonly ids: number
  readonly logits: number
}

export class Inference {
  readonly sequencesAtOnce: number
  readonly #heap: Heap
  readonly #architecture: Architecture
  readonly #table: number
  readonly #positions: number
  readonly #final: readonly [number, number]
  readonly #layers: ReadonlyArray<LayerWeights>
  #buffers: Buffers | undefined
  /** The embedding table as [width][vocabulary], made when decoding wants it. */
  #head: { readonly address: number; fresh: boolean } | undefined

  constructor(heap: Heap, architecture: Architecture, addresses: ReadonlyMap<string, number>) {
    this.#heap = heap
    this.#architecture = architecture
    const at = (name: string): number => addresses.get(`transformer.${name}`)!
    const pair = (name: string) => [at(`${name}.weight`), at(`${name}.bias`)] as const
    this.#table = at("wte.weight")
    this.#positions = at("wpe.weight")
    this.#final = pair("ln_f")
    this.#layers = Array.from({ length: architecture.layers }, (_, i) => ({
      norm1: pair(`h.${i}.ln_1`),
      qkv: pair(`h.${i}.attn.c_attn`),
      mix: pair(`h.${i}.attn.c_proj`),
      norm2: pair(`h.${i}.ln_2`),
      up: pair(`h.${i}.mlp.c_fc`),
      down: pair(`h.${i}.mlp.c_proj`),
    }))
    const { layers, width, context } = architecture
    this.sequencesAtOnce = Math.max(1, Math.min(64, Math.floor(CACHE_BYTES / (8 * layers * context * width))))
  }

  weightsChanged(): void {
    if (this.#head !== undefined) this.#head.fresh = false
  }

  dispose(): void {
    this.#release()
    if (this.#head !== undefined) this.#heap.free(this.#head.address)
    this.#head = undefined
  }

  losses(ids: ArrayLike<number>): Float32Array {
    const { vocabulary } = this.#architecture
    const losses = new Float32Array(ids.length - 1)
    this.#sequence(ids, ids.length - 1)
    this.#logitBlocks(ids.length - 1, (first, rows, address) => {
      const { stats } = this.#buffers!
      this.#heap.kernels.logSumExp(address, stats, rows, vocabulary)
      const pairs = this.#heap.floats(stats, 2 * rows)
      const scores = this.#heap.floats(address, rows * vocabulary)
      for (let r = 0; r < rows; r++)
        losses[first + r] = Math.log(pairs[2 * r + 1]!) + pairs[2 * r]! - scores[r * vocabulary + ids[first + r + 1]!]!
    })
    return losses
  }

  logits(ids: ArrayLike<number>): Float32Array {
    const { vocabulary } = this.#architecture
    const all = new Float32Array(ids.length * vocabulary)
    this.#sequence(ids, ids.length)
    this.#logitBlocks(ids.length, (first, rows, address) =>
      all.set(this.#heap.floats(address, rows * vocabulary), first * vocabulary),
    )
    return all
  }

  decoding(): Decoding {
    const { layers, width, vocabulary, heads } = this.#architecture
    const heap = this.#heap
    const open: Array<{ readonly cache: number; readonly capacity: number; length: number }> = []
    /** Caches of a sequence: for each layer keys, then values, [capacity][width] each. */
    const keys = (sequence: number, layer: number): number => {
      const { cache, capacity } = open[sequence]!
      return cache + 8 * layer * capacity * width
    }
    const values = (sequence: number, layer: number): number =>
      keys(sequence, layer) + 4 * open[sequence]!.capacity * width
    return {
      start: (prompts) => {
        const ends = new Float32Array(prompts.length * vocabulary)
        prompts.forEach(({ ids, capacity }, i) => {
          open.push({ cache: heap.allocate(8 * layers * capacity * width), capacity, length: ids.length })
          this.#sequence(ids, ids.length, (layer, qkv) =>
            heap.kernels.fillCache(qkv, keys(i, layer), values(i, layer), ids.length, width),
          )
          const { x, y } = this.#buffers!
          heap.floats(x, width).set(heap.floats(y + 4 * (ids.length - 1) * width, width))
          ends.set(this.#thinLogits(x, 1), i * vocabulary)
        })
        return ends
      },
      append: (sequences, tokens) => {
        const { kernels } = heap
        const rows = sequences.length
        const { x, y, ids } = this.#reserve(rows)
        heap.integers(ids, rows).set(tokens)
        sequences.forEach((sequence, r) => {
          const position = this.#positions + 4 * width * open[sequence]!.length
          kernels.embedding(ids + 4 * r, this.#table, position, x + 4 * r * width, 1, 1, width)
        })
        // the row of scores of one query, at most a context long
        const scratch = heap.scratch(4 * this.#architecture.context)
        this.#stack(rows, (layer, qkv, out) =>
          sequences.forEach((sequence, r) => {
            const { length } = open[sequence]!
            const row = qkv + 12 * r * width
            const to = out + 4 * r * width
            kernels.attendCached(
              row,
              keys(sequence, layer),
              values(sequence, layer),
              to,
              length,
              heads,
              width / heads,
              scratch,
            )
          }),
        )
        for (const sequence of sequences) open[sequence]!.length++
        return this.#thinLogits(y, rows)
      },
      close: () => {
        for (const { cache } of open) heap.free(cache)
        open.length = 0
      },
    }
  }

  /** Final hidden states of one sequence, in `y`. */
  #sequence(ids: ArrayLike<number>, length: number, seen: (layer: number, qkv: number) => void = () => {}): void {
    const { width, heads } = this.#architecture
    const { kernels, packing } = this.#heap
    const { x, ids: inputs } = this.#reserve(length)
    const words = this.#heap.integers(inputs, length)
    for (let i = 0; i < length; i++) words[i] = ids[i]!
    kernels.embedding(inputs, this.#table, this.#positions, x, length, length, width)
    const scratch = this.#heap.scratch(kernels.attentionScratchBytes(length))
    this.#stack(length, (layer, qkv, out) => {
      seen(layer, qkv)
      kernels.attention(qkv, out, 1, length, heads, width / heads, packing, scratch)
    })
  }

  /** All layers over `rows` rows in `x`; `attend` mixes positions. Final hidden states are left in `y`. */
  #stack(rows: number, attend: (layer: number, qkv: number, out: number) => void): void {
    const { width } = this.#architecture
    const { kernels } = this.#heap
    const { x, y, qkv, wide, gelu, stats } = this.#buffers!
    this.#layers.forEach((layer, i) => {
      kernels.layerNorm(x, ...layer.norm1, y, stats, rows, width, LAYER_NORM_EPSILON)
      this.#linear(y, layer.qkv, qkv, rows, width, 3 * width)
      attend(i, qkv, y)
      this.#linear(y, layer.mix, wide, rows, width, width)
      kernels.add(x, wide, x, rows * width)
      kernels.layerNorm(x, ...layer.norm2, y, stats, rows, width, LAYER_NORM_EPSILON)
      this.#linear(y, layer.up, wide, rows, width, 4 * width)
      kernels.gelu(wide, gelu, 4 * rows * width)
      this.#linear(gelu, layer.down, y, rows, 4 * width, width)
      kernels.add(x, y, x, rows * width)
    })
    kernels.layerNorm(x, ...this.#final, y, stats, rows, width, LAYER_NORM_EPSILON)
  }

  #linear(
    x: number,
    [weight, bias]: readonly [number, number],
    y: number,
    rows: number,
    from: number,
    to: number,
  ): void {
    const { kernels, packing } = this.#heap
    if (rows <= THIN_ROWS) kernels.gemmThin(rows, to, from, x, from, weight, y, to, packing)
    else kernels.gemm(0, 0, rows, to, from, x, from, weight, to, y, to, 0, packing)
    kernels.addBias(y, bias, rows, to)
  }

  /** Logits of `length` hidden states in `y`, block by block. */
  #logitBlocks(length: number, take: (first: number, rows: number, address: number) => void): void {
    const { width, vocabulary } = this.#architecture
    const { kernels, packing } = this.#heap
    const { y, logits } = this.#buffers!
    for (let first = 0; first < length; first += LOGIT_ROWS) {
      const rows = Math.min(LOGIT_ROWS, length - first)
      const from = y + 4 * first * width
      kernels.gemm(0, 1, rows, vocabulary, width, from, width, this.#table, width, logits, vocabulary, 0, packing)
      take(first, rows, logits)
    }
  }

  /** Logits of a few hidden states; a copy. */
  #thinLogits(x: number, rows: number): Float32Array {
    const { width, vocabulary } = this.#architecture
    const { kernels, packing } = this.#heap
    const { logits } = this.#buffers!
    if (rows <= THIN_ROWS) {
      this.#head ??= { address: this.#heap.allocate(4 * width * vocabulary), fresh: false }
      if (!this.#head.fresh) kernels.transpose(this.#table, this.#head.address, vocabulary, width)
      this.#head.fresh = true
      // `packing` is larger than any row of sums: see `gemmScratchBytes`
      kernels.gemmThin(rows, vocabulary, width, x, width, this.#head.address, logits, vocabulary, packing)
    } else kernels.gemm(0, 1, rows, vocabulary, width, x, width, this.#table, width, logits, vocabulary, 0, packing)
    return this.#heap.floats(logits, rows * vocabulary).slice()
  }

  #reserve(rows: number): Buffers {
    if (this.#buffers !== undefined && this.#buffers.rows >= rows) return this.#buffers
    this.#release()
    const { width, vocabulary } = this.#architecture
    const floats = (count: number) => this.#heap.allocate(4 * count)
    this.#buffers = {
      rows,
      x: floats(rows * width),
      y: floats(rows * width),
      qkv: floats(3 * rows * width),
      wide: floats(4 * rows * width),
      gelu: floats(4 * rows * width),
      stats: floats(2 * Math.max(rows, LOGIT_ROWS)),
      ids: floats(rows),
      logits: floats(Math.max(64, Math.min(rows, LOGIT_ROWS)) * vocabulary),
    }
    return this.#buffers
  }

  #release(): void {
    if (this.#buffers === undefined) return
    const { rows: _, ...addresses } = this.#buffers
    for (const address of Object.values(addresses)) this.#heap.free(address)
    this.#buffers = undefined
  }
}
