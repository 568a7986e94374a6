import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { Engine } from "../../src/engine/Engine.ts"
import { layerWith } from "../../src/engine/tfjs/TfjsEngine.ts"
import { standardPresets } from "../../src/model/Decoding.ts"
import { temporary } from "../temporary.ts"
import { contract } from "./contract.ts"
import { goldenRequest, goldenRows, gpt2, LENGTH, llama, STEPS, writeTokens } from "./golden.ts"

contract("tfjs-wasm", layerWith({ backend: "wasm" }))
contract("tfjs-wasm", layerWith({ backend: "wasm" }), llama)

describe("workers", () => {
  it.live.each([gpt2, llama])("never change a bit of losses, checkpoints, measurements or samples", (model) =>
    Effect.gen(function* () {
      const folder = yield* temporary
      const { request, start } = yield* goldenRequest(folder, model)
      // sixteen rows a step are eight lanes: more lanes than workers, and lanes of two rows
      const wide = { ...request, ...writeTokens(join(folder, "wide"), goldenRows, LENGTH, 256, "uint32") }
      const results = yield* Effect.forEach([1, 2, 3], (workers) =>
        Effect.gen(function* () {
          const engine = yield* Engine
          const run = (rowsPerStep: number, endStep: number) =>
            Stream.runCollect(
              engine.train({
                ...(rowsPerStep === 4 ? request : wide),
                from: rowsPerStep === 4 ? request.from : { _tag: "Fresh" },
                rowsPerStep,
                endStep,
                checkpoints: { folder: join(folder, `${workers}`, `${rowsPerStep}`), at: [endStep], moments: true },
              }),
            )
          const events = [...(yield* run(4, STEPS)), ...(yield* run(16, 5))]
          const files = ["4/step_20", "16/step_5"].flatMap((name) => {
            const path = join(folder, `${workers}`, name)
            return readdirSync(path).map((file) => readFileSync(join(path, file)).toString("base64"))
          })
          const documents = Array.from({ length: 30 }, (_, i) => ({
            id: `${i}`,
            ids: goldenRows.subarray(i * 50, i * 50 + 3 + 9 * i),
          }))
          const losses = yield* engine.losses({ checkpoint: start, documents })
          const generations = yield* engine.generate({
            checkpoint: start,
            prompts: documents.slice(0, 7).map(({ id, ids }) => ({ id, ids: Array.from(ids) })),
            preset: standardPresets[3]!,
            maxNewTokens: 10,
            eosId: 1,
            seed: 5,
          })
          const steps = events.flatMap((event) => (event._tag === "Step" ? [[event.loss, event.gradNorm]] : []))
          return { steps, files, losses, generations }
        }).pipe(Effect.provide(layerWith({ workers, backend: "wasm" }))),
      )
      assert.deepStrictEqual(results[1], results[0])
      assert.deepStrictEqual(results[2], results[0])
      assert.strictEqual(results[0]!.files.length, 6)
    }),
  )
})
