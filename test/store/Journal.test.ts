import * as fs from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "vitest"
import { append, read } from "../../src/store/Journal.ts"
import { temporaryFolder } from "../temporary.ts"

describe("a journal", () => {
  it("reads back what was appended, in order", () => {
    const path = join(temporaryFolder(), "journal.ndjson")
    assert.deepStrictEqual(read(path), [])
    for (const n of [1, 2, 3]) append(path, { n, text: "two\nlines" })
    assert.deepStrictEqual(
      read(path),
      [1, 2, 3].map((n) => ({ n, text: "two\nlines" })),
    )
  })

  it("drops a last line that a crash tore, wherever it was torn, and goes on after it", () => {
    const path = join(temporaryFolder(), "journal.ndjson")
    append(path, { n: 1 })
    append(path, { n: 2 })
    const whole = fs.readFileSync(path)
    const first = whole.indexOf("\n") + 1
    for (let length = first; length < whole.length; length++) {
      fs.writeFileSync(path, whole.subarray(0, length))
      assert.deepStrictEqual(read(path), [{ n: 1 }])
      append(path, { n: 3 })
      assert.deepStrictEqual(read(path), [{ n: 1 }, { n: 3 }], `torn at ${length}`)
    }
  })

  it("is not read when any byte of it was changed, whatever to", () => {
    const path = join(temporaryFolder(), "journal.ndjson")
    for (const event of [{ n: 1, text: "\u00fc" }, {}, { n: 2, crc32: "of its own" }]) append(path, event)
    const whole = fs.readFileSync(path)
    assert.lengthOf(read(path), 3)
    const missed: Array<string> = []
    for (let position = 0; position < whole.length; position++)
      for (let bit = 0; bit < 8; bit++) {
        const changed = Buffer.from(whole)
        changed[position]! ^= 1 << bit
        fs.writeFileSync(path, changed)
        try {
          read(path)
          missed.push(`bit ${bit} at ${position}`)
        } catch (cause) {
          assert.match(String(cause), /line \d does not have the bytes it was written with/)
        }
      }
    assert.deepStrictEqual(missed, [])
  })
})
