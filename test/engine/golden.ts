/** The golden models of `test/golden/engines` (PyTorch and transformers made them), as artifacts that any engine reads. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import type { TrainRequest } from "../../src/engine/Engine.ts"
import * as Safetensors from "../../src/engine/Safetensors.ts"
import { type Architecture, tensors } from "../../src/model/Architecture.ts"
import { type CheckpointState, checkpointName, type Optimizer } from "../../src/model/Checkpoint.ts"
import type { TokensIndex } from "../../src/model/Corpus.ts"
import { canonicalJson } from "../../src/model/Digest.ts"

const file = (name: string): string => new URL(`../golden/engines/${name}`, import.meta.url).pathname

export interface Golden {
  readonly logits_step0_row0_last: ReadonlyArray<number>
  readonly loss_step0: number
  readonly grad_norms_step0: Readonly<Record<string, number>>
  readonly train: {
    readonly losses: ReadonlyArray<number>
    readonly grad_norm_before_clip: ReadonlyArray<number>
    readonly final_weight_norms: Readonly<Record<string, number>>
  }
  readonly greedy_after_training: { readonly prompt: ReadonlyArray<number>; readonly tokens: ReadonlyArray<number> }
}

/** One of them: its weights are in `<family>.safetensors`, what was found of it in `<family>.json`. */
export interface GoldenModel {
  readonly architecture: Architecture
  readonly golden: Golden
}

const goldenModel = (architecture: Architecture): GoldenModel => ({
  architecture,
  golden: JSON.parse(readFileSync(file(`${architecture.family}.json`), "utf8")) as Golden,
})

const sizes = { layers: 2, width: 64, context: 64, vocabulary: 256 }
export const gpt2: GoldenModel = goldenModel({ family: "gpt2", heads: 2, ...sizes })
export const llama: GoldenModel = goldenModel({
  ...{ family: "llama", heads: 4, keyValueHeads: 2, feedForwardWidth: 176, ...sizes },
  // transformers keeps the row of a model's padding token from learning
  ...{ ropeTheta: 10_000, normEpsilon: 1e-6, tiedHead: false, paddingId: 0 },
})

export const { architecture, golden } = gpt2
export const optimizer: Optimizer = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, clipNorm: 1 }
export const ROWS = 4
export const STEPS = 20
export const LENGTH = 65

export const tensorsOf = ({ architecture }: GoldenModel) =>
  Effect.map(Safetensors.read(file(`${architecture.family}.safetensors`)), (found) =>
    tensors(architecture).map(({ name }) => found.get(name)!),
  )
export const goldenTensors = tensorsOf(gpt2)

/** [step][row][65] */
export const goldenRows = (() => {
  const bytes = readFileSync(file("rows-u16.bin"))
  return Int32Array.from({ length: bytes.length / 2 }, (_, i) => bytes.readUInt16LE(2 * i))
})()
export const rowsOfStep = (step: number): Int32Array =>
  goldenRows.slice(step * ROWS * LENGTH, (step + 1) * ROWS * LENGTH)

export const norm = (values: Iterable<number>): number => {
  let sum = 0
  for (const value of values) sum += value * value
  return Math.sqrt(sum)
}

/** A tokens artifact of rows that share no token: every row is a source of its own. Two shards, cut in the middle of a row. */
export const writeTokens = (
  folder: string,
  rows: Int32Array,
  length: number,
  vocabulary: number,
  dtype: "uint16" | "uint32" = "uint16",
): { readonly tokens: string; readonly order: string } => {
  const tokens = join(folder, "tokens")
  mkdirSync(tokens, { recursive: true })
  const bytes = new Uint8Array((dtype === "uint16" ? Uint16Array.from(rows) : Uint32Array.from(rows)).buffer)
  const width = dtype === "uint16" ? 2 : 4
  const cut = Math.floor(rows.length / 2) + 3
  writeFileSync(join(tokens, "train-00000.bin"), bytes.subarray(0, cut * width))
  writeFileSync(join(tokens, "train-00001.bin"), bytes.subarray(cut * width))
  const count = rows.length / length
  const index: TokensIndex = {
    context: length - 1,
    vocabulary,
    dtype,
    bosId: 0,
    eosId: 1,
    padId: 2,
    mix: "proportional",
    languages: ["en"],
    sources: Array.from({ length: count }, (_, r) => ({
      source: `row_${r}`,
      language: "en",
      role: "train",
      startToken: r * length,
      rawTokens: length,
      packedTokens: length,
      droppedTokens: 0,
      firstRow: r,
      rows: 1,
      weight: 1 / count,
    })),
    shards: [
      { file: "train-00000.bin", part: "train", tokens: cut },
      { file: "train-00001.bin", part: "train", tokens: rows.length - cut },
    ],
  }
  writeFileSync(join(tokens, "tokens.json"), JSON.stringify(index))
  const order = join(folder, "order.bin")
  writeFileSync(
    order,
    Uint32Array.from({ length: count }, (_, i) => i),
  )
  return { tokens, order }
}

/** The golden start as a checkpoint with empty moments. */
export const writeStart = Effect.fnUntraced(function* (
  folder: string,
  model: GoldenModel = gpt2,
  numerics: CheckpointState["engine"] = { name: "golden", numerics: 1, precision: "fp32" },
) {
  const path = join(folder, checkpointName(0))
  const { architecture } = model
  const weights = yield* tensorsOf(model)
  const modelFile = yield* Safetensors.write(join(path, "model.safetensors"), weights)
  const moments = weights.flatMap(({ name, shape, data }) =>
    ["exp_avg", "exp_avg_sq"].map((moment) => ({
      name: `${name}.${moment}`,
      shape,
      data: new Float32Array(data.length),
    })),
  )
  const momentsFile = yield* Safetensors.write(join(path, "optimizer.safetensors"), moments)
  const state: CheckpointState = {
    step: 0,
    tokensSeen: 0,
    rowCursor: 0,
    architecture,
    schedule: { peakLr: 3e-4, warmupSteps: 0 },
    optimizer,
    rowsPerStep: ROWS,
    seed: 1,
    engine: numerics,
    modelSha256: modelFile.sha256,
    optimizerSha256: momentsFile.sha256,
  }
  writeFileSync(join(path, "state.json"), canonicalJson(state))
  return path
})

/** Training on the golden rows, from the golden start. */
export const goldenRequest = Effect.fnUntraced(function* (folder: string, model: GoldenModel = gpt2) {
  const { architecture } = model
  const start = yield* writeStart(folder, model)
  const files = writeTokens(folder, goldenRows, LENGTH, architecture.vocabulary)
  const request: TrainRequest = {
    architecture,
    from: { _tag: "Checkpoint", path: start },
    seed: 1,
    ...files,
    rowsPerStep: ROWS,
    startStep: 0,
    endStep: STEPS,
    schedule: { peakLr: 3e-4, warmupSteps: 0 },
    optimizer,
    checkpoints: { folder: join(folder, "checkpoints"), at: [STEPS], moments: true },
    resume: { folder: join(folder, "resume"), everySeconds: 3600 },
  }
  return { start, request }
})
