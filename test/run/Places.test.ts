import { assert, describe, expect, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Schema } from "effect"
import { Corpus } from "../../src/model/Artifact.ts"
import { experiment } from "../../src/plan/Plan.ts"
import { ordinary, type Resources } from "../../src/plan/Resources.ts"
import * as Step from "../../src/plan/Step.ts"
import { type Capacity, thisMachine } from "../../src/run/Machine.ts"
import { PATIENCE, Places } from "../../src/run/Places.ts"
import { temporaryFolder } from "../temporary.ts"
import { run } from "./running.ts"

const needs = (some: Partial<Resources>): Resources => ({ ...ordinary, ...some })
const machine: Capacity = { cpus: 4, memoryBytes: 100, gpus: 1 }

/** Steps that begin when there is a place, and end when they are told to. */
const crowd = (capacity: Capacity, jobs: number) => {
  const places = new Places(capacity, jobs)
  const began: Array<string> = []
  const told = new Map<string, Deferred.Deferred<void>>()
  const come = Effect.fnUntraced(function* (label: string, some: Partial<Resources> = {}) {
    const end = yield* Deferred.make<void>()
    told.set(label, end)
    const work = Effect.andThen(
      Effect.sync(() => began.push(label)),
      Deferred.await(end),
    )
    return yield* Effect.forkChild(places.within(label, needs(some), work), { startImmediately: true })
  })
  const end = (label: string) => Effect.andThen(Deferred.succeed(told.get(label)!, undefined), settle)
  return { began, come, end }
}
/** Every fiber that can go on has gone on. */
const settle = Effect.forEach(Array.from({ length: 20 }), () => Effect.yieldNow, { discard: true })

describe("places on a machine", () => {
  it.effect("are given as long as cores, memory and GPUs last, each of them", () =>
    Effect.gen(function* () {
      const { began, come, end } = crowd(machine, 99)
      yield* come("three cores", { cpus: 3 })
      yield* come("two cores", { cpus: 2 })
      yield* come("a GPU", { cpus: 0, gpus: 1 })
      yield* come("another GPU", { cpus: 0, gpus: 1 })
      yield* come("memory", { cpus: 0, memoryBytes: 60 })
      yield* come("more memory", { cpus: 0, memoryBytes: 41 })
      yield* settle
      assert.deepStrictEqual(began, ["three cores", "a GPU", "memory"])
      yield* end("memory")
      yield* end("three cores")
      yield* end("a GPU")
      assert.deepStrictEqual(began.slice(3), ["more memory", "two cores", "another GPU"])
    }),
  )

  it.effect("are never more than there are jobs", () =>
    Effect.gen(function* () {
      const { began, come, end } = crowd(machine, 2)
      for (const label of ["a", "b", "c"]) yield* come(label, { cpus: 0.5 })
      yield* settle
      assert.deepStrictEqual(began, ["a", "b"])
      yield* end("b")
      assert.deepStrictEqual(began, ["a", "b", "c"])
    }),
  )

  it.effect("go alone to a step that wants all cores, or more than there are", () =>
    Effect.gen(function* () {
      const { began, come, end } = crowd(machine, 99)
      yield* come("large", { cpus: 64 })
      yield* come("all", { cpus: "all" })
      yield* come("small")
      yield* settle
      assert.deepStrictEqual(began, ["large"])
      yield* end("large")
      assert.deepStrictEqual(began, ["large", "all"])
      yield* end("all")
      assert.deepStrictEqual(began, ["large", "all", "small"])
    }),
  )

  it.effect("come to a large step however many small ones there are", () =>
    Effect.gen(function* () {
      const { began, come, end } = crowd(machine, 99)
      yield* come("first")
      yield* settle
      yield* come("large", { cpus: "all" })
      for (let n = 0; n < 50; n++) yield* come(`small ${n}`)
      yield* settle
      // whoever runs comes to an end, one after the other: three always run, until nobody may pass any more
      for (let at = 0; !began.includes("large"); at++) yield* end(began[at]!)
      assert.strictEqual(began.indexOf("large"), 1 + PATIENCE)
      yield* end("large")
      assert.lengthOf(began, 1 + PATIENCE + 1 + 4)
    }),
  )

  it.effect("that come free at once let no more small steps by than may pass", () =>
    Effect.gen(function* () {
      const { began, come, end } = crowd({ ...machine, cpus: 100 }, 99)
      yield* come("whole", { cpus: "all" })
      yield* settle
      yield* come("nearly all", { cpus: 99 })
      yield* come("larger", { cpus: "all" })
      for (let n = 0; n < 50; n++) yield* come(`small ${n}`, { cpus: 0.01 })
      yield* end("whole")
      assert.deepStrictEqual(began.slice(0, 2), ["whole", "nearly all"])
      assert.lengthOf(began, 2 + PATIENCE)
    }),
  )

  it.effect("are free again when a step fails or is interrupted, at work or in line", () =>
    Effect.gen(function* () {
      const places = new Places(machine, 99)
      const failed = yield* Effect.flip(places.within("bad", needs({ cpus: "all" }), Effect.fail("no luck")))
      assert.strictEqual(failed, "no luck")
      const { began, come } = crowd(machine, 99)
      const atWork = yield* come("at work", { cpus: "all" })
      const inLine = yield* come("in line", { cpus: "all" })
      yield* come("after", { cpus: "all" })
      yield* settle
      yield* Fiber.interrupt(inLine)
      assert.deepStrictEqual(began, ["at work"])
      yield* Fiber.interrupt(atWork)
      yield* settle
      assert.deepStrictEqual(began, ["at work", "after"])
    }),
  )

  it.effect("are refused at once where there never will be one, with what is needed and what there is", () =>
    Effect.gen(function* () {
      const places = new Places({ cpus: 4, memoryBytes: 16e9, gpus: 1 }, 99)
      const refusal = (some: Partial<Resources>) =>
        Effect.map(Effect.flip(places.within("train 0→300", needs(some), Effect.void)), ({ message }) => message)
      expect(yield* refusal({ memoryBytes: 48e9 })).toMatchInlineSnapshot(`
        "train 0→300 needs 48 GB of memory, this machine has 16 GB
          hint: choose a smaller model, or a machine with more memory"
      `)
      expect(yield* refusal({ gpus: 2 })).toMatchInlineSnapshot(`
        "train 0→300 needs 2 GPUs, this machine has 1
          hint: choose a machine with more; \`CUDA_VISIBLE_DEVICES\` says which of them may be used"
      `)
    }),
  )
})

