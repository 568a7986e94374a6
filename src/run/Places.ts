/**
 * Places on the machine. Steps wait in one line, in the order in which they became ready; each that fits beside those that run
 * begins, and no more of them than there are jobs.
 *
 * A step that does not fit lets others by, so that small ones use what a large one cannot; but only `PATIENCE` of them. Then nobody
 * passes it, what runs comes to its end, and it goes: a stream of small steps never starves a large one.
 */
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type { Resources } from "../plan/Resources.ts"
import { type Capacity, type MachineTooSmall, tooSmall } from "./Machine.ts"

/** How many may pass a waiting step. */
export const PATIENCE = 8

interface Turn {
  readonly cpus: number
  readonly memoryBytes: number
  readonly gpus: number
  readonly begin: Deferred.Deferred<void>
  passed: number
}

export class Places {
  readonly #capacity: Capacity
  readonly #jobs: number
  readonly #line: Array<Turn> = []
  readonly #running = new Set<Turn>()

  constructor(capacity: Capacity, jobs: number) {
    this.#capacity = capacity
    this.#jobs = jobs
  }

  /** Does `work` when there is a place for it. Fails at once where there never will be; more cores than there are means all of them. */
  within<A, E, R>(
    label: string,
    needs: Resources,
    work: Effect.Effect<A, E, R>,
  ): Effect.Effect<A, E | MachineTooSmall, R> {
    return Effect.suspend((): Effect.Effect<A, E | MachineTooSmall, R> => {
      const refused = tooSmall(this.#capacity, label, needs)
      if (refused !== undefined) return Effect.fail(refused)
      const cpus = needs.cpus === "all" ? this.#capacity.cpus : Math.min(needs.cpus, this.#capacity.cpus)
      const turn: Turn = { ...needs, cpus, begin: Deferred.makeUnsafe(), passed: 0 }
      return Effect.uninterruptibleMask((restore) => {
        this.#line.push(turn)
        this.#serve()
        // in line or at work: whichever it is when it ends, it is neither afterwards
        return Effect.ensuring(
          Effect.andThen(restore(Deferred.await(turn.begin)), restore(work)),
          Effect.sync(() => this.#leave(turn)),
        )
      })
    })
  }

  #leave(turn: Turn): void {
    if (!this.#running.delete(turn)) this.#line.splice(this.#line.indexOf(turn), 1)
    this.#serve()
  }

  #serve(): void {
    for (let at = 0; at < this.#line.length && this.#running.size < this.#jobs; ) {
      const turn = this.#line[at]!
      if (this.#fits(turn)) {
        this.#line.splice(at, 1)
        for (let before = 0; before < at; before++) this.#line[before]!.passed++
        this.#running.add(turn)
        Deferred.doneUnsafe(turn.begin, Exit.void)
        if (this.#line.slice(0, at).some(({ passed }) => passed >= PATIENCE)) return
      } else if (turn.passed < PATIENCE) at++
      else return
    }
  }

  /** Added up anew each time: fractions of a core leave no rest behind. */
  #fits(turn: Turn): boolean {
    const needs = { cpus: turn.cpus, memoryBytes: turn.memoryBytes, gpus: turn.gpus }
    for (const { cpus, memoryBytes, gpus } of this.#running) {
      needs.cpus += cpus
      needs.memoryBytes += memoryBytes
      needs.gpus += gpus
    }
    const { cpus, memoryBytes, gpus } = this.#capacity
    return needs.cpus <= cpus && needs.memoryBytes <= memoryBytes && needs.gpus <= gpus
  }
}
