import { readFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { rowOrder, writeOrder } from "../../src/data/RowOrder.ts"
import type { SourceRows } from "../../src/model/Corpus.ts"
import { temporary } from "../temporary.ts"

const index = (...sources: ReadonlyArray<readonly [rows: number, weight: number]>) => {
  let firstRow = 0
  return {
    sources: sources.map(([rows, weight], number): SourceRows => {
      const source: SourceRows = {
        source: `s${number}`,
        language: "en",
        role: "train",
        startToken: 0,
        rawTokens: 0,
        packedTokens: 0,
        droppedTokens: 0,
        firstRow,
        rows,
        weight,
      }
      firstRow += rows
      return source
    }),
  }
}
const take = (rows: Iterable<number>, count: number): ReadonlyArray<number> => {
  const taken: Array<number> = []
  for (const row of rows) {
    if (taken.length === count) break
    taken.push(row)
  }
  return taken
}

describe("rowOrder", () => {
  it("goes on where a shorter order ended", () => {
    const three = index([10, 0.5], [7, 0.3], [50, 0.2])
    assert.deepStrictEqual(take(rowOrder(three, 1), 1000).slice(0, 137), take(rowOrder(three, 1), 137))
  })

  it.effect.prop(
    "keeps every source within a row of its share, at every moment",
    [Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 20 })))],
    ([weights]) =>
      Effect.sync(() => {
        if (weights.length === 0) return
        const sum = weights.reduce((all, weight) => all + weight, 0)
        const given = index(...weights.slice(0, 8).map((weight) => [5, weight / sum] as const))
        const share = given.sources.map(({ weight }) => weight)
        const drawn = share.map(() => 0)
        const total = share.reduce((all, weight) => all + weight, 0)
        for (const [draw, row] of take(rowOrder(given, 3), 200).entries()) {
          drawn[Math.floor(row / 5)]!++
          if (Math.abs(total - 1) < 1e-9)
            for (const [number, weight] of share.entries())
              assert.isAtMost(Math.abs(weight * (draw + 1) - drawn[number]!), share.length > 2 ? 2 : 1)
        }
      }),
  )

  it("reads a source whole before it reads any of it again, in another order", () => {
    const rows = take(rowOrder(index([100, 1]), 5), 300)
    const epochs = [rows.slice(0, 100), rows.slice(100, 200), rows.slice(200)]
    for (const epoch of epochs) assert.strictEqual(new Set(epoch).size, 100)
    assert.notDeepEqual(epochs[0], epochs[1])
  })

  it("depends on the seed, and leaves sources without weight or rows alone", () => {
    const given = index([40, 0.5], [40, 0], [0, 0], [40, 0.5])
    assert.notDeepEqual(take(rowOrder(given, 1), 40), take(rowOrder(given, 2), 40))
    assert.isTrue(take(rowOrder(given, 1), 400).every((row) => row < 40 || row >= 80))
    assert.deepStrictEqual(take(rowOrder(index([3, 0]), 1), 5), [])
  })

  it("draws these rows for this seed, for ever", () => {
    assert.deepStrictEqual(
      take(rowOrder(index([5, 0.5], [3, 0.25], [4, 0.25]), 1337), 12),
      [2, 7, 10, 3, 4, 5, 11, 0, 1, 6, 9, 4],
    )
  })

  it.effect("is written as 32-bit numbers, little endian", () =>
    Effect.gen(function* () {
      const folder = yield* temporary
      const given = index([1000, 0.7], [90_000, 0.3])
      yield* writeOrder(given, 9, 70_000, join(folder, "order-9.bin"))
      const bytes = readFileSync(join(folder, "order-9.bin"))
      assert.strictEqual(bytes.length, 280_000)
      const rows = take(rowOrder(given, 9), 70_000)
      for (const at of [0, 1, 65_535, 65_536, 69_999]) assert.strictEqual(bytes.readUInt32LE(at * 4), rows[at])
      const empty = yield* Effect.flip(writeOrder(index([3, 0]), 1, 5, join(folder, "x.bin")))
      assert.match(empty.message, /no training source has both weight and rows/)
    }),
  )
})
