/**
 * The in-process engine: tfjs with kernels of our own, spread over worker threads.
 *
 * | file              | what                                                              |
 * |-------------------|-------------------------------------------------------------------|
 * | `Kernels.ts`      | our WebAssembly on tfjs's heap; `kernels/assembly` is its source   |
 * | `Ops.ts`, `Network.ts`, `Gpt2.ts`, `Llama.ts` | the operations and the models for tfjs's tape |
 * | `Inference.ts`, `Blocks.ts` | forward only, caches, no tape                           |
 * | `TrainMemory.ts`  | how a step is cut so that bits do not depend on workers            |
 * | `Trainer.ts`, `Pool.ts`, `worker.ts` | who does what, in which thread                  |
 *
 * Results never depend on workers, batches or order of requests: rows are computed one by one in effect, sums are in fixed order.
 */
import { createRequire } from "node:module"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Stream from "effect/Stream"
import type { Architecture } from "../../model/Architecture.ts"
import { because } from "../../model/Because.ts"
import type { CheckpointState } from "../../model/Checkpoint.ts"
import { greedy } from "../../model/Decoding.ts"
import { lrAt } from "../../model/LrSchedule.ts"
import {
  CheckpointUnreadable,
  type DocumentLoss,
  Engine,
  type EngineError,
  EngineFailed,
  type GenerateRequest,
  type LossesRequest,
  type ProbeRequest,
  SPIKE_WINDOW,
  type TokenSequence,
  type TrainEvent,
  TrainingDiverged,
  type TrainRequest,
} from "../Engine.ts"
import { parting, Remarks } from "../Remarks.ts"
import { Rows } from "../Rows.ts"
import * as CheckpointFolder from "./CheckpointFolder.ts"
import type { Backend, WeightsReference } from "./Jobs.ts"
import { backend as backendHere, numericsOf, workersOf } from "./Numerics.ts"
import { Pool } from "./Pool.ts"
import { nextVersion, Trainer } from "./Trainer.ts"
import { flatLayout } from "./TrainMemory.ts"

export interface Settings {
  /** Threads; by default `EXP_WORKERS`, else as many as the machine runs in parallel. Never changes a result. */
  readonly workers?: number
  /** By default a native tfjs when the user has installed one, else `wasm`. */
  readonly backend?: Backend
}

/** A loss this far above the mean of the last steps is not noise any more. */
const SPIKE_NATS = 3
const SPIKE_SEEN = 20
/** Tokens of a portion of work that one worker takes at a time. */
const PORTION_TOKENS = 4096

const words = (error: unknown): string => (error instanceof Error ? error.message : String(error))

