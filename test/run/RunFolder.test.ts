import * as fs from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "vitest"
import * as RunFolder from "../../src/run/RunFolder.ts"
import { temporaryFolder } from "../temporary.ts"

const noon = new Date(2026, 0, 2, 12, 5)
const record = (startedAt: Date): RunFolder.RunRecord => ({
  experiment: "small",
  file: "small.ts",
  parameters: {},
  startedAt: startedAt.toISOString(),
  finishedAt: null,
  outcome: "running",
  releases: [],
  steps: [],
})

describe("the folder of a run", () => {
  it("is named by local minute and experiment, and numbered when the name is taken", () => {
    const runs = temporaryFolder()
    const names = [1, 2, 3].map(() => RunFolder.create(runs, "small", noon).slice(runs.length + 1))
    assert.deepStrictEqual(names, ["202601021205_small", "202601021205_small-2", "202601021205_small-3"])
  })

  it("is listed by when the run began, unreadable ones left out", () => {
    const runs = temporaryFolder()
    const folders = Array.from({ length: 11 }, (_, n) => {
      const folder = RunFolder.create(runs, "small", noon)
      RunFolder.writeRecord(folder, record(new Date(noon.getTime() + n * 1000)))
      return folder
    })
    fs.truncateSync(join(folders[3]!, "run.json"), 20)
    assert.deepStrictEqual(
      RunFolder.list(runs).map(({ folder }) => folder),
      folders.filter((_, n) => n !== 3),
    )
  })

  it("links to artifacts so that the runs folder may be moved", () => {
    const runs = temporaryFolder()
    const artifact = join(runs, "store/decay-0123")
    fs.mkdirSync(artifact, { recursive: true })
    fs.writeFileSync(join(artifact, "file"), "weights")
    const folder = RunFolder.create(runs, "small", noon)
    RunFolder.link(folder, "decay 300→400", artifact)
    const moved = `${runs}-moved`
    fs.renameSync(runs, moved)
    try {
      const [name] = fs.readdirSync(join(moved, "202601021205_small/artifacts"))
      assert.strictEqual(name, "decay_300_400")
      assert.strictEqual(fs.readFileSync(join(moved, "202601021205_small/artifacts", name!, "file"), "utf8"), "weights")
    } finally {
      fs.renameSync(moved, runs)
    }
  })
})
