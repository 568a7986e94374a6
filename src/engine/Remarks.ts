/**
 * Sentences of an engine for people, while it is at work: what it chose, and why. Who listens is chosen where a step is run, and where
 * nobody does, nothing is lost.
 */
import * as Context from "effect/Context"

export const Remarks = Context.Reference<(text: string) => void>("exp/engine/Remarks", {
  defaultValue: () => () => {},
})

/** What a training says that is left before its end: where the next one goes on, or why that is further back. */
export const parting = {
  saved: (step: number): string => `saved at step ${step}`,
  unsaved: (problem: string): string =>
    `what it did last could not be saved: ${problem}\n  hint: mend that first; the same command goes on from what was saved before`,
}
