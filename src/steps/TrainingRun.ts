/**
 * One stretch of training, fresh or continued, into an output folder:
 *
 * | file                       | what                                                                     |
 * |----------------------------|--------------------------------------------------------------------------|
 * | `checkpoints/step_<n>/`    | see `src/model/Checkpoint.ts`                                            |
 * | `order.bin`                | uint32 row numbers in the order they were read                           |
 * | `training_config.json`     | the recipe, with the learning-rate convention spelled out                |
 * | `metrics.jsonl`            | one line an optimizer step                                               |
 * | `eval_metrics.jsonl`, `best_validation.json` | validation on its schedule                             |
 * | `probe_generations.jsonl`  | greedy continuations of the probes, at the same moments                  |
 *
 * Going on after an interruption: from the newest whole checkpoint that telemetry reaches, be it a resume point, one that was
 * already kept, or one of a shorter run of the same recipe. Telemetry beyond it is cut, so nothing is doubled and nothing is lost.
 * Where the engine was ahead of telemetry, what it noted of the steps in between is told first.
 */
import {
  appendFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { readTokens } from "../data/Pack.ts"
import { writeOrder } from "../data/RowOrder.ts"
import { loadTokenizer } from "../data/Tokenizer.ts"
import { Engine, SPIKE_WINDOW, type TrainEvent } from "../engine/Engine.ts"
import { notedEvents, unheard } from "../engine/NotedEvents.ts"
import { scoreDocuments, validationMetrics } from "../evaluation/Losses.ts"
import { complete, parameterCount, type Shape } from "../model/Architecture.ts"
import { checkpointName, type Optimizer, RESUME_SECONDS } from "../model/Checkpoint.ts"
import type { LrSchedule } from "../model/LrSchedule.ts"
import { probesOf, SAMPLE_TOKENS } from "../model/Probe.ts"
import type { ProbeGeneration, StepMetrics, ValidationMetrics } from "../model/Report.ts"
import type { Work } from "../plan/Work.ts"
import { mixWeighting, sourceRoles } from "./Measuring.ts"

export interface Stretch {
  readonly tokensFolder: string
  readonly shape: Shape
  /** Rows of the embedding table, where they are not as many as the tokenizer has entries. */
  readonly vocabulary?: number | undefined
  readonly rowsPerStep: number
  readonly schedule: LrSchedule
  readonly optimizer: Optimizer
  readonly seed: number
  /** Checkpoint folder that this stretch goes on from; undefined for fresh weights. */
  readonly parent: string | undefined
  readonly startStep: number
  readonly endStep: number
  /** Steps after which a checkpoint is kept. */
  readonly keep: ReadonlyArray<number>
  readonly validateEvery: number
  /** Whether kept checkpoints carry the optimizer's moments. */
  readonly moments: boolean
}

const TELEMETRY = ["metrics.jsonl", "eval_metrics.jsonl", "probe_generations.jsonl"]

const lines = (path: string): ReadonlyArray<{ readonly step: number }> => {
  if (!existsSync(path)) return []
  const text = readFileSync(path, "utf8")
  return text
    .slice(0, text.lastIndexOf("\n") + 1)
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line))
}

/** The last step that telemetry has whole. */
const reachedIn = (folder: string, startStep: number): number =>
  lines(join(folder, "metrics.jsonl")).at(-1)?.step ?? startStep

/** Keeps telemetry up to `step`; what lies beyond will be written again. */
const cutTelemetry = (folder: string, step: number): void => {
  for (const name of TELEMETRY) {
    const path = join(folder, name)
    if (!existsSync(path)) continue
    const kept = lines(path).filter((line) => line.step <= step)
    writeFileSync(`${path}.cut`, kept.map((line) => `${JSON.stringify(line)}\n`).join(""))
    renameSync(`${path}.cut`, path)
  }
}

const stepsIn = (folder: string): ReadonlyArray<number> =>
  existsSync(folder)
    ? readdirSync(folder).flatMap((name) => (/^step_\d+$/.test(name) ? [Number(name.slice(5))] : []))
    : []

const canGoOn = (checkpoint: string): boolean => existsSync(join(checkpoint, "optimizer.safetensors"))

interface Beginning {
  readonly step: number
  /** undefined: fresh weights. */
  readonly path: string | undefined
}

