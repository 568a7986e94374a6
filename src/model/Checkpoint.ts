/**
 * A checkpoint is a folder:
 *
 * | file                    | what                                                                                    |
 * |-------------------------|-----------------------------------------------------------------------------------------|
 * | `model.safetensors`     | fp32 weights under their canonical names (`Architecture.tensors`)                       |
 * | `optimizer.safetensors` | AdamW moments, `<name>.exp_avg` and `<name>.exp_avg_sq`; only where training may go on   |
 * | `state.json`            | `CheckpointState`: where the run stood                                                  |
 *
 * It carries no clock, path or machine: two runs of one recipe write the same bytes.
 */
import * as Schema from "effect/Schema"
import { Architecture } from "./Architecture.ts"
import { LrSchedule } from "./LrSchedule.ts"

const Natural = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/** AdamW with decoupled decay on matrices only (Loshchilov and Hutter, arXiv 1711.05101) and clipping by the global norm. */
export const Optimizer = Schema.Struct({
  beta1: Schema.Finite,
  beta2: Schema.Finite,
  epsilon: Schema.Finite,
  weightDecay: Schema.Finite,
  clipNorm: Schema.Finite,
})
export type Optimizer = typeof Optimizer.Type
export const defaultOptimizer: Optimizer = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, clipNorm: 1 }

/** So much of a training is lost at most when it is interrupted between two checkpoints that are kept. */
export const RESUME_SECONDS = 120

export const CheckpointState = Schema.Struct({
  /** Optimizer steps taken: the next step to take has this index. */
  step: Natural,
  tokensSeen: Natural,
  /** Rows of the order file consumed: the whole of the data position. */
  rowCursor: Natural,
  architecture: Architecture,
  schedule: LrSchedule,
  optimizer: Optimizer,
  rowsPerStep: Schema.Int.check(Schema.isGreaterThan(0)),
  /** Seed of the initial weights and of the row order. */
  seed: Schema.Int,
  engine: Schema.Struct({ name: Schema.String, numerics: Schema.Int, precision: Schema.String }),
  modelSha256: Schema.String,
  /** Absent when the checkpoint keeps weights only. */
  optimizerSha256: Schema.optionalKey(Schema.String),
})
export type CheckpointState = typeof CheckpointState.Type

export const checkpointName = (step: number): string => `step_${step}`
