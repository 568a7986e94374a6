/** Models as they are published, taken over as the start of a training. */
import { spawnSync } from "node:child_process"
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Result } from "effect"
import { loadTokenizer } from "../../src/data/Tokenizer.ts"
import { Engine } from "../../src/engine/Engine.ts"
import * as Safetensors from "../../src/engine/Safetensors.ts"
import { layerWith } from "../../src/engine/tfjs/TfjsEngine.ts"
import { fingerprints } from "../../src/hub/Pretrained.ts"
import { type Architecture, complete, type Shape } from "../../src/model/Architecture.ts"
import { defaultOptimizer } from "../../src/model/Checkpoint.ts"
import { architectureOf } from "../../src/model/Pretrained.ts"
import { modelConfig, plain } from "../../src/release/Export.ts"
import { pretrainedWith, writeStart } from "../../src/steps/Continuation.ts"
import { temporaryFolder } from "../temporary.ts"
import { program, skipped, withTransformers } from "../transformers.ts"
import { published, shape, take, unbrained, writeShard } from "./published.ts"

const layer = Layer.merge(layerWith({ workers: 1 }), NodeServices.layer)

describe("a published model", () => {
  it.live("is taken over exactly, from shards, with its tokenizer", () =>
    Effect.gen(function* () {
      const { folder, architecture, weights } = yield* published()
      const out = yield* take(folder, shape, architecture.vocabulary)
      const found = yield* Safetensors.read(join(out, "model.safetensors"))
      assert.strictEqual(found.size, weights.length)
      for (const { name, data } of weights) assert.deepStrictEqual(found.get(name)!.data, unbrained(data), name)
      const tokenizer = yield* loadTokenizer(out)
      // named by `config.json` alone
      assert.deepStrictEqual([tokenizer.bosId, tokenizer.eosId, tokenizer.padId], [0, 1, 2])
      const about = yield* pretrainedWith(out, 48)
      assert.deepStrictEqual(about.architecture, { ...architecture, paddingId: 2, context: 48 } as Architecture)
      assert.deepStrictEqual(about.files, yield* fingerprints(folder))
    }).pipe(Effect.provide(layer)),
  )

  it.live("becomes a checkpoint of step 0, of a GPT-2 with the positions that are wanted", () =>
    Effect.gen(function* () {
      const gpt2 = { layers: 1, width: 32, heads: 2 }
      const { folder, architecture, weights } = yield* published(gpt2)
      const out = yield* take(folder, gpt2, architecture.vocabulary)
      const begun = { ...(yield* pretrainedWith(out, 20)).architecture }
      const path = yield* writeStart(temporaryFolder(), out, {
        ...{ architecture: begun, schedule: { peakLr: 1, warmupSteps: 0 }, optimizer: defaultOptimizer },
        ...{ rowsPerStep: 1, seed: 1, engine: { name: "none", numerics: 1, precision: "fp32" } },
      })
      const positions = (yield* Safetensors.read(join(path, "model.safetensors"))).get("transformer.wpe.weight")!
      assert.deepStrictEqual(positions.shape, [20, 32])
      const all = weights.find(({ name }) => name === "transformer.wpe.weight")!
      assert.deepStrictEqual(positions.data, unbrained(all.data).slice(0, 20 * 32))
      const moments = yield* Safetensors.read(join(path, "optimizer.safetensors"))
      assert.isTrue([...moments.values()].every(({ data }) => data.every((value) => value === 0)))
      assert.strictEqual((yield* (yield* Engine).logits({ checkpoint: path, ids: [0, 5, 9] })).length, 3)
      const long = yield* Effect.flip(pretrainedWith(out, 65))
      assert.match(
        String(long),
        /packed to 65, the model has 64 positions\n {2}hint: pack with a context of at most 64/,
      )
    }).pipe(Effect.provide(layer)),
  )

  it.live("of old files is taken without its masks, which are of truth values and no weights", () =>
    Effect.gen(function* () {
      const gpt2 = { layers: 1, width: 32, heads: 2 }
      const { folder, architecture, weights } = yield* published(gpt2)
      const half = weights.slice(Math.floor(weights.length / 2))
      writeShard(join(folder, "model-2.safetensors"), half, ["transformer.h.0.attn.bias", "h.0.attn.masked_bias"])
      const out = yield* take(folder, gpt2, architecture.vocabulary)
      assert.strictEqual((yield* Safetensors.read(join(out, "model.safetensors"))).size, weights.length)
      writeShard(join(folder, "model-2.safetensors"), half, ["transformer.h.0.attn.c_attn.gate"])
      const { message } = yield* Effect.flip(take(folder, gpt2, architecture.vocabulary))
      assert.match(message, /`transformer\.h\.0\.attn\.c_attn\.gate` is BOOL; F32, F16 and BF16 are read/)
    }).pipe(Effect.provide(layer)),
  )

  it.live("that is another one than the experiment says is refused with what to write", () =>
    Effect.gen(function* () {
      const { folder, architecture } = yield* published()
      const error = yield* Effect.flip(take(folder, { ...shape, heads: 2 }, 700))
      assert.include(
        error.message,
        `hint: write \`model: { family: "llama", layers: 2, width: 32, heads: 4, keyValueHeads: 2, feedForwardWidth: 48 }, vocabulary: ${architecture.vocabulary}\``,
      )
    }).pipe(Effect.provide(layer)),
  )

  it.live("whose files do not belong together is refused", () =>
    Effect.gen(function* () {
      const { folder, architecture, weights } = yield* published()
      const refused = Effect.map(Effect.flip(take(folder, shape, architecture.vocabulary)), ({ message }) => message)
      const half = weights.slice(Math.floor(weights.length / 2))
      writeShard(join(folder, "model-2.safetensors"), half.slice(1))
      assert.match(yield* refused, /tensor `.*` is missing\n {2}hint: the weights are not those of `config.json`/)
      writeShard(join(folder, "model-2.safetensors"), [...half, { ...half[0]!, name: "more" }])
      assert.match(yield* refused, /tensors the architecture does not have: more/)
      writeFileSync(join(folder, "model-2.safetensors"), "no")
      assert.match(yield* refused, /not even the length of a header/)
      writeFileSync(join(folder, "model.safetensors.index.json"), `{"weight_map":{"a":"../../secret"}}`)
      assert.match(yield* refused, /it names `..\/..\/secret`, which is not there/)
    }).pipe(Effect.provide(layer)),
  )

  withTransformers(
    `computes here what it computes in transformers${skipped}`,
    () =>
      Effect.gen(function* () {
        const folder = temporaryFolder()
        const python = (script: string, args: ReadonlyArray<string>, input = "") => {
          const run = spawnSync(program, [new URL(`../python/${script}`, import.meta.url).pathname, ...args], { input })
          assert.strictEqual(run.status, 0, run.stderr.toString())
        }
        python("published.py", [folder])
        const ids = Array.from({ length: 40 }, (_, i) => (i * 37) % 250)
        const names = ["gpt2", "llama", "mistral"]
        const asked = names.map((name) => ({ folder: join(folder, name), texts: [ids], new: 0 }))
        python("logits.py", [], JSON.stringify(asked))
        const engine = yield* Engine
        for (const name of names) {
          const source = join(folder, name)
          const config = JSON.parse(readFileSync(join(source, "config.json"), "utf8"))
          const architecture = Result.getOrThrow(architectureOf(config))
          const out = yield* take(source, architecture, architecture.vocabulary)
          const checkpoint = yield* writeStart(temporaryFolder(), out, {
            ...{ architecture, schedule: { peakLr: 1, warmupSteps: 0 }, optimizer: defaultOptimizer },
            ...{ rowsPerStep: 1, seed: 1, engine: { name: "none", numerics: 1, precision: "fp32" } },
          })
          const ours = yield* engine.logits({ checkpoint, ids })
          const theirs = new Float32Array(Uint8Array.from(readFileSync(join(source, "logits.bin"))).buffer)
          assert.strictEqual(theirs.length, ids.length * architecture.vocabulary)
          const worst = theirs.reduce(
            (most, logit, i) =>
              Math.max(
                most,
                Math.abs(logit - ours[Math.floor(i / architecture.vocabulary)]![i % architecture.vocabulary]!),
              ),
            0,
          )
          assert.isAtMost(worst, 1e-4, name)
          const text = "La capitale d'Italia è Roma"
          const tokenizer = yield* loadTokenizer(out)
          assert.strictEqual(tokenizer.decode(tokenizer.encode(text)), text)
        }
      }).pipe(Effect.scoped, Effect.provide(layer)),
    300_000,
  )
})

