/**
 * `exp doctor`: what this machine has for experiments, and for what it lacks, what to do. Secrets are said to be there or not.
 */
import { execFile } from "node:child_process"
import { accessSync, constants, existsSync, statfsSync } from "node:fs"
import { createRequire } from "node:module"
import { availableParallelism, cpus, freemem, totalmem } from "node:os"
import { dirname, join, resolve } from "node:path"
import * as Config from "effect/Config"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { Engine } from "../engine/Engine.ts"
import { layer as engineLayer } from "../engine/Engines.ts"
import { allGpus } from "../engine/Gpu.ts"
import { findPython } from "../engine/torch/Environment.ts"
import { tokenFile } from "../hub/Token.ts"
import { packageRoot } from "../run/Code.ts"
import { bytes, table } from "./Table.ts"

export class Unfit extends Schema.TaggedError<Unfit>()("Unfit", { what: Schema.Array(Schema.String) }) {
  override get message() {
    return `something essential is broken: ${this.what.join(", ")}\n  hint: the lines above say what to do`
  }
}

export interface Finding {
  readonly what: string
  /** `broken`: no experiment can run before it is mended. */
  readonly state: "ok" | "absent" | "note" | "broken"
  readonly found: string
  readonly hint?: string
}

const TIMEOUT = 15_000

/** What a program prints; undefined when it is not there, fails or takes too long. */
const ask = (program: string, ...args: ReadonlyArray<string>): Effect.Effect<string | undefined> =>
  Effect.callback((resume) => {
    const child = execFile(
      program,
      [...args],
      { timeout: TIMEOUT, cwd: packageRoot, windowsHide: true },
      (error, out) => resume(Effect.succeed(error ? undefined : out.trim())),
    )
    return Effect.sync(() => child.kill())
  })

const node = Effect.sync((): Finding => {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number)
  const enough = major > 22 || (major === 22 && minor >= 19)
  return {
    what: "Node",
    state: enough ? "ok" : "broken",
    found: `${process.versions.node}, ${process.platform} ${process.arch}`,
    ...(!enough && { hint: "22.19 or newer is needed: `npm ci` installs 24 for this folder, start with `npx exp`" }),
  }
})

const packages = Effect.gen(function* () {
  const version = yield* ask("npm", "--version")
  const installed = existsSync(join(packageRoot, "node_modules/.package-lock.json"))
  return {
    what: "packages",
    state: installed && version !== undefined ? "ok" : "note",
    found: `${installed ? "installed" : "not installed by npm"}, npm ${version ?? "not found"}`,
    ...(!installed && { hint: "`npm ci` installs exactly what the lock file says" }),
  } satisfies Finding
})

const compiler = Effect.sync((): Finding => {
  try {
    const { version } = createRequire(import.meta.url)("typescript/package.json") as { readonly version: string }
    return { what: "TypeScript", state: "ok", found: version }
  } catch {
    return { what: "TypeScript", state: "broken", found: "not installed", hint: "`npm ci` installs it" }
  }
})

const engine = Effect.gen(function* () {
  const { inspect } = yield* Engine
  const { engine, backend, version, workers, matmulGflops } = yield* inspect
  return {
    what: `engine ${engine}`,
    state: "ok",
    found: `${backend} ${version}, ${workers} workers, ${matmulGflops.toFixed(0)} GFLOP/s in matrix products`,
  } satisfies Finding
}).pipe(
  Effect.provide(engineLayer),
  Effect.catch((error) =>
    Effect.succeed<Finding>({
      what: "engine",
      state: "broken",
      found: error.message.split("\n")[0]!,
      hint: "`npm ci` installs it again",
    }),
  ),
)

