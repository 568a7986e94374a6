import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { gunzipSync } from "node:zlib"
import { assert, describe, it } from "vitest"
import {
  classOf,
  classOfSources,
  forbidsTraining,
  licenseOf,
  licenseProblem,
  objections,
  parseExpression,
  possibleLicenses,
  type Rights,
  ruleOf,
} from "../../src/model/License.ts"
import { noSharedData, sharedData } from "../data/texts.ts"

const source = (name: string, license: string, more: Partial<Rights> = {}): Rights => ({
  source: name,
  role: "train",
  licenses: { [license]: 7 },
  attributions: ["somebody"],
  terms: [],
  ...more,
})

const told = (release: string, ...sources: ReadonlyArray<Rights>): ReadonlyArray<string> =>
  objections(release, sources).map(
    ({ source, license, documents, rule }) => `${source} ${license} ${documents} ${rule}`,
  )

/** A rule, a source, a release licence that passes, and one that is blocked. `none`: nothing passes. */
const RULES: ReadonlyArray<
  readonly [rule: string, rights: Rights, passes: ReadonlyArray<string>, blocked: ReadonlyArray<string>]
> = [
  ["public-domain", source("gutenberg", "CC0-1.0"), ["CC0-1.0", "MIT", "LicenseRef-Ours"], []],
  ["public-domain", source("novels", "LicenseRef-public-domain-text"), ["CC0-1.0"], []],
  ["attribution", source("news", "CC-BY-4.0"), ["CC-BY-4.0", "Apache-2.0", "CC-BY-SA-4.0"], ["CC0-1.0", "Unlicense"]],
  ["attribution", source("fineweb", "ODC-By-1.0"), ["ODC-By-1.0"], ["PDDL-1.0"]],
  ["attribution", source("manuals", "MIT"), ["MIT", "GPL-3.0-only"], ["CC0-1.0"]],
  [
    "attribution",
    source("handbook", "Apache-2.0"),
    ["GPL-3.0-only", "LGPL-3.0-or-later", "AGPL-3.0-only"],
    ["GPL-2.0-only", "GPL-2.0-or-later", "LGPL-2.1-only", "GPL-1.0-only"],
  ],
  [
    "attribution",
    source("advertised", "BSD-4-Clause"),
    ["BSD-4-Clause", "MIT", "CC-BY-SA-4.0"],
    ["GPL-2.0-only", "GPL-3.0-or-later", "LGPL-2.1-only", "AGPL-3.0-only", "GFDL-1.3-only"],
  ],
  ["attribution", source("later", "Apache-2.0+"), ["Apache-2.0", "MIT"], ["CC0-1.0"]],
  ["share-alike", source("fonts", "OFL-1.1"), ["OFL-1.1"], ["MIT", "CC-BY-SA-4.0", "CC0-1.0"]],
  ["share-alike", source("first", "CC-BY-SA-1.0"), ["CC-BY-SA-1.0"], ["CC-BY-SA-4.0"]],
  ["share-alike", source("first+", "CC-BY-SA-1.0+"), ["CC-BY-SA-1.0", "CC-BY-SA-4.0"], ["CC-BY-4.0"]],
  ["share-alike", source("eclipse", "EPL-1.0"), ["EPL-1.0"], ["EPL-2.0"]],
  ["share-alike", source("eclipse+", "EPL-1.0+"), ["EPL-1.0", "EPL-2.0"], ["MPL-2.0"]],
  [
    "share-alike",
    source("wiki", "CC-BY-SA-3.0"),
    ["CC-BY-SA-3.0", "CC-BY-SA-4.0"],
    ["MIT", "CC-BY-4.0", "GPL-3.0-only"],
  ],
  [
    "share-alike",
    source("wiki4", "CC-BY-SA-4.0"),
    ["CC-BY-SA-4.0", "GPL-3.0-only"],
    ["CC-BY-SA-3.0", "GPL-3.0-or-later", "CC-BY-NC-SA-4.0"],
  ],
  ["share-alike", source("map", "ODbL-1.0"), ["ODbL-1.0"], ["CC-BY-SA-4.0"]],
  ["share-alike", source("shared", "CDLA-Sharing-1.0"), ["CDLA-Sharing-1.0"], ["CDLA-Permissive-2.0"]],
  ["share-alike", source("guide", "GFDL-1.2-or-later"), ["GFDL-1.3-only"], ["GFDL-1.1-only", "CC-BY-SA-4.0"]],
  [
    "copyleft",
    source("poquad", "GPL-3.0-only"),
    ["GPL-3.0-only"],
    ["GPL-3.0-or-later", "GPL-2.0-only", "CC-BY-SA-4.0", "AGPL-3.0-only"],
  ],
  ["copyleft", source("code", "GPL-2.0-or-later"), ["GPL-2.0-only", "GPL-3.0-or-later"], ["LGPL-3.0-only"]],
  ["copyleft", source("library", "LGPL-2.1-only"), ["LGPL-2.1-only", "GPL-3.0-only"], ["LGPL-3.0-only", "MIT"]],
  ["copyleft", source("server", "AGPL-3.0-only"), ["AGPL-3.0-only"], ["GPL-3.0-only"]],
  [
    "non-commercial",
    source("poems", "CC-BY-NC-4.0"),
    ["CC-BY-NC-4.0", "CC-BY-NC-SA-4.0"],
    ["CC-BY-4.0", "CC-BY-SA-4.0"],
  ],
  ["non-commercial", source("lyrics", "CC-BY-NC-SA-3.0"), ["CC-BY-NC-SA-4.0"], ["CC-BY-NC-4.0", "CC-BY-SA-4.0"]],
  ["no-derivatives", source("essays", "CC-BY-ND-4.0"), [], ["CC-BY-ND-4.0", "CC-BY-4.0", "CC0-1.0"]],
  ["no-derivatives", source("letters", "CC-BY-NC-ND-4.0"), [], ["CC-BY-NC-ND-4.0"]],
  ["unknown", source("dump", "NOASSERTION"), [], ["CC0-1.0", "CC-BY-NC-4.0"]],
  ["unknown", source("deal", "LicenseRef-Contract-12"), [], ["LicenseRef-Contract-12"]],
  ["unknown", source("prose", "GPL-3.0-only (questions), CC-BY-SA-3.0 (paragraphs)"), [], ["GPL-3.0-only"]],
  ["no-training", source("press", "CC-BY-4.0", { terms: ["tdm-reservation: 1"] }), [], ["CC-BY-4.0"]],
  ["attribution", source("orphans", "CC-BY-4.0", { attributions: [] }), [], ["CC-BY-4.0"]],
]

