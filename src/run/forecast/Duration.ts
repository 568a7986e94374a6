/** How long a step will take: what it asks of the engine, by a calibration, and what it does beside it, by runs before. */
import { checkpointBytes } from "../../model/Architecture.ts"
import { RESUME_SECONDS } from "../../model/Checkpoint.ts"
import type { Node } from "../../plan/Plan.ts"
import type { Texts } from "../../plan/Texts.ts"
import type { Pace } from "./Calibration.ts"
import type { StepPaces } from "./StepPaces.ts"

export interface Duration {
  readonly seconds: number
  /** What is not in it. */
  readonly without?: string
}

const trainingSeconds = (node: Node, pace: Pace, texts: Texts | undefined): number => {
  const { optimizerSteps = 0, diskBytes = 0, compute } = node.forecast
  const { rowsPerStep, validations, samples } = compute!.training!
  const steps = optimizerSteps * (pace.perStep + pace.perRow * rowsPerStep)
  const drawn = (samples.texts * samples.newTokens) / pace.drawnTokensPerSecond
  const measured = (texts?.tokens?.trainedValidation ?? 0) / pace.measuredTokensPerSecond
  const resumed = (steps / RESUME_SECONDS) * checkpointBytes(compute!.architecture, true)
  return steps + validations * (measured + drawn) + (diskBytes + resumed) / pace.writtenBytesPerSecond
}

/** What the engine is asked for, in seconds; undefined where nobody knows its pace. */
export const engineSeconds = (node: Node, pace: Pace | undefined, texts: Texts | undefined): number | undefined => {
  const { compute } = node.forecast
  if (compute === undefined) return 0
  if (pace === undefined) return undefined
  if (compute.training !== undefined) return trainingSeconds(node, pace, texts)
  const { validation = 0, holdout = 0 } = compute.passes ?? {}
  const measured = validation * (texts?.tokens?.validation ?? 0) + holdout * (texts?.tokens?.holdout ?? 0)
  const { texts: drawn = 0, newTokens = 0 } = compute.drawn ?? {}
  return measured / pace.measuredTokensPerSecond + (drawn * newTokens) / pace.drawnTokensPerSecond
}

/** What a step's time beside the engine grows with: the texts it reads, in bytes; any other is one step. */
export const amountOf = ({ definition }: Node, texts: Texts | undefined): number | undefined =>
  definition.readsTexts ? texts?.bytes : 1

export const durationOf = (
  node: Node,
  pace: Pace | undefined,
  texts: Texts | undefined,
  paces: StepPaces,
): Duration | undefined => {
  const engine = engineSeconds(node, pace, texts)
  const { compute } = node.forecast
  if (compute?.training !== undefined) return engine === undefined ? undefined : { seconds: engine }
  const own = paces[node.definition.kind]
  const amount = amountOf(node, texts)
  const beside = own && amount !== undefined ? (own.seconds / own.amount) * amount : undefined
  if (compute === undefined) return beside === undefined ? undefined : { seconds: beside }
  if (engine === undefined) return undefined
  const lacking = texts?.tokens === undefined && compute.passes !== undefined ? "documents, not packed yet" : undefined
  const without = beside === undefined ? "what it does beside the engine" : lacking
  return { seconds: engine + (beside ?? 0), ...(without !== undefined && { without }) }
}
