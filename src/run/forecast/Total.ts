/** Steps added up, with what their time costs; and in words what is in no sum, because nobody knows it. */
import * as Schema from "effect/Schema"
import type { Rates } from "./Rates.ts"
import type { StepForecast } from "./StepForecast.ts"

export const Total = Schema.Struct({
  steps: Schema.Finite,
  optimizerSteps: Schema.Finite,
  tokens: Schema.Finite,
  flops: Schema.Finite,
  diskBytes: Schema.Finite,
  /** Of those steps whose time is known. */
  seconds: Schema.Finite,
  kilowattHours: Schema.optionalKey(Schema.Finite),
  cost: Schema.optionalKey(Schema.Finite),
  gramsCo2: Schema.optionalKey(Schema.Finite),
})
export type Total = typeof Total.Type

export const addUp = (steps: ReadonlyArray<StepForecast>, watts: number | undefined, rates: Rates): Total => {
  const sum = (of: (step: StepForecast) => number | undefined): number =>
    steps.reduce((all, step) => all + step.times * (of(step) ?? 0), 0)
  const seconds = sum((step) => step.seconds)
  const kilowattHours = watts === undefined ? undefined : (watts * seconds) / 3.6e6
  const { pricePerKwh, pricePerHour, gramsCo2PerKwh } = rates
  const forEnergy = kilowattHours === undefined || pricePerKwh === undefined ? undefined : kilowattHours * pricePerKwh
  const forTime = pricePerHour === undefined ? undefined : (pricePerHour * seconds) / 3600
  return {
    steps: sum(() => 1),
    optimizerSteps: sum((step) => step.optimizerSteps),
    tokens: sum((step) => step.tokens),
    flops: sum((step) => step.flops),
    diskBytes: sum((step) => step.diskBytes),
    seconds,
    ...(kilowattHours !== undefined && { kilowattHours }),
    ...((forEnergy !== undefined || forTime !== undefined) && { cost: (forEnergy ?? 0) + (forTime ?? 0) }),
    ...(kilowattHours !== undefined && gramsCo2PerKwh !== undefined && { gramsCo2: kilowattHours * gramsCo2PerKwh }),
  }
}

const listed = (labels: ReadonlyArray<string>): string => {
  const kinds = [...new Set(labels)]
  return kinds.length <= 4 ? kinds.join(", ") : `${kinds.slice(0, 3).join(", ")} and ${kinds.length - 3} more`
}

interface Known {
  /** Whether the engine was measured here, or is not asked for. */
  readonly calibrated: boolean
  /** Steps whose texts may be of any size. */
  readonly unsized: ReadonlyArray<StepForecast>
  readonly watts: number | undefined
  readonly rates: Rates
}

export const unknownOf = (
  steps: ReadonlyArray<StepForecast>,
  { calibrated, unsized, watts, rates }: Known,
): ReadonlyArray<string> => {
  const kindsOf = (some: (step: StepForecast) => boolean): string => listed(steps.filter(some).map(({ kind }) => kind))
  const noTime = kindsOf((step) => step.seconds === undefined && (calibrated || step.memory === undefined))
  const partly = kindsOf((step) => step.partly !== undefined)
  const noDisk = kindsOf((step) => !step.done && unsized.includes(step))
  return [
    ...(calibrated ? [] : ["time of the engine: it was not measured here, `exp forecast FILE --calibrate` does"]),
    ...(noTime === ""
      ? []
      : [`time of ${noTime}: no run here was timed yet${calibrated ? "" : " with the engine measured"}`]),
    ...(partly === "" ? [] : [`what ${partly} do beside the engine: no run here was timed yet`]),
    ...(noDisk === "" ? [] : [`disk of ${noDisk}: it depends on the texts`]),
    ...(watts === undefined ? ["energy: no watts are measured or given (`--watts`)"] : []),
    ...(rates.pricePerKwh === undefined && rates.pricePerHour === undefined
      ? ["cost: no price is given (`--price-per-kwh`, `--price-per-hour`)"]
      : rates.pricePerKwh !== undefined && watts === undefined
        ? ["cost of energy: no watts are measured or given (`--watts`)"]
        : []),
    ...(rates.gramsCo2PerKwh === undefined ? ["carbon dioxide: no rate is given (`--grams-co2-per-kwh`)"] : []),
  ]
}
