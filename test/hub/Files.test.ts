import { execFile, execFileSync } from "node:child_process"
import { createHash, randomBytes } from "node:crypto"
import { mkdirSync, readFileSync, statSync } from "node:fs"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { join } from "node:path"
import { promisify } from "node:util"
import { describe, expect, it, onTestFinished } from "vitest"
import { temporaryFolder } from "../temporary.ts"

const child = new URL("bring.ts", import.meta.url).pathname

/** A hub that has one large file, whatever is asked for. */
const hubOf = async (bytes: Buffer) => {
  let requests = 0
  const server = createServer((request, response) => {
    requests++
    const from = Number(/bytes=(\d+)-/.exec(request.headers.range ?? "")?.[1] ?? 0)
    if (from > 0) response.writeHead(206, { "Content-Range": `bytes ${from}-${bytes.length - 1}/${bytes.length}` })
    response.end(bytes.subarray(from))
  })
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
  onTestFinished(() => void server.close())
  const entry = {
    ...{ type: "file", path: "big", size: 130, oid: "pointer" },
    lfs: { oid: createHash("sha256").update(bytes).digest("hex"), size: bytes.length },
  }
  return { entry, endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests: () => requests }
}

/** Files may grow to so many blocks of 512 bytes; what is more is refused by the system, as a full disk refuses it. */
const bring = async (hub: Awaited<ReturnType<typeof hubOf>>, to: string, blocks: number | "unlimited") => {
  const { stdout } = await promisify(execFile)("bash", [
    ...["-c", `trap '' XFSZ; ulimit -f ${blocks}; exec "$@"`, "bash"],
    ...[process.execPath, child, JSON.stringify(hub.entry), hub.endpoint, to],
  ])
  return JSON.parse(stdout) as { readonly sha256?: string; readonly tag?: string; readonly message?: string }
}

describe("a file of the hub, on a disk that has no room for it", () => {
  for (const [where, bytes] of [
    ["in its middle", 300_000],
    ["at its last bytes", 66_000],
  ] as const)
    it(`is not taken for whole when writing fails ${where}: this machine is named, and the same command goes on`, async () => {
      const hub = await hubOf(randomBytes(bytes))
      const to = join(temporaryFolder(), "big")
      const refused = await bring(hub, to, 64)
      expect(refused.tag).toBe("DownloadUnwritable")
      expect(refused.message).toMatch(/big cannot be written: EFBIG.*\n {2}hint: see that its disk has room/)
      // nobody asked the hub again for what this disk refused
      expect(hub.requests()).toBe(1)
      expect(await bring(hub, to, "unlimited")).toEqual({ sha256: hub.entry.lfs.oid })
      expect(statSync(to).size).toBe(bytes)
      expect(createHash("sha256").update(readFileSync(to)).digest("hex")).toBe(hub.entry.lfs.oid)
    })

  it("is refused by the name of its folder when nothing may be made there", async () => {
    const hub = await hubOf(randomBytes(10))
    const folder = temporaryFolder()
    mkdirSync(join(folder, "to"))
    execFileSync("ln", ["-s", "/proc/none", join(folder, "to", "in")])
    const refused = await bring(hub, join(folder, "to", "in", "big"), "unlimited")
    expect(refused.tag).toBe("DownloadUnwritable")
    expect(hub.requests()).toBe(0)
  })
})
