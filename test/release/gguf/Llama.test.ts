/** What is written is loaded by llama.cpp, and is the same model there. */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { openParquet } from "../../../src/data/Parquet.ts"
import { loadTokenizer } from "../../../src/data/Tokenizer.ts"
import { byteSymbols } from "../../../src/data/Words.ts"
import { Engine } from "../../../src/engine/Engine.ts"
import * as Safetensors from "../../../src/engine/Safetensors.ts"
import { layerWith } from "../../../src/engine/tfjs/TfjsEngine.ts"
import { greedy } from "../../../src/model/Decoding.ts"
import type { FileType } from "../../../src/model/GgufType.ts"
import { openGguf, readTensors } from "../../../src/release/gguf/Reader.ts"
import { convert } from "../../../src/release/gguf/Writer.ts"
import { hostile, noSharedData, sharedData } from "../../data/texts.ts"
import { temporaryFolder } from "../../temporary.ts"
import { loadModel, noLlama } from "./llama.ts"
import { about, embeddedTexts, randomModel } from "./model.ts"

const CONTEXT = 32
const shape = { layers: 2, width: 256, heads: 4, context: CONTEXT }
/** Of each family; heads that are shared and not, a head that is tied and not. */
const shapes = {
  "a GPT-2": shape,
  "a LLaMA": { ...shape, family: "llama", keyValueHeads: 2, feedForwardWidth: 512, ropeTheta: 500_000 },
  "a LLaMA with a tied head": { ...shape, family: "llama", feedForwardWidth: 512, tiedHead: true, normEpsilon: 1e-6 },
} as const
const LINES = 10_000

const byteLevel = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true, use_regex: false }
/** LLaMA 3's and Qwen 2's pattern, which differ in how numbers are cut. */
const split = (numbers: string) => ({
  type: "Split",
  pattern: {
    Regex: `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${numbers}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+`,
  },
  behavior: "Isolated",
  invert: false,
})

const withLlama = noLlama === undefined ? it.live : it.live.skip
const skipped = noLlama === undefined ? "" : ` (skipped: ${noLlama})`

const llamaModel = (path: string, context: number) =>
  Effect.acquireRelease(
    Effect.promise(() => loadModel(path, context)),
    (model) => Effect.promise(() => model.close()),
  )

/** Mean Σ p·log(p/q) over positions. */
const divergence = (logits: ReadonlyArray<Float32Array>, probabilities: ReadonlyArray<Float64Array>): number => {
  let total = 0
  logits.forEach((scores, position) => {
    const top = Math.max(...scores)
    let sum = 0
    for (const score of scores) sum += Math.exp(score - top)
    scores.forEach((score, token) => {
      const p = Math.exp(score - top) / sum
      if (p > 1e-12) total += p * Math.log(p / Math.max(probabilities[position]![token]!, 1e-30))
    })
  })
  return total / logits.length
}

/** Lines of the shared corpora in three languages, or of the embedded one where there are none. */
const lines = async (): Promise<ReadonlyArray<string>> => {
  const all: Array<string> = [...hostile]
  const take = (text: string): void => {
    for (const line of text.split("\n")) if (line !== "") all.push(line)
  }
  if (noSharedData !== undefined)
    for (const source of ["web_en", "web_it", "code"]) for (const text of embeddedTexts(source)) take(text)
  else
    for (const [i, source] of ["web_pl", "wiki_it", "web_en", "books_it", "web_it"].entries()) {
      await using table = await openParquet(join(sharedData, "corpus", `${source}.parquet`), ["text"])
      const until = Math.ceil(((i + 1) * LINES) / 5)
      for await (const batch of table.batches()) {
        for (const text of batch.get("text") ?? [])
          if (all.length < until) take(Buffer.from(text as Uint8Array).toString("utf8"))
        if (all.length >= until) break
      }
    }
  return all.filter((line) => line !== "").slice(0, LINES)
}