const torch = Effect.gen(function* () {
  const what = "engine torch"
  const found = findPython()
  if (found._tag === "Absent")
    return {
      what,
      state: "absent",
      found: found.problem,
      hint: `not needed for small models; ${found.hint}`,
    } satisfies Finding
  const { commandOf, examine } = yield* Effect.promise(() => import("../engine/torch/TorchEngine.ts"))
  const { hello, report } = yield* examine({ command: commandOf(found.program) })
  const gpus = (hello.gpus ?? []).map(
    ({ name, memoryBytes, bf16 }) => `${name}, ${bytes(memoryBytes)}${bf16 === false ? ", without bf16" : ""}`,
  )
  const speed = `${report.matmulGflops.toFixed(0)} GFLOP/s in matrix products`
  const facts = [
    `torch ${hello.torch} of ${found.from}`,
    ...(gpus.length > 0 ? gpus : [`on ${report.backend}`]),
    hello.cuda && `CUDA ${hello.cuda}`,
    hello.driver && `driver ${hello.driver}`,
    speed,
  ]
  return { what, state: "ok", found: facts.filter(Boolean).join(", ") } satisfies Finding
}).pipe(
  Effect.catch((error) => {
    const {
      problem,
      hint,
      lastLines = [],
    } = error._tag === "EngineFailed"
      ? { ...error, problem: `${error.doing}: ${error.problem}` }
      : { problem: error.message, hint: "`exp setup torch` makes its environment anew" }
    const found = [problem.split("\n")[0], ...lastLines.slice(-1)].join(": ")
    return Effect.succeed<Finding>({ what: "engine torch", state: "note", found, hint })
  }),
)

const native = Effect.sync((): Finding => {
  const { resolve } = createRequire(import.meta.url)
  const names = ["@tensorflow/tfjs-node-gpu", "@tensorflow/tfjs-node"].filter((name) => {
    try {
      return resolve(name) !== ""
    } catch {
      return false
    }
  })
  return {
    what: "native tfjs",
    state: names.length > 0 ? "ok" : "absent",
    found: names.length > 0 ? names.join(", ") : "not installed",
    ...(names.length === 0 && {
      hint: "not needed; `npm install --no-save @tensorflow/tfjs-node` (or `-gpu`) adds TensorFlow's own kernels",
    }),
  }
})

const python = Effect.gen(function* () {
  const program = Option.getOrElse(yield* Effect.option(Config.String("EXP_PYTHON")), () => "python3")
  const script = [
    "import json, platform",
    "from importlib.metadata import version, PackageNotFoundError",
    "def of(name):",
    "    try: return version(name)",
    "    except PackageNotFoundError: return None",
    "print(json.dumps([platform.python_version(), of('torch'), of('transformers')]))",
  ].join("\n")
  const said = yield* ask(program, "-c", script)
  if (said === undefined)
    return {
      what: "Python",
      state: "absent",
      found: `\`${program}\` does not answer`,
      hint: "needed to check releases in transformers, and by `exp setup torch`: install Python 3, or name one in EXP_PYTHON",
    } satisfies Finding
  const [version, torch, transformers] = JSON.parse(said) as [string, string | null, string | null]
  const missing = [torch === null && "torch", transformers === null && "transformers"].filter((name) => name !== false)
  return {
    what: "Python",
    state: missing.length === 0 ? "ok" : "absent",
    found: `${version}, torch ${torch ?? "not installed"}, transformers ${transformers ?? "not installed"}`,
    ...(missing.length > 0 && {
      hint: `\`${program} -m pip install ${missing.join(" ")}\`: to check releases in transformers`,
    }),
  } satisfies Finding
})

const gpu = Effect.gen(function* () {
  const gpus = yield* allGpus
  if (gpus.length === 0)
    return {
      what: "GPU",
      state: "absent",
      found: "no NVIDIA GPU that `nvidia-smi` knows of",
      hint: "not needed; the example runs on a CPU",
    } satisfies Finding
  const cards = gpus.map(({ name, driver, memoryBytes }) => `${name}, driver ${driver}, ${bytes(memoryBytes)}`)
  return { what: "GPU", state: "ok", found: cards.join("; ") } satisfies Finding
})

const memory = Effect.sync(
  (): Finding => ({
    what: "memory",
    state: "ok",
    found: `${bytes(freemem())} free of ${bytes(totalmem())}, ${availableParallelism()} cores (${cpus()[0]?.model.trim() || "unknown"})`,
  }),
)

