import { join } from "node:path"
import { assert, describe, it } from "vitest"
import { counting } from "../../src/hub/Progress.ts"
import { temporaryFolder } from "../temporary.ts"
import { files, write } from "./release.ts"
import { publishing, run, startHub } from "./world.ts"

describe("the progress of a publication", () => {
  it.each([
    ["in one piece", {}],
    ["in parts", { multipartFrom: 2_000_000, partSize: 1_000_000 }],
  ])(
    "counts a large file while it is sent %s and read back, up to its last byte and no further",
    async (_, settings) => {
      const server = await startHub(settings)
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
      for (const doing of ["sent", "read back"] as const) {
        const inside = seen.filter((one) => one.doing === doing && one.path === "tiny.gguf").map(({ bytes }) => bytes)
        assert.isAbove(new Set(inside).size, 3, doing)
        const told = seen.filter((one) => one.doing === doing)
        const last = told.at(-1)!
        assert.deepStrictEqual({ files: last.files, bytes: last.bytes }, { ...last.of })
        for (const [index, { bytes }] of told.entries())
          assert.isAtLeast(bytes, told[index - 1]?.bytes ?? 0, "it never goes back")
      }
    },
  )

  it("begins again with a large file that has to be sent once more", async () => {
    const server = await startHub()
    const folder = write(join(temporaryFolder(), "release"), { ...files(), "tiny.gguf": Buffer.alloc(3_000_000, "x") })
    const begun = async (to: string): Promise<number> => {
      let times = 0
      const report: NonNullable<Parameters<typeof publishing>[1]>["report"] = (event) => {
        if (event._tag === "Part" && event.bytes === 0) times++
      }
      server.objects.clear()
      await run(server, publishing(folder, { report, to }))
      return times
    }
    assert.strictEqual(await begun("our-org/once"), 2)
    const nth = 1 + server.seen.findIndex(({ method, url }) => method === "PUT" && url.startsWith("/objects/"))
    server.fail(nth, "500")
    assert.strictEqual(await begun("our-org/again"), 3)
    assert.isTrue(server.disarm())
  })
})
