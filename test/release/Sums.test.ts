import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { checkSums } from "../../src/release/Sums.ts"
import { assembled } from "./assembled.ts"

describe("SHA256SUMS", () => {
  it.effect("verifies, is sorted, and finds a flipped byte, a missing file and a new one", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const out = yield* assembled()
      yield* checkSums(out)
      const names = (yield* fs.readFileString(`${out}/SHA256SUMS`))
        .trim()
        .split("\n")
        .map((line) => line.slice(66))
      assert.deepStrictEqual(names, [...names].sort())
      const weights = Buffer.from(yield* fs.readFile(`${out}/model.safetensors`))
      weights[weights.length - 1]! ^= 1
      yield* fs.writeFile(`${out}/model.safetensors`, weights)
      yield* fs.remove(`${out}/plan.txt`)
      yield* fs.writeFileString(`${out}/extra.txt`, "")
      const error = yield* Effect.flip(checkSums(out))
      assert.strictEqual(error._tag, "SumsMismatch")
      assert.deepStrictEqual(
        [...(error._tag === "SumsMismatch" ? error.problems : [])],
        ["model.safetensors has other bytes", "plan.txt is missing", "extra.txt has no line in SHA256SUMS"],
      )
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )
})
