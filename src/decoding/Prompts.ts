/**
 * Prompts made of held-out documents: the first 6–12 words of a sentence (or line) of at least 7, cut at a word's end, and the
 * document's own continuation, which is what a preset's text is compared with.
 *
 * Tuning and behaviour prompts come from validation documents of the training sources, from different documents each; holdout prompts
 * come from holdout documents. Every document gives the opening of its first such sentence before any gives a second one. An opening
 * that occurs anywhere in the training text is passed over: what is continued must not have been learned by heart.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { SourceRole } from "../evaluation/Losses.ts"
import { encodePair } from "../evaluation/Probe.ts"
import type { Document } from "../model/Corpus.ts"
import { permutation, stream } from "../model/Random.ts"
import type { Prompt } from "../model/Report.ts"

export const PromptSet = Schema.Literals(["tuning", "holdout", "behaviour"])
export type PromptSet = typeof PromptSet.Type

export interface TokenizedPrompt extends Prompt {
  /** Of `text`, without BOS. */
  readonly ids: ReadonlyArray<number>
  /** The real continuation: `maxNewTokens` ids where the document has them, at least 16. `continuation` is their text. */
  readonly continuationIds: ReadonlyArray<number>
}

/** Prompts of each language for each set. */
export const defaultNeeds: Readonly<Record<PromptSet, number>> = { tuning: 40, holdout: 40, behaviour: 20 }

const FEWEST_WORDS = 6
const MOST_WORDS = 12
const SHORTEST_CONTINUATION = 16

export class PromptsTooFew extends Schema.TaggedError<PromptsTooFew>()("PromptsTooFew", {
  set: PromptSet,
  language: Schema.String,
  needed: Schema.Int,
  found: Schema.Int,
  documents: Schema.Int,
  /** Openings that occur in the training text. */
  passedOver: Schema.Int,
}) {
  override get message() {
    const part = this.set === "holdout" ? "holdout" : "validation"
    return `${this.set} prompts in "${this.language}": ${this.needed} needed, ${this.found} found in ${this.documents} ${part} documents (${this.passedOver} openings passed over because the training text has them)\n  hint: ask for fewer prompts, or give more \`${part}\` documents in the corpus split`
  }
}

export const buildPrompts = ({
  documents,
  sources,
  languages,
  maxNewTokens,
  seed,
  needs = defaultNeeds,
  encode,
  decode,
}: {
  /** All parts of all sources; walked once to see the held-out ones, and again for each batch of openings to be looked for. */
  readonly documents: Iterable<Document>
  readonly sources: ReadonlyArray<SourceRole>
  readonly languages: ReadonlyArray<string>
  readonly maxNewTokens: number
  readonly seed: number
  readonly needs?: Readonly<Record<PromptSet, number>>
  /** Without special tokens. */
  readonly encode: (text: string) => ReadonlyArray<number>
  readonly decode: (ids: ReadonlyArray<number>) => string
}): Result.Result<Readonly<Record<PromptSet, ReadonlyArray<TokenizedPrompt>>>, PromptsTooFew> => {
  const training = new Set(sources.filter(({ role }) => role === "train").map(({ source }) => source))
  const heldOut = Array.from(documents).filter(({ part, source }) => part !== "train" && training.has(source))
  const pools = languages.flatMap((language) => {
    const of = (part: Document["part"]) => {
      const found = heldOut.filter((document) => document.part === part && document.language === language)
      return Array.from(permutation(seed, `prompts:${part}:${language}`, found.length), (index) => found[index]!)
    }
    const validation = of("validation")
    const share = needs.tuning / Math.max(1, needs.tuning + needs.behaviour)
    const border =
      validation.length < 2 ? validation.length : clamp(Math.round(share * validation.length), 1, validation.length - 1)
    const pool = (set: PromptSet, from: ReadonlyArray<Document>) => ({
      set,
      language,
      documents: from,
      candidates: openings(from, seed),
      found: [] as Array<TokenizedPrompt>,
      passedOver: 0,
      exhausted: false,
    })
    return [
      pool("tuning", validation.slice(0, border)),
      pool("behaviour", validation.slice(border)),
      pool("holdout", of("holdout")),
    ]
  })
  const taken = new Set<string>()
  for (;;) {
    const open = pools.filter((pool) => !pool.exhausted && pool.found.length < needs[pool.set])
    if (open.length === 0) break
    const batch = open.flatMap((pool) => {
      const missing = needs[pool.set] - pool.found.length
      const fresh: Array<Opening> = []
      while (fresh.length < 2 * missing + 8) {
        const { value: opening, done } = pool.candidates.next()
        if (done === true) {
          pool.exhausted = true
          break
        }
        if (!taken.has(opening.normal)) fresh.push(opening)
        taken.add(opening.normal)
      }
      return fresh.map((opening) => ({ pool, opening }))
    })
    const known = occurring(
      batch.map(({ opening }) => opening.normal),
      trainingTexts(documents),
    )
    for (const { pool, opening } of batch) {
      if (pool.found.length >= needs[pool.set]) continue
      if (known.has(opening.normal)) {
        pool.passedOver++
        continue
      }
      const { document, start, end } = opening
      const text = document.text.slice(start, end)
      // a generous piece of the document, ended between words so that its last token is one the document has
      const limit = document.text.indexOf(" ", end + 24 * maxNewTokens)
      const pair = encodePair(encode, text, document.text.slice(end, limit < 0 ? undefined : limit).trimEnd())
      const continuationIds = pair.continuation.slice(0, maxNewTokens)
      if (continuationIds.length < Math.min(SHORTEST_CONTINUATION, maxNewTokens)) continue
      pool.found.push({
        id: `${pool.set}-${pool.language}-${String(pool.found.length + 1).padStart(3, "0")}`,
        language: pool.language,
        source: document.source,
        document: document.id,
        text,
        continuation: decode(continuationIds),
        ids: pair.context,
        continuationIds,
      })
    }
  }
  const short = pools.find(({ set, found }) => found.length < needs[set])
  if (short !== undefined)
    return Result.fail(
      new PromptsTooFew({
        set: short.set,
        language: short.language,
        needed: needs[short.set],
        found: short.found.length,
        documents: short.documents.length,
        passedOver: short.passedOver,
      }),
    )
  const of = (set: PromptSet) => pools.filter((pool) => pool.set === set).flatMap(({ found }) => found)
  return Result.succeed({ tuning: of("tuning"), holdout: of("holdout"), behaviour: of("behaviour") })
}

