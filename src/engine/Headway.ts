/**
 * How far an engine is with one request that takes long. Who listens is chosen where a step is run, and where nobody does, nothing is
 * lost. A training is told by its events instead.
 */
import * as Context from "effect/Context"

export interface Reached {
  readonly done: number
  readonly total: number
  /** What is counted: `documents`. */
  readonly unit: string
}

export const Headway = Context.Reference<(reached: Reached) => void>("exp/engine/Headway", {
  defaultValue: () => () => {},
})
