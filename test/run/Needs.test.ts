/** What steps need of machine and disk, in whole runs. */
import { execFileSync } from "node:child_process"
import * as fs from "node:fs"
import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Layer, Schema } from "effect"
import { afterEach, assert, describe, expect, it } from "vitest"
import { Engine } from "../../src/engine/Engine.ts"
import { Corpus, StableCheckpoint } from "../../src/model/Artifact.ts"
import { each, experiment, plan } from "../../src/plan/Plan.ts"
import type { Resources } from "../../src/plan/Resources.ts"
import * as Step from "../../src/plan/Step.ts"
import { MachineTooSmall, thisMachine } from "../../src/run/Machine.ts"
import { requireEngine, requireMachine } from "../../src/run/Needs.ts"
import { RESERVE } from "../../src/store/Disk.ts"
import { Store } from "../../src/store/Store.ts"
import { mayMount } from "../faults/trials.ts"
import { temporaryFolder } from "../temporary.ts"
import { around, blob, copy, MB } from "./blob.ts"
import { run } from "./running.ts"
import { grow, source } from "./steps.ts"

afterEach(() => {
  around.before = () => Effect.void
  around.after = () => Effect.void
})

/** What looking at a store takes; no engine is asked to work. */
const looking = (root: string) =>
  Layer.mergeAll(
    Store.layer(root),
    Layer.mock(Engine, { numerics: { name: "none", numerics: 1, precision: "exact" } }),
    NodeServices.layer,
  )

const known = { languages: ["en"], trainSources: ["a"], evaluateSources: [] }

/** The same kind of step whatever it declares. */
const needing = (resources: Partial<Resources>) =>
  experiment("needing", function* () {
    const step = Step.make("step", {
      version: 1,
      params: { n: Schema.Int },
      inputs: {},
      output: (ref) => new Corpus(ref, known),
      label: ({ n }) => `step ${n}`,
      resources: () => resources,
      run: () => Effect.succeed(undefined),
    })
    for (const n of [1, 2, 3]) yield* step({ n })
  })

describe("what a step needs of the machine", () => {
  it("is no part of what it is: neither of its place in the plan nor of its artifact", async () => {
    const root = temporaryFolder()
    const plain = await run(root, needing({}))
    const greedy = await run(root, needing({ cpus: "all", memoryBytes: 5e6 }))
    assert.lengthOf(plain.made, 3)
    assert.deepStrictEqual(greedy.cached, plain.made)
    const ids = ({ nodes }: { readonly nodes: ReadonlyArray<{ readonly id: string }> }) => nodes.map(({ id }) => id)
    assert.deepStrictEqual(
      ids(Effect.runSync(plan(needing({ gpus: 1 })))),
      ids(Effect.runSync(plan(needing({ cpus: 2 })))),
    )
  })

  it("is asked about before anything begins, but not of what is done", async () => {
    const root = temporaryFolder()
    const small = { ...thisMachine(), memoryBytes: 1e9 }
    const asked = () =>
      Effect.gen(function* () {
        return yield* requireMachine((yield* plan(needing({ memoryBytes: 3e9 }))).nodes, small)
      }).pipe(Effect.provide(looking(root)), Effect.result, Effect.runPromise)
    const refused = await asked()
    assert.instanceOf(refused._tag === "Failure" && refused.failure, MachineTooSmall)
    const { error, made } = await run(root, needing({ memoryBytes: 3e9 }), { jobs: 2, machine: small })
    assert.match(error!.message, /^step [12]: step [12] needs 3 GB of memory, this machine has 1 GB\n {2}hint: /)
    assert.deepStrictEqual(made, [])
    await run(root, needing({}))
    assert.strictEqual((await asked())._tag, "Success")
  })

  it.each([
    [{ cpus: Number.NaN }, "declares NaN of `cpus`"],
    [{ memoryBytes: -1 }, "declares -1 of `memoryBytes`"],
  ])("is refused when it is no amount: %o", (resources, problem) => {
    const error = Effect.runSync(Effect.flip(plan(needing(resources))))
    assert.include(error.message, problem)
  })
})

/** Computed for each stable checkpoint there turns out to be. */
const scored = Step.make("scored", {
  version: 1,
  computes: true,
  params: {},
  inputs: { from: StableCheckpoint },
  output: (ref) => new Corpus(ref, known),
  run: () => Effect.succeed(undefined),
})

