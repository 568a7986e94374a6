/**
 * `train`: fresh weights, warm-up and the stable phase of WSD. Every decay is a `decay` from one of its checkpoints.
 *
 * How long it runs, which checkpoints are kept and how often it is validated are elastic: they do not change a weight. So a longer
 * `train` goes on from a shorter one's newest stored checkpoint, and what was decayed from checkpoint 400 stays cached.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { checkpointBytes, parameterCount, Shape, trainingBytes } from "../model/Architecture.ts"
import { architectureOf, type KnownTraining, keptSteps, Tokens, Trained } from "../model/Artifact.ts"
import { defaultOptimizer, Optimizer } from "../model/Checkpoint.ts"
import * as Step from "../plan/Step.ts"

const Positive = Schema.Int.check(Schema.isGreaterThan(0))
const Rate = Schema.Finite.check(Schema.isGreaterThan(0))

export const train = Step.make("train", {
  version: 1,
  computes: true,
  resumable: true,
  elastic: ["steps", "keepEvery", "validateEvery"],
  params: {
    model: Shape,
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
  inputs: { tokens: Tokens },
  output: (ref, { model, steps, rowsPerStep, keepEvery }, { tokens }) =>
    new Trained(ref, { ...tokens.known, shape: model, rowsPerStep }, keptSteps(0, steps, keepEvery)),
  label: ({ steps }) => `train 0→${steps}`,
  check: ({ model, warmupSteps, steps }) => {
    if (model.width % model.heads !== 0)
      return {
        problem: `width ${model.width} does not divide into ${model.heads} heads`,
        hint: "choose heads that divide the width, 64 wide each is usual",
      }
    if (warmupSteps > steps)
      return {
        problem: `warm-up of ${warmupSteps} steps is longer than the run of ${steps}`,
        hint: "lower `warmupSteps`",
      }
    return undefined
  },
  forecast: ({ model, steps, rowsPerStep, keepEvery }, { tokens }) => {
    const known: KnownTraining = { ...tokens.known, shape: model, rowsPerStep }
    const architecture = architectureOf(known)
    return {
      parameters: parameterCount(architecture),
      optimizerSteps: steps,
      tokens: steps * rowsPerStep * tokens.known.context,
      diskBytes: keptSteps(0, steps, keepEvery).length * checkpointBytes(architecture, true),
      // a new resume point is whole before the one before it goes
      scratchBytes: 2 * checkpointBytes(architecture, true),
    }
  },
  // an engine's lanes work on one optimizer step at a time: two trainings would only take turns at them, and hold twice the memory
  resources: ({ model, rowsPerStep }, { tokens }) => ({
    cpus: "all",
    memoryBytes: trainingBytes(architectureOf({ ...tokens.known, shape: model, rowsPerStep })),
  }),
  run: (work) =>
    Effect.gen(function* () {
      const { trainingRun } = yield* Effect.promise(() => import("./TrainingRun.ts"))
      const { model, steps, rowsPerStep, peakLr, warmupSteps, keepEvery, validateEvery, optimizer, seed } =
        work.params as unknown as TrainParams
      yield* trainingRun(work, {
        tokensFolder: work.inputs["tokens"]![0]!.path,
        shape: model,
        rowsPerStep,
        schedule: { peakLr, warmupSteps },
        optimizer,
        seed,
        parent: undefined,
        startStep: 0,
        endStep: steps,
        keep: keptSteps(0, steps, keepEvery),
        validateEvery,
        moments: true,
      })
      return undefined
    }),
})

interface TrainParams {
  readonly model: Shape
  readonly steps: number
  readonly rowsPerStep: number
  readonly peakLr: number
  readonly warmupSteps: number
  readonly keepEvery: number
  readonly validateEvery: number
  readonly optimizer: Optimizer
  readonly seed: number
}
