import { afterEach, beforeEach, describe, expect, it, vi } from "vitest"
import { plain, terminal } from "../../src/cli/Progress.ts"
import { ordinary } from "../../src/plan/Resources.ts"

const step = { step: "train-1", label: "train 0→300" }
const reached = (done: number) => ({
  _tag: "StepProgress" as const,
  ...step,
  progress: { done, total: 300, before: 100, unit: "steps" },
})
const started = { _tag: "StepStarted" as const, ...step, artifact: "train-1", resources: ordinary }
const run = {
  _tag: "RunStarted" as const,
  run: "r",
  experiment: "e",
  steps: 1,
  jobs: 1,
  machine: { cpus: 2, memoryBytes: 1e9, gpus: 0 },
  work: [{ step: step.step, kind: "train", amount: 300 }],
  forecast: [],
}

describe("the time left that is shown while a run goes on", () => {
  beforeEach(() => void vi.useFakeTimers({ toFake: ["performance"] }))
  afterEach(() => void vi.useRealTimers())

  it("counts neither the start of the engine nor what was done before, on a terminal", () => {
    let shown = ""
    const renderer = terminal(
      (text) => (shown = text),
      () => 120,
    )
    renderer.emit(run)
    renderer.emit(started)
    vi.advanceTimersByTime(60_000)
    renderer.emit(reached(101))
    vi.advanceTimersByTime(10_000)
    renderer.emit(reached(121))
    // 20 steps in 10 s, 179 to go
    expect(shown).toMatch(/121\/300 steps · 1 min 30 s left\n.*· about 1 min 30 s left\n$/)
    vi.advanceTimersByTime(90_000)
    renderer.emit(reached(300))
    expect(shown).toMatch(/300\/300 steps\n.*0\/1 steps · 2 min 40 s\n$/)
  })

  it("nor in lines", () => {
    let shown = ""
    const renderer = plain((text) => (shown += text))
    renderer.emit(started)
    vi.advanceTimersByTime(60_000)
    renderer.emit(reached(101))
    vi.advanceTimersByTime(10_000)
    renderer.emit(reached(121))
    expect(shown).toContain("train 0→300: 121/300 steps · 1 min 30 s left\n")
  })

  it("stays where there is little room: speed and loss give way to it", () => {
    const at = (columns: number): string => {
      let shown = ""
      const renderer = terminal(
        (text) => (shown = text),
        () => columns,
      )
      renderer.emit(run)
      renderer.emit(started)
      for (const done of [101, 111, 121]) {
        vi.advanceTimersByTime(10_000)
        const { progress, ...event } = reached(done)
        renderer.emit({ ...event, progress: { ...progress, detail: "loss 5.284", tokensPerSecond: 12_236 } })
      }
      renderer.emit({ ...started, step: "other", label: "other" })
      return shown
        .split("\n")
        .find((line) => line.includes(step.label))!
        .replace(/^.*█░+ /, "")
    }
    expect([100, 80, 60, 40].map(at)).toMatchInlineSnapshot(`
      [
        "train 0→300  121/300 steps · loss 5.284 · 12,236 tokens/s · 2 min 59 s left",
        "train 0→300  121/300 steps · loss 5.284 · 2 min 59 s left",
        "train 0→300  121/300 steps · 2 min 59 s…",
        "train 0→300  121/30…",
      ]
    `)
  })
})
