/**
 * How long a whole run still takes: each kind of step has a pace, seconds per amount of work (optimizer steps where the plan knows
 * them, else one), learned from those of its kind that ran before in this run. Kinds not seen yet make the figure a lower bound.
 */
import type { Progress } from "../plan/Work.ts"
import type { PlannedWork } from "../run/Reporter.ts"

interface Pace {
  readonly amount: number
  readonly seconds: number
}

/** Steps and their work together. */
interface Share {
  readonly steps: number
  readonly amount: number
}

const nothing: Share = { steps: 0, amount: 0 }

const add = (shares: Map<string, Share>, { kind, amount }: PlannedWork, times: 1 | -1): void => {
  const before = shares.get(kind) ?? nothing
  shares.set(kind, { steps: before.steps + times, amount: before.amount + times * amount })
}

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
  readonly #running = new Map<string, { readonly began: number; share: number }>()
  readonly #now: () => number

  /** `now` in seconds. */
  constructor(work: ReadonlyArray<PlannedWork>, now: () => number = () => performance.now() / 1000) {
    this.#left = new Map(work.map((one) => [one.step, one]))
    for (const one of this.#left.values()) add(this.#kinds, one, 1)
    this.#now = now
  }

  started(step: string): void {
    this.#running.set(step, { began: this.#now(), share: 0 })
  }

  progress(step: string, progress: Progress): void {
    const running = this.#running.get(step)
    if (running !== undefined) running.share = progress.total === 0 ? 0 : progress.done / progress.total
  }

  /** Done without work, or given up. */
  ended(step: string): void {
    const planned = this.#left.get(step)
    if (planned !== undefined) add(this.#kinds, planned, -1)
    this.#left.delete(step)
    this.#running.delete(step)
  }

  finished(step: string, seconds: number): void {
    const planned = this.#left.get(step)
    if (planned !== undefined) this.#learn(planned.kind, planned.amount, seconds)
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
    for (const [step, { began, share }] of this.#running) {
      const planned = this.#left.get(step)
      if (planned === undefined || share <= 0.02) continue
      seconds += ((this.#now() - began) * (1 - share)) / share
      known++
      add(others, planned, -1)
    }
    for (const [kind, { steps, amount }] of others) {
      const pace = this.#paces.get(kind)
      if (pace === undefined) unknown += steps
      else {
        seconds += (pace.seconds / pace.amount) * amount
        known += steps
      }
    }
    return known === 0 ? undefined : { seconds, atLeast: unknown > 0 }
  }
}
