/**
 * A small plan that meets all the store does: several files and folders, one above 1 MB, a step that goes on from its resume point,
 * a step whose files a process of its own writes, steps side by side, a selection. What is random comes from parameters alone.
 */
import { spawn } from "node:child_process"
import * as fs from "node:fs"
import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Cause, Effect, Exit, Layer, Schema } from "effect"
import { Engine } from "../../src/engine/Engine.ts"
import { Corpus, Decoding, keptSteps, Scored, Selected, StableCheckpoint, Trained } from "../../src/model/Artifact.ts"
import { sha256 } from "../../src/model/Digest.ts"
import { each, experiment, plan } from "../../src/plan/Plan.ts"
import * as Step from "../../src/plan/Step.ts"
import type { Outcome, Work } from "../../src/plan/Work.ts"
import { Reporter } from "../../src/run/Reporter.ts"
import { runPlan } from "../../src/run/Run.ts"
import * as RunFolder from "../../src/run/RunFolder.ts"
import { artifactName, type Manifest } from "../../src/store/Manifest.ts"
import { listFiles, Store } from "../../src/store/Store.ts"
import { known } from "../run/known.ts"

export const JOBS = 2

/** How long each part of a step takes, and where executions are noted: no business of a key's. */
const pace = Number(process.env["EXP_TEST_PACE"] ?? 0)
const log = process.env["EXP_TEST_LOG"]

const doing =
  (kind: string, write: (work: Work) => Effect.Effect<Outcome | undefined>) =>
  (work: Work): Effect.Effect<Outcome | undefined> =>
    Effect.suspend(() => {
      if (log !== undefined) fs.appendFileSync(log, `${process.pid} ${artifactName(kind, work.key)}\n`)
      return write(work)
    })

const wait = Effect.suspend(() => (pace === 0 ? Effect.void : Effect.sleep(pace)))

/** Bytes that look random and are always the same. */
const noise = (seed: string, size: number): Buffer => {
  const piece = Buffer.from(sha256(seed).repeat(16))
  return Buffer.concat(Array.from({ length: Math.ceil(size / piece.length) }, () => piece)).subarray(0, size)
}

const inputFile = (work: Work, name: string, path: string): string =>
  fs.readFileSync(join(work.inputs[name]![0]!.path, path), "utf8")

const source = Step.make("source", {
  version: 1,
  params: { text: Schema.String },
  inputs: {},
  output: (ref) => new Corpus(ref, known),
  run: doing("source", (work) =>
    Effect.gen(function* () {
      fs.mkdirSync(join(work.out, "shards/deep"), { recursive: true })
      fs.writeFileSync(join(work.out, "text.txt"), String(work.params["text"]))
      yield* wait
      fs.writeFileSync(join(work.out, "shards/deep/large.bin"), noise("large", 1_200_000))
      yield* wait
      fs.writeFileSync(join(work.out, "shards/empty.bin"), "")
      return undefined
    }),
  ),
})

/** Each checkpoint needs the one before it: resume points of one attempt with results of another would show. */
const grow = Step.make("grow", {
  version: 1,
  resumable: true,
  elastic: ["steps", "keepEvery"],
  params: { steps: Schema.Int, keepEvery: Schema.Int },
  inputs: { from: Corpus },
  output: (ref, { steps, keepEvery }) => new Trained(ref, known, keptSteps(0, steps, keepEvery)),
  run: doing("grow", (work) =>
    Effect.gen(function* () {
      const resume = join(work.scratch, "resume.json")
      let state = { step: 0, weights: inputFile(work, "from", "text.txt") }
      if (fs.existsSync(resume)) state = JSON.parse(fs.readFileSync(resume, "utf8"))
      while (state.step < (work.params["steps"] as number)) {
        const next = { step: state.step + 1, weights: sha256(state.weights) }
        const folder = join(work.out, "checkpoints", `step_${next.step}`)
        fs.mkdirSync(folder, { recursive: true })
        fs.writeFileSync(join(folder, "weights.txt"), next.weights)
        fs.writeFileSync(`${resume}.new`, JSON.stringify(next))
        fs.renameSync(`${resume}.new`, resume)
        state = next
        yield* wait
      }
      return undefined
    }),
  ),
})

/** A worker writes what it is told, and ends when nobody talks to it any more. */
const finish = Step.make("finish", {
  version: 1,
  params: {},
  inputs: { from: StableCheckpoint },
  output: (ref) => new Scored(ref, known),
  run: doing("finish", (work) =>
    Effect.gen(function* () {
      const weights = inputFile(work, "from", "weights.txt")
      yield* wait
      yield* Effect.promise(
        () =>
          new Promise<void>((resolve, reject) => {
            const file = fs.openSync(join(work.out, "score.txt"), "w")
            const worker = spawn("cat", { stdio: ["pipe", file, "ignore"] })
            fs.closeSync(file)
            worker.on("error", reject)
            worker.on("close", (code) => (code === 0 ? resolve() : reject(new Error(`the worker ended with ${code}`))))
            // there is no pipe when the system would not start it
            worker.stdin?.on("error", () => {}).write(weights.slice(0, 32))
            setTimeout(() => worker.stdin?.end(weights.slice(32)), pace)
          }),
      )
      return undefined
    }),
  ),
})

