/**
 * Limits that the system really sets: `limits.ts <full|readonly|descriptors> <folder>`. `folder` is a disk of 3 MB for the first two;
 * for the third the process may open 128 files. Prints one trial a line of what was tried, as a JSON list.
 */
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import { join } from "node:path"
import { cleanFinals, recover, type Trial } from "./trials.ts"
import { attempt, wrongIn } from "./world.ts"

const [limit, folder] = process.argv.slice(2)
const runs = join(folder!, "runs")
const trials: Array<Trial & { readonly error?: string }> = []

const note = async (error: string | undefined): Promise<void> => {
  const wrong = await wrongIn(runs)
  trials.push({ struck: error !== undefined, wrong, lost: [], manual: [], ...(error !== undefined && { error }) })
}

/** The limit is lifted: the same command completes, with the same bytes. */
const lifted = async (): Promise<void> => {
  trials.push({ struck: false, ...(await recover(runs)) })
}

/** Kilobytes left on the disk: what a finished store takes is about 1,280. */
const sizes = (count: number): ReadonlyArray<number> =>
  count <= 10
    ? [0, 4, 16, 40, 400, 900, 1150, 1200, 1230, 1260]
    : Array.from({ length: count }, (_, n) => Math.round((1276 * n) / (count - 1)))

if (limit === "full") {
  await cleanFinals()
  const ballast = join(folder!, "ballast")
  // from no room at all to nearly enough: wherever it ends, it goes on from there
  for (const free of sizes(Number(process.env["EXP_FAULT_SIZES"] ?? 10))) {
    for (const again of [true, false]) {
      if (again) fs.rmSync(runs, { recursive: true, force: true })
      fs.rmSync(ballast, { force: true })
      fs.mkdirSync(runs, { recursive: true })
      const { bavail, bsize } = fs.statfsSync(folder!)
      fs.writeFileSync(ballast, Buffer.alloc(Math.max(bavail * bsize - free * 1024, 0)))
      await note(await attempt(runs))
    }
    fs.rmSync(ballast, { force: true })
    await lifted()
  }
}

if (limit === "readonly") {
  const remount = (how: string) => execFileSync("mount", ["-o", `remount,${how}`, folder!])
  await cleanFinals()
  fs.mkdirSync(runs)
  remount("ro")
  await note(await attempt(runs, { journal: false }))
  remount("rw")
  await lifted()
  remount("ro")
  // all that is there can be found, hashed and handed on
  const cached = await attempt(runs, { journal: false })
  trials.push({ struck: false, wrong: await wrongIn(runs), lost: [], manual: cached === undefined ? [] : [cached] })
}

if (limit === "descriptors") {
  await cleanFinals()
  for (let left = 0; left < 12; left += 2) {
    fs.rmSync(runs, { recursive: true, force: true })
    fs.mkdirSync(runs, { recursive: true })
    const taken: Array<number> = []
    try {
      for (;;) taken.push(fs.openSync("/dev/null", "r"))
    } catch {
      for (const descriptor of taken.splice(0, left)) fs.closeSync(descriptor)
    }
    const error = await attempt(runs)
    for (const descriptor of taken) fs.closeSync(descriptor)
    await note(error)
    await lifted()
  }
}

process.stdout.write(JSON.stringify(trials))
