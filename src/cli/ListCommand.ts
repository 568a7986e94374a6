/**
 * `exp ls` and `exp show`: what has been run.
 */
import { dirname, join, relative, resolve } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import { type Reckoning, reckon } from "../run/forecast/Reckoning.ts"
import * as RunFolder from "../run/RunFolder.ts"
import { resolveRun } from "../run/Tags.ts"
import { isLocked } from "../store/Lock.ts"
import { summary } from "./Outcome.ts"
import { renderReckoning } from "./ReckoningText.ts"
import { releasesOf } from "./Releases.ts"
import { duration, table } from "./Table.ts"

const seconds = (record: Pick<RunFolder.RunRecord, "startedAt" | "finishedAt">): string =>
  record.finishedAt === null ? "" : duration((Date.parse(record.finishedAt) - Date.parse(record.startedAt)) / 1000)

/** As its record has it, but for one that was killed: its record says for good that it is running. */
const outcomeOf = (folder: string, { outcome }: RunFolder.RunRecord) =>
  outcome !== "running"
    ? Effect.succeed(outcome)
    : Effect.map(isLocked(RunFolder.lockOf(folder)), (alive) => (alive ? outcome : "killed"))

export const ls = Effect.fn("exp ls")(function* (runs: string, json: boolean) {
  const all = yield* Effect.forEach(RunFolder.list(resolve(runs)), ({ name, folder, record }) =>
    Effect.map(outcomeOf(folder, record), (outcome) => ({ name, record: { ...record, outcome } })),
  )
  if (json) return yield* Console.log(JSON.stringify(all.map(({ name, record }) => ({ name, ...record }))))
  if (all.length === 0)
    return yield* Console.log(`no runs in \`${runs}\`\n  hint: start one with \`exp run experiments/small-en-it.ts\``)
  yield* Console.log(
    table(
      ["run", "outcome", "steps", "made", "took", "parameters"],
      all.map(({ name, record }) => [
        name,
        record.outcome,
        String(record.steps.length),
        String(record.steps.filter((step) => step.made).length),
        seconds(record),
        Object.entries(record.parameters)
          .map(([key, value]) => `${key}=${value}`)
          .join(" "),
      ]),
      ["left", "left", "right", "right", "right"],
    ),
  )
})

export const show = Effect.fn("exp show")(function* (runs: string, wanted: string, json: boolean) {
  const { name, folder, record: written } = yield* resolveRun(resolve(runs), wanted)
  const record = { ...written, outcome: yield* outcomeOf(folder, written) }
  const reckoning = reckoningOf(folder)
  if (json) return yield* Console.log(JSON.stringify({ name, folder, ...record, ...(reckoning && { reckoning }) }))
  // a run that is named by its folder may be of other runs than these
  const its = dirname(folder)
  const pathOf = (artifact: string) => join(its, "store", artifact)
  yield* Console.log(
    [
      `${name}: ${record.outcome}${record.error === undefined ? "" : ` (${record.error})`}`,
      `${record.file}, started ${record.startedAt}${record.finishedAt === null ? "" : `, took ${seconds(record)}`}`,
      "",
      table(
        ["", "step", "artifact"],
        record.steps.map((step) => [step.made ? "made" : "reused", step.label, step.artifact]),
      ),
      ...summary(
        record.steps.map((step) => step.artifact),
        pathOf,
      ),
      ...(reckoning === undefined ? [] : ["", renderReckoning(reckoning)]),
      ...releasesOf(its, written).map((release) => `\nrelease  ${relative(process.cwd(), release)}`),
    ].join("\n"),
  )
})

/** A run whose journal has rotted is shown without: `exp check` is who tells of that. */
const reckoningOf = (folder: string): Reckoning | undefined => {
  try {
    return reckon(folder)
  } catch {
    return undefined
  }
}