describe("an engine that cannot compute here", () => {
  it("is asked for by what a fan-out does for each of its items, and not when all of them are done", async () => {
    const root = temporaryFolder()
    const grown = function* (keepEvery: number) {
      const text = yield* source({ text: "a" })
      return yield* grow({ from: text, steps: 4, keepEvery, rate: 0.1 })
    }
    const fanned = experiment("fanned", function* () {
      const { stable } = yield* grown(2)
      yield* each(
        stable,
        function* (from) {
          return yield* scored({ from })
        },
        { atMost: 3 },
      )
    })
    const refusal = new Error("no Python")
    const asked = (): Promise<string> =>
      Effect.gen(function* () {
        return yield* requireEngine((yield* plan(fanned)).nodes, refusal)
      }).pipe(
        Effect.provide(looking(root)),
        Effect.match({ onFailure: (error) => (error as Error).message, onSuccess: () => "none" }),
        Effect.runPromise,
      )
    // the training is done, what follows it is not
    await run(
      root,
      experiment("grown", () => grown(2)),
    )
    assert.strictEqual(await asked(), "no Python")
    const { error } = await run(root, fanned)
    assert.isUndefined(error)
    assert.strictEqual(await asked(), "none")
  })
})

const blobs = (...sizes: ReadonlyArray<number>) =>
  experiment("blobs", function* () {
    for (const megabytes of sizes) yield* blob({ megabytes })
  })

const free = (bytes: number) => ({ freeBytes: () => RESERVE + bytes })

describe("room on the disk", () => {
  it("is asked for before a step begins: it fails with what is needed, what there is, where and what to do", async () => {
    const root = temporaryFolder()
    const ran = await run(root, blobs(2, 3), { machine: free(2.5 * MB) })
    assert.deepStrictEqual(ran.made, ["blob 2"])
    expect(ran.error!.message.replace(root, "<store>")).toMatchInlineSnapshot(`
      "blob 3: <store> has 69.6 MB free, about 70.1 MB are needed
        hint: free 500 kB: \`exp gc --dry-run\` says what could go; or choose another disk with \`--runs\`"
    `)
    assert.deepStrictEqual((await run(root, blobs(2, 3), { machine: free(3 * MB) })).made, ["blob 3"])
  })

  it("is kept for what steps that are running will still write", async () => {
    let running = 0
    around.before = () =>
      Effect.gen(function* () {
        running++
        yield* Effect.sleep("50 millis")
      })
    const ran = await run(temporaryFolder(), blobs(4, 5), { jobs: 2, machine: free(8 * MB) })
    assert.match(ran.error!.message, /^blob 5: /)
    assert.strictEqual(running, 1)
    assert.isUndefined((await run(temporaryFolder(), blobs(4, 5), { jobs: 2, machine: free(9 * MB) })).error)
  })

  it("is not asked for twice: what an interrupted attempt wrote is there already", async () => {
    const root = temporaryFolder()
    around.after = () => Effect.die(new Error("the power went out"))
    await run(root, blobs(5)).catch(() => {})
    around.after = () => Effect.void
    const again = await run(root, blobs(5), { machine: free(100) })
    assert.isUndefined(again.error)
    assert.deepStrictEqual(again.made, ["blob 5"])
  })

  it("is reckoned from what inputs weigh where the plan cannot know", async () => {
    const copied = experiment("copied", function* () {
      yield* copy({ of: yield* blob({ megabytes: 6 }) })
    })
    const ran = await run(temporaryFolder(), copied, { machine: free(6 * MB - 1) })
    assert.match(ran.error!.message, /^blob 6: /)
    const root = temporaryFolder()
    let left = 6 * MB
    around.after = () =>
      Effect.sync(() => {
        left = 6 * MB - 1
      })
    const second = await run(root, copied, { machine: { freeBytes: () => RESERVE + left } })
    assert.deepStrictEqual(second.made, ["blob 6"])
    assert.match(second.error!.message, /^copy: /)
  })

  const noMount = mayMount()
  it.skipIf(noMount !== undefined)(
    `is looked at on a disk that really is small${noMount === undefined ? "" : ` (${noMount})`}`,
    () => {
      const folder = temporaryFolder()
      const outcomes = execFileSync(
        "unshare",
        [
          "-Urm",
          "sh",
          "-c",
          'mount -t tmpfs -o size=100000000 none "$2" && exec "$0" "$1" "$2"',
          process.execPath,
          join(import.meta.dirname, "smallDisk.ts"),
          folder,
        ],
        { encoding: "utf8" },
      )
      const [tooMuch, enough, aLittle] = JSON.parse(outcomes) as ReadonlyArray<{
        readonly made: ReadonlyArray<string>
        readonly cached: ReadonlyArray<string>
        readonly error?: string
        readonly written: number
      }>
      assert.deepInclude(tooMuch, { made: ["blob 20"], written: 1 })
      assert.match(
        tooMuch!.error!,
        /^blob 17: <store> has (79\.\d|80) MB free, about 84\.1 MB are needed\n {2}hint: free /,
      )
      // 100 MB less 20 and the reserve leave 12.8
      assert.deepInclude(enough, { made: [], cached: ["blob 20"], written: 1 })
      assert.match(enough!.error!, /^blob 15: /)
      assert.deepInclude(aLittle, { made: ["blob 1", "blob 2"], written: 3 })
      assert.isUndefined(aLittle!.error)
      assert.deepStrictEqual(fs.readdirSync(folder), [])
    },
  )
})
