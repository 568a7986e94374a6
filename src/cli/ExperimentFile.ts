/**
 * From a path on the command line to an experiment and its plan: the file is checked by the TypeScript compiler, once per content of
 * it and of what it imports, then loaded, and its program recorded.
 *
 * The file is a program of the user's, with the user's rights: it may read, write and start what it likes, and nothing here is a
 * sandbox. What is promised is that its mistakes end in an error that names it. It runs at a stretch, under the time limit that V8
 * keeps in a thread of its own, so that a loop without end is one of these mistakes; it has nothing to wait for and leaves nothing
 * running; and `process.exit` in it would look like success.
 */
import { execFile } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { createRequire, registerHooks } from "node:module"
import { dirname, extname, join, relative, resolve } from "node:path"
import { pathToFileURL } from "node:url"
import { inspect, TextDecoder } from "node:util"
import { runInThisContext } from "node:vm"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { digest, sha256 } from "../model/Digest.ts"
import { type Experiment, isExperiment, type Plan, type PlanError, plan as planOf } from "../plan/Plan.ts"
import { codeDigest, packageRoot } from "../run/Code.ts"
import { ExperimentRefused, TypeErrors } from "./Errors.ts"

export interface ExperimentFile {
  /** As it was named. */
  readonly file: string
  readonly path: string
  readonly source: string
  readonly experiment: Experiment
}

/** Recording a hundred thousand steps takes about one second. */
const SECONDS = 3
const secondsAllowed = (): number => {
  const asked = Number(process.env["EXP_PLAN_SECONDS"])
  return asked > 0 && asked <= 86_400 ? asked : SECONDS
}
const MOST_BYTES = 1 << 20
const CHECK_SECONDS = 120
/** Characters of the compiler's. */
const MOST_OUTPUT = 1 << 24

/** Loads an experiment file. `cache` is a folder where passed type checks are remembered. */
export const load = Effect.fn("ExperimentFile.load")(function* (file: string, cache: string) {
  const path = resolve(file)
  const source = yield* read(file, path)
  yield* typeCheck(file, path, cache)
  return { file, path, source, experiment: yield* evaluate(file, path) } satisfies ExperimentFile
})

/** What a file says, if it can be an experiment at all. */
export const read = Effect.fnUntraced(function* (file: string, path: string) {
  const refuse = (problem: string, hint: string) => new ExperimentRefused({ file, problem, hint })
  const unreadable = (cause: unknown) =>
    refuse(`it cannot be read: ${wordsOf(cause)}`, "look at its permissions and at the disk")
  const found = yield* Effect.try({ try: () => statSync(path, { throwIfNoEntry: false }), catch: unreadable })
  if (found === undefined) return yield* refuse("there is no such file", "experiments lie in `experiments/`")
  if (!found.isFile()) return yield* refuse("it is no file", "name an experiment file, such as one of `experiments/`")
  if (extname(path) !== ".ts" && extname(path) !== ".mts")
    return yield* refuse("it is no TypeScript file", "an experiment is written in TypeScript: `name.ts`")
  if (found.size > MOST_BYTES)
    return yield* refuse(
      `it has ${(found.size / 1e6).toFixed(1)} MB`,
      "an experiment is a recipe of a few lines: lists belong into files that it reads",
    )
  const bytes = yield* Effect.try({ try: () => readFileSync(path), catch: unreadable })
  return yield* Effect.try({
    try: () => new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes),
    catch: () => refuse("it is not UTF-8 text", "save it as UTF-8, or name another file"),
  })
})

/** The experiment that a file exports. The file was type-checked, or need not be. */
export const evaluate = (file: string, path: string): Effect.Effect<Experiment, ExperimentRefused> =>
  Effect.gen(function* () {
    resolveFromAnywhere()
    const experiment = yield* atAStretch(() => {
      const { default: found } = createRequire(import.meta.url)(path) as { readonly default?: unknown }
      return isExperiment(found) ? found : undefined
    }).pipe(Effect.mapError((cause) => refusal(file, path, cause)))
    if (experiment !== undefined) return experiment
    return yield* new ExperimentRefused({
      file,
      problem: "its default export is not an experiment",
      hint: 'write `export default experiment("name", function* () { … })`',
    })
  })

/** What a loaded experiment asks for; whatever its program does wrong is an error that names the file. */
export const plan = (
  { file, path, experiment }: Pick<ExperimentFile, "file" | "path" | "experiment">,
  given: Readonly<Record<string, string>>,
): Effect.Effect<Plan, ExperimentRefused> =>
  atAStretch(() => {
    const exit = Effect.runSyncExit(planOf(experiment, given))
    if (Exit.isSuccess(exit)) return exit.value
    throw Cause.squash(exit.cause)
  }).pipe(Effect.mapError((cause) => refusal(file, path, cause)))

class Exited extends Error {}

/** What a script of another file can reach: a script has no arguments. */
const RUN = Symbol.for("exp/cli/atAStretch")

const TIMED_OUT = "ERR_SCRIPT_EXECUTION_TIMEOUT"

