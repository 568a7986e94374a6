import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { assembleRelease } from "../../src/release/Bundle.ts"
import { filesBelow } from "../../src/release/Sums.ts"
import { assembled } from "./assembled.ts"
import { fabricate, provenance } from "./fixture.ts"

const FILES =
  `CITATION.cff LICENSE NOTICE README.md SHA256SUMS behaviour_generations.jsonl benchmark_metrics.json benchmark_report.md
benchmark_scores.json benchmark_source_losses.json best_validation.json comparison.json config.json corpus_inventory.json
decoding_report.md decoding_summary.json eval_metrics.jsonl eval_summary.json experiment.ts generation_config.json holdout.json
holdout_generations.jsonl holdout_leaderboard.csv metrics.jsonl model.safetensors plan.txt probe_generations.jsonl
probe_step45_summary.json prompts.json provenance.json recommended_decoding_params.json release.json release_note.md
special_tokens_map.json tiny-en-it-step_45.json tiny-en-it-step_45.pt tiny-en-it-step_45.safetensors tokenizer.json tokenizer_config.json tokens.json
training_config.json training_content_summary.md tuning_generations.jsonl tuning_leaderboard.csv`.split(/\s+/)

const failing = (options: Parameters<typeof assembled>[0], change: Parameters<typeof assembled>[1]) =>
  Effect.flip(assembled(options, change))

describe("a release", () => {
  it.effect("has every file of reference release 1, and those that make it again", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* filesBelow(yield* assembled()), FILES)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("is the same bytes twice, but for `provenance.json` and the sums", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const first = yield* assembled()
      const second = yield* assembled({}, (input) => ({
        ...input,
        provenance: {
          ...provenance,
          started: "2027-01-01T00:00:00.000Z",
          cpu: "another processor",
          git: null,
          gitAbsent: "no repository",
        },
      }))
      const unequal: Array<string> = []
      for (const file of yield* filesBelow(first)) {
        const [a, b] = [yield* fs.readFile(`${first}/${file}`), yield* fs.readFile(`${second}/${file}`)]
        if (Buffer.compare(a, b) !== 0) unequal.push(file)
      }
      assert.deepStrictEqual(unequal, ["SHA256SUMS", "provenance.json"])
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect(
    "writes decoding settings that are floats as floats, and leaves sampling settings out of a greedy one",
    () =>
      Effect.gen(function* () {
        const fs = yield* FileSystem.FileSystem
        const out = yield* assembled({ recommend: "greedy" })
        const text = yield* fs.readFileString(`${out}/generation_config.json`)
        assert.include(text, '"repetition_penalty": 1.0')
        assert.notMatch(text, /temperature|top_k|top_p/)
        assert.include(yield* fs.readFileString(`${yield* assembled()}/generation_config.json`), '"temperature": 0.8')
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("keeps the parent's telemetry and the decay's, and nothing of training that went on", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const lines = (yield* fs.readFileString(`${yield* assembled()}/metrics.jsonl`))
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line))
      assert.deepStrictEqual(
        lines.map(({ step }) => step),
        Array.from({ length: 50 }, (_, i) => i + 1),
      )
      assert.strictEqual(lines.filter(({ phase }) => phase === "train").length, 40)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("keeps the checkpoint's own bytes, and gives transformers a header with a format", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const folder = yield* fs.makeTempDirectoryScoped()
      const out = `${folder}/release`
      yield* fs.makeDirectory(out)
      const input = { ...fabricate(`${folder}/artifacts`), out }
      yield* assembleRelease(input)
      const [source, native, ours] = [
        Buffer.from(yield* fs.readFile(`${input.artifacts.checkpoint}/model.safetensors`)),
        Buffer.from(yield* fs.readFile(`${out}/tiny-en-it-step_45.safetensors`)),
        Buffer.from(yield* fs.readFile(`${out}/model.safetensors`)),
      ]
      assert.isTrue(source.equals(native))
      const data = (file: Buffer) => file.subarray(8 + Number(file.readBigUInt64LE(0)))
      assert.isTrue(data(source).equals(data(ours)))
      assert.strictEqual(Number(ours.readBigUInt64LE(0)) % 8, 0)
      const header = JSON.parse(ours.subarray(8, 8 + Number(ours.readBigUInt64LE(0))).toString())
      assert.deepStrictEqual(header.__metadata__, { format: "pt" })
      assert.notProperty(header, "lm_head.weight")
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("has no checkpoint for PyTorch where the experiment leaves it out, and says nothing of one", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const out = yield* assembled({}, (input) => ({ ...input, torchCheckpoint: false }))
      assert.deepStrictEqual(
        yield* filesBelow(out),
        FILES.filter((file) => !file.endsWith(".pt")),
      )
      assert.notMatch(yield* fs.readFileString(`${out}/README.md`), /PyTorch|torch\.load/)
      assert.notProperty(JSON.parse(yield* fs.readFileString(`${out}/release.json`)), "torch_checkpoint")
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("refuses a folder that is not empty, and names that are paths", () =>
    Effect.gen(function* () {
      const name = yield* failing({}, (input) => ({ ...input, name: "../elsewhere" }))
      assert.strictEqual(name._tag, "ReleaseInputUnreadable")
      const full = yield* failing({}, (input) => ({ ...input, out: input.artifacts.corpus }))
      assert.strictEqual(full._tag, "ReleaseFileFailed")
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("refuses artifacts that are not those the experiment speaks of", () =>
    Effect.gen(function* () {
      const error = yield* failing({}, (input) => ({ ...input, experiment: { ...input.experiment, seed: 1 } }))
      assert.strictEqual(
        error.message.split("\n")[0],
        "release: `the experiment` and `tiny-en-it-step_45.json` disagree: seed",
      )
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("refuses to hold a token that somebody wrote into the experiment", () =>
    Effect.gen(function* () {
      const canary = `hf_${"Canary0".repeat(5)}`
      const error = yield* failing({}, (input) => ({
        ...input,
        experiment: { ...input.experiment, source: `// ${canary}\n` },
      }))
      assert.strictEqual(error._tag, "SecretInRelease")
      assert.notInclude(error.message, canary)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("says which tensor is not the architecture's", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const folder = yield* fs.makeTempDirectoryScoped()
      const input = { ...fabricate(`${folder}/artifacts`), out: `${folder}/release` }
      const path = `${input.artifacts.checkpoint}/model.safetensors`
      const bytes = Buffer.from(yield* fs.readFile(path))
      const whole = bytes.toString("latin1")
      for (const [text, problem] of [
        [whole.replace("transformer.ln_f.bias", "transformer.ln_f.bios"), /tensor transformer\.ln_f\.bias is missing/],
        [whole.slice(0, -4), /bytes after the last tensor/],
        [whole.replace('"F32"', '"F16"'), /is F16, not F32/],
        ["short", /not a safetensors file/],
      ] as const) {
        yield* fs.remove(input.out, { recursive: true, force: true })
        yield* fs.makeDirectory(input.out)
        yield* fs.writeFile(path, Buffer.from(text, "latin1"))
        assert.match((yield* Effect.flip(assembleRelease(input))).message, problem)
      }
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )
})
