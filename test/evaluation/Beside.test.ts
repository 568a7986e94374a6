import { assert, describe, it } from "vitest"
import { apart } from "../../src/evaluation/Beside.ts"

const measured = (value: number, half: number) => ({ value, ci95: [value - half, value + half] as const })

describe("a holdout beside the validation that a choice was made on", () => {
  it("is told apart by the interval of the difference, and not by one of the two", () => {
    const validation = measured(5, 0.03)
    // inside of the validation's interval, and outside of it by less than both are unsure of
    assert.strictEqual(apart({ validation, holdout: measured(5.02, 0.03) }), false)
    assert.strictEqual(apart({ validation, holdout: measured(5.04, 0.03) }), false)
    assert.strictEqual(apart({ validation, holdout: measured(5.043, 0.03) }), true)
    assert.strictEqual(apart({ validation, holdout: measured(4.957, 0.03) }), true)
    // inside, where both are so sure that it counts
    assert.strictEqual(apart({ validation: measured(5, 0.03), holdout: measured(5.031, 0.001) }), true)
    assert.strictEqual(apart({ validation, holdout: { value: 5.2 } }), undefined)
  })
})
