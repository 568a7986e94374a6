/**
 * The checkpoint of step 0 that continued pre-training goes on from: published weights and moments of nothing.
 *
 * A GPT-2 has a tensor of positions; where the tokens have a shorter context, it is cut to that. Everything else is taken as it is.
 */
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Safetensors from "../engine/Safetensors.ts"
import { Pretrained, PretrainedUnfit } from "../hub/Pretrained.ts"
import { type Architecture, tensors } from "../model/Architecture.ts"
import { type CheckpointState, checkpointName } from "../model/Checkpoint.ts"
import { canonicalJson } from "../model/Digest.ts"
import { Weights } from "../release/gguf/Source.ts"
import { sync } from "../store/Files.ts"

/** What was taken over, and how it looks with a context of these many tokens. */
export const pretrainedWith = Effect.fn("pretrainedWith")(function* (folder: string, context: number) {
  const path = join(folder, "pretrained.json")
  const about = yield* Schema.decodeUnknownEffect(Schema.fromJsonString(Pretrained))(readFileSync(path, "utf8"))
  const { architecture } = about
  if (architecture.family === "gpt2" && context > architecture.context)
    return yield* new PretrainedUnfit({
      path: folder,
      problem: `the tokens are packed to ${context}, the model has ${architecture.context} positions`,
      hint: `pack with a context of at most ${architecture.context}`,
    })
  return { ...about, architecture: { ...architecture, context } as Architecture }
})

type Start = Omit<CheckpointState, "modelSha256" | "optimizerSha256" | "step" | "tokensSeen" | "rowCursor">

/** Writes `<folder>/step_0`, whole or absent, and gives its path. */
export const writeStart = Effect.fn("writeStart")(function* (folder: string, pretrained: string, state: Start) {
  const path = join(folder, checkpointName(0))
  if (existsSync(path)) return path
  const beside = `${path}.new`
  rmSync(beside, { recursive: true, force: true })
  const wanted = tensors(state.architecture)
  const { model, optimizer } = yield* Effect.acquireUseRelease(
    Effect.sync(() => new Weights(join(pretrained, "model.safetensors"))),
    (weights) =>
      Effect.gen(function* () {
        // of positions, no row beyond what is wanted is asked for
        const taken = wanted.map(({ name, shape }) => ({ ...weights.streamed(name, name), shape }))
        const moments = wanted.flatMap(({ name, shape }) =>
          ["exp_avg", "exp_avg_sq"].map((moment) => ({
            name: `${name}.${moment}`,
            shape,
            fill: (_: number, to: Float32Array) => {
              to.fill(0)
            },
          })),
        )
        return {
          model: yield* Safetensors.write(join(beside, "model.safetensors"), taken),
          optimizer: yield* Safetensors.write(join(beside, "optimizer.safetensors"), moments),
        }
      }),
    (weights) => Effect.sync(() => weights.close()),
  )
  const whole: CheckpointState = {
    ...state,
    ...{ step: 0, tokensSeen: 0, rowCursor: 0, modelSha256: model.sha256, optimizerSha256: optimizer.sha256 },
  }
  const about = join(beside, "state.json")
  writeFileSync(about, `${canonicalJson(whole)}\n`)
  // whoever finds the folder believes it: all of it is on disk before it has its name
  yield* sync([about], [beside])
  renameSync(beside, path)
  yield* sync([], [folder])
  return path
})
