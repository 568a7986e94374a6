/**
 * Whether a plan can go on a machine at all, asked before anything begins and not after hours.
 */
import * as Effect from "effect/Effect"
import type { Node } from "../plan/Plan.ts"
import { ordinary } from "../plan/Resources.ts"
import { type Capacity, tooSmall } from "./Machine.ts"
import { survey } from "./Peek.ts"

/**
 * Fails when a step needs more than there is and is not known to be done. The steps of a fan-out over things to come are asked about
 * when there are items for them.
 */
export const requireMachine = Effect.fnUntraced(function* (nodes: ReadonlyArray<Node>, machine: Capacity) {
  const refused = nodes.flatMap((node) => {
    const error = tooSmall(machine, node.label, node.resources ?? ordinary)
    return error === undefined ? [] : [{ id: node.id, error }]
  })
  if (refused.length === 0) return
  const { standing } = yield* survey(nodes)
  const first = refused.find(({ id }) => standing.get(id)?._tag !== "Cached")
  if (first !== undefined) return yield* first.error
})
