/**
 * What people and machines see while a run goes on. Three renderers of the same events: a live display on a terminal, plain lines
 * where there is none, NDJSON for programs.
 */
import type { Progress } from "../plan/Work.ts"
import type { RunEvent } from "../run/Reporter.ts"
import { Estimate } from "./Estimate.ts"
import { count, duration } from "./Table.ts"

export interface Renderer {
  readonly emit: (event: RunEvent) => void
  /** Leaves the terminal as it was found. */
  readonly close: () => void
}

/** Estimates the time left of one step from the pace since its first progress: an engine that starts is none. */
class Pace {
  #first: { readonly done: number; readonly at: number } | undefined
  secondsLeft(progress: Progress): number | undefined {
    this.#first ??= { done: progress.done, at: performance.now() }
    const seconds = (performance.now() - this.#first.at) / 1000
    const done = progress.done - this.#first.done
    if (done <= 0 || seconds < 1 || progress.done >= progress.total) return undefined
    return ((progress.total - progress.done) * seconds) / done
  }
}

/** Where `columns` are few, the speed gives way, then what the step says of itself; how far it is and how long it takes stay. */
const progressText = (progress: Progress, secondsLeft: number | undefined, columns = Infinity): string => {
  const far = `${count(progress.done)}/${count(progress.total)} ${progress.unit}`
  const speed = progress.tokensPerSecond !== undefined && `${count(Math.round(progress.tokensPerSecond))} tokens/s`
  const left = secondsLeft !== undefined && `${duration(secondsLeft)} left`
  const texts = [
    [far, progress.detail, speed, left],
    [far, progress.detail, left],
    [far, left],
  ].map((parts) => parts.filter(Boolean).join(" · "))
  return texts.find((text) => [...text].length <= columns) ?? texts.at(-1)!
}

const line = (event: RunEvent): string | undefined => {
  switch (event._tag) {
    case "RunStarted":
      return `run ${event.run}: ${event.experiment}, ${count(event.steps)} steps${event.engine === undefined ? "" : `, computed by ${event.engine}`}`
    case "StepCached":
      return `  done     ${event.label}`
    case "StepStarted":
      return `  running  ${event.label}`
    case "StepProgress":
    case "StepDevice":
      return undefined
    case "StepNote":
      return `           ${event.label}: ${event.text}`
    case "StepFinished":
      return `  made     ${event.label}  ${duration(event.seconds)}`
    case "StepFailed":
      return `  failed   ${event.label}`
    case "FanOut":
      return `  fan-out  ${event.label}: ${event.items} items`
    case "RunInterrupted":
      return `interrupted: what was finished is kept\n  hint: the same command goes on from there`
    case "RunFinished":
      return event.made === 0
        ? `nothing to do: ${event.cached} steps were done before (${duration(event.seconds)})`
        : `finished: ${event.made} steps made, ${event.cached} reused, ${duration(event.seconds)}`
  }
}

/** Lines for logs and pipes: steps as they begin and end, progress at most every ten seconds a step. */
export const plain = (write: (text: string) => void): Renderer => {
  const paces = new Map<string, Pace>()
  const shown = new Map<string, number>()
  return {
    emit: (event) => {
      if (event._tag === "StepProgress") {
        const pace = paces.get(event.step) ?? new Pace()
        paces.set(event.step, pace)
        const left = pace.secondsLeft(event.progress)
        const now = performance.now()
        if (now - (shown.get(event.step) ?? now - 8_000) < 10_000) {
          if (!shown.has(event.step)) shown.set(event.step, now - 8_000)
          return
        }
        shown.set(event.step, now)
        write(`           ${event.label}: ${progressText(event.progress, left)}\n`)
        return
      }
      const text = line(event)
      if (text !== undefined) write(`${text}\n`)
    },
    close: () => {},
  }
}

const bar = (share: number, width: number): string => {
  const filled = Math.round(Math.min(1, Math.max(0, share)) * width)
  return "█".repeat(filled) + "░".repeat(width - filled)
}

/** A live display: finished steps scroll by, running ones are redrawn below them with a bar, and the whole run at the bottom. */
export const terminal = (write: (text: string) => void, columns: () => number): Renderer => {
  const running = new Map<string, { readonly label: string; readonly pace: Pace; progress: Progress | undefined }>()
  const started = performance.now()
  let estimate = new Estimate([])
  let total = 0
  let done = 0
  let drawn = 0
  let last = 0
  const clip = (text: string): string => {
    const width = columns()
    return [...text].length < width ? text : `${[...text].slice(0, Math.max(1, width - 2)).join("")}…`
  }
  const erase = (): string => (drawn === 0 ? "" : `\x1b[${drawn}A\x1b[0J`)
  const footer = (): ReadonlyArray<string> => {
    const lines = [...running.values()].map(({ label, pace, progress }) => {
      if (progress === undefined) return `  running  ${label}`
      const before = `  ${bar(progress.done / progress.total, 16)} ${label}  `
      return `${before}${progressText(progress, pace.secondsLeft(progress), columns() - 1 - [...before].length)}`
    })
    const seconds = (performance.now() - started) / 1000
    const left = estimate.left()
    const remaining =
      left === undefined || left.seconds < 1
        ? ""
        : ` · ${left.atLeast ? "at least " : "about "}${duration(left.seconds)} left`
    return total === 0
      ? []
      : [...lines, `  ${bar(done / total, 16)} ${done}/${total} steps · ${duration(seconds)}${remaining}`]
  }
  const draw = (above = ""): void => {
    const lines = footer().map(clip)
    write(`${erase()}${above}${lines.map((text) => `${text}\n`).join("")}`)
    drawn = lines.length
    last = performance.now()
  }
  return {
    emit: (event) => {
      if (event._tag === "StepDevice") return
      if (event._tag === "RunStarted") {
        total = event.steps
        estimate = new Estimate(event.work, undefined, event.forecast)
      }
      if (event._tag === "StepStarted") {
        estimate.started(event.step)
        running.set(event.step, { label: event.label, pace: new Pace(), progress: undefined })
      }
      if (event._tag === "StepFinished") estimate.finished(event.step, event.seconds)
      if (event._tag === "StepCached" || event._tag === "StepFailed") estimate.ended(event.step)
      if (event._tag === "StepProgress") {
        estimate.progress(event.step, event.progress)
        const one = running.get(event.step)
        if (one !== undefined) one.progress = event.progress
        if (performance.now() - last > 100) draw()
        return
      }
      if (event._tag === "StepFinished" || event._tag === "StepCached" || event._tag === "StepFailed") {
        running.delete(event.step)
        done++
        total = Math.max(total, done)
      }
      const text = event._tag === "StepStarted" ? undefined : line(event)
      if (event._tag === "RunFinished" || event._tag === "RunInterrupted") {
        total = 0
        running.clear()
      }
      draw(text === undefined ? "" : `${text}\n`)
    },
    close: () => {
      write(erase())
      drawn = 0
    },
  }
}

/** One JSON object a line. Progress is thinned to twice a second a step; the last event names the folders. */
export const ndjson = (write: (text: string) => void): Renderer => {
  const shown = new Map<string, number>()
  return {
    emit: (event) => {
      if (event._tag === "StepProgress") {
        const now = performance.now()
        if (now - (shown.get(event.step) ?? 0) < 500) return
        shown.set(event.step, now)
      }
      const { _tag, ...fields } = event
      write(`${JSON.stringify({ event: _tag, ...fields })}\n`)
    },
    close: () => {},
  }
}
