import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { permutation, philox, stream } from "../../src/model/Random.ts"

const hex = (words: ReadonlyArray<number>) => words.map((word) => word.toString(16).padStart(8, "0")).join(" ")

describe("Philox 4x32-10", () => {
  it("gives the known answers of Random123", () => {
    assert.strictEqual(hex(philox([0, 0, 0, 0], [0, 0])), "6627e8d5 e169c58d bc57ac4c 9b00dbd8")
    const ones = 0xffffffff
    assert.strictEqual(hex(philox([ones, ones, ones, ones], [ones, ones])), "408f276d 41c83b0e a20bc7c6 6d5451fd")
    assert.strictEqual(
      hex(philox([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0])),
      "d16cfe09 94fdcceb 5001e420 24126ea1",
    )
  })
})

const Seed = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1e9 }))
const Size = Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 300 }))

describe("random streams", () => {
  it("depend on seed, name and position, and on nothing else", () => {
    const random = stream(1, "order")
    const late = random.uniform(1000)
    assert.strictEqual(stream(1, "order").uniform(1000), late)
    assert.notStrictEqual(stream(2, "order").uniform(1000), late)
    assert.notStrictEqual(stream(1, "weights").uniform(1000), late)
    assert.notStrictEqual(random.word(1), random.word(1 + 2 ** 32))
  })

  it("are uniform and normal", () => {
    const random = stream(3, "moments")
    const n = 20_000
    let [uniform, normal, square] = [0, 0, 0]
    for (let i = 0; i < n; i++) {
      const u = random.uniform(i)
      assert.isTrue(u >= 0 && u < 1)
      uniform += u / n
      const z = random.normal(i)
      normal += z / n
      square += z ** 2 / n
    }
    assert.closeTo(uniform, 0.5, 0.01)
    assert.closeTo(normal, 0, 0.03)
    assert.closeTo(square, 1, 0.04)
  })

  it.prop("a permutation holds every index once and is the same again", [Seed, Size], ([seed, size]) => {
    const order = permutation(seed, "p", size)
    assert.deepStrictEqual(
      [...order].sort((a, b) => a - b),
      [...Array(size).keys()],
    )
    assert.deepStrictEqual(permutation(seed, "p", size), order)
  })
})
