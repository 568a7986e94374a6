/**
 * What goes into each matrix of a model, over rows of text: the sums of squares that an importance matrix is made of.
 *
 * Beside the engine and not a part of it: few tokens are asked for, and what comes out only weighs errors, so one computation serves
 * whatever engine trains and measures. Where no layer gives it, asking for it fails.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { Architecture } from "../model/Architecture.ts"
import { EngineFailed } from "./Engine.ts"

export interface ActivationsRequest {
  /** Folder of a checkpoint. */
  readonly checkpoint: string
  readonly architecture: Architecture
  /** Token ids, at most a context long each. */
  readonly rows: ReadonlyArray<ArrayLike<number>>
}

/** By tensor name: for every column of the matrix, as it is multiplied, the sum of squares of its inputs over all positions. */
export type Activations = (
  request: ActivationsRequest,
) => Effect.Effect<ReadonlyMap<string, Float64Array>, EngineFailed>

export const Activations = Context.Reference<Activations>("exp/engine/Activations", {
  defaultValue: () => () =>
    new EngineFailed({
      engine: "none",
      doing: "summing activations",
      problem: "nothing here can do it",
      hint: 'quantise with `importance: "without"`',
    }),
})
