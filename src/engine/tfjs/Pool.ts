/**
 * Worker threads, started when first needed and kept. Jobs of one worker run in the order they were sent; a job that all workers do
 * together is sent to all in one go, so two such jobs can never wait for each other.
 */
import { Worker } from "node:worker_threads"
import type { Answer, JobName, Jobs, WorkerSettings } from "./Jobs.ts"

/**
 * Of each worker's JavaScript heap, the space for young objects: a step makes little garbage, and V8 would let the space grow to 64 MB for
 * it. With this it stays below 20, in the same time.
 */
const YOUNG_MEGABYTES = 24

interface Waiting {
  readonly resolve: (value: never) => void
  readonly reject: (error: Error) => void
}

interface Member {
  readonly worker: Worker
  readonly waiting: Map<number, Waiting>
}

export class Pool {
  readonly size: number
  readonly #settings: WorkerSettings
  #members: ReadonlyArray<Member> | undefined
  #next = 0
  #broken: Error | undefined
  #closed = false

  constructor(size: number, settings: WorkerSettings) {
    this.size = size
    this.#settings = settings
  }

  get started(): boolean {
    return this.#members !== undefined
  }

  ask<Name extends JobName>(worker: number, name: Name, request: Jobs[Name]["request"]): Promise<Jobs[Name]["answer"]> {
    if (this.#closed) return Promise.reject(new Error("the engine has been closed"))
    if (this.#broken !== undefined) return Promise.reject(this.#broken)
    this.#members ??= Array.from({ length: this.size }, () => this.#start())
    const member = this.#members[worker]!
    const id = this.#next++
    return new Promise((resolve, reject) => {
      member.waiting.set(id, { resolve, reject })
      if (member.waiting.size === 1) member.worker.ref()
      member.worker.postMessage({ id, name, request })
    })
  }

  /** The same job for every worker, or one made for each. */
  async all<Name extends JobName>(
    name: Name,
    request: (worker: number) => Jobs[Name]["request"],
  ): Promise<ReadonlyArray<Jobs[Name]["answer"]>> {
    const answers = Array.from({ length: this.size }, (_, worker) => this.ask(worker, name, request(worker)))
    const settled = await Promise.allSettled(answers)
    // where one fails the others report that another failed: the reason is the one that says something else
    const failures = settled.filter((result) => result.status === "rejected").map(({ reason }) => reason as Error)
    if (failures.length > 0) throw failures.find(({ message }) => message !== "another worker failed") ?? failures[0]!
    return Promise.all(answers)
  }

  /** Portions go to whichever worker is free; answers come back in the order of the portions. */
  async spread<Name extends JobName>(
    name: Name,
    requests: ReadonlyArray<Jobs[Name]["request"]>,
    signal?: AbortSignal,
  ): Promise<ReadonlyArray<Jobs[Name]["answer"]>> {
    const answers: Array<Jobs[Name]["answer"]> = new Array(requests.length)
    let next = 0
    const drain = async (worker: number) => {
      while (next < requests.length && signal?.aborted !== true) {
        const mine = next++
        answers[mine] = await this.ask(worker, name, requests[mine]!)
      }
    }
    await Promise.all(Array.from({ length: Math.min(this.size, requests.length) }, (_, worker) => drain(worker)))
    return answers
  }

  async close(): Promise<void> {
    this.#closed = true
    await Promise.all((this.#members ?? []).map(({ worker }) => worker.terminate()))
  }

  #start(): Member {
    // the settings of this process's Node (loaders of a test runner, say) are none of a worker's
    const worker = new Worker(new URL("./worker.ts", import.meta.url), {
      workerData: this.#settings,
      execArgv: [],
      resourceLimits: { maxYoungGenerationSizeMb: YOUNG_MEGABYTES },
    })
    const member: Member = { worker, waiting: new Map() }
    // an idle worker does not keep the process alive
    worker.unref()
    worker.on("message", (answer: Answer) => {
      const waiting = member.waiting.get(answer.id)
      member.waiting.delete(answer.id)
      if (member.waiting.size === 0) worker.unref()
      if ("error" in answer) waiting?.reject(new Error(answer.error))
      else waiting?.resolve(answer.value as never)
    })
    const fail = (error: Error) => {
      this.#broken ??= error
      for (const { waiting } of this.#members ?? [member]) {
        for (const { reject } of waiting.values()) reject(error)
        waiting.clear()
      }
    }
    worker.on("error", fail)
    worker.on("exit", (code) => {
      if (!this.#closed) fail(new Error(`a worker thread ended with exit code ${code}`))
    })
    return member
  }
}
