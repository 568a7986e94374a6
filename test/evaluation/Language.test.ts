import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { languageIdentifier, UNDETERMINED } from "../../src/evaluation/Language.ts"

const english = "The committee will meet again next week to discuss the new proposal."
const italian = "Il comitato si riunirà di nuovo la prossima settimana per discutere la proposta."
const polish = "Komisja spotka się ponownie w przyszłym tygodniu, aby omówić nową propozycję."
const spanish = "El perro come la comida que le gusta en la casa de su madre."

describe("language identification", () => {
  it.effect("names declared languages only", () =>
    Effect.gen(function* () {
      const identify = yield* languageIdentifier(["en", "it"])
      assert.deepStrictEqual([english, italian, polish].map(identify), ["en", "it", UNDETERMINED])
      const three = yield* languageIdentifier(["en", "it", "pl"])
      assert.strictEqual(three(polish), "pl")
      // an identifier restricts itself alone
      assert.strictEqual(identify(polish), UNDETERMINED)
    }),
  )

  it.effect("does not call Spanish Italian, nor Italian English", () =>
    Effect.gen(function* () {
      assert.strictEqual((yield* languageIdentifier(["en", "it"]))(spanish), UNDETERMINED)
      assert.strictEqual((yield* languageIdentifier(["en", "pl"]))(italian), UNDETERMINED)
    }),
  )

  it.effect("is silent on fewer than 20 letters, and on languages it does not know", () =>
    Effect.gen(function* () {
      const identify = yield* languageIdentifier(["en", "it"])
      assert.strictEqual(identify("The house is red."), UNDETERMINED)
      assert.strictEqual(identify("12 + 34 = 46; 56 + 78 = 134; 90 - 12 = 78"), UNDETERMINED)
      assert.strictEqual(identify("The house is red, and so is the old garden wall."), "en")
      assert.strictEqual((yield* languageIdentifier(["code"]))(english), UNDETERMINED)
    }),
  )
})
