/**
 * The fast engine: PyTorch, in a worker process (`engines/torch`). It is started with the first request, does one after the other, and
 * is started anew after it has died.
 *
 * The worker runs ahead of whoever listens. When the stream of a training is left, it is told, and waited for until its resume point is
 * written; what it had said beyond what was heard is in `events.ndjson` beside the resume point.
 */
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as Stream from "effect/Stream"
import type { Precision } from "../../model/EngineChoice.ts"
import {
  CheckpointUnreadable,
  Engine,
  type EngineError,
  EngineFailed,
  type TrainEvent,
  TrainingDiverged,
  type TrainRequest,
} from "../Engine.ts"
import { Headway } from "../Headway.ts"
import { parting, Remarks } from "../Remarks.ts"
import { Rows } from "../Rows.ts"
import { Telemetry } from "../Telemetry.ts"
import { packageFolder } from "./Environment.ts"
import { numericsOf, settingsOf } from "./Numerics.ts"
import { type Failure, type Hello, type Kind, type Line, type ResultOf, Results } from "./Protocol.ts"
import type { MachineSettings } from "./Settings.ts"
import { Worker } from "./Worker.ts"

export interface Settings {
  /** A program that starts the worker, with its arguments; by default `python -m exp_torch`. */
  readonly command: readonly [string, ...ReadonlyArray<string>]
  readonly precision?: Precision
  readonly machine?: MachineSettings
  /** For the worker, beside what it is given by us. */
  readonly environment?: NodeJS.ProcessEnv
  readonly startSeconds?: number
  readonly missedHeartbeats?: number
}

const DOING: Record<Kind, string> = {
  train: "training",
  losses: "measuring losses",
  probe: "probing",
  generate: "generating",
  logits: "computing logits",
  inspect: "measuring the machine",
}

/** The longest that one step, or compiling before the first, is allowed. */
const STALLED_SECONDS = 3600
/** What is not training is given up at once, and has nothing to save. */
const GIVE_UP_SECONDS = 5

/** What computes needs no way to the Hub, and no key. */
const SECRETS = ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACE_HUB_TOKEN", "EXP_SIGNING_KEY"]

const environmentOf = ({ precision, environment }: Pick<Settings, "precision" | "environment">) => {
  const ours: NodeJS.ProcessEnv = {
    ...process.env,
    PYTHONPATH: packageFolder,
    PYTHONUNBUFFERED: "1",
    // the user's own packages are not what the environment was made with
    PYTHONNOUSERSITE: "1",
    PYTHONIOENCODING: "utf-8",
    // a clone that cannot be written to, and one that is hashed, stay as they are
    PYTHONDONTWRITEBYTECODE: "1",
    ...(precision?.includes("deterministic") && { CUBLAS_WORKSPACE_CONFIG: ":4096:8" }),
    ...environment,
  }
  for (const name of SECRETS) delete ours[name]
  return ours
}

/** A request as one line, in pieces: documents may be millions, and typed arrays are arrays. */
export function* pieces(value: unknown): Generator<string> {
  if (ArrayBuffer.isView(value)) yield JSON.stringify(Array.from(value as Int32Array))
  else if (Array.isArray(value)) {
    // ids, or lists of ids
    if (typeof value[0] === "number" || value.length === 0) return yield JSON.stringify(value)
    for (const [i, item] of value.entries()) {
      yield i === 0 ? "[" : ","
      yield* pieces(item)
    }
    yield "]"
  } else if (typeof value === "object" && value !== null) {
    let before = "{"
    for (const [name, item] of Object.entries(value)) {
      if (item === undefined) continue
      yield `${before}${JSON.stringify(name)}:`
      yield* pieces(item)
      before = ","
    }
    yield before === "{" ? "{}" : "}"
  } else yield JSON.stringify(value)
}

interface Running {
  readonly worker: Worker
  readonly scope: Scope.Closeable
}

