/**
 * `exp verify`: is a release what it says it is. Exit status: 0 when nothing is wrong, 1 when something is, 2 when it could not be looked
 * at (no such folder, an unreadable key, a hub that does not answer).
 */
import { existsSync, readFileSync, statSync } from "node:fs"
import { basename, dirname, join, resolve } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Runtime from "effect/Runtime"
import * as Schema from "effect/Schema"
import { type Asked, choose, makerOf } from "../engine/Engines.ts"
import type { EngineChoice } from "../model/EngineChoice.ts"
import { knownKeys, readPublicKey } from "../release/Keys.ts"
import * as RunFolder from "../run/RunFolder.ts"
import { resolveRun } from "../run/Tags.ts"
import type { Origin } from "../verification/Download.ts"
import { plainly } from "../verification/Finding.ts"
import { type Report, verify as verifyRelease } from "../verification/Verify.ts"
import { NotFound } from "./Errors.ts"
import { services } from "./Project.ts"
import { rerun } from "./Rerun.ts"
import { table } from "./Table.ts"

export class NotAsReleased extends Schema.TaggedError<NotAsReleased>()("NotAsReleased", {
  release: Schema.String,
  wrong: Schema.Int,
}) {
  override get message() {
    return `${this.release}: ${this.wrong} ${this.wrong === 1 ? "thing is" : "things are"} wrong\n  hint: do not use it; download it again, or ask whoever released it`
  }
}

/** Nothing was found, for or against. */
export class CouldNotVerify extends Schema.TaggedError<CouldNotVerify>()("CouldNotVerify", {
  problem: Schema.String,
}) {
  override get message() {
    return this.problem
  }
  override get [Runtime.errorExitCode]() {
    return 2
  }
}

export interface VerifySettings {
  readonly target: string
  readonly key: ReadonlyArray<string>
  readonly corpus: string | undefined
  readonly replay: boolean
  readonly endpoint: string | undefined
  /** By default the engine that made the release, where it is installed. */
  readonly engines: Asked
  readonly runs: string
  readonly json: boolean
}

const MARK = { ok: "ok", wrong: "WRONG", skipped: "–" } as const

const text = ({ name, folder, origin, findings, ok, wrong, skipped }: Report): string => {
  let before = ""
  const rows = findings.map(({ check, what, state, detail }) => {
    const first = check === before ? "" : check
    before = check
    return [first, MARK[state], plainly(what), plainly(detail)]
  })
  return [
    table(["check", "", "what", ""], rows),
    "",
    ...(origin === undefined ? [] : [`${origin.repository} at commit ${origin.commit}`]),
    `${plainly(name ?? folder)}: ${ok} ok, ${wrong} wrong, ${skipped} skipped`,
  ].join("\n")
}

/** Release folders of a run, where they lie now. */
const releasesOf = (runs: string, record: RunFolder.RunRecord): ReadonlyArray<string> => {
  const inStore = record.steps.map(({ artifact }) => join(runs, "store", artifact, "release")).filter(existsSync)
  return inStore.length > 0 ? inStore : record.releases.filter(existsSync)
}

const isFolder = (path: string): boolean => existsSync(path) && statSync(path).isDirectory()

/** The folder that a release folder, the name of a run, or a repository of the Hub stands for. */
const locate = Effect.fnUntraced(function* (settings: VerifySettings, say: (text: string) => void) {
  const { target } = settings
  const runs = resolve(settings.runs)
  if (isFolder(target) && RunFolder.readRecord(resolve(target)) === undefined) return { folder: target }
  if (/^[A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*(?:@[^@\s]+)?$/.test(target) && !existsSync(target)) {
    const { download } = yield* Effect.promise(() => import("../verification/Download.ts"))
    const [repository, revision = "main"] = target.split("@") as [string, string?]
    return yield* download({ repository, revision, endpoint: settings.endpoint, say })
  }
  const { name, folder, record } = yield* resolveRun(runs, target)
  const releases = releasesOf(dirname(folder), record)
  if (releases[0] === undefined)
    return yield* new NotFound({ what: `the run ${name} has no release`, hint: "`exp show` tells what it has" })
  if (releases.length > 1)
    return yield* new NotFound({
      what: `the run ${name} has ${releases.length} releases`,
      hint: `name one of them: ${releases.join(", ")}`,
    })
  return { folder: releases[0] }
})

/** What a release says of its engine is believed so far as to choose one; where torch is not installed, tfjs measures within tolerance. */
const madeBy = (folder: string): EngineChoice | undefined => {
  try {
    const { engine } = JSON.parse(readFileSync(join(folder, "training_config.json"), "utf8"))
    const maker = makerOf({ name: String(engine.name), precision: String(engine.precision) })
    return maker.engine === "torch" ? { ...maker, engine: "auto" } : maker
  } catch {
    return undefined
  }
}

/** One line that changes, on a terminal only. */
const progress = () => {
  const terminal = process.stderr.isTTY
  return {
    say: (text: string) => void (terminal && process.stderr.write(`\r\u001b[K${text}`)),
    /** What somebody else's program says: on lines of its own, beside the report. */
    pass: (text: string) => void process.stderr.write(`${terminal ? "\r\u001b[K" : ""}experiment: ${text}\n`),
    done: () => void (terminal && process.stderr.write("\r\u001b[K")),
  }
}

export const verify = Effect.fn("exp verify")(function* (settings: VerifySettings) {
  const { say, pass, done } = progress()
  const report = yield* Effect.gen(function* () {
    const keys = { known: yield* knownKeys(), demanded: yield* Effect.forEach(settings.key, readPublicKey) }
    const located: { readonly folder: string; readonly origin?: Origin } = yield* locate(settings, say)
    const engine = yield* choose(settings.engines, madeBy(located.folder))
    return yield* verifyRelease(located.folder, {
      origin: located.origin,
      keys,
      store: join(resolve(settings.runs), "store"),
      replay: settings.replay ? { fromNothing: rerun({ ...settings, say, pass }) } : "no",
      corpus: settings.corpus,
      say,
    }).pipe(Effect.provide(services(settings.runs, engine)))
  }).pipe(
    Effect.scoped,
    Effect.mapError(({ message }) => new CouldNotVerify({ problem: message })),
    Effect.ensuring(Effect.sync(done)),
  )
  yield* Console.log(settings.json ? JSON.stringify(report) : text(report))
  if (report.wrong > 0)
    return yield* new NotAsReleased({ release: report.name ?? basename(report.folder), wrong: report.wrong })
})