describe("the rules for licences", () => {
  for (const [rule, rights, passes, blocked] of RULES)
    it(`${rule}: ${rights.source} (${Object.keys(rights.licenses)}) ${passes.length === 0 ? "lets nothing pass" : `passes as ${passes.join(", ")}`}`, () => {
      for (const release of passes) assert.deepStrictEqual(objections(release, [rights]), [], release)
      for (const release of blocked) {
        const [first] = objections(release, [rights])
        assert.deepStrictEqual([first?.source, first?.documents, first?.rule], [rights.source, 7, rule], release)
        assert.isNotEmpty(first?.reason)
      }
      if (passes.length === 0) assert.deepStrictEqual(possibleLicenses([rights]), [])
    })

  it("bind a release to the sources it was trained on, not to those it was measured on", () => {
    const measured = source("exam", "CC-BY-NC-ND-4.0", { role: "evaluate" })
    assert.deepStrictEqual(told("CC0-1.0", source("own", "CC0-1.0"), measured), [])
    assert.strictEqual(classOfSources([source("own", "CC0-1.0"), measured]), "white")
  })

  it("name every source that is in the way, and the licences that all of them allow", () => {
    const sources = [
      source("wiki", "CC-BY-SA-3.0"),
      source("web", "CC0-1.0", { licenses: { "CC0-1.0": 3, "CC-BY-SA-4.0": 2, "CC-BY-2.5": 1 } }),
    ]
    assert.deepStrictEqual(told("Apache-2.0", ...sources), [
      "wiki CC-BY-SA-3.0 7 share-alike",
      "web CC-BY-SA-4.0 2 share-alike",
    ])
    assert.deepStrictEqual(possibleLicenses(sources), ["CC-BY-SA-4.0"])
    assert.deepStrictEqual(possibleLicenses([...sources, source("poems", "CC-BY-NC-4.0")]), [])
    assert.deepStrictEqual(possibleLicenses([source("wiki", "CC-BY-SA-3.0"), source("poquad", "GPL-3.0-only")]), [])
  })

  it("let nothing go on under what is no licence, and anything with attribution under terms of one's own", () => {
    for (const license of ["CC0-1.0", "CC-BY-4.0"]) {
      for (const release of [
        "NOASSERTION",
        "",
        "CC-BY",
        "GPL",
        "Aapche 2",
        "MIT OR",
        "MIT OR Aapche",
        "LicenseRef-",
        "LicenseRef-a_b",
      ]) {
        const [first, ...more] = objections(release, [source("x", license)])
        assert.deepStrictEqual([first?.rule, first?.license, more], ["unknown", license, []], release)
        assert.isDefined(licenseProblem(release), release)
      }
      for (const release of ["LicenseRef-mine", "DocumentRef-deal:LicenseRef-2.b"]) {
        assert.deepStrictEqual(objections(release, [source("x", license)]), [], release)
        assert.isUndefined(licenseProblem(release), release)
      }
    }
    assert.include(licenseProblem("Apche-2.0")?.hint, "did you mean `Apache-2.0`?")
    assert.include(licenseProblem("house rules")?.hint, "one such as CC0-1.0, CC-BY-4.0,")
    for (const license of ["MIT OR Apache-2.0", "gpl-2.0+", "CC-BY-NC-SA-3.0-IGO", "CC-BY-ND-4.0"])
      assert.isUndefined(licenseProblem(license), license)
  })

  it("find for texts their own licence and what it names, however rare", () => {
    const possible = (...licenses: ReadonlyArray<string>) => possibleLicenses(licenses.map((id) => source(id, id)))
    for (const license of [
      "OSL-3.0",
      "EPL-1.0",
      "EPL-2.0",
      "OFL-1.1",
      "GFDL-1.2-only",
      "CC-BY-SA-1.0",
      "CC-BY-NC-SA-1.0",
      "GPL-1.0-only",
    ])
      assert.deepStrictEqual(possible(license), [license])
    assert.deepStrictEqual(possible("LAL-1.2"), ["LAL-1.2", "LAL-1.3"])
    assert.deepStrictEqual(possible("CC-BY-SA-4.0", "LAL-1.3"), ["CC-BY-SA-4.0", "LAL-1.3"])
    assert.deepStrictEqual(possible("Apache-2.0", "GPL-2.0-only"), [])
    assert.deepStrictEqual(possible("Apache-2.0", "GPL-2.0-or-later"), ["GPL-3.0-only", "GPL-3.0-or-later"])
    assert.deepStrictEqual(possible("BSD-4-Clause", "GPL-3.0-only"), [])
    assert.notInclude(possible("LicenseRef-public-domain-text"), "LicenseRef-public-domain-text")
  })

  it("read SPDX expressions: of both the stricter, of a choice the milder, of an exception nothing", () => {
    const allows = (license: string, release: string) => objections(release, [source("x", license)]).length === 0
    assert.isTrue(allows("LicenseRef-public-domain-text AND CC-BY-4.0", "CC-BY-4.0"))
    assert.isFalse(allows("LicenseRef-public-domain-text AND CC-BY-4.0", "CC0-1.0"))
    assert.isTrue(allows("GPL-3.0-only OR MIT", "Apache-2.0"))
    assert.isFalse(allows("GPL-3.0-only AND (MIT OR CC-BY-ND-4.0)", "MIT"))
    assert.isTrue(allows("GPL-3.0-only AND (MIT OR CC-BY-ND-4.0)", "GPL-3.0-only"))
    assert.isTrue(allows("GPL-2.0-or-later WITH Classpath-exception-2.0", "GPL-2.0-or-later"))
    // AND binds closer than OR
    assert.isTrue(allows("MIT OR CC-BY-ND-4.0 AND CC-BY-NC-4.0", "MIT"))
    // whoever gets it may choose either, so both must be possible
    assert.isFalse(allows("CC-BY-SA-4.0", "CC-BY-SA-4.0 OR MIT"))
    assert.deepStrictEqual(
      ["MIT AND", "(MIT", "MIT)", "", "WITH x", "MIT MIT", "MIT AND OR MIT", "(".repeat(100_000)].map(ruleOf),
      Array(8).fill("unknown"),
    )
  })

  it("know an identifier in any capitals, and the old spellings of the GPL", () => {
    assert.strictEqual(licenseOf("cc-by-sa-4.0").id, "CC-BY-SA-4.0")
    assert.strictEqual(licenseOf("odbl-1.0").id, "ODbL-1.0")
    assert.strictEqual(licenseOf("GPL-3.0").id, "GPL-3.0-only")
    assert.strictEqual(licenseOf("GPL-2.0+").id, "GPL-2.0-or-later")
    for (const name of ["__proto__", "constructor", "toString"]) assert.strictEqual(ruleOf(name), "unknown")
  })

  it("part white texts from grey ones", () => {
    const shade = (license: string) => classOf(parseExpression(license))
    assert.deepStrictEqual(
      ["CC0-1.0", "MIT", "CC-BY-SA-4.0", "GPL-3.0-only", "MIT OR CC-BY-NC-4.0"].map(shade),
      Array(5).fill("white"),
    )
    assert.deepStrictEqual(
      ["CC-BY-NC-4.0", "CC-BY-ND-4.0", "NOASSERTION", "MIT AND CC-BY-NC-4.0"].map(shade),
      Array(4).fill("grey"),
    )
    assert.strictEqual(classOfSources([source("press", "CC0-1.0", { terms: ["noai"] })]), "grey")
  })

  it("see a reservation against training in terms, and none where terms only speak of it", () => {
    for (const terms of [
      '{"tdm-reservation": 1}',
      "noai, noimageai",
      "No AI training.",
      "The content may not be used to train language models.",
      "Text and data mining is expressly prohibited",
      "We reserve all rights, including for machine learning",
      "Users agree never to employ the articles for training",
      "All rights for text-and-data-mining are reserved.",
      '<meta name="tdm-reservation" content="1">',
      "<meta content=1 name=tdm-reservation>",
      "TDM opt-out",
      "We have opted out of text and data mining",
      "You may not use these texts to build language models",
      "AI use is prohibited",
      "Do not use for generative AI",
      "Not to be used for LLMs",
      "They may not be used for pretraining",
      "They may not be used for pre-training",
      "Scraping to develop AI models is forbidden",
      "No permission is granted for text and data mining",
      "You may not, without limits set by us, train on them",
    ])
      assert.isTrue(forbidsTraining(terms), terms)
    for (const terms of [
      "https://commoncrawl.org/terms-of-use",
      "tdm-reservation: 0",
      "May be used for training models",
      "There are no restrictions on training",
      "There are no further restrictions on training",
      "No permission is needed for text and data mining",
      "Permission is not required for machine learning",
      '<meta name="tdm-reservation" content="0">',
      "Free for any use, training included; trademarks are reserved",
      "Do not remove this notice. Training is welcome.",
      "A train timetable; no refunds",
    ])
      assert.isFalse(forbidsTraining(terms), terms)
  })

  const folder = join(sharedData, "optional_gpl")
  it.skipIf(noSharedData !== undefined)(
    `flag the texts under the GPL that lie apart${noSharedData ? ` (skipped: ${noSharedData})` : ""}`,
    () => {
      for (const file of readdirSync(folder)) {
        const licenses: Record<string, number> = {}
        for (const line of gunzipSync(readFileSync(join(folder, file)))
          .toString("utf8")
          .split("\n")) {
          if (line === "") continue
          const { license } = JSON.parse(line)
          licenses[license] = (licenses[license] ?? 0) + 1
        }
        const rights = source(file.split(".")[0]!, "", { licenses })
        const [first, ...more] = objections("CC-BY-SA-4.0", [rights])
        assert.deepStrictEqual(more, [])
        assert.deepStrictEqual(
          [first?.source, first?.license, first?.rule],
          [rights.source, "GPL-3.0-only", "copyleft"],
        )
        assert.isAbove(first!.documents, 100)
        assert.deepStrictEqual(possibleLicenses([rights]), ["GPL-3.0-only"])
        assert.deepStrictEqual(possibleLicenses([rights, source("wiki_pl", "CC-BY-SA-3.0")]), [])
      }
    },
  )
})