/** The newest place to go on from, with telemetry cut to it. */
const beginning = Effect.fnUntraced(function* (work: Work, stretch: Stretch) {
  const checkpoints = join(work.out, "checkpoints")
  const resume = join(work.scratch, "resume")
  const fresh: Beginning = { step: stretch.startStep, path: stretch.parent }
  const reached = reachedIn(work.out, stretch.startStep)
  const own = [checkpoints, resume]
    .flatMap((folder) => stepsIn(folder).map((step) => ({ step, path: join(folder, checkpointName(step)) })))
    .filter(({ step, path }) => step <= reached && step <= stretch.endStep && canGoOn(path))
  const newest = own.reduce<Beginning>((best, one) => (one.step > best.step ? one : best), fresh)
  // a kept checkpoint after the place we go on from will be written again
  const settle = (from: Beginning): Beginning => {
    for (const step of stepsIn(checkpoints))
      if (step > from.step || !stretch.keep.includes(step))
        if (join(checkpoints, checkpointName(step)) !== from.path)
          rmSync(join(checkpoints, checkpointName(step)), { recursive: true })
    cutTelemetry(work.out, from.step)
    return from
  }
  if (newest.path !== stretch.parent) {
    const missing = stretch.keep.find(
      (step) => step <= newest.step && !existsSync(join(checkpoints, checkpointName(step))),
    )
    if (missing === undefined) return settle(newest)
  }
  rmSync(work.out, { recursive: true, force: true })
  mkdirSync(work.out, { recursive: true })
  const kin = yield* fromKin(work, stretch, checkpoints)
  return settle(kin ?? fresh)
})

/** A shorter (or longer) run of the same recipe left checkpoints: take over those that are wanted, up to the newest of use. */
const fromKin = Effect.fnUntraced(function* (work: Work, stretch: Stretch, checkpoints: string) {
  if (!stretch.moments) return undefined
  let best: (Beginning & { readonly path: string; readonly kin: string }) | undefined
  for (const kin of yield* work.kin) {
    if (kin.params["validateEvery"] !== work.params["validateEvery"]) continue
    const has = stepsIn(join(kin.path, "checkpoints"))
    for (const step of has) {
      if (step > stretch.endStep || step <= (best?.step ?? stretch.startStep)) continue
      if (stretch.keep.some((wanted) => wanted <= step && !has.includes(wanted))) continue
      best = { step, path: join(kin.path, "checkpoints", checkpointName(step)), kin: kin.path }
    }
  }
  if (best === undefined) return undefined
  mkdirSync(checkpoints, { recursive: true })
  for (const step of stretch.keep)
    if (step <= best.step)
      cpSync(join(best.kin, "checkpoints", checkpointName(step)), join(checkpoints, checkpointName(step)), {
        recursive: true,
      })
  for (const name of TELEMETRY) if (existsSync(join(best.kin, name))) cpSync(join(best.kin, name), join(work.out, name))
  work.note(`goes on from step ${best.step} of an earlier run of the same recipe`)
  return best
})

/** What is measured while training, and how events become lines of telemetry. */
const telemetryOf = Effect.fnUntraced(function* (
  work: Work,
  stretch: Stretch,
  tokens: Effect.Success<ReturnType<typeof readTokens>>,
  tokenizer: Effect.Success<ReturnType<typeof loadTokenizer>>,
) {
  const { index } = tokens
  const tokensPerStep = stretch.rowsPerStep * index.context
  const roles = sourceRoles(index).filter(({ role }) => role === "train")
  const training = new Set(roles.map(({ source }) => source))
  const measured = tokens.documents.filter(
    (document) => document.part === "validation" && training.has(document.source),
  )
  const sequences = yield* Effect.forEach(measured, (document) =>
    Effect.map(tokens.tokensOf(document), (ids) => ({ id: document.id, ids })),
  )
  const probes = probesOf(index.languages)
  const write = (name: string, line: unknown): void => appendFileSync(join(work.out, name), `${JSON.stringify(line)}\n`)

  const record = (event: TrainEvent) =>
    Effect.gen(function* () {
      switch (event._tag) {
        case "Step": {
          const { step, loss, lr, gradNorm, tokensSeen } = event
          write("metrics.jsonl", { step, loss, lr, grad_norm: gradNorm, tokens_seen: tokensSeen } satisfies StepMetrics)
          return
        }
        case "Validation": {
          const scores = yield* Effect.fromResult(scoreDocuments(event.losses, measured))
          const metrics = yield* Effect.fromResult(
            validationMetrics({ step: event.step, tokens_seen: event.step * tokensPerStep }, scores, roles, {
              weighting: mixWeighting(index),
              seed: stretch.seed,
              samples: 1000,
            }),
          )
          write("eval_metrics.jsonl", metrics)
          const best = lines(join(work.out, "eval_metrics.jsonl")).reduce<ValidationMetrics | undefined>(
            (least, line) => lower(least, line as ValidationMetrics),
            undefined,
          )
          writeFileSync(join(work.out, "best_validation.json"), `${JSON.stringify(best, null, 2)}\n`)
          return
        }
        case "Samples":
          for (const [position, ids] of event.tokens.entries()) {
            const { language, prompt } = probes[position]!
            write("probe_generations.jsonl", {
              step: event.step,
              language,
              prompt,
              generated: tokenizer.decode(ids, { skipSpecial: true }),
            } satisfies ProbeGeneration)
          }
          return
        case "Checkpoint":
        case "ResumePoint":
          return
      }
    })
  const prompts = probes.map(({ prompt }) => [index.bosId, ...tokenizer.encode(prompt)])
  return { record, sequences, prompts }
})

