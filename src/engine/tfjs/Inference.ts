/**
 * Forward only, straight on the heap: no tensors, no tape, buffers kept between calls. The sums are those of training, so the
 * numbers are too. A position's result depends on what stands before it and on nothing else: not on batch, window or neighbours.
 *
 * Weights stay what they are for many products here, so they are packed once and kept: a step of decoding has some twenty rows at
 * most, and packing the weights for each took as long as multiplying them.
 */
import { type Architecture, LAYER_NORM_EPSILON } from "../../model/Architecture.ts"
import type { Heap } from "./Kernels.ts"
import type { Decoding } from "./Model.ts"

/** Rows of logits computed at once: bounds memory where vocabularies are large. */
const LOGIT_ROWS = 128
/** Rows of prompts that go through the layers at once. */
const PROMPT_ROWS = 512
const CACHE_BYTES = 512 << 20

/** A matrix [from][to] and its bias, by address; `packed` is where it lies among the packed ones. */
interface Linear {
  readonly weight: number
  readonly bias: number
  readonly from: number
  readonly to: number
  readonly packed: number
}

interface LayerWeights {
  readonly norm1: readonly [number, number]
  readonly qkv: Linear
  readonly mix: Linear
  readonly norm2: readonly [number, number]
  readonly up: Linear
  readonly down: Linear
}

interface Text {
  readonly ids: ArrayLike<number>
  /** Of `ids`, how many are looked at. */
  readonly length: number
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
  readonly #packedHead: number
  readonly #packedBytes: number
  #buffers: Buffers | undefined
  /** All matrices as the products want them: the layers', then the embedding table as the head. */
  #packed: { readonly address: number; fresh: boolean } | undefined

