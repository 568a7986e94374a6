/** `exp forecast`, and what `exp plan`, `exp run` and `exp show` have of it: processes, real files, the real engine. */
import * as fs from "node:fs"
import { join } from "node:path"
import { Schema } from "effect"
import { afterAll, assert, beforeAll, describe, expect, it, vi } from "vitest"
import { PlanForecast } from "../../src/run/forecast/PlanForecast.ts"
import { Reckoning } from "../../src/run/forecast/Reckoning.ts"
import { read } from "../../src/store/Journal.ts"
import { listFiles } from "../../src/store/Store.ts"
import { exp, type Outcome, root, temporaryFolder, write } from "../endToEnd/experiment.ts"

const recipe = `import { corpus, experiment, pack, tokenizer, train } from "exp"

export default experiment("short", { seed: 1, layers: 2, width: 64 }, function* (set) {
  const from = ${JSON.stringify(join(root, "experiments/corpus"))}
  const split = { validation: 0.1, holdout: 0.1, minimumDocuments: 4 }
  const texts = yield* corpus({ from, train: { en: ["wiki_en"] }, split })
  const words = yield* tokenizer({ corpus: texts, vocabulary: 300 })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 64 })
  const recipe = { rowsPerStep: 16, peakLr: 1e-3, warmupSteps: 4, keepEvery: 150, seed: set.seed }
  return yield* train({ tokens, model: { layers: set.layers, width: set.width, heads: 2 }, ...recipe, steps: 300 })
})
`

const place = temporaryFolder()
afterAll(() => place.remove())
// the machine may have other work
vi.setConfig({ testTimeout: 120_000 })
const at = (...path: ReadonlyArray<string>): string => join(place.path, ...path)

const Forecasted = Schema.fromJsonString(Schema.Struct({ experiment: Schema.String, forecast: PlanForecast }))
const forecastIn = ({ stdout }: Outcome) => Schema.decodeUnknownSync(Forecasted)(stdout).forecast

