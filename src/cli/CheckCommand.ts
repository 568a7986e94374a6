/**
 * `exp check`: is the store whole, and what lies about in it.
 */
import { resolve } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { check as checkStore, type StoreReport } from "../run/Check.ts"
import { services } from "./Project.ts"
import { bytes, count, table } from "./Table.ts"

export class StoreNotWhole extends Schema.TaggedError<StoreNotWhole>()("StoreNotWhole", {
  damaged: Schema.Int,
  lost: Schema.Int,
  unreadable: Schema.optionalKey(Schema.String),
  repaired: Schema.Boolean,
  command: Schema.optionalKey(Schema.String),
}) {
  override get message() {
    const said = [
      this.damaged > 0 && `${count(this.damaged)} damaged`,
      this.lost > 0 && `${count(this.lost)} not there`,
      this.unreadable !== undefined && "a journal cannot be read",
    ].filter(Boolean)
    if (this.damaged + this.lost === 0) return `the runs are not whole: ${this.unreadable}`
    const remake = `\`${this.command ?? "exp run"}\` makes ${this.damaged + this.lost === 1 ? "it" : "them"} anew`
    return `the store is not whole: ${said.join(", ")}\n  hint: ${
      this.damaged > 0 && !this.repaired ? `\`exp check --repair\` sets what is damaged aside, then ${remake}` : remake
    }`
  }
}

export interface CheckSettings {
  readonly runs: string
  readonly readData: boolean
  readonly repair: boolean
  readonly json: boolean
}

const some = (names: ReadonlyArray<string>): string =>
  names.length <= 2 ? names.join(", ") : `${names[0]} and ${names.length - 1} more`

const text = (report: StoreReport): string => {
  const wrong = new Set(report.damaged.map(({ artifact }) => artifact))
  const lines = [
    `${count(report.artifacts)} artifacts, ${bytes(report.bytes)}: ${count(report.artifacts - wrong.size)} whole, ${
      report.read ? "every byte hashed" : "by size, times and inode"
    }`,
  ]
  if (report.damaged.length > 0) {
    const moved = report.damaged.some(({ movedTo }) => movedTo !== undefined)
    lines.push(
      "",
      table(
        ["damaged", "what is wrong", ...(moved ? [""] : []), "made anew by"],
        report.damaged.map(({ artifact, problem, movedTo, command }) => [
          artifact,
          problem,
          ...(moved ? [movedTo === undefined ? "" : "set aside"] : []),
          command ?? "the experiment that made it",
        ]),
      ),
    )
  }
  if (report.lost.length > 0)
    lines.push(
      "",
      table(
        ["not there", "named by", "made anew by"],
        report.lost.map(({ artifact, namedBy, command }) => [
          artifact,
          some(namedBy),
          command ?? "the experiment that made it",
        ]),
      ),
    )
  if (report.unfinished.length > 0)
    lines.push(
      "",
      table(
        ["unfinished", "size", ""],
        report.unfinished.map(({ name, bytes: size, state }) => [
          name,
          bytes(size),
          {
            "being made": "being made now",
            resumable: "resumable: `exp run` goes on from it",
            finished: "its artifact is in the store: `exp gc` removes it",
            "not resumable": "nothing can go on from it: `exp gc` removes it",
            "inputs gone": "what it was made from is gone: `exp gc` removes it",
          }[state],
        ]),
        ["left", "right"],
      ),
    )
  if (report.setAside.length > 0)
    lines.push(
      "",
      table(
        ["set aside", "size", ""],
        report.setAside.map(({ name, bytes: size }) => [name, bytes(size), "was damaged: `exp gc` removes it"]),
        ["left", "right"],
      ),
    )
  if (report.strange.length > 0) lines.push("", `does not belong here: ${report.strange.join(", ")}`)
  return lines.join("\n")
}

export const check = Effect.fn("exp check")(function* (settings: CheckSettings) {
  const report = yield* checkStore(resolve(settings.runs), {
    ...settings,
    ...(settings.runs !== "runs" && { where: settings.runs }),
  }).pipe(Effect.provide(services(settings.runs)))
  yield* Console.log(settings.json ? JSON.stringify(report) : text(report))
  const { damaged, lost } = report
  if (damaged.length === 0 && lost.length === 0 && report.unreadable === undefined) return
  const commands = new Set([...damaged, ...lost].map(({ command }) => command))
  const [command] = commands
  return yield* new StoreNotWhole({
    damaged: damaged.length,
    lost: lost.length,
    repaired: settings.repair,
    ...(report.unreadable !== undefined && { unreadable: report.unreadable }),
    ...(commands.size === 1 && command !== undefined && { command }),
  })
})
