import { assert, describe, it } from "@effect/vitest"
import { Result, Schema } from "effect"
import { buildPrompts, occurring, type PromptSet, PromptsTooFew } from "../../src/decoding/Prompts.ts"
import type { SourceRole } from "../../src/evaluation/Losses.ts"
import type { Document, Part } from "../../src/model/Corpus.ts"
import { stream } from "../../src/model/Random.ts"
import { PromptSets } from "../../src/model/Report.ts"

/** A token a word, blank included: what follows a whole word is a new token. */
const pieces: Array<string> = []
const idOf = new Map<string, number>()
const encode = (text: string) =>
  (text.match(/\s*\S+|\s+$/g) ?? []).map((piece) => {
    if (!idOf.has(piece)) idOf.set(piece, pieces.push(piece) - 1)
    return idOf.get(piece)!
  })
const decode = (ids: ReadonlyArray<number>) => ids.map((id) => pieces[id]).join("")

const sources: ReadonlyArray<SourceRole> = [
  { source: "web_en", language: "en", role: "train" },
  { source: "web_it", language: "it", role: "train" },
  { source: "books_en", language: "en", role: "evaluate" },
]
const sentence = (name: string, words: number) =>
  `The ${name} ${Array.from({ length: words - 2 }, (_, i) => `${name}${i}`).join(" ")}.`
