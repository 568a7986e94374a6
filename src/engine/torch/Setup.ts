/**
 * Makes the Python environment of the worker: by uv where there is one, else by `venv` and pip. Whole or absent: `ready.json` is written
 * when a worker in it has said its hello, and what was half made is made again from nothing. What pip and uv downloaded whole they keep
 * in caches of their own, so that beginning anew is no second download of it.
 *
 * | beside `Environment.ts`'s table | what                                                                        |
 * |---------------------------------|-----------------------------------------------------------------------------|
 * | `lock`                          | one process at a time makes it (`src/store/Lock.ts`)                          |
 * | `download/`                     | what pip has not unpacked yet: gigabytes, and `/tmp` may be memory             |
 */
import { execFile, spawn } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs"
import { homedir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { bytesBelow, freeBytes, size } from "../../store/Disk.ts"
import { replace } from "../../store/Files.ts"
import { withLock } from "../../store/Lock.ts"
import type { EngineFailed } from "../Engine.ts"
import { allGpus } from "../Gpu.ts"
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
  /** To make it with; by default one that is new enough, or what uv chooses. */
  readonly python: string | undefined
  /** A package index to take PyTorch from: for Linux its wheels without CUDA libraries are not on the usual one. */
  readonly index: string | undefined
  readonly say: (text: string) => void
}

/** Bytes on disk at the most. pip has it packed, in its cache, and unpacked; what uv has in its cache and in an environment is one file. */
const LEAST = { cpu: 2e9, cuda: { uv: 7e9, pip: 12e9 } }
/** A disk with less than this is why an installation failed. */
const FULL = 200e6
/** How often a log is told how far it is; on a terminal pip and uv draw it themselves. */
const TOLD_SECONDS = 20
const TIED = fileURLToPath(new URL("tied.ts", import.meta.url))

const fail = (problem: string, hint: string) => new SetupFailed({ problem, hint })

/** The first line that a program prints; undefined when it is not there or fails. */
const ask = (program: string, ...args: ReadonlyArray<string>): Effect.Effect<string | undefined> =>
  Effect.callback((resume) => {
    const child = execFile(program, [...args], { timeout: 30_000, windowsHide: true }, (error, out) =>
      resume(Effect.succeed(error ? undefined : out.trim().split("\n")[0])),
    )
    return Effect.sync(() => child.kill())
  })

/** A command as it may be shown: an index may have a user and a password in its address. */
const shown = (program: string, args: ReadonlyArray<string>): string =>
  [program, ...args].join(" ").replaceAll(/\/\/[^/@\s]*@/g, "//")

interface Installing {
  readonly folder: string
  /** What to do when it fails and nothing says why. */
  readonly hint: string
  readonly say: (text: string) => void
  /** Bytes that are there, of whatever is being downloaded or unpacked. */
  readonly here: () => number
}

/** Its output goes where people look, and not where machines read. It ends with us, whatever ends us. */
const run = (
  program: string,
  args: ReadonlyArray<string>,
  { folder, hint, say, here }: Installing,
): Effect.Effect<void, SetupFailed> =>
  Effect.callback((resume) => {
    const began = here()
    const child = spawn(process.execPath, [TIED, program, ...args], {
      // pip and uv obey a user's configuration, a Python none of his packages
      env: { ...process.env, PYTHONNOUSERSITE: "1", TMPDIR: join(folder, "download") },
      stdio: ["pipe", 2, 2],
      windowsHide: true,
    })
    const telling = setInterval(() => say(`  … ${size(here() - began)} so far`), 1000 * TOLD_SECONDS)
    if (process.stderr.isTTY) clearInterval(telling)
    child.on("error", (cause) => resume(Effect.fail(fail(`\`${program}\` does not start: ${cause.message}`, hint))))
    child.on("close", (code, signal) => {
      clearInterval(telling)
      const ended = `\`${shown(program, args)}\` ended with ${signal ?? `exit code ${code}`}`
      resume(code === 0 ? Effect.void : Effect.fail(roomless(folder, ended) ?? fail(ended, hint)))
    })
    // nothing may be removed that somebody still writes
    return Effect.callback((ended) => {
      child.once("close", () => ended(Effect.void))
      child.stdin!.end()
    })
  })

const ROOM = "make room, or set XDG_DATA_HOME to a folder on another disk"

/** The disk of the environment or that of the caches is full. */
const roomless = (folder: string, ended: string): SetupFailed | undefined => {
  const full = [folder, homedir()].find((path) => (freeBytes(path) ?? Number.POSITIVE_INFINITY) < FULL)
  return full === undefined ? undefined : fail(`${ended}: ${full} has ${size(freeBytes(full)!)} free`, ROOM)
}

