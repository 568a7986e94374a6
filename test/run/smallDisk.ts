/**
 * Runs on a disk that really is small: 100 MB, mounted on the folder given. Each step says how much it will write, and writes it. Prints
 * what came of each run as a JSON list.
 */
import { readdirSync } from "node:fs"
import { join } from "node:path"
import { experiment } from "../../src/plan/Plan.ts"
import { blob } from "./blob.ts"
import { run } from "./running.ts"

const store = join(process.argv[2]!, "store")

const blobs = (jobs: number, ...sizes: ReadonlyArray<number>) =>
  run(
    store,
    experiment("blobs", function* () {
      for (const megabytes of sizes) yield* blob({ megabytes })
    }),
    { jobs },
  )

const outcomes = []
for (const [jobs, ...sizes] of [
  [1, 20, 17],
  [1, 20, 15],
  [2, 1, 2],
] as const) {
  const ran = await blobs(jobs, ...sizes)
  outcomes.push({
    made: ran.made,
    cached: ran.cached,
    error: ran.error?.message.replaceAll(store, "<store>"),
    written: readdirSync(store).filter((name) => name.startsWith("blob-")).length,
  })
}
process.stdout.write(JSON.stringify(outcomes))
