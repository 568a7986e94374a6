/**
 * Byte-level BPE training, merge for merge what the `BpeTrainer` of Hugging Face `tokenizers` makes.
 *
 * Words are counted once; each is a short list of symbols, at first its bytes. In every round the commonest pair becomes a new
 * token, in all words that hold it. Counts are kept up to date by the changes a merge makes to its neighbours, so a round costs
 * the words it touches. What "the same as the library" asks for beyond that:
 *
 * - ties go to the pair with the smaller left id, then the smaller right id;
 * - a queue entry carries the words in which its pair was *newly* made, and its count is checked against the truth only when it
 *   comes up; too high, it goes back with the true one;
 * - the count of a merged pair is not reset. A token can be spelled by two merges (`he`+`re`, `her`+`e`); then its pairs come up
 *   again and the leftover count takes part, as it does there;
 * - of a merge that comes up twice the later rank stands;
 * - special tokens have the first ids, then the 256 byte symbols in the order of their code points, then the merges.
 *
 * The library counts every word there is, in memory that grows with the corpus. Here no more than `MAX_WORDS` are counted (of
 * `MAX_UNITS` characters in sum): when there are more, the rarest are forgotten until half are left. A word that comes back is
 * counted anew, so counts of rare words can be too low in corpora that large; up to there, everything is exact.
 *
 * (Of two entries with equal pair and count the older comes first here; there the order is that of a hash map.)
 */
import * as Effect from "effect/Effect"
import { byteSymbols, PairTable, utf8Into, WordTable, wordEnd } from "./Words.ts"

export interface Vocabulary {
  /** Byte-level spelling of every token, by id. */
  readonly tokens: ReadonlyArray<string>
  /** `left right`, by rank. */
  readonly merges: ReadonlyArray<string>
}

export type Progress = (done: number, total: number) => void

const MAX_WORDS = 1 << 19
const MAX_UNITS = 1 << 22

export class BpeTrainer {
  #words = new WordTable()
  #counts = new Float64Array(1 << 12)
  #forgotten = 0
  #distinct = 0
  readonly #maxWords: number
  readonly #maxUnits: number

  constructor(limits: { readonly words?: number; readonly units?: number } = {}) {
    this.#maxWords = limits.words ?? MAX_WORDS
    this.#maxUnits = limits.units ?? MAX_UNITS
  }

  /** Distinct words that are counted. */
  get words(): number {
    return this.#distinct
  }

  /** How often a word was forgotten because there were too many. */
  get forgotten(): number {
    return this.#forgotten
  }

