import { describe, expect, it } from "vitest"
import { Estimate } from "../../src/cli/Estimate.ts"

const work = [
  { step: "train", kind: "train", amount: 100 },
  { step: "decay-a", kind: "decay", amount: 20 },
  { step: "decay-b", kind: "decay", amount: 40 },
  { step: "sweep", kind: "sweep", amount: 1 },
]
const clock = () => {
  let seconds = 0
  return { now: () => seconds, pass: (more: number) => (seconds += more) }
}

describe("the time a run still takes", () => {
  it("is not said while nothing has run", () => {
    expect(new Estimate(work, () => 0).left()).toBeUndefined()
  })

  it("is what was foretold, for kinds that have not run yet", () => {
    const forecast = work.map(({ step }, n) => ({ step, seconds: 10 ** n }))
    const estimate = new Estimate(work, () => 0, forecast)
    expect(estimate.left()).toEqual({ seconds: 1111, atLeast: false })
    estimate.finished("decay-a", 40)
    expect(estimate.left()).toEqual({ seconds: 1 + 80 + 1000, atLeast: false })
    expect(new Estimate(work, () => 0, forecast.slice(0, 3)).left()).toEqual({ seconds: 111, atLeast: true })
  })

  it("follows the pace of a running step, and is a lower bound while kinds are unknown", () => {
    const { now, pass } = clock()
    const estimate = new Estimate(work, now)
    estimate.started("train")
    pass(10)
    estimate.progress("train", { done: 25, total: 100, unit: "steps" })
    expect(estimate.left()).toEqual({ seconds: 30, atLeast: true })
  })

  it("does not take the start of an engine for its pace", () => {
    const { now, pass } = clock()
    const estimate = new Estimate(work, now)
    estimate.started("train")
    pass(60)
    estimate.progress("train", { done: 10, total: 100, unit: "steps" })
    pass(10)
    estimate.progress("train", { done: 20, total: 100, unit: "steps" })
    expect(estimate.left()).toEqual({ seconds: 80, atLeast: true })
  })

  it("takes what was there before this run for no work of its own", () => {
    const { now, pass } = clock()
    const estimate = new Estimate(work, now)
    estimate.started("decay-a")
    pass(10)
    estimate.progress("decay-a", { done: 15, total: 20, before: 10, unit: "steps" })
    expect(estimate.left()).toEqual({ seconds: 10, atLeast: true })
    pass(10)
    // 10 steps in 20 s, and 40 to go
    estimate.finished("decay-a", 20)
    expect(estimate.left()).toEqual({ seconds: 80, atLeast: true })
  })

  it("counts a step of a kind seen before by its amount of work", () => {
    const estimate = new Estimate(work, () => 0)
    estimate.finished("train", 10)
    estimate.finished("decay-a", 4)
    expect(estimate.left()).toEqual({ seconds: 8, atLeast: true })
    estimate.ended("sweep")
    expect(estimate.left()).toEqual({ seconds: 8, atLeast: false })
  })
})
