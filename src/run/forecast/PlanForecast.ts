/**
 * What a plan will take on this machine: per step and in sum, time, memory, disk, energy, cost. The plan says how much work there is
 * (`plan/Forecast.ts`), a calibration how fast it goes, earlier runs what steps do beside an engine, the store how long the texts are.
 * What none of them knows is left out and named; nothing is guessed in silence.
 *
 * Tokens a parameter are held against the 20 of Hoffmann et al. 2022 (arXiv 2203.15556), the ratio that spends a budget of operations
 * best; utilisation is PaLM's (arXiv 2204.02311): the operations that training needs, as a share of the device's peak.
 */
import * as Schema from "effect/Schema"
import type { Node } from "../../plan/Plan.ts"
import { type Survey, stepsWithTimes } from "../Survey.ts"
import { type Pace, paceOf } from "./Calibration.ts"
import type { Circumstances } from "./Circumstances.ts"
import { bytesLeft } from "./Disk.ts"
import { StepForecast, stepOf } from "./StepForecast.ts"
import { textsFor } from "./Texts.ts"
import { addUp, Total, unknownOf } from "./Total.ts"

export const PlanForecast = Schema.Struct({
  engine: Schema.Struct({ name: Schema.String, numerics: Schema.Int, precision: Schema.String }),
  device: Schema.String,
  /** What there is to train in. */
  memoryBytes: Schema.Finite,
  steps: Schema.Array(StepForecast),
  /** Of the whole plan, and of what is not done yet. */
  total: Total,
  left: Total,
  parameters: Schema.Finite,
  /** Tokens to train on: `exact` once they are packed. */
  corpus: Schema.optionalKey(Schema.Struct({ tokens: Schema.Finite, exact: Schema.Boolean })),
  calibration: Schema.optionalKey(
    Schema.Struct({
      measuredAt: Schema.String,
      matmulGflops: Schema.Finite,
      /** False where the figures are those of another shape, scaled by operations. */
      ofThisShape: Schema.Boolean,
      otherLoad: Schema.optionalKey(Schema.Finite),
    }),
  ),
  watts: Schema.optionalKey(Schema.Finite),
  currency: Schema.optionalKey(Schema.String),
  /** True when a fan-out is counted at its bound. */
  atMost: Schema.Boolean,
  /** What is left out, in words. */
  unknown: Schema.Array(Schema.String),
})
export type PlanForecast = typeof PlanForecast.Type

/** What the paces of a plan rest on: the oldest of them. */
const measuredBy = (paces: ReadonlyArray<Pace>): PlanForecast["calibration"] => {
  const [oldest] = paces
    .map(({ calibration }) => calibration)
    .toSorted((a, b) => a.measuredAt.localeCompare(b.measuredAt))
  return (
    oldest && {
      measuredAt: oldest.measuredAt,
      matmulGflops: oldest.matmulGflops,
      ofThisShape: paces.every(({ measured }) => measured),
      ...(oldest.otherLoad !== undefined && { otherLoad: oldest.otherLoad }),
    }
  )
}

export const forecastOn = (nodes: ReadonlyArray<Node>, seen: Survey, circumstances: Circumstances): PlanForecast => {
  const { numerics, device, room, calibrations, rates } = circumstances
  const textsOf = textsFor(nodes, seen, circumstances.pathOf)
  const all = stepsWithTimes(nodes, seen.copies)
  const left = bytesLeft(all.map(({ node }) => node))
  const steps = all.map((one) => stepOf(one, seen, textsOf(one.node), left.get(one.node.id), circumstances))
  const trainings = all.filter(({ node }) => node.forecast.compute !== undefined)
  const paces = trainings.flatMap(({ node }) => paceOf(calibrations, node.forecast.compute!.architecture) ?? [])
  const calibration = measuredBy(paces)
  const watts = rates.watts ?? paces.find(({ calibration }) => calibration.watts !== undefined)?.calibration.watts
  const trained = all.find(({ node }) => node.forecast.compute?.training !== undefined)
  const texts = trained && textsOf(trained.node)
  const unsized = steps.filter(({ step }) => left.has(step) && left.get(step) === undefined)
  const memoryBytes = room.device === "gpu" ? (room.gpuBytes ?? 0) : room.hostBytes
  return {
    engine: numerics,
    device,
    memoryBytes,
    steps,
    total: addUp(steps, watts, rates),
    left: addUp(
      steps.filter(({ done }) => !done),
      watts,
      rates,
    ),
    parameters: steps.reduce((most, { parameters = 0 }) => Math.max(most, parameters), 0),
    ...(texts?.tokens && { corpus: { tokens: Math.round(texts.tokens.train), exact: texts.counted } }),
    ...(calibration && { calibration }),
    ...(watts !== undefined && { watts }),
    ...(rates.currency !== undefined && { currency: rates.currency }),
    atMost: all.some(({ times }) => times > 1),
    unknown: unknownOf(steps, { calibrated: trainings.length === 0 || paces.length > 0, unsized, watts, rates }),
  }
}
