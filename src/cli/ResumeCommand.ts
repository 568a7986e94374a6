/**
 * `exp resume --prove`: interrupted training is the training that was never interrupted, shown on a checkpoint of one's own.
 */
import { join, resolve } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type Asked, choose, makerIn } from "../engine/Engines.ts"
import { checkpointName } from "../model/Checkpoint.ts"
import { locate, type Place, type Proof, prove, runsOf } from "../run/ResumeProof.ts"
import { services } from "./Project.ts"
import { table } from "./Table.ts"

export class ResumeDiffers extends Schema.TaggedError<ResumeDiffers>()("ResumeDiffers", {
  artifact: Schema.String,
  step: Schema.Int,
}) {
  override get message() {
    return `${this.artifact}: the checkpoints after step ${this.step} are not byte-equal\n  hint: report this with the output of \`exp doctor\`; bit equality is promised on the same engine and device, of torch also with the same \`--engine-set\``
  }
}

export interface ResumeSettings {
  readonly prove: string
  readonly steps: number | undefined
  /** By default the engine that made the checkpoint: bit equality is promised for that one alone. */
  readonly engines: Asked
  readonly runs: string
  readonly json: boolean
}

const NAMES = { "model.safetensors": "weights", "optimizer.safetensors": "moments", "state.json": "state" } as const

const text = (proof: Proof): string => {
  const { artifact, from, cut, to, checkpoints, equal, notStored } = proof
  const compared = Object.entries(NAMES).filter(([file]) => checkpoints[0]!.sha256[file] !== undefined)
  const names = compared.map(([, name]) => name)
  const rows = compared.flatMap(([file, name]) =>
    checkpoints.map(({ what, sha256 }, index) => [index === 0 ? name : "", what, sha256[file]!]),
  )
  return [
    `${artifact}: steps ${from} to ${to}, at a stretch and cut by a resume point after step ${cut}`,
    "",
    table(["", `after step ${to}`, "sha256"], rows),
    "",
    equal ? `${names.slice(0, -1).join(", ")} and ${names.at(-1)} are byte-equal` : "they are not byte-equal",
    ...(notStored === undefined ? [] : [`not compared with a stored checkpoint: ${notStored}`]),
  ].join("\n")
}

/** The proof itself says what is wrong with a state that cannot be read. */
const madeBy = ({ root, artifact, step }: Place) =>
  makerIn(join(root, artifact, "checkpoints", checkpointName(step), "state.json"))

export const resume = Effect.fn("exp resume")(function* (settings: ResumeSettings) {
  const place = yield* locate(resolve(settings.runs), settings.prove)
  const runs = runsOf(place)
  const engine = yield* choose(settings.engines, madeBy(place))
  const proof = yield* prove(place, {
    steps: settings.steps,
    scratch: join(runs, ".cache"),
    say: (text) => void (process.stderr.isTTY && process.stderr.write(`${text}\n`)),
  }).pipe(Effect.provide(services(runs, engine)))
  yield* Console.log(settings.json ? JSON.stringify(proof) : text(proof))
  if (!proof.equal) return yield* new ResumeDiffers({ artifact: proof.artifact, step: proof.to })
})
