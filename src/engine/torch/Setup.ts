/**
 * Makes the Python environment of the worker: by uv where there is one, else by `venv` and pip. Whole or absent: `ready.json` is written
 * when a worker in it has said its hello, and what was half made is made again from nothing.
 */
import { execFile, spawn } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, rmSync, statfsSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { replace } from "../../store/Files.ts"
import { withLock } from "../../store/Lock.ts"
import type { EngineFailed } from "../Engine.ts"
import { environmentFolder, packageFolder, pythonIn, type Ready, readReady, requirementsDigest } from "./Environment.ts"
import { commandOf, greet } from "./TorchEngine.ts"

export class SetupFailed extends Schema.TaggedError<SetupFailed>()("SetupFailed", {
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `setting up torch: ${this.problem}\n  hint: ${this.hint}`
  }
}

export interface SetupOptions {
  /** PyTorch without CUDA libraries, on a machine with an NVIDIA GPU too. */
  readonly cpu: boolean
  /** To make it with; by default `python3`, or what uv chooses. */
  readonly python: string | undefined
  /** A package index to take PyTorch from: for Linux its wheels without CUDA libraries are not on the usual one. */
  readonly index: string | undefined
  readonly say: (text: string) => void
}

const LEAST = { cpu: 2e9, cuda: 8e9 }

const fail = (problem: string, hint: string) => new SetupFailed({ problem, hint })

/** The first line that a program prints; undefined when it is not there or fails. */
const ask = (program: string, ...args: ReadonlyArray<string>): Effect.Effect<string | undefined> =>
  Effect.callback((resume) => {
    const child = execFile(program, [...args], { timeout: 30_000, windowsHide: true }, (error, out) =>
      resume(Effect.succeed(error ? undefined : out.trim().split("\n")[0])),
    )
    return Effect.sync(() => child.kill())
  })

/** Its output goes where people look, and not where machines read. */
const run = (program: string, args: ReadonlyArray<string>, hint: string): Effect.Effect<void, SetupFailed> =>
  Effect.callback((resume) => {
    const child = spawn(program, args, {
      // pip and uv obey a user's configuration, a Python none of his packages
      env: { ...process.env, PYTHONNOUSERSITE: "1" },
      stdio: ["ignore", 2, 2],
      windowsHide: true,
    })
    child.on("error", (cause) => resume(Effect.fail(fail(`\`${program}\` does not start: ${cause.message}`, hint))))
    child.on("close", (code, signal) =>
      resume(
        code === 0
          ? Effect.void
          : Effect.fail(fail(`\`${program} ${args.join(" ")}\` ended with ${signal ?? `exit code ${code}`}`, hint)),
      ),
    )
    return Effect.sync(() => child.kill())
  })

/** What `engines/torch/pyproject.toml` asks for: the least Python, and the strings of its list of dependencies. */
const requirements = (): { readonly python: string; readonly packages: ReadonlyArray<string> } => {
  const text = readFileSync(join(packageFolder, "pyproject.toml"), "utf8")
  const [, python = "3"] = /^requires-python = ">=([\d.]+)"/m.exec(text) ?? []
  const [, list = ""] = /^dependencies = \[([^\]]*)\]/m.exec(text) ?? []
  return { python, packages: [...list.matchAll(/"([^"]+)"/g)].map(([, requirement]) => requirement!) }
}

const hasGpu = Effect.map(ask("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"), (said) => Boolean(said))

/** The Python to begin with, when uv does not choose one. */
const pythonHere = Effect.fnUntraced(function* (asked: string | undefined, least: string) {
  const hint = `install Python ${least} or newer with \`venv\`, name one with \`--python\`, or install uv`
  for (const program of asked === undefined ? ["python3", "python"] : [asked]) {
    const version = yield* ask(program, "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])")
    if (version === undefined) continue
    const [major = 0, minor = 0] = version.split(".").map(Number)
    if (major === 3 && minor >= Number(least.split(".")[1] ?? 0)) return program
    return yield* fail(`\`${program}\` is Python ${version}`, hint)
  }
  return yield* fail(`${asked === undefined ? "no Python" : `\`${asked}\``} answers, or it has no \`venv\``, hint)
})

