import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { expect } from "vitest"
import { buildCorpus, type CorpusRequest, fingerprints, readInventory, split } from "../../src/data/Corpus.ts"
import { fingerprint, noLicense } from "../../src/data/Source.ts"
import { Document } from "../../src/model/Corpus.ts"
import { sha256 } from "../../src/model/Digest.ts"
import { temporary } from "../temporary.ts"

const write = (folder: string, source: string, texts: ReadonlyArray<string>, more: object = {}) => {
  mkdirSync(folder, { recursive: true })
  writeFileSync(
    join(folder, `${source}.jsonl`),
    texts.map((text, index) => `${JSON.stringify({ id: `${source}-${index}`, text, ...more })}\n`).join(""),
  )
}
const numbered = (count: number, word: string) => Array.from({ length: count }, (_, index) => `${word} number ${index}`)

const build = Effect.fnUntraced(function* (request: Omit<CorpusRequest, "out">) {
  const out = yield* temporary
  const inventory = yield* buildCorpus({ ...request, out })
  const documents = (source: string): ReadonlyArray<Document> =>
    readFileSync(join(out, "documents", `${source}.jsonl`), "utf8")
      .trimEnd()
      .split("\n")
      .map((line) => Schema.decodeUnknownSync(Schema.fromJsonString(Document))(line))
  return { out, inventory, documents }
})
const small = { validation: 0.1, holdout: 0.1, minimumDocuments: 1 }

describe("split", () => {
  const parted = (texts: ReadonlyArray<string>, shares: Parameters<typeof split>[1]) => {
    const prints = BigUint64Array.from(texts, fingerprint)
    return Array.from(prints, split(prints, shares))
  }
  const texts = numbered(100, "text")
  const count = (parts: ReadonlyArray<string>) =>
    ["train", "validation", "holdout"].map((part) => parts.filter((each) => each === part).length)

  it("takes the first ranks by hash: shares of the documents, rounded up", () => {
    const parts = parted(texts, { validation: 0.07, holdout: 0.005 })
    assert.deepStrictEqual(count(parts), [92, 7, 1])
    const ranked = texts
      .map((text, index) => [sha256(text), parts[index]!] as const)
      .sort(([a], [b]) => (a < b ? -1 : 1))
    assert.deepStrictEqual(
      ranked.slice(0, 9).map(([, part]) => part),
      [...Array(7).fill("validation"), "holdout", "train"],
    )
    assert.deepStrictEqual(count(parted(texts, { validation: 0, holdout: 0 })), [100, 0, 0])
  })

  it.effect.prop("keeps equal texts together", [Schema.Array(Schema.Literals(["a", "b", "c", "d", "e"]))], ([texts]) =>
    Effect.sync(() => {
      const parts = parted(texts, { validation: 0.3, holdout: 0.3 })
      for (const text of new Set(texts))
        assert.strictEqual(new Set(parts.filter((_, index) => texts[index] === text)).size, 1)
      assert.isAtLeast(count(parts)[1]!, Math.ceil(texts.length * 0.3 - 1e-9))
    }),
  )
})

