/**
 * A run's forecast set against what happened, out of its journal alone: what `RunStarted` says was foretold, and the `StepFinished`
 * lines since. Steps that were reused took nothing and are left out.
 */
import { join } from "node:path"
import * as Schema from "effect/Schema"
import { read } from "../../store/Journal.ts"
import { withoutCopy } from "../FanOut.ts"
import type { Foretold } from "../Reporter.ts"

const Pair = Schema.Struct({
  forecast: Schema.optionalKey(Schema.Finite),
  outcome: Schema.optionalKey(Schema.Finite),
})
export const StepReckoning = Schema.Struct({
  step: Schema.String,
  label: Schema.String,
  seconds: Pair,
  memoryBytes: Pair,
  diskBytes: Pair,
})
export type StepReckoning = typeof StepReckoning.Type
export const Reckoning = Schema.Struct({
  steps: Schema.Array(StepReckoning),
  /** Of steps for which both are known. */
  seconds: Schema.Struct({ forecast: Schema.Finite, outcome: Schema.Finite, steps: Schema.Int }),
})
export type Reckoning = typeof Reckoning.Type

interface Line {
  readonly _tag?: string
  readonly step?: string
  readonly label?: string
  readonly seconds?: number
  readonly bytes?: number
  readonly peakMemoryBytes?: number
  readonly forecast?: ReadonlyArray<Foretold>
}

const pair = (forecast: number | undefined, outcome: number | undefined): typeof Pair.Type => ({
  ...(forecast !== undefined && { forecast }),
  ...(outcome !== undefined && { outcome }),
})

/** Undefined where the run was not foretold, or made nothing. Throws where the journal is not as it was written. */
export const reckon = (folder: string): Reckoning | undefined => {
  const lines = read(join(folder, "journal.ndjson")) as ReadonlyArray<Line>
  const foretold = lines.find(({ _tag }) => _tag === "RunStarted")?.forecast
  if (foretold === undefined) return undefined
  const byStep = new Map(foretold.map((one) => [one.step, one]))
  const steps = lines
    .filter(({ _tag }) => _tag === "StepFinished")
    .map(({ step, label, seconds, bytes, peakMemoryBytes }): StepReckoning => {
      // a copy in a fan-out was foretold as what it is a copy of
      const was = byStep.get(step!) ?? byStep.get(withoutCopy(step!))
      return {
        step: step!,
        label: label!,
        seconds: pair(was?.seconds, seconds),
        memoryBytes: pair(was?.memoryBytes, peakMemoryBytes),
        diskBytes: pair(was?.diskBytes, bytes),
      }
    })
  if (steps.length === 0) return undefined
  const both = steps.flatMap(({ seconds: { forecast, outcome } }) =>
    forecast === undefined || outcome === undefined ? [] : [{ forecast, outcome }],
  )
  return {
    steps,
    seconds: {
      forecast: both.reduce((sum, { forecast }) => sum + forecast, 0),
      outcome: both.reduce((sum, { outcome }) => sum + outcome, 0),
      steps: both.length,
    },
  }
}
