/**
 * `exp run`: do what the plan asks for and the store lacks, and say what came out.
 */
import { writeFileSync } from "node:fs"
import { basename, join, relative, resolve } from "node:path"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import { type Asked, inWords, settingsOf, unavailable } from "../engine/Engines.ts"
import type { Node } from "../plan/Plan.ts"
import { ordinary } from "../plan/Resources.ts"
import { packageRoot } from "../run/Code.ts"
import { DeviceLog } from "../run/DeviceLog.ts"
import { circumstances } from "../run/forecast/Circumstances.ts"
import { foretell, peaksOf, remember } from "../run/forecast/RunForecast.ts"
import { thisMachine } from "../run/Machine.ts"
import { requireEngine, requireMachine, requireWorld, withNeeds } from "../run/Needs.ts"
import { requirePlanned } from "../run/Refusals.ts"
import { Reporter, type RunEvent } from "../run/Reporter.ts"
import { runPlan, type StepResult, until } from "../run/Run.ts"
import * as RunFolder from "../run/RunFolder.ts"
import { secretOf } from "../run/Secrets.ts"
import { survey } from "../run/Survey.ts"
import { withLock } from "../store/Lock.ts"
import { Store } from "../store/Store.ts"
import { ExperimentRefused, NotFound } from "./Errors.ts"
import { summary } from "./Outcome.ts"
import { planText } from "./PlanText.ts"
import { ndjson, plain, type Renderer, terminal } from "./Progress.ts"
import { engineOf, open, services, setValues } from "./Project.ts"

export interface RunSettings {
  readonly file: string
  readonly set: ReadonlyArray<string>
  readonly engines: Asked
  readonly runs: string
  readonly jobs: number
  readonly until: string | undefined
  readonly json: boolean
}

const rendererFor = (json: boolean): Renderer => {
  const write = (text: string) => void process.stdout.write(text)
  if (json) return ndjson(write)
  return process.stdout.isTTY && process.env["TERM"] !== "dumb"
    ? terminal(write, () => process.stdout.columns ?? 80)
    : plain(write)
}

