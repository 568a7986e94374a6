import { readFileSync, writeFileSync } from "node:fs"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, expect, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { parse } from "yaml"
import { renderCard } from "../../src/release/Card.ts"
import { checkLicensing, licenseLink, objections, rightsOfWeights } from "../../src/release/License.ts"
import { lintCard } from "../../src/release/Lint.ts"
import { assembled } from "./assembled.ts"

const REASON = "The rights' holders of wiki-en and wiki-it allowed it in writing on the second of May"

describe("the licence of a release", () => {
  it.effect("that the texts do not allow is refused with every source, its rule, and what would do", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(assembled({ license: "MIT" }))
      assert.strictEqual(error._tag, "LicenseRefused")
      expect(error.message).toMatchInlineSnapshot(`
        "release: "MIT" is not possible for the texts it is trained on
          wiki-en: CC-BY-SA-4.0 (90 documents), share-alike: may go on only under CC-BY-SA-4.0, a later version of it, GPL-3.0-only or LAL-1.3
          wiki-it: CC-BY-SA-4.0 (91 documents), share-alike: may go on only under CC-BY-SA-4.0, a later version of it, GPL-3.0-only or LAL-1.3
          hint: CC-BY-SA-4.0 or GPL-3.0-only or LAL-1.3 would do; or take out \`wiki-en\`, \`wiki-it\`; or write why the rule does not hold: \`licensing: { override: "…" }\`"
      `)
      const none = yield* Effect.flip(assembled({ license: "MIT", sourceLicense: "CC-BY-ND-4.0" }))
      expect(none.message).toMatchInlineSnapshot(`
        "release: "MIT" is not possible for the texts it is trained on
          wiki-en: CC-BY-ND-4.0 (90 documents), no-derivatives: may go on under no licence, as adapted material may not be shared
          wiki-it: CC-BY-ND-4.0 (91 documents), no-derivatives: may go on under no licence, as adapted material may not be shared
          hint: no licence is possible for all of these texts: take out \`wiki-en\`, \`wiki-it\`; or write why the rule does not hold: \`licensing: { override: "…" }\`"
      `)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("that needs but somebody to be named says where to name them", () =>
    Effect.gen(function* () {
      const unnamed = {
        source: "web_pl",
        role: "train" as const,
        licenses: { "CC-BY-4.0": 131 },
        attributions: [],
        terms: [],
      }
      const error = yield* Effect.flip(checkLicensing({ license: "CC-BY-4.0", override: undefined }, [unnamed]))
      expect(error.message).toMatchInlineSnapshot(`
        "release: "CC-BY-4.0" is not possible for the texts it is trained on
          web_pl: CC-BY-4.0 (131 documents), attribution: asks for attribution, and no record of the source says to whom
          hint: say who is to be named, in the field \`attribution\` of their records or as \`corpus({ rights: { web_pl: { attribution: "…" } } })\`; or take out \`web_pl\`; or write why the rule does not hold: \`licensing: { override: "…" }\`"
      `)
    }),
  )

  it.effect("goes against that with a written reason, which licence, notice and card print", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const out = yield* assembled({ license: "MIT" }, (input) => ({ ...input, licensing: { override: REASON } }))
      for (const file of ["LICENSE", "NOTICE", "README.md"])
        assert.include(yield* fs.readFileString(`${out}/${file}`), REASON, file)
      const card = yield* fs.readFileString(`${out}/README.md`)
      assert.include(card, `in the words of the experiment: ${REASON}`)
      assert.include(
        card,
        "- wiki-en: CC-BY-SA-4.0 (90 documents), share-alike: may go on only under CC-BY-SA-4.0, a later version of it, GPL-3.0-only or LAL-1.3\n",
      )
      assert.deepStrictEqual((yield* renderCard(out)).untraced, [])
      assert.deepStrictEqual(yield* lintCard(out), [])
      // without the reason the folder contradicts itself
      const facts = JSON.parse(readFileSync(`${out}/release.json`, "utf8"))
      writeFileSync(`${out}/release.json`, JSON.stringify({ ...facts, license_override: null }))
      const [first] = yield* lintCard(out)
      assert.strictEqual(
        first?.problem,
        "`release.json` and `corpus_inventory.json` disagree: MIT is not possible for these texts, and no reason is written",
      )
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("stands beside each source's licences, attributions and links, and the class they make together", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const out = yield* assembled()
      const notice = yield* fs.readFileString(`${out}/NOTICE`)
      for (const part of [
        "the texts learned from are white (their licences allow every use)",
        "books-en (en; measured on only)",
        "  licence: CC-BY-SA-4.0 (90 documents; share-alike, white) https://spdx.org/licenses/CC-BY-SA-4.0.html",
        "  attribution: Wikipedia contributors 0",
        "  attribution: Wikipedia contributors 2",
      ])
        assert.include(notice, part)
      const card = yield* fs.readFileString(`${out}/README.md`)
      assert.include(card, "| wiki-en | learned from | CC-BY-SA-4.0 | 90 | share-alike | white |")
      assert.include(card, "| books-en | measured only | CC-BY-SA-4.0 | 92 | share-alike | white |")
      const grey = { license: "CC-BY-NC-4.0", sourceLicense: "CC-BY-NC-4.0" }
      const research = yield* assembled(grey, (input) => ({ ...input, authors: ["Ada Rossi"], date: "2026-11-21" }))
      assert.include(
        yield* fs.readFileString(`${research}/README.md`),
        "**grey**: not all of their licences allow every use",
      )
      const cited = parse(yield* fs.readFileString(`${research}/CITATION.cff`))
      assert.deepInclude(cited, {
        "cff-version": "1.2.0",
        title: "tiny-en-it",
        authors: [{ name: "Ada Rossi" }],
        "date-released": "2026-11-21",
        license: "CC-BY-NC-4.0",
      })
      assert.include(
        yield* fs.readFileString(`${research}/README.md`),
        "```bibtex\n@misc{tiny-en-it,\n  title = {{tiny-en-it}},\n  author = {{Ada Rossi}},\n  year = {2026},\n",
      )
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it("can be that of weights a training went on from, who published them being who is named", () => {
    const allows = (license: string, release: string) =>
      objections(release, [rightsOfWeights({ name: "org/base", license })]).length === 0
    assert.isTrue(allows("Apache-2.0", "Apache-2.0"))
    assert.isTrue(allows("MIT", "CC-BY-4.0"))
    assert.isFalse(allows("MIT", "CC0-1.0"))
    assert.isFalse(allows("CC-BY-NC-4.0", "Apache-2.0"))
  })

  it("has a link for what SPDX could name, and for nothing else", () => {
    assert.strictEqual(licenseLink("MIT"), "https://spdx.org/licenses/MIT.html")
    for (const name of ["NOASSERTION", "LicenseRef-x", "MIT OR Apache-2.0", "a/../b", "[x](y)"])
      assert.isNull(licenseLink(name), name)
  })
})
