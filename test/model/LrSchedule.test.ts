import { readFileSync } from "node:fs"
import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { DecayShape, type LrSchedule, lrAt } from "../../src/model/LrSchedule.ts"

const golden = JSON.parse(readFileSync(new URL("../golden/wsd.json", import.meta.url), "utf8")) as {
  readonly params: { peak: number; warm: number; decay_start: number; decay_steps: number; final: number }
  readonly lr: Readonly<Record<string, Readonly<Record<string, number>>>>
}
const { peak, warm, decay_start, decay_steps, final } = golden.params
const schedule = (shape: DecayShape): LrSchedule => ({
  peakLr: peak,
  warmupSteps: warm,
  decay: { startStep: decay_start, steps: decay_steps, finalLr: final, shape },
})

describe("warm-up, stable, decay", () => {
  for (const shape of DecayShape.literals)
    it(`follows the golden rates of the ${shape} decay`, () => {
      const rates = Object.entries(golden.lr[shape]!)
      assert.strictEqual(rates.length, 10)
      for (const [step, lr] of rates) assert.closeTo(lrAt(schedule(shape), Number(step)), lr, 1e-18, `step ${step}`)
    })

  it("stays at the peak for ever without a decay", () => {
    const stable = { peakLr: 1e-3, warmupSteps: 0 }
    assert.strictEqual(lrAt(stable, 0), 1e-3)
    assert.strictEqual(lrAt(stable, 1e9), 1e-3)
  })

  const Step = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 20_000 }))
  it.prop("rises, then never rises again, and ends at the final rate", [DecayShape, Step], ([shape, step]) => {
    const now = lrAt(schedule(shape), step)
    const next = lrAt(schedule(shape), step + 1)
    assert.isTrue(step + 1 < warm ? next > now : next <= now)
    assert.isTrue(now > 0 && now <= peak)
    if (step >= decay_start + decay_steps - 1) assert.closeTo(now, final, 1e-18)
  })
})