  constructor(heap: Heap, architecture: Architecture, addresses: ReadonlyMap<string, number>) {
    this.#heap = heap
    this.#architecture = architecture
    const { layers, width, context, vocabulary } = architecture
    const at = (name: string): number => addresses.get(`transformer.${name}`)!
    const pair = (name: string) => [at(`${name}.weight`), at(`${name}.bias`)] as const
    let bytes = 0
    const place = (from: number, to: number): number => {
      const packed = bytes
      bytes += heap.kernels.packedBytes(to, from)
      return packed
    }
    const linear = (name: string, from: number, to: number): Linear => {
      const [weight, bias] = pair(name)
      return { weight, bias, from, to, packed: place(from, to) }
    }
    this.#table = at("wte.weight")
    this.#positions = at("wpe.weight")
    this.#final = pair("ln_f")
    this.#layers = Array.from({ length: layers }, (_, i) => ({
      norm1: pair(`h.${i}.ln_1`),
      qkv: linear(`h.${i}.attn.c_attn`, width, 3 * width),
      mix: linear(`h.${i}.attn.c_proj`, width, width),
      norm2: pair(`h.${i}.ln_2`),
      up: linear(`h.${i}.mlp.c_fc`, width, 4 * width),
      down: linear(`h.${i}.mlp.c_proj`, 4 * width, width),
    }))
    this.#packedHead = place(width, vocabulary)
    this.#packedBytes = bytes
    this.sequencesAtOnce = Math.max(1, Math.min(64, Math.floor(CACHE_BYTES / (8 * layers * context * width))))
  }

  weightsChanged(): void {
    if (this.#packed !== undefined) this.#packed.fresh = false
  }

  dispose(): void {
    this.#release()
    if (this.#packed !== undefined) this.#heap.free(this.#packed.address)
    this.#packed = undefined
  }

  losses(ids: ArrayLike<number>): Float32Array {
    const { vocabulary } = this.#architecture
    const losses = new Float32Array(ids.length - 1)
    this.#sequences([{ ids, length: ids.length - 1 }])
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
    this.#sequences([{ ids, length: ids.length }])
    this.#logitBlocks(ids.length, (first, rows, address) =>
      all.set(this.#heap.floats(address, rows * vocabulary), first * vocabulary),
    )
    return all
  }

  decoding(): Decoding {
    const { layers, width, vocabulary, heads } = this.#architecture
    const heap = this.#heap
    const open: Array<{ readonly cache: number; readonly capacity: number; length: number }> = []
    /** Caches of a sequence: for each layer keys, then values, [heads][capacity][width / heads] each. */
    const keys = (sequence: number, layer: number): number => {
      const { cache, capacity } = open[sequence]!
      return cache + 8 * layer * capacity * width
    }
    const values = (sequence: number, layer: number): number =>
      keys(sequence, layer) + 4 * open[sequence]!.capacity * width
    return {
      start: (prompts) => {
        const ends = new Float32Array(prompts.length * vocabulary)
        for (const { ids, capacity } of prompts)
          open.push({ cache: heap.allocate(8 * layers * capacity * width), capacity, length: ids.length })
        for (const [first, last] of inGroups(open.map(({ length }) => length))) {
          const texts = prompts.slice(first, last).map(({ ids }) => ({ ids, length: ids.length }))
          this.#sequences(texts, (i, layer, qkv) => {
            const sequence = first + i
            const { length, capacity } = open[sequence]!
            const into = [keys(sequence, layer), values(sequence, layer)] as const
            heap.kernels.fillCache(qkv, ...into, length, capacity, heads, width / heads)
          })
          const { x, y } = this.#buffers!
          let end = 0
          texts.forEach(({ length }, i) => {
            end += length
            heap.floats(x + 4 * i * width, width).set(heap.floats(y + 4 * (end - 1) * width, width))
          })
          ends.set(this.#logitsOf(x, texts.length), first * vocabulary)
        }
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
            const { length, capacity } = open[sequence]!
            const caches = [keys(sequence, layer), values(sequence, layer)] as const
            const row = qkv + 12 * r * width
            const to = out + 4 * r * width
            kernels.attendCached(row, ...caches, to, length, capacity, heads, width / heads, scratch)
          }),
        )
        for (const sequence of sequences) open[sequence]!.length++
        return this.#logitsOf(y, rows)
      },
      close: () => {
        for (const { cache } of open) heap.free(cache)
        open.length = 0
      },
    }
  }

  /** Final hidden states of texts one behind the other, in `y`; `seen` is shown q | k | v of each. */
  #sequences(texts: ReadonlyArray<Text>, seen: (text: number, layer: number, qkv: number) => void = () => {}): void {
    const { width, heads } = this.#architecture
    const { kernels, packing } = this.#heap
    const rows = texts.reduce((sum, { length }) => sum + length, 0)
    const { x, ids: inputs } = this.#reserve(rows)
    const scratch = this.#heap.scratch(kernels.attentionScratchBytes(Math.max(...texts.map(({ length }) => length))))
    // a view is of the memory as it is: whatever may make it grow comes before
    const words = this.#heap.integers(inputs, rows)
    const each = (one: (first: number, text: Text, i: number) => void) => {
      let first = 0
      texts.forEach((text, i) => {
        one(first, text, i)
        first += text.length
      })
    }
    each((first, { ids, length }) => {
      for (let i = 0; i < length; i++) words[first + i] = ids[i]!
      kernels.embedding(inputs + 4 * first, this.#table, this.#positions, x + 4 * first * width, length, length, width)
    })
    this.#stack(rows, (layer, qkv, out) =>
      each((first, { length }, i) => {
        const own = qkv + 12 * first * width
        seen(i, layer, own)
        kernels.attention(own, out + 4 * first * width, 1, length, heads, width / heads, packing, scratch)
      }),
    )
  }

  /** All layers over `rows` rows in `x`; `attend` mixes positions. Final hidden states are left in `y`. */
  #stack(rows: number, attend: (layer: number, qkv: number, out: number) => void): void {
    const { width } = this.#architecture
    const { kernels } = this.#heap
    const { x, y, qkv, wide, gelu, stats } = this.#buffers!
    this.#layers.forEach((layer, i) => {
      kernels.layerNorm(x, ...layer.norm1, y, stats, rows, width, LAYER_NORM_EPSILON)
      this.#linear(y, layer.qkv, qkv, rows)
      attend(i, qkv, y)
      this.#linear(y, layer.mix, wide, rows)
      kernels.add(x, wide, x, rows * width)
      kernels.layerNorm(x, ...layer.norm2, y, stats, rows, width, LAYER_NORM_EPSILON)
      this.#linear(y, layer.up, wide, rows)
      kernels.gelu(wide, gelu, 4 * rows * width)
      this.#linear(gelu, layer.down, y, rows)
      kernels.add(x, y, x, rows * width)
    })
    kernels.layerNorm(x, ...this.#final, y, stats, rows, width, LAYER_NORM_EPSILON)
  }

  #linear(x: number, { bias, from, to, packed }: Linear, y: number, rows: number): void {
    const { kernels, packing } = this.#heap
    kernels.gemmPacked(rows, to, from, x, from, this.#packedAt(packed), y, to, packing)
    kernels.addBias(y, bias, rows, to)
  }

  /** Logits of `length` hidden states in `y`, block by block. */
  #logitBlocks(length: number, take: (first: number, rows: number, address: number) => void): void {
    const { width } = this.#architecture
    const { y, logits } = this.#buffers!
    for (let first = 0; first < length; first += LOGIT_ROWS) {
      const rows = Math.min(LOGIT_ROWS, length - first)
      this.#head(y + 4 * first * width, rows)
      take(first, rows, logits)
    }
  }

  /** Logits of a few hidden states; a copy. */
  #logitsOf(x: number, rows: number): Float32Array {
    this.#head(x, rows)
    return this.#heap.floats(this.#buffers!.logits, rows * this.#architecture.vocabulary).slice()
  }

  #head(x: number, rows: number): void {
    const { width, vocabulary } = this.#architecture
    const { kernels, packing } = this.#heap
    const head = this.#packedAt(this.#packedHead)
    kernels.gemmPacked(rows, vocabulary, width, x, width, head, this.#buffers!.logits, vocabulary, packing)
  }

  /** Address of a packed matrix; all are packed anew once after the weights have changed. */
  #packedAt(place: number): number {
    this.#packed ??= { address: this.#heap.allocate(this.#packedBytes), fresh: false }
    const { address, fresh } = this.#packed
    if (!fresh) {
      const { width, vocabulary } = this.#architecture
      const { kernels } = this.#heap
      for (const { qkv, mix, up, down } of this.#layers)
        for (const { weight, from, to, packed } of [qkv, mix, up, down])
          kernels.pack(0, to, from, weight, to, address + packed)
      kernels.pack(1, vocabulary, width, this.#table, width, address + this.#packedHead)
      this.#packed.fresh = true
    }
    return address + place
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

/** Ranges [first, last) of lengths that come to at most PROMPT_ROWS together; one longer than that stands alone. */
const inGroups = (lengths: ReadonlyArray<number>): ReadonlyArray<readonly [number, number]> => {
  const groups: Array<readonly [number, number]> = []
  let first = 0
  let rows = 0
  lengths.forEach((length, i) => {
    if (i > first && rows + length > PROMPT_ROWS) {
      groups.push([first, i])
      first = i
      rows = 0
    }
    rows += length
  })
  if (lengths.length > first) groups.push([first, lengths.length])
  return groups
}