describe("llama.cpp", () => {
  withLlama(
    `gives the same ids for 10,000 lines${noSharedData ? `, or as many as there are (${noSharedData})` : ""}${skipped}`,
    () =>
      Effect.gen(function* () {
        const folder = temporaryFolder()
        const { request, tokenizer } = yield* randomModel(folder, shape)
        const to = join(folder, "a.gguf")
        yield* convert({ ...request, type: "F16", to })
        const model = yield* llamaModel(to, CONTEXT)
        const all = yield* Effect.promise(lines)
        assert.isAbove(all.length, noSharedData === undefined ? LINES - 1 : 500)
        const different = all.filter((line) => {
          const theirs = model.tokenize(line)
          const ours = tokenizer.encode(line)
          return theirs.length !== ours.length || theirs.some((id, i) => id !== ours[i])
        })
        assert.deepStrictEqual(different, [])
      }).pipe(Effect.scoped),
  )

  for (const [pre, cut, model] of [
    [
      "smollm",
      [
        { type: "Digits", individual_digits: true },
        { ...byteLevel, use_regex: true },
      ],
      {},
    ],
    ["llama-bpe", [split("\\p{N}{1,3}"), byteLevel], { ignore_merges: true }],
    ["qwen2", [split("\\p{N}"), byteLevel], {}],
  ] as const)
    withLlama(`cuts words as the tokenizer does where they are cut by \`${pre}\`${skipped}`, () =>
      Effect.gen(function* () {
        const folder = temporaryFolder()
        const { request } = yield* randomModel(folder, { ...shape, layers: 1, width: 32 })
        const ours = request.tokenizer as { readonly model: object }
        const tokenizer = {
          ...ours,
          pre_tokenizer: { type: "Sequence", pretokenizers: cut },
          model: { ...ours.model, ...model },
        }
        writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(tokenizer))
        const published = yield* loadTokenizer(folder)
        const to = join(folder, "a.gguf")
        yield* convert({ ...request, tokenizer, type: "F16", to })
        const loaded = yield* llamaModel(to, CONTEXT)
        const all = (yield* Effect.promise(lines)).slice(0, 2000)
        const different = all.filter((line) => loaded.tokenize(line).join() !== published.encode(line).join())
        assert.deepStrictEqual(different, [])
      }).pipe(Effect.scoped),
    )

  for (const [name, shape] of Object.entries(shapes))
    withLlama(`computes what the engine computes of ${name}, in F32, and writes the same greedy text${skipped}`, () =>
      Effect.gen(function* () {
        const folder = temporaryFolder()
        const { request, tokenizer, checkpoint, architecture } = yield* randomModel(folder, shape)
        const { vocabulary } = architecture
        const to = join(folder, "a.gguf")
        yield* convert({ ...request, type: "F32", to })
        const model = yield* llamaModel(to, CONTEXT)
        const engine = yield* Engine
        for (const text of embeddedTexts("books_en").slice(0, 4)) {
          const ids = [0, ...tokenizer.encode(text)].slice(0, CONTEXT)
          const logits = yield* engine.logits({ checkpoint, ids })
          const probabilities = yield* Effect.promise(() => model.probabilities(ids, vocabulary))
          assert.isBelow(divergence(logits, probabilities), 1e-5)

          const prompt = ids.slice(0, 8)
          const [generation] = yield* engine.generate({
            checkpoint,
            prompts: [{ id: "a", ids: prompt }],
            preset: greedy,
            maxNewTokens: CONTEXT - prompt.length,
            eosId: 1,
            seed: 0,
          })
          const theirs = yield* Effect.promise(() => model.greedy(prompt, generation!.tokens.length))
          assert.deepStrictEqual([...theirs], [...generation!.tokens])
        }
      }).pipe(Effect.scoped, Effect.provide(layerWith({ workers: 1 }))),
    )

  for (const [type, atMost] of [
    ["F16", 1e-5],
    ["BF16", 1e-3],
    ["Q8_0", 5e-3],
    ["Q4_0", 5e-3],
    ["Q6_K", 5e-3],
    ["Q5_K_M", 5e-3],
    ["Q4_K_M", 5e-3],
    ["Q3_K_M", 5e-3],
    ["Q2_K", 5e-3],
  ] as const satisfies ReadonlyArray<readonly [FileType, number]>)
    withLlama(`reads in ${type} what the engine reads back, but for its own rounding of activations${skipped}`, () =>
      Effect.gen(function* () {
        const folder = temporaryFolder()
        const of = shapes[type === "Q8_0" || type === "Q4_K_M" ? "a LLaMA" : "a GPT-2"]
        const { request, tokenizer, checkpoint, architecture, weights } = yield* randomModel(folder, of)
        const to = join(folder, "a.gguf")
        yield* convert({ ...request, type, to })
        const names = new Set(weights.map(({ name }) => name))
        const read = yield* Effect.scoped(
          Effect.flatMap(openGguf(to), (file) => readTensors(file, request.config, names)),
        )
        const { sha256 } = yield* Safetensors.write(join(checkpoint, "model.safetensors"), read)
        const state = JSON.parse(readFileSync(join(checkpoint, "state.json"), "utf8"))
        writeFileSync(join(checkpoint, "state.json"), JSON.stringify({ ...state, modelSha256: sha256 }))
        const model = yield* llamaModel(to, CONTEXT)
        const engine = yield* Engine
        const ids = [0, ...tokenizer.encode(embeddedTexts("books_it")[0]!)].slice(0, CONTEXT)
        const logits = yield* engine.logits({ checkpoint, ids })
        const found = divergence(logits, yield* Effect.promise(() => model.probabilities(ids, architecture.vocabulary)))
        if (process.env["EXP_GGUF_FIGURES"]) console.log(type, found)
        assert.isBelow(found, atMost)
      }).pipe(Effect.scoped, Effect.provide(layerWith({ workers: 1 }))),
    )

  withLlama(`computes a LLaMA, grouped heads and all, as transformers does${skipped}`, () =>
    Effect.gen(function* () {
      const golden = new URL("../../golden/engines/", import.meta.url)
      const config = JSON.parse(readFileSync(new URL("llama-config/config.json", golden), "utf8"))
      const expected = JSON.parse(readFileSync(new URL("llama.json", golden), "utf8")) as {
        readonly logits_step0_row0_last: ReadonlyArray<number>
      }
      const bytes = readFileSync(new URL("rows-u16.bin", golden))
      const ids = Array.from({ length: 64 }, (_, i) => bytes.readUInt16LE(2 * i))
      // 256 rows are what bytes alone need; one merge, because llama.cpp wants some
      const tokens = [...byteSymbols.slice(0, -1), "Ġt"]
      const tokenizer = {
        pre_tokenizer: { type: "ByteLevel", add_prefix_space: false, use_regex: true },
        model: { type: "BPE", vocab: Object.fromEntries(tokens.map((token, id) => [token, id])), merges: ["Ġ t"] },
      }
      const to = join(temporaryFolder(), "llama.gguf")
      yield* convert({
        weights: new URL("llama.safetensors", golden).pathname,
        config,
        tokenizer,
        ids: { bosId: 0, eosId: 1, padId: null },
        about,
        type: "F32",
        to,
      })
      const model = yield* llamaModel(to, 64)
      const probabilities = yield* Effect.promise(() => model.probabilities(ids, 256))
      const found = divergence([Float32Array.from(expected.logits_step0_row0_last)], [probabilities.at(-1)!])
      assert.isBelow(found, 1e-5)
    }).pipe(Effect.scoped),
  )
})
