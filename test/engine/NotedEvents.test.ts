import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it, onTestFinished } from "vitest"
import { type NotedEvent, notedEvents, unheard } from "../../src/engine/NotedEvents.ts"

const step = (n: number): NotedEvent => ({
  ...{ _tag: "Step", step: n, loss: 5, lr: 1e-3, gradNorm: 1, tokensSeen: 64 * n, seconds: 0.1 },
})
const measured = (n: number): NotedEvent => ({ _tag: "Validation", step: n, losses: [] })
const named = (events: ReadonlyArray<NotedEvent>) => events.map((event) => `${event._tag} ${event.step}`).join(", ")

describe("what an engine noted for a listener that it ran ahead of", () => {
  const noted = [step(11), step(12), measured(12), step(13)]

  it("is told from where it begins, so that what was measured after the last step heard is not lost", () => {
    assert.strictEqual(named(unheard(noted, 12, 0)), "Step 11, Step 12, Validation 12, Step 13")
    assert.strictEqual(named(unheard(noted, 13, 0)), "Step 11, Step 12, Validation 12, Step 13")
  })

  it("is left alone when all of it was heard, or when something before it was not", () => {
    assert.strictEqual(named(unheard(noted, 14, 0)), "")
    assert.strictEqual(named(unheard(noted, 10, 0)), "")
    assert.strictEqual(named(unheard([], 3, 0)), "")
  })

  it("is all there is, where nothing of a stretch was heard", () => {
    assert.strictEqual(named(unheard(noted, 10, 10)), "Step 11, Step 12, Validation 12, Step 13")
  })

  it("is read line by line; where there is no file, or a line is torn, nothing is made up", () => {
    const folder = mkdtempSync(join(tmpdir(), "exp-noted-"))
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }))
    assert.deepStrictEqual(notedEvents(folder), [])
    writeFileSync(
      join(folder, "events.ndjson"),
      `${noted.map((event) => JSON.stringify(event)).join("\n")}\n{"_tag":"St`,
    )
    assert.deepStrictEqual(notedEvents(folder), noted)
  })
})
