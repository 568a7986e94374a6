/**
 * Words as GPT-2 cuts them, and the 256 symbols that bytes are spelled with.
 *
 * The cut is that of the pattern
 *
 *     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
 *
 * made by hand over UTF-16 units: a table answers what a character is, so nothing is allocated until a word is new.
 * `\s` is Unicode's White_Space (U+0085 is one, U+FEFF is not: JavaScript's own `\s` says the opposite of both).
 *
 * A tokenizer must not change with the runtime's Unicode version. Hugging Face `tokenizers` 0.23 knows Unicode 16, Node 22 too,
 * Node 24 Unicode 17: letters and digits that are new in 17 are read as "other" here, as they were before they existed.
 */

const SPACE = 0
const LETTER = 1
const NUMBER = 2
const OTHER = 3

/** First and last code point of every run of letters or numbers that Unicode 17 added. */
const sinceUnicode17: ReadonlyArray<readonly [number, number]> = [
  [0x88f, 0x88f],
  [0xc5c, 0xc5c],
  [0xcdc, 0xcdc],
  [0xa7ce, 0xa7cf],
  [0xa7d2, 0xa7d2],
  [0xa7d4, 0xa7d4],
  [0xa7f1, 0xa7f1],
  [0x10940, 0x10959],
  [0x10ec5, 0x10ec7],
  [0x11db0, 0x11ddb],
  [0x11de0, 0x11de9],
  [0x16ea0, 0x16eb8],
  [0x16ebb, 0x16ed3],
  [0x16ff2, 0x16ff6],
  [0x187f8, 0x187ff],
  [0x18d09, 0x18d1e],
  [0x18d80, 0x18df2],
  [0x1e6c0, 0x1e6de],
  [0x1e6e0, 0x1e6e2],
  [0x1e6e4, 0x1e6e5],
  [0x1e6e7, 0x1e6ed],
  [0x1e6f0, 0x1e6f4],
  [0x1e6fe, 0x1e6ff],
  [0x2b73a, 0x2b73f],
  [0x2cea2, 0x2cead],
  [0x323b0, 0x33479],
]

/** Of every character that was met one more than its class: a table of zeros costs nothing until it is asked. */
const classes = new Uint8Array(0x110000)

const classify = (codePoint: number): number => {
  const character = String.fromCodePoint(codePoint)
  const kind = /\p{White_Space}/u.test(character)
    ? SPACE
    : sinceUnicode17.some(([first, last]) => codePoint >= first && codePoint <= last)
      ? OTHER
      : /\p{L}/u.test(character)
        ? LETTER
        : /\p{N}/u.test(character)
          ? NUMBER
          : OTHER
  classes[codePoint] = kind + 1
  return kind
}

/** 0 white space, 1 letter, 2 number, 3 anything else. */
export const characterClass = (codePoint: number): number => {
  const known = classes[codePoint]!
  return known === 0 ? classify(codePoint) : known - 1
}

/** Where the word that begins at `start` ends. `text` is well formed and `start` is inside it. */
export const wordEnd = (text: string, start: number): number => {
  const length = text.length
  const first = text.charCodeAt(start)
  let position = start
  if (first === 0x27 && start + 1 < length) {
    const second = text.charCodeAt(start + 1)
    if (second === 0x73 || second === 0x74 || second === 0x6d || second === 0x64) return start + 2
    if (start + 2 < length) {
      const third = text.charCodeAt(start + 2)
      if ((third === 0x65 && (second === 0x72 || second === 0x76)) || (third === 0x6c && second === 0x6c))
        return start + 3
    }
  } else if (first === 0x20 && start + 1 < length) position++
  let kind = -1
  while (position < length) {
    let code = text.charCodeAt(position)
    let width = 1
    if (code >= 0xd800 && code < 0xdc00) {
      code = text.codePointAt(position)!
      width = 2
    }
    const here = characterClass(code)
    if (kind === -1) {
      kind = here
      // a space followed by more white space is no prefix: the run is counted from it
      if (kind === SPACE) position = start
    } else if (here !== kind) break
    position += width
  }
  // \s+(?!\S): the last white space before something visible is left to it, unless it is the only one
  return kind === SPACE && position < length && position - start > 1 ? position - 1 : position
}

