/**
 * The hero as a newcomer meets it: a fresh clone, `npm ci`, `exp run`; then the same again with nothing to do, and with only the
 * sweep changed. Wall times, with the machine beside them.
 *
 *     npx node bench/hero.ts [--keep]
 */
import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { availableParallelism, cpus, tmpdir, totalmem } from "node:os"
import { join, resolve } from "node:path"

const root = resolve(import.meta.dirname, "..")
const folder = mkdtempSync(join(tmpdir(), "exp-hero-"))
const clone = join(folder, "exp")

const timed = (
  command: string,
  args: ReadonlyArray<string>,
  cwd: string,
): { readonly seconds: number; readonly output: string } => {
  const began = performance.now()
  const { status, stdout, stderr } = spawnSync(command, args, { cwd, encoding: "utf8", maxBuffer: 1 << 28 })
  const seconds = (performance.now() - began) / 1000
  if (status !== 0) throw new Error(`${command} ${args.join(" ")} ended with ${status}\n${stdout}\n${stderr}`)
  return { seconds, output: stdout }
}

const hero = "experiments/small-en-it.ts"
const events = (
  output: string,
): ReadonlyArray<{ readonly event: string; readonly label: string; readonly seconds: number }> =>
  output
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))

const rows: Array<readonly [string, string]> = []
const row = (what: string, figure: string): void => {
  rows.push([what, figure])
  console.log(`${what.padEnd(52)} ${figure}`)
}

console.log(
  `${cpus()[0]?.model}, ${availableParallelism()} cores, ${(totalmem() / 2 ** 30).toFixed(0)} GiB, Node ${process.version}`,
)
timed("git", ["clone", "--quiet", root, clone], folder)
const install = timed("npm", ["ci"], clone)
row("npm ci", `${install.seconds.toFixed(1)} s`)
const first = timed("npx", ["exp", "run", hero, "--json"], clone)
row("exp run, everything to do", `${first.seconds.toFixed(1)} s`)
row("from a fresh clone to a release", `${(install.seconds + first.seconds).toFixed(1)} s`)
for (const { label, seconds } of events(first.output).filter(({ event }) => event === "StepFinished"))
  row(`  ${label}`, `${seconds.toFixed(1)} s`)
const again = timed("npx", ["exp", "run", hero, "--json"], clone)
row("exp run, nothing to do", `${again.seconds.toFixed(2)} s`)
const plan = timed("npx", ["exp", "plan", hero], clone)
row("exp plan", `${plan.seconds.toFixed(2)} s`)
const source = readFileSync(join(clone, hero), "utf8")
const changed = source.replace(/temperature: \[[^\]]*\]/, "temperature: [0.75]")
if (changed === source) throw new Error("the hero has no sweep temperature to change")
writeFileSync(join(clone, hero), changed)
const sweep = timed("npx", ["exp", "run", hero, "--json"], clone)
const made = events(sweep.output).filter(({ event }) => event === "StepFinished")
row(
  `exp run, only the sweep changed (made: ${made.map(({ label }) => label).join(", ")})`,
  `${sweep.seconds.toFixed(1)} s`,
)
if (process.argv.includes("--keep")) console.log(`kept in ${folder}`)
else rmSync(folder, { recursive: true, force: true })
