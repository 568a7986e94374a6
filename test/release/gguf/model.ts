/** A random model with a real tokenizer, as a checkpoint of ours and as `convert` takes it. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import { BpeTrainer } from "../../../src/data/BpeTrainer.ts"
import { BpeTokenizer, specialTokens, tokenizerJson } from "../../../src/data/Tokenizer.ts"
import * as Safetensors from "../../../src/engine/Safetensors.ts"
import { complete, type Shape, tensors } from "../../../src/model/Architecture.ts"
import { defaultOptimizer } from "../../../src/model/Checkpoint.ts"
import { stream } from "../../../src/model/Random.ts"
import { modelConfig, plain } from "../../../src/release/Export.ts"
import type { About } from "../../../src/release/gguf/About.ts"

export const about: About = {
  name: "random",
  license: "CC0-1.0",
  languages: ["en", "it"],
  sources: [{ source: "wiki_en", licenses: ["CC-BY-SA-4.0"] }],
  provenance: { step: 7 },
}

const embedded = new URL("../../../experiments/corpus/", import.meta.url)

/** The texts of the embedded corpus, document by document. */
export const embeddedTexts = (source: string): ReadonlyArray<string> =>
  readFileSync(new URL(`${source}.jsonl`, embedded), "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => (JSON.parse(line) as { readonly text: string }).text)

/** Weights far larger than training begins with, so that a fault shows in the logits. */
export const randomModel = Effect.fnUntraced(function* (
  folder: string,
  { context, ...shape }: Shape & { readonly context: number },
) {
  const trainer = new BpeTrainer()
  for (const source of ["wiki_en", "wiki_it"]) for (const text of embeddedTexts(source)) trainer.add(text)
  const vocabulary = yield* trainer.train({ vocabulary: 700, specialTokens: [...specialTokens] })
  const tokenizer = new BpeTokenizer(vocabulary)
  const architecture = complete(shape, context, tokenizer.vocabularySize)
  const weights = tensors(architecture).map(({ name, shape, init }) => {
    const random = stream(3, name)
    const size = shape.reduce((a, b) => a * b, 1)
    const mean = "constant" in init ? init.constant : 0
    // `Conv1D` is [in, out], `Linear` the other way round
    const from = architecture.family === "gpt2" ? shape[0]! : shape.at(-1)!
    const matrix = /wte|embed_tokens/.test(name) ? 0.15 : 1.5 / Math.sqrt(from)
    const deviation = shape.length === 2 ? matrix : mean === 1 ? 0.2 : 0.05
    return { name, shape, data: Float32Array.from({ length: size }, (_, i) => mean + deviation * random.normal(i)) }
  })
  const checkpoint = join(folder, "checkpoint")
  mkdirSync(checkpoint, { recursive: true })
  const { sha256 } = yield* Safetensors.write(join(checkpoint, "model.safetensors"), weights)
  const state = {
    step: 0,
    tokensSeen: 0,
    rowCursor: 0,
    architecture,
    schedule: { peakLr: 1e-3, warmupSteps: 1 },
    optimizer: defaultOptimizer,
    rowsPerStep: 1,
    seed: 3,
    engine: { name: "random", numerics: 1, precision: "fp32" },
    modelSha256: sha256,
  }
  writeFileSync(join(checkpoint, "state.json"), JSON.stringify(state))
  const ids = { bosId: 0, eosId: 1, padId: 2 }
  return {
    architecture,
    checkpoint,
    tokenizer,
    weights,
    request: {
      weights: join(checkpoint, "model.safetensors"),
      config: plain(modelConfig(architecture, ids)) as Readonly<Record<string, unknown>>,
      tokenizer: JSON.parse(tokenizerJson(vocabulary)) as unknown,
      ids,
      about,
    },
  }
})
