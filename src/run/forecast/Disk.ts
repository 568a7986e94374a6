/** What the artifacts of a plan will take on disk. */
import type { Node } from "../../plan/Plan.ts"

/** Bytes that steps leave, by id: as they say, or from what their inputs weigh; undefined where that rests on texts of unknown size. */
export const bytesLeft = (nodes: ReadonlyArray<Node>): ReadonlyMap<string, number | undefined> => {
  const left = new Map<string, number | undefined>()
  const weigh = (ids: ReadonlyArray<string>): number => ids.reduce((sum, id) => sum + (left.get(id) ?? 0), 0)
  const isUnknown = (id: string): boolean => left.has(id) && left.get(id) === undefined
  for (const { id, definition, params, inputs, forecast } of nodes) {
    if (definition.writes === undefined) {
      if (forecast.diskBytes) left.set(id, forecast.diskBytes)
      continue
    }
    const given = Object.entries(inputs).map(
      ([name, refs]) => [name, refs.flatMap((ref) => ("step" in ref ? [ref.step] : []))] as const,
    )
    const bytes = given.some(([, ids]) => ids.some(isUnknown))
      ? undefined
      : definition.writes(params, Object.fromEntries(given.map(([name, ids]) => [name, weigh(ids)])))
    // nothing at all is what cannot be seen yet
    left.set(id, bytes || undefined)
  }
  return left
}
