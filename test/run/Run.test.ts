import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import { afterEach, assert, describe, expect, it } from "vitest"
import { Headway } from "../../src/engine/Headway.ts"
import { sha256 } from "../../src/model/Digest.ts"
import { each, experiment } from "../../src/plan/Plan.ts"
import { listFiles } from "../../src/store/Store.ts"
import { flip, forgeStat } from "../store/damage.ts"
import { temporaryFolder } from "../temporary.ts"
import { run } from "./running.ts"
import { during, finish, grow, pick, polish, report, source } from "./steps.ts"

afterEach(() => during.clear())

interface Recipe {
  readonly text?: string
  readonly steps?: number
  readonly keepEvery?: number
  readonly rate?: number
  readonly candidates?: ReadonlyArray<number>
  readonly shine?: number
}

const recipe = ({ text = "a", steps = 4, keepEvery = 1, rate = 1, candidates = [2, 3], shine = 1 }: Recipe = {}) =>
  experiment("recipe", function* () {
    const texts = yield* source({ text })
    const base = yield* grow({ from: texts, steps, keepEvery, rate })
    const among = yield* each(candidates, function* (step) {
      return yield* finish({ from: base.stableAt(step) })
    })
    const best = yield* pick({ among })
    yield* polish({ model: best, shine })
    return yield* report({ model: best })
  })

const all = ["source", "grow 0→4", "finish 2", "finish 3", "pick", "polish", "report"]

/** What a store holds, its scaffolding aside: every file with the digest of its bytes. */
const holds = (root: string) =>
  listFiles(root)
    .filter((path) => !path.startsWith("."))
    .map((path) => `${path} ${sha256(fs.readFileSync(join(root, path)))}`)

describe("a run", () => {
  it("makes every step once, and nothing the second time", async () => {
    const root = temporaryFolder()
    assert.deepStrictEqual((await run(root, recipe())).made, all)
    const again = await run(root, recipe())
    assert.deepStrictEqual(again.made, [])
    assert.deepStrictEqual(again.cached, all)
  })

  it("tells how far an engine is with a request, as a detail of what a step counts itself", async () => {
    const reached = { done: 30, total: 90, unit: "texts" }
    const asking = Effect.map(Headway, (tell) => tell(reached))
    during.set("source", () => asking)
    during.set("polish", (work) => {
      work.progress({ done: 1, total: 2, unit: "presets", detail: "greedy" })
      return asking
    })
    assert.deepStrictEqual((await run(temporaryFolder(), recipe())).progress, [
      reached,
      { done: 1, total: 2, unit: "presets", detail: "greedy" },
      { done: 1, total: 2, unit: "presets", detail: "30/90 texts" },
    ])
  })

  it("makes again only what a changed parameter reaches", async () => {
    const root = temporaryFolder()
    await run(root, recipe())
    assert.deepStrictEqual((await run(root, recipe({ shine: 2 }))).made, ["polish"])
    assert.deepStrictEqual((await run(root, recipe({ rate: 2 }))).made, all.slice(1))
    assert.deepStrictEqual((await run(root, recipe({ text: "b" }))).made, all)
    assert.deepStrictEqual((await run(root, recipe())).made, [])
  })

  it("keeps what depends on the winner when a new candidate loses, but for what reads the comparison", async () => {
    const root = temporaryFolder()
    await run(root, recipe())
    assert.deepStrictEqual((await run(root, recipe({ candidates: [2, 3, 4] }))).made, ["finish 4", "pick", "report"])
  })

  it("goes on from the new winner when a new candidate wins", async () => {
    const root = temporaryFolder()
    await run(root, recipe({ candidates: [2, 4] }))
    assert.deepStrictEqual((await run(root, recipe({ candidates: [2, 4, 3] }))).made, [
      "finish 3",
      "pick",
      "polish",
      "report",
    ])
  })

  it("keeps later steps cached when training only goes on for longer or keeps other checkpoints", async () => {
    const root = temporaryFolder()
    const first = await run(root, recipe())
    const longer = await run(root, recipe({ steps: 9, keepEvery: 1 }))
    assert.deepStrictEqual(longer.made, ["grow 0→9"])
    assert.strictEqual(longer.artifact("finish 3"), first.artifact("finish 3"))
  })

  it("tells a step of the same kind and identity what an earlier run of another length left, whole ones only", async () => {
    const root = temporaryFolder()
    const short = (await run(root, recipe())).artifact("grow 0→4")
    const damaged = (await run(root, recipe({ steps: 5 }))).artifact("grow 0→5")
    await run(root, recipe({ rate: 7 }))
    flip(join(root, damaged, "checkpoints/step_1/weights.txt"), 3)
    forgeStat(root, damaged)
    const kin: Array<string> = []
    during.set("grow", (work) =>
      Effect.map(work.kin, (all) => {
        for (const { path, params } of all) kin.push(`${path === join(root, short)} ${params["steps"]}`)
      }),
    )
    await run(root, recipe({ steps: 6 }))
    assert.deepStrictEqual(kin, ["true 4"])
  })

  it("needs no artifact of another length that is gone, when it has the same checkpoint in its own", async () => {
    const root = temporaryFolder()
    const first = await run(root, recipe())
    await run(root, recipe({ steps: 6 }))
    fs.rmSync(join(root, first.artifact("grow 0→4")), { recursive: true })
    fs.rmSync(join(root, first.artifact("report")), { recursive: true })
    const again = await run(root, recipe({ steps: 6 }))
    assert.isUndefined(again.error)
    assert.deepStrictEqual(again.made, ["report"])
  })

  it("leaves finished steps cached when one fails, and says which one failed and why", async () => {
    const root = temporaryFolder()
    during.set("pick", () => Effect.fail(new Error("no luck\n  hint: try again")))
    const failed = await run(root, recipe())
    expect(failed.error?.message).toMatchInlineSnapshot(`
      "pick: no luck
        hint: try again"
    `)
    assert.deepStrictEqual(failed.made, all.slice(0, 4))
    during.clear()
    const again = await run(root, recipe())
    assert.deepStrictEqual(again.cached, all.slice(0, 4))
    assert.deepStrictEqual(again.made, all.slice(4))
  })

  it("stops after the step it was asked to, with all that step needs", async () => {
    const root = temporaryFolder()
    assert.deepStrictEqual((await run(root, recipe(), { until: "finish 3" })).made, ["source", "grow 0→4", "finish 3"])
    assert.deepStrictEqual((await run(root, recipe(), { until: "pick" })).made, ["finish 2", "pick"])
  })

  it("writes the same store with one job and with four", async () => {
    const [one, four] = [temporaryFolder(), temporaryFolder()]
    await run(one, recipe({ candidates: [1, 2, 3, 4] }), { jobs: 1 })
    await run(four, recipe({ candidates: [1, 2, 3, 4] }), { jobs: 4 })
    assert.deepStrictEqual(holds(four), holds(one))
    assert.isAbove(holds(one).length, 10)
  })

  it("does as many steps side by side as it has jobs, and no more", async () => {
    for (const jobs of [1, 3]) {
      let now = 0
      let most = 0
      during.set("finish", () =>
        Effect.gen(function* () {
          most = Math.max(most, ++now)
          yield* Effect.sleep("30 millis")
          now--
        }),
      )
      await run(temporaryFolder(), recipe({ candidates: [1, 2, 3, 4] }), { jobs })
      assert.strictEqual(most, jobs)
    }
  })
})

