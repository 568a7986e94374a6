import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import {
  artifacts,
  bytesBelow,
  exp,
  finished,
  type Outcome,
  smallest,
  start,
  temporaryFolder,
  write,
} from "./experiment.ts"

const place = temporaryFolder()
afterAll(() => place.remove())

/** Files of a release that hold clock, machine or git state, and the sums over them. */
const volatile = (path: string) => path === "provenance.json" || path === "SHA256SUMS"
/** The release that a run's own output names. */
const releaseIn = ({ stdout }: Outcome) => join(place.path, /^release +(.+)$/m.exec(stdout)![1]!)

describe("a whole experiment", () => {
  let first: Outcome
  beforeAll(async () => {
    write(place.path, "smallest.ts", smallest())
    first = await exp(place.path, ["run", "smallest.ts", "--runs", "one"])
  }, 240_000)

  it("runs from text to a release folder and says what won", () => {
    expect(first.stderr).toBe("")
    expect(first.code).toBe(0)
    expect(first.stdout).toMatch(/selection by val_loss_mixed/)
    expect(first.stdout).toMatch(/recommended preset: \w+/)
    expect(first.stdout).toMatch(/release {2}one\/store\/release-[0-9a-f]{16}\/release/)
    const files = readdirSync(releaseIn(first))
    for (const name of [
      "README.md",
      "model.safetensors",
      "config.json",
      "generation_config.json",
      "tokenizer.json",
      "tokenizer_config.json",
      "special_tokens_map.json",
      "training_config.json",
      "metrics.jsonl",
      "eval_metrics.jsonl",
      "best_validation.json",
      "probe_generations.jsonl",
      "eval_summary.json",
      "comparison.json",
      "benchmark_report.md",
      "benchmark_metrics.json",
      "benchmark_scores.json",
      "benchmark_source_losses.json",
      "decoding_summary.json",
      "decoding_report.md",
      "tuning_leaderboard.csv",
      "holdout_leaderboard.csv",
      "tuning_generations.jsonl",
      "holdout_generations.jsonl",
      "recommended_decoding_params.json",
      "release_note.md",
      "provenance.json",
      "SHA256SUMS",
    ])
      expect(files).toContain(name)
    expect(files.some((name) => /^smallest-step_\d+\.safetensors$/.test(name))).toBe(true)
    expect(files.some((name) => /^probe_step\d+_summary\.json$/.test(name))).toBe(true)
  })

  it("does nothing the second time, and names the folders to machines", async () => {
    const again = await exp(place.path, ["run", "smallest.ts", "--runs", "one", "--json"])
    const events = again.stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line))
    expect(events.at(-1)).toMatchObject({
      event: "RunFinished",
      made: 0,
      releases: [releaseIn(first)],
    })
    expect(existsSync(events.at(-1).folder)).toBe(true)
  })

  it("re-runs only the sweep and the release when only the sweep changes", async () => {
    write(place.path, "other-sweep.ts", smallest({ sweepTemperature: 0.5 }))
    const { stdout } = await exp(place.path, ["run", "other-sweep.ts", "--runs", "one", "--json"])
    const made = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line))
      .filter(({ event }) => event === "StepFinished")
      .map(({ label }) => label)
    expect(made).toEqual(["sweep decoding", "release smallest"])
  }, 120_000)

  it("gives the same bytes in another folder, with another number of workers, time zone and locale", async () => {
    const env = { EXP_WORKERS: "1", TZ: "Pacific/Auckland", LC_ALL: "tr_TR.UTF-8" }
    const second = await exp(place.path, ["run", "smallest.ts", "--runs", "two", "--jobs", "2"], env)
    expect(second.code).toBe(0)
    const [one, two] = [first, second].map((outcome) => bytesBelow(releaseIn(outcome), volatile))
    expect(Object.keys(two!)).toEqual(Object.keys(one!))
    for (const [path, bytes] of Object.entries(one!)) expect(bytes.equals(two![path]!), path).toBe(true)
    for (const kind of ["corpus", "tokenizer", "pack", "train", "decay", "benchmark", "select", "sweep"])
      expect(artifacts(join(place.path, "two"), kind).map((path) => path.split("/").at(-1))).toEqual(
        artifacts(join(place.path, "one"), kind)
          .map((path) => path.split("/").at(-1))
          .filter((name) => existsSync(join(place.path, "two/store", name!))),
      )
  }, 240_000)

  it("does not read a rotten artifact: the producer makes it again", async () => {
    const tokens = artifacts(join(place.path, "two"), "pack")[0]!
    const shard = join(tokens, readdirSync(tokens).find((name) => name.startsWith("train-"))!)
    const bytes = readFileSync(shard)
    bytes[100]! ^= 1
    writeFileSync(shard, bytes)
    write(place.path, "other-seed.ts", smallest({ steps: 36 }))
    const { code, stdout } = await exp(place.path, ["run", "other-seed.ts", "--runs", "two", "--until", "train"])
    expect(code).toBe(0)
    expect(stdout).toMatch(
      /pack: was damaged \(`train-00000\.bin` does not have the bytes it was stored with\): made anew/,
    )
  }, 120_000)

  it("goes on from a shorter training's stored checkpoint, to the bytes of one that ran at once", async () => {
    write(place.path, "longer.ts", smallest({ steps: 36 }))
    const extended = await exp(place.path, ["run", "longer.ts", "--runs", "one", "--until", "train"])
    expect(extended.stdout).toMatch(/goes on from step 24/)
    const atOnce = await exp(place.path, ["run", "longer.ts", "--runs", "three", "--until", "train"])
    expect(atOnce.stdout).not.toMatch(/goes on/)
    const [whole] = artifacts(join(place.path, "three"), "train")
    const name = whole!.split("/").at(-1)!
    const [a, b] = ["one", "three"].map((runs) => bytesBelow(join(place.path, runs, "store", name)))
    expect(Object.keys(a!)).toEqual(Object.keys(b!))
    for (const [path, bytes] of Object.entries(a!)) expect(bytes.equals(b![path]!), path).toBe(true)
  }, 240_000)
})