const make = (settings: Settings) =>
  Effect.gen(function* () {
    const numerics = numericsOf(settings.precision)
    const { stalledSeconds = STALLED_SECONDS, ...machine } = settings.machine ?? {}
    const all = { ...settingsOf(numerics.precision), ...machine }
    const scope = yield* Effect.scope
    const turn = yield* Semaphore.make(1)
    let running: Running | undefined
    let asked = 0

    const start = Effect.gen(function* () {
      if (running !== undefined) return running.worker
      const own = yield* Scope.fork(scope)
      const worker = yield* Worker.open({
        command: settings.command,
        environment: environmentOf(settings),
        startSeconds: settings.startSeconds ?? 180,
        missedHeartbeats: settings.missedHeartbeats ?? 24,
        stalledSeconds,
      }).pipe(
        Scope.provide(own),
        Effect.onError(() => Scope.close(own, Exit.void)),
      )
      running = { worker, scope: own }
      return worker
    })

    /** A worker that failed us is not asked again. */
    const dismiss = Effect.suspend(() => {
      const gone = running
      running = undefined
      return gone === undefined ? Effect.void : Scope.close(gone.scope, Exit.void)
    })

    /** One request, answered in lines. Whoever leaves before the end gives it up. */
    const ask = Effect.fnUntraced(function* (kind: Kind, request: object) {
      yield* Effect.acquireRelease(turn.take(1), () => turn.release(1))
      const doing = DOING[kind]
      const worker = yield* start
      const said = yield* Remarks
      const id = ++asked
      let ended = false
      let last: Line | undefined
      const failing = <A>(effect: Effect.Effect<A, EngineFailed>) =>
        Effect.tapError(effect, () => {
          ended = true
          return dismiss
        })
      const next = failing(
        worker.heard(doing, (lines) => {
          const stray = lines.find((line) => line.id !== id)
          if (stray !== undefined) return worker.rubbish(doing, JSON.stringify(stray), "nobody waits for it")
          last = lines.find((line) => line.result !== undefined || line.error !== undefined)
          ended = last !== undefined
          return Effect.succeed(lines)
        }),
      )
      const giveUp = Effect.gen(function* () {
        yield* worker.send([`{"cancel":${id}}`])
        while (!ended) yield* next
      })
      const save = Effect.match(giveUp, {
        onFailure: ({ problem }) => said(parting.unsaved(problem)),
        onSuccess: () => {
          for (const words of wordsOf(last)) said(words)
        },
      })
      yield* Effect.addFinalizer(() =>
        ended
          ? Effect.void
          : kind === "train"
            ? // whoever listens may have no room left to note it
              Effect.exit(save)
            : Effect.ignore(
                giveUp.pipe(Effect.timeoutOrElse({ duration: GIVE_UP_SECONDS * 1000, orElse: () => dismiss })),
              ),
      )
      yield* worker.send(pieces({ id, kind, request, settings: all }))
      return { next, worker, failing }
    })

    const remark = (line: Line, said: (text: string) => void): void => {
      if (line.note !== undefined) said(line.note)
    }

    const answer = <K extends Kind>(kind: K, request: object): Effect.Effect<ResultOf<K>, EngineError> =>
      Effect.gen(function* () {
        const { next, worker, failing } = yield* ask(kind, request)
        const said = yield* Remarks
        const reached = yield* Headway
        for (;;)
          for (const line of yield* next) {
            remark(line, said)
            if (line.progress !== undefined) reached(line.progress)
            if (line.error !== undefined) return yield* Effect.fail(failureOf(line.error, numerics.name, DOING[kind]))
            if (line.result === undefined) continue
            const decoded = Schema.decodeUnknownResult(Results[kind] as unknown as Schema.Codec<ResultOf<K>>)(
              line.result,
            )
            if (Result.isSuccess(decoded)) return decoded.success
            return yield* failing(
              worker.rubbish(DOING[kind], JSON.stringify(line.result), decoded.failure.message.replaceAll("\n", " ")),
            )
          }
      }).pipe(Effect.scoped)

    const train = (request: TrainRequest): Stream.Stream<TrainEvent, EngineError> =>
      Stream.unwrap(
        Effect.gen(function* () {
          const { next, worker } = yield* ask("train", request)
          const said = yield* Remarks
          said(whereabouts(worker.hello, settings.machine ?? {}))
          const report = yield* Telemetry
          /** What came after the last event: an end that is told when the events before it were heard. */
          let end: Line | undefined
          const advance = Effect.gen(function* () {
            const events: Array<TrainEvent> = []
            for (const line of yield* next) {
              remark(line, said)
              if (line.device !== undefined) report(line.device)
              if (line.event !== undefined) events.push(line.event as TrainEvent)
              if (line.result !== undefined || line.error !== undefined) end = line
            }
            return events
          })
          const finish = (last: Line) =>
            last.error === undefined
              ? Effect.succeed([[], Option.none<undefined>()] as const)
              : Effect.flatMap(withDocuments(last.error, request), (failure) =>
                  Effect.fail(failureOf(failure, numerics.name, DOING.train)),
                )
          return Stream.paginate(undefined, () =>
            end === undefined
              ? Effect.map(advance, (events) => [events, Option.some(undefined)] as const)
              : finish(end),
          )
        }),
      )

    const logits = (request: { readonly checkpoint: string; readonly ids: ReadonlyArray<number> }) =>
      Effect.gen(function* () {
        const { shape, float32 } = yield* answer("logits", request)
        const [length, vocabulary] = shape
        const bytes = Buffer.from(float32, "base64")
        if (length !== request.ids.length || bytes.byteLength !== 4 * length * vocabulary)
          return yield* new EngineFailed({
            engine: numerics.name,
            doing: DOING.logits,
            problem: `${bytes.byteLength} bytes of logits for ${length} × ${vocabulary} floats`,
            hint: "report this",
            kind: "rubbish",
          })
        // little endian on both sides: there is no other machine that PyTorch and Node both run on
        const values = new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength))
        return request.ids.map((_, i) => values.subarray(i * vocabulary, (i + 1) * vocabulary))
      })

    const engine = Engine.of({
      numerics,
      train,
      losses: (request) => answer("losses", request),
      probe: (request) => answer("probe", request),
      generate: (request) => answer("generate", request),
      logits,
      inspect: answer("inspect", {}),
    })
    return { engine, hello: Effect.map(turn.withPermits(1)(start), ({ hello }) => hello) }
  })

