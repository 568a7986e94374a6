import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Layer } from "effect"
import { Engine } from "../../src/engine/Engine.ts"
import { type Experiment, plan } from "../../src/plan/Plan.ts"
import type { Progress } from "../../src/plan/Work.ts"
import { type Machine, thisMachine } from "../../src/run/Machine.ts"
import { Reporter, type RunEvent } from "../../src/run/Reporter.ts"
import { runPlan, until } from "../../src/run/Run.ts"
import { Store } from "../../src/store/Store.ts"

/** Dies when it is asked to work: none of these steps needs one. */
const NoEngine = Layer.mock(Engine, { numerics: { name: "none", numerics: 1, precision: "exact" } })

const facts = {
  experiment: "test",
  experimentFile: "test.ts",
  experimentSource: "",
  planText: "",
  parameters: {},
  startedAt: "2026-01-01T00:00:00.000Z",
  repository: "",
}

export interface Ran {
  /** Labels in the order they were made, and those found done. */
  readonly made: ReadonlyArray<string>
  readonly cached: ReadonlyArray<string>
  readonly notes: ReadonlyArray<string>
  readonly progress: ReadonlyArray<Progress>
  readonly error: Error | undefined
  readonly artifact: (label: string) => string
}

/** Cores enough for every step at once, whatever this machine has. */
const wide = { ...thisMachine(), cpus: 64 }

/** One run, as a process of its own would do it: nothing is remembered but what is in the store. */
export const run = (
  root: string,
  experiment: Experiment,
  options: { readonly jobs?: number; readonly until?: string; readonly machine?: Partial<Machine> } = {},
): Promise<Ran> =>
  Effect.gen(function* () {
    const { nodes } = yield* plan(experiment)
    const events: Array<RunEvent> = []
    const exit = yield* Effect.result(
      runPlan(options.until === undefined ? nodes : until(nodes, options.until)!, {
        jobs: options.jobs ?? 1,
        machine: { ...wide, ...options.machine },
        facts,
      }),
    ).pipe(
      Effect.provideService(Reporter, Reporter.of({ emit: (event) => void events.push(event) })),
      Effect.provide(Layer.mergeAll(Store.layer(root), NoEngine, NodeServices.layer)),
    )
    const labels = (tag: "StepFinished" | "StepCached") =>
      events.flatMap((event) => (event._tag === tag ? [event.label] : []))
    return {
      made: labels("StepFinished"),
      cached: labels("StepCached"),
      notes: events.flatMap((event) => (event._tag === "StepNote" ? [`${event.label}: ${event.text}`] : [])),
      progress: events.flatMap((event) => (event._tag === "StepProgress" ? [event.progress] : [])),
      error: exit._tag === "Failure" ? exit.failure : undefined,
      artifact: (label: string) => {
        const found = events.find((event) => "artifact" in event && event.label === label)
        if (found === undefined || !("artifact" in found)) throw new Error(`no step is called ${label}`)
        return found.artifact
      },
    }
  }).pipe(Effect.runPromise)
