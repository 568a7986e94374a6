import * as fs from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import { assert, describe, expect, it, onTestFinished } from "vitest"
import { gpusHere, parse } from "../../src/engine/Gpu.ts"
import { layerWith } from "../../src/engine/tfjs/TfjsEngine.ts"
import { calibrate } from "../../src/run/forecast/Calibrate.ts"
import { ageInWords, calibrationFolder, keep, kept, paceOf } from "../../src/run/forecast/Calibration.ts"
import { RATES, ratesOf } from "../../src/run/forecast/Rates.ts"
import { learn, pacesOf } from "../../src/run/forecast/StepPaces.ts"
import { energyMeter } from "../../src/run/Power.ts"
import { temporaryFolder } from "../temporary.ts"
import { calibrationOf } from "./calibration.ts"

const architecture = { family: "gpt2", layers: 1, width: 32, heads: 2, context: 32, vocabulary: 300 } as const
const some = calibrationOf(architecture)
const numerics = some.engine

describe("a calibration", () => {
  it("is measured by asking the engine for what a run asks for, and leaves nothing behind", async () => {
    const notes: Array<string> = []
    const scratch = join(temporaryFolder(), "scratch")
    const measured = await calibrate({
      architecture,
      rowsPerStep: 4,
      texts: 3,
      device: some.device,
      scratch,
      note: (text) => void notes.push(text),
    }).pipe(Effect.provide(layerWith({ workers: 1 })), Effect.runPromise)
    assert.deepStrictEqual(fs.readdirSync(scratch), [])
    assert.deepInclude(measured, { engine: numerics, device: some.device, architecture })
    for (const rate of ["perRow", "measuredTokensPerSecond", "drawnTokensPerSecond", "writtenBytesPerSecond"] as const)
      assert.isAbove(measured[rate], 0)
    assert.match(notes[0]!, /^\d+ steps of 2 rows$/)
    const root = temporaryFolder()
    keep(root, measured)
    assert.deepStrictEqual(kept(root, numerics, some.device), [measured])
    assert.isTrue(paceOf(kept(root, numerics, some.device), architecture)!.measured)
  })

  it("is kept for its engine, precision, device and shape, and replaced by a newer one of the same", () => {
    const root = temporaryFolder()
    keep(root, some)
    keep(root, { ...some, perRow: 1 })
    keep(root, { ...some, architecture: { ...architecture, layers: 2 } })
    keep(root, { ...some, device: "another, 2 workers" })
    keep(root, { ...some, engine: { ...numerics, precision: "bf16" } })
    keep(root, { ...some, engine: { ...numerics, numerics: 2 } })
    const found = kept(root, numerics, some.device)
    assert.deepStrictEqual(found.map(({ architecture: { layers }, perRow }) => [layers, perRow]).toSorted(), [
      [1, 1],
      [2, 0.005],
    ])
    assert.lengthOf(fs.readdirSync(calibrationFolder(root)), 5)
  })

  it("that cannot be read is as none: a note about a machine stops nobody", () => {
    const root = temporaryFolder()
    keep(root, some)
    const [name] = fs.readdirSync(calibrationFolder(root))
    fs.writeFileSync(join(calibrationFolder(root), name!), "{")
    assert.deepStrictEqual(kept(root, numerics, some.device), [])
  })

  it("says how old it is", () => {
    const at = (seconds: number) => ageInWords(some.measuredAt, Date.parse(some.measuredAt) + 1000 * seconds)
    expect([0, 59, 60, 3599, 7200, 86_400, 400_000].map(at)).toMatchInlineSnapshot(`
      [
        "just now",
        "just now",
        "1 minute ago",
        "59 minutes ago",
        "2 hours ago",
        "1 day ago",
        "4 days ago",
      ]
    `)
  })
})

describe("what steps do beside the engine", () => {
  it("is learned by kind and device, a new run counting as much as all before it", () => {
    const root = temporaryFolder()
    const runs = [4, 2, 8]
    for (const seconds of runs) learn(root, "here", [{ kind: "benchmark", amount: 2, seconds }])
    // ((4 + 2) / 2 + 8) / 2 over two steps
    assert.deepStrictEqual(pacesOf(root, "here"), { benchmark: { seconds: 5.5, amount: 2 } })
    assert.deepStrictEqual(pacesOf(root, "elsewhere"), {})
  })
})

describe("rates", () => {
  it("are kept in the runs folder; what is given goes before", async () => {
    const root = temporaryFolder()
    fs.writeFileSync(join(root, RATES), '{"watts": 60, "pricePerKwh": 0.3, "currency": "EUR"}')
    assert.deepStrictEqual(await Effect.runPromise(ratesOf(root, { watts: 90 })), {
      watts: 90,
      pricePerKwh: 0.3,
      currency: "EUR",
    })
  })

  it("that mean nothing are refused by name", async () => {
    const root = temporaryFolder()
    fs.writeFileSync(join(root, RATES), '{"wats": 60}')
    const error = await Effect.runPromise(Effect.flip(ratesOf(root, {})))
    assert.include(error.message.replace(root, "runs"), "runs/rates.json: ")
    assert.include(error.message, "wats")
    assert.match(error.message, /\n {2}hint: it may hold watts, pricePerKwh, gramsCo2PerKwh, pricePerHour, currency/)
  })
})

describe("watts", () => {
  const counters = (microjoules: number) => {
    const root = temporaryFolder()
    for (const [name, value] of [
      ["intel-rapl:0", microjoules],
      ["intel-rapl:0:0", 1],
    ] as const) {
      fs.mkdirSync(join(root, name))
      fs.writeFileSync(join(root, name, "energy_uj"), `${value}\n`)
      fs.writeFileSync(join(root, name, "max_energy_range_uj"), "1000000000\n")
    }
    return root
  }

  it("are counted by the kernel's energy counters, packages alone, also when one begins anew", () => {
    let now = 0
    const root = counters(990_000_000)
    const watts = energyMeter(root, () => now)
    now = 2000
    fs.writeFileSync(join(root, "intel-rapl:0", "energy_uj"), "40000000\n")
    assert.strictEqual(watts(), 25)
  })

  it("are unknown where nobody counts", () => {
    assert.isUndefined(energyMeter(join(temporaryFolder(), "none"))())
  })
})

describe("GPUs", () => {
  const said = "0, GPU-aa, NVIDIA GeForce RTX 4060 Ti, 16380, 550.54\n1, GPU-bb, NVIDIA H100, 81559, 550.54\n"

  it("are those the driver tells of, in the order they were made visible", () => {
    assert.deepStrictEqual(
      parse(said).map(({ name }) => name),
      ["NVIDIA GeForce RTX 4060 Ti", "NVIDIA H100"],
    )
    assert.deepStrictEqual(parse(said, ["GPU-bb", "0"])[0], {
      name: "NVIDIA H100",
      memoryBytes: 81_559 * 2 ** 20,
      driver: "550.54",
    })
    assert.deepStrictEqual(parse("No devices were found\n"), [])
  })

  it("are asked for from the program of the driver", async () => {
    const folder = temporaryFolder()
    fs.writeFileSync(join(folder, "nvidia-smi"), `#!/bin/sh\nprintf '${said.replaceAll("\n", "\\n")}'\n`, {
      mode: 0o755,
    })
    const path = process.env["PATH"]
    process.env["PATH"] = `${folder}:${path}`
    onTestFinished(() => {
      process.env["PATH"] = path
    })
    assert.lengthOf(await Effect.runPromise(gpusHere), 2)
  })
})
