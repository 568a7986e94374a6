/** What one step will take. */
import * as Schema from "effect/Schema"
import type { Node } from "../../plan/Plan.ts"
import type { Texts } from "../../plan/Texts.ts"
import type { Survey } from "../Survey.ts"
import { type Pace, paceOf } from "./Calibration.ts"
import type { Circumstances } from "./Circumstances.ts"
import { durationOf } from "./Duration.ts"
import { memoryOf, StepMemory } from "./Memory.ts"

export const StepForecast = Schema.Struct({
  step: Schema.String,
  label: Schema.String,
  kind: Schema.String,
  done: Schema.Boolean,
  /** Above 1: a step of a fan-out that may grow to so many. */
  times: Schema.Int,
  parameters: Schema.optionalKey(Schema.Finite),
  optimizerSteps: Schema.optionalKey(Schema.Finite),
  tokens: Schema.optionalKey(Schema.Finite),
  flops: Schema.optionalKey(Schema.Finite),
  diskBytes: Schema.optionalKey(Schema.Finite),
  /** Of one of `times`. `partly`: what of its work no figure covers. */
  seconds: Schema.optionalKey(Schema.Finite),
  partly: Schema.optionalKey(Schema.String),
  memory: Schema.optionalKey(StepMemory),
  tokensPerSecond: Schema.optionalKey(Schema.Finite),
  mfu: Schema.optionalKey(Schema.Finite),
  /** At its end, the steps before it included. */
  tokensSeen: Schema.optionalKey(Schema.Finite),
  tokensPerParameter: Schema.optionalKey(Schema.Finite),
  epochs: Schema.optionalKey(Schema.Finite),
})
export type StepForecast = typeof StepForecast.Type

/** What a training makes of the machine. */
const speedOf = ({ forecast }: Node, pace: Pace | undefined): Pick<StepForecast, "tokensPerSecond" | "mfu"> => {
  const { optimizerSteps, tokens, flops, compute } = forecast
  if (compute?.training === undefined || pace === undefined || !optimizerSteps) return {}
  const stepSeconds = pace.perStep + pace.perRow * compute.training.rowsPerStep
  return {
    tokensPerSecond: tokens! / optimizerSteps / stepSeconds,
    mfu: flops! / optimizerSteps / stepSeconds / (pace.calibration.matmulGflops * 1e9),
  }
}

/** How far a training gets through its texts, the steps before it included. */
const seenBy = (
  { forecast: { optimizerSteps, tokens, parameters, compute } }: Node,
  texts: Texts | undefined,
): Pick<StepForecast, "tokensSeen" | "tokensPerParameter" | "epochs"> => {
  const startStep = compute?.training?.startStep
  if (startStep === undefined || tokens === undefined || !optimizerSteps) return {}
  const tokensSeen = (tokens / optimizerSteps) * (startStep + optimizerSteps)
  return {
    tokensSeen,
    tokensPerParameter: tokensSeen / parameters!,
    ...(texts?.tokens && texts.tokens.train > 0 && { epochs: tokensSeen / texts.tokens.train }),
  }
}

export const stepOf = (
  { node, times }: { readonly node: Node; readonly times: number },
  seen: Survey,
  texts: Texts | undefined,
  diskBytes: number | undefined,
  circumstances: Circumstances,
): StepForecast => {
  const { parameters, optimizerSteps, tokens, flops, compute } = node.forecast
  const pace = compute && paceOf(circumstances.calibrations, compute.architecture)
  const took = durationOf(node, pace, texts, circumstances.paces)
  const memory = memoryOf(node, circumstances)
  return {
    step: node.id,
    label: node.label,
    kind: node.definition.kind,
    done: seen.standing.get(node.id)?._tag === "Cached",
    times,
    ...(parameters !== undefined && { parameters }),
    ...(optimizerSteps !== undefined && { optimizerSteps }),
    ...(tokens !== undefined && { tokens }),
    ...(flops !== undefined && { flops }),
    ...(diskBytes !== undefined && { diskBytes }),
    ...(took && { seconds: took.seconds, ...(took.without !== undefined && { partly: took.without }) }),
    ...(memory && { memory }),
    ...speedOf(node, pace),
    ...seenBy(node, texts),
  }
}
