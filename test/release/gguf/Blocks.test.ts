import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import type { BlockName } from "../../../src/model/GgufType.ts"
import { blockTypes, bytesOf } from "../../../src/release/gguf/BlockTypes.ts"
import { halfBits, halfValue, toHalves } from "../../../src/release/gguf/Halves.ts"

interface Golden {
  readonly rows: number
  readonly columns: number
  readonly x: string
  readonly w: string
  readonly types: Readonly<
    Record<string, { readonly bytes: string; readonly numbers: string; readonly weighed_bytes: string }>
  >
}
const golden = JSON.parse(readFileSync(new URL("../../golden/gguf_blocks.json", import.meta.url), "utf8")) as Golden
const bytesIn = (text: string): Uint8Array => new Uint8Array(Buffer.from(text, "base64"))
const numbersIn = (text: string): Float32Array => new Float32Array(bytesIn(text).buffer)
const x = numbersIn(golden.x)
const w = numbersIn(golden.w)
const equally = new Float32Array(golden.columns).fill(1)

const decoded = (name: BlockName, bytes: Uint8Array): Float32Array => {
  const to = new Float32Array(x.length)
  blockTypes[name].decode(bytes, to)
  return to
}
const encoded = (name: BlockName, numbers: Float32Array, importance: Float32Array): Uint8Array => {
  const to = new Uint8Array(bytesOf(blockTypes[name], numbers.length))
  blockTypes[name].encode(numbers, golden.columns, importance, to)
  return to
}
const error = (numbers: Float32Array, importance: Float32Array): number =>
  x.reduce((sum, value, i) => sum + importance[i % golden.columns]! * (value - numbers[i]!) ** 2, 0)

const names = Object.keys(golden.types) as ReadonlyArray<BlockName>

describe("blocks", () => {
  it("of all ten kinds are in the golden file", () => {
    expect(names).toEqual(["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
  })

  it.each(names)("%s is read as ggml reads it, to the last bit", (name) => {
    const { bytes, numbers } = golden.types[name]!
    expect(decoded(name, bytesIn(bytes))).toEqual(numbersIn(numbers))
  })

  it.each(names)("%s is no further from the numbers than what ggml makes of them, weighed or not", (name) => {
    const { bytes, weighed_bytes } = golden.types[name]!
    for (const [importance, theirs] of [
      [equally, bytes],
      [w, weighed_bytes],
    ] as const) {
      const ours = error(decoded(name, encoded(name, x, importance)), importance)
      expect(ours).toBeLessThanOrEqual(1.000001 * error(decoded(name, bytesIn(theirs)), importance))
    }
  })

  it.each(names.filter((name) => name !== "Q8_0"))("%s spends its error where the weights are small", (name) => {
    const weighed = error(decoded(name, encoded(name, x, w)), w)
    expect(weighed).toBeLessThan(error(decoded(name, encoded(name, x, equally)), w))
  })

  it("Q8_0 writes ggml's own bytes", () => {
    expect(Buffer.from(encoded("Q8_0", x, equally)).equals(bytesIn(golden.types["Q8_0"]!.bytes))).toBe(true)
  })

  it.each(names)("%s keeps zeros, and what it wrote before, exactly", (name) => {
    expect(decoded(name, encoded(name, new Float32Array(x.length), equally)).every((value) => value === 0)).toBe(true)
    const once = decoded(name, encoded(name, x, equally))
    const twice = decoded(name, encoded(name, once, equally))
    const moved = Math.sqrt(once.reduce((sum, value, i) => sum + (value - twice[i]!) ** 2, 0) / x.length)
    expect(moved).toBeLessThan(0.25 * Math.sqrt(error(once, equally) / x.length))
  })
})

describe("halves", () => {
  it("of every bit pattern come back as they were", () => {
    for (let half = 0; half < 65536; half++) {
      const value = halfValue(half)
      if (!Number.isNaN(value)) expect(halfBits(value)).toBe(half)
    }
  })

  it("are rounded to the nearest, ties to even, the same with and without the runtime's own", () => {
    expect([1 + 2 ** -11, 1 + 3 * 2 ** -11, 65519, 65520, 2 ** -25, 1.5 * 2 ** -24, -(2 ** -24)].map(halfBits)).toEqual(
      [0x3c00, 0x3c02, 0x7bff, 0x7c00, 0, 2, 0x8001],
    )
    const numbers = Float32Array.from({ length: 4096 }, (_, i) => (i - 2048) ** 3 * 1e-9)
    const to = new Uint8Array(2 * numbers.length)
    toHalves(numbers, to)
    expect([...new Uint16Array(to.buffer)]).toEqual([...numbers].map(halfBits))
  })

  it("of 16 bits with a long exponent keep the upper half of a single", () => {
    const numbers = Float32Array.of(1, -2.5, 1 + 2 ** -8, 1 + 3 * 2 ** -8, 3e38, Number.NaN, Number.POSITIVE_INFINITY)
    const bytes = new Uint8Array(2 * numbers.length)
    blockTypes.BF16.encode(numbers, numbers.length, equally, bytes)
    const back = new Float32Array(numbers.length)
    blockTypes.BF16.decode(bytes, back)
    expect([...back.slice(0, 4)]).toEqual([1, -2.5, 1, 1 + 2 ** -6])
    expect(back[4]! / 3e38).toBeCloseTo(1, 2)
    expect(back[5]).toBeNaN()
    expect(back[6]).toBe(Number.POSITIVE_INFINITY)
  })
})