const pick = Step.make("pick", {
  version: 1,
  transparent: true,
  params: {},
  inputs: { among: [Scored] },
  output: (ref) => new Selected(ref, known),
  run: doing("pick", (work) =>
    Effect.sync(() => {
      const scores = work.inputs["among"]!.map((input) => ({
        input,
        score: fs.readFileSync(join(input.path, "score.txt"), "utf8"),
      })).sort((a, b) => (a.score < b.score ? -1 : 1))
      fs.writeFileSync(join(work.out, "table.json"), JSON.stringify(scores.map(({ score }) => score)))
      return { chosen: scores[0]!.input }
    }),
  ),
})

const polish = Step.make("polish", {
  version: 1,
  params: {},
  inputs: { model: Scored },
  output: (ref) => new Decoding(ref),
  run: doing("polish", (work) =>
    Effect.gen(function* () {
      for (const n of [1, 2, 3]) {
        fs.writeFileSync(join(work.out, `${n}.txt`), `${n} ${inputFile(work, "model", "score.txt")}`)
        yield* wait
      }
      return undefined
    }),
  ),
})

const world = experiment("world", function* () {
  const base = yield* grow({ from: yield* source({ text: "once" }), steps: 3, keepEvery: 1 })
  const among = yield* each([1, 2, 3], function* (step) {
    return yield* finish({ from: base.stableAt(step) })
  })
  return yield* polish({ model: yield* pick({ among }) })
})

/** What every artifact goes through, once for a step that starts over and once for one that goes on. */
const short = experiment("short", function* () {
  return yield* grow({ from: yield* source({ text: "once" }), steps: 2, keepEvery: 1 })
})

const plans = { world, short }
export type PlanName = keyof typeof plans

const NoEngine = Layer.mock(Engine, { numerics: { name: "none", numerics: 1, precision: "exact" } })
const facts = {
  experiment: "world",
  experimentFile: "world.ts",
  experimentSource: "",
  planText: "",
  parameters: {},
  startedAt: "2026-01-01T00:00:00.000Z",
  repository: "",
}

export const storeOf = (runs: string): string => join(runs, "store")

/** One run, journal and all. Nothing is remembered but what is on disk. Returns what it failed with, be it an error or a bug. */
export const attempt = (
  runs: string,
  options: { readonly plan?: PlanName; readonly journal?: boolean } = {},
): Promise<string | undefined> =>
  Effect.gen(function* () {
    const { nodes } = yield* plan(plans[options.plan ?? "world"])
    const folder = options.journal === false ? undefined : RunFolder.create(runs, "world", new Date())
    const emit = (event: Parameters<typeof RunFolder.journal>[1]) =>
      folder === undefined ? undefined : RunFolder.journal(folder, event)
    yield* runPlan(nodes, { jobs: JOBS, facts }).pipe(
      Effect.provideService(Reporter, Reporter.of({ emit })),
      Effect.provide(Layer.mergeAll(Store.layer(storeOf(runs)), NoEngine, NodeServices.layer)),
    )
  }).pipe(
    Effect.exit,
    Effect.map((exit) => {
      if (Exit.isSuccess(exit)) return undefined
      const error = Cause.squash(exit.cause)
      return error instanceof Error ? error.message : String(error)
    }),
    Effect.runPromise,
  )

export const artifactsIn = (runs: string): ReadonlyArray<string> =>
  fs.existsSync(storeOf(runs)) ? fs.readdirSync(storeOf(runs)).filter((name) => !name.startsWith(".")) : []

/** Hashes all there is, as a process that never saw it: what is in the store and not whole, with what is wrong. */
export const wrongIn = (runs: string): Promise<ReadonlyArray<string>> =>
  Effect.gen(function* () {
    const store = yield* Store
    const wrong: Array<string> = []
    for (const artifact of artifactsIn(runs)) {
      const verified = yield* Effect.result(store.verify(artifact))
      if (verified._tag === "Failure") wrong.push(verified.failure.message)
    }
    return wrong
  }).pipe(Effect.provide(Store.layer(storeOf(runs))), Effect.runPromise)

/** Every artifact with its files' digests; not the code's, which somebody may be editing at this very moment. */
export const finalsIn = (runs: string): ReadonlyArray<string> =>
  [...artifactsIn(runs)].sort().flatMap((artifact) => {
    const folder = join(storeOf(runs), artifact)
    const { code, digest, ...manifest }: Manifest & { readonly digest: string } = JSON.parse(
      fs.readFileSync(join(folder, "manifest.json"), "utf8"),
    )
    const files = listFiles(folder).filter((path) => path !== "manifest.json")
    return [
      `${artifact} ${typeof code} ${typeof digest} ${JSON.stringify(manifest)}`,
      ...files.map((path) => `${artifact}/${path} ${sha256(fs.readFileSync(join(folder, path)))}`),
    ]
  })
