/**
 * `device.jsonl` of a run's folder: how its device did while steps ran, a line a second at most for each. With the run and in no
 * artifact, because it has a clock.
 *
 * | field                            | what                                                                             |
 * |----------------------------------|----------------------------------------------------------------------------------|
 * | `at`, `step`                     | when, and which step of the plan                                                   |
 * | `tokensPerSecond`, `mfu`         | of a training; the share of the peak that was measured here, where one was        |
 * | `memoryBytes`, `peakMemoryBytes` | held now and at most so far: by this process, or what the engine says of its own   |
 * | `peakReservedBytes`              | on a GPU, taken by the engine's allocator at most, with its gaps                   |
 * | `utilisation`                    | share of the cores' time, or of the GPU's                                          |
 * | `watts`, `celsius`               | where the machine or the engine can tell                                           |
 *
 * An engine that reports its device (`Telemetry`) is believed; for one in this process, what the process knows of itself stands in.
 */
import { appendFileSync } from "node:fs"
import { availableParallelism } from "node:os"
import { join } from "node:path"
import type { DeviceReading } from "../engine/Telemetry.ts"
import { energyMeter } from "./Power.ts"
import type { RunEvent } from "./Reporter.ts"

const DEVICE_LOG = "device.jsonl"
const MILLISECONDS = 1000

/** What utilisation is reckoned by: operations of a token, and of the device in a second. */
export interface Peak {
  readonly flopsPerToken: number
  readonly flopsPerSecond: number
}

interface Followed {
  peak: number
  /** By the engine itself. */
  reported: number
  written: number
}

export class DeviceLog {
  readonly #path: string
  readonly #peakOf: (step: string) => Peak | undefined
  readonly #running = new Map<string, Followed>()
  readonly #timer: NodeJS.Timeout
  #watts = energyMeter()
  #cpu = process.cpuUsage()
  #since = performance.now()

  constructor(folder: string, peakOf: (step: string) => Peak | undefined) {
    this.#path = join(folder, DEVICE_LOG)
    this.#peakOf = peakOf
    this.#timer = setInterval(() => this.#look(), MILLISECONDS)
    this.#timer.unref()
  }

  /** Of steps that are finished. */
  readonly seconds = new Map<string, number>()

  /** The event as it is to be told: one that ends a step says how much memory it took. */
  heed(event: RunEvent): RunEvent {
    switch (event._tag) {
      case "StepStarted":
        this.#running.set(event.step, { peak: 0, reported: 0, written: performance.now() })
        this.#look()
        return event
      case "StepProgress":
        this.#progress(event.step, event.progress.tokensPerSecond)
        return event
      case "StepDevice":
        this.#reading(event.step, event.reading)
        return event
      case "StepFinished": {
        this.#look()
        this.seconds.set(event.step, event.seconds)
        const followed = this.#running.get(event.step)
        this.#running.delete(event.step)
        return followed === undefined ? event : { ...event, peakMemoryBytes: followed.reported || followed.peak }
      }
      case "StepCached":
      case "StepFailed":
        this.#running.delete(event.step)
        return event
      default:
        return event
    }
  }

  close(): void {
    clearInterval(this.#timer)
  }

  #look(): void {
    const held = process.memoryUsage.rss()
    for (const followed of this.#running.values()) followed.peak = Math.max(followed.peak, held)
  }

  #progress(step: string, tokensPerSecond: number | undefined): void {
    const followed = this.#running.get(step)
    if (followed === undefined || followed.reported > 0 || tokensPerSecond === undefined) return
    if (performance.now() - followed.written < MILLISECONDS) return
    this.#look()
    const watts = this.#watts()
    this.#write(step, followed, {
      tokensPerSecond,
      memoryBytes: process.memoryUsage.rss(),
      peakMemoryBytes: followed.peak,
      utilisation: this.#busy(),
      ...(watts !== undefined && { watts }),
    })
  }

  #reading(step: string, reading: DeviceReading): void {
    const followed = this.#running.get(step)
    if (followed === undefined) return
    followed.reported = Math.max(followed.reported, reading.peakMemoryBytes ?? reading.memoryBytes ?? 0)
    this.#write(step, followed, reading)
  }

  #write(step: string, followed: Followed, reading: DeviceReading): void {
    followed.written = performance.now()
    const mfu = reading.mfu ?? this.#share(step, reading.tokensPerSecond)
    const line = { at: new Date().toISOString(), step, ...reading, ...(mfu !== undefined && { mfu }) }
    try {
      appendFileSync(this.#path, `${JSON.stringify(line)}\n`)
    } catch {
      // a diary that cannot be written is no reason to stop what it is about: a full disk tells by itself
    }
  }

  #share(step: string, tokensPerSecond: number | undefined): number | undefined {
    const peak = this.#peakOf(step)
    return peak && tokensPerSecond && (tokensPerSecond * peak.flopsPerToken) / peak.flopsPerSecond
  }

  /** Of all cores since it was asked last; watts are counted over the same time. */
  #busy(): number {
    const { user, system } = process.cpuUsage(this.#cpu)
    const elapsed = (performance.now() - this.#since) * 1000 * availableParallelism()
    this.#cpu = process.cpuUsage()
    this.#since = performance.now()
    this.#watts = energyMeter()
    return Math.min(1, (user + system) / elapsed)
  }
}
