/** Two figures of one model, over documents that a choice was made on and over others. */
import type { Measured } from "../model/Report.ts"

export interface Beside {
  readonly validation: Measured
  readonly holdout: Measured
}

const halfWidth = ({ ci95 }: Measured): number | undefined => (ci95 === undefined ? undefined : (ci95[1] - ci95[0]) / 2)

/**
 * Whether two figures of different documents differ by more than the 95% interval of their difference, whose half width is the root of
 * the sum of the squares of theirs; undefined where one has no interval. One figure lies outside of the other's interval alone in one
 * case of six where both are the same.
 */
export const apart = ({ validation, holdout }: Beside): boolean | undefined => {
  const [a, b] = [halfWidth(validation), halfWidth(holdout)]
  return a === undefined || b === undefined ? undefined : Math.abs(holdout.value - validation.value) > Math.hypot(a, b)
}
