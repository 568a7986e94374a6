import { readFileSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import * as Safetensors from "../../../src/engine/Safetensors.ts"
import { standardPresets } from "../../../src/model/Decoding.ts"
import {
  bool,
  decodeHeader,
  encodeHeader,
  f32,
  GgufFailed,
  i32,
  i32s,
  text,
  texts,
  u32,
  u64,
} from "../../../src/release/gguf/Gguf.ts"
import { importanceOf } from "../../../src/release/gguf/Importance.ts"
import { openGguf, readTensors } from "../../../src/release/gguf/Reader.ts"
import { convert } from "../../../src/release/gguf/Writer.ts"
import { temporaryFolder } from "../../temporary.ts"
import { about, randomModel } from "./model.ts"

const shape = { layers: 2, width: 256, heads: 4, context: 32 }

describe("the header", () => {
  const metadata = [
    ["a.text", text("città — 漢")],
    ["a.list", texts(["", "Ġt", "__proto__"])],
    ["a.numbers", i32s([1, -3])],
    ["a.natural", u32(2 ** 32 - 1)],
    ["a.integer", i32(-1)],
    ["a.long", u64(2 ** 40)],
    ["a.share", f32(0.25)],
    ["a.switch", bool(true)],
  ] as const
  const tensors = [
    { name: "token_embd.weight", shape: [7, 256], type: 12, offset: 0 },
    { name: "output_norm.bias", shape: [256], type: 0, offset: 1024 },
  ]
  const bytes = Buffer.from(encodeHeader(metadata, tensors))

  it("comes back as it was written, and ends where data may begin", () => {
    const header = decodeHeader(bytes)!
    assert.deepStrictEqual(header.tensors, tensors)
    assert.deepStrictEqual([...header.metadata], metadata.map(([key, { value }]) => [key, value] as const) as never)
    assert.strictEqual(header.dataStart, bytes.length)
    assert.strictEqual(bytes.length % 32, 0)
  })

  it("cut anywhere is not believed", () => {
    const whole = decodeHeader(bytes)!
    for (let length = 0; length < bytes.length - 32; length++) {
      const cut = decodeHeader(bytes.subarray(0, length))
      assert.isTrue(cut === undefined || cut.tensors.length === whole.tensors.length, `cut at ${length}`)
    }
  })

  it("that promises what no file can have is refused at once", () => {
    const hostile = (at: number, value: bigint): Buffer => {
      const copy = Buffer.from(bytes)
      copy.writeBigUInt64LE(value, at)
      return copy
    }
    assert.isUndefined(decodeHeader(hostile(8, 2n ** 40n)))
    assert.throws(() => decodeHeader(hostile(24, 2n ** 50n)), /a string of/)
    assert.throws(
      () => decodeHeader(Buffer.concat([Buffer.from("GGUX"), bytes.subarray(4)])),
      /does not begin with `GGUF`/,
    )
    const older = Buffer.from(bytes)
    older.writeUInt32LE(2, 4)
    assert.throws(() => decodeHeader(older), /version 2/)
  })
})

describe("a model as GGUF", () => {
  it.live("in F32 is the model, turned and turned back, and the same bytes every time", () =>
    Effect.gen(function* () {
      const folder = temporaryFolder()
      const { request, weights } = yield* randomModel(folder, shape)
      const [first, second] = [join(folder, "a.gguf"), join(folder, "b.gguf")]
      const written = yield* convert({ ...request, type: "F32", to: first })
      yield* convert({ ...request, type: "F32", to: second })
      assert.isTrue(readFileSync(first).equals(readFileSync(second)))
      assert.strictEqual(readFileSync(first).length, written.bytes)
      const names = new Set(weights.map(({ name }) => name))
      const read = yield* Effect.scoped(
        Effect.flatMap(openGguf(first), (file) => readTensors(file, request.config, names)),
      )
      const byName = new Map(read.map((tensor) => [tensor.name, tensor]))
      for (const { name, shape, data } of weights) {
        assert.deepStrictEqual(byName.get(name)!.shape, shape)
        assert.isTrue(Buffer.from(byName.get(name)!.data.buffer).equals(Buffer.from(data.buffer)), name)
      }
    }),
  )

  it.live("says what it is, how to sample from it and what its tokens are", () =>
    Effect.gen(function* () {
      const folder = temporaryFolder()
      const { request, architecture } = yield* randomModel(folder, shape)
      const to = join(folder, "a.gguf")
      const preset = standardPresets.find(({ name }) => name === "creative")!
      yield* convert({ ...request, about: { ...about, preset }, type: "Q4_K_M", to })
      const { metadata } = yield* Effect.scoped(openGguf(to))
      const figures = Object.fromEntries([...metadata].filter(([, value]) => !Array.isArray(value)))
      assert.deepStrictEqual(figures, {
        "general.architecture": "gpt2",
        "general.type": "model",
        "general.name": "random",
        "general.license": "CC0-1.0",
        "general.dataset.count": 1,
        "general.dataset.0.name": "wiki_en",
        "general.dataset.0.license": "CC-BY-SA-4.0",
        "general.sampling.sequence": "penalties;temperature;top_k;top_p",
        "general.sampling.top_k": 0,
        "general.sampling.top_p": Math.fround(0.95),
        "general.sampling.min_p": 0,
        "general.sampling.temp": 1,
        "general.sampling.penalty_last_n": -1,
        "general.sampling.penalty_repeat": Math.fround(1.05),
        "exp.step": 7,
        "general.quantization_version": 2,
        "general.file_type": 15,
        "gpt2.context_length": 32,
        "gpt2.embedding_length": 256,
        "gpt2.block_count": 2,
        "gpt2.feed_forward_length": 1024,
        "gpt2.attention.head_count": 4,
        "gpt2.attention.layer_norm_epsilon": Math.fround(1e-5),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": true,
        "tokenizer.ggml.add_eos_token": false,
      })
      assert.deepStrictEqual((metadata.get("tokenizer.ggml.token_type") as Array<number>).slice(0, 4), [3, 3, 3, 1])
      assert.strictEqual((metadata.get("tokenizer.ggml.tokens") as Array<string>).length, architecture.vocabulary)
      assert.deepStrictEqual(metadata.get("general.languages"), ["en", "it"])
    }),
  )

  it.live("weighs columns where it is told what they matter", () =>
    Effect.gen(function* () {
      const folder = temporaryFolder()
      const { request, weights } = yield* randomModel(folder, shape)
      const name = "blk.0.attn_qkv.weight"
      const column = 17
      const sums = new Float64Array(256).fill(1)
      sums[column] = 500
      const importance = { columns: new Map([[name, importanceOf(sums)]]), dataset: "a test", rows: 1 }
      const [bare, weighed] = [join(folder, "a.gguf"), join(folder, "b.gguf")]
      yield* convert({ ...request, type: "Q2_K", to: bare })
      yield* convert({ ...request, type: "Q2_K", importance, to: weighed })
      const original = weights.find((tensor) => tensor.name === "transformer.h.0.attn.c_attn.weight")!
      const errorOf = (path: string) =>
        Effect.gen(function* () {
          const numbers = yield* (yield* openGguf(path)).numbers(name)
          let sum = 0
          for (let row = 0; row < 768; row++)
            sum += (numbers[row * 256 + column]! - original.data[column * 768 + row]!) ** 2
          return sum
        }).pipe(Effect.scoped)
      assert.isBelow(yield* errorOf(weighed), 0.2 * (yield* errorOf(bare)))
    }),
  )

  it.live(
    "is refused where it would be another model: fields, tensors and tokenizers that llama.cpp computes otherwise",
    () =>
      Effect.gen(function* () {
        const folder = temporaryFolder()
        const { request } = yield* randomModel(folder, shape)
        const refusal = (changes: Partial<typeof request>) =>
          Effect.map(
            Effect.flip(convert({ ...request, ...changes, type: "F16", to: join(folder, "a.gguf") })),
            (error) => {
              assert.instanceOf(error, GgufFailed)
              return error.problem
            },
          )
        const config = request.config
        const tokenizer = request.tokenizer as Record<string, unknown>
        assert.match(
          yield* refusal({ config: { ...config, activation_function: "gelu" } }),
          /activation_function.*"gelu"/,
        )
        assert.match(yield* refusal({ config: { ...config, scale_attn_by_inverse_layer_idx: true } }), /scale_attn_by/)
        assert.match(yield* refusal({ config: { ...config, n_layer: 3 } }), /`transformer.h.2.ln_1.weight` is missing/)
        assert.match(
          yield* refusal({ config: { ...config, n_layer: 1 } }),
          /tensors the shape does not have: transformer.h.1/,
        )
        assert.match(
          yield* refusal({ config: { ...config, model_type: "mamba" } }),
          /gpt2, llama and mistral are known/,
        )
        assert.match(yield* refusal({ tokenizer: { ...tokenizer, normalizer: { type: "NFC" } } }), /normalises/)
        assert.match(
          yield* refusal({ tokenizer: { ...tokenizer, pre_tokenizer: { type: "Whitespace" } } }),
          /cuts words has no name/,
        )
        assert.match(yield* refusal({ config: { ...config, vocab_size: 500 } }), /the embedding has 500 rows/)
        assert.match(yield* refusal({ weights: join(folder, "none") }), /ENOENT/)
      }),
  )

  it.live("that is damaged is not read", () =>
    Effect.gen(function* () {
      const folder = temporaryFolder()
      const { request } = yield* randomModel(folder, shape)
      const to = join(folder, "a.gguf")
      const { bytes } = yield* convert({ ...request, type: "Q8_0", to })
      truncateSync(to, bytes - 64)
      assert.match((yield* Effect.flip(Effect.scoped(openGguf(to)))).message, /goes on beyond the file\n {2}hint: /)
      writeFileSync(to, "GGUF")
      assert.match((yield* Effect.flip(Effect.scoped(openGguf(to)))).message, /beyond the file/)
    }),
  )

  it.live("larger than a piece is turned right across the seams", () =>
    Effect.gen(function* () {
      // one matrix of 3,000 × 4,500 numbers is more than a piece: the seams lie inside it
      const folder = temporaryFolder()
      const rows = 3000
      const columns = 4500
      const data = Float32Array.from({ length: rows * columns }, (_, i) => (i % 977) / 977 + i * 1e-7)
      const path = join(folder, "wide.safetensors")
      yield* Safetensors.write(path, [{ name: "w", shape: [rows, columns], data }])
      const { Weights } = yield* Effect.promise(() => import("../../../src/release/gguf/Source.ts"))
      const weights = new Weights(path)
      const matrix = weights.matrix("w", "w", { _tag: "Transposed" })
      assert.deepStrictEqual(matrix.shape, [columns, rows])
      for (const [first, count] of [
        [0, 3],
        [1398, 1398],
        [4499, 1],
      ] as const) {
        const to = new Float32Array(count * rows)
        matrix.read(first, to)
        for (const [r, c] of [
          [0, 0],
          [count - 1, 2999],
          [count >> 1, 1777],
        ] as const)
          assert.strictEqual(to[r * rows + c], data[c * columns + first + r])
      }
      weights.close()
    }),
  )
})