describe("this machine", () => {
  it("has cores and memory, and the GPUs that CUDA would count", () => {
    const counted = (visible: string): number => {
      const before = process.env["CUDA_VISIBLE_DEVICES"]
      process.env["CUDA_VISIBLE_DEVICES"] = visible
      try {
        return thisMachine().gpus
      } finally {
        if (before === undefined) delete process.env["CUDA_VISIBLE_DEVICES"]
        else process.env["CUDA_VISIBLE_DEVICES"] = before
      }
    }
    const { cpus, memoryBytes } = thisMachine()
    assert.isAtLeast(cpus, 1)
    assert.isAbove(memoryBytes, 1e8)
    assert.deepStrictEqual(["", "-1", "0", "0,2", "GPU-1a,-1,3"].map(counted), [0, 0, 1, 2, 1])
  })
})

const known = { languages: ["en"], trainSources: ["a"], evaluateSources: [] }
const Amount = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 6 }))

const now = { cpus: 0, memoryBytes: 0, gpus: 0, steps: 0 }
let overfull: Array<string> = []
const weigh = (sign: 1 | -1, { cpus, memory, gpus }: { readonly [name: string]: number }): void => {
  now.cpus += sign * Math.min(cpus!, machine.cpus)
  now.memoryBytes += sign * 15 * memory!
  now.gpus += sign * gpus!
  now.steps += sign
}

const task = Step.make("task", {
  version: 1,
  params: { n: Schema.Int, cpus: Amount, memory: Amount, gpus: Amount },
  inputs: { after: [Corpus] },
  output: (ref) => new Corpus(ref, known),
  resources: ({ cpus, memory, gpus }) => ({ cpus, memoryBytes: 15 * memory, gpus }),
  run: (work) =>
    Effect.acquireUseRelease(
      Effect.sync(() => {
        weigh(1, work.params as never)
        if (
          now.cpus > machine.cpus ||
          now.memoryBytes > machine.memoryBytes ||
          now.gpus > machine.gpus ||
          now.steps > 3
        )
          overfull.push(JSON.stringify(now))
      }),
      () => Effect.as(Effect.sleep(1), undefined),
      () => Effect.sync(() => weigh(-1, work.params as never)),
    ),
})

const Tasks = Schema.Array(
  Schema.Struct({
    cpus: Amount,
    memory: Amount,
    gpus: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1 })),
    after: Schema.Array(Schema.Natural).check(Schema.isMaxLength(3)),
  }),
).check(Schema.isMinLength(1), Schema.isMaxLength(14))

it.effect.prop(
  "a plan of any shape with any needs is done to its end, and never takes more than there is",
  [Tasks],
  ([tasks]) =>
    Effect.gen(function* () {
      overfull = []
      const plan = experiment("tasks", function* () {
        const done: Array<Corpus> = []
        for (const [n, { after, ...rest }] of tasks.entries())
          done.push(yield* task({ n, ...rest, after: after.slice(0, n).map((other) => done[other % n]!) }))
      })
      const ran = yield* Effect.promise(() => run(temporaryFolder(), plan, { jobs: 3, machine }))
      assert.isUndefined(ran.error)
      assert.lengthOf(ran.made, tasks.length)
      assert.deepStrictEqual(overfull, [])
      assert.deepStrictEqual(now, { cpus: 0, memoryBytes: 0, gpus: 0, steps: 0 })
    }),
  { timeout: 60_000 },
)