describe("a damaged artifact", () => {
  it("is made again by its producer before it is handed on, and nothing else is", async () => {
    const root = temporaryFolder()
    const first = await run(root, recipe())
    const before = holds(root)
    flip(join(root, first.artifact("source"), "text.txt"), 3)
    const again = await run(root, recipe())
    assert.deepStrictEqual(again.made, ["source"])
    expect(again.notes).toMatchInlineSnapshot(`
      [
        "source: was damaged (\`text.txt\` does not have the bytes it was stored with): made anew",
      ]
    `)
    assert.deepStrictEqual(holds(root), before)
  })

  it("is found by its bytes alone when a step is about to read it, and made again in the same run", async () => {
    const root = temporaryFolder()
    const first = await run(root, recipe())
    for (const label of ["grow 0→4", "finish 3", "pick"]) {
      const artifact = first.artifact(label)
      const file = listFiles(join(root, artifact)).find((path) => path !== "manifest.json")!
      flip(join(root, artifact, file), 3)
      forgeStat(root, artifact)
    }
    fs.rmSync(join(root, first.artifact("report")), { recursive: true })
    fs.rmSync(join(root, first.artifact("polish")), { recursive: true })
    const again = await run(root, recipe(), { jobs: 4 })
    assert.isUndefined(again.error)
    assert.deepStrictEqual([...again.made].sort(), ["finish 3", "grow 0→4", "pick", "polish", "report"])
    assert.strictEqual(fs.readdirSync(join(root, ".damaged")).length, 3)
    const clean = temporaryFolder()
    await run(clean, recipe())
    assert.deepStrictEqual(holds(root), holds(clean))
  })

  it("does not reach a step that reads it through a selection", async () => {
    const root = temporaryFolder()
    const first = await run(root, recipe())
    const winner = join(root, first.artifact("finish 3"), "score.json")
    const whole = fs.readFileSync(winner, "utf8")
    flip(winner, 12)
    forgeStat(root, first.artifact("finish 3"))
    const again = await run(root, recipe({ shine: 5 }))
    assert.deepStrictEqual(again.made, ["finish 3", "polish"])
    assert.strictEqual(fs.readFileSync(join(root, again.artifact("polish"), "polished.txt"), "utf8"), `5 ${whole}`)
  })

  it("that rots while the run is under way is made again too", async () => {
    const root = temporaryFolder()
    during.set("finish", (work) =>
      Effect.sync(() => {
        during.clear()
        flip(join(work.inputs["from"]![0]!.path, "weights.txt"), 3)
      }),
    )
    const ran = await run(root, recipe())
    assert.isUndefined(ran.error)
    assert.deepStrictEqual(ran.made, [...all.slice(0, 3), "grow 0→4", ...all.slice(3)])
  })
})

