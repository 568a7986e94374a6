/**
 * The memory of a training in the in-process engine, by the layout of `TrainMemory.ts` and what the tape of `Ops.ts` keeps:
 *
 * | component   | once, shared by the workers                  | in each worker's WebAssembly heap                          |
 * |-------------|----------------------------------------------|------------------------------------------------------------|
 * | weights     | 2 × 4N: two generations                      | 4N, and as much again packed for validation                |
 * | gradients   | lanes × 4N                                   | 4N: a lane's, before it is added                           |
 * | optimizer   | 2 × 8N: two generations of both moments      |                                                            |
 * | activations |                                              | what is saved for the way back, and the way back's own     |
 * | logits      |                                              | rows × vocabulary, and their gradient                      |
 *
 * N counts parameters, rows the positions of a group of rows (`rowsAtOnce`). WebAssembly addresses 4 GiB: the shared memory is one
 * such, each worker's heap another.
 */
import type { Architecture } from "../../model/Architecture.ts"
import { keyValueWidth, parameterCount } from "../../model/Architecture.ts"
import { size } from "../../store/Disk.ts"
import { type Components, totalOf } from "../Components.ts"
import type { MemoryQuestion, Remedy, TrainingMemory } from "../Memory.ts"
import { laneCount, laneRows, rowsAtOnce, trainMemoryBytes } from "./TrainMemory.ts"

const ADDRESSABLE = 2 ** 32
/** Node with this program and the engine in it; and each worker thread with tfjs, before it is given a model. Measured. */
const PROCESS = 150e6
const WORKER = 60e6
/** A heap grows by a fifth at a time, and gives nothing back. */
const GROWTH = 1.2

/**
 * Floats a position and layer: what operations save on the way forward and what the way back makes. GPT-2 saves the input of two
 * norms (2d), of four products (d + d + d + 4d), of attention (3d) and of the GELU (4d).
 */
const floatsOfLayer = (architecture: Architecture): number => {
  const { width } = architecture
  if (architecture.family === "gpt2") return (16 + 17) * width
  const { feedForwardWidth } = architecture
  return 2 * (7 * width + 2 * keyValueWidth(architecture) + 4 * feedForwardWidth)
}

export const tfjsMemory = ({
  architecture,
  rowsPerStep,
  length,
  room,
  workers = 1,
}: MemoryQuestion): TrainingMemory => {
  const { layers, width, vocabulary } = architecture
  const floats = 4 * parameterCount(architecture)
  const lanes = laneCount(rowsPerStep, length)
  const [first, last] = laneRows(lanes - 1, lanes, rowsPerStep)
  const busy = Math.min(workers, lanes)
  const positions = Math.min(rowsAtOnce(length), last - first) * length
  const heap = {
    weights: 2 * floats,
    gradients: floats,
    activations: 4 * positions * (layers * floatsOfLayer(architecture) + 4 * width),
    logits: 4 * 2 * positions * vocabulary,
  }
  const parts: Components = {
    weights: 2 * floats + busy * GROWTH * heap.weights,
    gradients: lanes * floats + busy * GROWTH * heap.gradients,
    optimizer: 4 * floats,
    activations: busy * GROWTH * heap.activations,
    logits: busy * GROWTH * heap.logits,
    runtime: PROCESS + workers * WORKER,
  }
  const shared = trainMemoryBytes(architecture, lanes)
  const own = heap.weights + heap.gradients + heap.activations + heap.logits
  const all = totalOf(parts)
  const lacks =
    shared > ADDRESSABLE
      ? `weights, moments and ${lanes} ${lanes === 1 ? "gradient" : "gradients"} take ${size(shared)}, WebAssembly addresses ${size(ADDRESSABLE)}`
      : own > ADDRESSABLE
        ? `weights, gradient and activations of a worker take ${size(own)}, WebAssembly addresses ${size(ADDRESSABLE)}`
        : all > room.hostBytes
          ? `it takes ${size(all)}, this machine has ${size(room.hostBytes)}`
          : undefined
  const how = [
    `${lanes} gradient ${lanes === 1 ? "lane" : "lanes"}`,
    `${workers} ${workers === 1 ? "worker" : "workers"}`,
  ]
  return { parts, how, ...(lacks !== undefined && { lacks }) }
}

/** Slower, and the same bits. */
export const fewerWorkers = (question: MemoryQuestion): ReadonlyArray<Remedy> => {
  const { workers = 1 } = question
  return Array.from({ length: workers - 1 }, (_, i) => workers - 1 - i).map((count) => ({
    change: `set EXP_WORKERS=${count}: slower, and the same bits`,
    question: { ...question, workers: count },
  }))
}

/** Another training: from eight rows down there are fewer lanes, and so fewer gradients. */
export const fewerRows = (question: MemoryQuestion): ReadonlyArray<Remedy> => {
  const { rowsPerStep } = question
  const most = Math.min(rowsPerStep - 1, 7)
  return Array.from({ length: Math.max(0, most) }, (_, i) => most - i).map((count) => ({
    change: `take ${count} ${count === 1 ? "row" : "rows"} a step instead of ${rowsPerStep}`,
    question: { ...question, rowsPerStep: count },
  }))
}