describe("buildCorpus", () => {
  it.effect("gathers licences, attributions and terms, and fills in what records leave out", () =>
    Effect.gen(function* () {
      const from = yield* temporary
      mkdirSync(from, { recursive: true })
      const records = [
        { text: "one", license: "CC-BY-4.0", attribution: "b", terms: "no scraping" },
        { text: "two", license: "NOASSERTION", origin: "a" },
        { text: "three", terms: "noai" },
        { text: "four" },
      ]
      writeFileSync(join(from, "press.jsonl"), records.map((each) => JSON.stringify(each)).join("\n"))
      writeFileSync(join(from, "novel.txt"), "first\n---\nsecond\n")
      const { inventory, documents } = yield* build({
        from,
        train: { en: ["press", "novel"] },
        split: { validation: 0, holdout: 0, minimumDocuments: 0 },
        rights: {
          press: { license: "CC-BY-SA-4.0", attribution: "the press" },
          novel: { license: "CC0-1.0", terms: "t" },
        },
      })
      const rights = inventory.sources.map(({ licenses, attributions, terms }) => ({ licenses, attributions, terms }))
      assert.deepStrictEqual(rights, [
        {
          licenses: { "CC-BY-4.0": 1, "CC-BY-SA-4.0": 3 },
          attributions: ["a", "b", "the press"],
          terms: ["no scraping", "noai"],
        },
        { licenses: { "CC0-1.0": 2 }, attributions: [], terms: ["t"] },
      ])
      assert.deepStrictEqual(
        documents("press").map(({ license }) => license),
        ["CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-SA-4.0", "CC-BY-SA-4.0"],
      )
    }).pipe(Effect.scoped),
  )

  it.effect("writes documents in file order, with parts, and an inventory that adds up", () =>
    Effect.gen(function* () {
      const from = yield* temporary
      write(from, "web_it", numbered(30, "è così"), { lang: "it", license: "CC0-1.0", origin: "somewhere" })
      write(from, "wiki_en", numbered(20, "so"))
      write(from, "books_en", numbered(5, "page"))
      write(from, "unread", ["x"])
      writeFileSync(join(from, "README.md"), "")
      writeFileSync(join(from, ".hidden"), "")
      const { inventory, documents, out } = yield* build({
        from,
        train: { it: ["web_it"], en: ["wiki_en"] },
        evaluate: { en: ["books_en"] },
        split: small,
      })
      assert.deepStrictEqual(yield* readInventory(out), { sources: inventory.sources })
      assert.deepStrictEqual(
        inventory.sources.map(({ source, language, role, parts }) => [
          source,
          language,
          role,
          ...Object.values(parts).map((part) => part.documents),
        ]),
        [
          ["wiki_en", "en", "train", 16, 2, 2],
          ["web_it", "it", "train", 24, 3, 3],
          ["books_en", "en", "evaluate", 0, 5, 0],
        ],
      )
      const web = inventory.sources[1]!
      assert.deepStrictEqual(web.licenses, { "CC0-1.0": 30 })
      assert.deepStrictEqual(web.attributions, ["somewhere"])
      assert.deepStrictEqual(inventory.sources[0]!.licenses, { [noLicense]: 20 })
      assert.strictEqual(web.sha256, sha256(readFileSync(join(from, "web_it.jsonl"))))
      assert.strictEqual(
        Object.values(web.parts).reduce((sum, { words }) => sum + words, 0),
        120,
      )
      assert.deepStrictEqual(inventory.leftAlone, ["README.md", "unread.jsonl"])
      assert.deepStrictEqual(
        documents("web_it").map(({ text }) => text),
        numbered(30, "è così"),
      )
      assert.isTrue(documents("books_en").every(({ part, language }) => part === "validation" && language === "en"))
    }),
  )

  it.effect("makes the same bytes again, whatever the order of languages in the request", () =>
    Effect.gen(function* () {
      const from = yield* temporary
      write(from, "a", numbered(20, "a"))
      write(from, "b", numbered(20, "b"))
      const one = yield* build({ from, train: { en: ["a"], it: ["b"] }, split: small })
      const two = yield* build({ from, train: { it: ["b"], en: ["a"] }, split: small })
      for (const file of readdirSync(one.out, { recursive: true, withFileTypes: true }).filter((entry) =>
        entry.isFile(),
      )) {
        const path = join(file.parentPath, file.name)
        assert.deepStrictEqual(readFileSync(path.replace(one.out, two.out)), readFileSync(path))
      }
    }),
  )

  it.effect("reads the files that it was planned with, and no others under their names", () =>
    Effect.gen(function* () {
      const folder = yield* temporary
      write(folder, "web", numbered(30, "web"))
      const request = { from: folder, train: { en: ["web"] }, split: small }
      const planned = yield* fingerprints(request)
      assert.deepStrictEqual(
        (yield* build({ ...request, planned })).inventory.sources[0]!.sha256,
        planned["web"]!.sha256,
      )
      write(folder, "web", numbered(31, "web"))
      const refusal = yield* Effect.flip(build({ ...request, planned }))
      assert.match(refusal.message, /web\.jsonl.*it was changed since it was planned with\n {2}hint: /s)
      assert.strictEqual(
        (yield* build({ ...request, planned: yield* fingerprints(request) })).inventory.sources.length,
        1,
      )
    }),
  )

  it.effect("finds a source that `from` lacks in the fallback folder", () =>
    Effect.gen(function* () {
      const from = yield* temporary
      const fallback = yield* temporary
      write(from, "a", numbered(20, "a"))
      write(fallback, "a", ["another a"])
      write(fallback, "code", ["const x = 1"])
      const request = { from, fallback, train: { en: ["a"] }, evaluate: { code: ["code"] }, split: small }
      const { inventory, documents } = yield* build(request)
      assert.strictEqual(inventory.sources[0]!.parts.train.documents, 16)
      assert.strictEqual(documents("code")[0]!.text, "const x = 1")
      assert.deepStrictEqual(inventory.leftAlone, [])
      assert.deepStrictEqual(yield* fingerprints(request), {
        a: { file: "a.jsonl", sha256: sha256(readFileSync(join(from, "a.jsonl"))) },
        code: { file: "code.jsonl", sha256: sha256(readFileSync(join(fallback, "code.jsonl"))) },
      })
      const unknown = yield* Effect.flip(build({ ...request, evaluate: { code: ["coda"] } }))
      assert.match(unknown.message, /which has a, code\n {2}hint: did you mean "code"\?/)
    }),
  )

  it.effect("writes ids that are unique in the corpus, whatever sources call their documents", () =>
    Effect.gen(function* () {
      const from = yield* temporary
      for (const source of ["a", "b"])
        writeFileSync(
          join(from, `${source}.jsonl`),
          ["1", "b:2", "", undefined, "a-5", 6]
            .map((id, index) => `${JSON.stringify({ id, text: `text ${index}` })}\n`)
            .join(""),
        )
      const { documents } = yield* build({ from, train: { en: ["a"] }, evaluate: { en: ["b"] }, split: small })
      assert.deepStrictEqual(
        ["a", "b"].map((source) => documents(source).map(({ id }) => id)),
        [
          ["a:1", "a:b:2", "a:3", "a:4", "a:a-5", "a:6"],
          ["b:1", "b:2", "b:3", "b:4", "b:a-5", "b:6"],
        ],
      )
    }),
  )

  it.effect("splits one file by the sources its records name", () =>
    Effect.gen(function* () {
      const folder = yield* temporary
      const file = join(folder, "all.jsonl")
      const lines = numbered(40, "text").map((text, index) =>
        JSON.stringify({ text, source: index % 2 ? "odd" : "even" }),
      )
      writeFileSync(file, `${[...lines, JSON.stringify({ text: "left", source: "over" })].join("\n")}\n`)
      const { documents, inventory } = yield* build({ from: file, train: { en: ["odd", "even"] }, split: small })
      assert.deepStrictEqual(
        documents("odd").map(({ text }) => text),
        numbered(40, "text").filter((_, index) => index % 2),
      )
      assert.deepStrictEqual(inventory.leftAlone, ["all.jsonl#over"])
    }),
  )

  it.effect("refuses parts that are too small to measure or to learn from", () =>
    Effect.gen(function* () {
      const from = yield* temporary
      write(from, "a", numbered(100, "a"))
      write(from, "one", ["a single text"])
      write(from, "none", [])
      const messages: Array<string> = []
      for (const request of [
        { train: { en: ["a"] } },
        { train: { en: ["a"] }, split: { validation: 0.2, holdout: 0.1, minimumDocuments: 20 } },
        { train: { en: ["one"] }, split: { validation: 0.2, holdout: 0, minimumDocuments: 1 } },
        { train: { en: ["none"] } },
        { train: { en: ["a"] }, evaluate: { it: ["a"] } },
        { train: { en: ["../a"] } },
      ])
        messages.push((yield* Effect.flip(build({ from, ...request }))).message)
      expect(messages.join("\n")).toMatchInlineSnapshot(`
        "source "a" has 100 documents, of which 5 for validation and 5 for holdout; 20 are needed
          hint: \`split: { validation: 0.25, holdout: 0.25 }\` is about enough; or write \`minimumDocuments: 5\` in \`split\` and measure less surely, or add documents
        source "a" has 100 documents, of which 10 for holdout; 20 are needed
          hint: \`split: { holdout: 0.25 }\` is about enough; or write \`minimumDocuments: 10\` in \`split\` and measure less surely, or add documents
        source "one" has 1 documents, of which 0 for train
          hint: lower the split's shares or add documents
        source "none": none.jsonl holds no documents
          hint: take the source out or fill the file
        source "a" is named twice
          hint: a source has one language and is either trained on or evaluated on (its own validation part is evaluated anyway)
        experiment: "../a" cannot name a source
          hint: use letters, digits, "_", "-" and "."; it becomes a file name"
      `)
    }),
  )

  it.effect("asks for no validation when its share is 0", () =>
    Effect.gen(function* () {
      const from = yield* temporary
      write(from, "a", numbered(30, "a"))
      const { inventory } = yield* build({
        from,
        train: { en: ["a"] },
        split: { validation: 0, holdout: 0, minimumDocuments: 20 },
      })
      assert.strictEqual(inventory.sources[0]!.parts.train.documents, 30)
    }),
  )

  it.effect("reports progress in documents, to the end", () =>
    Effect.gen(function* () {
      const from = yield* temporary
      write(from, "a", numbered(30, "a"))
      const seen: Array<readonly [number, number]> = []
      yield* build({ from, train: { en: ["a"] }, split: small, progress: (...now) => seen.push(now) })
      assert.deepStrictEqual(seen.at(-1), [60, 60])
    }),
  )
})
