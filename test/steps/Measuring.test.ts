import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { readState } from "../../src/steps/Measuring.ts"
import { temporaryFolder } from "../temporary.ts"

describe("what a checkpoint says of itself", () => {
  it.effect("is an error with a hint where it is gone, cut off, or says something else", () =>
    Effect.gen(function* () {
      const folder = temporaryFolder()
      const refused = Effect.map(Effect.flip(readState(folder)), ({ _tag, message }) => {
        assert.strictEqual(_tag, "CheckpointUnreadable")
        assert.match(message, /^checkpoint .*: state\.json: [^\n]+\n {2}hint: run `exp run` again/)
        return message
      })
      assert.match(yield* refused, /ENOENT/)
      for (const [text, problem] of [
        ['{"step": 4', /JSON/],
        ['{"step": "four"}', /step|Missing|Expected/],
      ] as const) {
        writeFileSync(join(folder, "state.json"), text)
        assert.match(yield* refused, problem)
      }
    }),
  )
})
