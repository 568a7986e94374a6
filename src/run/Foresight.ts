/**
 * Refusals that can be told of before their step runs: which artifact of a plan each of them looks at (`Foresight` in `plan/Step.ts`).
 */
import * as Effect from "effect/Effect"
import type { Node } from "../plan/Plan.ts"
import type { Foresight } from "../plan/Step.ts"
import { Store } from "../store/Store.ts"
import { producersOf, withBodies, withoutCopy } from "./FanOut.ts"
import type { Standing } from "./Peek.ts"

export interface Ahead {
  /** The step that may be refused. */
  readonly later: Node
  readonly check: (folder: string) => Effect.Effect<void, any, any>
}

/** Every step behind a later one that makes what its foresight looks at. */
export const makersOf = (
  later: Node,
  { into, input }: Foresight,
  producers: ReturnType<typeof producersOf>,
): ReadonlySet<Node> => {
  const makers = new Set<Node>()
  const seen = new Set<Node>()
  const visit = (node: Node): void => {
    if (seen.has(node)) return
    seen.add(node)
    if (node.definition.kind === into) for (const maker of producers(node.inputs[input] ?? [])) makers.add(maker)
    producers(Object.values(node.inputs).flat()).forEach(visit)
  }
  visit(later)
  return makers
}

/** By the step that makes it, who wants to look at an artifact. A copy in a fan-out counts as what it is a copy of. */
export const foreseen = (nodes: ReadonlyArray<Node>) => {
  const producers = producersOf(nodes)
  const byMaker = new Map<string, Array<Ahead>>()
  for (const later of withBodies(nodes)) {
    const { foresees } = later.definition
    if (foresees === undefined) continue
    for (const { id } of makersOf(later, foresees, producers)) {
      const ahead = byMaker.get(id) ?? []
      byMaker.set(id, ahead)
      ahead.push({ later, check: (folder) => foresees.check(later.params, folder) })
    }
  }
  return { after: (id: string): ReadonlyArray<Ahead> => byMaker.get(withoutCopy(id)) ?? [] }
}

/** Fails with the first refusal that what the store has already can tell of. */
export const refusals = Effect.fn("refusals")(function* (
  nodes: ReadonlyArray<Node>,
  standings: ReadonlyMap<string, Standing>,
) {
  const store = yield* Store
  const ahead = foreseen(nodes)
  for (const [id, standing] of standings)
    if (standing._tag === "Cached")
      for (const { check } of ahead.after(id))
        yield* Effect.catch(check(store.pathOf(standing.artifact)) as Effect.Effect<void, Error>, (refusal) =>
          // of what has rotted nothing is told: it will be made again
          Effect.matchEffect(store.verify(standing.artifact), {
            onFailure: () => Effect.void,
            onSuccess: () => Effect.fail(refusal),
          }),
        )
})
