/**
 * Whether a plan can go here at all, asked before anything begins and not after hours: a machine that is large enough, an engine that
 * computes, and what its steps need of the world, a token for a hub say.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { totalOf } from "../engine/Components.ts"
import { canonicalJson } from "../model/Digest.ts"
import type { Node } from "../plan/Plan.ts"
import { ordinary } from "../plan/Resources.ts"
import { withBodies, withoutCopy } from "./FanOut.ts"
import { memoryOf, type Place } from "./forecast/Memory.ts"
import { type Capacity, tooSmall } from "./Machine.ts"
import type { Note } from "./Reporter.ts"
import { oneByOne, type Seen, survey } from "./Survey.ts"

/** A training that its engine has no memory for, with the least change after which it has. */
export class TrainingTooLarge extends Schema.TaggedError<TrainingTooLarge>()("TrainingTooLarge", {
  label: Schema.String,
  problem: Schema.String,
  remedy: Schema.optionalKey(Schema.String),
}) {
  override get message() {
    const remedy =
      this.remedy ?? "choose a smaller width, or a machine with more memory: fewer rows or layers are not enough"
    return `${this.label} does not fit: ${this.problem}\n  hint: ${remedy}`
  }
}

/** By the engine's own layout where it is known; else by what the step says that whoever does it needs. */
const refusalOf = (node: Node, machine: Capacity, engine: Place | undefined) => {
  const memory = engine && memoryOf(node, engine)
  if (memory === undefined) return tooSmall(machine, node.label, node.resources ?? ordinary)
  const { lacks, remedy } = memory
  if (lacks === undefined) return undefined
  return new TrainingTooLarge({ label: node.label, problem: lacks, ...(remedy !== undefined && { remedy }) })
}

/**
 * Fails when a step needs more than there is and is not known to be done. The steps of a fan-out over things to come are asked about
 * as if there were one of each.
 */
export const requireMachine = Effect.fnUntraced(function* (
  nodes: ReadonlyArray<Node>,
  machine: Capacity,
  engine?: Place,
  seen: Seen = survey(nodes),
) {
  const refused = withBodies(nodes).flatMap((node) => {
    const error = refusalOf(node, machine, engine)
    return error === undefined ? [] : [{ id: node.id, error }]
  })
  if (refused.length === 0) return
  const { standing } = yield* seen
  const done = (id: string): boolean => {
    const own = [...standing].filter(([copy]) => withoutCopy(copy) === id)
    return own.length > 0 && own.every(([, { _tag }]) => _tag === "Cached")
  }
  const first = refused.find(({ id }) => !done(id))
  if (first !== undefined) return yield* first.error
})

/** The plan with what trainings need on this engine in place of what any would: on a GPU another share of the machine's memory. */
export const withNeeds = (nodes: ReadonlyArray<Node>, engine: Place): ReadonlyArray<Node> =>
  nodes.map((node) => {
    if (node.body !== undefined) return { ...node, body: { ...node.body, nodes: withNeeds(node.body.nodes, engine) } }
    const memory = memoryOf(node, engine)
    if (memory === undefined) return node
    const { parts, host } = memory
    const gpus = engine.room.device === "gpu" ? (engine.settings?.processes ?? 1) : 0
    return { ...node, resources: { ...(node.resources ?? ordinary), memoryBytes: totalOf(host ?? parts), gpus } }
  })

/** Fails with what keeps the engine from computing, when a step that it computes is not known to be done. */
export const requireEngine = Effect.fnUntraced(function* <E>(
  nodes: ReadonlyArray<Node>,
  refusal: E | undefined,
  seen: Seen = survey(nodes),
) {
  if (refusal === undefined) return
  const { standing, copies } = yield* seen
  const left = oneByOne(nodes, copies).some(
    ({ id, definition }) => definition.computes && standing.get(id)?._tag !== "Cached",
  )
  if (left) return yield* Effect.fail(refusal)
})

/**
 * Fails with the first lack of a step that is not known to be done; what is asked twice in the same words is asked once. Gives what could
 * not be told now.
 */
export const requireWorld = Effect.fnUntraced(function* (nodes: ReadonlyArray<Node>, seen: Seen = survey(nodes)) {
  const untold: Array<Note> = []
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