describe("a configuration", () => {
  const llama = { model_type: "llama", hidden_size: 64, num_attention_heads: 4, num_hidden_layers: 2 }
  const gpt2 = { model_type: "gpt2", n_embd: 64, n_head: 4, n_layer: 2 }

  it("of a release is the architecture it was made from", () => {
    const ids = { bosId: 0, eosId: 1, padId: 2 }
    const shapes: ReadonlyArray<Shape> = [
      { layers: 2, width: 64, heads: 4 },
      { family: "llama", layers: 2, width: 64, heads: 4, ropeTheta: 500_000, tiedHead: true },
      { family: "llama", layers: 2, width: 64, heads: 4, keyValueHeads: 1, slidingWindow: 32 },
    ]
    for (const shape of shapes) {
      const architecture = complete(shape, 128, 500)
      const found = Result.getOrThrow(architectureOf(plain(modelConfig(architecture, ids)) as Record<string, unknown>))
      const padded = { ...architecture, ...(architecture.family === "llama" && { paddingId: 2 }) } as Architecture
      assert.deepStrictEqual(found, padded)
    }
  })

  it("means by what it leaves out what transformers means", () => {
    assert.include(Result.getOrThrow(architectureOf({ model_type: "gpt2" })), { width: 768, context: 1024 })
    assert.include(Result.getOrThrow(architectureOf({ ...llama, model_type: "mistral", num_attention_heads: 8 })), {
      ...{ slidingWindow: 4096, keyValueHeads: 8, context: 131_072, normEpsilon: 1e-6 },
    })
    assert.include(Result.getOrThrow(architectureOf({ ...llama, rope_parameters: { rope_theta: 5e5 } })), {
      ...{ ropeTheta: 5e5, keyValueHeads: 4, tiedHead: false },
    })
    assert.notProperty(Result.getOrThrow(architectureOf({ ...llama, sliding_window: 8 })), "slidingWindow")
  })

  it.each([
    [{ ...llama, rope_scaling: { type: "linear", factor: 2 } }, /rotary positions are scaled \(`linear`\)/],
    [{ ...llama, rope_parameters: { rope_type: "llama3" } }, /scaled \(`llama3`\)/],
    [{ ...llama, attention_bias: true }, /`attention_bias` is true/],
    [{ ...llama, mlp_bias: true }, /`mlp_bias` is true/],
    [{ ...llama, hidden_act: "gelu" }, /`hidden_act` is "gelu"/],
    [{ ...llama, head_dim: 32 }, /`head_dim` is 32/],
    [{ ...llama, num_key_value_heads: 3 }, /4 heads do not share 3 heads/],
    [{ ...llama, quantization_config: { bits: 4 } }, /its weights are quantised/],
    [{ ...llama, model_type: "qwen2" }, /`model_type` is "qwen2"/],
    [{ ...gpt2, activation_function: "gelu" }, /`activation_function` is "gelu"/],
    [{ ...gpt2, n_inner: 100 }, /`n_inner` is 100/],
    [{ ...gpt2, layer_norm_epsilon: 1e-6 }, /`layer_norm_epsilon` is/],
    [{ ...gpt2, scale_attn_by_inverse_layer_idx: true }, /`scale_attn_by_inverse_layer_idx` is true/],
    [{ ...gpt2, tie_word_embeddings: false }, /`tie_word_embeddings` is false/],
  ])("of a model that computes something else is refused: %o", (config, problem) => {
    const found = architectureOf(config)
    assert(Result.isFailure(found))
    assert.match(found.failure.problem, problem)
    assert.match(found.failure.hint, /GPT-2, LLaMA and Mistral/)
  })
})
