/**
 * `decay`: a decay-only continuation. It carries weights, moments, step and data position of a stable checkpoint on, and replaces
 * only the schedule; its checkpoints keep weights alone.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { checkpointBytes, parameterCount, trainingBytes, trainingFlopsPerToken } from "../model/Architecture.ts"
import { architectureOf, keptSteps, StableCheckpoint, Tail } from "../model/Artifact.ts"
import { CheckpointState } from "../model/Checkpoint.ts"
import { DecayShape } from "../model/LrSchedule.ts"
import { probesOf, SAMPLE_TOKENS } from "../model/Probe.ts"
import * as Step from "../plan/Step.ts"

const Positive = Schema.Int.check(Schema.isGreaterThan(0))

export const decay = Step.make("decay", {
  version: 1,
  computes: true,
  resumable: true,
  elastic: ["every", "validateEvery"],
  params: {
    /** Optimizer steps from the parent to the final learning rate. */
    steps: Positive,
    finalLr: Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0)),
    shape: DecayShape.pipe(Schema.withConstructorDefault(Effect.succeed("linear" as const))),
    /** A checkpoint after every so many steps, and after the last. */
    every: Positive,
    validateEvery: Positive.pipe(Schema.withConstructorDefault(Effect.succeed(50))),
  },
  inputs: { from: StableCheckpoint },
  output: (ref, { steps, every }, { from }) => new Tail(ref, from.known, from.step, keptSteps(0, steps, every)),
  label: ({ steps }, { from }) =>
    from.step === undefined ? `decay +${steps}` : `decay ${from.step}→${from.step + steps}`,
  check: ({ shape, finalLr }) =>
    shape === "exp" && finalLr === 0
      ? {
          problem: "an exponential decay never reaches a final rate of 0",
          hint: "choose a small `finalLr`, or another shape",
        }
      : undefined,
  forecast: ({ steps, every, validateEvery }, { from }) => {
    const architecture = architectureOf(from.known)
    const { rowsPerStep, context } = from.known
    const kept = keptSteps(0, steps, every).length
    return {
      parameters: parameterCount(architecture),
      optimizerSteps: steps,
      tokens: steps * rowsPerStep * context,
      flops: steps * rowsPerStep * context * trainingFlopsPerToken(architecture),
      compute: {
        architecture,
        training: {
          rowsPerStep,
          ...(from.step !== undefined && { startStep: from.step }),
          validations: Math.ceil(steps / validateEvery),
          samples: { texts: probesOf(from.known.languages).length, newTokens: SAMPLE_TOKENS },
        },
      },
      diskBytes: kept * checkpointBytes(architecture, false),
      // as in `train`, with moments
      scratchBytes: 2 * checkpointBytes(architecture, true),
    }
  },
  resources: (_, { from }) => ({ cpus: "all", memoryBytes: trainingBytes(architectureOf(from.known)) }),
  run: (work) =>
    Effect.gen(function* () {
      const { trainingRun } = yield* Effect.promise(() => import("./TrainingRun.ts"))
      const from = work.inputs["from"]![0]!
      const parent = yield* Schema.decodeUnknownEffect(Schema.fromJsonString(CheckpointState))(
        readFileSync(join(from.path, "state.json"), "utf8"),
      )
      const { steps, finalLr, shape, every, validateEvery } = work.params as unknown as DecayParams
      const training = yield* work.lineage(from.artifact)
      yield* trainingRun(work, {
        tokensFolder: training.inputs["tokens"]![0]!.path,
        shape: parent.architecture,
        vocabulary: parent.architecture.vocabulary,
        rowsPerStep: parent.rowsPerStep,
        schedule: { ...parent.schedule, decay: { startStep: parent.step, steps, finalLr, shape } },
        optimizer: parent.optimizer,
        seed: parent.seed,
        parent: from.path,
        startStep: parent.step,
        endStep: parent.step + steps,
        keep: keptSteps(parent.step, steps, every),
        validateEvery,
        moments: false,
      })
      return undefined
    }),
})

interface DecayParams {
  readonly steps: number
  readonly finalLr: number
  readonly shape: DecayShape
  readonly every: number
  readonly validateEvery: number
}
