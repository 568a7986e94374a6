/**
 * The worker's process: started once, spoken to in lines, and never left behind.
 *
 * It has a process group of its own, so that Ctrl-C in a terminal reaches this process alone, which then asks for a resume point; when
 * this process is killed, the end of the worker's input tells it. What is read from it stays within bounds: it is not read while
 * whoever listens is busy, and then waits for its pipe.
 */
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import type { Readable } from "node:stream"
import { setTimeout as sleep } from "node:timers/promises"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { EngineFailed } from "../Engine.ts"
import { NUMERICS } from "./Numerics.ts"
import { Hello, Line, PROTOCOL } from "./Protocol.ts"

interface WorkerOptions {
  /** Program and arguments. */
  readonly command: readonly [string, ...ReadonlyArray<string>]
  readonly environment: NodeJS.ProcessEnv
  /** Until the hello: importing PyTorch from a cold disk takes a minute. */
  readonly startSeconds: number
  /** Heartbeats that may be missed. */
  readonly missedHeartbeats: number
  /** Without any line but heartbeats, while it should work: the longest step, and compiling before it. */
  readonly stalledSeconds: number
}

/** Lines that wait for whoever listens before reading pauses. */
const WAITING_LINES = 256
const LAST_LINES = 20
const LAST_BYTES = 4000
/** A worker whose input has ended, and which still writes a checkpoint. */
const FAREWELL_SECONDS = 10

/** Complete lines of a stream, read no faster than they are taken. */
class Lines {
  readonly #from: Readable
  readonly #waiting: Array<string> = []
  #partial: Array<Buffer> = []
  #wake: (() => void) | undefined
  ended = false

