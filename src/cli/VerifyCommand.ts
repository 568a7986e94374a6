/**
 * `exp verify`: is a release what it says it is. Exit status: 0 when nothing is wrong, 1 when something is, 2 when it could not be looked
 * at (no such folder, an unreadable key, a hub that does not answer), or when this machine could not do a check that was asked for.
 */
import { existsSync, statSync } from "node:fs"
import { basename, dirname, join, resolve } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Runtime from "effect/Runtime"
import * as Schema from "effect/Schema"
import { type Asked, choose, makerIn } from "../engine/Engines.ts"
import type { EngineChoice } from "../model/EngineChoice.ts"
import { isRepository } from "../model/Repository.ts"
import { knownKeys, readPublicKey } from "../release/Keys.ts"
import * as RunFolder from "../run/RunFolder.ts"
import { resolveRun } from "../run/Tags.ts"
import type { Origin } from "../verification/Download.ts"
import { load } from "../verification/Fault.ts"
import { isUndone, plainly } from "../verification/Finding.ts"
import { type Report, verify as verifyRelease } from "../verification/Verify.ts"
import { NotFound } from "./Errors.ts"
import { services } from "./Project.ts"
import { noRelease, releasesOf } from "./Releases.ts"
import { table } from "./Table.ts"

export class NotAsReleased extends Schema.TaggedError<NotAsReleased>()("NotAsReleased", {
  release: Schema.String,
  wrong: Schema.Int,
}) {
  override get message() {
    return `${this.release}: ${this.wrong} ${this.wrong === 1 ? "thing is" : "things are"} wrong\n  hint: do not use it; download it again, or ask whoever released it`
  }
}

/** This machine failed, and not the release: what was found is no more than a part. */
export class NotAllDone extends Schema.TaggedError<NotAllDone>()("NotAllDone", {
  release: Schema.String,
  checks: Schema.Array(Schema.String),
}) {
  override get message() {
    const { checks } = this
    return `${this.release}: ${checks.join(", ")} could not be checked here\n  hint: nothing was found against it, and not all was looked at; the table says what is missing`
  }
  override get [Runtime.errorExitCode]() {
    return 2
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
  /** Of a keyless signature: who must have made it, and by whose word. Both or neither. */
  readonly identity: string | undefined
  readonly issuer: string | undefined
  readonly trustedRoot: string | undefined
  readonly corpus: string | undefined
  readonly replay: boolean
  readonly endpoint: string | undefined
  /** By default the engine that made the release, where it is installed. */
  readonly engines: Asked
  readonly runs: string
  readonly json: boolean
}

const MARK = { ok: "ok", wrong: "WRONG", skipped: "–", undone: "FAILED" } as const

const text = ({ name, folder, origin, findings, ok, wrong, skipped, undone }: Report): string => {
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
    `${plainly(name ?? folder)}: ${ok} ok, ${wrong} wrong, ${skipped} skipped${undone > 0 ? `, ${undone} could not be done here` : ""}`,
  ].join("\n")
}

const isFolder = (path: string): boolean => existsSync(path) && statSync(path).isDirectory()

/** The folder that a release folder, the name of a run, or a repository of the Hub stands for. */
const locate = Effect.fnUntraced(function* (settings: VerifySettings, say: (text: string) => void) {
  const { target } = settings
  const runs = resolve(settings.runs)
  if (isFolder(target) && RunFolder.readRecord(resolve(target)) === undefined) return { folder: target }
  const [repository = "", revision = "main", ...more] = target.split("@")
  if (isRepository(repository) && /^\S+$/.test(revision) && more.length === 0 && !existsSync(target)) {
    const { download } = yield* load(() => import("../verification/Download.ts"))
    return yield* download({ repository, revision, endpoint: settings.endpoint, say })
  }
  const { name, folder, record } = yield* Effect.mapError(resolveRun(runs, target), noRelease(target))
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
  const maker = makerIn(join(folder, "training_config.json"))
  return maker?.engine === "torch" ? { ...maker, engine: "auto" } : maker
}

/** An issuer may say of anybody that they are whoever they say: an identity is one only with its issuer. */
const identityAsked = ({ identity, issuer }: VerifySettings) =>
  identity === undefined && issuer === undefined
    ? Effect.succeed(undefined)
    : identity !== undefined && issuer !== undefined
      ? Effect.succeed({ name: identity, issuer })
      : Effect.fail(
          new NotFound({
            what: `\`--${identity === undefined ? "issuer" : "identity"}\` asks for half of a name`,
            hint: "give `--identity` and `--issuer`: who must have signed, and by whose word that is known",
          }),
        )

/** Texts that were asked for and are nowhere are a slip of whoever asks: nothing must be called looked at that was not. */
const textsAsked = ({ corpus }: VerifySettings) =>
  corpus === undefined || existsSync(corpus)
    ? Effect.void
    : Effect.fail(
        new NotFound({
          what: `there is no file or folder \`${corpus}\``,
          hint: "`--corpus` names the folder of the texts that the release was made from",
        }),
      )

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
    const keyless = { demanded: yield* identityAsked(settings), trustedRoot: settings.trustedRoot }
    yield* textsAsked(settings)
    const located: { readonly folder: string; readonly origin?: Origin } = yield* locate(settings, say)
    const engine = yield* choose(settings.engines, madeBy(located.folder))
    return yield* verifyRelease(located.folder, {
      origin: located.origin,
      keys,
      keyless,
      store: join(resolve(settings.runs), "store"),
      replay: settings.replay
        ? {
            // every kind of step comes with it
            fromNothing: (release, parameters) =>
              Effect.flatMap(
                load(() => import("./Rerun.ts")),
                ({ rerun }) => rerun({ ...settings, say, pass })(release, parameters),
              ),
          }
        : "no",
      corpus: settings.corpus,
      say,
    }).pipe(Effect.provide(services(settings.runs, engine)))
  }).pipe(
    Effect.scoped,
    // what is thrown here is a fault of ours: nothing that a check threw comes so far
    Effect.catchDefect((defect) => Effect.fail(defect instanceof Error ? defect : new Error(String(defect)))),
    Effect.mapError((error) =>
      "_tag" in error && error._tag === "ListingHostile" ? error : new CouldNotVerify({ problem: error.message }),
    ),
    Effect.ensuring(Effect.sync(done)),
  )
  yield* Console.log(settings.json ? JSON.stringify(report) : text(report))
  if (report.wrong > 0)
    return yield* new NotAsReleased({ release: report.name ?? basename(report.folder), wrong: report.wrong })
  if (report.undone > 0) {
    const checks = [...new Set(report.findings.filter(isUndone).map(({ check }) => check))]
    return yield* new NotAllDone({ release: report.name ?? basename(report.folder), checks })
  }
})
