/**
 * The experiment of a release, done again from nothing up to its training on texts that the user has: for `exp verify --replay`.
 *
 * It is a program that came with the release. All it is asked for is its plan, in a process of its own: with an environment of a few
 * harmless variables and none of the user's tokens and keys, a home and a working folder of its own, and its words passed on as words.
 * That process is ended when this one ends, whatever ends it. It still has the user's rights on files and network: this keeps the
 * environment's secrets from it, and is no sandbox.
 *
 * The steps of the plan are then done here, by kinds of steps that are ours: the program computes nothing that it is judged by.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { mkdirSync, readFileSync } from "node:fs"
import { join, resolve } from "node:path"
import type { Readable } from "node:stream"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as steps from "../index.ts"
import type { Node } from "../plan/Plan.ts"
import type { Definition } from "../plan/Step.ts"
import { packageRoot } from "../run/Code.ts"
import { Reporter, type RunEvent } from "../run/Reporter.ts"
import { runPlan, until } from "../run/Run.ts"
import { Store } from "../store/Store.ts"
import { plainly } from "../verification/Finding.ts"
import type { Rerun } from "../verification/Replay.ts"

export class RerunFailed extends Schema.TaggedError<RerunFailed>()("RerunFailed", {
  problem: Schema.String,
}) {
  override get message() {
    return `the experiment of the release gives no plan to go by: ${this.problem}\n  hint: \`exp plan\` on its \`experiment.ts\` shows more`
  }
}

/** What a program needs to be started, and nothing that anybody would call a secret. */
const HARMLESS =
  /^(?:PATH|LANG|LC_\w+|TZ|TERM|SystemRoot|SystemDrive|windir|PATHEXT|NUMBER_OF_PROCESSORS|EXP_PLAN_SECONDS)$/

/** Everything that would be written somewhere of the user's goes below `home`. */
export const cleanEnvironment = (environment: NodeJS.ProcessEnv, home: string): NodeJS.ProcessEnv => ({
  ...Object.fromEntries(Object.entries(environment).filter(([name]) => HARMLESS.test(name))),
  HOME: home,
  USERPROFILE: home,
  TMPDIR: home,
  TEMP: home,
  TMP: home,
  XDG_CONFIG_HOME: join(home, ".config"),
  XDG_CACHE_HOME: join(home, ".cache"),
  NO_COLOR: "1",
})

/**
 * Ends a process whose parent is gone, however it went; in a thread of its own, for a program may be busy without end. (Windows tells
 * nobody that a parent is gone: there the program ends when its time for a plan is over.)
 */
const TIED = `data:text/javascript,${encodeURIComponent(
  `import { Worker } from "node:worker_threads"
new Worker('setInterval(() => process.ppid === ${process.pid} || process.kill(process.pid, "SIGKILL"), 200)', { eval: true }).unref()`,
)}`

const LONGEST_LINE = 1 << 22
const [LAST_LINES, MOST_ANSWERS] = [5, 8]

/** Of a stranger's words, as much as people read. */
const shortened = (line: string): string => plainly(line.length > 400 ? `${line.slice(0, 400)}…` : line)

/** A stranger's lines, one by one; what has no end is cut where no plan is so long. */
const lines = (stream: Readable, told: (line: string) => void) => {
  let rest = ""
  stream.setEncoding("utf8")
  stream.on("data", (chunk: string) => {
    const parts = (rest + chunk).split("\n")
    rest = parts.pop()!.slice(0, LONGEST_LINE)
    for (const line of parts) if (line !== "") told(line)
  })
  stream.on("end", () => rest !== "" && told(rest))
}

interface Said {
  readonly code: number | null
  readonly out: ReadonlyArray<string>
  /** The last lines of the other stream. */
  readonly last: ReadonlyArray<string>
}

/** Runs `planner.ts` with these arguments; `told` of each line as it comes. Killed with the fiber that waits for it. */
const planner = (
  args: ReadonlyArray<string>,
  home: string,
  told: (line: string) => void,
): Effect.Effect<Said, RerunFailed> =>
  Effect.callback((resume) => {
    const child: ChildProcess = spawn(
      process.execPath,
      ["--import", TIED, join(packageRoot, "src/cli/planner.ts"), ...args],
      {
        cwd: home,
        env: cleanEnvironment(process.env, home),
        stdio: ["ignore", "pipe", "pipe"],
      },
    )
    const out: Array<string> = []
    const last: Array<string> = []
    lines(child.stdout!, (line) => {
      if (line.startsWith('{"')) out.push(line)
      else told(shortened(line))
      if (out.length > MOST_ANSWERS) out.shift()
    })
    lines(child.stderr!, (line) => {
      last.push(shortened(line))
      if (last.length > LAST_LINES) last.shift()
      told(shortened(line))
    })
    child.on("error", ({ message }) => resume(Effect.fail(new RerunFailed({ problem: message }))))
    child.on("close", (code) => resume(Effect.succeed({ code, out, last })))
    return Effect.sync(() => child.kill("SIGKILL"))
  })

