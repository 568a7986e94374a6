import { readdirSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { artifacts, bytesBelow, exp, smallest, temporaryFolder, write } from "./experiment.ts"

const place = temporaryFolder()
afterAll(() => place.remove())

const trainings = (runs: string) => artifacts(join(place.path, runs), "train")
const kept = (path: string) => readdirSync(join(path, "checkpoints")).sort()

describe("a stable checkpoint that was not kept", () => {
  it("is made from the nearest one before it, to the bytes of a training that kept it at once", async () => {
    const keeping = (every: number) =>
      smallest({ steps: 24 })
        .replace(/keepEvery: \d+/, `keepEvery: ${every}`)
        .replace("stableAt(step)", "stableAt(24)")
    write(place.path, "coarse.ts", keeping(16))
    write(place.path, "fine.ts", keeping(20))
    const coarse = await exp(place.path, ["run", "coarse.ts", "--runs", "one", "--until", "train"])
    expect(coarse.code, coarse.stderr).toBe(0)
    expect(trainings("one").map(kept)).toEqual([["step_16", "step_24"]])
    const fine = await exp(place.path, ["run", "fine.ts", "--runs", "one", "--until", "train"])
    expect(fine.code, fine.stderr).toBe(0)
    expect(fine.stdout).toMatch(/goes on from step 16/)
    const alone = await exp(place.path, ["run", "fine.ts", "--runs", "two", "--until", "train"])
    expect(alone.stdout).not.toMatch(/goes on/)
    const [whole] = trainings("two")
    expect(kept(whole!)).toEqual(["step_20", "step_24"])
    const name = whole!.split("/").at(-1)!
    const [a, b] = ["one", "two"].map((runs) => bytesBelow(join(place.path, runs, "store", name)))
    expect(Object.keys(a!)).toEqual(Object.keys(b!))
    for (const [path, bytes] of Object.entries(a!)) expect(bytes.equals(b![path]!), path).toBe(true)
  }, 240_000)
})
