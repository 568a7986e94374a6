import { readFileSync, writeFileSync } from "node:fs"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, expect, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { parse } from "yaml"
import type { ReleaseInput } from "../../src/release/Bundle.ts"
import { renderCard } from "../../src/release/Card.ts"
import { licenseLink } from "../../src/release/License.ts"
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
          hint: CC-BY-SA-4.0 or GPL-3.0-only would do; or take out \`wiki-en\`, \`wiki-it\`; or write why the rule does not hold: \`licensing: { override: "…" }\`"
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

  it("has a link for what SPDX could name, and for nothing else", () => {
    assert.strictEqual(licenseLink("MIT"), "https://spdx.org/licenses/MIT.html")
    for (const name of ["NOASSERTION", "LicenseRef-x", "MIT OR Apache-2.0", "a/../b", "[x](y)"])
      assert.isNull(licenseLink(name), name)
  })
})

describe("a card with quantised files", () => {
  const measured = (value: number) => ({ value, ci95: [value * 0.9, value * 1.1], n: 900 })
  const losses = {
    ppl: measured(33.3),
    delta_ppl: measured(0.25),
    kld: measured(0.0123),
    kld_median: 0.01,
    kld_p99: 0.2,
    kld_max: 1,
    mean_delta_p: measured(-0.004),
    rms_delta_p: measured(0.031),
    same_top_p: measured(0.87),
  }
  const file = (type: string, importance_matrix: boolean) => ({
    file: `tiny-en-it-${type}.gguf`,
    type,
    importance_matrix,
    bytes: 7_654_321,
    bits_per_weight: 4.5,
    matrices: {},
    types: { Q4_K: 9 },
    losses: { all: losses, it: losses },
  })

  it.effect("tells what each costs, which one is recommended and how to run it", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const quantised = yield* fs.makeTempDirectoryScoped()
      const read = (path: string) => JSON.parse(readFileSync(path, "utf8"))
      const quantisation = (artifacts: ReleaseInput["artifacts"]) => ({
        model: read(`${artifacts.benchmark}/benchmark_metrics.json`).model,
        reference: "model.safetensors",
        documents: 77,
        tokens: 900,
        files: [file("Q8_0", false), file("Q4_K_M", true)],
        sources: { "wiki-en": 40, "wiki-it": 37 },
        picked: "tiny-en-it-Q4_K_M.gguf",
        rule: "the smallest file whose divergence is at most `0.02` in every language",
        rule_kept: false,
        preset: read(`${artifacts.sweep}/decoding_summary.json`).recommended,
        commands: { llama_cpp: "llama-cli -m x.gguf -p 'a\n```b'", ollama: "ollama create tiny -f Modelfile" },
      })
      for (const file of ["Modelfile", "tiny-en-it-Q8_0.gguf", "tiny-en-it-Q4_K_M.gguf"])
        writeFileSync(`${quantised}/${file}`, `bytes of ${file}`)
      const out = yield* assembled({}, (input) => {
        writeFileSync(`${quantised}/quantisation.json`, JSON.stringify(quantisation(input.artifacts)))
        return { ...input, artifacts: { ...input.artifacts, quantised } }
      })
      assert.deepStrictEqual(yield* lintCard(out), [])
      assert.strictEqual(yield* fs.readFileString(`${out}/tiny-en-it-Q4_K_M.gguf`), "bytes of tiny-en-it-Q4_K_M.gguf")
      const { text, untraced } = yield* renderCard(out)
      assert.deepStrictEqual(untraced, [])
      const section = /^## Quantised files$([\s\S]*?)^## Files$/m.exec(text)?.[1] ?? ""
      assert.include(
        section,
        "Recommended: `tiny-en-it-Q4_K_M.gguf`. The rule: the smallest file whose divergence is at most \\`0.02\\`",
      )
      assert.include(section, "No file keeps it; the one named comes nearest.")
      assert.include(
        section,
        "| `tiny-en-it-Q4_K_M.gguf` | Q4\\_K\\_M | with | 7,654,321 | 4.50 | it | 33.3000 | 29.9700 – 36.6300 |",
      )
      assert.include(section, "| 0.0123 | 0.0111 – 0.0135 | -0.0040 |")
      assert.include(section, "```sh\nllama-cli -m x.gguf -p 'a '''b'\n```\n")
      assert.include(section, "```sh\nollama create tiny -f Modelfile\n```\n")
      const table = section.match(/^\|.*$/gm)!.map((row) => row.split("|").length)
      assert.strictEqual(table.length, 6)
      assert.strictEqual(new Set(table).size, 1)

      const told = read(`${out}/quantisation.json`)
      writeFileSync(`${out}/quantisation.json`, JSON.stringify({ ...told, picked: "other.gguf" }))
      assert.match((yield* Effect.flip(renderCard(out))).message, /other\.gguf is recommended, and none of its files/)

      for (const file of ["../../../etc/hostname", ".hidden", "a/b"]) {
        const error = yield* Effect.flip(
          assembled({}, (input) => {
            writeFileSync(
              `${quantised}/quantisation.json`,
              JSON.stringify({ ...told, files: [{ ...told.files[0], file }] }),
            )
            return { ...input, artifacts: { ...input.artifacts, quantised } }
          }),
        )
        assert.match(error.message, /is no name for a file of a release/, file)
      }
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )
})