const StepRef = Schema.Union([
  Schema.Struct({ _tag: Schema.Literal("Output"), step: Schema.String, part: Schema.optionalKey(Schema.String) }),
  Schema.Struct({ _tag: Schema.Literal("Item"), of: Schema.String, part: Schema.optionalKey(Schema.String) }),
])
const Planned = Schema.Struct({
  experiment: Schema.String,
  parameters: Schema.Record(Schema.String, Schema.Unknown),
  steps: Schema.Array(
    Schema.Struct({
      id: Schema.String,
      label: Schema.String,
      kind: Schema.String,
      params: Schema.Record(Schema.String, Schema.Unknown),
      inputs: Schema.Record(Schema.String, Schema.Array(StepRef)),
    }),
  ),
})
type Planned = typeof Planned.Type

const decodePlan = Schema.decodeUnknownOption(Schema.fromJsonString(Planned))

const hasDefinition = (value: unknown): value is { readonly definition: Definition } =>
  typeof value === "function" && "definition" in value

/** Kinds of steps that are ours. One of the program's own is no part of a release that can be made again from here. */
const kinds: ReadonlyMap<string, Definition> = new Map(
  Object.values<unknown>(steps)
    .filter(hasDefinition)
    .map(({ definition }) => [definition.kind, definition]),
)

/** The steps up to the training as our own kinds do them; undefined where one of them is no kind of ours, or there is no training. */
const stepsOf = (plan: Planned): ReadonlyArray<Node> | undefined => {
  const nodes = plan.steps.flatMap(({ kind, ...rest }): ReadonlyArray<Node> => {
    const definition = kinds.get(kind)
    return definition === undefined ? [] : [{ ...rest, definition, forecast: {} }]
  })
  const needed = until(nodes, "train")
  const ids = new Set(needed?.map(({ id }) => id))
  const isWhole = needed?.every(({ inputs }) =>
    Object.values(inputs).every((refs) => refs.every((ref) => ref._tag === "Output" && ids.has(ref.step))),
  )
  return isWhole ? needed : undefined
}

export interface RerunSettings {
  /** Folder of runs; what is made again lies in its `.cache`. */
  readonly runs: string
  /** Folder of texts. */
  readonly corpus: string | undefined
  /** Told how far it is. */
  readonly say: (text: string) => void
  /** Told what the program says. */
  readonly pass: (text: string) => void
}

export const rerun =
  ({ runs, corpus, say, pass }: RerunSettings): Rerun =>
  (release, parameters) =>
    Effect.gen(function* () {
      if (corpus === undefined) return undefined
      const home = join(resolve(runs), ".cache", "replay")
      mkdirSync(home, { recursive: true })
      const experiment = join(release, "experiment.ts")
      say("asking the experiment of the release for its plan")
      const planned = Effect.fnUntraced(function* (values: Readonly<Record<string, unknown>>) {
        const set = Object.entries(values).map(([name, value]) => `${name}=${value}`)
        const { code, out, last } = yield* planner([experiment, home, ...set], home, pass)
        const plan = code === 0 ? decodePlan(out.at(-1)) : Option.none()
        if (Option.isSome(plan)) return plan.value
        return yield* new RerunFailed({ problem: plainly(last.join("\n")) || `it ended with ${code ?? "a signal"}` })
      })
      const first = yield* planned(parameters)
      // where texts lie is a parameter of the experiment by custom, not by rule
      const hasCorpus = Object.hasOwn(first.parameters, "corpus")
      const plan = hasCorpus ? yield* planned({ ...parameters, corpus: resolve(corpus) }) : first
      const nodes = stepsOf(plan)
      if (nodes === undefined)
        return yield* new RerunFailed({ problem: "its plan has no training that rests on steps of `exp` alone" })
      // it need not be what `exp` wrote: a program can print what it likes
      const strange = nodes.find(({ definition, params, inputs }) => !definition.accepts?.(params, inputs))
      if (strange !== undefined)
        return yield* new RerunFailed({
          problem: `its plan gives \`${strange.definition.kind}\` what that kind of step does not take`,
        })
      const emit = (event: RunEvent) => {
        if (event._tag !== "StepProgress") return
        const { done, total, unit } = event.progress
        say(`making it again: ${plainly(event.label)}, ${done} of ${total} ${unit}`)
      }
      yield* runPlan(nodes, {
        jobs: 1,
        facts: {
          experiment: plan.experiment,
          experimentFile: "experiment.ts",
          experimentSource: readFileSync(experiment, "utf8"),
          planText: "",
          parameters: {},
          startedAt: new Date().toISOString(),
          repository: packageRoot,
        },
      }).pipe(Effect.provideService(Reporter, Reporter.of({ emit })), Effect.provide(Store.layer(join(home, "store"))))
      return join(home, "store")
    })
