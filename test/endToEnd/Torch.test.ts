/** The whole path with the torch engine, beside the embedded one; and what is left of it when it is stopped. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { python, skipped } from "../engine/torch.ts"
import { alive, descendants, gone } from "../processes.ts"
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

const torch = ["--engine", "torch", "--engine-set", "device=cpu", "--engine-set", "threads=1"]
const environment = { EXP_TORCH_PYTHON: python }

interface Comparison {
  readonly candidates: ReadonlyArray<{
    readonly candidate: string
    readonly metrics: { readonly val_loss_mixed: { readonly value: number } }
  }>
}
/** Names and losses of a run's leaderboard, best first. */
const leaderboard = ({ stdout }: Outcome) => {
  const release = join(place.path, /^release +(.+)$/m.exec(stdout)![1]!)
  const { candidates } = JSON.parse(readFileSync(join(release, "comparison.json"), "utf8")) as Comparison
  return candidates.map(({ candidate, metrics }) => [candidate, metrics.val_loss_mixed.value] as const)
}

describe.skipIf(python === undefined)(`an experiment on both engines${skipped}`, () => {
  let outcomes: Readonly<Record<"torch" | "tfjs", Outcome>>
  beforeAll(async () => {
    write(place.path, "smallest.ts", smallest())
    const there = await exp(place.path, ["run", "smallest.ts", "--runs", "both", ...torch], environment)
    outcomes = { torch: there, tfjs: await exp(place.path, ["run", "smallest.ts", "--runs", "both"]) }
  }, 600_000)

  it("says who computes, and what was made without an engine is made once", () => {
    expect(outcomes.torch.stderr).toBe("")
    expect(outcomes.torch.code).toBe(0)
    expect(outcomes.torch.stdout).toMatch(/13 steps, computed by torch fp32/)
    expect(outcomes.tfjs.code).toBe(0)
    expect(outcomes.tfjs.stdout).toMatch(/finished: 10 steps made, 3 reused/)
  })

  it("has the same leaderboard: its order, and every loss to 1e-4", () => {
    const [a, b] = [leaderboard(outcomes.torch), leaderboard(outcomes.tfjs)]
    expect(a.length).toBe(4)
    expect(a.map(([name]) => name)).toEqual(b.map(([name]) => name))
    a.forEach(([name, loss], i) => {
      expect(Math.abs(loss - b[i]![1]), name).toBeLessThan(1e-4)
    })
  })

  it("is reused, explained and proved by the engine that made it", async () => {
    const again = await exp(place.path, ["run", "smallest.ts", "--runs", "both", ...torch], environment)
    expect(again.stdout).toMatch(/nothing to do: 13 steps were done before/)
    // without the worker's Python too: nothing is computed
    const elsewhere = await exp(place.path, ["run", "smallest.ts", "--runs", "both", ...torch], {
      EXP_TORCH_PYTHON: "/no/such/python",
    })
    expect(elsewhere.stdout).toMatch(/nothing to do/)
    const why = await exp(place.path, [
      "why",
      "smallest.ts",
      "train",
      "--runs",
      "both",
      "--precision",
      "bf16",
      ...torch,
    ])
    expect(why.stdout).toMatch(/engine `precision` +fp32 +bf16/)
    const made = artifacts(join(place.path, "both"), "train")
      .filter((path) => readFileSync(join(path, "training_config.json"), "utf8").includes('"name": "torch"'))
      .map((path) => path.split("/").at(-1))
    expect(made.length).toBe(1)
    const proof = await exp(
      place.path,
      ["resume", "--prove", `${made[0]}#step_12`, "--runs", "both", ...torch.slice(2)],
      environment,
    )
    expect(proof.stderr).toBe("")
    expect(proof.stdout).toMatch(/stored step_24[\s\S]*weights, moments and state are byte-equal/)
  }, 240_000)

  it("is verified by the engine that made it, without being told which", async () => {
    const release = /^release +(.+)$/m.exec(outcomes.torch.stdout)![1]!
    const verified = await exp(
      place.path,
      ["verify", release, "--runs", "both", "--engine-set", "threads=1"],
      environment,
    )
    expect(verified.stdout).toMatch(/holdout samples +\d+ texts, token by token the same/)
    expect(verified.stdout).toMatch(/ 0 wrong/)
  }, 240_000)
})

/** Runs until training has taken so many steps, then does something to the process. */
const until = async (
  args: ReadonlyArray<string>,
  steps: number,
  act: (child: ReturnType<typeof start>) => void,
): Promise<Outcome> => {
  const child = start(place.path, ["run", "long.ts", "--until", "train", "--json", ...args], environment)
  let line = ""
  let acted = false
  child.stdout!.on("data", (chunk: Buffer) => {
    line += chunk
    const whole = line.split("\n")
    line = whole.pop()!
    for (const text of whole) {
      const { event, label, progress } = JSON.parse(text)
      if (acted || event !== "StepProgress" || !/^train/.test(label) || progress.done < steps) continue
      acted = true
      act(child)
    }
  })
  return finished(child)
}

const linux = process.platform === "linux" ? "" : " (skipped: it looks into /proc)"

describe.skipIf(python === undefined || linux !== "")(`training in a worker that is stopped${skipped}${linux}`, () => {
  const trained = (runs: string) => bytesBelow(artifacts(join(place.path, runs), "train")[0]!)
  beforeAll(async () => {
    write(place.path, "long.ts", smallest({ steps: 600 }))
    const whole = await exp(
      place.path,
      ["run", "long.ts", "--runs", "alone", "--until", "train", ...torch],
      environment,
    )
    expect(whole.stderr).toBe("")
  }, 240_000)

  it("by Ctrl-C saves what it has, and goes on to the same bytes without a gap", async () => {
    let workers: ReadonlyArray<number> = []
    const stopped = await until(["--runs", "stopped", ...torch], 100, (child) => {
      workers = descendants(child.pid!)
      child.kill("SIGINT")
    })
    expect(stopped.code).toBe(130)
    expect(workers.length).toBeGreaterThan(0)
    expect(workers.filter(alive)).toEqual([])
    const rest = await exp(
      place.path,
      ["run", "long.ts", "--runs", "stopped", "--until", "train", ...torch],
      environment,
    )
    expect(rest.stdout).toMatch(/goes on from step \d{3}/)
    const [cut, whole] = [trained("stopped"), trained("alone")]
    expect(Object.keys(cut)).toEqual(Object.keys(whole))
    const differ = Object.entries(whole).flatMap(([path, bytes]) => (bytes.equals(cut[path]!) ? [] : [path]))
    expect(differ).toEqual([])
  }, 240_000)

  it("by a kill that says nothing leaves no process behind, of one worker or of several", async () => {
    for (const processes of [1, 2]) {
      let workers: ReadonlyArray<number> = []
      const runs = `killed-${processes}`
      await until(["--runs", runs, ...torch, "--engine-set", `processes=${processes}`], 20, (child) => {
        workers = descendants(child.pid!)
        child.kill("SIGKILL")
      })
      expect(workers.length, `workers of ${processes}`).toBeGreaterThanOrEqual(processes)
      expect(await gone(workers, 20_000), `${workers.filter(alive)} are still there`).toBe(true)
    }
  }, 240_000)
})
