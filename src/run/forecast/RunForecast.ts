/** A run's forecast: what is foretold when it begins, and what it teaches the next one when it is over. */
import * as Effect from "effect/Effect"
import { trainingFlopsPerToken } from "../../model/Architecture.ts"
import type { Node } from "../../plan/Plan.ts"
import type { Peak } from "../DeviceLog.ts"
import { withBodies, withoutCopy } from "../FanOut.ts"
import type { Foretold } from "../Reporter.ts"
import { type Seen, type Survey, stepsWithTimes, survey } from "../Survey.ts"
import { paceOf } from "./Calibration.ts"
import type { Circumstances } from "./Circumstances.ts"
import { amountOf, engineSeconds } from "./Duration.ts"
import type { StepMemory } from "./Memory.ts"
import { forecastOn } from "./PlanForecast.ts"
import { learn, type Took } from "./StepPaces.ts"
import { textsFor } from "./Texts.ts"

const computes = (nodes: ReadonlyArray<Node>): boolean =>
  withBodies(nodes).some(({ forecast }) => forecast.compute !== undefined)

/** As it will be measured: on a host the whole process, on a GPU what PyTorch's allocator gives out, without CUDA's own. */
const measurable = ({ parts, bytes }: StepMemory, { room }: Circumstances): number =>
  room.device === "gpu" ? bytes - parts.runtime : bytes

/** What of the forecast is set against the outcome when the run is over; undefined where nothing is computed. */
export const foretell = Effect.fnUntraced(function* (
  nodes: ReadonlyArray<Node>,
  here: Circumstances,
  seen: Seen = survey(nodes),
) {
  if (!computes(nodes)) return undefined
  const { steps } = forecastOn(nodes, yield* seen, here)
  return steps.map(
    ({ step, seconds, memory, diskBytes }): Foretold => ({
      step,
      ...(seconds !== undefined && { seconds }),
      ...(memory && { memoryBytes: measurable(memory, here) }),
      ...(diskBytes !== undefined && { diskBytes }),
    }),
  )
})

/** The share of the machine that a training takes needs the machine's peak, which a calibration knows. */
export const peaksOf = (nodes: ReadonlyArray<Node>, { calibrations }: Pick<Circumstances, "calibrations">) => {
  const architectures = new Map(withBodies(nodes).map(({ id, forecast }) => [id, forecast.compute?.architecture]))
  return (step: string): Peak | undefined => {
    const architecture = architectures.get(withoutCopy(step))
    const pace = architecture && paceOf(calibrations, architecture)
    return (
      pace && {
        flopsPerToken: trainingFlopsPerToken(architecture),
        flopsPerSecond: pace.calibration.matmulGflops * 1e9,
      }
    )
  }
}

/** What steps did beside the engine in a run that is over. */
const besides = (
  nodes: ReadonlyArray<Node>,
  seen: Survey,
  { calibrations, pathOf }: Circumstances,
  took: ReadonlyMap<string, number>,
): ReadonlyArray<Took> => {
  const textsOf = textsFor(nodes, seen, pathOf)
  return stepsWithTimes(nodes, seen.copies).flatMap(({ node }) => {
    const seconds = took.get(node.id)
    const { compute } = node.forecast
    if (seconds === undefined || compute?.training !== undefined) return []
    const texts = textsOf(node)
    const engine = engineSeconds(node, compute && paceOf(calibrations, compute.architecture), texts)
    const amount = amountOf(node, texts)
    return engine === undefined || !amount
      ? []
      : [{ kind: node.definition.kind, amount, seconds: Math.max(0, seconds - engine) }]
  })
}

/** Notes what steps took beside the engine; where that cannot be noted, the run is none the worse. */
export const remember = (
  runs: string,
  nodes: ReadonlyArray<Node>,
  here: Circumstances,
  took: ReadonlyMap<string, number>,
) =>
  Effect.ignore(
    Effect.flatMap(survey(nodes), (seen) =>
      Effect.try(() => learn(runs, here.device, besides(nodes, seen, here, took))),
    ),
  )
