import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { parse } from "yaml"
import { frontMatterData, renderCard, renderReports } from "../../src/release/Card.ts"
import { readFolder } from "../../src/release/Folder.ts"
import { lintCard } from "../../src/release/Lint.ts"
import { inline, literal, oneLine } from "../../src/release/Markdown.ts"
import { filesBelow } from "../../src/release/Sums.ts"
import { assembled, withoutFiles } from "./assembled.ts"
import { changed, figuresOf } from "./figures.ts"

const SECTIONS = [
  "What it is",
  "Provenance",
  "Training data",
  "Tokens seen",
  "Why this checkpoint",
  "Metrics",
  "Validation beside holdout",
  "Probes",
  "Recommended decoding",
  "In plain words",
  "Quick start",
  "PyTorch checkpoint",
  "Files",
  "Intended use",
  "Limitations",
  "Bias and risks",
  "Environmental impact",
  "Technical specifications",
  "Glossary",
  "Licence and sources",
  "Citation",
  "How to make it again",
]
const allHeadings = (text: string): ReadonlyArray<string> => text.match(/^#+ .*$/gm) ?? []
const headings = (card: string): ReadonlyArray<string> => [...card.matchAll(/^## (.*)$/gm)].map((match) => match[1]!)

/** Records that no figure of the card is made of: a change of theirs shows in the table of files. */
const RECORDS = new Set([
  "behaviour_generations.jsonl token_ids.#",
  "holdout_generations.jsonl token_ids.#",
  "tuning_generations.jsonl token_ids.#",
  "metrics.jsonl loss",
  "metrics.jsonl grad_norm",
  "eval_metrics.jsonl ci95.#",
  "eval_metrics.jsonl val_loss.en",
  "eval_metrics.jsonl val_loss.it",
  "eval_metrics.jsonl documents",
  "eval_metrics.jsonl tokens",
  "probe_generations.jsonl step",
  "tokens.json sources.#.startToken",
  "tokens.json sources.#.firstRow",
  "tokens.json shards.#.tokens",
])

describe("the model card", () => {
  it.effect("has the sections of reference release 1, in order", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const card = yield* fs.readFileString(`${yield* assembled()}/README.md`)
      assert.deepStrictEqual(headings(card), SECTIONS)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("takes every number from a file of the folder", () =>
    Effect.gen(function* () {
      const out = yield* assembled()
      const there = new Set(yield* filesBelow(out))
      const rendered = [yield* renderCard(out), ...Object.values(yield* renderReports(out))]
      for (const { untraced, citations } of rendered) {
        assert.deepStrictEqual(untraced, [])
        for (const { file, path } of citations) {
          assert.isTrue(there.has(file), file)
          if (!file.endsWith(".json") || path.length === 0 || path[0]!.startsWith("(")) continue
          const value = path.reduce(
            (at: unknown, key) => (at as { readonly [key: string]: unknown })[key],
            JSON.parse(readFileSync(`${out}/${file}`, "utf8")),
          )
          assert.isDefined(value, `${file} ${path.join(".")}`)
        }
      }
      assert.isAbove(rendered[0]!.citations.length, 300)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("finds a number that a template made up", () =>
    Effect.gen(function* () {
      const out = yield* assembled()
      const fs = yield* FileSystem.FileSystem
      const templates = yield* fs.makeTempDirectoryScoped()
      mkdirSync(`${templates}/small-lm`)
      for (const file of ["card", "release-note", "benchmark-report", "decoding-report", "training-summary"])
        copyFileSync(`release-templates/small-lm/${file}.hbs`, `${templates}/small-lm/${file}.hbs`)
      writeFileSync(
        `${templates}/small-lm/card.hbs`,
        "# {{name}}\n\nAbout 42 times better, {{parameters}} parameters.\n",
      )
      assert.deepStrictEqual((yield* renderCard(out, { templates })).untraced, ["42"])
      writeFileSync(`${templates}/small-lm/card.hbs`, "{{paramters}}")
      assert.strictEqual((yield* Effect.flip(renderCard(out, { templates })))._tag, "ReleaseTemplateBroken")
      for (const escape of [
        "{{constructor.name}}",
        "{{name.constructor}}",
        "{{lookup this 'constructor'}}",
        "{{__proto__.toString}}",
      ]) {
        writeFileSync(`${templates}/small-lm/card.hbs`, escape)
        assert.strictEqual((yield* Effect.flip(renderCard(out, { templates })))._tag, "ReleaseTemplateBroken", escape)
      }
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("changes, or is refused, when any figure of the bundle changes", () =>
    Effect.gen(function* () {
      const out = yield* assembled()
      const before = (yield* renderCard(out)).text
      const tried = new Map<string, number>()
      const refused = new Set<string>()
      for (const place of figuresOf(out)) {
        const kind = `${place.file} ${place.path.map((key) => (typeof key === "number" ? "#" : key)).join(".")}`
        // Enough of each kind; a tokenizer's ids are checked by encoding with it, not here.
        if ((tried.get(kind) ?? 0) >= 1 || place.file === "tokenizer.json") continue
        tried.set(kind, (tried.get(kind) ?? 0) + 1)
        const original = readFileSync(`${out}/${place.file}`)
        writeFileSync(`${out}/${place.file}`, changed(out, place))
        const result = yield* Effect.result(renderCard(out))
        writeFileSync(`${out}/${place.file}`, original)
        if (result._tag === "Failure") {
          refused.add(result.failure._tag)
          continue
        }
        assert.notStrictEqual(result.success.text, before, kind)
        if (!RECORDS.has(kind)) assert.notStrictEqual(withoutFiles(result.success.text), withoutFiles(before), kind)
      }
      assert.isAbove(tried.size, 150)
      assert.isTrue(refused.has("ReleaseInconsistent"))
      assert.strictEqual((yield* renderCard(out)).text, before)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("names both files that disagree", () =>
    Effect.gen(function* () {
      const out = yield* assembled()
      const tell = Effect.fnUntraced(function* (file: string, from: string | RegExp, to: string) {
        const original = readFileSync(`${out}/${file}`, "utf8")
        assert.notStrictEqual(original.replace(from, to), original)
        writeFileSync(`${out}/${file}`, original.replace(from, to))
        const error = yield* Effect.flip(renderCard(out))
        writeFileSync(`${out}/${file}`, original)
        return error.message.split("\n")[0]
      })
      assert.strictEqual(
        yield* tell("config.json", '"n_layer": 2', '"n_layer": 3'),
        "release: `config.json` and `training_config.json` disagree: the model's shape or ids",
      )
      assert.strictEqual(
        yield* tell("generation_config.json", "0.8", "0.9"),
        "release: `generation_config.json` and `recommended_decoding_params.json` disagree: decoding settings",
      )
      assert.strictEqual(
        yield* tell("training_config.json", '"tokens_seen": 11520', '"tokens_seen": 11521'),
        "release: `training_config.json` and `tiny-en-it-step_45.json` disagree: tokens seen",
      )
      assert.strictEqual(
        yield* tell("benchmark_report.md", "0.5250", "0.0250"),
        "release: `benchmark_report.md` and `the files it is made from` disagree: made again from them it reads otherwise",
      )
      assert.match(
        (yield* tell("benchmark_source_losses.json", /"perplexity":\s*\d+/, '"perplexity": 1')) ?? "",
        /`benchmark_source_losses.json` and `benchmark_metrics.json` disagree: wiki-en: perplexity is not exp\(loss\)/,
      )
      assert.match(
        (yield* tell("tuning_leaderboard.csv", "0.05", "0.01")) ?? "",
        /`tuning_leaderboard.csv` and `decoding_summary.json` disagree: balanced: loop_rate is 0.01/,
      )
      assert.match(
        (yield* tell("holdout_leaderboard.csv", /,40,/, ",41,")) ?? "",
        /`holdout_leaderboard.csv` and `decoding_summary.json` disagree: balanced: loop_rate_n is 41, not 40/,
      )
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("publishes every metric in its front matter", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const out = yield* assembled()
      const card = yield* fs.readFileString(`${out}/README.md`)
      const matter = parse(card.split("---\n")[1]!)
      assert.deepInclude(matter, {
        license: "cc-by-sa-4.0",
        language: ["en", "it"],
        library_name: "transformers",
        pipeline_tag: "text-generation",
      })
      const published = matter["model-index"][0].results.map(
        (result: { metrics: ReadonlyArray<{ type: string; value: number }> }) =>
          Object.fromEntries(result.metrics.map(({ type, value }) => [type, value])),
      )
      const values = (file: string, record: (json: any) => Record<string, { value: number }>) =>
        Object.fromEntries(
          Object.entries(record(JSON.parse(readFileSync(`${out}/${file}`, "utf8")))).map(([name, { value }]) => [
            name,
            value,
          ]),
        )
      assert.deepStrictEqual(published, [
        values("benchmark_metrics.json", (json) => json.metrics),
        values("holdout.json", (json) => json.metrics),
        values("decoding_summary.json", (json) => json.holdout[0].metrics),
      ])
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  for (const hostile of [
    "two\nlines\n\n---\nlicense: mit\n---\n\n## Files\n",
    "<script>alert(1)</script><img src=x onerror=alert(1)><!-- ",
    "[click](javascript:alert(1)) ![x](https://example.org/x.png) javascript:alert(1) www.example.org a@b.org",
    "{{constructor.constructor 'return process'}} {{{secret}}} {{#each this}} {%raw%}",
    "__proto__",
    "constructor",
    "| a | b |\n|---|---|\n```\n~~~\n# heading\n- item\n1. item\n> quote",
    'quote " and \\ and \u2028 and \u202Eright to left and \uE000mark\uE001 and \uD800',
    "no",
    "\r\n...\n!!python/object/apply:os.system ['id']\n&a [*a]: |\n  x\n# comment",
    "&#106;avascript:alert(1) <javascript:alert(1)> [x]: data:text/html,<b> <details open ontoggle=alert(1)>",
    "===\n\u0000\u0007\u001B[31mred %00 $$x$$ <%= x %> {{> partial}} {{!-- --}} :::note",
    `} and author = {somebody else}, \\input{/etc/passwd} @misc{x, ${"long ".repeat(500)}`,
  ]) {
    it.effect(
      `keeps its shape and metadata whatever a name or a prompt says: ${JSON.stringify(hostile).slice(0, 40)}`,
      () =>
        Effect.gen(function* () {
          const fs = yield* FileSystem.FileSystem
          const out = yield* assembled({ words: hostile })
          const plain = yield* assembled({}, (input) => ({ ...input, datasets: ["our-org/texts"] }))
          const card = yield* fs.readFileString(`${out}/README.md`)
          assert.deepStrictEqual(headings(card), SECTIONS)
          const matter = /^---\n([\s\S]*?)\n---\n/.exec(card)![1]!
          const data = parse(matter, { version: "1.1" })
          assert.strictEqual(data.license, "cc-by-sa-4.0")
          assert.deepStrictEqual(data.language, ["en", "it"])
          assert.strictEqual(data["model-index"][0].results.length, 3)
          const body = card.slice(matter.length + 9)
          const prose = body.replace(/^```(?:python|bibtex)\n[\s\S]*?^```$/gm, "")
          assert.notMatch(prose, /<(?!\/?br)[a-z!/]/i)
          assert.notMatch(prose, /(?<!\\)\]\((?!https:\/\/spdx\.org\/)/)
          assert.notMatch(prose, /javascript:|www\.example|https:\/\/example/)
          assert.notMatch(card, /[\uE000\uE001\u202E\u2028]/)
          assert.strictEqual(body.match(/^```/gm)?.length, 8)
          assert.notMatch(body, /^---$/m)
          // Every row of a table has as many cells as its head.
          for (const table of prose.matchAll(/(?:^\|.*\n)+/gm)) {
            const cells = table[0]
              .trim()
              .split("\n")
              .map((row) => row.replace(/\\\|/g, "").split("|").length)
            assert.strictEqual(new Set(cells).size, 1, table[0].slice(0, 200))
          }
          assert.deepStrictEqual((yield* renderCard(out)).untraced, [])

          // Metadata is what was meant, to the last character.
          assert.deepStrictEqual(data, JSON.parse(JSON.stringify(frontMatterData(yield* readFolder(out)))))
          assert.deepStrictEqual(data.datasets, [oneLine(hostile)])
          const cited = parse(yield* fs.readFileString(`${out}/CITATION.cff`), { version: "1.1" })
          assert.deepStrictEqual(cited.authors, [{ name: oneLine(hostile) }])
          assert.strictEqual(card.match(/^@misc/gm)?.length, 1)
          assert.notMatch(/^```bibtex\n([\s\S]*?)^```$/m.exec(card)![1]!, /[{}].*[{}].*[{}].*[{}].*[{}]/)
          // Reports and notice have the lines they have with plain words, and these begin as they do.
          for (const file of [
            "benchmark_report.md",
            "decoding_report.md",
            "release_note.md",
            "training_content_summary.md",
          ]) {
            const report = yield* fs.readFileString(`${out}/${file}`)
            assert.deepStrictEqual(allHeadings(report), allHeadings(yield* fs.readFileString(`${plain}/${file}`)), file)
            assert.notMatch(report, /<[a-z!/]/i, file)
            assert.notMatch(report, /(?<!\\)\]\(|javascript:|www\.example|https:\/\/example/, file)
          }
          const notice = (yield* fs.readFileString(`${out}/NOTICE`)).split("\n")
          assert.strictEqual(notice.filter((line) => line.startsWith("  sha256: ")).length, 3)
          assert.strictEqual(notice.filter((line) => /^ {2}licence: /.test(line)).length, 6)
          assert.deepStrictEqual(yield* lintCard(out), [])
        }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
    )
  }

  it.effect("speaks of no decay when a stable checkpoint is released", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const card = yield* fs.readFileString(`${yield* assembled({ stable: true })}/README.md`)
      assert.include(card, "the released step is a checkpoint of\nthat stable phase, without decay")
      assert.notInclude(card, "reached by decay")
      assert.include(card, "40 steps × 256 =\n10,240 tokens")
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("names a licence the Hub does not know as another one, and links only what SPDX could name", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const out = yield* assembled({ license: "Ours\n[x](javascript:y)\n---", sourceLicense: "CC0-1.0" }, (input) => ({
        ...input,
        licensing: { override: "these terms are our own, written for this model" },
      }))
      const card = yield* fs.readFileString(`${out}/README.md`)
      const data = parse(/^---\n([\s\S]*?)\n---\n/.exec(card)![1]!)
      assert.deepInclude(data, {
        license: "other",
        license_name: "Ours [x](javascript:y) ---",
        license_link: "LICENSE",
      })
      assert.notInclude(card.split("\n---\n")[1]!, "javascript:")
      assert.deepStrictEqual(headings(card), SECTIONS)
      const known = yield* fs.readFileString(
        `${yield* assembled({ license: "GPL-3.0-only", sourceLicense: "CC0-1.0" })}/README.md`,
      )
      assert.include(known, "license: gpl-3.0\n")
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it("escapes text for a line, and for a literal that Python reads", () => {
    assert.strictEqual(
      inline("a *b* <c> | [d](e) `f` {{g}}"),
      "a \\*b\\* &lt;c&gt; \\| \\[d\\](e) \\`f\\` \\{\\{g\\}\\}",
    )
    assert.strictEqual(inline("- no list"), "\\- no list")
    assert.strictEqual(inline("1. no list"), "1\\. no list")
    assert.strictEqual(literal('l\'Italia è "qui"\n```'), '"l\'Italia è \\"qui\\"\\n\\u0060\\u0060\\u0060"')
  })
})
