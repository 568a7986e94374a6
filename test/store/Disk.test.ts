import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { DiskFull, freeBytes, requireDisk } from "../../src/store/Disk.ts"
import { temporaryFolder } from "../temporary.ts"

describe("the disk", () => {
  it.effect("has room for a little, also where the folder is yet to be made", () =>
    Effect.gen(function* () {
      const folder = temporaryFolder()
      yield* requireDisk(join(folder, "not/yet/there"), 1000)
      assert.isAbove(freeBytes(folder)!, 0)
    }),
  )

  it.effect("has no room for an exabyte, and says what there is", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(requireDisk(temporaryFolder(), 1e18))
      assert.instanceOf(error, DiskFull)
      assert.match(error.message, /has [\d.]+ [MGT]B free, about 1000 PB are needed\n {2}hint: free /)
    }),
  )
})
