/** Two figures of one model, over documents that a choice was made on and over others. */
import type { Measured } from "../model/Report.ts"
import { figure } from "./Comparison.ts"

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

/** What the holdout says of a mixed loss that a choice was made on, over so many documents. */
export const besideInWords = (documents: number, { validation: before, holdout: after }: Beside): string => {
  const shown = ({ value, ci95 }: Measured) =>
    `${figure(value)} [${figure(ci95?.[0] ?? Number.NaN)}, ${figure(ci95?.[1] ?? Number.NaN)}]`
  const verdict =
    apart({ validation: before, holdout: after }) === false
      ? "a difference that its 95% interval does not tell from none"
      : after.value > before.value
        ? "worse by a difference whose 95% interval leaves out none at all; the documents differ, or the choice flattered the winner"
        : "better by a difference whose 95% interval leaves out none at all; its documents are easier"
  return (
    `On ${documents} holdout documents that no choice was made on, val_loss_mixed is ${shown(after)}; ` +
    `on validation, where the choice was made, it was ${shown(before)}: ${verdict}.`
  )
}
