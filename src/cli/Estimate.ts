/**
 * How long a whole run still takes: each kind of step has a pace, seconds per amount of work (optimizer steps where the plan knows
 * them, else one), learned from those of its kind that ran before in this run. For kinds not seen yet the forecast stands in; those
 * it does not know either make the figure a lower bound.
 */
import type { Progress } from "../plan/Work.ts"
import type { Foretold, PlannedWork } from "../run/Reporter.ts"

interface Pace {
  readonly amount: number
  readonly seconds: number
}

/** Steps and their work together. */
interface Share {
  readonly steps: number
  readonly amount: number
  /** Seconds by the forecast, and of how many steps. */
  readonly foretold: number
  readonly told: number
}

const nothing: Share = { steps: 0, amount: 0, foretold: 0, told: 0 }

/** Of one running step: what of it was there at a time. */
interface Mark {
  readonly at: number
  readonly share: number
}

interface Running {
  readonly began: number
  share: number
  /** Of `share`, what was there before this run. */
  before: number
  first: Mark | undefined
}

/** Of a step that can be judged by it: a pace of less would be chance. */
const ENOUGH = 0.02

export interface TimeLeft {
  readonly seconds: number
  /** Some of what is left has no pace yet. */
  readonly atLeast: boolean
}

export class Estimate {
  readonly #left: Map<string, PlannedWork>
  /** The same added up by kind: asking how long it takes must not cost more the longer the plan is. */
  readonly #kinds = new Map<string, Share>()
  readonly #paces = new Map<string, Pace>()
  readonly #running = new Map<string, Running>()
  readonly #now: () => number
  readonly #foretold: ReadonlyMap<string, number | undefined>

  /** `now` in seconds. */
  constructor(
    work: ReadonlyArray<PlannedWork>,
    now: () => number = () => performance.now() / 1000,
    forecast: ReadonlyArray<Foretold> = [],
  ) {
    this.#left = new Map(work.map((one) => [one.step, one]))
    this.#foretold = new Map(forecast.map(({ step, seconds }) => [step, seconds]))
    for (const one of this.#left.values()) this.#add(this.#kinds, one, 1)
    this.#now = now
  }

  #add(shares: Map<string, Share>, { step, kind, amount }: PlannedWork, times: 1 | -1): void {
    const before = shares.get(kind) ?? nothing
    const seconds = this.#foretold.get(step)
    shares.set(kind, {
      steps: before.steps + times,
      amount: before.amount + times * amount,
      foretold: before.foretold + times * (seconds ?? 0),
      told: before.told + (seconds === undefined ? 0 : times),
    })
  }

  started(step: string): void {
    this.#running.set(step, { began: this.#now(), share: 0, before: 0, first: undefined })
  }

  progress(step: string, { done, total, before = 0 }: Progress): void {
    const running = this.#running.get(step)
    if (running === undefined || total === 0) return
    running.share = done / total
    running.before = before / total
    running.first ??= { at: this.#now(), share: running.share }
  }

  /** Done without work, or given up. */
  ended(step: string): void {
    const planned = this.#left.get(step)
    if (planned !== undefined) this.#add(this.#kinds, planned, -1)
    this.#left.delete(step)
    this.#running.delete(step)
  }

  finished(step: string, seconds: number): void {
    const planned = this.#left.get(step)
    const before = this.#running.get(step)?.before ?? 0
    if (planned !== undefined) this.#learn(planned.kind, planned.amount * (1 - before), seconds)
    this.ended(step)
  }

  #learn(kind: string, amount: number, seconds: number): void {
    const before = this.#paces.get(kind) ?? { amount: 0, seconds: 0 }
    this.#paces.set(kind, { amount: before.amount + amount, seconds: before.seconds + seconds })
  }

  /** Nothing while nothing is known. */
  left(): TimeLeft | undefined {
    let seconds = 0
    let known = 0
    let unknown = 0
    const others = new Map(this.#kinds)
    for (const [step, { began, share, before, first }] of this.#running) {
      const planned = this.#left.get(step)
      if (planned === undefined || share - before <= ENOUGH) continue
      // the start of an engine is left out as soon as there is a pace without it
      const since = first !== undefined && share - first.share > ENOUGH ? first : { at: began, share: before }
      seconds += ((this.#now() - since.at) * (1 - share)) / (share - since.share)
      known++
      this.#add(others, planned, -1)
    }
    for (const [kind, { steps, amount, foretold, told }] of others) {
      const pace = this.#paces.get(kind)
      if (pace === undefined) {
        seconds += foretold
        known += told
        unknown += steps - told
      } else {
        seconds += (pace.seconds / pace.amount) * amount
        known += steps
      }
    }
    return known === 0 ? undefined : { seconds, atLeast: unknown > 0 }
  }
}
