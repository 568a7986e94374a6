/**
 * Text to token ids and back: byte-level BPE, id for id as Hugging Face `tokenizers` with the same `tokenizer.json`.
 *
 * One difference is wanted. Hugging Face looks for added tokens in every text, so a web page that says `<|eos|>` would end the
 * document. Here `encode` reads text as text: the literal becomes ordinary tokens (`<`, `|`, `e` …), no text can make a special
 * id, and special tokens are put in by number by whoever means them. Nor does `encode` put BOS in front.
 *
 * Lone surrogates, which UTF-8 cannot spell, become U+FFFD first. `decode(encode(text))` is the text for everything else.
 *
 * A published model's tokenizer that is not plain byte-level BPE (other pre-tokenisers, normalisers, unigram) is run by
 * `@huggingface/tokenizers` behind the same interface, and is not told of special tokens when it encodes, for the same reason.
 *
 * `tokenizer.json` has merges as `"left right"`: every reader takes that form, the newer list form only the newer ones.
 */
import { readFile, stat, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { because } from "../model/Because.ts"
import type { Vocabulary } from "./BpeTrainer.ts"
import {
  byteOfSymbol,
  byteSymbols,
  countCharacters,
  countWords,
  PairTable,
  utf8Into,
  WordTable,
  wordEnd,
} from "./Words.ts"

export const specialTokens = ["<|bos|>", "<|eos|>", "<|pad|>"] as const

export interface Tokenizer {
  /** Rows an embedding needs: one more than the largest id. */
  readonly vocabularySize: number
  readonly bosId: number | null
  readonly eosId: number | null
  readonly padId: number | null
  /** Ids of the text alone, special tokens neither added nor (for byte-level BPE) parsed. */
  encode(text: string): Uint32Array
  /** Special tokens are written out unless `skipSpecial`; ids out of range are left out. */
  decode(ids: ArrayLike<number>, options?: { readonly skipSpecial?: boolean }): string
  isSpecial(id: number): boolean
}

export class TokenizerUnreadable extends Schema.TaggedError<TokenizerUnreadable>()("TokenizerUnreadable", {
  path: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `tokenizer ${this.path}: ${this.problem}\n  hint: the folder needs a \`tokenizer.json\` (and \`tokenizer_config.json\`) as Hugging Face tokenizers write them`
  }
}

const MAX_CACHED_UNITS = 48
const CACHE_WORDS = 1 << 17
const CACHE_IDS = 1 << 20

export class BpeTokenizer implements Tokenizer {
  readonly vocabularySize: number
  readonly bosId: number | null
  readonly eosId: number | null
  readonly padId: number | null
  /** Byte-level spelling by id. */
  readonly tokens: ReadonlyArray<string>
  readonly merges: ReadonlyArray<string>
  readonly #special: ReadonlySet<number>
  readonly #bytes: ReadonlyArray<Uint8Array>
  readonly #idOfByte = new Int32Array(256)
  /** The number of a pair in the table is the rank of its merge. */
  readonly #ranks: PairTable
  readonly #results: Int32Array
  readonly #cache = new WordTable()
  readonly #cacheStarts = new Int32Array(CACHE_WORDS + 2)
  readonly #cacheIds = new Uint32Array(CACHE_IDS)
  #out = new Uint32Array(1 << 12)
  #length = 0
  #word = new Int32Array(256)
  #rank = new Int32Array(256)
  #utf8 = new Uint8Array(256)

  /** Throws when the vocabulary lacks a byte or a merge names a token that is not there. */
  constructor(
    vocabulary: Vocabulary,
    special: {
      readonly ids: ReadonlyArray<number>
      readonly bosId: number | null
      readonly eosId: number | null
      readonly padId: number | null
    } = { ids: [0, 1, 2], bosId: 0, eosId: 1, padId: 2 },
  ) {
    this.tokens = vocabulary.tokens
    this.merges = vocabulary.merges
    this.vocabularySize = vocabulary.tokens.length
    this.bosId = special.bosId
    this.eosId = special.eosId
    this.padId = special.padId
    this.#special = new Set(special.ids)
    const ids = new Map<string, number>()
    // an id that no token has is spelled "", which no merge may name
    for (let id = 0; id < this.tokens.length; id++)
      if (!this.#special.has(id) && this.tokens[id] !== "") ids.set(this.tokens[id]!, id)
    const idOf = (token: string) => {
      const id = ids.get(token)
      if (id === undefined) throw new Error(`token \`${token.slice(0, 60)}\` is not in the vocabulary`)
      return id
    }
    for (let byte = 0; byte < 256; byte++) this.#idOfByte[byte] = idOf(byteSymbols[byte]!)
    this.#ranks = new PairTable(this.merges.length + 1)
    this.#results = new Int32Array(this.merges.length)
    for (let rank = 0; rank < this.merges.length; rank++) {
      const [left = "", right = "", more] = this.merges[rank]!.split(" ")
      if (more !== undefined) throw new Error(`merge ${rank} is not two tokens`)
      if (this.#ranks.intern(idOf(left), idOf(right)) !== rank)
        throw new Error(`merge \`${left} ${right}\` stands twice`.slice(0, 150))
      this.#results[rank] = idOf(left + right)
    }
    const encoder = new TextEncoder()
    this.#bytes = this.tokens.map((token, id) => {
      const bytes = this.#special.has(id) ? [undefined] : Array.from(token, (symbol) => byteOfSymbol.get(symbol))
      return bytes.includes(undefined) ? encoder.encode(token) : Uint8Array.from(bytes as Array<number>)
    })
  }

  isSpecial(id: number): boolean {
    return this.#special.has(id)
  }

  encode(text: string): Uint32Array {
    const wellFormed = text.toWellFormed()
    this.#length = 0
    for (let start = 0; start < wellFormed.length; ) {
      const end = wordEnd(wellFormed, start)
      this.#encodeWord(wellFormed, start, end)
      start = end
    }
    return this.#out.slice(0, this.#length)
  }

  decode(ids: ArrayLike<number>, options?: { readonly skipSpecial?: boolean }): string {
    const pieces: Array<Uint8Array> = []
    for (let index = 0; index < ids.length; index++) {
      const id = ids[index]!
      const bytes = this.#bytes[id]
      if (bytes !== undefined && !(options?.skipSpecial && this.#special.has(id))) pieces.push(bytes)
    }
    return new TextDecoder("utf-8", { ignoreBOM: true }).decode(Buffer.concat(pieces))
  }

  #reserve(more: number) {
    if (this.#length + more <= this.#out.length) return
    const out = new Uint32Array(Math.max(this.#length + more, this.#out.length * 2))
    out.set(this.#out)
    this.#out = out
  }

  #encodeWord(text: string, start: number, end: number) {
    if (end - start > MAX_CACHED_UNITS) return this.#merge(text, start, end)
    if (this.#cache.size >= CACHE_WORDS || this.#cacheStarts[this.#cache.size]! + MAX_CACHED_UNITS * 3 > CACHE_IDS)
      this.#cache.clear()
    const word = this.#cache.intern(text, start, end)
    if (word >= 0) {
      const from = this.#cacheStarts[word]!
      const to = this.#cacheStarts[word + 1]!
      this.#reserve(to - from)
      for (let index = from; index < to; index++) this.#out[this.#length++] = this.#cacheIds[index]!
      return
    }
    const from = this.#length
    this.#merge(text, start, end)
    let at = this.#cacheStarts[-1 - word]!
    for (let index = from; index < this.#length; index++) this.#cacheIds[at++] = this.#out[index]!
    this.#cacheStarts[-word] = at
  }

  /** Appends the ids of one word: of all adjacent pairs the one of lowest rank is merged, the leftmost first, until none can be. */
  #merge(text: string, start: number, end: number) {
    const room = (end - start) * 3
    if (room > this.#word.length) {
      this.#word = new Int32Array(room)
      this.#rank = new Int32Array(room)
      this.#utf8 = new Uint8Array(room)
    }
    let length = utf8Into(text, start, end, this.#utf8)
    this.#reserve(length)
    if (length > 192) return this.#mergeLong(length)
    const word = this.#word
    const rank = this.#rank
    for (let index = 0; index < length; index++) word[index] = this.#idOfByte[this.#utf8[index]!]!
    for (let index = 0; index + 1 < length; index++) rank[index] = this.#ranks.find(word[index]!, word[index + 1]!)
    for (;;) {
      let best = -1
      let lowest = 0x7fffffff
      for (let index = 0; index + 1 < length; index++) {
        const here = rank[index]!
        if (here >= 0 && here < lowest) {
          lowest = here
          best = index
        }
      }
      if (best === -1) break
      word[best] = this.#results[lowest]!
      length--
      word.copyWithin(best + 1, best + 2, length + 1)
      rank.copyWithin(best + 1, best + 2, length)
      if (best > 0) rank[best - 1] = this.#ranks.find(word[best - 1]!, word[best]!)
      if (best + 1 < length) rank[best] = this.#ranks.find(word[best]!, word[best + 1]!)
    }
    for (let index = 0; index < length; index++) this.#out[this.#length++] = word[index]!
  }

  /** The same with a queue over (rank, position), so that a word of n bytes (a page without a space) costs n log n. */
  #mergeLong(length: number) {
    const word = this.#word
    const next = new Int32Array(length)
    const previous = new Int32Array(length)
    // (rank, position) as one number: a rank is below 2^21, a position below 2^32
    const queue: Array<number> = []
    const push = (position: number) => {
      const rank = this.#ranks.find(word[position]!, word[next[position]!]!)
      if (rank < 0) return
      const key = rank * 2 ** 32 + position
      let at = queue.push(key) - 1
      for (; at > 0; at = (at - 1) >> 1) {
        const parent = queue[(at - 1) >> 1]!
        if (parent <= key) break
        queue[at] = parent
      }
      queue[at] = key
    }
    const pop = (): number => {
      const top = queue[0]!
      const last = queue.pop()!
      if (queue.length > 0) {
        let at = 0
        for (;;) {
          let child = 2 * at + 1
          if (child >= queue.length) break
          if (child + 1 < queue.length && queue[child + 1]! < queue[child]!) child++
          if (queue[child]! >= last) break
          queue[at] = queue[child]!
          at = child
        }
        queue[at] = last
      }
      return top
    }
    for (let index = 0; index < length; index++) {
      word[index] = this.#idOfByte[this.#utf8[index]!]!
      next[index] = index + 1 < length ? index + 1 : -1
      previous[index] = index - 1
    }
    for (let index = 0; index + 1 < length; index++) push(index)
    while (queue.length > 0) {
      const key = pop()
      const rank = Math.floor(key / 2 ** 32)
      const position = key % 2 ** 32
      const after = next[position]!
      // stale: one of the two has been merged into something else since
      if (word[position]! < 0 || after < 0 || this.#ranks.find(word[position]!, word[after]!) !== rank) continue
      word[position] = this.#results[rank]!
      word[after] = -1
      next[position] = next[after]!
      if (next[position]! >= 0) {
        previous[next[position]!] = position
        push(position)
      }
      if (previous[position]! >= 0) push(previous[position]!)
    }
    for (let index = 0; index >= 0; index = next[index]!) this.#out[this.#length++] = word[index]!
  }
}

const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: true }

/** `tokenizer.json` as Hugging Face `tokenizers` reads it. */
export const tokenizerJson = (vocabulary: Vocabulary): string => {
  const [bos] = specialTokens
  const head = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: specialTokens.map((content, id) => ({
      id,
      content,
      single_word: false,
      lstrip: false,
      rstrip: false,
      normalized: false,
      special: true,
    })),
    normalizer: null,
    pre_tokenizer: byteLevel,
    post_processor: {
      type: "TemplateProcessing",
      single: [{ SpecialToken: { id: bos, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
      pair: [
        { SpecialToken: { id: bos, type_id: 0 } },
        { Sequence: { id: "A", type_id: 0 } },
        { SpecialToken: { id: bos, type_id: 1 } },
        { Sequence: { id: "B", type_id: 1 } },
      ],
      special_tokens: { [bos]: { id: bos, ids: [0], tokens: [bos] } },
    },
    decoder: byteLevel,
  }
  const settings =
    '"type":"BPE","dropout":null,"unk_token":null,"continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,"byte_fallback":false,"ignore_merges":false'
  // by hand: an object would put tokens such as "12" first and lose "__proto__"
  const vocab = vocabulary.tokens.map((token, id) => `${JSON.stringify(token)}:${id}`).join(",\n")
  const merges = vocabulary.merges.map((merge) => JSON.stringify(merge)).join(",\n")
  return `${JSON.stringify(head).slice(0, -1)},"model":{${settings},"vocab":{\n${vocab}\n},"merges":[\n${merges}\n]}}\n`
}

/** What transformers 4.57 and 5.x read besides. Only `PreTrainedTokenizerFast` honours `tokenizer.json` verbatim on both. */
export const tokenizerConfig = (options: { readonly modelMaxLength?: number | undefined } = {}) => ({
  added_tokens_decoder: Object.fromEntries(
    specialTokens.map((content, id) => [
      String(id),
      { content, lstrip: false, normalized: false, rstrip: false, single_word: false, special: true },
    ]),
  ),
  bos_token: specialTokens[0],
  clean_up_tokenization_spaces: false,
  eos_token: specialTokens[1],
  ...(options.modelMaxLength === undefined ? {} : { model_max_length: options.modelMaxLength }),
  pad_token: specialTokens[2],
  tokenizer_class: "PreTrainedTokenizerFast",
  unk_token: null,
})

export const specialTokensMap = {
  bos_token: specialTokens[0],
  eos_token: specialTokens[1],
  pad_token: specialTokens[2],
}

export const pretty = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`

/** Writes `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json` into a folder. */
export const writeTokenizer = async (
  folder: string,
  vocabulary: Vocabulary,
  options: { readonly modelMaxLength?: number | undefined } = {},
): Promise<void> => {
  await writeFile(join(folder, "tokenizer.json"), tokenizerJson(vocabulary))
  await writeFile(join(folder, "tokenizer_config.json"), pretty(tokenizerConfig(options)))
  await writeFile(join(folder, "special_tokens_map.json"), pretty(specialTokensMap))
}

/** Larger than any published one; a file that is larger, or an id, is damage or malice. */
const MAX_FILE = 64 * 1024 * 1024
const MAX_VOCABULARY = 1 << 21

type Json = { readonly [key: string]: unknown }
const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

interface AddedToken {
  readonly id: number
  readonly content: string
  readonly special: boolean
}
const isId = (id: unknown): id is number =>
  Number.isSafeInteger(id) && (id as number) >= 0 && (id as number) < MAX_VOCABULARY

const addedTokens = (json: Json): ReadonlyArray<AddedToken> =>
  (Array.isArray(json.added_tokens) ? json.added_tokens : []).filter(
    (token): token is AddedToken => isObject(token) && isId(token.id) && typeof token.content === "string",
  )

/** Tokens by id; an id that none has is "". Throws when an id is none, or has two tokens. */
const tokensById = (vocab: Json, added: ReadonlyArray<AddedToken>): Array<string> => {
  const byId = new Map<number, string>()
  let largest = -1
  for (const [token, id] of [...Object.entries(vocab), ...added.map(({ id, content }) => [content, id] as const)]) {
    if (!isId(id)) throw new Error(`token ${short(token)} has the id ${short(id)}, expected 0 to ${MAX_VOCABULARY - 1}`)
    const other = byId.get(id)
    if (other !== undefined && other !== token)
      throw new Error(`id ${id} has two tokens: ${short(other)} and ${short(token)}`)
    byId.set(id, token)
    if (id > largest) largest = id
  }
  return Array.from({ length: largest + 1 }, (_, id) => byId.get(id) ?? "")
}

/** Foreign words in a message of ours: no longer than a line. */
const short = (value: unknown): string => {
  const text = typeof value === "object" && value !== null ? "an object" : (JSON.stringify(value) ?? "nothing")
  return text.length > 60 ? `${text.slice(0, 60)}…` : text
}

/** The model of a `tokenizer.json` when it is plain byte-level BPE: what `BpeTokenizer` computes and nothing more. */
const byteLevelModel = (json: Json): Json | undefined => {
  const { model, pre_tokenizer: before, decoder, normalizer } = json
  const plain =
    isObject(model) &&
    model.type === "BPE" &&
    !model.dropout &&
    !model.unk_token &&
    !model.continuing_subword_prefix &&
    !model.end_of_word_suffix &&
    !model.byte_fallback &&
    !model.ignore_merges &&
    isObject(model.vocab) &&
    Array.isArray(model.merges) &&
    !normalizer &&
    isObject(before) &&
    before.type === "ByteLevel" &&
    before.add_prefix_space === false &&
    before.use_regex !== false &&
    isObject(decoder) &&
    decoder.type === "ByteLevel" &&
    addedTokens(json).every((token) => token.special)
  return plain ? model : undefined
}

const idOfContent = (json: Json, config: Json, name: string): number | null => {
  const named = config[name]
  const content = isObject(named) ? named.content : named
  const added = addedTokens(json).find((token) => token.content === content)
  if (added !== undefined) return added.id
  const vocab = isObject(json.model) && isObject(json.model.vocab) ? json.model.vocab : {}
  const id = typeof content === "string" && Object.hasOwn(vocab, content) ? vocab[content] : undefined
  return typeof id === "number" ? id : null
}

/** `json` and `config` are the contents of `tokenizer.json` and `tokenizer_config.json`, parsed. Throws what is wrong with them. */
export const tokenizerOf = async (json: unknown, config: unknown = {}): Promise<Tokenizer> => {
  if (!isObject(json) || !isObject(json.model)) throw new Error("`tokenizer.json` holds no model")
  const settings = isObject(config) ? config : {}
  const ids = {
    bosId: idOfContent(json, settings, "bos_token"),
    eosId: idOfContent(json, settings, "eos_token"),
    padId: idOfContent(json, settings, "pad_token"),
  }
  const model = byteLevelModel(json)
  if (model !== undefined) {
    const tokens = tokensById(model.vocab as Json, addedTokens(json))
    const merges = (model.merges as ReadonlyArray<unknown>).map((merge, rank) => {
      if (typeof merge === "string") return merge
      if (Array.isArray(merge) && merge.length === 2 && merge.every((part) => typeof part === "string"))
        return merge.join(" ")
      throw new Error(`merge ${rank} is not two tokens`)
    })
    return new BpeTokenizer({ tokens, merges }, { ids: addedTokens(json).map((token) => token.id), ...ids })
  }
  // the library believes what it is given: an id too large is an array too long
  if (isObject(json.model.vocab)) tokensById(json.model.vocab, addedTokens(json))
  const { Tokenizer: Library } = await import("@huggingface/tokenizers")
  const library = new Library(json, settings)
  const ordinary = addedTokens(json).filter((token) => !token.special)
  const encoder = new Library({ ...json, added_tokens: ordinary, post_processor: null }, settings)
  const special = new Set(addedTokens(json).flatMap((token) => (token.special ? [token.id] : [])))
  let largest = 0
  for (const id of [...special, ...library.get_vocab(true).values()]) {
    if (!isId(id)) throw new Error(`a token has the id ${short(id)}, expected 0 to ${MAX_VOCABULARY - 1}`)
    if (id > largest) largest = id
  }
  return {
    ...ids,
    vocabularySize: largest + 1,
    encode: (text) => Uint32Array.from(encoder.encode(text.toWellFormed(), { add_special_tokens: false }).ids),
    decode: (tokens, options) => {
      const known = Array.from(tokens).filter((id) => id <= largest)
      return known.length === 0
        ? ""
        : library.decode(known, {
            skip_special_tokens: options?.skipSpecial ?? false,
            clean_up_tokenization_spaces: settings.clean_up_tokenization_spaces === true,
          })
    },
    isSpecial: (id) => special.has(id),
  }
}

/** The tokenizer in a folder: one of ours, or a published model's own. */
export const loadTokenizer = Effect.fn("data.loadTokenizer")(function* (folder: string) {
  const read = async (name: string): Promise<unknown> => {
    const found = await stat(join(folder, name))
    if (!found.isFile()) throw new Error(`\`${name}\` is not a file`)
    const { size } = found
    if (size > MAX_FILE) throw new Error(`\`${name}\` has ${size} bytes, more than ${MAX_FILE}`)
    const bytes = await readFile(join(folder, name))
    try {
      return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes))
    } catch (cause) {
      throw new Error(`\`${name}\`: ${cause instanceof Error ? cause.message : String(cause)}`)
    }
  }
  const isMissing = (cause: unknown) => cause instanceof Error && "code" in cause && cause.code === "ENOENT"
  return yield* Effect.tryPromise({
    try: async () => {
      const json = await read("tokenizer.json")
      const config = await read("tokenizer_config.json").catch((cause) => {
        if (isMissing(cause)) return {}
        throw cause
      })
      return await tokenizerOf(json, config)
    },
    catch: (cause) =>
      because(
        new TokenizerUnreadable({ path: folder, problem: cause instanceof Error ? cause.message : String(cause) }),
        cause,
      ),
  })
})

/** Over some texts: characters are code points, words are cut at white space, tokens come without specials. */
export interface TokenizerFigures {
  readonly documents: number
  readonly bytes: number
  readonly characters: number
  readonly words: number
  readonly tokens: number
  /** Characters per token; null where there is no text. */
  readonly charactersPerToken: number | null
  readonly tokensPerWord: number | null
}

export const noFigures: TokenizerFigures = {
  documents: 0,
  bytes: 0,
  characters: 0,
  words: 0,
  tokens: 0,
  charactersPerToken: null,
  tokensPerWord: null,
}

/** Figures with one more text. */
export const measured = (figures: TokenizerFigures, tokenizer: Tokenizer, text: string): TokenizerFigures => {
  const characters = figures.characters + countCharacters(text)
  const words = figures.words + countWords(text)
  const tokens = figures.tokens + tokenizer.encode(text).length
  return {
    documents: figures.documents + 1,
    bytes: figures.bytes + Buffer.byteLength(text),
    characters,
    words,
    tokens,
    charactersPerToken: tokens === 0 ? null : characters / tokens,
    tokensPerWord: words === 0 ? null : tokens / words,
  }
}

/** parity(l) = tokens_l / tokens_reference, over the same documents in each language. */
export const parity = (
  tokenizer: Tokenizer,
  parallel: { readonly [language: string]: ReadonlyArray<string> },
  reference: string,
): { readonly [language: string]: number } => {
  const tokens = Object.entries(parallel).map(
    ([language, texts]) => [language, texts.reduce((sum, text) => sum + tokenizer.encode(text).length, 0)] as const,
  )
  const base = tokens.find(([language]) => language === reference)?.[1] ?? 0
  return Object.fromEntries(tokens.map(([language, count]) => [language, count / base]))
}