  /** Counts the words of one document. */
  add(document: string) {
    const text = document.toWellFormed()
    for (let start = 0; start < text.length; ) {
      const end = wordEnd(text, start)
      let word = this.#words.intern(text, start, end)
      if (word < 0) {
        word = -1 - word
        if (word === this.#counts.length) {
          const counts = new Float64Array(word * 2)
          counts.set(this.#counts)
          this.#counts = counts
        }
        this.#counts[word] = 0
      }
      this.#counts[word]!++
      start = end
      if (this.#words.size > this.#maxWords || this.#words.units > this.#maxUnits) this.#forget()
    }
    this.#distinct = this.#words.size
  }

  #forget() {
    const old = this.#words
    const counts = this.#counts
    let kept = old.size
    let units = old.units
    let least = 1
    while (kept * 2 > this.#maxWords || units * 2 > this.#maxUnits) {
      least++
      kept = units = 0
      for (let word = 0; word < old.size; word++)
        if (counts[word]! >= least) {
          kept++
          units += old.length(word)
        }
    }
    this.#words = new WordTable()
    this.#forgotten += old.size - kept
    let next = 0
    for (let word = 0; word < old.size; word++)
      if (counts[word]! >= least) {
        const text = old.text(word)
        this.#words.intern(text, 0, text.length)
        counts[next++] = counts[word]!
      }
  }

  /**
   * At most `vocabulary` tokens: fewer when no pair is left that occurs `minFrequency` times. Once, as the counted words are given up
   * for it.
   */
  train(options: {
    readonly vocabulary: number
    readonly specialTokens: ReadonlyArray<string>
    readonly minFrequency?: number
    readonly progress?: Progress | undefined
  }): Effect.Effect<Vocabulary> {
    const { vocabulary, minFrequency = 2, progress } = options
    const tokens = [...options.specialTokens]
    const alphabet = byteSymbols.map((symbol, byte) => ({ symbol, byte }))
    alphabet.sort((a, b) => a.symbol.charCodeAt(0) - b.symbol.charCodeAt(0))
    const idOfByte = new Int32Array(256)
    for (const { byte, symbol } of alphabet) idOfByte[byte] = tokens.push(symbol) - 1
    const rounds = new Rounds(this.#words, this.#counts, idOfByte)
    this.#words = new WordTable()
    const merges: Array<string> = []
    const ids = new Map(tokens.map((token, id) => [token, id]))
    return Effect.gen(function* () {
      let touched = 0
      while (tokens.length < vocabulary) {
        const top = rounds.next(minFrequency)
        if (top === undefined) break
        const left = tokens[top.left]!
        const right = tokens[top.right]!
        let id = ids.get(left + right)
        if (id === undefined) {
          id = tokens.push(left + right) - 1
          ids.set(left + right, id)
        }
        merges.push(`${left} ${right}`)
        rounds.merge(top, id)
        touched += top.words.length + 20
        if (touched > 50_000) {
          touched = 0
          progress?.(tokens.length, vocabulary)
          yield* Effect.yieldNow
        }
      }
      progress?.(tokens.length, tokens.length)
      const last = new Map(merges.map((merge, rank) => [merge, rank]))
      return { tokens, merges: merges.filter((merge, rank) => last.get(merge) === rank) }
    })
  }
}

interface Candidate {
  readonly pair: number
  readonly left: number
  readonly right: number
  count: number
  /** Age, for a total order. */
  readonly serial: number
  /** Words in which the pair was made. */
  readonly words: Iterable<number> & { readonly length: number }
}

const before = (a: Candidate, b: Candidate): boolean =>
  a.count !== b.count
    ? a.count > b.count
    : a.left !== b.left
      ? a.left < b.left
      : a.right !== b.right
        ? a.right < b.right
        : a.serial < b.serial

class Rounds {
  /** Word w is symbols[starts[w] … starts[w] + lengths[w]). */
  readonly #symbols: Int32Array
  readonly #starts: Int32Array
  readonly #lengths: Int32Array
  readonly #frequency: Float64Array
  readonly #pairs = new PairTable(1 << 16)
  #counts = new Float64Array(1 << 16)
  /** Words in which a pair was made since the queue was last fed; undefined for most. */
  readonly #made: Array<Array<number> | undefined> = []
  #fresh: Array<number> = []
  readonly #queue: Array<Candidate> = []
  #serial = 0

  constructor(words: WordTable, frequency: Float64Array, idOfByte: Int32Array) {
    this.#frequency = frequency
    this.#symbols = new Int32Array(words.units * 3)
    this.#starts = new Int32Array(words.size)
    this.#lengths = new Int32Array(words.size)
    let at = 0
    let bytes = new Uint8Array(1024)
    for (let word = 0; word < words.size; word++) {
      const text = words.text(word)
      if (text.length * 3 > bytes.length) bytes = new Uint8Array(text.length * 3)
      const length = utf8Into(text, 0, text.length, bytes)
      this.#starts[word] = at
      this.#lengths[word] = length
      for (let index = 0; index < length; index++) this.#symbols[at++] = idOfByte[bytes[index]!]!
      for (let index = at - length; index + 1 < at; index++)
        this.#change(this.#symbols[index]!, this.#symbols[index + 1]!, word, 1)
    }
    this.#feed()
  }

  /** The commonest pair, taken off the queue. */
  next(minFrequency: number): Candidate | undefined {
    for (;;) {
      const top = this.#pop()
      if (top === undefined) return undefined
      const count = this.#counts[top.pair]!
      if (top.count === count) return count < Math.max(1, minFrequency) ? undefined : top
      // a pair that all of its words have lost would be put back once more there, then end the training: the same, sooner
      if (count > 0) {
        top.count = count
        this.#push(top)
      }
    }
  }

  merge({ left, right, words }: Candidate, id: number) {
    const symbols = this.#symbols
    for (const word of words) {
      const start = this.#starts[word]!
      const length = this.#lengths[word]!
      const end = start + length
      let write = start
      for (let read = start; read < end; read++) {
        const symbol = symbols[read]!
        if (symbol !== left || read + 1 === end || symbols[read + 1] !== right) {
          symbols[write++] = symbol
          continue
        }
        read++
        if (write > start) {
          this.#change(symbols[write - 1]!, left, word, -1)
          this.#change(symbols[write - 1]!, id, word, 1)
        }
        symbols[write++] = id
        if (read + 1 < end) {
          this.#change(right, symbols[read + 1]!, word, -1)
          this.#change(id, symbols[read + 1]!, word, 1)
        }
      }
      this.#lengths[word] = write - start
    }
    this.#feed()
  }

  #change(left: number, right: number, word: number, sign: 1 | -1) {
    const pair = this.#pairs.intern(left, right)
    if (pair >= this.#counts.length) {
      const counts = new Float64Array(this.#counts.length * 2)
      counts.set(this.#counts)
      this.#counts = counts
    }
    this.#counts[pair]! += sign * this.#frequency[word]!
    if (sign === -1) return
    const made = this.#made[pair]
    if (made === undefined) {
      this.#made[pair] = [word]
      this.#fresh.push(pair)
    } else if (made[made.length - 1] !== word) made.push(word)
  }

  #feed() {
    for (const pair of this.#fresh) {
      const words = this.#made[pair]!
      this.#made[pair] = undefined
      const count = this.#counts[pair]!
      if (count > 0)
        this.#push({
          pair,
          left: this.#pairs.left(pair),
          right: this.#pairs.right(pair),
          count,
          serial: this.#serial++,
          // lists grow by half; the long ones wait for thousands of rounds
          words: words.length > 64 ? Int32Array.from(words) : words,
        })
    }
    this.#fresh = []
  }

  #push(candidate: Candidate) {
    const queue = this.#queue
    let at = queue.push(candidate) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (!before(candidate, queue[parent]!)) break
      queue[at] = queue[parent]!
      at = parent
    }
    queue[at] = candidate
  }

  #pop(): Candidate | undefined {
    const queue = this.#queue
    const top = queue[0]
    const last = queue.pop()
    if (last === undefined || queue.length === 0) return top
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= queue.length) break
      if (child + 1 < queue.length && before(queue[child + 1]!, queue[child]!)) child++
      if (!before(queue[child]!, last)) break
      queue[at] = queue[child]!
      at = child
    }
    queue[at] = last
    return top
  }
}
