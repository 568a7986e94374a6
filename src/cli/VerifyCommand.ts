/**
 * `exp verify`: is a release what it says it is. Exit status: 0 when nothing is wrong, 1 when something is, 2 when it could not be looked
 * at (no such folder, an unreadable key, a hub that does not answer).
 */
import { existsSync, mkdirSync, statSync } from "node:fs"
import { basename, dirname, join, resolve } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Runtime from "effect/Runtime"
import * as Schema from "effect/Schema"
import { knownKeys, readPublicKey } from "../release/Keys.ts"
import { packageRoot } from "../run/Code.ts"
import { Reporter } from "../run/Reporter.ts"
import { runPlan, until } from "../run/Run.ts"
import * as RunFolder from "../run/RunFolder.ts"
import { resolveRun } from "../run/Tags.ts"
import { Store } from "../store/Store.ts"
import type { Origin } from "../verification/Download.ts"
import { plainly } from "../verification/Finding.ts"
import type { Rerun } from "../verification/Replay.ts"
import { type Report, verify as verifyRelease } from "../verification/Verify.ts"
import { NotFound } from "./Errors.ts"
import { planText } from "./PlanText.ts"
import { open, services, setValues } from "./Project.ts"
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

/** Runs the experiment of a release up to its training, in a store of its own, on texts that the user has. */
const rerunIn =
  (runs: string, corpus: string | undefined, say: (text: string) => void): Rerun =>
  (release, parameters) =>
    Effect.gen(function* () {
      if (corpus === undefined) return undefined
      const scratch = join(resolve(runs), ".cache", "replay")
      mkdirSync(scratch, { recursive: true })
      const path = join(release, "experiment.ts")
      const asReleased = Object.entries(parameters).map(([name, value]) => `${name}=${value}`)
      const there = yield* open(path, asReleased, scratch)
      // where texts lie is a parameter of the experiment by custom, not by rule
      const texts = Object.hasOwn(there.plan.parameters, "corpus") ? [`corpus=${resolve(corpus)}`] : []
      const project = yield* open(path, [...asReleased, ...texts], scratch)
      const { file, plan } = project
      const nodes = until(plan.nodes, "train")
      if (nodes === undefined) return undefined
      yield* runPlan(nodes, {
        jobs: 1,
        facts: {
          experiment: plan.experiment,
          experimentFile: "experiment.ts",
          experimentSource: file.source,
          planText: planText(plan.nodes),
          parameters: setValues(project),
          startedAt: new Date().toISOString(),
          repository: packageRoot,
        },
      }).pipe(
        Effect.provideService(
          Reporter,
          Reporter.of({
            emit: (event) => {
              if (event._tag !== "StepProgress") return
              const { done, total, unit } = event.progress
              say(`making it again: ${event.label}, ${done} of ${total} ${unit}`)
            },
          }),
        ),
        Effect.provide(Store.layer(join(scratch, "store"))),
      )
      return join(scratch, "store")
    })

/** One line that changes, on a terminal only. */
const progress = () => {
  const terminal = process.stderr.isTTY
  return {
    say: (text: string) => void (terminal && process.stderr.write(`\r\u001b[K${text}`)),
    done: () => void (terminal && process.stderr.write("\r\u001b[K")),
  }
}

export const verify = Effect.fn("exp verify")(function* (settings: VerifySettings) {
  const { say, done } = progress()
  const report = yield* Effect.gen(function* () {
    const keys = { known: yield* knownKeys(), demanded: yield* Effect.forEach(settings.key, readPublicKey) }
    const located: { readonly folder: string; readonly origin?: Origin } = yield* locate(settings, say)
    return yield* verifyRelease(located.folder, {
      origin: located.origin,
      keys,
      store: join(resolve(settings.runs), "store"),
      replay: settings.replay ? { fromNothing: rerunIn(settings.runs, settings.corpus, say) } : "no",
      corpus: settings.corpus,
      say,
    }).pipe(Effect.provide(services(settings.runs)))
  }).pipe(
    Effect.scoped,
    Effect.mapError(({ message }) => new CouldNotVerify({ problem: message })),
    Effect.ensuring(Effect.sync(done)),
  )
  yield* Console.log(settings.json ? JSON.stringify(report) : text(report))
  if (report.wrong > 0)
    return yield* new NotAsReleased({ release: report.name ?? basename(report.folder), wrong: report.wrong })
})
