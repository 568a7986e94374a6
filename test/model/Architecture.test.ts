import { readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import {
  type Architecture,
  checkpointBytes,
  complete,
  Gpt2Architecture,
  LlamaArchitecture,
  parameterCount,
  Shape,
  shapeProblem,
  tensors,
  trainingFlopsPerToken,
} from "../../src/model/Architecture.ts"

const golden = JSON.parse(readFileSync(new URL("../golden/param_counts.json", import.meta.url), "utf8"))
const gpt2 = { family: "gpt2", layers: 12, width: 768, heads: 12 } as const

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 1, maximum }))
const small = { layers: upTo(6), width: upTo(64), context: upTo(512), vocabulary: upTo(4096) }

const wellFormed = (architecture: Architecture): void => {
  const all = tensors(architecture)
  for (const tensor of all) assert.strictEqual(tensor.decayed, tensor.shape.length === 2, tensor.name)
  assert.strictEqual(new Set(all.map(({ name }) => name)).size, all.length)
}

describe("GPT-2 shapes", () => {
  it("count the parameters of the published models", () => {
    assert.strictEqual(parameterCount({ ...gpt2, context: 2500, vocabulary: 64_000 }), golden["1gpu_llm_small"].params)
    assert.strictEqual(parameterCount({ ...gpt2, context: 1024, vocabulary: 50_257 }), golden.gpt2_124M)
  })

  it("say what a checkpoint weighs, with moments and without", () => {
    const small = { ...gpt2, context: 2500, vocabulary: 64_000 }
    assert.strictEqual(checkpointBytes(small, false), 544_512_000)
    assert.strictEqual(checkpointBytes(small, true), 1_633_536_000)
  })

  const Small = Schema.Struct({ ...Gpt2Architecture.fields, ...small })
  it.prop("follow the closed formula, and decay matrices only", [Small], ([architecture]) => {
    const { layers: L, width: d, context: P, vocabulary: V } = architecture
    assert.strictEqual(parameterCount(architecture), V * d + P * d + L * (12 * d * d + 13 * d) + 2 * d)
    wellFormed(architecture)
  })
})

describe("LLaMA shapes", () => {
  const apt = { family: "llama", layers: 20, width: 2048, heads: 16, normEpsilon: 1e-6 } as const
  const mistral: Shape = {
    ...{ family: "llama", layers: 32, width: 4096, heads: 32, keyValueHeads: 8 },
    ...{ feedForwardWidth: 14_336, slidingWindow: 4096 },
  }

  it("count the parameters of the published models", () => {
    const tinyLlama = { family: "llama", layers: 22, width: 2048, heads: 32, keyValueHeads: 4 } as const
    assert.strictEqual(parameterCount(complete(apt, 2048, 8000)), golden["APT-1B-Base"].untied)
    assert.strictEqual(parameterCount(complete(mistral, 8192, 32_000)), golden["Bielik-7B/Mistral-7B"])
    assert.strictEqual(parameterCount(complete(tinyLlama, 2048, 32_000)), golden["TinyLlama-1.1B"])
  })

  it("are completed as LLaMA has it, and an architecture stays what it is", () => {
    const whole = complete({ family: "llama", layers: 4, width: 384, heads: 6 }, 512, 16_384)
    assert.deepStrictEqual(whole, {
      ...{ family: "llama", layers: 4, width: 384, heads: 6, keyValueHeads: 6, feedForwardWidth: 1024 },
      ...{ ropeTheta: 10_000, normEpsilon: 1e-5, tiedHead: false, context: 512, vocabulary: 16_384 },
    })
    for (const one of [whole, complete(mistral, 8192, 32_000)])
      assert.deepStrictEqual(complete(one, one.context, one.vocabulary), one)
    for (const [width, feedForwardWidth] of [
      [2048, 5632],
      [4096, 11_008],
      [64, 256],
    ] as const)
      assert.include(complete({ ...apt, width }, 1, 1), { feedForwardWidth })
  })

  const Small = Schema.Struct({
    ...LlamaArchitecture.fields,
    ...small,
    heads: Schema.Literals([1, 2, 4]),
    keyValueHeads: Schema.Literals([1, 2, 4]),
    width: Schema.Literals([8, 24, 64]),
    feedForwardWidth: upTo(200),
  })
  it.prop("follow the closed formula, and decay matrices only", [Small], ([architecture]) => {
    const { layers: L, width: d, feedForwardWidth: f, vocabulary: V, tiedHead } = architecture
    const kv = (d / architecture.heads) * architecture.keyValueHeads
    const expected = V * d * (tiedHead ? 1 : 2) + L * (2 * d * d + 2 * d * kv + 3 * d * f + 2 * d) + d
    assert.strictEqual(parameterCount(architecture), expected)
    wellFormed(architecture)
  })

  it("cost the same tied or not, 6 operations a multiplied parameter and 12 a layer, column and position", () => {
    const whole = complete({ family: "llama", layers: 2, width: 64, heads: 4, keyValueHeads: 2 }, 1024, 256)
    const multiplied = parameterCount(whole) - 256 * 64 - 5 * 64
    assert.strictEqual(trainingFlopsPerToken(whole), 6 * multiplied + 12 * 2 * 64 * 1024)
    assert.strictEqual(
      trainingFlopsPerToken({ ...whole, tiedHead: true } as Architecture),
      trainingFlopsPerToken(whole),
    )
  })
})

describe("a shape", () => {
  it("is read with a family or without, and GPT-2 is spelled without: its key has always been that", () => {
    const Shapes = Schema.toCodecJson(Shape)
    const plain = { layers: 2, width: 64, heads: 2 }
    const named: Shape = { ...plain, family: "gpt2" }
    assert.deepStrictEqual(Schema.encodeSync(Shapes)(named), plain as never)
    assert.deepStrictEqual(Schema.encodeSync(Shapes)(plain), plain as never)
    const llama: Shape = { ...plain, family: "llama", keyValueHeads: 1 }
    assert.deepStrictEqual(Schema.encodeSync(Shapes)(llama), llama as never)
  })

  it("that no model has is refused with what to do", () => {
    const llama = { family: "llama", layers: 2, width: 64, heads: 4 } as const
    assert.isUndefined(shapeProblem(llama))
    assert.isUndefined(shapeProblem({ layers: 2, width: 63, heads: 7 }))
    const mixed = { layers: 2, width: 64, heads: 2, tiedHead: true } as unknown as Shape
    assert.strictEqual(shapeProblem(mixed)!.problem, "a GPT-2 has no `tiedHead`")
    assert.match(shapeProblem({ layers: 2, width: 63, heads: 2 })!.problem, /width 63 does not divide into 2 heads/)
    assert.match(shapeProblem({ ...llama, width: 63, heads: 7 })!.hint, /even width/)
    const shared = shapeProblem({ ...llama, width: 96, heads: 6, keyValueHeads: 4 })!
    assert.strictEqual(shared.problem, "6 heads do not share 4 heads of keys and values evenly")
    assert.strictEqual(shared.hint, "choose `keyValueHeads` among 1, 2, 3, 6")
  })
})
