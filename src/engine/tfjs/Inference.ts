/**
 * Forward only, straight on the heap: no tensors, no tape, buffers kept between calls. The sums are those of training, so the
 * numbers are too. A position's result depends on what stands before it and on nothing else: not on batch, window or neighbours.
 *
 * Weights stay what they are for many products here, so they are packed once and kept: a step of decoding has some twenty rows at
 * most, and packing the weights for each took as long as multiplying them.
 */
import type { Architecture } from "../../model/Architecture.ts"
import { type Buffers as BlockBuffers, type Blocks, blocksOf, type Matrix } from "./Blocks.ts"
import type { Heap } from "./Kernels.ts"
import type { Decoding } from "./Model.ts"

/** Rows of logits computed at once: bounds memory where vocabularies are large. */
const LOGIT_ROWS = 128
/** Rows of prompts that go through the layers at once. */
const PROMPT_ROWS = 512
const CACHE_BYTES = 512 << 20

interface Text {
  readonly ids: ArrayLike<number>
  /** Of `ids`, how many are looked at. */
  readonly length: number
}

interface Buffers extends BlockBuffers {
  readonly rows: number
  readonly ids: number
  readonly logits: number
}

export class Inference {
  readonly sequencesAtOnce: number
  readonly #heap: Heap
  readonly #architecture: Architecture
  readonly #blocks: Blocks
  readonly #head: Matrix
  readonly #packedBytes: number
  #buffers: Buffers | undefined
  /** All matrices as the products want them. */
  #packed: { readonly address: number; fresh: boolean } | undefined

  constructor(heap: Heap, architecture: Architecture, addresses: ReadonlyMap<string, number>) {
    this.#heap = heap
    this.#architecture = architecture
    this.#blocks = blocksOf(heap, architecture, addresses, (x, matrix, y, rows, stride) =>
      this.#multiply(x, matrix, y, rows, stride),
    )
    const { columns, matrices } = this.#blocks
    this.#head = matrices[matrices.length - 1]!
    this.#packedBytes = this.#head.packed + heap.kernels.packedBytes(this.#head.to, this.#head.from)
    const bytes = 8 * architecture.layers * architecture.context * columns.keyValue
    this.sequencesAtOnce = Math.max(1, Math.min(64, Math.floor(CACHE_BYTES / bytes)))
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
    const { columns, keyValueHeads, window, embed, place } = this.#blocks
    const { keyValue } = columns
    const heap = this.#heap
    const open: Array<{ readonly cache: number; readonly capacity: number; length: number }> = []
    /** Caches of a sequence: for each layer keys, then values, [keyValueHeads][capacity][width / heads] each. */
    const keys = (sequence: number, layer: number): number => {
      const { cache, capacity } = open[sequence]!
      return cache + 8 * layer * capacity * keyValue
    }
    const values = (sequence: number, layer: number): number =>
      keys(sequence, layer) + 4 * open[sequence]!.capacity * keyValue
    return {
      start: (prompts) => {
        const ends = new Float32Array(prompts.length * vocabulary)
        for (const { ids, capacity } of prompts)
          open.push({ cache: heap.allocate(8 * layers * capacity * keyValue), capacity, length: ids.length })
        for (const [first, last] of inGroups(open.map(({ length }) => length))) {
          const texts = prompts.slice(first, last).map(({ ids }) => ({ ids, length: ids.length }))
          this.#sequences(texts, (i, layer, qkv) => {
            const sequence = first + i
            const { length, capacity } = open[sequence]!
            const into = [keys(sequence, layer), values(sequence, layer)] as const
            heap.kernels.fillCache(qkv, ...into, length, capacity, heads, keyValueHeads, width / heads)
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
          embed(ids + 4 * r, x + 4 * r * width, 1, open[sequence]!.length)
        })
        // the row of scores of one query, at most a context long
        const scratch = heap.scratch(4 * this.#architecture.context)
        this.#stack(rows, (layer, qkv, out) =>
          sequences.forEach((sequence, r) => {
            const { length, capacity } = open[sequence]!
            const caches = [keys(sequence, layer), values(sequence, layer)] as const
            const row = qkv + 4 * r * columns.qkv
            const to = out + 4 * r * width
            const sizes = [length, capacity, heads, keyValueHeads, width / heads, window] as const
            place(row, 1, length)
            kernels.attendCached(row, ...caches, to, ...sizes, scratch)
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
    const { columns, keyValueHeads, window, embed, place } = this.#blocks
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
      embed(inputs + 4 * first, x + 4 * first * width, length, 0)
    })
    this.#stack(rows, (layer, qkv, out) =>
      each((first, { length }, i) => {
        const own = qkv + 4 * first * columns.qkv
        const sizes = [1, length, heads, keyValueHeads, width / heads, window] as const
        place(own, length, 0)
        seen(i, layer, own)
        kernels.attention(own, out + 4 * first * width, ...sizes, packing, scratch)
      }),
    )
  }

  /** All layers over `rows` rows in `x`; `attend` mixes positions. Final hidden states are left in `y`. */
  #stack(rows: number, attend: (layer: number, qkv: number, out: number) => void): void {
    const buffers = this.#buffers!
    for (let i = 0; i < this.#architecture.layers; i++)
      this.#blocks.layer(i, rows, buffers, () => attend(i, buffers.qkv, buffers.y))
    this.#blocks.finish(rows, buffers)
  }

  #multiply(x: number, { from, to, packed }: Matrix, y: number, rows: number, stride = to): void {
    const { kernels, packing } = this.#heap
    kernels.gemmPacked(rows, to, from, x, from, this.#packedAt(packed), y, stride, packing)
  }

  /** Logits of `length` hidden states in `y`, block by block. */
  #logitBlocks(length: number, take: (first: number, rows: number, address: number) => void): void {
    const { width } = this.#architecture
    const { y, logits } = this.#buffers!
    for (let first = 0; first < length; first += LOGIT_ROWS) {
      const rows = Math.min(LOGIT_ROWS, length - first)
      this.#multiply(y + 4 * first * width, this.#head, logits, rows)
      take(first, rows, logits)
    }
  }

  /** Logits of a few hidden states; a copy. */
  #logitsOf(x: number, rows: number): Float32Array {
    const { logits } = this.#buffers!
    this.#multiply(x, this.#head, logits, rows)
    return this.#heap.floats(logits, rows * this.#architecture.vocabulary).slice()
  }

  /** Address of a packed matrix; all are packed anew once after the weights have changed. */
  #packedAt(place: number): number {
    this.#packed ??= { address: this.#heap.allocate(this.#packedBytes), fresh: false }
    const { address, fresh } = this.#packed
    if (!fresh) {
      for (const { weight, transposed, from, to, packed } of this.#blocks.matrices)
        this.#heap.kernels.pack(transposed, to, from, weight, transposed === 1 ? from : to, address + packed)
      this.#packed.fresh = true
    }
    return address + place
  }

  #reserve(rows: number): Buffers {
    if (this.#buffers !== undefined && this.#buffers.rows >= rows) return this.#buffers
    this.#release()
    const { width, vocabulary } = this.#architecture
    const { columns } = this.#blocks
    const floats = (count: number) => this.#heap.allocate(4 * count)
    this.#buffers = {
      rows,
      x: floats(rows * width),
      y: floats(rows * width),
      qkv: floats(rows * columns.qkv),
      wide: floats(rows * columns.wide),
      active: floats(rows * columns.active),
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
