import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { artifacts, bytesBelow, exp, finished, smallest, start, temporaryFolder, write } from "./experiment.ts"

const place = temporaryFolder()
afterAll(() => place.remove())

/** Kills the process, without a chance to say anything, when a step with this label has done so many optimizer steps. */
const killAt = async (runs: string, label: RegExp, steps: number): Promise<void> => {
  const child = start(place.path, ["run", "long.ts", "--runs", runs, "--until", "decay", "--json"])
  const outcome = finished(child)
  let line = ""
  child.stdout!.on("data", (chunk: Buffer) => {
    line += chunk
    const whole = line.split("\n")
    line = whole.pop()!
    for (const text of whole) {
      const { event, label: of, progress } = JSON.parse(text)
      if (event === "StepProgress" && label.test(of) && progress.unit === "steps" && progress.done >= steps)
        child.kill("SIGKILL")
    }
  })
  expect((await outcome).code).toBe(null)
}

/** Everything training left, by artifact. */
const trained = (runs: string): Readonly<Record<string, Buffer>> =>
  Object.fromEntries(
    ["train", "decay"].flatMap((kind) =>
      artifacts(join(place.path, runs), kind).flatMap((path) =>
        Object.entries(bytesBelow(path)).map(([file, bytes]) => [`${path.split("/").at(-1)}/${file}`, bytes] as const),
      ),
    ),
  )

describe("a run that is killed", () => {
  beforeAll(async () => {
    // long enough that progress, told twice a second, is seen on the way
    write(place.path, "long.ts", smallest({ steps: 300, decaySteps: 120 }))
    const whole = await exp(place.path, ["run", "long.ts", "--runs", "left-alone", "--until", "decay"])
    expect(whole.code).toBe(0)
  }, 120_000)

  for (const [where, label, steps] of [
    ["early in training", /^train/, 1],
    ["late in training", /^train/, 150],
    ["inside a tail", /^decay/, 30],
  ] as const)
    it(`${where} goes on without a flag, with another number of workers, to the same bytes`, async () => {
      const runs = where.replaceAll(" ", "-")
      await killAt(runs, label, steps)
      const rest = await exp(place.path, ["run", "long.ts", "--runs", runs, "--until", "decay"], { EXP_WORKERS: "3" })
      expect(rest.stderr).toBe("")
      expect(rest.code).toBe(0)
      const [cut, whole] = [trained(runs), trained("left-alone")]
      expect(Object.keys(cut)).toEqual(Object.keys(whole))
      expect(Object.keys(whole).filter((path) => path.endsWith("model.safetensors")).length).toBeGreaterThan(20)
      for (const [path, bytes] of Object.entries(whole)) expect(bytes.equals(cut[path]!), path).toBe(true)
    }, 120_000)
})
