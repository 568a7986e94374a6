import { readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { Architecture, checkpointBytes, parameterCount, tensors } from "../../src/model/Architecture.ts"

const golden = JSON.parse(readFileSync(new URL("../golden/param_counts.json", import.meta.url), "utf8"))
const gpt2 = { family: "gpt2", layers: 12, width: 768, heads: 12 } as const

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

  const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 1, maximum }))
  const Small = Schema.Struct({
    ...Architecture.fields,
    layers: upTo(6),
    width: upTo(64),
    context: upTo(512),
    vocabulary: upTo(4096),
  })
  it.prop("follow the closed formula, and decay matrices only", [Small], ([architecture]) => {
    const { layers: L, width: d, context: P, vocabulary: V } = architecture
    assert.strictEqual(parameterCount(architecture), V * d + P * d + L * (12 * d * d + 13 * d) + 2 * d)
    const all = tensors(architecture)
    for (const tensor of all) assert.strictEqual(tensor.decayed, tensor.shape.length === 2, tensor.name)
    assert.strictEqual(new Set(all.map(({ name }) => name)).size, all.length)
  })
})
