/**
 * `runs/<yyyymmddHHMM>_<name>/`: what one execution of one experiment did, readable without our code.
 *
 * | file             | what                                                                  |
 * |------------------|-----------------------------------------------------------------------|
 * | `experiment.ts`  | the experiment file as it was                                         |
 * | `plan.txt`, `plan.json` | the recorded plan                                              |
 * | `journal.ndjson` | events with their times: append-only                                  |
 * | `run.json`       | when, where, parameters, how it ended                                 |
 * | `lock`           | held while it runs, empty                                             |
 * | `artifacts/`     | links into the store, by step                                         |
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, symlinkSync } from "node:fs"
import { basename, join, relative } from "node:path"
import { isPlatform } from "../store/Failed.ts"
import { replace } from "../store/Files.ts"
import { append, settle } from "../store/Journal.ts"
import type { RunEvent } from "./Reporter.ts"
import { withoutSecrets } from "./Secrets.ts"

export interface RunRecord {
  readonly experiment: string
  readonly file: string
  readonly parameters: Readonly<Record<string, unknown>>
  readonly startedAt: string
  readonly finishedAt: string | null
  readonly outcome: "running" | "finished" | "failed" | "interrupted"
  readonly releases: ReadonlyArray<string>
  readonly steps: ReadonlyArray<{
    readonly step: string
    readonly label: string
    readonly artifact: string
    readonly made: boolean
  }>
  readonly error?: string
}

const stamp = (date: Date): string =>
  [date.getFullYear(), date.getMonth() + 1, date.getDate(), date.getHours(), date.getMinutes()]
    .map((part, index) => String(part).padStart(index === 0 ? 4 : 2, "0"))
    .join("")

/** Makes a folder of its own: `-2`, `-3` when the name is taken; `mkdir` decides. */
export const create = (runs: string, experiment: string, date: Date): string => {
  mkdirSync(runs, { recursive: true })
  const base = join(runs, `${stamp(date)}_${experiment}`)
  for (let n = 1; ; n++) {
    const folder = n === 1 ? base : `${base}-${n}`
    try {
      mkdirSync(folder)
      return folder
    } catch (cause) {
      if (!(cause instanceof Error && "code" in cause && cause.code === "EEXIST")) throw cause
    }
  }
}

/** What it says is never ahead of the journal: that is on disk first. */
export const writeRecord = (folder: string, record: RunRecord): void => {
  settle(join(folder, "journal.ndjson"))
  replace(join(folder, "run.json"), `${JSON.stringify(withoutSecrets(record), null, 2)}\n`)
}

/** Held by the process that a run belongs to: killed, it can say nothing any more. */
export const lockOf = (folder: string): string => join(folder, "lock")

export const readRecord = (folder: string): RunRecord | undefined => {
  try {
    return JSON.parse(readFileSync(join(folder, "run.json"), "utf8"))
  } catch {
    return undefined
  }
}

/** Runs of a folder, oldest first. */
export const list = (
  runs: string,
): ReadonlyArray<{ readonly name: string; readonly folder: string; readonly record: RunRecord }> =>
  !statSync(runs, { throwIfNoEntry: false })?.isDirectory()
    ? []
    : readdirSync(runs)
        .sort()
        .flatMap((name) => {
          const folder = join(runs, name)
          const record = readRecord(folder)
          return record === undefined ? [] : [{ name: basename(folder), folder, record }]
        })
        .sort((a, b) => Date.parse(a.record.startedAt) - Date.parse(b.record.startedAt))

export const journal = (folder: string, event: RunEvent): void => {
  if (event._tag !== "StepProgress" && event._tag !== "StepDevice")
    append(join(folder, "journal.ndjson"), { at: new Date().toISOString(), ...withoutSecrets(event) })
}

/**
 * A link with a readable name to an artifact in the store; relative, so that the runs folder may be moved. A courtesy: where the system
 * has no links, nothing is lost.
 */
export const link = (folder: string, name: string, target: string): void => {
  const links = join(folder, "artifacts")
  const path = join(links, name.replaceAll(/[^\p{L}\p{N}._+-]+/gu, "_").slice(0, 60))
  try {
    mkdirSync(links, { recursive: true })
    if (!existsSync(path)) symlinkSync(relative(links, target), path)
  } catch (cause) {
    if (!isPlatform(cause)) throw cause
  }
}
