import * as fs from "node:fs"
import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Layer, Schema } from "effect"
import { corpus, experiment, pack, tokenizer, train } from "exp"
import { assert, describe, expect, it } from "vitest"
import smallEnIt from "../../experiments/small-en-it.ts"
import { renderForecast } from "../../src/cli/ForecastText.ts"
import { Engine } from "../../src/engine/Engine.ts"
import { trainingFlopsPerToken } from "../../src/model/Architecture.ts"
import { Corpus } from "../../src/model/Artifact.ts"
import { type Experiment, plan } from "../../src/plan/Plan.ts"
import * as Step from "../../src/plan/Step.ts"
import type { Parts } from "../../src/plan/Texts.ts"
import { paceOf } from "../../src/run/forecast/Calibration.ts"
import type { Circumstances } from "../../src/run/forecast/Circumstances.ts"
import { forecastOn, PlanForecast } from "../../src/run/forecast/PlanForecast.ts"
import type { Rates } from "../../src/run/forecast/Rates.ts"
import { survey } from "../../src/run/Survey.ts"
import { Store } from "../../src/store/Store.ts"
import { temporaryFolder } from "../temporary.ts"
import { calibrationOf } from "./calibration.ts"

const architecture = { family: "gpt2", layers: 4, width: 128, heads: 4, context: 128, vocabulary: 2048 } as const

const calibration = calibrationOf(architecture)
const { engine: numerics, device } = calibration

const foretell = (
  experiment: Experiment,
  { calibrations = [calibration], rates = {}, paces = {} }: Partial<Circumstances> & { readonly rates?: Rates } = {},
  root = temporaryFolder(),
) =>
  Effect.gen(function* () {
    const { nodes } = yield* plan(experiment)
    return forecastOn(nodes, yield* survey(nodes), {
      numerics,
      device,
      room: { device: "host", hostBytes: 24e9 },
      workers: 2,
      calibrations,
      paces,
      rates,
      pathOf: (artifact) => join(root, artifact),
    })
  }).pipe(
    Effect.provide(Layer.mergeAll(Store.layer(root), Layer.mock(Engine, { numerics }), NodeServices.layer)),
    Effect.runPromise,
  )

const everyKind = Object.fromEntries(
  ["corpus", "tokenizer", "pack", "benchmark", "select", "sweep", "release"].map((kind) => [
    kind,
    { seconds: 2, amount: 1 },
  ]),
)
const perByte = { seconds: 1, amount: 1e6 }
const paces = { ...everyKind, corpus: perByte, tokenizer: perByte, pack: perByte }