const document = (id: string, part: Part, source = "web_en", text?: string): Document => ({
  id,
  part,
  source,
  language: source.slice(-2),
  license: "CC0-1.0",
  text: text ?? [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map((n) => sentence(`${id}s${n}w`, 18)).join(" "),
})
const corpus = (["validation", "holdout", "train"] as const).flatMap((part) =>
  ["web_en", "web_it", "books_en"].flatMap((source) =>
    Array.from({ length: 6 }, (_, i) => document(`${part}${source}${i}x`, part, source)),
  ),
)
const build = (documents: ReadonlyArray<Document>, needs: Record<PromptSet, number>, seed = 1) =>
  buildPrompts({ documents, sources, languages: ["en", "it"], maxNewTokens: 24, seed, needs, encode, decode })
const needs = { tuning: 8, holdout: 10, behaviour: 4 }
const sets = Result.getOrThrow(build(corpus, needs))
const all = Object.values(sets).flat()

describe("prompts", () => {
  it("are as many as asked for in each language, from the right documents", () => {
    for (const set of ["tuning", "holdout", "behaviour"] as const)
      for (const language of ["en", "it"]) {
        const of = sets[set].filter((prompt) => prompt.language === language)
        assert.strictEqual(of.length, needs[set])
        for (const { document, source } of of) {
          assert.match(document, set === "holdout" ? /^holdout/ : /^validation/)
          assert.strictEqual(source, `web_${language}`)
        }
      }
    assert.strictEqual(new Set(all.map(({ id }) => id)).size, all.length)
    assert.strictEqual(new Set(all.map(({ text }) => text)).size, all.length)
  })

  it("share no document between tuning and behaviour, however many are asked for", () => {
    const long = ["a", "b"].map((name) => {
      const text = Array.from({ length: 40 }, (_, i) => sentence(`${name}${i}w`, 18)).join(" ")
      return document(name, "validation", "web_en", text)
    })
    const { tuning, behaviour } = Result.getOrThrow(
      buildPrompts({
        documents: long,
        sources,
        languages: ["en"],
        maxNewTokens: 24,
        seed: 1,
        needs: { tuning: 1, behaviour: 25, holdout: 0 },
        encode,
        decode,
      }),
    )
    assert.strictEqual(behaviour.length, 25)
    for (const prompt of behaviour) assert.notStrictEqual(prompt.document, tuning[0]!.document)
  })

  it("are 6–12 whole words of a sentence, with the document's own continuation", () => {
    const lengths = new Set<number>()
    for (const { text, continuation, continuationIds, ids, document: id } of all) {
      const words = text.split(" ").length
      lengths.add(words)
      assert.isTrue(words >= 6 && words <= 12)
      const whole = corpus.find((document) => document.id === id)!.text
      assert.isTrue(whole.includes(text + continuation))
      assert.match(continuation, /^ /)
      assert.strictEqual(decode(ids), text)
      assert.strictEqual(decode(continuationIds), continuation)
      assert.isTrue(continuationIds.length >= 16 && continuationIds.length <= 24)
    }
    assert.isTrue(lengths.size > 3, "openings of several lengths")
  })

  it("take every document once before any document twice", () => {
    const uses = [...Map.groupBy(sets.holdout, ({ document }) => document).values()].map((of) => of.length)
    assert.strictEqual(uses.length, 12)
    assert.isTrue(Math.max(...uses) - Math.min(...uses) <= 1)
  })

  it("are the same for the same seed and others for another", () => {
    assert.deepStrictEqual(Result.getOrThrow(build(corpus, needs)), sets)
    assert.notDeepEqual(
      Result.getOrThrow(build(corpus, needs, 2)).tuning.map(({ text }) => text),
      sets.tuning.map(({ text }) => text),
    )
  })

  it("pass over what the training text has, however it is spaced", () => {
    const known = sets.holdout[0]!
    const leak = document("leak", "train", "web_it", `Something else.\n${known.text.replaceAll(" ", "\n ")} and more`)
    const again = Result.getOrThrow(build([...corpus, leak], needs))
    assert.notInclude(
      again.holdout.map(({ text }) => text),
      known.text,
    )
    assert.strictEqual(again.holdout.length, sets.holdout.length)
    const shouted = { ...leak, text: leak.text.toUpperCase() }
    assert.deepStrictEqual(Result.getOrThrow(build([...corpus, shouted], needs)), sets)
  })

  it("leave out short sentences, and documents that end too soon", () => {
    const texts = [
      "Athens\nA short title line\nThe first sentence of this long document has quite a few words. And then it goes on for a good while yet, so that sixteen tokens follow.",
      "The only sentence here ends after a few more words.",
    ]
    assert.strictEqual(encode(texts[1]!).length, 10)
    const few = texts.map((text, i) => document(`few${i}`, "holdout", "web_en", text))
    const { holdout } = Result.getOrThrow(
      buildPrompts({
        documents: few,
        sources,
        languages: ["en"],
        maxNewTokens: 24,
        seed: 1,
        needs: { tuning: 0, behaviour: 0, holdout: 1 },
        encode,
        decode,
      }),
    )
    assert.match(holdout[0]!.text, /^The first sentence of this long/)
  })

  it("leave a word of the sentence to be continued with", () => {
    const short = Array.from({ length: 10 }, (_, i) => sentence(`short${i}w`, 8)).join(" ")
    const documents = Array.from({ length: 4 }, (_, i) =>
      document(`d${i}`, "holdout", "web_en", short.replaceAll("The", `The${i}`)),
    )
    const { holdout } = Result.getOrThrow(
      buildPrompts({
        documents,
        sources,
        languages: ["en"],
        maxNewTokens: 24,
        seed: 1,
        needs: { tuning: 0, behaviour: 0, holdout: 20 },
        encode,
        decode,
      }),
    )
    for (const { text } of holdout) assert.match(text, /^The\d( \w+){5,6}$/)
  })

  it("are a typed error with a hint when there are too few", () => {
    const result = build(corpus, { ...needs, holdout: 100 })
    assert.isTrue(Result.isFailure(result))
    if (!Result.isFailure(result)) return
    assert.instanceOf(result.failure, PromptsTooFew)
    assert.match(
      result.failure.message,
      /^holdout prompts in "en": 100 needed, \d+ found in 6 holdout documents \(0 openings passed over .*\)\n {2}hint: /,
    )
  })

  it("fit the file they are written to, without their ids", () => {
    const written = Schema.encodeUnknownSync(PromptSets)(sets) as unknown as typeof sets
    assert.isUndefined(written.tuning[0]!.ids)
    assert.strictEqual(written.tuning[0]!.text, sets.tuning[0]!.text)
  })

  const Text = Schema.Array(Schema.Literals(["a", "b", " ", "è"])).check(Schema.isMaxLength(40))
  const Texts = Schema.Array(Text).check(Schema.isMinLength(1), Schema.isMaxLength(4))
  it.prop("rolling hashes find exactly the needles that are there", [Texts, Schema.Natural], ([parts, some]) => {
    const texts = parts.map((part) => part.join(""))
    const random = stream(some, "needles")
    const needles = Array.from({ length: 12 }, (_, i) => {
      const from = texts[i % texts.length]!
      const start = Math.floor(random.uniform(i) * from.length)
      return (from.slice(start, start + 3 + (i % 3)) + (i % 2 === 0 ? "" : "b")).padEnd(3, "a")
    })
    const expected = needles.filter((needle) => texts.some((text) => text.includes(needle)))
    assert.deepStrictEqual([...occurring(needles, texts)].sort(), [...new Set(expected)].sort())
  })
})
