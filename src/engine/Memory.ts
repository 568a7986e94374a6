/**
 * What a training holds in memory, by component, reckoned before it begins. Each engine has a model of its own layout in
 * `<engine>/Memory.ts`; here is which of them, and what all of them say.
 */
import type { Architecture } from "../model/Architecture.ts"
import type { Components } from "./Components.ts"
import type { Numerics } from "./Engine.ts"
import { fewerRows, fewerWorkers, tfjsMemory } from "./tfjs/Memory.ts"
import { torchMemory, torchRemedies } from "./torch/Memory.ts"
import type { MachineSettings } from "./torch/Settings.ts"

/** What there is to train in. */
export interface Room {
  /** What computes: `host` shares the machine's memory. */
  readonly device: "host" | "gpu"
  /** Of one GPU; absent on a host. */
  readonly gpuBytes?: number
  readonly hostBytes: number
}

export interface TrainingMemory {
  /** Where it computes. */
  readonly parts: Components
  /** Beside a GPU, in the machine's memory: the worker itself, and moments that were moved there. */
  readonly host?: Components
  /** What was chosen so that it fits, in words: `micro-batches of 6 rows`. */
  readonly how: ReadonlyArray<string>
  /** Why it cannot be, whatever the machine has; or what it lacks. */
  readonly lacks?: string
}

export interface MemoryQuestion {
  readonly numerics: Pick<Numerics, "name" | "precision">
  readonly architecture: Architecture
  readonly rowsPerStep: number
  /** Tokens in a row. */
  readonly length: number
  readonly room: Room
  readonly settings?: MachineSettings
  /** Worker threads of the in-process engine. */
  readonly workers?: number
}

/** A change after which it fits: the least of those there are. */
export interface Remedy {
  readonly change: string
  /** The same question with the change made, for whoever wants to see that it fits. */
  readonly question: MemoryQuestion
}

const isTorch = ({ numerics }: MemoryQuestion): boolean => numerics.name === "torch"

/** A plan asks the same of each of its tails, and more than once. */
const answered = new Map<string, TrainingMemory>()

export const trainingMemory = (question: MemoryQuestion): TrainingMemory => {
  const asked = JSON.stringify(question)
  const answer = answered.get(asked) ?? (isTorch(question) ? torchMemory(question) : tfjsMemory(question))
  answered.set(asked, answer)
  return answer
}

const layersThatFit = (question: MemoryQuestion): ReadonlyArray<Remedy> => {
  const { architecture } = question
  const changed = (layers: number): MemoryQuestion => ({ ...question, architecture: { ...architecture, layers } })
  let fits = 0
  for (let low = 1, high = architecture.layers - 1; low <= high; ) {
    const middle = Math.floor((low + high) / 2)
    if (trainingMemory(changed(middle)).lacks === undefined) {
      fits = middle
      low = middle + 1
    } else high = middle - 1
  }
  const some = fits === 1 ? "1 layer" : `${fits} layers`
  return fits === 0 ? [] : [{ change: `take ${some} instead of ${architecture.layers}`, question: changed(fits) }]
}

/** The other engine, alone or with one change more. */
const torchInstead = (question: MemoryQuestion): ReadonlyArray<Remedy> => {
  const change = "take the PyTorch engine: `--engine torch`"
  const other = { ...question, numerics: { name: "torch", precision: "fp32" } }
  const more = torchRemedies(other).map((remedy) => ({ ...remedy, change: `${change}, and ${remedy.change}` }))
  return [{ change, question: other }, ...more]
}

/**
 * The least change after which a training that does not fit does: first what changes no result, then what changes the arithmetic,
 * another engine, fewer rows in a step, and last a smaller model. Undefined where nothing of this helps.
 */
export const remedyFor = (question: MemoryQuestion): Remedy | undefined => {
  const own = isTorch(question)
    ? torchRemedies(question)
    : [...fewerWorkers(question), ...torchInstead(question), ...fewerRows(question)]
  const fits = ({ question }: Remedy) => trainingMemory(question).lacks === undefined
  return own.find(fits) ?? layersThatFit(question).find(fits)
}
