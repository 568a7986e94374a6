/** Reading and writing of checkpoint folders (the format is told in `src/model/Checkpoint.ts`), straight from and to shared memory. */
import { mkdir, open, readdir, readFile, rename, rm } from "node:fs/promises"
import { dirname, join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { fileSum } from "../../data/FileSum.ts"
import type { Architecture } from "../../model/Architecture.ts"
import { because } from "../../model/Because.ts"
import { CheckpointState, checkpointName } from "../../model/Checkpoint.ts"
import { canonicalJson } from "../../model/Digest.ts"
import { CheckpointUnreadable } from "../Engine.ts"
import * as Safetensors from "../Safetensors.ts"
import { flatLayout } from "./TrainMemory.ts"

const MODEL = "model.safetensors"
const OPTIMIZER = "optimizer.safetensors"
const MOMENTS = ["exp_avg", "exp_avg_sq"] as const

const words = (error: unknown): string => (error instanceof Error ? error.message : String(error))

const unreadable = (path: string) => (error: unknown) =>
  because(
    new CheckpointUnreadable({
      path,
      problem: error instanceof Safetensors.SafetensorsUnreadable ? error.problem : words(error),
    }),
    error,
  )

export const readState = (path: string): Effect.Effect<CheckpointState, CheckpointUnreadable> =>
  Effect.tryPromise({ try: () => readFile(join(path, "state.json"), "utf8"), catch: unreadable(path) }).pipe(
    Effect.flatMap(Schema.decodeUnknownEffect(Schema.fromJsonString(CheckpointState))),
    Effect.mapError(unreadable(path)),
  )

/** Fills flat vectors from a file whose tensors are named `<name><suffix>`; every one of them must be there, and nothing else. */
const readFlat = Effect.fnUntraced(function* (
  path: string,
  file: string,
  architecture: Architecture,
  sha256: string | undefined,
  targets: ReadonlyArray<{ readonly suffix: string; readonly flat: Float32Array }>,
) {
  const expected = new Map(
    targets.flatMap(({ suffix, flat }) =>
      flatLayout(architecture).map(({ spec, first, size }) => [
        `${spec.name}${suffix}`,
        { shape: spec.shape, data: flat.subarray(first, first + size) },
      ]),
    ),
  )
  const found = yield* Safetensors.read(join(path, file), ({ name, shape }) => {
    const tensor = expected.get(name)
    if (tensor === undefined) throw new Error(`${file}: \`${name}\` is not a tensor of this architecture`)
    if (shape.join() !== tensor.shape.join())
      throw new Error(`${file}: \`${name}\` has shape [${shape.join(", ")}], not [${tensor.shape.join(", ")}]`)
    return tensor.data
  }).pipe(Effect.mapError(unreadable(path)))
  for (const name of expected.keys())
    if (!found.has(name)) return yield* new CheckpointUnreadable({ path, problem: `${file}: \`${name}\` is missing` })
  const actual = yield* Effect.tryPromise({
    try: () => fileSum(join(path, file), { fresh: true }),
    catch: unreadable(path),
  })
  if (actual !== sha256)
    return yield* new CheckpointUnreadable({
      path,
      problem: `${file} has sha256 ${actual}, \`state.json\` says ${sha256}`,
    })
})

export const readWeights = (
  path: string,
  state: CheckpointState,
  weights: Float32Array,
): Effect.Effect<void, CheckpointUnreadable> =>
  readFlat(path, MODEL, state.architecture, state.modelSha256, [{ suffix: "", flat: weights }])

export const readMoments = (
  path: string,
  state: CheckpointState,
  moments: readonly [Float32Array, Float32Array],
): Effect.Effect<void, CheckpointUnreadable> =>
  state.optimizerSha256 === undefined
    ? Effect.fail(new CheckpointUnreadable({ path, problem: "it keeps weights only: training cannot go on from it" }))
    : readFlat(
        path,
        OPTIMIZER,
        state.architecture,
        state.optimizerSha256,
        MOMENTS.map((moment, i) => ({ suffix: `.${moment}`, flat: moments[i]! })),
      )

/** Writes what is given, if anything, and waits until it is on disk. */
const synced = async (path: string, flags: "r" | "w", text?: string): Promise<void> => {
  const file = await open(path, flags)
  try {
    if (text !== undefined) await file.writeFile(text)
    await file.sync()
  } finally {
    await file.close()
  }
}

/** A file or folder is not on disk before its folder is. */
const syncFolder = async (path: string): Promise<void> => {
  // Windows opens no folders
  if (process.platform === "win32") return
  await synced(path, "r")
}

/** Writes `<folder>/step_<n>`, whole or absent; an older one of that name is replaced. */
export const write = (
  folder: string,
  state: Omit<CheckpointState, "modelSha256" | "optimizerSha256">,
  weights: Float32Array,
  moments: readonly [Float32Array, Float32Array] | undefined,
): Effect.Effect<{ readonly path: string; readonly state: CheckpointState }, Error> => {
  const path = join(folder, checkpointName(state.step))
  const temporary = join(folder, `.${checkpointName(state.step)}.${process.pid}.tmp`)
  const layout = flatLayout(state.architecture)
  const named = (flat: Float32Array, suffix: string): ReadonlyArray<Safetensors.Tensor> =>
    layout.map(({ spec, first, size }) => ({
      name: `${spec.name}${suffix}`,
      shape: spec.shape,
      data: flat.subarray(first, first + size),
    }))
  const attempt = <A>(run: () => Promise<A>) =>
    Effect.tryPromise({ try: run, catch: (error) => (error instanceof Error ? error : new Error(String(error))) })
  return Effect.gen(function* () {
    yield* attempt(async () => {
      await mkdir(folder, { recursive: true })
      // also what a process that was killed left half written
      for (const name of await readdir(folder))
        if (/^\.step_\d+\.\d+\.tmp$/.test(name)) await rm(join(folder, name), { recursive: true, force: true })
      await mkdir(temporary)
    })
    const model = yield* Safetensors.write(join(temporary, MODEL), named(weights, ""))
    const optimizer =
      moments === undefined
        ? undefined
        : yield* Safetensors.write(
            join(temporary, OPTIMIZER),
            MOMENTS.flatMap((moment, i) => named(moments[i]!, `.${moment}`)),
          )
    const complete: CheckpointState = {
      ...state,
      modelSha256: model.sha256,
      ...(optimizer === undefined ? {} : { optimizerSha256: optimizer.sha256 }),
    }
    yield* attempt(async () => {
      await synced(join(temporary, "state.json"), "w", `${canonicalJson(complete)}\n`)
      await syncFolder(temporary)
      await rm(path, { recursive: true, force: true })
      await rename(temporary, path)
      await syncFolder(dirname(path))
    })
    return { path, state: complete }
  }).pipe(
    // where nothing can be tidied, it is why nothing could be written that is told
    Effect.onError(() => Effect.ignore(attempt(() => rm(temporary, { recursive: true, force: true })))),
    Effect.uninterruptible,
  )
}

/** Leaves only this step in a folder of resume points. */
export const forgetOthers = async (folder: string, step: number): Promise<void> => {
  for (const name of await readdir(folder))
    if (/^\.?step_\d+/.test(name) && name !== checkpointName(step))
      await rm(join(folder, name), { recursive: true, force: true })
}
