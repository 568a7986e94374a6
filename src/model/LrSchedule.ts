/**
 * Warm-up–stable–decay learning rates (WSD: Hu et al. 2024, arXiv 2404.06395; decay shapes: Hägele et al. 2024, arXiv 2405.18392).
 *
 * Convention, stated in every training config: `step` is the 0-based index of the optimizer step about to be taken.
 * Warm-up step s runs at peak·(s+1)/W, so the last warm-up step is exactly at the peak; decay step s at u = (s−start+1)/D,
 * so the last decay step is exactly at the final rate. (epfml's code uses s/W and (s−start)/D.)
 */
import * as Schema from "effect/Schema"

export const DecayShape = Schema.Literals(["linear", "1-sqrt", "cosine", "square", "exp"])
export type DecayShape = typeof DecayShape.Type

const Natural = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
const Rate = Schema.Finite.check(Schema.isGreaterThan(0))

export const LrSchedule = Schema.Struct({
  peakLr: Rate,
  warmupSteps: Natural,
  /** Absent while the run is in its stable phase: the rate stays at the peak for ever. */
  decay: Schema.optionalKey(
    Schema.Struct({
      /** Index of the first step that decays. */
      startStep: Natural,
      steps: Schema.Int.check(Schema.isGreaterThan(0)),
      finalLr: Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0)),
      shape: DecayShape,
    }),
  ),
})
export type LrSchedule = typeof LrSchedule.Type

/** Learning rate of step `step` (0-based). */
export const lrAt = (schedule: LrSchedule, step: number): number => {
  const { peakLr, warmupSteps, decay } = schedule
  if (decay !== undefined && step >= decay.startStep) {
    const u = Math.min(1, (step - decay.startStep + 1) / decay.steps)
    if (decay.shape === "exp") return peakLr * (decay.finalLr / peakLr) ** u
    return decay.finalLr + (peakLr - decay.finalLr) * decayFactor(decay.shape, u)
  }
  return step < warmupSteps ? (peakLr * (step + 1)) / warmupSteps : peakLr
}

const decayFactor = (shape: Exclude<DecayShape, "exp">, u: number): number => {
  switch (shape) {
    case "linear":
      return 1 - u
    case "1-sqrt":
      return 1 - Math.sqrt(u)
    case "cosine":
      return 0.5 * (1 + Math.cos(Math.PI * u))
    case "square":
      return 1 - u * u
  }
}