describe("a forecast, a run, and what came of it", () => {
  let before: Outcome
  let calibrated: Outcome
  let ran: Outcome
  let run: string
  beforeAll(async () => {
    write(place.path, "short.ts", recipe)
    before = await exp(place.path, ["plan", "short.ts", "--json"])
    calibrated = await exp(place.path, ["forecast", "short.ts", "--calibrate", "--json"])
    ran = await exp(place.path, ["run", "short.ts"])
    run = fs.readdirSync(at("runs")).find((name) => name.endsWith("_short"))!
  }, 480_000)

  it("has no time before anything was measured here: planning starts no engine for it", () => {
    const { forecast } = JSON.parse(before.stdout)
    assert.isUndefined(forecast.calibration)
    assert.isTrue(forecast.steps.every((step: { readonly seconds?: number }) => step.seconds === undefined))
    assert.isAbove(forecast.total.flops, 0)
  })

  it("has one after a calibration, which is kept and shown with its age", async () => {
    const forecast = forecastIn(calibrated)
    const train = forecast.steps.find(({ kind }) => kind === "train")!
    assert.isAbove(train.seconds!, 0)
    assert.strictEqual(forecast.calibration!.ofThisShape, true)
    assert.lengthOf(
      fs.readdirSync(at("runs/.cache/calibration")).filter((name) => name.startsWith("tfjs-fp32-")),
      1,
    )
    const { stdout } = await exp(place.path, ["plan", "short.ts"])
    assert.match(stdout, /to go, time as measured here (just now|\d+ (minute|hour)s? ago)/)
  })

  it("is set against the outcome, which is that of the journal", async () => {
    assert.strictEqual(ran.stderr, "")
    const { stdout } = await exp(place.path, ["forecast", run, "--json"])
    const reckoning = Schema.decodeUnknownSync(Schema.fromJsonString(Reckoning))(stdout)
    const journal = read(at("runs", run, "journal.ndjson")) as ReadonlyArray<Record<string, unknown>>
    const finished = journal.filter(({ _tag }) => _tag === "StepFinished")
    assert.deepStrictEqual(
      reckoning.steps.map(({ label, seconds, memoryBytes, diskBytes }) => [
        label,
        seconds.outcome,
        memoryBytes.outcome,
        diskBytes.outcome,
      ]),
      finished.map(({ label, seconds, peakMemoryBytes, bytes }) => [label, seconds, peakMemoryBytes, bytes]),
    )
    const told = journal.find(({ _tag }) => _tag === "RunStarted")!["forecast"] as ReadonlyArray<{ seconds?: number }>
    assert.deepStrictEqual(reckoning.steps.at(-1)!.seconds.forecast, told.at(-1)!.seconds)
  })

  it("ends what `exp show` says of the run", async () => {
    const { stdout } = await exp(place.path, ["show", run])
    const [, table] = stdout.split("\nforecast and outcome\n")
    const shown = table!
      .replaceAll(/[\d.]+ (m?s\b|min \d\d s)/g, "<time>")
      .replaceAll(/[\d.]+ [kMG]?B/g, "<size>")
      .replaceAll(/\d+% (less|more)/g, "<share>")
      .replaceAll(/ {2,}/g, "  ")
    expect(shown.trimEnd()).toMatchInlineSnapshot(`
      "step  time  took  memory  held  disk  wrote
      corpus  <time>  <size>  <size>  <size>
      tokenizer  <time>  <size>  <size>
      pack  <time>  <size>  <size>  <size>
      train 0→300  <time>  <time>  <size>  <size>  <size>  <size>
      1 step was to take <time> and took <time>: <share>"
    `)
  })

  it("keeps how the device did with the run, and in no artifact", () => {
    const lines = fs
      .readFileSync(at("runs", run, "device.jsonl"), "utf8")
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line))
    assert.isNotEmpty(lines)
    for (const line of lines) {
      assert.isAbove(line.tokensPerSecond, 0)
      assert.isAbove(line.mfu, 0)
      assert.isAbove(line.memoryBytes, 1e7)
      assert.isAtLeast(line.peakMemoryBytes, line.memoryBytes * 0.5)
      assert.isBelow(line.utilisation, 1.001)
    }
    assert.deepStrictEqual(
      listFiles(at("runs/store")).filter((path) => path.includes("device")),
      [],
    )
  })

  it("teaches the next one what steps do beside the engine", async () => {
    const forecast = forecastIn(await exp(place.path, ["forecast", "short.ts", "--set", "seed=2", "--json"]))
    const timed = forecast.steps.filter(({ seconds }) => seconds !== undefined).map(({ kind }) => kind)
    assert.deepStrictEqual(timed, ["corpus", "tokenizer", "pack", "train"])
    assert.isTrue(forecast.steps.slice(0, 3).every(({ done }) => done))
    assert.isTrue(forecast.corpus!.exact)
    assert.isBelow(forecast.left.seconds, forecast.total.seconds)
  })
})

describe("a plan that cannot fit", () => {
  it("is refused before a run's folder is made, with what to change; the plan says the same", async () => {
    const huge = ["--set", "layers=48", "--set", "width=1600"]
    const before = fs.readdirSync(at("runs"))
    const { code, stderr } = await exp(place.path, ["run", "short.ts", ...huge])
    assert.strictEqual(code, 1)
    assert.match(
      stderr,
      /^error: train 0→300 does not fit: weights, moments and 8 gradients take [\d.]+ GB, WebAssembly addresses 4\.29 GB\n {2}hint: take /,
    )
    assert.deepStrictEqual(fs.readdirSync(at("runs")), before)
    const { stdout } = await exp(place.path, ["plan", "short.ts", ...huge])
    assert.include(stdout, "it does not fit: weights, moments and 8 gradients take")
  })
})

describe("a run that cannot be reckoned", () => {
  it("says so", async () => {
    const { code, stderr } = await exp(place.path, ["forecast", "nothing"])
    assert.strictEqual(code, 1)
    assert.match(stderr, /^error: .*nothing.*\n {2}hint: /)
  })
})