export const run = Effect.fn("exp run")(function* (settings: RunSettings) {
  const project = yield* open(settings.file, settings.set, settings.runs)
  const { file, plan } = project
  const wanted = settings.until === undefined ? plan.nodes : until(plan.nodes, settings.until)
  if (wanted === undefined)
    return yield* new NotFound({
      what: `no step of the plan is a \`${settings.until}\``,
      hint: `its steps are ${[...new Set(plan.nodes.map((node) => node.definition.kind))].join(", ")}`,
    })
  const secret = secretOf([file.source, JSON.stringify(plan.parameters), JSON.stringify(wanted.map(plainNode))])
  if (secret !== null)
    return yield* new ExperimentRefused({
      file: settings.file,
      problem: `it or a \`--set\` of it holds what looks like ${secret}; nothing was run`,
      hint: "run folders and releases keep the experiment: leave secrets to the environment, and revoke this one",
    })
  const machine = thisMachine()
  const engine = yield* engineOf(project, settings.engines)
  const there = services(settings.runs, engine)
  const here = yield* circumstances({
    runs: resolve(settings.runs),
    numerics: engine.numerics,
    machine,
    settings: settingsOf(engine),
    rates: {},
    pathOf: (artifact) => join(resolve(settings.runs), "store", artifact),
  })
  const nodes = withNeeds(wanted, here)
  // what the store has is looked at once, and only if somebody asks
  const seen = yield* Effect.cached(survey(nodes))
  const untold = yield* Effect.gen(function* () {
    yield* requireMachine(nodes, machine, here, seen)
    yield* requireEngine(nodes, unavailable(engine), seen)
    yield* requirePlanned(nodes, seen)
    return yield* requireWorld(nodes, seen)
  }).pipe(Effect.provide(there))
  const startedAt = new Date()
  const folder = RunFolder.create(resolve(settings.runs), plan.experiment, startedAt)
  const text = planText(plan.nodes)
  writeFileSync(join(folder, "experiment.ts"), file.source)
  writeFileSync(join(folder, "plan.txt"), `${text}\n`)
  writeFileSync(join(folder, "plan.json"), `${JSON.stringify(nodes.map(plainNode), null, 2)}\n`)
  const renderer = rendererFor(settings.json)
  const foretold = yield* foretell(nodes, here, seen).pipe(Effect.provide(there))
  const device = new DeviceLog(folder, peaksOf(nodes, here))
  const steps = new Map<string, RunFolder.RunRecord["steps"][number]>()
  const emit = (told: RunEvent): void => {
    const event = device.heed(told)
    if (event._tag === "StepCached" || event._tag === "StepFinished") {
      const { step, label, artifact } = event
      steps.set(step, { step, label, artifact, made: event._tag === "StepFinished" })
    }
    try {
      RunFolder.journal(folder, event)
    } finally {
      renderer.emit(event)
    }
  }
  const record = (rest: Pick<RunFolder.RunRecord, "outcome" | "releases"> & { readonly error?: string }): void =>
    RunFolder.writeRecord(folder, {
      experiment: plan.experiment,
      file: relative(process.cwd(), file.path),
      parameters: plan.parameters,
      startedAt: startedAt.toISOString(),
      finishedAt: rest.outcome === "running" ? null : new Date().toISOString(),
      steps: [...steps.values()],
      ...rest,
    })
  record({ outcome: "running", releases: [] })
  const work = nodes
    .filter((node) => node.body === undefined)
    .map(({ id, definition, forecast }) => ({ step: id, kind: definition.kind, amount: forecast.optimizerSteps ?? 1 }))
  const { cpus, memoryBytes, gpus } = machine
  emit({
    _tag: "RunStarted",
    experiment: plan.experiment,
    run: basename(folder),
    steps: work.length,
    work,
    jobs: settings.jobs,
    machine: { cpus, memoryBytes, gpus },
    ...(foretold && { forecast: foretold }),
    ...(engine.because !== undefined && { engine: inWords(engine) }),
  })
  for (const note of untold) emit({ _tag: "StepNote", ...note })

  yield* Effect.gen(function* () {
    const store = yield* Store
    const results = yield* runPlan(nodes, {
      jobs: settings.jobs,
      machine,
      facts: {
        experiment: plan.experiment,
        experimentFile: relative(process.cwd(), file.path),
        experimentSource: file.source,
        planText: text,
        parameters: setValues(project),
        startedAt: startedAt.toISOString(),
        repository: packageRoot,
      },
    }).pipe(Effect.provideService(Reporter, Reporter.of({ emit })))
    const releases = publishLinks(folder, results, store.pathOf)
    record({ outcome: "finished", releases })
    if (foretold !== undefined && device.seconds.size > 0)
      yield* remember(resolve(settings.runs), nodes, here, device.seconds)
    const made = results.filter((result) => result.made).length
    if (!settings.json) {
      renderer.close()
      for (const text of summary(
        results.map(({ manifest }) => manifest!.artifact),
        store.pathOf,
      ))
        process.stdout.write(`${text}\n`)
    }
    emit({
      _tag: "RunFinished",
      run: basename(folder),
      folder,
      releases,
      made,
      cached: results.length - made,
      seconds: (Date.now() - startedAt.getTime()) / 1000,
    })
    renderer.close()
    if (!settings.json) {
      process.stdout.write(`run      ${relative(process.cwd(), folder)}\n`)
      for (const release of releases) process.stdout.write(`release  ${relative(process.cwd(), release)}\n`)
    }
  }).pipe(
    (running) => withLock(RunFolder.lockOf(folder), () => {}, running),
    Effect.onInterrupt(() =>
      lastly(() => {
        emit({ _tag: "RunInterrupted", run: basename(folder) })
        record({ outcome: "interrupted", releases: [] })
      }),
    ),
    Effect.tapCause((cause) =>
      lastly(() => {
        renderer.close()
        if (Cause.hasInterruptsOnly(cause)) return
        const error = Cause.squash(cause)
        record({ outcome: "failed", releases: [], error: error instanceof Error ? error.message : String(error) })
      }),
    ),
    Effect.ensuring(
      Effect.sync(() => {
        renderer.close()
        device.close()
      }),
    ),
    Effect.provide(there),
  )
})

/** What is noted of a run that ended badly: when that fails too, as on a full disk, it is the end itself that is told. */
const lastly = (note: () => void): Effect.Effect<void> =>
  Effect.sync(() => {
    try {
      note()
    } catch (cause) {
      process.stderr.write(`the run's record could not be written: ${cause instanceof Error ? cause.message : cause}\n`)
    }
  })

/** A node as `plan.json` has it. */
const plainNode = ({ id, label, definition, params, inputs, forecast, resources, body }: Node): object => ({
  id,
  label,
  kind: definition.kind,
  version: definition.version,
  params,
  inputs,
  forecast,
  ...(body === undefined && { resources: resources ?? ordinary }),
  ...(body && { body: { ...body, nodes: body.nodes.map(plainNode) } }),
})

/** Readable pointers from the run's folder to its artifacts; returns the release folders. */
const publishLinks = (
  folder: string,
  results: ReadonlyArray<StepResult>,
  pathOf: (artifact: string) => string,
): ReadonlyArray<string> =>
  results.flatMap(({ node, manifest }) => {
    RunFolder.link(folder, node.label, pathOf(manifest!.artifact))
    return node.definition.kind === "release" ? [join(pathOf(manifest!.artifact), "release")] : []
  })