/** Something that goes on when the file has come to its end. */
class LeftRunning extends Error {}

/**
 * Runs what is the user's: all of it, what it put off until later included, or an error; and no longer than is allowed.
 *
 * Trap: within a microtask the others are not run on demand, so it begins with a task of its own. And what is thrown while they run, or
 * cut off wherever it was, leaves Node's stack of asynchronous contexts as it then stood; only an exception that nobody catches clears
 * it.
 */
const atAStretch = <A>(run: () => A): Effect.Effect<A, unknown> =>
  Effect.callback((resume) => {
    setImmediate(() => {
      let later = false
      try {
        const result = underGuard(run, () => {
          later = true
        })
        resume(Effect.succeed(result))
      } catch (cause) {
        if (!later && codeOf(cause) !== TIMED_OUT) return resume(Effect.fail(cause))
        process.prependOnceListener("uncaughtException", () => resume(Effect.fail(cause)))
        throw cause
      }
    })
  })

/** `onLater`: it came to its end, and what it put off begins. */
const underGuard = <A>(run: () => A, onLater: () => void): A => {
  const { exit } = process
  process.exit = (code) => {
    throw new Exited(`it calls \`process.exit(${code ?? ""})\``)
  }
  const thrownLater: Array<unknown> = []
  const keep = (cause: unknown) => void thrownLater.push(cause)
  process.on("unhandledRejection", keep).on("uncaughtException", keep)
  Object.assign(globalThis, {
    [RUN]: () => {
      const result = run()
      onLater()
      runPutOff()
      return result
    },
  })
  const before = process.getActiveResourcesInfo()
  try {
    const result = runInThisContext('globalThis[Symbol.for("exp/cli/atAStretch")]()', {
      timeout: Math.ceil(secondsAllowed() * 1000),
    }) as A
    if (thrownLater.length > 0) throw thrownLater[0]
    const left = added(before, process.getActiveResourcesInfo())
    if (left !== undefined) throw new LeftRunning(`it leaves something running: ${left}`)
    return result
  } finally {
    Reflect.deleteProperty(globalThis, RUN)
    process.off("unhandledRejection", keep).off("uncaughtException", keep)
    process.exit = exit
  }
}

/** Promises and `nextTick` of what was just run, here and now: one that never ends is then under the same time limit. */
const runPutOff = (): void => {
  // the only way to ask for it; where a later Node has none, such a loop is not found
  const { _tickCallback: run } = process as { readonly _tickCallback?: () => void }
  run?.call(process)
}

/** The first thing that keeps the process from ending and did not before, in Node's word for it. */
const added = (before: ReadonlyArray<string>, after: ReadonlyArray<string>): string | undefined => {
  const rest = [...before]
  return after.find((name) => {
    const at = rest.indexOf(name)
    if (at >= 0) rest.splice(at, 1)
    return at < 0
  })
}

/** What went wrong while the file was loaded or its program recorded. */
const refusal = (file: string, path: string, cause: unknown): ExperimentRefused => {
  const refuse = (problem: string, hint: string) =>
    new ExperimentRefused({ file, ...lineIn(path, cause), problem, hint })
  if (tagOf(cause) === "PlanError") {
    const { step, problem, hint } = cause as PlanError
    return refuse(`${step}: ${problem}`, hint)
  }
  if (cause instanceof Exited) return refuse(cause.message, "leave it out: what is wrong can be thrown as an `Error`")
  if (cause instanceof LeftRunning)
    return refuse(cause.message, "a program says which steps there are, at once; what takes time is a step")
  if (Cause.isAsyncFiberError(cause)) {
    cause.fiber.interruptUnsafe()
    return refuse("its program waits for something", "a program says which steps there are; what takes time is a step")
  }
  switch (codeOf(cause)) {
    case TIMED_OUT:
      return refuse(
        `it was not done after ${secondsAllowed()} s`,
        "look for a loop that never ends; `EXP_PLAN_SECONDS=60` gives a very large experiment more time",
      )
    case "ERR_REQUIRE_ASYNC_MODULE":
      return refuse(
        "it, or what it imports, waits at its top level",
        "take the `await` out: `readFileSync` reads at once",
      )
    case "ERR_MODULE_NOT_FOUND":
    case "MODULE_NOT_FOUND":
      return refuse(wordsOf(cause), "an experiment file imports from `exp` and from its own folder")
    default:
      return refuse(wordsOf(cause), "mend the file: it has to run to its end to say which steps there are")
  }
}

const tagOf = (cause: unknown): unknown =>
  typeof cause === "object" && cause !== null && "_tag" in cause ? cause._tag : undefined
const codeOf = (cause: unknown): unknown => (cause instanceof Error && "code" in cause ? cause.code : undefined)

/** On one line and not longer than one, whatever was thrown. */
const wordsOf = (cause: unknown): string => {
  const words =
    cause instanceof Error && typeof cause.message === "string" && cause.message !== ""
      ? cause.message
      : `it throws ${inspect(cause, { depth: 0 })}`
  const [first] = words.split("\n")
  return first!.length > 300 ? `${first!.slice(0, 300)}…` : first!
}