interface Opening {
  readonly document: Document
  readonly start: number
  readonly end: number
  /** With single spaces: what is looked for in the training text. */
  readonly normal: string
}

/** First every document's first opening, then every document's second, and so on. */
function* openings(documents: ReadonlyArray<Document>, seed: number): Generator<Opening, undefined> {
  const walks = documents.map((document) => openingsOf(document, seed))
  for (let left = walks; left.length > 0; ) {
    const going: typeof walks = []
    for (const walk of left) {
      const { value, done } = walk.next()
      if (done === true) continue
      yield value
      going.push(walk)
    }
    left = going
  }
}

/** A sentence ends at . ! ? … (and what closes quotes) before white space and no lower-case letter, and with its line. */
const sentenceEnd = /(?<=[.!?…]["'”’»)\]]*)\s+(?![\p{Ll}\s])|\n+/gu

function* openingsOf(document: Document, seed: number): Generator<Opening, undefined> {
  const { text } = document
  const random = stream(seed, `opening:${document.source}:${document.id}`)
  const borders = [...text.matchAll(sentenceEnd)].map((match) => [match.index, match.index + match[0].length] as const)
  let start = 0
  for (const [end, next] of [...borders, [text.length, text.length] as const]) {
    const words = [...text.slice(start, end).matchAll(/\S+/gu)]
    if (words.length > FEWEST_WORDS) {
      // at least one word of the sentence is left to be continued with
      const most = Math.min(MOST_WORDS, words.length - 1)
      const count = FEWEST_WORDS + Math.floor(random.uniform(start) * (most - FEWEST_WORDS + 1))
      const last = words[count - 1]!
      const from = start + words[0]!.index
      const to = start + last.index + last[0].length
      yield { document, start: from, end: to, normal: normalised(text.slice(from, to)) }
    }
    start = next
  }
}

function* trainingTexts(documents: Iterable<Document>): Generator<string> {
  for (const { part, text } of documents) if (part === "train") yield normalised(text)
}

const normalised = (text: string): string => text.replace(/\s+/gu, " ").trim()

const clamp = (value: number, low: number, high: number): number => Math.min(high, Math.max(low, value))

const BASE = 0x01000193

/**
 * Which needles occur in the texts: one pass with a rolling hash over windows as long as the shortest needle (Rabin and Karp 1987),
 * so that a gigabyte of training text is read once for hundreds of openings.
 */
export const occurring = (needles: ReadonlyArray<string>, texts: Iterable<string>): ReadonlySet<string> => {
  const found = new Set<string>()
  const width = needles.reduce((least, { length }) => Math.min(least, length), Number.POSITIVE_INFINITY)
  if (needles.length === 0 || width === 0) return found
  const hashOf = (text: string) => {
    let hash = 0
    for (let i = 0; i < width; i++) hash = (Math.imul(hash, BASE) + text.charCodeAt(i)) | 0
    return hash
  }
  const byHash = Map.groupBy(new Set(needles), hashOf)
  // most windows are turned away by one look at a small table, before the map is asked
  const maybe = new Uint8Array(1 << 16)
  const slot = (hash: number) => (hash ^ (hash >>> 16)) & 0xffff
  for (const hash of byHash.keys()) maybe[slot(hash)] = 1
  let leaving = 1
  for (let i = 1; i < width; i++) leaving = Math.imul(leaving, BASE)
  for (const text of texts) {
    if (text.length < width) continue
    let hash = hashOf(text)
    for (let start = 0; ; start++) {
      if (maybe[slot(hash)] === 1)
        for (const needle of byHash.get(hash) ?? []) if (text.startsWith(needle, start)) found.add(needle)
      if (start + width >= text.length) break
      hash = (Math.imul(hash - Math.imul(text.charCodeAt(start), leaving), BASE) + text.charCodeAt(start + width)) | 0
    }
  }
  return found
}
