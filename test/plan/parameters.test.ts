import { assert, describe, it } from "@effect/vitest"
import { Effect, experiment, Schema } from "exp"
import { parametersOf } from "../../src/plan/Plan.ts"

const parameters = Schema.Struct({
  seed: Schema.Int.check(Schema.isGreaterThan(0)).pipe(Schema.withConstructorDefault(Effect.succeed(7))),
  corpus: Schema.String.pipe(Schema.withConstructorDefault(Effect.succeed("texts"))),
})

// the program sees the schema's own types
const typed = experiment("typed", parameters, function* ({ seed, corpus }) {
  const sum: number = seed + corpus.length
  return sum
})

describe("parameters given as a Schema with defaults", () => {
  it.effect("have the schema's defaults, and take values of their types", () =>
    Effect.gen(function* () {
      assert.deepStrictEqual(yield* parametersOf(typed, {}), { seed: 7, corpus: "texts" })
      assert.deepStrictEqual(yield* parametersOf(typed, { seed: "12" }), { seed: 12, corpus: "texts" })
    }),
  )

  it.effect("refuse what the schema refuses, misspelt names and wrong types", () =>
    Effect.gen(function* () {
      const negative = yield* Effect.flip(parametersOf(typed, { seed: "-3" }))
      assert.match(
        negative.message,
        /^typed: .*greater than 0.*\["seed"\]\n {2}hint: the defaults are seed=7, corpus=texts$/,
      )
      assert.match((yield* Effect.flip(parametersOf(typed, { seed: "1.5" }))).message, /\["seed"\]/)
      assert.match((yield* Effect.flip(parametersOf(typed, { sed: "1" }))).message, /did you mean `seed`\?/)
      assert.match((yield* Effect.flip(parametersOf(typed, { seed: "x" }))).message, /is not a number/)
    }),
  )
})
