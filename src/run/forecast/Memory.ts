/** The memory a training will take, by what takes it, and the least change after which it fits where it does not. */
import * as Schema from "effect/Schema"
import { totalOf } from "../../engine/Components.ts"
import { type MemoryQuestion, remedyFor, trainingMemory } from "../../engine/Memory.ts"
import type { Node } from "../../plan/Plan.ts"
import type { Circumstances } from "./Circumstances.ts"

const Bytes = Schema.Finite
const Components = Schema.Struct({
  weights: Bytes,
  gradients: Bytes,
  optimizer: Bytes,
  activations: Bytes,
  logits: Bytes,
  runtime: Bytes,
})
export const StepMemory = Schema.Struct({
  parts: Components,
  /** Beside a GPU, in the machine's memory. */
  host: Schema.optionalKey(Components),
  bytes: Bytes,
  how: Schema.Array(Schema.String),
  /** Why it does not fit, and the least change after which it does. */
  lacks: Schema.optionalKey(Schema.String),
  remedy: Schema.optionalKey(Schema.String),
})
export type StepMemory = typeof StepMemory.Type

/** What trains, and where. */
export type Place = Pick<Circumstances, "numerics" | "room" | "workers" | "settings">

/** The question of how a step of training fits, where it is one. */
export const memoryQuestion = (
  node: Node,
  { numerics, room, workers, settings }: Place,
): MemoryQuestion | undefined => {
  const { compute } = node.forecast
  if (compute?.training === undefined) return undefined
  const { architecture, training } = compute
  return {
    numerics,
    architecture,
    rowsPerStep: training.rowsPerStep,
    length: architecture.context,
    room,
    workers,
    ...(settings && { settings }),
  }
}

export const memoryOf = (node: Node, place: Place): StepMemory | undefined => {
  const question = memoryQuestion(node, place)
  if (question === undefined) return undefined
  const { parts, host, how, lacks } = trainingMemory(question)
  const remedy = lacks === undefined ? undefined : remedyFor(question)?.change
  return {
    parts,
    ...(host && { host }),
    bytes: totalOf(parts),
    how,
    ...(lacks !== undefined && { lacks }),
    ...(remedy !== undefined && { remedy }),
  }
}
