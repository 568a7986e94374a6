/** One run of the small plan in a process of its own: `child.ts <runs> [world|short]`. Says `begun` and then its error, if any. */
import { enableCompileCache } from "node:module"

enableCompileCache()
const { attempt } = await import("./world.ts")
process.stdout.write("begun\n")
const error = await attempt(process.argv[2]!, { plan: process.argv[3] === "short" ? "short" : "world" })
if (error !== undefined) {
  process.stdout.write(`${error}\n`)
  process.exitCode = 1
}
