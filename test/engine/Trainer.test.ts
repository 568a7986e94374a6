import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { Pool } from "../../src/engine/tfjs/Pool.ts"
import { Trainer } from "../../src/engine/tfjs/Trainer.ts"
import { laneCount, laneRows, trainMemoryBytes } from "../../src/engine/tfjs/TrainMemory.ts"
import { architecture, optimizer, ROWS, rowsOfStep, STEPS } from "./golden.ts"

const pool = (size: number) =>
  Effect.acquireRelease(
    Effect.sync(() => new Pool(size, { backend: "wasm" })),
    (pool) => Effect.promise(() => pool.close()),
  )

describe("lanes", () => {
  it("share the rows of a step out, each row once", () => {
    for (const rowsPerStep of [1, 2, 3, 8, 13, 64])
      for (const context of [8, 64, 256, 2048]) {
        const lanes = laneCount(rowsPerStep, context)
        const rows = Array.from({ length: lanes }, (_, lane) => laneRows(lane, lanes, rowsPerStep))
        assert.strictEqual(rows[0]![0], 0)
        assert.strictEqual(rows[lanes - 1]![1], rowsPerStep)
        rows.forEach(([first, last], lane) => {
          assert.isBelow(first, last)
          assert.strictEqual(first, lane === 0 ? 0 : rows[lane - 1]![1])
        })
      }
  })

  it("are a few for small steps and never more than eight", () => {
    assert.deepStrictEqual(
      [laneCount(4, 64), laneCount(8, 256), laneCount(1, 4096), laneCount(500, 512), laneCount(2, 8)],
      [2, 8, 1, 8, 1],
    )
  })
})

describe("a trainer", () => {
  it.live("needs no more tensors and no more memory after two hundred steps than after ten", () =>
    Effect.gen(function* () {
      const workers = yield* pool(2)
      yield* Effect.promise(async () => {
        const trainer = await Trainer.open(workers, architecture, ROWS, 64)
        await trainer.initialise(1)
        for (let step = 0; step < 10; step++) await trainer.step(rowsOfStep(step), step, 1e-3, optimizer)
        const before = await workers.all("usage", () => ({}))
        for (let step = 10; step < 200; step++) await trainer.step(rowsOfStep(step % STEPS), step, 1e-3, optimizer)
        assert.deepStrictEqual(await workers.all("usage", () => ({})), before)
        await trainer.close()
      })
    }),
  )

  it.live("keeps what was before the last step, and takes no step that is not finite", () =>
    Effect.gen(function* () {
      const workers = yield* pool(2)
      yield* Effect.promise(async () => {
        const trainer = await Trainer.open(workers, architecture, ROWS, 64)
        await trainer.initialise(1)
        await trainer.step(rowsOfStep(0), 0, 1e-3, optimizer)
        const old = trainer.current.weights.slice()
        await trainer.step(rowsOfStep(1), 1, 1e-3, optimizer)
        assert.deepStrictEqual(trainer.previous.weights.slice(), old)
        assert.notDeepEqual(trainer.current.weights.slice(), old)
        const good = trainer.current.weights.slice()
        await trainer.step(rowsOfStep(2), 2, Number.NaN, optimizer)
        const { loss } = await trainer.step(rowsOfStep(3), 3, 1e-3, optimizer)
        assert.isNaN(loss)
        assert.deepStrictEqual(trainer.previous.weights.slice(), good)
      })
    }),
  )

  it.live("fails for all workers when one fails, instead of waiting for ever", () =>
    Effect.gen(function* () {
      const workers = yield* pool(3)
      yield* Effect.promise(async () => {
        const trainer = await Trainer.open(workers, architecture, ROWS, 64)
        await workers.ask(1, "close", { session: trainer.session })
        const error = await trainer.step(rowsOfStep(0), 0, 1e-3, optimizer).catch((error: Error) => error)
        assert(error instanceof Error)
        assert.strictEqual(error.message, `training session ${trainer.session} is not open`)
        // the workers live on
        assert.strictEqual((await workers.all("usage", () => ({}))).length, 3)
      })
    }),
  )

  it.live("refuses a model that WebAssembly cannot address", () =>
    Effect.gen(function* () {
      const big = { ...architecture, layers: 48, width: 1600, heads: 25, vocabulary: 50_257, context: 1024 }
      assert.isAbove(trainMemoryBytes(big, 8), 2 ** 32)
      const workers = yield* pool(1)
      const error = yield* Effect.promise(() => Trainer.open(workers, big, 8, 1024).catch((error: Error) => error))
      assert(error instanceof Error)
      assert.match(error.message, /GB, WebAssembly addresses 4\.29 GB/)
    }),
  )
})
