/**
 * What can be known before a run begins, so that no day of training ends in it: what steps need of the world, a token for a hub say,
 * and what the plan by itself speaks against, such as a release that the licences of its texts do not allow.
 */
import * as Effect from "effect/Effect"
import { canonicalJson } from "../model/Digest.ts"
import type { Node } from "../plan/Plan.ts"
import type { Foresight } from "../plan/Step.ts"
import { Store } from "../store/Store.ts"
import { producersOf, withBodies } from "./FanOut.ts"
import { makersOf } from "./Foresight.ts"
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

/** What the plan allows a step, in words. */
export interface Allowed {
  readonly step: string
  readonly label: string
  readonly text: string
}

/**
 * Fails with the first refusal that follows from the plan alone, of a step that is not done (`planned` of `Foresight`). Where what it
 * looks at is there already, that is looked at, and `refusals` refuses.
 */
export const requirePlanned = Effect.fnUntraced(function* (nodes: ReadonlyArray<Node>, seen: Seen = survey(nodes)) {
  const allowed: Array<Allowed> = []
  const later = withBodies(nodes).filter(({ definition }) => definition.foresees?.planned !== undefined)
  if (later.length === 0) return allowed
  const { standing } = yield* seen
  const producers = producersOf(nodes)
  const store = yield* Store
  const isDone = ({ id }: Node): boolean => standing.get(id)?._tag === "Cached"
  const told = ({ params }: Node, foresees: Foresight, maker: Node): Effect.Effect<string | undefined, Error> => {
    const here = standing.get(maker.id)
    if (here?._tag === "Cached")
      return Effect.orElseSucceed(
        foresees.check(params, store.pathOf(here.artifact)) as Effect.Effect<string | undefined, Error>,
        () => undefined,
      )
    const given = Object.entries(maker.inputs).map(([name, refs]) => [
      name,
      producers(refs).map(({ params }) => params),
    ])
    return foresees.planned!(params, maker.params, Object.fromEntries(given)) as Effect.Effect<
      string | undefined,
      Error
    >
  }
  for (const node of later.filter((one) => !isDone(one))) {
    const foresees = node.definition.foresees!
    for (const maker of makersOf(node, foresees, producers)) {
      const text = yield* told(node, foresees, maker)
      if (text !== undefined) allowed.push({ step: node.id, label: node.label, text })
    }
  }
  return allowed
})
