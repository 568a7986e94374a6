/**
 * Sentences of an engine for people, while it is at work: what it chose, and why. Who listens is chosen where a step is run, and where
 * nobody does, nothing is lost.
 */
import * as Context from "effect/Context"

export const Remarks = Context.Reference<(text: string) => void>("exp/engine/Remarks", {
  defaultValue: () => () => {},
})
