/**
 * `exp plan`: what would be done, and what it costs. Touches nothing but the store's own notes.
 */
import { join, resolve } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import { type Asked, inWords, settingsOf } from "../engine/Engines.ts"
import { forecastOf } from "../plan/Forecast.ts"
import { ordinary } from "../plan/Resources.ts"
import { codeDigest } from "../run/Code.ts"
import { circumstances } from "../run/forecast/Circumstances.ts"
import { forecastOn } from "../run/forecast/PlanForecast.ts"
import { ratesOf } from "../run/forecast/Rates.ts"
import { thisMachine } from "../run/Machine.ts"
import { withNeeds } from "../run/Needs.ts"
import { refusals, requirePlanned } from "../run/Refusals.ts"
import { survey } from "../run/Survey.ts"
import { renderPlan } from "./PlanText.ts"
import { engineOf, open, services } from "./Project.ts"

export interface PlanSettings {
  readonly file: string
  readonly set: ReadonlyArray<string>
  readonly engines: Asked
  readonly runs: string
  readonly json: boolean
}

export const plan = Effect.fn("exp plan")(function* (settings: PlanSettings) {
  const project = yield* open(settings.file, settings.set, settings.runs)
  const engine = yield* engineOf(project, settings.engines)
  const there = services(settings.runs, engine)
  const runs = resolve(settings.runs)
  const here = yield* circumstances({
    runs,
    numerics: engine.numerics,
    machine: thisMachine(),
    settings: settingsOf(engine),
    rates: yield* ratesOf(runs, {}),
    pathOf: (artifact) => join(runs, "store", artifact),
  })
  const nodes = withNeeds(project.plan.nodes, here)
  const plan = { ...project.plan, nodes }
  const seen = yield* survey(nodes).pipe(Effect.provide(there))
  const forecast = forecastOn(nodes, seen, here)
  const refuse = refusals(plan.nodes, seen.standing).pipe(Effect.provide(there))
  const ahead = requirePlanned(plan.nodes, Effect.succeed(seen)).pipe(Effect.provide(there))
  if (!settings.json) {
    yield* Console.log(renderPlan(plan, seen, codeDigest(), forecast, Date.now()))
    if (engine.because !== undefined) yield* Console.log(`computed by ${inWords(engine)}`)
    yield* refuse
    for (const { label, text } of yield* ahead) yield* Console.log(`${label} under ${text}`)
    return
  }
  const steps = plan.nodes.map(({ id, label, definition, params, inputs, forecast, resources, body }) => ({
    id,
    label,
    kind: definition.kind,
    params,
    inputs,
    forecast,
    ...(body === undefined && { resources: resources ?? ordinary }),
    standing: seen.standing.get(id),
  }))
  yield* Console.log(
    JSON.stringify({
      experiment: plan.experiment,
      parameters: plan.parameters,
      engine: engine.numerics,
      steps,
      total: forecastOf(plan.nodes),
      forecast,
    }),
  )
  yield* refuse
  yield* ahead
})
