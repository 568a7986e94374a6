import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { Activations } from "../../src/engine/Activations.ts"
import { layer } from "../../src/engine/Engines.ts"
import * as Safetensors from "../../src/engine/Safetensors.ts"
import { LAYER_NORM_EPSILON } from "../../src/model/Architecture.ts"
import { temporary } from "../temporary.ts"
import { architecture, goldenTensors, rowsOfStep } from "./golden.ts"

const rows = [rowsOfStep(0).slice(0, 64), rowsOfStep(0).slice(65, 65 + 40)]

/** Sums of squares of what layer 0's attention gets, by hand: embedding, position, layer norm. */
const byHand = (tensors: ReadonlyMap<string, Float32Array>, ids: ArrayLike<number>): Float64Array => {
  const { width } = architecture
  const sums = new Float64Array(width)
  const [table, positions, gain, bias] = ["wte.weight", "wpe.weight", "h.0.ln_1.weight", "h.0.ln_1.bias"].map(
    (name) => tensors.get(`transformer.${name}`)!,
  )
  for (let position = 0; position < ids.length; position++) {
    const x = Array.from(
      { length: width },
      (_, c) => table![ids[position]! * width + c]! + positions![position * width + c]!,
    )
    const mean = x.reduce((a, b) => a + b, 0) / width
    const scale = 1 / Math.sqrt(x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / width + LAYER_NORM_EPSILON)
    x.forEach((value, c) => {
      sums[c]! += ((value - mean) * scale * gain![c]! + bias![c]!) ** 2
    })
  }
  return sums
}

const written = Effect.gen(function* () {
  const folder = yield* temporary
  const tensors = yield* goldenTensors
  yield* Safetensors.write(join(folder, "model.safetensors"), tensors)
  return { folder, tensors: new Map(tensors.map(({ name, data }) => [name, data])) }
})

describe("activations", () => {
  it.live("are the sums of squares of what each matrix is multiplied with", () =>
    Effect.gen(function* () {
      const { folder, tensors } = yield* written
      const sums = yield* (yield* Activations)({ checkpoint: folder, architecture, rows })
      const expected = byHand(tensors, rows[0]!).map((sum, c) => sum + byHand(tensors, rows[1]!)[c]!)
      const found = sums.get("transformer.h.0.attn.c_attn.weight")!
      for (const [c, sum] of found.entries()) assert.closeTo(sum / expected[c]!, 1, 1e-4)
      // four matrices a layer, and the tied head
      assert.strictEqual(sums.size, 4 * architecture.layers + 1)
      assert.strictEqual(sums.get("transformer.h.1.mlp.c_proj.weight")!.length, 4 * architecture.width)
      assert.strictEqual(sums.get("transformer.wte.weight")!.length, architecture.width)
    }).pipe(Effect.scoped, Effect.provide(layer)),
  )

  it.live("add up row by row, and are the same every time", () =>
    Effect.gen(function* () {
      const { folder } = yield* written
      const activations = yield* Activations
      const of = (some: ReadonlyArray<Int32Array>) => activations({ checkpoint: folder, architecture, rows: some })
      const [both, again, first, second] = [
        yield* of(rows),
        yield* of(rows),
        yield* of(rows.slice(0, 1)),
        yield* of(rows.slice(1)),
      ]
      for (const [name, sums] of both) {
        assert.deepStrictEqual(again.get(name), sums)
        for (const [c, sum] of sums.entries())
          assert.closeTo((first.get(name)![c]! + second.get(name)![c]!) / sum, 1, 1e-12)
      }
    }).pipe(Effect.scoped, Effect.provide(layer)),
  )

  it.effect("fail with a hint where nothing computes them", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip((yield* Activations)({ checkpoint: "none", architecture, rows }))
      assert.match(error.message, /nothing here can do it\n {2}hint: quantise with `importance: "without"`/)
    }),
  )
})