const make = Effect.fnUntraced(function* (folder: string, options: SetupOptions) {
  const { say } = options
  const needed = requirements()
  const venv = join(folder, "venv")
  const python = pythonIn(folder)
  const uv = (yield* ask("uv", "--version")) !== undefined
  const withoutCuda = options.cpu || (process.platform === "linux" && !(yield* hasGpu))
  // uv knows the index of each kind of wheel; pip takes what the usual one has, and that is with CUDA
  const backend = uv && options.index === undefined && process.platform === "linux"
  const cuda = process.platform === "linux" && !(withoutCuda && (backend || options.index !== undefined))
  if (withoutCuda && cuda)
    say(
      "PyTorch comes with CUDA libraries it has no use for here; with uv installed, or an `--index` without, it does not",
    )
  const { bavail, bsize } = statfsSync(folder)
  const least = cuda ? LEAST.cuda : LEAST.cpu
  if (bavail * bsize < least)
    return yield* fail(
      `${folder} has ${(bavail * bsize * 1e-9).toFixed(1)} GB free, it takes about ${least * 1e-9}`,
      "make room, or set XDG_DATA_HOME to a folder on another disk",
    )
  say(
    `downloads PyTorch ${cuda ? "with CUDA libraries, 5 GB once unpacked" : "for the CPU, some hundred MB"}, into ${folder}`,
  )

  rmSync(venv, { recursive: true, force: true })
  const hint = "look at what it said above; `exp setup torch` begins anew"
  if (uv) yield* run("uv", ["venv", "--python", options.python ?? `>=${needed.python}`, venv], hint)
  else yield* run(yield* pythonHere(options.python, needed.python), ["-m", "venv", venv], hint)
  const install = (args: ReadonlyArray<string>) =>
    uv
      ? run("uv", ["pip", "install", "--python", python, ...args], hint)
      : run(python, ["-m", "pip", "install", "--disable-pip-version-check", ...args], hint)
  // that index has PyTorch and what it needs; the rest comes from where it always does
  if (options.index !== undefined)
    yield* install(["--index-url", options.index, ...needed.packages.filter((one) => /^torch\b/.test(one))])
  yield* install([...(backend ? ["--torch-backend", withoutCuda ? "cpu" : "auto"] : []), ...needed.packages])

  const hello = yield* greet({ command: commandOf(python), startSeconds: 300 })
  const ready: Ready = {
    requirements: requirementsDigest(),
    torch: hello.torch,
    python: hello.python ?? "",
    cpu: options.cpu,
  }
  replace(join(folder, "ready.json"), `${JSON.stringify(ready, null, 2)}\n`)
  return { hello, made: true }
})

/** The environment as it has to be; one that is there is asked for its hello alone. */
export const setup = (options: SetupOptions) =>
  Effect.suspend(() => {
    const folder = environmentFolder()
    mkdirSync(folder, { recursive: true })
    const renew = Effect.suspend(() => {
      rmSync(join(folder, "ready.json"), { force: true })
      return make(folder, options)
    }).pipe(Effect.onError(() => Effect.sync(() => rmSync(join(folder, "venv"), { recursive: true, force: true }))))
    const ensure = Effect.gen(function* () {
      const ready = readReady(folder)
      const fits = ready?.requirements === requirementsDigest() && (ready.cpu || !options.cpu)
      if (!fits || options.python !== undefined || !existsSync(pythonIn(folder))) return yield* renew
      return yield* greet({ command: commandOf(pythonIn(folder)), startSeconds: 300 }).pipe(
        Effect.map((hello) => ({ hello, made: false })),
        Effect.catchTag("EngineFailed", (error: EngineFailed) => {
          options.say(`what is there does not work any more (${error.problem}): made anew`)
          return renew
        }),
      )
    })
    return Effect.map(
      withLock(join(folder, "lock"), () => options.say("another process is at it: waiting"), ensure),
      (found) => ({ ...found, folder }),
    )
  })
