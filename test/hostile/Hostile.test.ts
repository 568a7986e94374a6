import { execFileSync } from "node:child_process"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { afterAll } from "vitest"
import { cases } from "./cases.ts"
import { judge, type Outcome, tally } from "./judge.ts"

describe("hostile input is refused by name or read in full", () => {
  const outcomes: Array<Outcome> = []
  afterAll(() => console.log(`fixed: ${outcomes.length} cases: ${tally(outcomes)}`))
  for (const { title, reader, files, target, outcome } of cases)
    it(title, async () => {
      const found = await judge(reader, files, target)
      outcomes.push(found)
      assert.include([outcome].flat(), found)
    })
})

describe("in a process of its own", () => {
  it("the files that would be largest are refused in less than 300 MB", () => {
    const out = execFileSync(process.execPath, [join(import.meta.dirname, "large.ts")], {
      encoding: "utf8",
      timeout: 50_000,
    })
    const { cases: judged, grownMegabytes } = JSON.parse(out)
    console.log(`large: ${judged} cases, at most ${grownMegabytes} MB more`)
    assert.isAtLeast(judged, 8)
    assert.isBelow(grownMegabytes, 300)
  })

  it("a thousand and more mutations of valid files do no harm", () => {
    const seed = process.env.EXP_HOSTILE_SEED ?? "1"
    const only = process.env.EXP_HOSTILE_CASE
    const args = [join(import.meta.dirname, "mutate.ts"), seed, "70", ...(only === undefined ? [] : [only])]
    let out: string
    try {
      out = execFileSync(process.execPath, args, { encoding: "utf8", timeout: 50_000, maxBuffer: 1 << 26 })
    } catch (cause) {
      // a crash or a hang: the last case that was begun is the one
      out = String((cause as { readonly stdout?: unknown }).stdout)
      const last = JSON.parse(out.trimEnd().split("\n").at(-1)!)
      throw new Error(
        `EXP_HOSTILE_SEED=${seed} EXP_HOSTILE_CASE=${last.id} ended the process: ${String(cause).slice(0, 2000)}`,
      )
    }
    const lines: ReadonlyArray<{
      readonly id?: string
      readonly outcome?: Outcome
      readonly wrong?: string
      readonly peakMegabytes?: number
    }> = out
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line))
    const wrong = lines.filter((line) => line.wrong !== undefined)
    assert.deepStrictEqual(
      wrong.map(({ id, wrong }) => `EXP_HOSTILE_SEED=${seed} EXP_HOSTILE_CASE=${id}: ${wrong}`),
      [],
    )
    const outcomes = lines.flatMap(({ outcome }) => outcome ?? [])
    const peak = lines.at(-1)?.peakMegabytes ?? 0
    console.log(`mutated: ${outcomes.length} cases, at most ${peak} MB: ${tally(outcomes)}`)
    if (only === undefined) {
      assert.isAtLeast(outcomes.length, 1000)
      for (const { id, outcome } of lines)
        if (id?.endsWith(":0") && outcome !== undefined) assert.strictEqual(outcome, "accepted", id)
    }
    assert.isBelow(peak, 400)
  })
})