describe("the forecast of the hero", () => {
  it("takes its time from a calibration: the update and the rows of each step, what is measured and what is drawn", async () => {
    const { steps } = await foretell(smallEnIt)
    const train = steps.find(({ kind }) => kind === "train")!
    // three validations and checkpoints come on top of 300 steps
    assert.isAtLeast(train.seconds!, 300 * 0.1)
    assert.isAtMost(train.seconds!, 300 * 0.1 + 3)
    assert.strictEqual(train.tokensPerSecond, (16 * 128) / 0.1)
    const flops = trainingFlopsPerToken(architecture)
    assert.closeTo(train.mfu!, (flops * 16 * 128) / 0.1 / 100e9, 1e-12)
    const sweep = steps.find(({ kind }) => kind === "sweep")!
    assert.closeTo(sweep.seconds!, (8 * 80 * 2 * 48) / 4000, 1e-9)
    assert.strictEqual(sweep.partly, "what it does beside the engine")
  })

  it("has no time without one, and says so", async () => {
    const { steps, calibration, unknown } = await foretell(smallEnIt, { calibrations: [] })
    assert.isUndefined(calibration)
    assert.deepStrictEqual(
      steps.flatMap(({ seconds }) => seconds ?? []),
      [],
    )
    expect(unknown).toMatchInlineSnapshot(`
      [
        "time of the engine: it was not measured here, \`exp forecast FILE --calibrate\` does",
        "time of corpus, tokenizer, pack and 4 more: no run here was timed yet with the engine measured",
        "energy: no watts are measured or given (\`--watts\`)",
        "cost: no price is given (\`--price-per-kwh\`, \`--price-per-hour\`)",
        "carbon dioxide: no rate is given (\`--grams-co2-per-kwh\`)",
      ]
    `)
  })

  it("is scaled by operations from another shape where that alone was measured", async () => {
    const wider = { ...architecture, width: 256 }
    const pace = paceOf([{ ...calibration, architecture: wider }], architecture)!
    assert.isFalse(pace.measured)
    assert.closeTo(pace.perRow, (0.005 * trainingFlopsPerToken(architecture)) / trainingFlopsPerToken(wider), 1e-12)
    const { calibration: said } = await foretell(smallEnIt, {
      calibrations: [{ ...calibration, architecture: wider }],
    })
    assert.isFalse(said!.ofThisShape)
  })

  it("adds up: energy, cost and carbon dioxide of the time that is left, and leaves out what no rate is known for", async () => {
    const rates = { watts: 60, pricePerKwh: 0.3, pricePerHour: 1, gramsCo2PerKwh: 250, currency: "EUR" }
    const { total, left, unknown } = await foretell(smallEnIt, { rates, paces })
    assert.deepStrictEqual(left, total)
    assert.closeTo(left.kilowattHours!, (60 * left.seconds) / 3.6e6, 1e-12)
    assert.closeTo(left.cost!, 0.3 * left.kilowattHours! + left.seconds / 3600, 1e-12)
    assert.closeTo(left.gramsCo2!, 250 * left.kilowattHours!, 1e-9)
    assert.deepStrictEqual(unknown, [])
    const without = await foretell(smallEnIt, { rates: { pricePerKwh: 0.3 }, paces })
    assert.isUndefined(without.left.cost)
    assert.include(without.unknown.join("\n"), "cost of energy: no watts are measured or given")
  })

  it("counts tokens against parameters and texts: about, while they are not packed", async () => {
    const { corpus, steps } = await foretell(smallEnIt)
    assert.isFalse(corpus!.exact)
    // 73,022 tokens are what these texts turn out to be
    assert.isAtLeast(corpus!.tokens, 73_022 / 2)
    assert.isAtMost(corpus!.tokens, 73_022 * 2)
    const last = steps.findLast(({ kind }) => kind === "decay")!
    assert.strictEqual(last.tokensSeen, 380 * 16 * 128)
    assert.strictEqual(last.tokensPerParameter, (380 * 16 * 128) / 1_071_872)
    assert.closeTo(last.epochs!, last.tokensSeen! / corpus!.tokens, 0.01)
  })

  it("is JSON of one schema, which nothing is lost in", async () => {
    const forecast = await foretell(smallEnIt, { paces, rates: { watts: 50 } })
    const text = JSON.stringify(forecast)
    const read = Schema.decodeUnknownSync(Schema.fromJsonString(PlanForecast), { onExcessProperty: "error" })(text)
    assert.strictEqual(JSON.stringify(read), text)
  })

  it("reads well", async () => {
    const rates = { watts: 60, pricePerKwh: 0.3, currency: "EUR" }
    const forecast = await foretell(smallEnIt, { paces, rates })
    expect(renderForecast("small-en-it", forecast, Date.parse("2026-11-22T12:30:00Z"))).toMatchInlineSnapshot(`
      "small-en-it
      tfjs fp32 on a processor, 2 workers, 24.0 GB of memory

        step                           parameters   tokens  operations        time  memory     disk
        corpus                                                              387 ms           595 kB
        tokenizer                                                           387 ms
        pack                                                                387 ms           595 kB
        train 0→300                     1,071,872  614,400  4.35 TFLOP      31.2 s  492 MB  38.6 MB
        decay 200→280                   1,071,872  163,840  1.16 TFLOP       8.7 s  492 MB  17.1 MB
        benchmark step_220 … step_280                                       15.2 s
        decay 300→380                   1,071,872  163,840  1.16 TFLOP       8.7 s  492 MB  17.1 MB
        benchmark step_320 … step_380                                       15.2 s
        select by val_loss_mixed                                             2.2 s
        sweep decoding                                                      17.4 s
        release small-en-it                                                  2.0 s          12.9 MB
        in sum                          1,071,872  942,080  6.67 TFLOP  1 min 42 s          86.9 MB

      memory of train 0→300, of 24.0 GB there are: 8 gradient lanes, 2 workers
        weights      36.4 MB
        gradients    47.1 MB
        optimizer    17.1 MB
        activations  40.5 MB
        logits       10.5 MB
        runtime       340 MB
        in sum        492 MB

      778,240 tokens seen at the end of decay 300→380: about 15.1 times the 52,000 or so that there are; 0.726 a parameter, where 20 spend operations best (Hoffmann et al. 2022)
      time as measured here 2 hours ago; 20,480 tokens/s, 145% of the 100 GFLOP/s of its matrix products
      what is left takes 0.00170 kWh at 60.0 W, 0.00051 EUR
      not known: carbon dioxide: no rate is given (\`--grams-co2-per-kwh\`)"
    `)
  })
})

