/**
 * Refusals that can be told of before their step runs, such as that of a release which the licences of its texts do not allow
 * (`Foresight` in `plan/Step.ts`): by the plan alone, by what the store has already, or in a run as soon as the artifact is there that
 * they look at.
 */
import * as Effect from "effect/Effect"
import type { Node } from "../plan/Plan.ts"
import type { Foresight } from "../plan/Step.ts"
import { Store } from "../store/Store.ts"
import { producersOf, withBodies, withoutCopy } from "./FanOut.ts"
import type { Note } from "./Reporter.ts"
import { type Seen, type Standing, survey } from "./Survey.ts"

export interface Ahead {
  /** The step that may be refused. */
  readonly later: Node
  readonly check: (folder: string) => Effect.Effect<void, any, any>
}

/** Every step behind a later one that makes what its foresight looks at. */
const makersOf = (
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

/**
 * Fails with the first refusal that follows from the plan alone, of a step that is not done (`planned` of `Foresight`). Where what it
 * looks at is there already, that is looked at, and `refusals` refuses. Gives what is possible, in words.
 */
export const requirePlanned = Effect.fnUntraced(function* (nodes: ReadonlyArray<Node>, seen: Seen = survey(nodes)) {
  const allowed: Array<Note> = []
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
