/** What of this machine a forecast depends on, gathered: memory, processor or GPU, and what was measured and noted here before. */
import * as Effect from "effect/Effect"
import type { Numerics } from "../../engine/Engine.ts"
import type { Room } from "../../engine/Memory.ts"
import { backend, workersOf } from "../../engine/tfjs/Numerics.ts"
import type { MachineSettings } from "../../engine/torch/Settings.ts"
import type { Capacity } from "../Machine.ts"
import { type Calibration, hostDevice, kept } from "./Calibration.ts"
import type { Rates } from "./Rates.ts"
import { pacesOf, type StepPaces } from "./StepPaces.ts"

/** Everything outside the plan that a forecast depends on. */
export interface Circumstances {
  readonly numerics: Numerics
  readonly device: string
  readonly room: Room
  readonly workers: number
  readonly settings?: MachineSettings
  readonly calibrations: ReadonlyArray<Calibration>
  readonly paces: StepPaces
  readonly rates: Rates
  /** Folder of an artifact in the store. */
  readonly pathOf: (artifact: string) => string
}

/** Where an engine trains here. The in-process engine, and PyTorch without a GPU, share the machine's memory. */
const roomFor = Effect.fnUntraced(function* (
  numerics: Pick<Numerics, "name">,
  machine: Pick<Capacity, "memoryBytes" | "gpus">,
  settings: MachineSettings = {},
): Effect.fn.Return<{ readonly room: Room; readonly gpu?: string }> {
  const host: Room = { device: "host", hostBytes: machine.memoryBytes }
  const wanted = settings.device ?? "auto"
  if (numerics.name !== "torch" || machine.gpus === 0 || wanted === "cpu" || wanted === "mps") return { room: host }
  const { gpusHere } = yield* Effect.promise(() => import("../../engine/Gpu.ts"))
  const [first] = yield* gpusHere
  return first === undefined
    ? { room: host }
    : { room: { device: "gpu", gpuBytes: first.memoryBytes, hostBytes: machine.memoryBytes }, gpu: first.name }
})

export interface Asked {
  readonly runs: string
  readonly numerics: Numerics
  readonly machine: Pick<Capacity, "memoryBytes" | "gpus">
  readonly settings?: MachineSettings
  readonly rates: Rates
  readonly pathOf: (artifact: string) => string
}

export const circumstances = Effect.fnUntraced(function* ({ runs, numerics, machine, settings, rates, pathOf }: Asked) {
  const { room, gpu } = yield* roomFor(numerics, machine, settings)
  const workers = workersOf(backend)
  const device = gpu ?? hostDevice(numerics.name === "torch" ? (settings?.threads ?? workers) : workers)
  return {
    numerics,
    device,
    room,
    workers,
    ...(settings && { settings }),
    calibrations: kept(runs, numerics, device),
    paces: pacesOf(runs, device),
    rates,
    pathOf,
  } satisfies Circumstances
})