/** What `engines/torch/pyproject.toml` asks for: the least Python, and the strings of its list of dependencies. */
const requirements = (): { readonly python: string; readonly packages: ReadonlyArray<string> } => {
  const text = readFileSync(join(packageFolder, "pyproject.toml"), "utf8")
  const [, python = "3"] = /^requires-python = ">=([\d.]+)"/m.exec(text) ?? []
  const [, list = ""] = /^dependencies = \[([^\]]*)\]/m.exec(text) ?? []
  return { python, packages: [...list.matchAll(/"([^"]+)"/g)].map(([, requirement]) => requirement!) }
}

const hasGpu = Effect.map(allGpus, (gpus) => gpus.length > 0)

const PYTHONS = ["python3", "python", "python3.14", "python3.13", "python3.12", "python3.11"]
const WHICH = `import sys
from importlib.util import find_spec
print("%d.%d" % sys.version_info[:2], find_spec("venv") and find_spec("ensurepip") and "whole")`

const isEnough = (version: string, least: string): boolean => {
  const [major = 0, minor = 0] = version.split(".").map(Number)
  return major === 3 && minor >= Number(least.split(".")[1] ?? 0)
}

const wanted = (least: string): string =>
  `install Python ${least} or newer with \`venv\` (Debian: python3-venv), name one with \`--python\`, or install uv`
const wantedOfUv = (least: string): string => `name a Python of ${least} or newer with \`--python\``

/** The Python to begin with, when uv does not choose one. */
const pythonHere = Effect.fnUntraced(function* (asked: string | undefined, least: string) {
  const unfit: Array<string> = []
  for (const program of asked === undefined ? PYTHONS : [asked]) {
    const [version, whole] = (yield* ask(program, "-c", WHICH))?.split(" ") ?? []
    if (version === undefined) continue
    if (!isEnough(version, least)) unfit.push(`\`${program}\` is Python ${version}`)
    else if (whole !== "whole") unfit.push(`\`${program}\` is Python ${version} without \`venv\``)
    else return program
  }
  return yield* fail(
    unfit[0] ?? (asked === undefined ? "no Python answers" : `\`${asked}\` does not answer`),
    wanted(least),
  )
})

/** How it is made here. */
interface Way {
  /** Makes the environment, the folder comes behind. */
  readonly venv: readonly [program: string, ...args: ReadonlyArray<string>]
  readonly uv: boolean
  /** What uv calls the kind of wheel; undefined where it is left to an index. */
  readonly backend: "cpu" | "auto" | undefined
  readonly withoutCuda: boolean
  /** Whether gigabytes of CUDA libraries come along. */
  readonly cuda: boolean
  /** What to do where there is no such Python. */
  readonly python: string
}

const wayOf = Effect.fnUntraced(function* ({ cpu, python, index }: SetupOptions, least: string) {
  const uv = (yield* ask("uv", "--version")) !== undefined
  const linux = process.platform === "linux"
  const withoutCuda = cpu || (linux && !(yield* hasGpu))
  // uv knows the index of each kind of wheel; pip takes what the usual one has, and that is with CUDA
  const backend = uv && index === undefined && linux ? (withoutCuda ? "cpu" : "auto") : undefined
  return {
    venv: uv ? ["uv", "venv", "--python", python ?? `>=${least}`] : [yield* pythonHere(python, least), "-m", "venv"],
    uv,
    backend,
    withoutCuda,
    cuda: linux && backend !== "cpu" && !(cpu && index !== undefined),
    python: uv ? wantedOfUv(least) : wanted(least),
  } satisfies Way as Way
})

/** What is likely when pip or uv cannot install: they have said it themselves, for who knows their words. */
const likely = ({ index }: SetupOptions, { backend }: Way): string => {
  if (index !== undefined) return "see that `--index` answers, and has PyTorch for this Python and machine"
  if (backend === "cpu")
    return "wheels without CUDA lie at PyTorch's own index: where that is out of reach, `--index URL` names another, be it the usual one, whose wheel has CUDA"
  return "see that a package index is in reach and has PyTorch for this Python and machine: `--index URL` names another, `--python` another Python"
}