/** The folder, or the nearest one above it that exists. */
const existing = (path: string): string => (existsSync(path) ? path : existing(dirname(path)))

const disk = (runs: string) =>
  Effect.sync((): Finding => {
    const folder = existing(runs)
    const { bavail, bsize } = statfsSync(folder)
    const free = bavail * bsize
    try {
      accessSync(folder, constants.W_OK)
    } catch {
      return {
        what: "disk",
        state: "broken",
        found: `${folder} cannot be written`,
        hint: "make it writable, or choose another with `--runs`",
      }
    }
    const little = free < 2e9
    return {
      what: "disk",
      state: little ? "note" : "ok",
      found: `${bytes(free)} free in the runs folder`,
      ...(little && { hint: "`exp gc` removes what no run and no tag leads to" }),
    }
  })

const git = Effect.gen(function* () {
  const version = yield* ask("git", "--version")
  if (version === undefined)
    return {
      what: "git",
      state: "absent",
      found: "not found",
      hint: "install it: releases say which commit made them",
    } satisfies Finding
  const short = version.replace("git version ", "")
  const status = yield* ask("git", "--no-optional-locks", "status", "--porcelain")
  if (status === undefined)
    return {
      what: "git",
      state: "note",
      found: `${short}; this copy of exp is no clone`,
      hint: "clone the repository, and releases say which commit made them",
    } satisfies Finding
  const commit = yield* ask("git", "rev-parse", "--short", "HEAD")
  const changed = status === "" ? 0 : status.split("\n").length
  return {
    what: "git",
    state: changed === 0 ? "ok" : "note",
    found: `${short}, at ${commit ?? "no commit"}, ${changed === 0 ? "clean" : `${changed} ${changed === 1 ? "file" : "files"} changed`}`,
    ...(changed > 0 && { hint: "commit before a run that matters: its provenance then names one commit" }),
  } satisfies Finding
})

/** Whether there is a token; what it is goes nowhere. */
const hub = Effect.gen(function* () {
  const given = Option.isSome(yield* Effect.option(Config.Redacted("HF_TOKEN")))
  const kept = existsSync(yield* tokenFile)
  return {
    what: "HF token",
    state: given || kept ? "ok" : "absent",
    found: given ? "present in HF_TOKEN" : kept ? "present, kept by `hf auth login`" : "absent",
    ...(!(given || kept) && { hint: "needed for uploads alone: set HF_TOKEN, or `hf auth login`" }),
  } satisfies Finding
})

const terminal = Effect.sync(
  (): Finding => ({
    what: "terminal",
    state: "ok",
    found: process.stdout.isTTY
      ? `${process.env["TERM"] ?? "unknown"}, ${process.stdout.columns} columns: progress is drawn`
      : "none: progress is written in lines",
  }),
)

const marks: Record<Finding["state"], string> = { ok: "ok", absent: "–", note: "!", broken: "BROKEN" }

const text = (findings: ReadonlyArray<Finding>): string => {
  const rows = table(
    ["", "", ""],
    findings.map(({ state, what, found }) => [marks[state], what, found]),
  )
    .split("\n")
    .slice(1)
  return findings
    .flatMap(({ hint }, index) => [rows[index]!, ...(hint === undefined ? [] : [`  hint: ${hint}`])])
    .join("\n")
}

export const doctor = Effect.fn("exp doctor")(function* (settings: { readonly runs: string; readonly json: boolean }) {
  // engines are measured alone, the rest side by side
  const measured = [yield* engine, yield* torch]
  const [first, second, third, ...rest] = yield* Effect.all(
    [node, packages, compiler, native, python, gpu, memory, disk(resolve(settings.runs)), git, hub, terminal],
    { concurrency: "unbounded" },
  )
  const findings: ReadonlyArray<Finding> = [first, second, third, ...measured, ...rest]
  yield* Console.log(settings.json ? JSON.stringify(findings) : text(findings))
  const broken = findings.filter(({ state }) => state === "broken").map(({ what }) => what)
  if (broken.length > 0) return yield* new Unfit({ what: broken })
})
