/** The PyTorch worker as a child process, spoken to in its own lines: these tests need nothing of the TypeScript side but formats. */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process"
import { createInterface } from "node:readline"
import { assert } from "vitest"
import type { TrainEvent, TrainRequest } from "../../src/engine/Engine.ts"
import { packageFolder } from "../../src/engine/torch/Environment.ts"
import { python as found, program as python, skipped } from "../engine/torch.ts"

export { python }
export const runnable = found !== undefined

/** A title that says why the test was skipped, where it was. */
export const titled = (title: string): string => `${title}${skipped}`

/** Of losses and gradient norms: fp32 sums in another order. */
export const TOLERANCE = 2e-5

export const near = (actual: number, expected: number, tolerance: number, what: string): void =>
  assert.isAtMost(Math.abs(actual - expected), tolerance, `${what}: ${actual}, expected ${expected}`)

export const environment = (more: NodeJS.ProcessEnv = {}): NodeJS.ProcessEnv => ({
  ...process.env,
  // models of tests are too small for more, and threads that wait for each other wait long on a busy machine
  OMP_NUM_THREADS: "1",
  PYTHONPATH: packageFolder,
  ...more,
})

/** What `code` prints, in the package's Python. */
export const run = (code: string, more: NodeJS.ProcessEnv = {}): string => {
  const { status, stdout, stderr } = spawnSync(python, ["-c", code], {
    env: environment(more),
    encoding: "utf8",
    maxBuffer: 2 ** 28,
  })
  if (status !== 0) throw new Error(stderr)
  return stdout
}

export interface Line {
  readonly id?: number
  readonly hello?: { readonly protocol: number; readonly heartbeat: number; readonly device: string }
  readonly event?: TrainEvent
  readonly note?: string
  readonly device?: Readonly<Record<string, number>>
  readonly result?: unknown
  readonly error?: { readonly _tag: string; readonly [field: string]: unknown }
}

export interface Answer {
  readonly lines: ReadonlyArray<Line>
  readonly events: ReadonlyArray<TrainEvent>
  readonly notes: ReadonlyArray<string>
  readonly result?: unknown
  readonly error?: Line["error"]
}

export type Settings = Readonly<Record<string, unknown>>

export const steps = (events: ReadonlyArray<TrainEvent>) => events.filter((event) => event._tag === "Step")
/** Steps without the clock. */
export const arithmetic = (events: ReadonlyArray<TrainEvent>) => steps(events).map(({ seconds: _, ...step }) => step)

export const answerOf = (lines: ReadonlyArray<Line>): Answer => ({
  lines,
  events: lines.flatMap(({ event }) => (event === undefined ? [] : [event])),
  notes: lines.flatMap(({ note }) => (note === undefined ? [] : [note])),
  ...lines.find((line) => "result" in line || "error" in line),
})

export class Worker {
  readonly child: ChildProcessWithoutNullStreams
  readonly exited: Promise<number | NodeJS.Signals | null>
  /** It has said hello: importing PyTorch takes seconds. */
  readonly ready: Promise<void>
  readonly #waiting = new Map<
    number,
    { lines: Array<Line>; seen: (line: Line) => void; done: (answer: Answer) => void }
  >()
  #last = 0
  #errors = ""

  constructor(more: NodeJS.ProcessEnv = {}) {
    this.child = spawn(python, ["-m", "exp_torch"], { env: environment(more) })
    this.child.stderr.on("data", (chunk) => {
      this.#errors += chunk
    })
    let greeted = () => {}
    this.ready = new Promise((resolve) => {
      greeted = resolve
    })
    createInterface({ input: this.child.stdout }).on("line", (text) => {
      const line = JSON.parse(text) as Line
      if (line.hello !== undefined) greeted()
      const one = this.#waiting.get(line.id ?? 0)
      one?.lines.push(line)
      one?.seen(line)
      if (one !== undefined && ("result" in line || "error" in line)) {
        this.#waiting.delete(line.id ?? 0)
        one.done(answerOf(one.lines))
      }
    })
    this.exited = new Promise((resolve) => {
      this.child.on("exit", (code, signal) => {
        for (const { lines, done } of this.#waiting.values()) done(answerOf([...lines, { note: this.#errors }]))
        resolve(code ?? signal)
      })
    })
  }

  get errors(): string {
    return this.#errors
  }

  send(line: unknown): void {
    this.child.stdin.write(`${JSON.stringify(line)}\n`)
  }

  cancel(): void {
    this.send({ cancel: this.#last })
  }

  ask(kind: string, request: unknown, settings: Settings = {}, seen: (line: Line) => void = () => {}): Promise<Answer> {
    const id = ++this.#last
    return new Promise((done) => {
      this.#waiting.set(id, { lines: [], seen, done })
      this.send({ id, kind, request, settings })
    })
  }

  train(request: TrainRequest, settings: Settings = {}, seen?: (line: Line) => void): Promise<Answer> {
    return this.ask("train", request, { device: "cpu", ...settings }, seen)
  }

  async close(): Promise<void> {
    this.child.stdin.end()
    await this.exited
  }
}
