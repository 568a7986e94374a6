/**
 * The decay that made the released checkpoint, trained again from its parent and compared step by step with the telemetry in the
 * release, and at the end weight by weight.
 *
 * The parent is found in a store by what it was made from. Where no store has it, everything up to the training is done again from
 * nothing, by the plan of the experiment in the release and with texts of the same bytes: a program that came with the release is asked
 * for its plan then (`src/cli/Rerun.ts`), so it is only done when asked for.
 *
 * On the same engine and kind of processor every figure comes out to the last bit. Elsewhere: losses to 1e-3 of their size, gradient
 * norms to 5e-2, weights to 1e-2 of the largest of their tensor; training multiplies what rounding begins.
 */
import { existsSync, mkdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import type * as Path from "effect/Path"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { readTokens } from "../data/Pack.ts"
import { writeOrder } from "../data/RowOrder.ts"
import { Engine } from "../engine/Engine.ts"
import * as Safetensors from "../engine/Safetensors.ts"
import { CheckpointState, checkpointName } from "../model/Checkpoint.ts"
import { canonicalJson } from "../model/Digest.ts"
import { StepMetrics } from "../model/Report.ts"
import { type ReleaseFacts, type ReleaseFiles, readLines, weightsName } from "../release/Folder.ts"
import { sha256OfFile } from "../release/Sums.ts"
import { type Finding, within } from "./Finding.ts"
import { type Release, temporary } from "./Release.ts"
import { stored } from "./Texts.ts"

const { ok, wrong, skipped } = within("replay")

const LOSS = 1e-3
const NORM = 5e-2
const WEIGHT = 1e-2

export interface ReplayOptions {
  /** Store that may have the parent. */
  readonly store: string
  /** Does the experiment of the release up to its training, and says in which store; undefined when it cannot. */
  readonly fromNothing: Rerun
  readonly say: (text: string) => void
}

export type Rerun = (
  release: string,
  /** As the release says they were set. */
  parameters: ReleaseFacts["parameters"],
) => Effect.Effect<string | undefined, Error, Engine | FileSystem.FileSystem | Path.Path>

interface Parent {
  readonly artifact: string
  readonly path: string
  readonly checkpoint: string
  readonly tokens: string
}

/** A training of the same identity that kept the parent with its moments, and the tokens it read. */
const findParent = Effect.fnUntraced(function* (root: string, files: ReleaseFiles) {
  const { keys, parent_step: step } = files.release
  const tokens = yield* stored(root, "pack", keys["pack"])
  if (tokens === undefined) return undefined
  const checkpointOf = (path: string): string => join(path, "checkpoints", checkpointName(step))
  const hasMoments = (path: string): boolean => existsSync(join(checkpointOf(path), "optimizer.safetensors"))
  const trained = yield* stored(root, "train", keys["train"], hasMoments)
  if (trained === undefined) return undefined
  const { manifest, path } = trained
  return { artifact: manifest.artifact, path, checkpoint: checkpointOf(path), tokens: tokens.path } satisfies Parent
})

const apart = (a: number, b: number): number => (a === b ? 0 : Math.abs(a - b) / Math.max(Math.abs(a), Math.abs(b)))

interface Compared {
  readonly steps: number
  readonly loss: number
  readonly norm: number
}

/** Lines of telemetry against lines of telemetry. */
const compareSteps = (
  what: string,
  said: ReadonlyArray<StepMetrics>,
  again: ReadonlyMap<number, StepMetrics>,
): { readonly findings: ReadonlyArray<Finding>; readonly compared: Compared } => {
  const findings: Array<Finding> = []
  let [loss, norm] = [0, 0]
  for (const line of said) {
    const now = again.get(line.step)
    if (now === undefined) {
      findings.push(wrong(what, `step ${line.step} was not taken again`))
      continue
    }
    loss = Math.max(loss, apart(line.loss, now.loss))
    norm = Math.max(norm, apart(line.grad_norm, now.grad_norm))
    const off =
      apart(line.loss, now.loss) > LOSS
        ? `loss ${line.loss}, trained again ${now.loss}`
        : apart(line.grad_norm, now.grad_norm) > NORM
          ? `gradient norm ${line.grad_norm}, trained again ${now.grad_norm}`
          : line.tokens_seen !== now.tokens_seen
            ? `${line.tokens_seen} tokens, trained again ${now.tokens_seen}`
            : apart(line.lr, now.lr) > 1e-5
              ? `learning rate ${line.lr}, trained again ${now.lr}`
              : undefined
    if (off !== undefined && findings.length < 5) findings.push(wrong(what, `step ${line.step}: ${off}`))
  }
  return { findings, compared: { steps: said.length, loss, norm } }
}

const inWords = ({ steps, loss, norm }: Compared): string =>
  loss === 0 && norm === 0
    ? `${steps} steps, losses and gradient norms to the last bit`
    : `${steps} steps, losses at most ${loss.toExponential(1)} of their size apart, gradient norms ${norm.toExponential(1)}`

/** Each tensor's largest difference as a share of its largest number; the largest of all. */
const weightsApart = Effect.fnUntraced(function* (one: string, other: string) {
  const a = yield* Safetensors.read(one)
  const b = yield* Safetensors.read(other)
  let most = 0
  for (const [name, { data }] of a) {
    const beside = b.get(name)?.data
    if (beside === undefined || beside.length !== data.length) return Number.POSITIVE_INFINITY
    let [difference, size] = [0, 0]
    for (let i = 0; i < data.length; i++) {
      difference = Math.max(difference, Math.abs(data[i]! - beside[i]!))
      size = Math.max(size, Math.abs(data[i]!))
    }
    most = Math.max(most, size === 0 ? difference : difference / size)
  }
  return most
})

export const checkReplay = Effect.fn("verification.checkReplay")(function* (
  { view }: Release,
  files: ReleaseFiles,
  options: ReplayOptions,
) {
  const engine = yield* Engine
  const { state, training, release } = files
  if (engine.numerics.name !== training.engine.name || engine.numerics.precision !== training.engine.precision)
    return [skipped("tail", `it was trained by engine ${training.engine.name}, this is ${engine.numerics.name}`)]
  let parent = yield* findParent(options.store, files)
  if (parent === undefined) {
    const made = yield* options.fromNothing(view, release.parameters)
    if (made !== undefined) {
      parent = yield* findParent(made, files)
      if (parent === undefined)
        return [wrong("training", "the experiment and these texts make another training than the release names")]
    }
  }
  if (parent === undefined)
    return [
      skipped(
        "tail",
        `its parent, step ${release.parent_step} of train ${release.keys["train"]?.slice(0, 16) ?? "?"}, is in no store here: give the store with \`--runs\`, or the texts with \`--corpus\` to train everything again`,
      ),
    ]
  const findings: Array<Finding> = []
  // what is not told cannot be compared
  const told = files.steps.filter(({ step }) => step <= release.released_step).length
  if (told !== release.released_step)
    findings.push(wrong("telemetry", `metrics.jsonl has ${told} of the ${release.released_step} steps`))
  const before = yield* readLines(StepMetrics, join(parent.path, "metrics.jsonl"))
  const stable = compareSteps(
    "training",
    files.steps.filter(({ phase }) => phase === "train"),
    new Map(before.map((line) => [line.step, line])),
  )
  findings.push(...stable.findings)
  if (stable.findings.length === 0 && stable.compared.steps > 0)
    findings.push(ok("training", `${inWords(stable.compared)}: the telemetry of ${parent.artifact}`))
  if (release.released_step === release.parent_step)
    return [...findings, skipped("tail", "the release is a stable checkpoint")]

  const parentState = yield* Schema.decodeUnknownEffect(Schema.fromJsonString(CheckpointState))(
    readFileSync(join(parent.checkpoint, "state.json"), "utf8"),
  )
  for (const [what, a, b] of [
    ["architecture", parentState.architecture, state.architecture],
    ["optimizer", parentState.optimizer, state.optimizer],
    ["seed", parentState.seed, state.seed],
    ["rows per step", parentState.rowsPerStep, state.rowsPerStep],
  ] as const)
    if (canonicalJson(a) !== canonicalJson(b)) findings.push(wrong("tail", `its parent has another ${what}`))

  const scratch = yield* temporary
  const order = join(scratch, "order.bin")
  const { index } = yield* readTokens(parent.tokens)
  yield* writeOrder(index, state.seed, release.released_step * state.rowsPerStep, order)
  const checkpoints = join(scratch, "checkpoints")
  mkdirSync(checkpoints)
  const again = new Map<number, StepMetrics>()
  yield* engine
    .train({
      architecture: state.architecture,
      from: { _tag: "Checkpoint", path: parent.checkpoint },
      seed: state.seed,
      tokens: parent.tokens,
      order,
      rowsPerStep: state.rowsPerStep,
      startStep: release.parent_step,
      endStep: release.released_step,
      schedule: state.schedule,
      optimizer: state.optimizer,
      checkpoints: { folder: checkpoints, at: [release.released_step], moments: false },
      resume: { folder: join(scratch, "resume"), everySeconds: Number.MAX_SAFE_INTEGER },
    })
    .pipe(
      Stream.runForEach((event) =>
        Effect.sync(() => {
          if (event._tag !== "Step") return
          const { step, loss, lr, gradNorm, tokensSeen } = event
          again.set(step, { step, loss, lr, grad_norm: gradNorm, tokens_seen: tokensSeen })
          options.say(`training again: step ${step} of ${release.released_step}`)
        }),
      ),
    )
  // the telemetry of a decay goes on past a checkpoint in its middle
  const said = files.steps.filter(({ phase, step }) => phase === "decay" && step <= release.released_step)
  const tail = compareSteps("tail", said, again)
  findings.push(...tail.findings)
  if (tail.compared.steps === 0) findings.push(wrong("tail", "metrics.jsonl tells nothing of it"))
  else if (tail.findings.length === 0)
    findings.push(ok("tail", `trained again from step ${release.parent_step}: ${inWords(tail.compared)}`))

  const made = join(checkpoints, checkpointName(release.released_step), "model.safetensors")
  if ((yield* sha256OfFile(made)) === state.modelSha256)
    return [
      ...findings,
      ok("weights", `trained again they have the same bytes, sha256 ${state.modelSha256.slice(0, 16)}…`),
    ]
  const difference = yield* weightsApart(join(view, weightsName(release)), made)
  const words = `trained again they differ by at most ${difference.toExponential(1)} of a tensor's largest`
  return [
    ...findings,
    difference <= WEIGHT ? ok("weights", `${words}: another processor or engine version`) : wrong("weights", words),
  ]
})
