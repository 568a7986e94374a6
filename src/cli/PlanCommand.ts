/**
 * `exp plan`: what would be done, and what it costs. Touches nothing but the store's own notes.
 */
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import { forecastOf } from "../plan/Forecast.ts"
import { ordinary } from "../plan/Resources.ts"
import { codeDigest } from "../run/Code.ts"
import { refusals } from "../run/Foresight.ts"
import { survey } from "../run/Peek.ts"
import { renderPlan } from "./PlanText.ts"
import { open, services } from "./Project.ts"

export interface PlanSettings {
  readonly file: string
  readonly set: ReadonlyArray<string>
  readonly runs: string
  readonly json: boolean
}

export const plan = Effect.fn("exp plan")(function* (settings: PlanSettings) {
  const { plan } = yield* open(settings.file, settings.set, settings.runs)
  const seen = yield* survey(plan.nodes).pipe(Effect.provide(services(settings.runs)))
  const refuse = refusals(plan.nodes, seen.standing).pipe(Effect.provide(services(settings.runs)))
  if (!settings.json) {
    yield* Console.log(renderPlan(plan, seen, codeDigest()))
    return yield* refuse
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
    JSON.stringify({ experiment: plan.experiment, parameters: plan.parameters, steps, total: forecastOf(plan.nodes) }),
  )
  yield* refuse
})
