/**
 * A small world to try commands on: an experiment of quick steps shaped like the real ones, run once, copied for each test.
 */
import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { setTimeout } from "node:timers/promises"
import { onTestFinished } from "vitest"
import { exp, root, type Said, type Started, start } from "../cli/command.ts"
import { temporaryFolder } from "../temporary.ts"

const source = (path: string): string => JSON.stringify(join(root, "src", path))

/** The steps write files alone; `train` hangs while there is a file `hang`. */
export const fake = `import { createHash } from "node:crypto"
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect, Schema } from "effect"
import { each, experiment } from "exp"
import { Corpus, keptSteps, Release, Scored, Selected, StableCheckpoint, Trained } from ${source("model/Artifact.ts")}
import * as Step from ${source("plan/Step.ts")}

const known = {
  languages: ["en"], trainSources: ["texts"], evaluateSources: [], context: 8, vocabulary: 300,
  shape: { layers: 1, width: 8, heads: 1 }, rowsPerStep: 1,
}
const sha256 = (file: string) => createHash("sha256").update(readFileSync(file)).digest("hex")
const write = (folder: string, name: string, value: unknown) => writeFileSync(join(folder, name), JSON.stringify(value))

const corpus = Step.make("corpus", {
  version: 1,
  params: { file: Schema.String },
  inputs: {},
  output: (ref) => new Corpus(ref, known),
  outside: ({ file }: { file: string }) => Effect.sync(() => ({ file: { texts: { sha256: sha256(file) } } })),
  run: (work) => Effect.sync(() => {
    const file = work.params["file"] as string
    write(work.out, "inventory.json", { sources: [{ source: "texts", sha256: sha256(file) }] })
    writeFileSync(join(work.out, "texts.txt"), readFileSync(file))
    return undefined
  }),
})

const train = Step.make("train", {
  version: 1,
  computes: true,
  elastic: ["steps"],
  resumable: true,
  params: { steps: Schema.Int, rate: Schema.Finite },
  inputs: { from: Corpus },
  output: (ref, { steps }) => new Trained(ref, known, keptSteps(0, steps, 2)),
  label: ({ steps }) => \`train 0→\${steps}\`,
  run: (work) => Effect.gen(function* () {
    const point = join(work.scratch, "resume", "step_1")
    if (existsSync(point)) work.note("goes on from step 1")
    mkdirSync(point, { recursive: true })
    while (existsSync("hang")) yield* Effect.sleep("20 millis")
    for (const step of keptSteps(0, work.params["steps"] as number, 2)) {
      const folder = join(work.out, "checkpoints", \`step_\${step}\`)
      mkdirSync(folder, { recursive: true })
      write(folder, "weights.json", { step, rate: work.params["rate"] })
    }
    return undefined
  }),
})

const benchmark = Step.make("benchmark", {
  version: 1,
  params: {},
  inputs: { model: StableCheckpoint },
  output: (ref) => new Scored(ref, known),
  run: (work) => Effect.sync(() => {
    const { step, rate } = JSON.parse(readFileSync(join(work.inputs["model"]![0]!.path, "weights.json"), "utf8"))
    const loss = 5 - step / 10 + rate
    write(work.out, "benchmark_metrics.json", {
      model: { candidate: \`step \${step}\` },
      metrics: { val_loss_mixed: { value: loss, ci95: [loss - 0.1, loss + 0.1] }, distinct_2_mean: { value: 0.5 } },
    })
    return undefined
  }),
})

const select = Step.make("select", {
  version: 1,
  transparent: true,
  params: {},
  inputs: { among: [Scored] },
  output: (ref) => new Selected(ref, known),
  run: (work) => Effect.sync(() => {
    const chosen = work.inputs["among"]!.at(-1)!
    const { model, metrics } = JSON.parse(readFileSync(join(chosen.path, "benchmark_metrics.json"), "utf8"))
    write(work.out, "comparison.json", { candidates: [{ ...model, metrics, winner: true }] })
    write(work.out, "holdout.json", { metrics: { val_loss_mixed: metrics.val_loss_mixed } })
    return { chosen }
  }),
})

const release = Step.make("release", {
  version: 1,
  wholeSelection: ["model"],
  params: {},
  inputs: { model: Selected },
  output: (ref) => new Release(ref),
  run: (work) => Effect.sync(() => {
    mkdirSync(join(work.out, "release"))
    const { metrics } = JSON.parse(readFileSync(join(work.inputs["model"]![0]!.path, "holdout.json"), "utf8"))
    write(work.out, "release/README.md", metrics)
    write(work.out, "release/LICENSE", "CC0-1.0")
    write(work.out, "release/provenance.json", Date.now())
    return undefined
  }),
})

export default experiment("fake", { steps: 4, rate: 0.1 }, function* (set) {
  const texts = yield* corpus({ file: "texts.txt" })
  const base = yield* train({ from: texts, steps: set.steps, rate: set.rate })
  const scored = yield* each([base.stableAt(2), base.stableAt(4)], function* (model) {
    return yield* benchmark({ model })
  })
  return yield* release({ model: yield* select({ among: scored }) })
})
`