/** Says what is going to be downloaded, if there is room for it. */
const announce = (folder: string, { index, say }: SetupOptions, { uv, withoutCuda, cuda }: Way) =>
  Effect.suspend(() => {
    if (withoutCuda && cuda && index === undefined)
      say(
        "the PyTorch that pip finds brings CUDA libraries, of no use here; with uv installed (`pip install uv`), or from an `--index` of wheels for the CPU, it comes without",
      )
    const least = cuda ? LEAST.cuda[uv ? "uv" : "pip"] : LEAST.cpu
    const free = freeBytes(folder) ?? least
    if (free < least) return fail(`${folder} has ${size(free)} free, it takes up to ${size(least)}`, ROOM)
    const what = cuda ? "with CUDA libraries 3 GB and 5 GB more once unpacked" : "for the CPU alone some hundred MB"
    say(`downloads PyTorch${index === undefined ? "" : " from the index named"}, ${what}, into ${folder}`)
    return Effect.void
  })

const make = Effect.fnUntraced(function* (folder: string, options: SetupOptions) {
  const { say, index } = options
  const { python: least, packages } = requirements()
  const way = yield* wayOf(options, least)
  yield* announce(folder, options, way)

  mkdirSync(join(folder, "download"), { recursive: true })
  const cache = way.uv ? yield* ask("uv", "cache", "dir") : undefined
  const here = () => bytesBelow(folder) + (cache === undefined ? 0 : bytesBelow(cache))
  const python = pythonIn(folder)
  const [program, ...args] = way.venv
  yield* run(program, [...args, join(folder, "venv")], { folder, hint: way.python, say, here })
  const version = (yield* ask(python, "-c", WHICH))?.split(" ")[0] ?? "none that answers"
  if (!isEnough(version, least)) return yield* fail(`what it would run in is Python ${version}`, way.python)
  const [installer, ...install] = way.uv
    ? (["uv", "pip", "install", "--python", python] as const)
    : ([python, "-m", "pip", "install", "--disable-pip-version-check"] as const)
  const add = (...asked: ReadonlyArray<string>) =>
    run(installer, [...install, ...asked], { folder, hint: likely(options, way), say, here })
  // that index has PyTorch and what it needs; the rest comes from where it always does
  if (index !== undefined) yield* add("--index-url", index, ...packages.filter((one) => /^torch\b/.test(one)))
  yield* add(...(way.backend === undefined ? [] : ["--torch-backend", way.backend]), ...packages)

  const hello = yield* greet({ command: commandOf(python), startSeconds: 300 })
  const ready: Ready = {
    requirements: requirementsDigest(),
    torch: hello.torch,
    python: hello.python ?? "",
    cpu: options.cpu || (way.withoutCuda && !hello.torch.includes("+cu")),
  }
  replace(join(folder, "ready.json"), `${JSON.stringify(ready, null, 2)}\n`)
  return { hello, made: true }
})

/** What an attempt leaves that did not come to its end. */
const clear = (folder: string, ...names: ReadonlyArray<string>) =>
  Effect.sync(() => {
    for (const name of names) rmSync(join(folder, name), { recursive: true, force: true, maxRetries: 5 })
  })

/** The environment as it has to be; one that is there is asked for its hello alone. */
export const setup = (options: SetupOptions) =>
  Effect.gen(function* () {
    const folder = environmentFolder()
    yield* Effect.try({
      try: () => mkdirSync(folder, { recursive: true }),
      catch: (cause) =>
        fail(
          cause instanceof Error ? cause.message : String(cause),
          "set XDG_DATA_HOME to a folder that can be written",
        ),
    })
    const renew = clear(folder, "ready.json", "venv", "download").pipe(
      Effect.andThen(make(folder, options)),
      Effect.onInterrupt(() => Effect.sync(() => options.say("broken off: the same command begins anew"))),
      Effect.onError(() => clear(folder, "venv")),
      Effect.ensuring(clear(folder, "download")),
    )
    const ensure = Effect.gen(function* () {
      const ready = readReady(folder)
      const current = ready?.requirements === requirementsDigest() && existsSync(pythonIn(folder))
      // one for the CPU alone is not what is asked for where there is a GPU
      const fits = current && (options.cpu ? ready.cpu : !(ready.cpu && (yield* hasGpu)))
      if (!fits || options.python !== undefined) return yield* renew
      return yield* greet({ command: commandOf(pythonIn(folder)), startSeconds: 300 }).pipe(
        Effect.map((hello) => ({ hello, made: false })),
        Effect.catchTag("EngineFailed", (error: EngineFailed) => {
          options.say(`what is there does not work any more (${error.problem}): made anew`)
          return renew
        }),
      )
    })
    const found = yield* withLock(join(folder, "lock"), () => options.say("another process is at it: waiting"), ensure)
    return { ...found, folder }
  })