/** Runs of characters that are not white space: the words of a human reader. */
export const countWords = (text: string): number => {
  let words = 0
  let inside = false
  for (let position = 0; position < text.length; position++) {
    // all white space lies in the first plane, so single units are enough
    const space = characterClass(text.charCodeAt(position)) === SPACE
    if (!space && !inside) words++
    inside = !space
  }
  return words
}

/** Unicode code points. */
export const countCharacters = (text: string): number => {
  let count = text.length
  for (let position = 0; position < text.length; position++) {
    const code = text.charCodeAt(position)
    if (code >= 0xd800 && code < 0xdc00) count--
  }
  return count
}

/** The character that stands for each byte: itself where it is printable, else one of U+0100 … U+0143. */
export const byteSymbols: ReadonlyArray<string> = (() => {
  let moved = 0
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174
    return String.fromCharCode(printable ? byte : 256 + moved++)
  })
})()

export const byteOfSymbol: ReadonlyMap<string, number> = new Map(byteSymbols.map((symbol, byte) => [symbol, byte]))

/** UTF-8 of text[start, end) into `into`, which has room for 3 bytes a unit; says how many bytes. */
export const utf8Into = (text: string, start: number, end: number, into: Uint8Array): number => {
  let at = 0
  for (let position = start; position < end; position++) {
    let code = text.charCodeAt(position)
    if (code < 0x80) into[at++] = code
    else if (code < 0x800) {
      into[at++] = 0xc0 | (code >> 6)
      into[at++] = 0x80 | (code & 63)
    } else if (code >= 0xd800 && code < 0xdc00) {
      code = text.codePointAt(position++)!
      into[at++] = 0xf0 | (code >> 18)
      into[at++] = 0x80 | ((code >> 12) & 63)
      into[at++] = 0x80 | ((code >> 6) & 63)
      into[at++] = 0x80 | (code & 63)
    } else {
      into[at++] = 0xe0 | (code >> 12)
      into[at++] = 0x80 | ((code >> 6) & 63)
      into[at++] = 0x80 | (code & 63)
    }
  }
  return at
}

const grown = (array: Uint16Array<ArrayBuffer>, needed: number): Uint16Array<ArrayBuffer> => {
  const larger = new Uint16Array(Math.max(needed, array.length * 2))
  larger.set(array)
  return larger
}
const grownInt = (array: Int32Array<ArrayBuffer>): Int32Array<ArrayBuffer> => {
  const larger = new Int32Array(array.length * 2)
  larger.set(array)
  return larger
}

/**
 * Distinct words numbered from 0 in the order they were first seen. A word is looked up by its place in a text: no substring is
 * made, which is most of the speed of counting and encoding.
 */
export class WordTable {
  size = 0
  #units: Uint16Array<ArrayBuffer> = new Uint16Array(1 << 16)
  /** Where word n begins; word n+1 begins where it ends. */
  #starts: Int32Array<ArrayBuffer> = new Int32Array(1 << 12)
  #hashes: Int32Array<ArrayBuffer> = new Int32Array(1 << 12)
  #slots: Int32Array<ArrayBuffer> = new Int32Array(1 << 13)

  /** UTF-16 units held by all words. */
  get units(): number {
    return this.#starts[this.size]!
  }

