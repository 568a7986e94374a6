/** The arithmetic of a training run: shared memory, workers, one step at a time. It knows no files. */
import type { Architecture } from "../../model/Architecture.ts"
import type { Optimizer } from "../../model/Checkpoint.ts"
import { size } from "../../store/Disk.ts"
import type { StepResult, WeightsReference } from "./Jobs.ts"
import type { Pool } from "./Pool.ts"
import {
  allocate,
  Control,
  type Generation,
  laneCount,
  type TrainMemory,
  trainMemory,
  trainMemoryBytes,
} from "./TrainMemory.ts"

let sessions = 0
let versions = 0

/** A number no weights had before. */
export const nextVersion = (): number => ++versions

export class Trainer {
  readonly session: number
  readonly shared: TrainMemory
  readonly #pool: Pool
  readonly #architecture: Architecture
  readonly #rowsPerStep: number
  #version = nextVersion()
  #generation: 0 | 1 = 0

  private constructor(
    pool: Pool,
    architecture: Architecture,
    rowsPerStep: number,
    session: number,
    shared: TrainMemory,
  ) {
    this.#pool = pool
    this.#architecture = architecture
    this.#rowsPerStep = rowsPerStep
    this.session = session
    this.shared = shared
  }

  /** All zeros: weights are drawn (`initialise`) or copied into `current`. */
  static async open(pool: Pool, architecture: Architecture, rowsPerStep: number, context: number): Promise<Trainer> {
    const lanes = laneCount(rowsPerStep, context)
    const bytes = trainMemoryBytes(architecture, lanes)
    if (bytes > 2 ** 32)
      throw new Error(
        `weights, moments and ${lanes} gradients take ${size(bytes)}, WebAssembly addresses ${size(2 ** 32)}`,
      )
    const memory = allocate(architecture, lanes)
    const session = ++sessions
    await pool.all("open", () => ({ session, architecture, lanes, memory, workers: pool.size }))
    return new Trainer(pool, architecture, rowsPerStep, session, trainMemory(memory, architecture, lanes))
  }

  async initialise(seed: number): Promise<void> {
    await this.#pool.all("initialise", (index) => ({ session: this.session, seed, index }))
    this.#version = nextVersion()
  }

  get current(): Generation {
    return this.shared.generations[this.#generation]
  }
  /** As it was before the last step. */
  get previous(): Generation {
    return this.shared.generations[this.#generation === 0 ? 1 : 0]
  }

  get weights(): WeightsReference {
    const { weights } = this.current
    return {
      version: this.#version,
      architecture: this.#architecture,
      buffer: weights.buffer,
      offset: weights.byteOffset,
    }
  }

  /** `index`: 0-based number of the update. Where loss or gradient is not finite, the weights are left as they were. */
  async step(rows: Int32Array, index: number, lr: number, optimizer: Optimizer): Promise<StepResult> {
    const { control } = this.shared
    control.fill(0)
    const job = {
      session: this.session,
      weights: this.weights,
      generation: this.#generation,
      rows,
      rowsPerStep: this.#rowsPerStep,
      lr,
      update: index + 1,
      optimizer,
    }
    const answers = Array.from({ length: this.#pool.size }, (_, worker) =>
      this.#pool.ask(worker, "step", job).catch((error) => {
        Atomics.store(control, Control.abort, 1)
        throw error
      }),
    )
    const settled = await Promise.allSettled(answers)
    const failures = settled.filter((answer) => answer.status === "rejected").map(({ reason }) => reason as Error)
    if (failures.length > 0) throw failures.find(({ message }) => message !== "another worker failed") ?? failures[0]!
    const result = await answers[0]!
    if (Number.isFinite(result.loss) && Number.isFinite(result.gradNorm)) {
      this.#generation = this.#generation === 0 ? 1 : 0
      this.#version = nextVersion()
    }
    return result
  }

  async close(): Promise<void> {
    await this.#pool.all("close", () => ({ session: this.session }))
  }
}
