import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { corpus, dataset, experiment, pack, tokenizer } from "exp"
import { expect } from "vitest"
import { planText } from "../../src/cli/PlanText.ts"
import { plan } from "../../src/plan/Plan.ts"

const COMMIT = "0123456789abcdef0123456789abcdef01234567"
const web = { repository: "our-org/web", revision: COMMIT, files: "data/*.parquet", language: "en" }
const wiki = { repository: "our-org/wiki", revision: "main", files: "it/*.parquet", markup: "wiki40b" } as const
const sources = { wiki_it: wiki, web_en: web }
const train = { en: ["web_en"], it: ["wiki_it"] }

const textOf = (program: () => Generator<any, unknown, any>) =>
  Effect.map(plan(experiment("test", {}, program as never)), ({ nodes }) => planText(nodes))
const refusalOf = (program: () => Generator<any, unknown, any>) =>
  Effect.map(Effect.flip(plan(experiment("test", {}, program as never))), ({ message }) => message)

describe("data sets in a plan", () => {
  it.effect("are a step each, whatever the order they are written in, and one that changes leaves the others", () =>
    Effect.gen(function* () {
      const of = (given: Parameters<typeof dataset>[0]["sources"]) =>
        textOf(function* () {
          const texts = yield* corpus({ texts: yield* dataset({ sources: given }), train })
          yield* pack({ corpus: texts, tokenizer: yield* tokenizer({ corpus: texts, vocabulary: 512 }), context: 64 })
        })
      const text = yield* of(sources)
      expect(text).toMatchInlineSnapshot(`
        "dataset-580a07716f7d  dataset web_en
        dataset-49b5c9446638  dataset wiki_it
        corpus-9b1b7c45eb5e  corpus  texts=dataset-580a07716f7d,dataset-49b5c9446638
        tokenizer-b3559418e27e  tokenizer  corpus=corpus-9b1b7c45eb5e
        pack-e8cd0c6e8969  pack  corpus=corpus-9b1b7c45eb5e  tokenizer=tokenizer-b3559418e27e"
      `)
      assert.strictEqual(yield* of({ web_en: web, wiki_it: wiki }), text)
      const bounded = yield* of({ ...sources, web_en: { ...web, most: { megabytes: 10 } } })
      const lines = (text: string) => text.split("\n").slice(0, 2)
      assert.notStrictEqual(lines(bounded)[0], lines(text)[0])
      assert.strictEqual(lines(bounded)[1], lines(text)[1])
    }),
  )

  it.effect("take the room that their bounds tell of, and nobody knows how much without one", () =>
    Effect.gen(function* () {
      const room = (most: Parameters<typeof dataset>[0]["sources"][string]["most"]) =>
        Effect.map(
          plan(
            experiment("rooms", {}, function* () {
              yield* dataset({ sources: { web_en: { ...web, ...(most && { most }) } } })
            }),
          ),
          ({ nodes: [node] }) => node!.definition.writes!(node!.params, {}),
        )
      assert.isUndefined(yield* room(undefined))
      assert.isUndefined(yield* room({}))
      assert.closeTo((yield* room({ megabytes: 10 }))!, 11e6, 1)
      assert.isBelow((yield* room({ megabytes: 10, documents: 100 }))!, 1e6)
    }),
  )

  it.effect("are refused when sources and texts do not go together", () =>
    Effect.gen(function* () {
      const refusals = [
        yield* refusalOf(function* () {
          yield* corpus({ texts: yield* dataset({ sources }), train: { en: ["web_en"], it: ["wiki_in"] } })
        }),
        yield* refusalOf(function* () {
          yield* corpus({ texts: yield* dataset({ sources }), train: { it: ["web_en", "wiki_it"] } })
        }),
        yield* refusalOf(function* () {
          yield* corpus({ train })
        }),
        yield* refusalOf(function* () {
          const texts = yield* dataset({ sources })
          yield* corpus({ texts: [texts, texts], train })
        }),
        yield* refusalOf(function* () {
          yield* dataset({ sources: {} })
        }),
        yield* refusalOf(function* () {
          yield* dataset({ sources: { web: { ...web, repository: "web" } } })
        }),
        yield* refusalOf(function* () {
          yield* dataset({ sources: { "../web": web } })
        }),
        yield* refusalOf(function* () {
          yield* dataset({ sources: { web: { ...web, most: { megabytes: 0 } } } })
        }),
        yield* refusalOf(function* () {
          yield* dataset({ sources: { web: { ...web, licence: "MIT" } as never } })
        }),
      ]
      expect(refusals.join("\n").replaceAll(/takes `source`.*$/gm, "takes …")).toMatchInlineSnapshot(`
        "corpus: \`wiki_in\` is not in \`texts\`
          hint: did you mean \`wiki_it\`?
        corpus: \`web_en\` is named under \`it\`, its data set is \`en\`
          hint: list the source under its own language
        corpus: nothing says where its texts are
          hint: name a folder with \`from\`, or give what \`dataset\` returns as \`texts\`
        corpus: \`texts\` has \`web_en\` twice
          hint: give each source of the hub a name of its own
        dataset: it names no source
          hint: name at least one: \`sources: { web_en: { repository: "org/name", … } }\`
        dataset web: \`repository\`: expected org/name
          hint: \`dataset\` takes …
        dataset ../web: \`source\`: expected letters, digits, \`_\`, \`-\` and \`.\`
          hint: \`dataset\` takes …
        dataset web: \`most.megabytes\`: expected a value greater than 0
          hint: \`dataset\` takes …
        dataset web: there is no parameter \`licence\`
          hint: did you mean \`license\`?"
      `)
    }),
  )

  it.effect("may stand beside a folder, which then has what they have not", () =>
    Effect.gen(function* () {
      const text = yield* textOf(function* () {
        const texts = yield* dataset({ sources })
        yield* corpus({ texts, from: "texts", train, evaluate: { en: ["books_en"], code: ["code"] } })
      })
      assert.match(text, /corpus {2}texts=dataset-/)
    }),
  )
})