  /** The number of the word text[start, end); −1 − number when this call made it. */
  intern(text: string, start: number, end: number): number {
    let hash = 0x811c9dc5
    for (let position = start; position < end; position++)
      hash = Math.imul(hash ^ text.charCodeAt(position), 0x01000193)
    // the low bits of FNV alone fill a power-of-two table badly
    hash ^= hash >>> 15
    const mask = this.#slots.length - 1
    const length = end - start
    for (let slot = hash & mask; ; slot = (slot + 1) & mask) {
      const word = this.#slots[slot]! - 1
      if (word === -1) {
        this.#add(text, start, end, hash, slot)
        return -this.size
      }
      if (this.#hashes[word] !== hash) continue
      const from = this.#starts[word]!
      if (this.#starts[word + 1]! - from !== length) continue
      let same = 0
      while (same < length && this.#units[from + same] === text.charCodeAt(start + same)) same++
      if (same === length) return word
    }
  }

  /** UTF-16 units of a word. */
  length(word: number): number {
    return this.#starts[word + 1]! - this.#starts[word]!
  }

  text(word: number): string {
    const units = this.#units.subarray(this.#starts[word]!, this.#starts[word + 1]!)
    let text = ""
    for (let from = 0; from < units.length; from += 8192)
      text += String.fromCharCode(...units.subarray(from, from + 8192))
    return text
  }

  clear() {
    this.size = 0
    this.#slots.fill(0)
  }

  #add(text: string, start: number, end: number, hash: number, slot: number) {
    const word = this.size++
    const from = this.#starts[word]!
    const to = from + end - start
    if (to > this.#units.length) this.#units = grown(this.#units, to)
    for (let position = start; position < end; position++)
      this.#units[from + position - start] = text.charCodeAt(position)
    if (word + 2 > this.#starts.length) {
      this.#starts = grownInt(this.#starts)
      this.#hashes = grownInt(this.#hashes)
    }
    this.#starts[word + 1] = to
    this.#hashes[word] = hash
    this.#slots[slot] = word + 1
    if (this.size * 2 > this.#slots.length) this.#rehash()
  }

  #rehash() {
    const slots = new Int32Array(this.#slots.length * 2)
    const mask = slots.length - 1
    for (let word = 0; word < this.size; word++) {
      let slot = this.#hashes[word]! & mask
      while (slots[slot] !== 0) slot = (slot + 1) & mask
      slots[slot] = word + 1
    }
    this.#slots = slots
  }
}

/** Pairs of token ids numbered from 0 in the order they were first seen. */
export class PairTable {
  size = 0
  #left: Int32Array<ArrayBuffer>
  #right: Int32Array<ArrayBuffer>
  #slots: Int32Array<ArrayBuffer>

  constructor(expected = 1024) {
    const capacity = 1 << Math.ceil(Math.log2(Math.max(expected, 16)))
    this.#left = new Int32Array(capacity)
    this.#right = new Int32Array(capacity)
    this.#slots = new Int32Array(capacity * 4)
  }

  left(pair: number): number {
    return this.#left[pair]!
  }
  right(pair: number): number {
    return this.#right[pair]!
  }

  /** −1 when the pair was never seen. */
  find(left: number, right: number): number {
    const mask = this.#slots.length - 1
    for (let slot = this.#hash(left, right) & mask; ; slot = (slot + 1) & mask) {
      const pair = this.#slots[slot]! - 1
      if (pair === -1 || (this.#left[pair] === left && this.#right[pair] === right)) return pair
    }
  }

  intern(left: number, right: number): number {
    const mask = this.#slots.length - 1
    for (let slot = this.#hash(left, right) & mask; ; slot = (slot + 1) & mask) {
      const pair = this.#slots[slot]! - 1
      if (pair === -1) {
        this.#slots[slot] = this.size + 1
        return this.#add(left, right)
      }
      if (this.#left[pair] === left && this.#right[pair] === right) return pair
    }
  }

  #hash(left: number, right: number): number {
    const mixed = Math.imul(left, 0x9e3779b1) ^ Math.imul(right, 0x85ebca6b)
    return mixed ^ (mixed >>> 15)
  }

  #add(left: number, right: number): number {
    const pair = this.size++
    this.#left[pair] = left
    this.#right[pair] = right
    if (this.size === this.#left.length) {
      this.#left = grownInt(this.#left)
      this.#right = grownInt(this.#right)
      const slots = new Int32Array(this.#slots.length * 2)
      const mask = slots.length - 1
      for (let each = 0; each < this.size; each++) {
        let slot = this.#hash(this.#left[each]!, this.#right[each]!) & mask
        while (slots[slot] !== 0) slot = (slot + 1) & mask
        slots[slot] = each + 1
      }
      this.#slots = slots
    }
    return pair
  }
}