/** The innermost line of the file that was being done when an error was made. Stripping types moves no line. */
const lineIn = (path: string, cause: unknown): { readonly line?: number } => {
  if (!(cause instanceof Error) || typeof cause.stack !== "string") return {}
  for (const name of [pathToFileURL(path).href, path]) {
    const at = cause.stack.indexOf(`${name}:`)
    const line = at < 0 ? Number.NaN : Number.parseInt(cause.stack.slice(at + name.length + 1), 10)
    if (Number.isInteger(line)) return { line }
  }
  return {}
}

/** The file and all it imports by relative path. */
const reachable = (path: string, seen = new Set<string>()): ReadonlySet<string> => {
  if (seen.has(path) || !statSync(path, { throwIfNoEntry: false })?.isFile()) return seen
  seen.add(path)
  const source = readFileSync(path, "utf8")
  for (const [, specifier] of source.matchAll(/(?:from|import)\s*\(?\s*["'](\.[^"']+)["']/g))
    reachable(resolve(dirname(path), specifier!), seen)
  return seen
}

const typeCheck = Effect.fn("typeCheck")(function* (file: string, path: string, cache: string) {
  const refuse = (problem: string, hint: string) => new ExperimentRefused({ file, problem, hint })
  const { passed, project } = yield* Effect.try({
    try: () => prepareCheck(path, cache),
    catch: (cause) => refuse(`it cannot be type-checked: ${wordsOf(cause)}`, "`--runs` names a folder to write in"),
  })
  if (project === undefined) return
  const compiler = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin/tsc")
  const output = yield* Effect.callback<string, ExperimentRefused>((resume) => {
    const child = execFile(
      process.execPath,
      [compiler, "-p", project, "--pretty", "false"],
      { cwd: dirname(path), maxBuffer: MOST_OUTPUT, timeout: 1000 * CHECK_SECONDS },
      (error, stdout, stderr) => {
        // its own complaints it ends with a status; whatever else ended it has another word in that place, or none
        if (error === null || typeof error.code === "number") return resume(Effect.succeed(`${stdout}${stderr}`))
        if (stdout.length >= MOST_OUTPUT) return resume(Effect.succeed(stdout))
        const problem = error.killed
          ? `the compiler was not done after ${CHECK_SECONDS} s`
          : `the compiler could not come to its end: ${error.signal ?? error.message}`
        const hint = error.killed ? "look for types without end" : "look at this machine's memory and disk, then again"
        return resume(Effect.fail(refuse(problem, hint)))
      },
    )
    return Effect.sync(() => child.kill())
  }).pipe(Effect.ensuring(Effect.sync(() => rmSync(project, { force: true }))))
  if (output !== "") return yield* new TypeErrors({ file: relative(process.cwd(), path), text: output.trimEnd() })
  // where it cannot be noted, it is checked again
  yield* Effect.ignore(Effect.try(() => writeFileSync(passed, "")))
})

/** Where it is noted that a check was passed, and the compiler's project file where it was not yet. */
const prepareCheck = (path: string, cache: string): { readonly passed: string; readonly project?: string } => {
  const files = [...reachable(path)].sort()
  const base = JSON.parse(readFileSync(join(packageRoot, "tsconfig.json"), "utf8"))
  const fingerprint = digest({
    files: files.map((one) => sha256(readFileSync(one))),
    code: codeDigest(),
    options: base.compilerOptions,
  })
  const passed = join(cache, fingerprint)
  if (existsSync(passed)) return { passed }
  mkdirSync(cache, { recursive: true })
  // paths: an experiment outside this package finds `exp` and its types as one inside it does;
  // bundler: what Node runs as a module need not lie beside a `package.json` that says so
  const project = join(cache, `${fingerprint}.${process.pid}.tsconfig.json`)
  writeFileSync(
    project,
    JSON.stringify({
      compilerOptions: {
        ...base.compilerOptions,
        module: "preserve",
        moduleResolution: "bundler",
        typeRoots: [join(packageRoot, "node_modules/@types")],
        paths: {
          exp: [join(packageRoot, "src/index.ts")],
          effect: [join(packageRoot, "node_modules/effect/dist/index.d.ts")],
        },
      },
      files: [path],
    }),
  )
  return { passed, project }
}

let hooked = false
/** Lets an experiment file that lies outside this package import `exp`, and `effect` for step kinds of its own, all the same. */
const resolveFromAnywhere = (): void => {
  if (hooked) return
  hooked = true
  const inside = `${pathToFileURL(join(packageRoot, "src")).href}/`
  const entry = `${inside}index.ts`
  registerHooks({
    resolve: (specifier, context, next) => {
      if (specifier === "exp") return { url: entry, format: "module-typescript", shortCircuit: true }
      const outside = !context.parentURL?.startsWith(inside)
      if (outside && specifier === "effect") return next(specifier, { ...context, parentURL: entry })
      const found = next(specifier, context)
      return outside && found.url.endsWith(".ts") ? { ...found, format: "module-typescript" } : found
    },
  })
}
