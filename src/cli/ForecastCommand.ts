/**
 * `exp forecast`: of an experiment, what it will take on this machine; of a run, what was foretold beside what happened.
 *
 * `--calibrate` measures each shape of the plan for some seconds first and keeps what it measured. Nothing else here starts an engine.
 */
import { existsSync } from "node:fs"
import { extname, join, resolve } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import { type Asked, settingsOf } from "../engine/Engines.ts"
import type { Node } from "../plan/Plan.ts"
import { withBodies } from "../run/FanOut.ts"
import { keep } from "../run/forecast/Calibration.ts"
import { type Circumstances, circumstances } from "../run/forecast/Circumstances.ts"
import { forecastOn } from "../run/forecast/PlanForecast.ts"
import { type Rates, ratesOf } from "../run/forecast/Rates.ts"
import { reckon } from "../run/forecast/Reckoning.ts"
import { thisMachine } from "../run/Machine.ts"
import { survey } from "../run/Survey.ts"
import { resolveRun } from "../run/Tags.ts"
import { NotFound } from "./Errors.ts"
import { renderForecast } from "./ForecastText.ts"
import { titleOf } from "./PlanText.ts"
import { engineOf, open, services } from "./Project.ts"
import { renderReckoning } from "./ReckoningText.ts"

export interface ForecastSettings {
  /** An experiment file, or a run. */
  readonly of: string
  readonly set: ReadonlyArray<string>
  readonly engines: Asked
  readonly runs: string
  readonly json: boolean
  readonly calibrate: boolean
  readonly rates: Rates
}

const isFile = (of: string): boolean => extname(of) === ".ts" || extname(of) === ".mts"

export const forecast = Effect.fn("exp forecast")(function* (settings: ForecastSettings) {
  if (!isFile(settings.of) && !existsSync(settings.of)) return yield* outcome(settings)
  if (!isFile(settings.of) && existsSync(join(settings.of, "run.json"))) return yield* outcome(settings)
  const runs = resolve(settings.runs)
  const rates = yield* ratesOf(runs, settings.rates)
  const project = yield* open(settings.of, settings.set, settings.runs)
  const engine = yield* engineOf(project, settings.engines)
  const there = services(settings.runs, engine)
  const gather = circumstances({
    runs,
    numerics: engine.numerics,
    machine: thisMachine(),
    settings: settingsOf(engine),
    rates,
    pathOf: (artifact) => join(runs, "store", artifact),
  })
  if (settings.calibrate) yield* measure(project.plan.nodes, yield* gather, settings).pipe(Effect.provide(there))
  const seen = yield* survey(project.plan.nodes).pipe(Effect.provide(there))
  const found = forecastOn(project.plan.nodes, seen, yield* gather)
  yield* Console.log(
    settings.json
      ? JSON.stringify({ experiment: project.plan.experiment, parameters: project.plan.parameters, forecast: found })
      : renderForecast(titleOf(project.plan), found, Date.now()),
  )
})

/** Each shape once, with the rows of its largest step and the texts of its largest drawing. */
const measure = Effect.fnUntraced(function* (
  nodes: ReadonlyArray<Node>,
  { device }: Circumstances,
  { runs, json }: ForecastSettings,
) {
  const { calibrate } = yield* Effect.promise(() => import("../run/forecast/Calibrate.ts"))
  const computing = withBodies(nodes).flatMap(({ forecast }) => forecast.compute ?? [])
  const shapes = Map.groupBy(computing, ({ architecture }) => JSON.stringify(architecture))
  for (const some of shapes.values()) {
    const rows = some.flatMap(({ training }) => training?.rowsPerStep ?? [])
    const texts = some.flatMap(({ drawn }) => drawn?.atOnce ?? [])
    const calibration = yield* calibrate({
      architecture: some[0]!.architecture,
      rowsPerStep: Math.max(1, ...rows),
      texts: Math.max(1, ...texts),
      device,
      scratch: resolve(runs, ".cache", "scratch"),
      note: (text) => {
        if (!json) process.stderr.write(`measuring: ${text}\n`)
      },
    })
    keep(resolve(runs), calibration)
  }
})

const outcome = Effect.fnUntraced(function* ({ of, runs, json }: ForecastSettings) {
  const { name, folder } = yield* resolveRun(resolve(runs), of)
  const reckoning = yield* Effect.try({
    try: () => reckon(folder),
    catch: (cause) =>
      new NotFound({
        what: `the journal of ${name} cannot be read: ${cause instanceof Error ? cause.message : cause}`,
        hint: "`exp check` says what else is damaged",
      }),
  })
  if (reckoning === undefined)
    return yield* new NotFound({
      what: `${name} has no forecast to be set against its outcome`,
      hint: "runs that compute something have one; name an experiment file to see what it would take",
    })
  yield* Console.log(json ? JSON.stringify({ run: name, ...reckoning }) : renderReckoning(reckoning))
})
