import { describe, expect, it } from "vitest"
import { bytes, operations } from "../../src/cli/Table.ts"

describe("an amount in a table", () => {
  it("has three figures, and goes to the next unit where these would make a thousand", () => {
    expect([999, 1000, 999_499, 999_500, 1.07e9, 2.5e15].map(bytes)).toEqual(
      "999 B, 1.00 kB, 999 kB, 1.00 MB, 1.07 GB, 2.50 PB".split(", "),
    )
    expect([0, 999.6e9, 4.587e12, 1e30].map(operations)).toEqual([
      "0 FLOP",
      "1.00 TFLOP",
      "4.59 TFLOP",
      "1.00e+6 YFLOP",
    ])
  })
})
