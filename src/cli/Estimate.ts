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

export interface TimeLeft {
  readonly seconds: number
  /** Some of what is left has no pace yet. */
  readonly atLeast: boolean
}

export class Estimate {
  readonly #left: Map<string, PlannedWork>
  readonly #paces = new Map<string, Pace>()
  readonly #running = new Map<string, { readonly began: number; share: number }>()
  readonly #now: () => number

  /** `now` in seconds. */
  constructor(work: ReadonlyArray<PlannedWork>, now: () => number = () => performance.now() / 1000) {
    this.#left = new Map(work.map((one) => [one.step, one]))
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
    for (const [step, { kind, amount }] of this.#left) {
      const running = this.#running.get(step)
      const pace = this.#paces.get(kind)
      if (running !== undefined && running.share > 0.02) {
        seconds += ((this.#now() - running.began) * (1 - running.share)) / running.share
        known++
      } else if (pace !== undefined) {
        seconds += (pace.seconds / pace.amount) * amount
        known++
      } else unknown++
    }
    return known === 0 ? undefined : { seconds, atLeast: unknown > 0 }
  }
}
