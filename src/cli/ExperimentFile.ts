/**
 * From a path on the command line to an experiment: checked by the TypeScript compiler, once per content of the file and of what it
 * imports, then loaded.
 */
import { execFile } from "node:child_process"
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs"
import { createRequire, registerHooks } from "node:module"
import { dirname, join, relative, resolve } from "node:path"
import { pathToFileURL } from "node:url"
import * as Effect from "effect/Effect"
import { digest, sha256 } from "../model/Digest.ts"
import { type Experiment, isExperiment } from "../plan/Plan.ts"
import { codeDigest, packageRoot } from "../run/Code.ts"
import { ExperimentUnreadable, TypeErrors } from "./Errors.ts"

export interface ExperimentFile {
  readonly path: string
  readonly source: string
  readonly experiment: Experiment
}

/** Loads an experiment file. `cache` is a folder where passed type checks are remembered. */
export const load = Effect.fn("ExperimentFile.load")(function* (file: string, cache: string) {
  const path = resolve(file)
  if (!existsSync(path) || !statSync(path).isFile())
    return yield* new ExperimentUnreadable({
      file,
      problem: "there is no such file",
      hint: "experiments lie in `experiments/`",
    })
  const source = readFileSync(path, "utf8")
  yield* typeCheck(path, cache)
  resolveFromAnywhere()
  const module = yield* Effect.tryPromise({
    try: () => import(pathToFileURL(path).href),
    catch: (cause) =>
      new ExperimentUnreadable({
        file,
        problem: cause instanceof Error ? cause.message.split("\n")[0]! : String(cause),
        hint: "an experiment file imports from `exp` and from its own folder",
      }),
  })
  const experiment: unknown = module.default
  if (!isExperiment(experiment))
    return yield* new ExperimentUnreadable({
      file,
      problem: "its default export is not an experiment",
      hint: 'write `export default experiment("name", function* () { … })`',
    })
  return { path, source, experiment } satisfies ExperimentFile
})

/** The file and all it imports by relative path. */
const reachable = (path: string, seen = new Set<string>()): ReadonlySet<string> => {
  if (seen.has(path) || !existsSync(path)) return seen
  seen.add(path)
  const source = readFileSync(path, "utf8")
  for (const [, specifier] of source.matchAll(/(?:from|import)\s*\(?\s*["'](\.[^"']+)["']/g))
    reachable(resolve(dirname(path), specifier!), seen)
  return seen
}

const typeCheck = Effect.fn("typeCheck")(function* (path: string, cache: string) {
  const files = [...reachable(path)].sort()
  const base = JSON.parse(readFileSync(join(packageRoot, "tsconfig.json"), "utf8"))
  const fingerprint = digest({
    files: files.map((one) => sha256(readFileSync(one))),
    code: codeDigest(),
    options: base.compilerOptions,
  })
  const passed = join(cache, fingerprint)
  if (existsSync(passed)) return
  mkdirSync(cache, { recursive: true })
  // paths: an experiment outside this package finds `exp` and its types as one inside it does;
  // bundler: what Node runs as a module need not lie beside a `package.json` that says so
  const project = join(cache, `${fingerprint}.tsconfig.json`)
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
  const compiler = join(dirname(createRequire(import.meta.url).resolve("typescript/package.json")), "bin/tsc")
  const output = yield* Effect.callback<string>((resume) => {
    const child = execFile(
      process.execPath,
      [compiler, "-p", project, "--pretty", "false"],
      { cwd: dirname(path), maxBuffer: 1 << 24 },
      (error, stdout, stderr) => resume(Effect.succeed(error ? `${stdout}${stderr}` || error.message : "")),
    )
    return Effect.sync(() => child.kill())
  })
  rmSync(project, { force: true })
  if (output !== "") return yield* new TypeErrors({ file: relative(process.cwd(), path), text: output.trimEnd() })
  writeFileSync(passed, "")
})

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