describe("the texts of a plan", () => {
  it("are counted exactly once they are packed", async () => {
    const root = temporaryFolder()
    const folder = join(root, "pack-1")
    fs.mkdirSync(folder)
    const parts = (train: number) => ({
      train: { documents: 1, tokens: train, bytes: 4 * train },
      validation: { documents: 1, tokens: 10, bytes: 40 },
      holdout: { documents: 1, tokens: 5, bytes: 20 },
    })
    const sources = [
      { source: "a", role: "train", parts: parts(1000) },
      { source: "b", role: "evaluate", parts: parts(0) },
    ]
    fs.writeFileSync(join(folder, "inventory.json"), JSON.stringify({ sources }))
    const { nodes } = Effect.runSync(plan(smallEnIt))
    const pack = nodes.find(({ definition }) => definition.kind === "pack")!
    const seen = {
      standing: new Map([[pack.id, { _tag: "Cached", artifact: "pack-1", code: "" } as const]]),
      copies: new Map(),
      outside: new Map(),
      inputs: new Map(),
    }
    const { corpus, steps } = forecastOn(nodes, seen, {
      numerics,
      device,
      room: { device: "host", hostBytes: 24e9 },
      workers: 2,
      calibrations: [calibration],
      paces: {},
      rates: {},
      pathOf: (artifact) => join(root, artifact),
    })
    assert.deepStrictEqual(corpus, { tokens: 1000, exact: true })
    assert.isTrue(steps.find(({ kind }) => kind === "pack")!.done)
    // a benchmark measures validation documents of all sources, the selection the holdout of those trained on
    const drawn = (20 * 2 * 48) / 4000
    assert.closeTo(steps.find(({ kind }) => kind === "benchmark")!.seconds!, 20 / 50_000 + drawn, 1e-9)
    assert.closeTo(steps.find(({ kind }) => kind === "select")!.seconds!, 5 / 50_000, 1e-9)
  })

  it("are what the steps on the way make of them: a kind that nobody has heard of says it in its own file", async () => {
    const halved = Step.make("halved", {
      version: 1,
      params: {},
      inputs: { corpus: Corpus },
      output: (ref, _, { corpus }) => new Corpus(ref, corpus.known),
      texts: (_, { corpus }) => {
        const { bytes, split } = corpus![0]!.texts!
        const half = (part: keyof Parts) => split![part] / 2
        return {
          bytes: bytes / 2,
          split: {
            train: half("train"),
            validation: half("validation"),
            trainedValidation: half("trainedValidation"),
            holdout: half("holdout"),
          },
          counted: false,
        }
      },
      readsTexts: true,
      run: () => Effect.die("a forecast runs nothing"),
    })
    const recipe = (through: boolean) =>
      experiment("recipe", function* () {
        const all = yield* corpus({ from: "experiments/corpus", train: { en: ["web_en"] } })
        const texts = through ? yield* halved({ corpus: all }) : all
        const words = yield* tokenizer({ corpus: texts, vocabulary: 2048 })
        const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 128 })
        const model = { layers: 4, width: 128, heads: 4 }
        const rates = { peakLr: 1e-3, warmupSteps: 10 }
        return yield* train({ tokens, model, rowsPerStep: 16, steps: 100, ...rates, keepEvery: 100, seed: 1 })
      })
    const perByte = { seconds: 1, amount: 1e6 }
    const forecasts = async (through: boolean) => {
      const { corpus, steps } = await foretell(recipe(through), {
        paces: { corpus: perByte, halved: perByte, tokenizer: perByte, pack: perByte },
      })
      return { tokens: corpus!.tokens, secondsOf: (kind: string) => steps.find((one) => one.kind === kind)?.seconds }
    }
    const [straight, through] = [await forecasts(false), await forecasts(true)]
    assert.closeTo(through.tokens, straight.tokens / 2, 1)
    assert.strictEqual(through.secondsOf("corpus"), straight.secondsOf("corpus"))
    for (const kind of ["halved", "tokenizer", "pack"])
      assert.closeTo(through.secondsOf(kind)!, straight.secondsOf("corpus")! / 2, 1e-9, kind)
  })
})