/** Telemetry is brought up to where an engine was that ran ahead of us when we were interrupted. */
const hear = Effect.fnUntraced(function* <E>(
  work: Work,
  stretch: Stretch,
  record: (event: TrainEvent) => Effect.Effect<void, E>,
) {
  if (!existsSync(work.out)) return
  const reached = reachedIn(work.out, stretch.startStep)
  const events = unheard(notedEvents(join(work.scratch, "resume")), reached, stretch.startStep)
  if (events[0] === undefined) return
  cutTelemetry(work.out, events[0].step - 1)
  yield* Effect.forEach(events, record, { discard: true })
})

export const trainingRun = Effect.fn("trainingRun")(function* (work: Work, stretch: Stretch) {
  const engine = yield* Engine
  const tokens = yield* readTokens(stretch.tokensFolder)
  const { index } = tokens
  const packing = yield* work.lineage(lastOf(stretch.tokensFolder))
  const tokenizer = yield* loadTokenizer(packing.inputs["tokenizer"]![0]!.path)
  const architecture = complete(stretch.shape, index.context, stretch.vocabulary ?? index.vocabulary)
  const { record, sequences, prompts } = yield* telemetryOf(work, stretch, tokens, tokenizer)
  yield* hear(work, stretch, record)
  const from = yield* beginning(work, stretch)
  if (from.step > stretch.startStep) work.note(`goes on from step ${from.step}`)

  const order = join(work.out, "order.bin")
  yield* writeOrder(index, stretch.seed, stretch.endStep * stretch.rowsPerStep, order)
  const tokensPerStep = stretch.rowsPerStep * index.context
  writeFileSync(
    join(work.out, "training_config.json"),
    `${JSON.stringify(
      {
        architecture,
        parameters: parameterCount(architecture),
        start_step: stretch.startStep,
        end_step: stretch.endStep,
        rows_per_step: stretch.rowsPerStep,
        tokens_per_step: tokensPerStep,
        tokens: (stretch.endStep - stretch.startStep) * tokensPerStep,
        schedule: stretch.schedule,
        schedule_convention:
          "step s is 0-based and about to be taken; warm-up runs at peak*(s+1)/warmupSteps; decay at u=(s-startStep+1)/steps, so the last step runs at exactly finalLr",
        optimizer: { name: "AdamW", ...stretch.optimizer, decayed: "matrices only" },
        seed: stretch.seed,
        mix: { mode: typeof index.mix === "string" ? index.mix : "custom", weights: weightsOf(index) },
        engine: engine.numerics,
      },
      null,
      2,
    )}\n`,
  )

  const pace = { seconds: 0, tokens: 0 }
  const onEvent = (event: TrainEvent) => {
    if (event._tag !== "Step") return record(event)
    pace.seconds = pace.seconds * 0.9 + event.seconds
    pace.tokens = pace.tokens * 0.9 + tokensPerStep
    work.progress({
      done: event.step - stretch.startStep,
      total: stretch.endStep - stretch.startStep,
      ...(from.step > stretch.startStep && { before: from.step - stretch.startStep }),
      unit: "steps",
      detail: `loss ${event.loss.toFixed(3)}`,
      tokensPerSecond: pace.tokens / pace.seconds,
    })
    return record(event)
  }

  mkdirSync(join(work.out, "checkpoints"), { recursive: true })
  yield* engine
    .train({
      architecture,
      from: from.path === undefined ? { _tag: "Fresh" } : { _tag: "Checkpoint", path: from.path },
      seed: stretch.seed,
      tokens: stretch.tokensFolder,
      order,
      rowsPerStep: stretch.rowsPerStep,
      startStep: from.step,
      endStep: stretch.endStep,
      schedule: stretch.schedule,
      optimizer: stretch.optimizer,
      recentLosses: lines(join(work.out, "metrics.jsonl"))
        .slice(-SPIKE_WINDOW)
        .map((line) => (line as StepMetrics).loss),
      checkpoints: {
        folder: join(work.out, "checkpoints"),
        at: stretch.keep.filter((step) => step > from.step),
        moments: stretch.moments,
      },
      resume: { folder: join(work.scratch, "resume"), everySeconds: RESUME_SECONDS },
      validation: { everySteps: stretch.validateEvery, documents: sequences },
      samples: {
        everySteps: stretch.validateEvery,
        prompts,
        maxNewTokens: SAMPLE_TOKENS,
      },
    })
    .pipe(Stream.runForEach(onEvent))
})

const lastOf = (path: string): string => path.slice(path.lastIndexOf("/") + 1)

const weightsOf = (index: { readonly sources: ReadonlyArray<{ readonly source: string; readonly weight: number }> }) =>
  Object.fromEntries(index.sources.map(({ source, weight }) => [source, weight]))

const lower = (least: ValidationMetrics | undefined, one: ValidationMetrics): ValidationMetrics =>
  least === undefined || one.val_loss_mixed < least.val_loss_mixed ? one : least
