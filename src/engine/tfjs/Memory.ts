/**
 * The memory of a training in the in-process engine, by what its code allocates: the layout of `TrainMemory.ts`, what tfjs's tape keeps of
 * the operations in `Ops.ts`, and the buffers of `Inference.ts`, which are there from the first validation on.
 *
 * | component   | once, shared by the workers | in each worker's WebAssembly heap                                                |
 * |-------------|-----------------------------|----------------------------------------------------------------------------------|
 * | weights     | 2 × N: two generations      | N; the tape's copies of them, N and of a tied table one more; N packed to measure |
 * | gradients   | lanes × N                   | N, and of a tied table two more: one of each use, and their sum                  |
 * | optimizer   | 4 × N: moments, twice       |                                                                                  |
 * | activations |                             | the tape's copies, the way back's own, the buffers of measuring                  |
 * | logits      |                             | rows × vocabulary, and their gradient; some rows to measure                      |
 * | runtime     | Node and this program       | V8's heap of a thread                                                            |
 *
 * N counts parameters, rows the positions of a group of rows (`rowsAtOnce`). All is held at once, when the way back comes to the table.
 * The tape copies what it saves, weights too: tfjs's `Identity`, by which it does, is free in other backends and copies in WebAssembly.
 *
 * WebAssembly addresses 4 GiB: the shared memory is one such, each worker's heap another. A heap grows in leaps, but what it has not
 * touched takes no memory. A lane goes to whichever worker is free, so in time each of them has had one. Not counted: the texts to
 * validate on, which this process holds.
 */
import type { Architecture } from "../../model/Architecture.ts"
import { keyValueWidth, parameterCount } from "../../model/Architecture.ts"
import { size } from "../../store/Disk.ts"
import { type Components, totalOf } from "../Components.ts"
import type { MemoryQuestion, Remedy, TrainingMemory } from "../Memory.ts"
import { laneCount, laneRows, rowsAtOnce, trainMemoryBytes } from "./TrainMemory.ts"

const ADDRESSABLE = 2 ** 32
/** Of `Inference.ts`, which a plan does not load. */
const LOGIT_ROWS = 128
/**
 * Measured (Node 24, Linux) in `exp run`: the program's files and code 75 MB, what Node and V8 allocate for themselves 40, objects and
 * garbage of the main thread 35 to 75.
 */
const PROCESS = 180e6
/**
 * Measured, of each worker thread: tfjs, objects and garbage 45 to 90 MB, of which the young ones are bounded (`Pool.ts`), V8's own 14.
 * Least in the first hundred steps, most before V8 collects old garbage for the first time, after some two thousand; this is between.
 */
const WORKER = 80e6

/** Floats a position and layer, those that the tape saves and those of the way back, in the order of the model. */
const floatsOfLayer = (architecture: Architecture): number => {
  const { width } = architecture
  // saved: inputs of two norms, of four products and of the GELU, q | k | v. Back: the same but for four sums and copies of the stream
  if (architecture.family === "gpt2") return (16 + 20) * width
  const { feedForwardWidth } = architecture
  const keyValue = keyValueWidth(architecture)
  return 6 * width + 2 * keyValue + 3 * feedForwardWidth + (11 * width + 4 * keyValue + 3 * feedForwardWidth)
}

/** Floats a position that `Inference.ts` has buffers for, logits aside. */
const floatsMeasured = (architecture: Architecture): number => {
  const { width } = architecture
  if (architecture.family === "gpt2") return 13 * width
  return 3 * width + 2 * keyValueWidth(architecture) + 3 * architecture.feedForwardWidth
}

/** At most held at once in a worker's heap, in bytes. */
const heapOf = (architecture: Architecture, positions: number) => {
  const { layers, width, vocabulary, context } = architecture
  const all = parameterCount(architecture)
  const table = vocabulary * width
  const tied = architecture.family === "gpt2" || architecture.tiedHead
  const packed = all - (tied ? 0 : table)
  return {
    weights: 4 * (2 * all + (tied ? table : 0) + packed),
    gradients: 4 * (all + (tied ? 2 * table : 0)),
    activations:
      4 * (positions * (layers * floatsOfLayer(architecture) + 4 * width) + context * floatsMeasured(architecture)),
    logits: 4 * vocabulary * (2 * positions + Math.min(context, LOGIT_ROWS)),
  }
}

export const tfjsMemory = ({
  architecture,
  rowsPerStep,
  length,
  room,
  workers = 1,
}: MemoryQuestion): TrainingMemory => {
  const floats = 4 * parameterCount(architecture)
  const lanes = laneCount(rowsPerStep, length)
  const [first, last] = laneRows(lanes - 1, lanes, rowsPerStep)
  const heap = heapOf(architecture, Math.min(rowsAtOnce(length), last - first) * length)
  const parts: Components = {
    weights: 2 * floats + workers * heap.weights,
    gradients: lanes * floats + workers * heap.gradients,
    optimizer: 4 * floats,
    activations: workers * heap.activations,
    logits: workers * heap.logits,
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
