/**
 * `train`: fresh weights, or those of a published model, warm-up and the stable phase of WSD. Every decay is a `decay` from one of its
 * checkpoints.
 *
 * How long it runs, which checkpoints are kept and how often it is validated are elastic: they do not change a weight. So a longer
 * `train` goes on from a shorter one's newest stored checkpoint, and what was decayed from checkpoint 400 stays cached.
 */
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import {
  checkpointBytes,
  parameterCount,
  Shape,
  shapeProblem,
  trainingBytes,
  trainingFlopsPerToken,
} from "../model/Architecture.ts"
import { architectureOf, type KnownTraining, keptSteps, Pretrained, Tokens, Trained } from "../model/Artifact.ts"
import { type CheckpointState, defaultOptimizer, Optimizer } from "../model/Checkpoint.ts"
import { probesOf, SAMPLE_TOKENS } from "../model/Probe.ts"
import * as Step from "../plan/Step.ts"
import type { Work } from "../plan/Work.ts"

const Positive = Schema.Int.check(Schema.isGreaterThan(0))
const Rate = Schema.Finite.check(Schema.isGreaterThan(0))

export const train = Step.make("train", {
  version: 1,
  computes: true,
  resumable: true,
  elastic: ["steps", "keepEvery", "validateEvery"],
  params: {
    /** Left out where it goes on `from` a published model. */
    model: Schema.optionalKey(Shape),
    /** Optimizer steps, warm-up included. */
    steps: Positive,
    /** Rows of `context` tokens in an optimizer step. */
    rowsPerStep: Positive,
    peakLr: Rate,
    warmupSteps: Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)),
    /** A stable checkpoint is kept after every so many steps, and after the last. */
    keepEvery: Positive,
    validateEvery: Positive.pipe(Schema.withConstructorDefault(Effect.succeed(100))),
    optimizer: Optimizer.pipe(Schema.withConstructorDefault(Effect.succeed(defaultOptimizer))),
    seed: Schema.Int,
  },
  inputs: { tokens: Tokens, from: Step.optional(Pretrained) },
  output: (ref, { steps, rowsPerStep, keepEvery, model }, { tokens, from }) =>
    new Trained(
      ref,
      { ...tokens.known, shape: shapeOf(model, from), rowsPerStep, ...(from && { base: from.known }) },
      keptSteps(0, steps, keepEvery),
    ),
  label: ({ steps }) => `train 0→${steps}`,
  check: ({ model, warmupSteps, steps }, { tokens, from }) => {
    const problem = modelProblem(model, from, tokens)
    if (problem !== undefined) return problem
    if (warmupSteps > steps)
      return {
        problem: `warm-up of ${warmupSteps} steps is longer than the run of ${steps}`,
        hint: "lower `warmupSteps`",
      }
    return undefined
  },
  forecast: ({ model, steps, rowsPerStep, keepEvery, validateEvery }, { tokens, from }) => {
    const known: KnownTraining = { ...tokens.known, shape: shapeOf(model, from), rowsPerStep }
    const architecture = architectureOf(known)
    const kept = keptSteps(0, steps, keepEvery).length
    return {
      parameters: parameterCount(architecture),
      optimizerSteps: steps,
      tokens: steps * rowsPerStep * tokens.known.context,
      flops: steps * rowsPerStep * tokens.known.context * trainingFlopsPerToken(architecture),
      compute: {
        architecture,
        training: {
          rowsPerStep,
          startStep: 0,
          validations: Math.ceil(steps / validateEvery),
          samples: { texts: probesOf(known.languages).length, newTokens: SAMPLE_TOKENS },
        },
      },
      diskBytes: kept * checkpointBytes(architecture, true),
      // a new resume point is whole before the one before it goes
      scratchBytes: 2 * checkpointBytes(architecture, true),
    }
  },
  // an engine's lanes work on one optimizer step at a time: two trainings would only take turns at them, and hold twice the memory
  resources: ({ model }, { tokens, from }) => ({
    cpus: "all",
    memoryBytes: trainingBytes(architectureOf({ ...tokens.known, shape: shapeOf(model, from) })),
  }),
  run: (work) =>
    Effect.gen(function* () {
      const { trainingRun } = yield* Effect.promise(() => import("./TrainingRun.ts"))
      const { model, steps, rowsPerStep, peakLr, warmupSteps, keepEvery, validateEvery, optimizer, seed } =
        work.params as unknown as TrainParams
      const tokensFolder = work.inputs["tokens"]![0]!.path
      const recipe = { rowsPerStep, schedule: { peakLr, warmupSteps }, optimizer, seed }
      const base = work.inputs["from"]?.[0]
      const began = base && (yield* beganWith(work, base.path, tokensFolder, recipe))
      yield* trainingRun(work, {
        tokensFolder,
        ...recipe,
        shape: began?.architecture ?? model!,
        vocabulary: began?.architecture.vocabulary,
        parent: began?.path,
        startStep: 0,
        endStep: steps,
        keep: keptSteps(0, steps, keepEvery),
        validateEvery,
        moments: true,
      })
      return undefined
    }),
})

/** One of both is there: `check` has seen to it. */
const shapeOf = (model: Shape | undefined, from: Pretrained | undefined): Shape => from?.known.shape ?? model!

const modelProblem = (model: Shape | undefined, from: Pretrained | undefined, tokens: Tokens) => {
  if (from === undefined)
    return model === undefined
      ? { problem: "nothing says what is trained", hint: "give `model`, or what `pretrained` returned as `from`" }
      : shapeProblem(model)
  if (model !== undefined)
    return { problem: "it is given a `model` and one to go on `from`", hint: "leave `model` out: it is that of `from`" }
  return tokens.known.vocabulary === from.known.vocabulary
    ? undefined
    : {
        problem: `the tokens have a vocabulary of ${tokens.known.vocabulary}, the model to go on from one of ${from.known.vocabulary}`,
        hint: "pack with the tokenizer of the model: `pack({ tokenizer: base.tokenizer, … })`",
      }
}

/** The published model as a checkpoint of step 0, and what it is. */
const beganWith = Effect.fnUntraced(function* (
  work: Work,
  pretrained: string,
  tokensFolder: string,
  recipe: Pick<CheckpointState, "rowsPerStep" | "schedule" | "optimizer" | "seed">,
) {
  const { Engine } = yield* Effect.promise(() => import("../engine/Engine.ts"))
  const { readTokens } = yield* Effect.promise(() => import("../data/Pack.ts"))
  const { pretrainedWith, writeStart } = yield* Effect.promise(() => import("./Continuation.ts"))
  const { index } = yield* readTokens(tokensFolder)
  const { architecture } = yield* pretrainedWith(pretrained, index.context)
  const state = { ...recipe, architecture, engine: (yield* Engine).numerics }
  return { architecture, path: yield* writeStart(join(work.scratch, "start"), pretrained, state) }
})

interface TrainParams {
  readonly model?: Shape
  readonly steps: number
  readonly rowsPerStep: number
  readonly peakLr: number
  readonly warmupSteps: number
  readonly keepEvery: number
  readonly validateEvery: number
  readonly optimizer: Optimizer
  readonly seed: number
}
