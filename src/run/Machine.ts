/**
 * What this machine has for steps: cores, memory and GPUs, counted as this process may use them, and room on its disks.
 */
import { existsSync, readdirSync } from "node:fs"
import { availableParallelism, totalmem } from "node:os"
import * as Schema from "effect/Schema"
import type { Resources } from "../plan/Resources.ts"
import { freeBytes, size } from "../store/Disk.ts"

export interface Capacity {
  readonly cpus: number
  readonly memoryBytes: number
  readonly gpus: number
}

export interface Machine extends Capacity {
  /** Of the disk that a path is or would be on; undefined where that cannot be told. */
  readonly freeBytes: (path: string) => number | undefined
}

export class MachineTooSmall extends Schema.TaggedError<MachineTooSmall>()("MachineTooSmall", {
  label: Schema.String,
  what: Schema.Literals(["memoryBytes", "gpus"]),
  needed: Schema.Finite,
  has: Schema.Finite,
}) {
  override get message() {
    const { label, needed, has } = this
    return this.what === "memoryBytes"
      ? `${label} needs ${size(needed)} of memory, this machine has ${size(has)}\n  hint: choose a smaller model, or a machine with more memory`
      : `${label} needs ${needed} GPUs, this machine has ${has}\n  hint: choose a machine with more; \`CUDA_VISIBLE_DEVICES\` says which of them may be used`
  }
}

/** A limit set for the group of processes this one belongs to counts as what there is. */
const memoryBytes = (): number => {
  const limit = process.constrainedMemory()
  return limit > 0 ? Math.min(limit, totalmem()) : totalmem()
}

const DRIVER = "/proc/driver/nvidia/gpus"

/** As CUDA counts: a list ends at the first entry that names no device. */
const gpus = (): number => {
  const visible = process.env["CUDA_VISIBLE_DEVICES"]
  if (visible === undefined) return existsSync(DRIVER) ? readdirSync(DRIVER).length : 0
  const names = visible.split(",").map((name) => name.trim())
  const end = names.findIndex((name) => name === "" || name.startsWith("-"))
  return end === -1 ? names.length : end
}

export const thisMachine = (): Machine => ({
  cpus: availableParallelism(),
  memoryBytes: memoryBytes(),
  gpus: gpus(),
  freeBytes,
})

/** Why a step can never go on a machine; a lack of cores only means that it goes alone. */
export const tooSmall = (capacity: Capacity, label: string, needs: Resources): MachineTooSmall | undefined => {
  const what = (["memoryBytes", "gpus"] as const).find((name) => needs[name] > capacity[name])
  return what && new MachineTooSmall({ label, what, needed: needs[what], has: capacity[what] })
}