/** What a training that was given up leaves behind, by its last line. One that was through with its steps has nothing to say. */
const wordsOf = (last: Line | undefined): ReadonlyArray<string> => {
  if (last?.error !== undefined)
    return [parting.unsaved("problem" in last.error ? last.error.problem : last.error.what)]
  const ended = Schema.decodeUnknownResult(Results.train)(last?.result)
  if (Result.isFailure(ended)) return [parting.unsaved("the worker does not say what it saved")]
  const { step, interrupted } = ended.success
  return interrupted ? [parting.saved(step)] : []
}

/** What bits are promised for: the same of it. */
const whereabouts = ({ torch, device = "cpu", gpus = [] }: Hello, machine: MachineSettings): string => {
  const on = machine.device ?? device
  const name = on === "cuda" || on === "auto" ? (gpus[0]?.name ?? device) : on
  const set = Object.entries(machine).map(([name, value]) => `${name}=${value}`)
  return [`torch ${torch} on ${name}`, ...set].join(", ")
}

/** Names are looked up here, where the table of documents is read anyway: a courtesy that never hides the error itself. */
const withDocuments = (failure: Failure, request: TrainRequest): Effect.Effect<Failure> => {
  if (failure._tag !== "TrainingDiverged") return Effect.succeed(failure)
  return Effect.acquireUseRelease(
    Effect.try(() => new Rows(request.tokens, request.order)),
    (rows) => Effect.tryPromise(() => rows.documents(failure.rows)),
    (rows) => Effect.sync(() => rows.close()),
  ).pipe(
    Effect.orElseSucceed(() => [] as ReadonlyArray<string>),
    Effect.map((documents) => ({ ...failure, documents })),
  )
}

const failureOf = (failure: Failure, engine: string, doing: string): EngineError => {
  switch (failure._tag) {
    case "TrainingDiverged":
      return new TrainingDiverged({ ...failure, documents: failure.documents ?? [] })
    case "CheckpointUnreadable":
      return new CheckpointUnreadable(failure)
    case "EngineFailed":
      return new EngineFailed({
        engine,
        doing: failure.doing || doing,
        problem: failure.problem,
        hint: failure.hint ?? "`exp doctor` says what there is",
        ...(failure.kind === "memory" && { kind: "memory" as const }),
      })
  }
}

export const layerWith = (settings: Settings): Layer.Layer<Engine, EngineError> =>
  Layer.effect(
    Engine,
    Effect.map(make(settings), ({ engine }) => engine),
  )

/** What a worker says of itself and its device, and how fast that is. */
export const examine = (settings: Settings) =>
  Effect.gen(function* () {
    const { engine, hello } = yield* make(settings)
    return { hello: yield* hello, report: yield* engine.inspect }
  }).pipe(Effect.scoped)

/** Starts a worker for what it says of itself alone. */
export const greet = (settings: Settings) => Effect.scoped(Effect.flatMap(make(settings), ({ hello }) => hello))

/** How the worker of this clone is started in a Python. */
export const commandOf = (python: string): Settings["command"] => [python, "-m", "exp_torch"]
