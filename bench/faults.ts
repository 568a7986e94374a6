/**
 * What faults do to a store: every kind of them, and a table of what was lost, wrong or left to do by hand.
 *
 *     npx node bench/faults.ts [--kills=1000] [--cuts=200] [--crowds=200] [--flips=5000] [--sizes=100]
 *
 * "lost": finished work that was gone or done again, or more unfinished work than was under way. "wrong": artifacts in the store
 * that are not whole, or not the bytes of a run that nothing happened to. "by hand": the same command again did not complete, or a
 * process hung or stayed. The trials are those of `test/faults`.
 */
import { parseArgs } from "node:util"
import { FAILPOINTS } from "../src/store/Failpoint.ts"
import {
  everyOperation,
  isClean,
  mayMount,
  type Trial,
  trialOfCrowd,
  trialOfError,
  trialOfKill,
  trialOfPowerCut,
  trialOfRandomKills,
  trialsOfRot,
  underLimit,
} from "../test/faults/trials.ts"

const { values } = parseArgs({
  options: {
    kills: { type: "string", default: "1000" },
    cuts: { type: "string", default: "200" },
    crowds: { type: "string", default: "200" },
    flips: { type: "string", default: "5000" },
    sizes: { type: "string", default: "100" },
  },
})
process.env["EXP_FAULT_SIZES"] = values.sizes

const row = (
  kind: string,
  trials: number | string,
  lost: number | string,
  wrong: number | string,
  manual: number | string,
) =>
  console.log(`${kind.padEnd(44)}${[trials, lost, wrong, manual].map((figure) => String(figure).padStart(9)).join("")}`)

let failed = false
const report = (kind: string, trials: ReadonlyArray<readonly [string, Trial]>, count = trials.length): void => {
  const having = (what: "lost" | "wrong" | "manual") => trials.filter(([, trial]) => trial[what].length > 0).length
  row(kind, count, having("lost"), having("wrong"), having("manual"))
  for (const [name, trial] of trials)
    if (!isClean(trial)) {
      failed = true
      console.log(`  ${name}: ${[...trial.lost, ...trial.wrong, ...trial.manual].join("; ")}`)
    }
}

const each = async (names: ReadonlyArray<string>, trial: (name: string) => Promise<Trial>) => {
  const done: Array<readonly [string, Trial]> = []
  for (const name of names) done.push([name, await trial(name)])
  return done
}

row("fault", "trials", "lost", "wrong", "by hand")
const numbers = (count: number) => Array.from({ length: count }, (_, n) => String(n + 1))

report("one flipped bit, times as they were", await trialsOfRot(numbers(Number(values.flips)).map(Number)))

for (const action of ["throw", "ENOSPC", "EIO"] as const) {
  const trials: Array<readonly [string, Trial]> = []
  for (const at of FAILPOINTS)
    for (const nth of [1, 2]) trials.push([`${at}:${action}:${nth}`, await trialOfError({ at, action, nth })])
  report(`${action} at a named place`, trials)
  const every = await everyOperation(action, (nth) => trialOfError({ action, nth }))
  report(`${action} at the n-th operation`, every.bad, every.operations)
}
report("kill -9 at a named place", await each(FAILPOINTS, (at) => trialOfKill({ EXP_FAILPOINT: `${at}:kill:2` })))
const killed = await everyOperation("kill", (nth) => trialOfKill({ EXP_FAIL_NTH: `${nth}:kill` }))
report("kill -9 at the n-th operation", killed.bad, killed.operations)
report(
  "kill -9 at random, also while recovering",
  await each(numbers(Number(values.kills)), (n) => trialOfRandomKills(Number(n))),
)
report(
  "the power is cut: unsynced files torn",
  await each(numbers(Number(values.cuts)), (n) => trialOfPowerCut(Number(n))),
)
report(
  "2 to 8 processes at once, one asleep",
  await each(numbers(Number(values.crowds)), (n) => trialOfCrowd(Number(n))),
)
for (const [limit, kind] of [
  ["full", "a disk that is full"],
  ["readonly", "a disk that is read-only"],
  ["descriptors", "no more open files"],
] as const) {
  const skipped = limit === "descriptors" ? undefined : mayMount()
  if (skipped === undefined)
    report(
      kind,
      underLimit(limit).map((trial, n) => [`${kind} ${n}`, trial] as const),
    )
  else row(kind, skipped, "", "", "")
}
process.exitCode = failed ? 1 : 0
