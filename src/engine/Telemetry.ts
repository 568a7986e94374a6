/**
 * What an engine knows of its device while it trains: for people, forecasts and diaries, never for an artifact. An engine reports at
 * most once a second; who listens is chosen where a step is run, and where nobody does, nothing is lost.
 */
import * as Context from "effect/Context"

/** What cannot be known is absent. */
export interface DeviceReading {
  readonly tokensPerSecond?: number
  /** Share of the device's peak that the training's floating-point operations take (PaLM's model FLOPs utilisation). */
  readonly mfu?: number
  /** Held now, and at most so far, in bytes, on the device that computes. */
  readonly memoryBytes?: number
  readonly peakMemoryBytes?: number
  /** At most so far of a GPU by the engine's allocator, gaps between its pieces included. */
  readonly peakReservedBytes?: number
  /** Share of the time in which the device is at work, 0 to 1. */
  readonly utilisation?: number
  readonly watts?: number
  readonly celsius?: number
}

export const Telemetry = Context.Reference<(reading: DeviceReading) => void>("exp/engine/Telemetry", {
  defaultValue: () => () => {},
})
