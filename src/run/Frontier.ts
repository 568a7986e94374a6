/**
 * Which steps may begin: those whose inputs among the same steps are there. Every step is looked at once for each of its inputs and
 * waits without a fiber of its own, so a plan may have any number of them.
 */
import type { Node } from "../plan/Plan.ts"

export interface Frontier {
  /** Steps that wait for nothing. */
  readonly first: ReadonlyArray<Node>
  /** Steps that waited for this one and now for nothing more. */
  readonly after: (done: Node) => ReadonlyArray<Node>
}

export const frontier = (nodes: ReadonlyArray<Node>): Frontier => {
  const here = new Set(nodes.map(({ id }) => id))
  const missing = new Map<Node, number>()
  const waiting = new Map<string, Array<Node>>()
  for (const node of nodes) {
    const refs = Object.values(node.inputs).flat()
    const from = new Set(refs.flatMap((ref) => (ref._tag === "Output" && here.has(ref.step) ? [ref.step] : [])))
    missing.set(node, from.size)
    for (const step of from) {
      const others = waiting.get(step)
      if (others === undefined) waiting.set(step, [node])
      else others.push(node)
    }
  }
  return {
    first: nodes.filter((node) => missing.get(node) === 0),
    after: (done) =>
      (waiting.get(done.id) ?? []).filter((node) => {
        const left = missing.get(node)! - 1
        missing.set(node, left)
        return left === 0
      }),
  }
}