const make = (settings: Settings) =>
  Effect.gen(function* () {
    const backend = settings.backend ?? backendHere
    const numerics = numericsOf(backend)
    const workers = workersOf(backend, settings.workers)
    const pool = yield* Effect.acquireRelease(
      Effect.sync(() => new Pool(workers, { backend })),
      (pool) => Effect.promise(() => pool.close()),
    )

    const failed = (doing: string) => (error: unknown) =>
      because(
        new EngineFailed({
          engine: numerics.name,
          doing,
          problem: words(error),
          hint: /WebAssembly|memory|bytes/.test(words(error))
            ? "use a smaller model or batch, or the torch engine"
            : "run `exp doctor`; run again with `EXP_WORKERS=1` to see whether threads matter",
        }),
        error,
      )
    const attempt = <A>(doing: string, run: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, EngineFailed> =>
      Effect.tryPromise({ try: run, catch: failed(doing) })

    /** Weights of the checkpoint last asked for: a sweep asks for the same one many times. */
    let held: { readonly path: string; readonly sha256: string; readonly weights: WeightsReference } | undefined
    const load = Effect.fnUntraced(function* (path: string) {
      const state = yield* CheckpointFolder.readState(path)
      if (held?.path === path && held.sha256 === state.modelSha256) return held.weights
      const layout = flatLayout(state.architecture)
      const last = layout[layout.length - 1]!
      const buffer = yield* Effect.try({
        try: () => new SharedArrayBuffer(4 * (last.first + last.size)),
        catch: failed(`reading ${path}`),
      })
      yield* CheckpointFolder.readWeights(path, state, new Float32Array(buffer))
      const weights = { version: nextVersion(), architecture: state.architecture, buffer, offset: 0 }
      held = { path, sha256: state.modelSha256, weights }
      return weights
    })

    const refuse = (doing: string, problem: string, hint: string) =>
      Effect.fail(new EngineFailed({ engine: numerics.name, doing, problem, hint, kind: "refused" }))
    const checkIds = (doing: string, name: string, ids: ArrayLike<number>, vocabulary: number) => {
      for (let i = 0; i < ids.length; i++)
        if (!(Number.isInteger(ids[i]) && ids[i]! >= 0 && ids[i]! < vocabulary))
          return refuse(
            doing,
            `token ${ids[i]} of ${name} is not in the vocabulary of ${vocabulary}`,
            "encode with the tokenizer that the checkpoint was trained with",
          )
      return Effect.void
    }

    /** Windows of at most `context` targets without overlap, each beginning with the last token of the one before. */
    const measure = Effect.fnUntraced(function* (
      weights: WeightsReference,
      documents: ReadonlyArray<TokenSequence>,
      specials: ReadonlySet<number>,
    ) {
      const { context, vocabulary } = weights.architecture
      const windows: Array<Int32Array> = []
      const owners: Array<number> = []
      for (const [owner, { id, ids }] of documents.entries()) {
        yield* checkIds("measuring losses", `document ${id}`, ids, vocabulary)
        const all = Int32Array.from(ids)
        for (let first = 0; first + 1 < all.length; first += context) {
          windows.push(all.subarray(first, first + context + 1))
          owners.push(owner)
        }
      }
      const portions: Array<Array<Int32Array>> = []
      let size = Number.POSITIVE_INFINITY
      for (const window of windows) {
        if (size + window.length > PORTION_TOKENS) {
          portions.push([])
          size = 0
        }
        portions[portions.length - 1]!.push(window)
        size += window.length
      }
      const answers = yield* attempt("measuring losses", (signal) =>
        pool.spread(
          "losses",
          portions.map((windows) => ({ weights, windows })),
          signal,
        ),
      )
      const losses = documents.map(({ id }) => ({ id, nll: 0, tokens: 0, textNll: 0 }))
      answers.flat().forEach((nlls, w) => {
        const loss = losses[owners[w]!]!
        const targets = windows[w]!.subarray(1)
        nlls.forEach((nll, i) => {
          loss.nll += nll
          loss.tokens++
          if (!specials.has(targets[i]!)) loss.textNll += nll
        })
      })
      return losses as ReadonlyArray<DocumentLoss>
    })

    const losses = Effect.fn("TfjsEngine.losses")(function* ({ checkpoint, documents, specialIds }: LossesRequest) {
      return yield* measure(yield* load(checkpoint), documents, new Set(specialIds ?? [0, 1, 2]))
    })

    const probe = Effect.fn("TfjsEngine.probe")(function* ({ checkpoint, probes }: ProbeRequest) {
      const weights = yield* load(checkpoint)
      const { context, vocabulary } = weights.architecture
      for (const [i, probe] of probes.entries()) {
        const name = `probe ${i}`
        yield* checkIds("probing", name, [...probe.context, ...probe.target], vocabulary)
        if (probe.context.length === 0 || probe.target.length === 0)
          return yield* refuse("probing", `${name} has an empty context or target`, "begin contexts with BOS")
        if (probe.target.length > context)
          return yield* refuse("probing", `the target of ${name} is longer than the context`, "use a shorter target")
      }
      const portions = inPortions(probes, workers)
      const answers = yield* attempt("probing", (signal) =>
        pool.spread(
          "probe",
          portions.map((probes) => ({ weights, probes })),
          signal,
        ),
      )
      return answers.flat()
    })

    const continuations = Effect.fnUntraced(function* (
      weights: WeightsReference,
      request: Omit<GenerateRequest, "checkpoint" | "eosId"> & { readonly eosId?: number },
    ) {
      for (const { id, ids } of request.prompts) {
        yield* checkIds("generating", `prompt ${id}`, ids, weights.architecture.vocabulary)
        if (ids.length === 0) return yield* refuse("generating", `prompt ${id} is empty`, "begin prompts with BOS")
      }
      const { prompts, preset, maxNewTokens, seed, eosId } = request
      const portions = inPortions(prompts, workers)
      const answers = yield* attempt("generating", (signal) =>
        pool.spread(
          "generate",
          portions.map((prompts) => ({
            weights,
            prompts,
            preset,
            maxNewTokens,
            seed,
            ...(eosId === undefined ? {} : { eosId }),
          })),
          signal,
        ),
      )
      return answers.flat()
    })

    const generate = Effect.fn("TfjsEngine.generate")(function* (request: GenerateRequest) {
      return yield* continuations(yield* load(request.checkpoint), request)
    })

    const logits = Effect.fn("TfjsEngine.logits")(function* ({
      checkpoint,
      ids,
    }: {
      readonly checkpoint: string
      readonly ids: ReadonlyArray<number>
    }) {
      const weights = yield* load(checkpoint)
      const { context, vocabulary } = weights.architecture
      yield* checkIds("computing logits", "the sequence", ids, vocabulary)
      if (ids.length === 0 || ids.length > context)
        return yield* refuse("computing logits", `${ids.length} tokens do not fit 1 to ${context}`, "cut the sequence")
      const all = yield* attempt("computing logits", () => pool.ask(0, "logits", { weights, ids }))
      return ids.map((_, i) => all.subarray(i * vocabulary, (i + 1) * vocabulary))
    })

    /** Everything a run holds, given back when its stream ends; where that is an interruption, after a resume point. */
    const openRun = Effect.fnUntraced(function* (request: TrainRequest) {
      const { architecture } = request
      const rows = yield* Effect.acquireRelease(
        Effect.try({ try: () => new Rows(request.tokens, request.order), catch: failed("opening the training rows") }),
        (rows) => Effect.sync(() => rows.close()),
      )
      const { index } = rows
      if (index.context > architecture.context || index.vocabulary > architecture.vocabulary)
        return yield* refuse(
          "opening the training rows",
          `tokens of context ${index.context} and vocabulary ${index.vocabulary} for a model of ${architecture.context} and ${architecture.vocabulary}`,
          "take context and vocabulary of the model from the tokens",
        )
      if (rows.ordered < request.endStep * request.rowsPerStep)
        return yield* refuse(
          "opening the training rows",
          `the order has ${rows.ordered} rows, ${request.endStep} steps of ${request.rowsPerStep} read more`,
          "write a longer order",
        )
      const trainer = yield* Effect.acquireRelease(
        attempt("preparing training", () => Trainer.open(pool, architecture, request.rowsPerStep, index.context)),
        // a pool that broke has no session left to close
        (trainer) => Effect.ignore(attempt("ending training", () => trainer.close())),
      )
      let step = request.startStep
      let tokensSeen = step * request.rowsPerStep * index.context
      if (request.from._tag === "Fresh")
        yield* attempt("drawing initial weights", () => trainer.initialise(request.seed))
      else {
        const { path } = request.from
        const state = yield* CheckpointFolder.readState(path)
        const problem = mismatch(state, request)
        if (problem !== undefined) return yield* new CheckpointUnreadable({ path, problem })
        yield* CheckpointFolder.readWeights(path, state, trainer.current.weights)
        yield* CheckpointFolder.readMoments(path, state, trainer.current.moments)
        step = state.step
        tokensSeen = state.tokensSeen
      }
      return { rows, trainer, step, tokensSeen }
    })

    const train = (request: TrainRequest): Stream.Stream<TrainEvent, EngineError> =>
      Stream.unwrap(
        Effect.gen(function* () {
          const said = yield* Remarks
          const run = yield* openRun(request)
          const { rows, trainer } = run
          const { index } = rows
          const { architecture, rowsPerStep, schedule, optimizer } = request
          const specials = new Set([index.bosId, index.eosId, index.padId])
          const recent = (request.recentLosses ?? []).slice(-SPIKE_WINDOW)
          const tokensPerStep = rowsPerStep * index.context
          /** Writes `<folder>/step_<n>` of the last step, or of the one before it. */
          const keep = (folder: string, moments: boolean, { before } = { before: 0 as 0 | 1 }) => {
            const generation = before === 0 ? trainer.current : trainer.previous
            const step = run.step - before
            const state = {
              step,
              tokensSeen: run.tokensSeen - before * tokensPerStep,
              rowCursor: step * rowsPerStep,
              architecture,
              schedule,
              optimizer,
              rowsPerStep,
              seed: request.seed,
              engine: numerics,
            }
            return CheckpointFolder.write(
              folder,
              state,
              generation.weights,
              moments ? generation.moments : undefined,
            ).pipe(Effect.mapError(failed(`writing a checkpoint below ${folder}`)))
          }
          /** All events of steps up to this one have been received, and its checkpoint, where one was asked for, is written. */
          let settled = run.step
          let resumable = run.step
          let resumedAt = yield* Clock.currentTimeMillis
          let diverged = false
          const resumePoint = Effect.gen(function* () {
            const { folder } = request.resume
            const { path, state } = yield* keep(folder, true, { before: run.step > settled ? 1 : 0 })
            yield* attempt("tidying resume points", () => CheckpointFolder.forgetOthers(folder, state.step))
            resumable = state.step
            resumedAt = yield* Clock.currentTimeMillis
            return path
          })
          const save = Effect.suspend(() => {
            if (settled === request.startStep || settled === request.endStep || diverged) return Effect.void
            return Effect.match(settled > resumable ? resumePoint : Effect.void, {
              onFailure: ({ problem }) => said(parting.unsaved(problem)),
              onSuccess: () => said(parting.saved(resumable)),
            })
          })
          // whoever listens may have no room left to note it
          yield* Effect.addFinalizer(() => Effect.exit(save))

          const rowNumbers = () => rows.numbers(run.step * rowsPerStep, rowsPerStep)
          const diverge = Effect.fnUntraced(function* (what: string, numbers: ReadonlyArray<number>) {
            diverged = true
            const documents = yield* Effect.tryPromise(() => rows.documents(numbers)).pipe(
              // the names are a courtesy: without their table the error still says which rows
              Effect.orElseSucceed(() => [] as ReadonlyArray<string>),
            )
            return yield* new TrainingDiverged({
              step: run.step + 1,
              what,
              rows: [...numbers],
              documents: [...documents],
            })
          })

          /** One optimizer step; not to be interrupted, because weights and step number change together. */
          const takeStep = Effect.fnUntraced(function* () {
            const began = yield* Clock.currentTimeNanos
            const lr = lrAt(schedule, run.step)
            const [numbers, tokens] = yield* Effect.try({
              try: () => {
                const numbers = rowNumbers()
                return [numbers, rows.tokens(numbers)] as const
              },
              catch: failed(`reading the rows of step ${run.step + 1}`),
            })
            const { loss, gradNorm } = yield* attempt(`taking step ${run.step + 1}`, () =>
              trainer.step(tokens, run.step, lr, optimizer),
            )
            if (!Number.isFinite(loss) || !Number.isFinite(gradNorm))
              return yield* diverge(`the loss is ${loss}, the gradient norm ${gradNorm}`, numbers)
            const mean = recent.reduce((a, b) => a + b, 0) / recent.length
            if (run.step >= schedule.warmupSteps && recent.length >= SPIKE_SEEN && loss > mean + SPIKE_NATS)
              return yield* diverge(
                `the loss jumped to ${loss.toFixed(3)} from a mean of ${mean.toFixed(3)} over the last ${recent.length} steps`,
                numbers,
              )
            recent.push(loss)
            if (recent.length > SPIKE_WINDOW) recent.shift()
            run.step++
            run.tokensSeen += tokensPerStep
            const seconds = Number((yield* Clock.currentTimeNanos) - began) / 1e9
            return { _tag: "Step", step: run.step, loss, lr, gradNorm, tokensSeen: run.tokensSeen, seconds } as const
          }, Effect.uninterruptible)

          const due = (every: number | undefined): boolean =>
            every !== undefined && (run.step % every === 0 || run.step === request.endStep)

          /** A step and what is measured after it. */
          const advance = Effect.gen(function* () {
            const events: Array<TrainEvent> = [yield* takeStep()]
            const { step } = run
            if (request.validation !== undefined && due(request.validation.everySteps)) {
              const losses = yield* measure(trainer.weights, request.validation.documents, specials)
              events.push({ _tag: "Validation", step, losses })
            }
            if (request.samples !== undefined && due(request.samples.everySteps)) {
              const { prompts, maxNewTokens } = request.samples
              const texts = yield* continuations(trainer.weights, {
                prompts: prompts.map((ids, i) => ({ id: String(i), ids })),
                preset: greedy,
                maxNewTokens,
                eosId: index.eosId,
                seed: request.seed,
              })
              events.push({ _tag: "Samples", step, tokens: texts.map(({ tokens }) => tokens) })
            }
            return events
          })

          /** The stream is pulled again: whoever listens has what came of the last step. */
          const settle = Effect.gen(function* () {
            const events: Array<TrainEvent> = []
            const { step } = run
            if (settled === step) return events
            if (request.checkpoints.at.includes(step)) {
              const { path, state } = yield* keep(request.checkpoints.folder, request.checkpoints.moments)
              events.push({ _tag: "Checkpoint", step, path, state })
            }
            settled = step
            const elapsed = (yield* Clock.currentTimeMillis) - resumedAt
            if (step < request.endStep && elapsed >= 1000 * request.resume.everySeconds)
              events.push({ _tag: "ResumePoint", step, path: yield* resumePoint })
            return events
          }).pipe(Effect.uninterruptible)

          return Stream.paginate(undefined, () =>
            Effect.gen(function* () {
              const settling = yield* settle
              const more = run.step < request.endStep
              const events = settling.length > 0 || !more ? settling : yield* advance
              return [events, more ? Option.some(undefined) : Option.none<undefined>()] as const
            }),
          )
        }),
      )

    const inspect = Effect.gen(function* () {
      const figures = yield* attempt("measuring the machine", () => pool.all("matmul", () => ({ milliseconds: 150 })))
      const require = createRequire(import.meta.url)
      const { version } = require("@tensorflow/tfjs-core/package.json") as { readonly version: string }
      return {
        engine: numerics.name,
        backend: backend === "wasm" ? "tfjs-wasm with kernels of our own" : backend,
        version,
        workers,
        matmulGflops: figures.reduce((a, b) => a + b, 0),
      }
    })

    return Engine.of({ numerics, train, losses, probe, generate, logits, inspect })
  })

/** Why a checkpoint cannot be gone on from by this request; undefined when it can. */
const mismatch = (state: CheckpointState, request: TrainRequest): string | undefined => {
  const keys = Object.keys({ ...state.architecture, ...request.architecture }) as Array<keyof Architecture>
  const differs = keys.find((key) => state.architecture[key] !== request.architecture[key])
  if (differs !== undefined)
    return `its ${differs} is ${state.architecture[differs]}, the request wants ${request.architecture[differs]}`
  if (state.step < request.startStep || state.step > request.endStep)
    return `it is of step ${state.step}, the request trains from ${request.startStep} to ${request.endStep}`
  if (state.rowsPerStep !== request.rowsPerStep)
    return `it was trained with ${state.rowsPerStep} rows a step, the request has ${request.rowsPerStep}`
  return undefined
}

/** As many contiguous portions as there are workers. */
const inPortions = <A>(items: ReadonlyArray<A>, workers: number): ReadonlyArray<ReadonlyArray<A>> => {
  const count = Math.min(workers, items.length)
  return Array.from({ length: count }, (_, i) =>
    items.slice(Math.floor((i * items.length) / count), Math.floor(((i + 1) * items.length) / count)),
  )
}

export const layerWith = (settings: Settings): Layer.Layer<Engine, EngineError> => Layer.effect(Engine, make(settings))

export const layer: Layer.Layer<Engine, EngineError> = layerWith({})
