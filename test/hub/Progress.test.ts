import { join } from "node:path"
import { assert, describe, it } from "vitest"
import { counting } from "../../src/hub/Progress.ts"
import { temporaryFolder } from "../temporary.ts"
import { files, write } from "./release.ts"
import { publishing, run, startHub } from "./world.ts"

describe("the progress of a publication", () => {
  it("counts a large file while it is read back, up to its last byte and no further", async () => {
    const server = await startHub()
    const folder = write(join(temporaryFolder(), "release"), {
      ...files(),
      "tiny.gguf": Buffer.alloc(3_000_000, "numbers"),
    })
    const count = counting()
    const seen: Array<NonNullable<ReturnType<typeof count>>> = []
    const report: NonNullable<Parameters<typeof publishing>[1]>["report"] = (event) => {
      const standing = count(event)
      if (standing !== undefined) seen.push(standing)
    }
    await run(server, publishing(folder, { report }))
    const inside = new Set(
      seen.filter(({ doing, path }) => doing === "read back" && path === "tiny.gguf").map(({ bytes }) => bytes),
    )
    assert.isAbove(inside.size, 3)
    for (const doing of ["sent", "read back"] as const) {
      const told = seen.filter((one) => one.doing === doing)
      const last = told.at(-1)!
      assert.deepStrictEqual({ files: last.files, bytes: last.bytes }, { ...last.of })
      for (const [index, { bytes }] of told.entries())
        assert.isAtLeast(bytes, told[index - 1]?.bytes ?? 0, "it never goes back")
    }
  })
})