describe("a fan-out over checkpoints yet to come", () => {
  const fan = (steps: number, atMost: number) =>
    experiment("fan", function* () {
      const base = yield* grow({ from: yield* source({ text: "a" }), steps, keepEvery: 1, rate: 1 })
      const among = yield* each(
        base.stable,
        function* (from) {
          return yield* finish({ from })
        },
        { atMost },
      )
      return yield* polish({ model: yield* pick({ among }), shine: 1 })
    })

  it("expands to what the artifact holds", async () => {
    const root = temporaryFolder()
    const first = await run(root, fan(3, 10))
    assert.deepStrictEqual(first.made, [
      "source",
      "grow 0→3",
      "finish step_1",
      "finish step_2",
      "finish step_3",
      "pick",
      "polish",
    ])
    const longer = await run(root, fan(4, 10))
    assert.deepStrictEqual(longer.made, ["grow 0→4", "finish step_4", "pick"])
  })

  it("makes the same artifacts as a list of the same checkpoints", async () => {
    const root = temporaryFolder()
    const listed = await run(root, recipe({ candidates: [1, 2, 3, 4] }))
    const fanned = await run(root, fan(4, 4))
    assert.deepStrictEqual(fanned.made, [])
    assert.strictEqual(fanned.artifact("finish step_3"), listed.artifact("finish 3"))
  })

  it("stops with a hint when there are more than the plan allows", async () => {
    const ran = await run(temporaryFolder(), fan(3, 2))
    expect(ran.error?.message).toMatchInlineSnapshot(`
      "each ×≤2: there are 3 items, more than the plan allows
        hint: raise \`atMost\` to 3"
    `)
    assert.deepStrictEqual(ran.made, ["source", "grow 0→3"])
  })

  it("may hold another one over the same things, whose steps use both items", async () => {
    const pair = experiment("pair", function* () {
      const base = yield* grow({ from: yield* source({ text: "a" }), steps: 2, keepEvery: 1, rate: 1 })
      const among = yield* each(
        base.stable,
        function* (left) {
          const inner = yield* each(
            base.stable,
            function* (right) {
              return yield* pick({ among: [yield* finish({ from: left }), yield* finish({ from: right, bonus: 1 })] })
            },
            { atMost: 2 },
          )
          return yield* pick({ among: inner })
        },
        { atMost: 2 },
      )
      return yield* pick({ among })
    })
    const root = temporaryFolder()
    const ran = await run(root, pair, { jobs: 4 })
    assert.isUndefined(ran.error)
    // two checkpoints with and without the bonus, each made once however often it is asked for
    assert.strictEqual(new Set(ran.made.filter((label) => label.startsWith("finish"))).size >= 2, true)
    assert.strictEqual(fs.readdirSync(root).filter((name) => name.startsWith("finish-")).length, 4)
    assert.deepStrictEqual((await run(root, pair)).made, [])
  })

  it("never holds up the steps around it that its body waits for, however many wait", async () => {
    const many = experiment("many", function* () {
      const base = yield* grow({ from: yield* source({ text: "a" }), steps: 2, keepEvery: 1, rate: 1 })
      const late = yield* grow({ from: yield* source({ text: "b" }), steps: 2, keepEvery: 1, rate: 1 })
      const other = yield* finish({ from: late.stableAt(2) })
      const fans = yield* each([1, 2, 3, 4], function* (bonus) {
        return yield* each(
          base.stable,
          function* (from) {
            return yield* pick({ among: [yield* finish({ from, bonus }), other] })
          },
          { atMost: 2 },
        )
      })
      return yield* pick({ among: fans })
    })
    during.set("grow", () => Effect.sleep("20 millis"))
    const [one, two] = [temporaryFolder(), temporaryFolder()]
    const sideBySide = await run(one, many, { jobs: 2 })
    assert.isUndefined(sideBySide.error)
    await run(two, many)
    assert.deepStrictEqual(fs.readdirSync(one).sort(), fs.readdirSync(two).sort())
  })
})

describe("manifests", () => {
  it("are the same whatever the folder, time zone, language, umask and order of parameters", () => {
    const manifests = (env: NodeJS.ProcessEnv, umask: string, order: string) => {
      const cwd = temporaryFolder()
      execFileSync(
        "/bin/sh",
        [
          "-c",
          `umask ${umask}; exec "$0" "$1" "$2" "$3"`,
          process.execPath,
          join(import.meta.dirname, "child.ts"),
          "store",
          order,
        ],
        { cwd, env: { ...process.env, ...env } },
      )
      return holds(join(cwd, "store"))
    }
    const plain = manifests({ TZ: "UTC", LANG: "C" }, "022", "ab")
    assert.isAbove(plain.length, 5)
    assert.deepStrictEqual(
      manifests({ TZ: "Asia/Kathmandu", LANG: "tr_TR.UTF-8", LC_ALL: "tr_TR.UTF-8" }, "077", "ba"),
      plain,
    )
  })
})