  constructor(from: Readable) {
    this.#from = from
    from.on("data", (chunk: Buffer) => {
      this.#split(chunk)
      if (this.#waiting.length >= WAITING_LINES) from.pause()
      if (this.#waiting.length > 0) this.#wake?.()
    })
    from.on("close", () => {
      this.ended = true
      this.#wake?.()
    })
  }

  #split(chunk: Buffer): void {
    let from = 0
    for (let at = chunk.indexOf(10); at >= 0; at = chunk.indexOf(10, from)) {
      const line = Buffer.concat([...this.#partial, chunk.subarray(from, at)]).toString("utf8")
      this.#partial = []
      if (line !== "") this.#waiting.push(line)
      from = at + 1
    }
    if (from < chunk.length) this.#partial.push(chunk.subarray(from))
  }

  /** Waits until there is a line, or none to come; false when it took too long. */
  some(seconds: number): Effect.Effect<boolean> {
    return Effect.callback((resume) => {
      const end = (inTime: boolean) => {
        clearTimeout(timer)
        this.#wake = undefined
        resume(Effect.succeed(inTime))
      }
      // a timer holds 31 bits of milliseconds
      const timer = setTimeout(end, Math.min(1000 * seconds, 2 ** 31 - 1), false)
      this.#wake = () => {
        if (this.#waiting.length > 0 || this.ended) end(true)
      }
      this.#wake()
      return Effect.sync(() => {
        clearTimeout(timer)
        this.#wake = undefined
      })
    })
  }

  /** All lines that are there. */
  take(): ReadonlyArray<string> {
    this.#from.resume()
    return this.#waiting.splice(0)
  }
}

const decodeLine = Schema.decodeUnknownResult(Line)
const decodeHello = Schema.decodeUnknownResult(Schema.Struct({ hello: Hello }))

const parsed = (line: string): unknown => {
  try {
    return JSON.parse(line)
  } catch {
    return undefined
  }
}

const shortened = (line: string): string => (line.length > 200 ? `${line.slice(0, 200)}…` : line)

const OUT_OF_MEMORY =
  "choose a smaller `--engine-set microBatchRows`, `activationCheckpointing=true` or `offloadOptimizer=true`, or `--precision bf16+adam8bit`; `exp plan` says what needs how much"
const LOOK = "`exp doctor` says what there is; the worker's last words may say more"

const hintFor = (said: string): { readonly kind: "died" | "memory"; readonly hint: string } => {
  if (/OutOfMemoryError|out of memory|MemoryError|can't allocate memory|DefaultCPUAllocator/i.test(said))
    return { kind: "memory", hint: OUT_OF_MEMORY }
  if (/ModuleNotFoundError|No module named/.test(said))
    return { kind: "died", hint: "`exp setup torch` makes an environment that has everything" }
  return { kind: "died", hint: LOOK }
}

export class Worker {
  /** What it is: known once it is open. */
  hello!: Hello
  readonly #process: ChildProcess
  readonly #lines: Lines
  readonly #said: () => ReadonlyArray<string>
  readonly #options: WorkerOptions
  #writing: Promise<void> = Promise.resolve()

  private constructor(started: ChildProcess, options: WorkerOptions) {
    this.#process = started
    this.#lines = new Lines(started.stdout!)
    this.#said = lastWords(started.stderr!)
    this.#options = options
  }

  /** Starts it and waits until it has said what it is; it ends with the scope. */
  static readonly open = Effect.fn("Worker.open")(function* (options: WorkerOptions) {
    const [program, ...args] = options.command
    const started = yield* Effect.acquireRelease(
      Effect.callback<ChildProcess, EngineFailed>((resume) => {
        const child = spawn(program, args, {
          env: options.environment,
          stdio: ["pipe", "pipe", "pipe"],
          detached: process.platform !== "win32",
          windowsHide: true,
        })
        // a write to one that is gone: its end says more than the broken pipe
        child.stdin.on("error", () => {})
        child.once("spawn", () => resume(Effect.succeed(child)))
        child.on("error", (cause) =>
          resume(
            Effect.fail(
              new EngineFailed({
                engine: "torch",
                doing: "starting",
                problem: `\`${program}\` does not start: ${cause.message}`,
                hint: "`exp setup torch` makes an environment for it, or name a Python that has PyTorch in EXP_TORCH_PYTHON",
                kind: "absent",
              }),
            ),
          ),
        )
      }),
      (child) => Effect.promise(() => farewell(child)),
    )
    const worker = new Worker(started, options)
    worker.hello = yield* worker.#greeting
    return worker
  })

  get #greeting() {
    return Effect.gen({ self: this }, function* () {
      const doing = "starting"
      const text = yield* this.#first(doing)
      const answer = decodeHello(parsed(text))
      if (Result.isFailure(answer)) return yield* this.rubbish(doing, text)
      const { hello } = answer.success
      const differs =
        hello.protocol !== PROTOCOL
          ? `protocol ${hello.protocol}, this side ${PROTOCOL}`
          : hello.numerics !== NUMERICS
            ? `numerics ${hello.numerics}, this side ${NUMERICS}`
            : undefined
      if (differs === undefined) return hello
      return yield* this.#failed(doing, {
        problem: `the worker (exp_torch ${hello.version}) speaks ${differs}`,
        hint: "the `exp_torch` it found is of another version of exp: uninstall it from that Python, or `exp setup torch`",
        kind: "version",
      })
    })
  }

  /** The first line. One more before anything was asked is no answer. */
  #first(doing: string) {
    return this.#take(doing, this.#options.startSeconds, ([first, second]) =>
      second === undefined ? Effect.succeed(first!) : this.rubbish(doing, second),
    )
  }

  /** What it says next, as much as there is. Only the waiting can be interrupted: what was taken from it is used. */
  heard<A>(
    doing: string,
    use: (lines: ReadonlyArray<Line>) => Effect.Effect<A, EngineFailed>,
  ): Effect.Effect<A, EngineFailed> {
    const { missedHeartbeats, stalledSeconds } = this.#options
    const { heartbeat } = this.hello
    const patience = heartbeat === undefined ? stalledSeconds : heartbeat * missedHeartbeats
    return this.#take(doing, patience, (texts) =>
      Effect.gen({ self: this }, function* () {
        const heard: Array<Line> = []
        for (const text of texts) {
          const line = decodeLine(parsed(text))
          if (Result.isFailure(line)) return yield* this.rubbish(doing, text, line.failure.message)
          const { alive } = line.success
          if (alive === undefined) heard.push(line.success)
          else if (alive > stalledSeconds) return yield* this.#hung(doing, alive)
        }
        return yield* use(heard)
      }),
    )
  }

  #take<A>(
    doing: string,
    seconds: number,
    use: (lines: ReadonlyArray<string>) => Effect.Effect<A, EngineFailed>,
  ): Effect.Effect<A, EngineFailed> {
    return Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(restore(this.#lines.some(seconds)), (inTime) => {
        if (!inTime) return this.#hung(doing, seconds)
        const lines = this.#lines.take()
        return lines.length > 0 ? use(lines) : this.#gone(doing)
      }),
    )
  }

  /** Writes a line in pieces, after those before it. It is written whole even where whoever sent it does not stay for its end. */
  send(pieces: Iterable<string>): Effect.Effect<void> {
    return Effect.promise(() => {
      const written = this.#writing.then(() => this.#write(pieces))
      this.#writing = written.catch(() => {})
      return written
    })
  }

  /** No faster than it is read. */
  async #write(pieces: Iterable<string>): Promise<void> {
    const { stdin } = this.#process
    for (const piece of pieces) {
      // whoever reads its answer learns of its end
      if (stdin!.destroyed || !stdin!.writable) return
      if (!stdin!.write(piece)) await this.#drained()
    }
    stdin!.write("\n")
  }

  /** Until it has read, or reads no more; a long request waits thousands of times, and leaves no listener behind. */
  async #drained(): Promise<void> {
    const { stdin } = this.#process
    const over = new AbortController()
    const until = { signal: over.signal }
    const ends = [once(stdin!, "drain", until), once(stdin!, "close", until), once(this.#process, "exit", until)]
    await Promise.race(ends).catch(() => {})
    over.abort()
  }

  /** It is of no more use: every process of its group is ended. */
  readonly kill: Effect.Effect<void> = Effect.sync(() => killGroup(this.#process))

  #failed(
    doing: string,
    rest: { readonly problem: string; readonly hint: string; readonly kind: NonNullable<EngineFailed["kind"]> },
  ) {
    return Effect.andThen(
      this.kill,
      Effect.suspend(() => new EngineFailed({ engine: "torch", doing, ...rest, lastLines: [...this.#said()] })),
    )
  }

  #hung(doing: string, seconds: number) {
    return this.#failed(doing, {
      problem: `the worker has said nothing for ${Math.round(seconds)} s, and was ended`,
      hint: "run again: training goes on from its last resume point; where a step takes that long, `--engine-set stalledSeconds=7200`",
      kind: "hung",
    })
  }

  /** It is ended for what it wrote. */
  rubbish(doing: string, line: string, why = "") {
    const [first = ""] = why.split("\n")
    return this.#failed(doing, {
      problem: `the worker wrote what is no answer: \`${shortened(line)}\`${first === "" ? "" : ` (${shortened(first)})`}`,
      hint:
        typeof parsed(line) === "object"
          ? "report this with the output of `exp doctor`"
          : "a package in its Python may print to standard output; `exp setup torch` makes an environment without others",
      kind: "rubbish",
    })
  }

  /** Its output has ended: how did it? */
  #gone(doing: string): Effect.Effect<never, EngineFailed> {
    return Effect.promise(() => Promise.race([exited(this.#process), sleep(2000)])).pipe(
      Effect.flatMap(() => {
        const { exitCode, signalCode } = this.#process
        const { kind, hint } = hintFor(this.#said().join("\n"))
        if (signalCode === "SIGKILL")
          return this.#failed(doing, {
            problem: "the worker was killed, most likely by the system, for want of memory",
            hint: OUT_OF_MEMORY,
            kind: "memory",
          })
        const how =
          signalCode !== null
            ? `was ended by ${signalCode}`
            : exitCode === null
              ? "closed its output"
              : `ended with exit code ${exitCode}`
        return this.#failed(doing, { problem: `the worker ${how}`, hint, kind })
      }),
    )
  }
}

const exited = (child: ChildProcess): Promise<unknown> =>
  child.exitCode !== null || child.signalCode !== null ? Promise.resolve() : once(child, "exit")

const killGroup = (child: ChildProcess): void => {
  if (child.pid === undefined) return
  try {
    if (process.platform === "win32") child.kill("SIGKILL")
    // also what it started: the group lives on after its leader
    else process.kill(-child.pid, "SIGKILL")
  } catch {
    // all of it has ended
  }
}

/** The end of its input is the sign to go; whoever does not is made to. */
const farewell = async (child: ChildProcess): Promise<void> => {
  child.stdin?.end()
  child.stdout?.destroy()
  const patience = new AbortController()
  const gone = exited(child).then(() => patience.abort())
  await Promise.race([gone, sleep(1000 * FAREWELL_SECONDS, undefined, { signal: patience.signal }).catch(() => {})])
  patience.abort()
  killGroup(child)
  child.stderr?.destroy()
}

/** What it last said to people. */
const lastWords = (from: Readable): (() => ReadonlyArray<string>) => {
  let text = ""
  from.setEncoding("utf8")
  from.on("data", (chunk: string) => {
    text = (text + chunk).slice(-LAST_BYTES)
  })
  return () =>
    text
      .split("\n")
      .map((line) => line.trimEnd())
      .filter((line) => line !== "")
      .slice(-LAST_LINES)
}
