/**
 * Shows, on a stored checkpoint, that training which was interrupted is the training that was never interrupted: the next steps are
 * taken once at a stretch and once cut by a resume point in the middle, and every byte of both checkpoints is compared, and of the
 * stored one of that step where there is one.
 */
import { createHash } from "node:crypto"
import {
  createReadStream,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  realpathSync,
  rmSync,
  statSync,
} from "node:fs"
import { readFile } from "node:fs/promises"
import { basename, dirname, join, resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { readTokens } from "../data/Pack.ts"
import { writeOrder } from "../data/RowOrder.ts"
import { Engine, type TrainRequest } from "../engine/Engine.ts"
import { CheckpointState, checkpointName } from "../model/Checkpoint.ts"
import { suggestion } from "../model/DidYouMean.ts"
import { Store } from "../store/Store.ts"

export class CheckpointRefused extends Schema.TaggedError<CheckpointRefused>()("CheckpointRefused", {
  checkpoint: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `checkpoint \`${this.checkpoint}\`: ${this.problem}\n  hint: ${this.hint}`
  }
}

export interface Place {
  /** Folder of the store. */
  readonly root: string
  readonly artifact: string
  readonly step: number
}

const FILES = ["model.safetensors", "optimizer.safetensors", "state.json"] as const
const AT_MOST = 50

const form = "name it as `train-0123456789abcdef#step_400`, or by its folder in the store"

/** The checkpoint that is meant by a folder, or by `<artifact>#step_<n>` in this runs folder. */
export const locate = (runs: string, checkpoint: string): Effect.Effect<Place, CheckpointRefused> =>
  Effect.gen(function* () {
    const refuse = (problem: string, hint: string) => new CheckpointRefused({ checkpoint, problem, hint })
    const named = /^([^/#]+)#(step_\d+)$/.exec(checkpoint)
    const root = join(runs, "store")
    if (named !== null) {
      const [, artifact, part] = named
      const trains = existsSync(root) ? readdirSync(root).filter((name) => /^train-/.test(name)) : []
      if (!existsSync(join(root, artifact!)))
        return yield* refuse(
          `there is no artifact \`${artifact}\``,
          trains.length === 0 ? "nothing was trained yet" : suggestion(artifact!, trains),
        )
      return { root, artifact: artifact!, step: Number(part!.slice("step_".length)) }
    }
    const path = resolve(checkpoint)
    if (!existsSync(path)) return yield* refuse("there is no such folder", form)
    const found = /^(.*)\/([^/]+)\/checkpoints\/step_(\d+)$/.exec(realpathSync(path).replaceAll("\\", "/"))
    if (found === null) return yield* refuse("it is no checkpoint of an artifact", form)
    return { root: found[1]!, artifact: found[2]!, step: Number(found[3]) }
  })

const sha256Of = async (path: string): Promise<string> => {
  const hash = createHash("sha256")
  for await (const chunk of createReadStream(path)) hash.update(chunk as Uint8Array)
  return hash.digest("hex")
}

export interface Hashed {
  readonly what: string
  /** By file; a checkpoint in a tail keeps no moments. */
  readonly sha256: Readonly<Record<string, string>>
}

export interface Proof {
  readonly artifact: string
  readonly from: number
  readonly cut: number
  readonly to: number
  readonly checkpoints: ReadonlyArray<Hashed>
  readonly equal: boolean
  /** Why the stored checkpoint of the last step was not compared. */
  readonly notStored?: string
}

const stepsIn = (folder: string): ReadonlyArray<number> =>
  (existsSync(folder) ? readdirSync(folder) : [])
    .flatMap((name) => (/^step_\d+$/.test(name) ? [Number(name.slice("step_".length))] : []))
    .sort((a, b) => a - b)

export const prove = Effect.fn("ResumeProof.prove")(function* (
  place: Place,
  options: { readonly steps: number | undefined; readonly scratch: string; readonly say: (text: string) => void },
) {
  const store = yield* Store
  const engine = yield* Engine
  const { artifact, step } = place
  const name = `${artifact}#${checkpointName(step)}`
  const refuse = (problem: string, hint: string) => new CheckpointRefused({ checkpoint: name, problem, hint })

  const manifest = yield* store.verify(artifact)
  const checkpoints = join(store.pathOf(artifact), "checkpoints")
  const kept = stepsIn(checkpoints)
  const folder = join(checkpoints, checkpointName(step))
  if (!kept.includes(step))
    return yield* refuse(
      kept.length === 0 ? `a ${manifest.kind} has no checkpoints` : `no checkpoint was kept after step ${step}`,
      kept.length === 0 ? form : suggestion(checkpointName(step), kept.map(checkpointName)),
    )
  const state = yield* Effect.tryPromise(() => readFile(join(folder, "state.json"), "utf8")).pipe(
    Effect.flatMap(Schema.decodeUnknownEffect(Schema.fromJsonString(CheckpointState))),
    Effect.mapError((cause) => refuse(cause.message, "`exp check --read-data` looks at every byte")),
  )
  const { numerics } = engine
  if (JSON.stringify(state.engine) !== JSON.stringify(numerics))
    return yield* refuse(
      `it is of engine ${state.engine.name} (numerics ${state.engine.numerics}), this one is ${numerics.name} (numerics ${numerics.numerics})`,
      "bit equality is promised for one engine",
    )
  // a checkpoint in a tail keeps weights alone: what is proved is the way to it, from the stable checkpoint that was decayed
  const moments = existsSync(join(folder, "optimizer.safetensors"))
  const parent = moments ? undefined : manifest.inputs["from"]?.[0]
  if (!moments && (parent?.part === undefined || state.schedule.decay === undefined))
    return yield* refuse("it keeps weights only: training cannot go on from it", "take a checkpoint of a `train`")
  const trained = parent === undefined ? manifest : yield* store.verify(parent.artifact)
  const start = state.schedule.decay === undefined || moments ? step : state.schedule.decay.startStep
  const origin = join(store.pathOf(trained.artifact), "checkpoints", checkpointName(start))
  const packing = trained.inputs["tokens"]?.[0]?.artifact
  if (packing === undefined)
    return yield* refuse("its tokens are not among its inputs", "take a checkpoint of a `train` or of a `decay`")
  yield* store.verify(packing)
  const tokensFolder = store.pathOf(packing)

  const next = moments ? kept.find((one) => one >= step + 2 && one <= step + AT_MOST) : step
  const to = options.steps === undefined ? (next ?? step + AT_MOST) : start + options.steps
  if (to < start + 2) return yield* refuse("one step has no middle to be cut in", "`--steps 2` or more")
  const middle = start + Math.floor((to - start) / 2)
  const files = FILES.filter((file) => moments || file !== "optimizer.safetensors")

  mkdirSync(options.scratch, { recursive: true })
  const scratch = yield* Effect.acquireRelease(
    Effect.sync(() => mkdtempSync(join(options.scratch, "proof-"))),
    (path) => Effect.sync(() => rmSync(path, { recursive: true, force: true })),
  )
  let order = join(store.pathOf(artifact), "order.bin")
  if (!existsSync(order) || statSync(order).size < to * state.rowsPerStep * 4) {
    order = join(scratch, "order.bin")
    const { index } = yield* readTokens(tokensFolder)
    yield* writeOrder(index, state.seed, to * state.rowsPerStep, order)
  }
  const request = (from: string, startStep: number, out: string): TrainRequest => ({
    architecture: state.architecture,
    from: { _tag: "Checkpoint", path: from },
    seed: state.seed,
    tokens: tokensFolder,
    order,
    rowsPerStep: state.rowsPerStep,
    startStep,
    endStep: to,
    schedule: state.schedule,
    optimizer: state.optimizer,
    checkpoints: { folder: join(out, "checkpoints"), at: [to], moments },
    resume: { folder: join(out, "resume"), everySeconds: Number.MAX_SAFE_INTEGER },
  })
  const hashed = (what: string, path: string) =>
    Effect.promise(async (): Promise<Hashed> => {
      const sums = await Promise.all(files.map(async (file) => [file, await sha256Of(join(path, file))] as const))
      return { what, sha256: Object.fromEntries(sums) }
    })

  const stretch = join(scratch, "stretch")
  options.say(`steps ${start} to ${to} at a stretch`)
  yield* Stream.runDrain(engine.train(request(origin, start, stretch)))
  const cut = join(scratch, "cut")
  options.say(`steps ${start} to ${middle}, then interrupted`)
  yield* engine.train(request(origin, start, cut)).pipe(
    // the engine is left when it has begun one step more, and keeps the last that was settled
    Stream.takeUntil((event) => event._tag === "Step" && event.step > middle),
    Stream.runDrain,
  )
  let [resumedFrom] = stepsIn(join(cut, "resume"))
  let point = join(cut, "resume", checkpointName(resumedFrom ?? middle))
  if (resumedFrom === undefined) {
    // a worker that ran ahead was done before it could be interrupted: it goes on from a checkpoint in the middle instead
    if (!existsSync(join(cut, "checkpoints", checkpointName(to))))
      return yield* refuse(`the ${numerics.name} engine left no resume point`, "report this: an interruption lost work")
    const short = join(scratch, "short")
    yield* Stream.runDrain(
      engine.train({
        ...request(origin, start, short),
        endStep: middle,
        checkpoints: { folder: join(short, "checkpoints"), at: [middle], moments: true },
      }),
    )
    resumedFrom = middle
    point = join(short, "checkpoints", checkpointName(middle))
  }
  options.say(`steps ${resumedFrom} to ${to}, from the resume point`)
  yield* Stream.runDrain(engine.train(request(point, resumedFrom, join(scratch, "resumed"))))

  const last = checkpointName(to)
  const stored = join(checkpoints, last)
  const made = [
    yield* hashed("at a stretch", join(stretch, "checkpoints", last)),
    yield* hashed(`cut at step ${resumedFrom}`, join(scratch, "resumed", "checkpoints", last)),
  ]
  const beside = kept.includes(to) ? [yield* hashed(`stored ${last}`, stored)] : []
  const all = [...made, ...beside]
  return {
    artifact,
    from: start,
    cut: resumedFrom,
    to,
    checkpoints: all,
    equal: all.every(({ sha256 }) => files.every((file) => sha256[file] === all[0]!.sha256[file])),
    ...(beside.length === 0 && { notStored: `no checkpoint was kept after step ${to}` }),
  } satisfies Proof
}, Effect.scoped)

/** The runs folder that a store lies in. */
export const runsOf = ({ root }: Place): string => (basename(root) === "store" ? dirname(root) : root)
