/**
 * Whether a plan can go on a machine at all, asked before anything begins and not after hours.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { totalOf } from "../engine/Components.ts"
import { remedyFor, trainingMemory } from "../engine/Memory.ts"
import type { Node } from "../plan/Plan.ts"
import { ordinary } from "../plan/Resources.ts"
import { withBodies, withoutCopy } from "./FanOut.ts"
import { type Circumstances, memoryQuestion } from "./Forecast.ts"
import { type Capacity, tooSmall } from "./Machine.ts"
import { oneByOne, type Seen, survey } from "./Peek.ts"

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

type Engine = Pick<Circumstances, "numerics" | "room" | "workers" | "settings">

/** By the engine's own layout where it is known; else by what the step says that whoever does it needs. */
const refusalOf = (node: Node, machine: Capacity, engine: Engine | undefined) => {
  const question = engine && memoryQuestion(node, engine)
  if (question === undefined) return tooSmall(machine, node.label, node.resources ?? ordinary)
  const { lacks } = trainingMemory(question)
  if (lacks === undefined) return undefined
  const remedy = remedyFor(question)?.change
  return new TrainingTooLarge({ label: node.label, problem: lacks, ...(remedy !== undefined && { remedy }) })
}

/**
 * Fails when a step needs more than there is and is not known to be done. The steps of a fan-out over things to come are asked about
 * as if there were one of each.
 */
export const requireMachine = Effect.fnUntraced(function* (
  nodes: ReadonlyArray<Node>,
  machine: Capacity,
  engine?: Engine,
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
export const withNeeds = (nodes: ReadonlyArray<Node>, engine: Engine): ReadonlyArray<Node> =>
  nodes.map((node) => {
    if (node.body !== undefined) return { ...node, body: { ...node.body, nodes: withNeeds(node.body.nodes, engine) } }
    const question = memoryQuestion(node, engine)
    if (question === undefined) return node
    const { parts, host } = trainingMemory(question)
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
