/** What is exported is the same model in Hugging Face transformers, whatever its family and shape. */
import { spawnSync } from "node:child_process"
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { Engine } from "../../src/engine/Engine.ts"
import { layerWith } from "../../src/engine/tfjs/TfjsEngine.ts"
import { parameterCount, type Shape } from "../../src/model/Architecture.ts"
import { greedy } from "../../src/model/Decoding.ts"
import { modelConfig } from "../../src/release/Export.ts"
import { prettyJson } from "../../src/release/Json.ts"
import { readWeightsHeader, writeTransformersWeights } from "../../src/release/Weights.ts"
import { temporaryFolder } from "../temporary.ts"
import { program, skipped, withTransformers } from "../transformers.ts"
import { embeddedTexts, randomModel } from "./gguf/model.ts"

const CONTEXT = 96
const NEW = 8
const llama = { family: "llama", layers: 2, width: 64, heads: 4 } as const
const shapes: Readonly<Record<string, { readonly is: string; readonly shape: Shape }>> = {
  "a GPT-2": { is: "GPT2LMHeadModel", shape: { layers: 2, width: 64, heads: 4 } },
  "a LLaMA": { is: "LlamaForCausalLM", shape: { ...llama, keyValueHeads: 2, ropeTheta: 500_000 } },
  "a LLaMA with a tied head": { is: "LlamaForCausalLM", shape: { ...llama, tiedHead: true, normEpsilon: 1e-3 } },
  "a Mistral": { is: "MistralForCausalLM", shape: { ...llama, keyValueHeads: 1, slidingWindow: 20 } },
  "a Mistral whose window is all of its context": {
    is: "MistralForCausalLM",
    shape: { ...llama, tiedHead: true, slidingWindow: 200 },
  },
}

interface Answer {
  readonly class: string
  readonly parameters: number
  readonly greedy: ReadonlyArray<ReadonlyArray<number>>
}

/** A random model as a release has it, and texts for it. */
const exported = Effect.fnUntraced(function* (shape: Shape) {
  const folder = temporaryFolder()
  const model = yield* randomModel(folder, { ...shape, context: CONTEXT })
  const { architecture, request, tokenizer } = model
  const header = yield* readWeightsHeader(request.weights, architecture)
  yield* writeTransformersWeights(request.weights, join(folder, "model.safetensors"), header)
  writeFileSync(join(folder, "config.json"), prettyJson(modelConfig(architecture, request.ids)))
  const texts = ["books_en", "books_it"].map((source) =>
    [0, ...tokenizer.encode(embeddedTexts(source)[0]!)].slice(0, CONTEXT - NEW),
  )
  return { ...model, folder, texts }
})

describe("transformers", () => {
  withTransformers(
    `computes of every family and shape what the engine computes, and writes the same greedy text${skipped}`,
    () =>
      Effect.gen(function* () {
        const models = yield* Effect.forEach(Object.values(shapes), ({ shape }) => exported(shape))
        const run = spawnSync(program, [new URL("../python/logits.py", import.meta.url).pathname], {
          input: JSON.stringify(models.map(({ folder, texts }) => ({ folder, texts, new: NEW }))),
          encoding: "utf8",
        })
        assert.strictEqual(run.status, 0, run.stderr)
        const answers = run.stdout.trim().split("\n")
        const engine = yield* Engine
        for (const [m, [name, { is }]] of Object.entries(shapes).entries()) {
          const { architecture, checkpoint, folder, texts } = models[m]!
          const answer = JSON.parse(answers[m]!) as Answer
          assert.strictEqual(answer.class, is, name)
          assert.strictEqual(answer.parameters, parameterCount(architecture), name)
          const theirs = new Float32Array(Uint8Array.from(readFileSync(join(folder, "logits.bin"))).buffer)
          const ours = (yield* Effect.forEach(texts, (ids) => engine.logits({ checkpoint, ids }))).flat(2)
          const { vocabulary } = architecture
          assert.strictEqual(theirs.length, ours.length * vocabulary)
          const worst = theirs.reduce(
            (most, logit, i) => Math.max(most, Math.abs(logit - ours[Math.floor(i / vocabulary)]![i % vocabulary]!)),
            0,
          )
          assert.isAtMost(worst, 1e-4, name)
          const generations = yield* engine.generate({
            ...{ checkpoint, prompts: texts.map((ids, i) => ({ id: `${i}`, ids })), preset: greedy },
            ...{ maxNewTokens: NEW, eosId: vocabulary, seed: 0 },
          })
          assert.deepStrictEqual(
            generations.map(({ tokens }) => [...tokens]),
            answer.greedy.map((tokens) => [...tokens]),
            name,
          )
        }
      }).pipe(Effect.scoped, Effect.provide(Layer.merge(layerWith({ workers: 1 }), NodeServices.layer))),
    300_000,
  )
})