describe("an interrupted training", () => {
  it("says how to go on, and goes on to the same bytes as one left alone", async () => {
    write(place.path, "long.ts", smallest({ steps: 240 }))
    const child = start(place.path, ["run", "long.ts", "--runs", "cut", "--until", "train", "--json"])
    const outcome = finished(child)
    let seen = 0
    child.stdout!.on("data", (chunk: Buffer) => {
      seen = Math.max(
        seen,
        ...[...String(chunk).matchAll(/"done":(\d+),"total":240,/g)].map((match) => Number(match[1])),
      )
      if (seen >= 20 && !child.killed) child.kill("SIGINT")
    })
    const cut = await outcome
    expect(cut.code).toBe(130)
    expect(cut.stdout).toMatch(/RunInterrupted/)
    expect(artifacts(join(place.path, "cut"), "train")).toEqual([])
    const rest = await exp(place.path, ["run", "long.ts", "--runs", "cut", "--until", "train"], { EXP_WORKERS: "1" })
    expect(rest.code).toBe(0)
    expect(rest.stdout).toMatch(/goes on from step/)
    expect(Number(/goes on from step (\d+)/.exec(rest.stdout)?.[1])).toBeGreaterThanOrEqual(20)
    const whole = await exp(place.path, ["run", "long.ts", "--runs", "left-alone", "--until", "train"])
    expect(whole.code).toBe(0)
    const [a, b] = ["cut", "left-alone"].map((runs) => bytesBelow(artifacts(join(place.path, runs), "train")[0]!))
    expect(Object.keys(a!)).toEqual(Object.keys(b!))
    for (const [path, bytes] of Object.entries(a!)) expect(bytes.equals(b![path]!), path).toBe(true)
  }, 300_000)
})
