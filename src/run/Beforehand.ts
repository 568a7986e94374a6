/**
 * What steps need of the world, a token for a hub say: asked for before a run begins, so that no day of training ends in its lack.
 */
import * as Effect from "effect/Effect"
import { canonicalJson } from "../model/Digest.ts"
import type { Node } from "../plan/Plan.ts"
import { oneByOne, type Seen, survey } from "./Peek.ts"

/** What could not be told now, of a step. */
export interface Untold {
  readonly step: string
  readonly label: string
  readonly text: string
}

/** Fails with the first lack of a step that is not known to be done; what is asked twice in the same words is asked once. */
export const requireWorld = Effect.fnUntraced(function* (nodes: ReadonlyArray<Node>, seen: Seen = survey(nodes)) {
  const untold: Array<Untold> = []
  if (!oneByOne(nodes, new Map()).some(({ definition }) => definition.beforehand !== undefined)) return untold
  const { standing, copies } = yield* seen
  const asked = new Set<string>()
  for (const { id, label, definition, params } of oneByOne(nodes, copies)) {
    if (definition.beforehand === undefined || standing.get(id)?._tag === "Cached") continue
    const question = canonicalJson([definition.kind, params as never])
    if (asked.has(question)) continue
    asked.add(question)
    const text = yield* definition.beforehand(params) as Effect.Effect<string | undefined, Error>
    if (text !== undefined) untold.push({ step: id, label, text })
  }
  return untold
})
