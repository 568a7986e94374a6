/**
 * Runs the command line on an experiment, as a user would: a process, real files, the real engine.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join, resolve } from "node:path"

export const root = resolve(import.meta.dirname, "../..")
export const embedded = join(root, "experiments/corpus")

export const temporaryFolder = (): { readonly path: string; readonly remove: () => void } => {
  const path = mkdtempSync(join(tmpdir(), "exp-"))
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}

/** The smallest experiment that has everything: seconds of work, every kind of step. */
export const smallest = ({ steps = 24, decaySteps = 8, from = embedded, sweepTemperature = 0.8 } = {}): string => `
import { benchmark, corpus, decay, each, experiment, pack, release, select, sweep, tokenizer, train } from "exp"

export default experiment("smallest", { corpus: ${JSON.stringify(from)}, seed: 7 }, function* (set) {
  const texts = yield* corpus({
    from: set.corpus,
    train: { en: ["wiki_en"], it: ["wiki_it"] },
    evaluate: { en: ["books_en"] },
    split: { validation: 0.15, holdout: 0.15, minimumDocuments: 10 },
  })
  const words = yield* tokenizer({ corpus: texts, vocabulary: 512 })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 64 })
  const base = yield* train({
    tokens, model: { layers: 2, width: 32, heads: 2 }, steps: ${steps}, rowsPerStep: 4, peakLr: 3e-3, warmupSteps: 4,
    keepEvery: 12, validateEvery: 12, seed: set.seed,
  })
  const tails = yield* each([12, 24], function* (step) {
    const tail = yield* decay({ from: base.stableAt(step), steps: ${decaySteps}, finalLr: 1e-5, shape: "1-sqrt", every: 4, validateEvery: 8 })
    return yield* each(tail.checkpoints, function* (model) {
      return yield* benchmark({ model, prompts: 3, maxNewTokens: 16 })
    })
  })
  const best = yield* select({ among: tails, by: "val_loss_mixed" })
  const decoding = yield* sweep({
    model: best, temperature: [${sweepTemperature}], tuningPrompts: 4, holdoutPrompts: 4, behaviourPrompts: 3, maxNewTokens: 16,
  })
  return yield* release({ model: best, decoding, name: "smallest", license: "CC0-1.0" })
})
`

/** The same, and its release published; `how` as the step's parameters are written. */
export const publishing = (how: string): string =>
  smallest()
    .replace("pack, release,", "pack, publish, release,")
    .replace("return yield* release(", "const bundle = yield* release(")
    .replace(/\n\}\)\n$/, `\n  return yield* publish({ release: bundle, to: "our-org/smallest", ${how} })\n})\n`)

export interface Outcome {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

export const start = (folder: string, args: ReadonlyArray<string>, env: NodeJS.ProcessEnv = {}): ChildProcess =>
  spawn(process.execPath, [join(root, "bin/exp"), ...args], {
    cwd: folder,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  })

export const finished = (child: ChildProcess): Promise<Outcome> =>
  new Promise((resolve) => {
    let stdout = ""
    let stderr = ""
    child.stdout!.on("data", (chunk) => {
      stdout += chunk
    })
    child.stderr!.on("data", (chunk) => {
      stderr += chunk
    })
    child.on("close", (code) => resolve({ code, stdout, stderr }))
  })

export const exp = (folder: string, args: ReadonlyArray<string>, env: NodeJS.ProcessEnv = {}): Promise<Outcome> =>
  finished(start(folder, args, env))

export const write = (folder: string, name: string, text: string): void => writeFileSync(join(folder, name), text)

/** Paths of all files below a folder with their bytes, but for those left out. */
export const bytesBelow = (
  folder: string,
  leftOut: (path: string) => boolean = () => false,
): Readonly<Record<string, Buffer>> =>
  Object.fromEntries(
    (readdirSync(folder, { recursive: true, withFileTypes: true }) as ReadonlyArray<import("node:fs").Dirent>)
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .map((path) => [path.slice(folder.length + 1), path] as const)
      .filter(([path]) => !leftOut(path))
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([path, full]) => [path, readFileSync(full)]),
  )

/** The one artifact of a kind in a runs folder, or the n-th by name. */
export const artifacts = (runs: string, kind: string): ReadonlyArray<string> =>
  readdirSync(join(runs, "store"))
    .filter((name) => name.startsWith(`${kind}-`))
    .sort()
    .map((name) => join(runs, "store", name))