/** What was printed, with keys and times filtered; \`<key 1>\` is the first that is named. */
export const shown = ({ code, out, err }: Said): string => {
  const keys = new Map<string, string>()
  const numbered = (_: string, kind: string, key: string): string => {
    if (!keys.has(key)) keys.set(key, `${kind}-<key ${keys.size + 1}>`)
    return keys.get(key)!
  }
  return [`exit ${code}`, out.trimEnd(), err === "" ? "" : `stderr:\n${err.trimEnd()}`]
    .filter(Boolean)
    .join("\n")
    .replaceAll(/\b([a-z]+)-([0-9a-f]{16})\b/g, numbered)
    .replaceAll(/\b[0-9a-f]{16}…/g, "<sha256>")
    .replaceAll(/\b\d{12}(_[a-z]+)(-\d+)?/g, "<minute>$1")
    .replaceAll(/ *\b\d+(\.\d+)? k?B\b/g, " <size>")
    .replaceAll(/ {2,}/g, "  ")
    .replaceAll(root, "<exp>")
}

export const artifacts = (folder: string, kind = ""): ReadonlyArray<string> =>
  fs.readdirSync(join(folder, "runs/store")).filter((name) => !name.startsWith(".") && name.startsWith(kind))

/** Starts a run whose training hangs, and waits until it does; removing `hang` lets it go on. */
export const hanging = async (folder: string, ...args: ReadonlyArray<string>): Promise<Started> => {
  fs.writeFileSync(join(folder, "hang"), "")
  const running = start(folder, "run", "fake.ts", "--set", "rate=0.2", ...args)
  const making = join(folder, "runs/store/.tmp")
  const begun = (): boolean =>
    fs.existsSync(making) && fs.readdirSync(making).some((name) => fs.existsSync(join(making, name, "scratch/resume")))
  while (!begun() && running.child.exitCode === null) await setTimeout(20)
  return running
}

/** The same, killed while it hangs. */
export const interrupted = async (folder: string): Promise<void> => {
  const running = await hanging(folder)
  running.child.kill("SIGKILL")
  await running.ended
  fs.rmSync(join(folder, "hang"))
}

export const runNames = (folder: string): ReadonlyArray<string> =>
  fs
    .readdirSync(join(folder, "runs"))
    .filter((name) => /^\d{12}_/.test(name))
    .sort()

const copy = (from: string, to: string): void =>
  fs.cpSync(from, to, { recursive: true, verbatimSymlinks: true, preserveTimestamps: true })

let prepared: Promise<string> | undefined

/** A folder in which \`fake.ts\` was run once; gone when the test is over. */
export const world = async (): Promise<string> => {
  prepared ??= (async () => {
    const folder = fs.mkdtempSync(join(tmpdir(), "exp-world-"))
    process.on("exit", () => fs.rmSync(folder, { recursive: true, force: true }))
    fs.writeFileSync(join(folder, "fake.ts"), fake)
    fs.writeFileSync(join(folder, "texts.txt"), "A cat sleeps in the sun.")
    const { code, err } = await exp(folder, "run", "fake.ts", "--json")
    if (code !== 0) throw new Error(err)
    return folder
  })()
  const folder = temporaryFolder()
  copy(await prepared, folder)
  onTestFinished(async () => {
    // type checks that passed are remembered by content
    const checked = join(folder, "runs/.cache/typecheck")
    if (fs.existsSync(checked)) copy(checked, join(await prepared!, "runs/.cache/typecheck"))
  })
  return folder
}
