import { copyFileSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { lintCard } from "../../src/release/Lint.ts"
import { assembled } from "./assembled.ts"

const TEMPLATES = "release-templates/small-lm"

/** Each lie told into a copy of a true text, and what the lint says of it. */
const LIES: ReadonlyArray<
  readonly [what: string, file: string, from: string | RegExp, to: string, text: RegExp, problem: RegExp]
> = [
  [
    "a better loss in a table",
    "README.md",
    /^(\| `val_loss_mixed` \| )3\.7303/m,
    "$12.1303",
    /val_loss_mixed` \| 2\.1303/,
    /^says 2\.1303; `benchmark_metrics\.json` \(metrics\.val_loss_mixed\.value\) has 3\.7303$/,
  ],
  [
    "more parameters",
    "README.md",
    /^([\d,]+)( parameters, 2 layers of width)/m,
    "1,300,000,000$2",
    /1,300,000,000 parameters/,
    /^says 1,300,000,000; `training_config\.json` \(parameters\) has [\d,]+$/,
  ],
  [
    "a number put into new prose",
    "README.md",
    "## Metrics\n",
    "## Metrics\n\nIt is 17.3 times better than others.\n",
    /17\.3 times/,
    /^says 17\.3, which no file of the folder has$/,
  ],
  [
    "a true number where nothing keeps it true",
    "README.md",
    "## Metrics\n",
    "## Metrics\n\nOn every text the loss is 3.7303.\n",
    /On every text/,
    /^says 3\.7303, and no template makes this line: that `\S+\.json` \(\S+\) has the same number does not keep it true$/,
  ],
  [
    "a number written out",
    "README.md",
    "## Metrics\n",
    "## Metrics\n\nNinety percent of people prefer it.\n",
    /Ninety percent/,
    /^says “Ninety”, a number that no template takes from a file$/,
  ],
  [
    "a number in other digits",
    "README.md",
    "## Metrics\n",
    "## Metrics\n\nIt makes ٤٢ mistakes fewer.\n",
    /٤٢/,
    /^says “٤٢”, a number that no template takes from a file$/,
  ],
  [
    "a limitation left out",
    "README.md",
    /^- It gets stuck: .* of the benchmark.*\n/m,
    "",
    /It gets stuck: 21 of 40/,
    /^the files make this line, and it is left out$/,
  ],
  [
    "a sentence turned",
    "README.md",
    "It is no source of facts",
    "It is a source of facts",
    /a source of facts/,
    /^reads otherwise than its files make it: `- It is no source of facts/,
  ],
  [
    "a rate without its interval",
    "README.md",
    /^(- It gets stuck: 21 of 40 samples of the benchmark) \(95% interval [^)]*\)/m,
    "$1",
    /It gets stuck: 21 of 40 samples of the benchmark end/,
    /^21 stands without the interval that `eval_summary\.json` \(counts\.loop_rate\.count\) has/,
  ],
  [
    "another licence in the metadata",
    "README.md",
    /^license: .*$/m,
    "license: mit",
    /"mit"/,
    /^`license` is "mit"; the files make it "cc-by-sa-4\.0"$/,
  ],
  [
    "another licence in new prose",
    "README.md",
    "## Metrics\n",
    "## Metrics\n\nYou may use it under Apache-2.0 as well.\n",
    /Apache-2\.0/,
    /^names the licence Apache-2\.0; `release\.json` \(license\) has CC-BY-SA-4\.0$/,
  ],
  [
    "a section hidden by a comment",
    "README.md",
    /^## Limitations\n([\s\S]*?)(?=^## )/m,
    "<!--\n## Limitations\n$1-->\n",
    /<!--/,
    /^has HTML, which may hide/,
  ],
  [
    "a section hidden by an element",
    "README.md",
    "## Limitations\n",
    "<div hidden>\n\n## Limitations\n",
    /div/,
    /HTML/,
  ],
  [
    "a section put into a block of code",
    "README.md",
    "## Limitations\n",
    "~~~\n## Limitations\n",
    /~~~/,
    /block of code/,
  ],
  [
    "a section in the title of a link",
    "README.md",
    "## Limitations\n",
    "[a]: # (\n## Limitations\n",
    /\[a\]/,
    /a link/,
  ],
  [
    "a block of code that does not end",
    "README.md",
    /^(print\(prompt \+ text\)\n)```\n/m,
    "$1",
    /^```$/,
    /^the files make this line, and it is left out$/,
  ],
  [
    "a badge",
    "README.md",
    "## Metrics\n",
    "## Metrics\n\n![best of all](https://example.org/best.svg)\n",
    /best of all/,
    /^shows an image/,
  ],
  ...["trillions", "Dozens", "sixteen", "zero", "a third", "thousands", "a quarter", "nine**ty**"].map(
    (words): (typeof LIES)[number] => [
      words,
      "README.md",
      "## Metrics\n",
      `## Metrics\n\nIt has ${words} of these.\n`,
      /of these/,
      /^says “\w+”, a number that no template takes from a file$/,
    ],
  ),
  [
    "a metric said to be verified",
    "README.md",
    /^( +)(name: loop_rate\n)/m,
    "$1$2$1verified: true\n",
    /tiny-en-it/,
    /^`model-index` reads otherwise than its files make it$/,
  ],
  [
    "another data set in the metadata",
    "README.md",
    /^( +)type: tiny-en-it-validation$/m,
    "$1type: mmlu",
    /tiny-en-it/,
    /^`model-index` reads otherwise/,
  ],
  ...["license_name: free", "co2_eq_emissions: 1", "metrics: [accuracy]", "thumbnail: https://example.org/a.png"].map(
    (line): (typeof LIES)[number] => [
      line,
      "README.md",
      /^library_name/m,
      `${line}\nlibrary_name`,
      /./,
      /^`\w+` is .*, which no file has$/,
    ],
  ),
  [
    "a successor that is no repository",
    "README.md",
    /^library_name/m,
    "new_version: best of all\nlibrary_name",
    /best/,
    /`new_version`/,
  ],
  [
    "terms added to the licence",
    "LICENSE",
    /$/,
    "Everybody may use it with no terms at all; no attribution is owed to anybody.\n",
    /Everybody/,
    /^it is not, to the byte, what its files make$/,
  ],
  ["a blank line in a report", "release_note.md", /\n\n/, "\n\n\n", /^$/, /to the byte/],
  [
    "another architecture in new prose",
    "README.md",
    "## Metrics\n",
    "## Metrics\n\nIts design is that of Llama.\n",
    /Llama/,
    /^names Llama; `config\.json` \(model_type\) has gpt2$/,
  ],
  [
    "a published metric changed",
    "README.md",
    /^( +name: loop_rate\n +value: )0\.525$/m,
    "$10.025",
    /loop_rate: 0\.025/,
    /^`model-index` says tiny-en-it: validation: loop_rate is 0\.025; the files have 0\.525$/,
  ],
  [
    "a metric nobody measured",
    "README.md",
    /^( +)(- type: val_loss_mixed\n)/m,
    "$1- type: mmlu\n$1  name: mmlu\n$1  value: 0.91\n$1$2",
    /mmlu: 0\.91/,
    /^`model-index` has tiny-en-it: validation: mmlu, which no file has$/,
  ],
  [
    "a parent it does not have",
    "README.md",
    /^library_name/m,
    "base_model: gpt2\nlibrary_name",
    /"gpt2"/,
    /^`base_model` names a parent/,
  ],
  ["metadata that is none", "README.md", /^license: .*$/m, 'license: "mit', /^$/, /^its front matter is no YAML: /],
  [
    "a sum in the table of files",
    "README.md",
    /^(\| `model\.safetensors` \| .*\| `)[0-9a-f]{16}/m,
    "$10000000000000000",
    /model\.safetensors/,
    /`model\.safetensors`/,
  ],
  [
    "a report",
    "benchmark_report.md",
    "0.5250",
    "0.0250",
    /0\.0250/,
    /^says 0\.0250; `benchmark_metrics\.json` \(metrics\.loop_rate\.value\) has 0\.5250$/,
  ],
  [
    "an attribution taken out of the notice",
    "NOTICE",
    "  attribution: Wikipedia contributors 1\n",
    "",
    /Wikipedia contributors 1/,
    /^the files make this line, and it is left out$/,
  ],
]

describe("the lint of a card", () => {
  it.effect("finds nothing in a card as it was made, nor in a downloaded copy of it", () =>
    Effect.gen(function* () {
      const out = yield* assembled()
      writeFileSync(`${out}/.gitattributes`, "*.safetensors filter=lfs\n")
      mkdirSync(`${out}/.cache/huggingface`, { recursive: true })
      writeFileSync(`${out}/.cache/huggingface/README.md.metadata`, "1\n2\n")
      assert.deepStrictEqual(yield* lintCard(out), [])
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect(`names each of ${LIES.length} lies, its line, and the file that says otherwise`, () =>
    Effect.gen(function* () {
      const out = yield* assembled()
      for (const [what, file, from, to, text, problem] of LIES) {
        const original = readFileSync(`${out}/${file}`, "utf8")
        const told = original.replace(from, to)
        assert.notStrictEqual(told, original, what)
        writeFileSync(`${out}/${file}`, told)
        const findings = yield* lintCard(out)
        writeFileSync(`${out}/${file}`, original)
        const first = findings.find((finding) => finding.file === file)
        assert.isDefined(first, what)
        assert.match(first!.text, text, what)
        assert.match(first!.problem, problem, what)
        if (first!.line !== null && !first!.problem.includes("left out") && !first!.problem.includes("model-index"))
          assert.include(
            told.split("\n")[first!.line - 1]!,
            first!.text.replace(/…$/, "").replaceAll('"', "").slice(0, 60),
            what,
          )
      }
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("takes a sum for one word, whatever digits it has", () =>
    Effect.gen(function* () {
      const out = yield* assembled()
      const card = readFileSync(`${out}/README.md`, "utf8")
      const told = card.replace(/(\| `model\.safetensors` \|.*\| `)[0-9a-f]{16}/, "$1ab12cd34ef567890")
      assert.notStrictEqual(told, card)
      writeFileSync(`${out}/README.md`, told)
      const findings = yield* lintCard(out)
      assert.strictEqual(findings.length, 1)
      assert.match(findings[0]!.problem, /^says `ab12cd34ef567890`; `model\.safetensors` has `[0-9a-f]{16}`$/)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("lets a card say more in words, name its successor, and speak of MIT the place", () =>
    Effect.gen(function* () {
      const out = yield* assembled()
      const card = readFileSync(`${out}/README.md`, "utf8")
      for (const [from, to] of [
        ["## Citation\n", "## Citation\n\n"],
        ["## Metrics\n", "## Metrics\n\nWe made it for our own use, and are glad to hear what you make of it.\n"],
        ["## Metrics\n", "## Metrics\n\nThanks to our friends at MIT for reading a draft.\n"],
        ["library_name", "new_version: our-org/tiny-en-it-b\nlibrary_name"],
      ] as const) {
        writeFileSync(`${out}/README.md`, card.replace(from, to))
        assert.deepStrictEqual(yield* lintCard(out), [], to)
      }
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("says once that line ends are those of another system, and still sees what is changed", () =>
    Effect.gen(function* () {
      const out = yield* assembled()
      const card = readFileSync(`${out}/README.md`, "utf8").replaceAll("\n", "\r\n")
      const problems = Effect.map(lintCard(out), (findings) => findings.map(({ problem }) => problem))
      writeFileSync(`${out}/README.md`, card)
      assert.deepStrictEqual(yield* problems, ["its line ends are CRLF"])
      writeFileSync(`${out}/README.md`, card.replace("It is no source of facts", "It is a source of facts"))
      assert.match((yield* problems).join("\n"), /^its line ends are CRLF\nreads otherwise .*$/)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("finds every number of the card that is changed, and says what it should be", () =>
    Effect.gen(function* () {
      const out = yield* assembled()
      const card = readFileSync(`${out}/README.md`, "utf8")
      const lines = card.split("\n")
      const start = lines.indexOf("## What it is")
      let changed = 0
      for (let line = start; line < lines.length; line += 5) {
        const number = /(?<![\w.%-])\d+\.\d{4}(?!\d)/.exec(lines[line]!)
        if (number === null) continue
        const other = `${number[0].slice(0, -1)}${(Number(number[0].at(-1)) + 1) % 10}`
        const told = lines.with(line, lines[line]!.replace(number[0], other))
        writeFileSync(`${out}/README.md`, told.join("\n"))
        const findings = yield* lintCard(out)
        const found = findings.find((finding) => finding.line === line + 1)
        assert.include(found?.problem, `says ${other}; `, lines[line]!)
        assert.match(found!.problem, new RegExp(`has ${number[0].replace(".", "\\.")}$`), lines[line]!)
        changed++
      }
      assert.isAbove(changed, 10)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("finds what a template says without a file, and a rate that it leaves without its interval", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const out = yield* assembled()
      const templates = yield* fs.makeTempDirectoryScoped()
      mkdirSync(`${templates}/small-lm`)
      for (const file of readdirSync(TEMPLATES)) copyFileSync(`${TEMPLATES}/${file}`, `${templates}/small-lm/${file}`)
      writeFileSync(
        `${templates}/small-lm/card.hbs`,
        "# {{name}}\n\n## What it is\n\nSome 42 times better; the loss is {{mixedLoss.value}}.\n",
      )
      const problems = (yield* lintCard(out, { templates })).map(({ problem }) => problem)
      assert.include(problems, "the template says 42, which it takes from no file")
      assert.include(
        problems,
        "3.7303 stands without the interval that `benchmark_metrics.json` (metrics.val_loss_mixed.value) has",
      )
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("holds a card of other templates to the figures of its files", () =>
    Effect.gen(function* () {
      const out = yield* assembled()
      const facts = JSON.parse(readFileSync(`${out}/release.json`, "utf8"))
      writeFileSync(
        `${out}/release.json`,
        `${JSON.stringify({ ...facts, templates_sha256: "0".repeat(64) }, null, 2)}\n`,
      )
      const card = readFileSync(`${out}/README.md`, "utf8")
      writeFileSync(
        `${out}/README.md`,
        card.replace("## Metrics\n", "## Metrics\n\nIt is 17.3 times better, at 3.7303.\n"),
      )
      const findings = (yield* lintCard(out)).filter(({ text }) => /times better/.test(text))
      assert.deepStrictEqual(
        findings.map(({ problem }) => problem),
        ["says 17.3, which no file of the folder has"],
      )
      const hidden = card.replace("## Limitations\n", "<!--\n## Limitations\n")
      writeFileSync(`${out}/README.md`, hidden)
      writeFileSync(`${out}/LICENSE`, `${readFileSync(`${out}/LICENSE`, "utf8")}No terms at all.\n`)
      const problems = (yield* lintCard(out)).map(({ file, problem }) => `${file}: ${problem}`)
      assert.include(problems, "README.md: has HTML, which may hide what stands in it or after it")
      assert.include(problems, "LICENSE: it is not, to the byte, what its files make")
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("finds files that disagree with one another", () =>
    Effect.gen(function* () {
      const out = yield* assembled()
      const config = readFileSync(`${out}/config.json`, "utf8")
      writeFileSync(`${out}/config.json`, config.replace('"n_layer": 2', '"n_layer": 12'))
      const [first] = yield* lintCard(out)
      assert.strictEqual(first?.problem, "`config.json` and `training_config.json` disagree: the model's shape or ids")
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )
})
