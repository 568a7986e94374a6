import { it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { assert, describe } from "vitest"
import { canonicalJson } from "../../src/model/Digest.ts"
import { leaves } from "../../src/run/Fields.ts"

const Params = Schema.Record(
  Schema.String,
  Schema.Union([
    Schema.Int,
    Schema.String,
    Schema.Boolean,
    Schema.Array(Schema.Int),
    Schema.Record(Schema.String, Schema.Int),
  ]),
)

describe("fields that differ", () => {
  it.effect.prop("are none exactly when the two have one spelling", [Params, Params], ([a, b]) =>
    Effect.sync(() => {
      assert.deepStrictEqual(leaves(a, structuredClone(a)), [])
      assert.strictEqual(leaves(a, b).length === 0, canonicalJson(a) === canonicalJson(b))
      assert.strictEqual(leaves(a, b).length, leaves(b, a).length)
    }),
  )

  it.effect("are named by their path", () =>
    Effect.sync(() => {
      const found = leaves(
        { optimizer: { beta1: 0.9, beta2: 0.95 }, seed: 1 },
        { optimizer: { beta1: 0.8, beta2: 0.95 } },
      )
      assert.deepStrictEqual(found, [
        { path: "optimizer.beta1", a: 0.9, b: 0.8 },
        { path: "seed", a: 1, b: undefined },
      ])
    }),
  )
})
