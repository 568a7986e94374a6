/** A model as somebody publishes it, in a folder. */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import type * as Safetensors from "../../src/engine/Safetensors.ts"
import { takePublished } from "../../src/hub/Pretrained.ts"
import type { Shape } from "../../src/model/Architecture.ts"
import { modelConfig, plain } from "../../src/release/Export.ts"
import { randomModel } from "../release/gguf/model.ts"
import { temporaryFolder } from "../temporary.ts"

/** The upper halves of floats: what is left is exact. */
const brains = (data: Float32Array): Uint16Array => {
  const words = new Uint32Array(data.buffer, data.byteOffset, data.length)
  return Uint16Array.from(words, (word) => word >>> 16)
}
export const unbrained = (data: Float32Array): Float32Array =>
  new Float32Array(Uint32Array.from(brains(data), (word) => word << 16).buffer)

/** `masks`: names of truth values that stand behind the weights, as old files have them. */
export const writeShard = (
  path: string,
  tensors: ReadonlyArray<Safetensors.Tensor>,
  masks: ReadonlyArray<string> = [],
): void => {
  let end = 0
  const header = Object.fromEntries(
    tensors.map(({ name, shape, data }) => {
      const from = end
      end += 2 * data.length
      return [name, { dtype: "BF16", shape, data_offsets: [from, end] }]
    }),
  )
  const behind = masks.map((name, i) => [
    name,
    { dtype: "BOOL", shape: [1, 1, 2, 2], data_offsets: [end + 4 * i, end + 4 * i + 4] },
  ])
  const json = Buffer.from(JSON.stringify({ __metadata__: { format: "pt" }, ...header, ...Object.fromEntries(behind) }))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(json.length))
  const weights = tensors.map(({ data }) => Buffer.from(brains(data).buffer))
  writeFileSync(path, Buffer.concat([prefix, json, ...weights, Buffer.alloc(4 * masks.length, 1)]))
}

export const shape = {
  family: "llama",
  layers: 2,
  width: 32,
  heads: 4,
  keyValueHeads: 2,
  feedForwardWidth: 48,
} as const

/** A random model in a folder, as brain floats in two shards. */
export const published = Effect.fnUntraced(function* (
  of: Shape = shape,
  changes: Readonly<Record<string, unknown>> = {},
) {
  const folder = join(temporaryFolder(), "published")
  mkdirSync(folder)
  const { architecture, request, weights } = yield* randomModel(temporaryFolder(), { ...of, context: 64 })
  const config = { ...(plain(modelConfig(architecture, request.ids)) as object), ...changes }
  writeFileSync(join(folder, "config.json"), JSON.stringify(config))
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(request.tokenizer))
  const half = Math.floor(weights.length / 2)
  const shards = { "model-1.safetensors": weights.slice(0, half), "model-2.safetensors": weights.slice(half) }
  const map = Object.entries(shards).flatMap(([file, tensors]) => tensors.map(({ name }) => [name, file]))
  writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map: Object.fromEntries(map) }))
  for (const [file, tensors] of Object.entries(shards)) writeShard(join(folder, file), tensors)
  return { folder, architecture, weights }
})

export const take = (folder: string, model: Shape, vocabulary: number) => {
  const out = join(temporaryFolder(), "out")
  return Effect.as(takePublished({ folder, about: { name: "somebody/model" }, model, vocabulary, out }), out)
}
