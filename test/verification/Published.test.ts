import { readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { exp } from "../endToEnd/experiment.ts"
import { HubServer } from "../hub/HubServer.ts"
import { makeKey, place, realRelease } from "./world.ts"

const { path, remove } = place()
const TOKEN = "hf_canaryCanaryCanary0123456789abcdef"
let hub: HubServer
beforeAll(async () => {
  await realRelease(path)
  hub = await HubServer.start({
    accounts: { [TOKEN]: { name: "ada", orgs: [{ name: "our-org", roleInOrg: "write" }], role: "write" } },
  })
}, 300_000)
afterAll(async () => {
  await hub.stop()
  remove()
})

describe("a published release", () => {
  it("verifies for somebody who has only its name and the public key, and for nobody else's key", async () => {
    const key = await makeKey(path, "publisher")
    const { stdout: listed } = await exp(path, ["ls", "--runs", "runs", "--json"])
    const run = /\d{12}_smallest/.exec(listed)![0]
    const env = { HF_TOKEN: TOKEN, EXP_SIGNING_KEY: key.path, XDG_CONFIG_HOME: join(path, "config"), HF_HOME: path }
    const published = await exp(
      path,
      ["publish", run, "--runs", "runs", "--to", "our-org/smallest", "--endpoint", hub.endpoint],
      env,
    )
    expect(published.stderr).toBe("")
    expect(published.code).toBe(0)

    const stranger = { HF_TOKEN: "", HF_HOME: join(path, "none"), XDG_CONFIG_HOME: join(path, "none") }
    const verify = (...more: ReadonlyArray<string>) =>
      exp(
        path,
        ["verify", "our-org/smallest", "--endpoint", hub.endpoint, "--runs", "none", "--json", ...more],
        stranger,
      )
    const { code, stdout, stderr } = await verify("--key", key.publicPath)
    expect(stderr).toBe("")
    expect(code).toBe(0)
    const report = JSON.parse(stdout)
    expect(report).toMatchObject({
      name: "smallest",
      origin: { repository: "our-org/smallest", commit: expect.stringMatching(/^[0-9a-f]{40}$/) },
      wrong: 0,
    })
    expect(report.findings.filter(({ check }: { check: string }) => check === "signature")).toEqual([
      {
        check: "signature",
        what: key.keyid.slice(0, 16),
        state: "ok",
        detail: expect.stringMatching(/^signed by [0-9a-f]{64}, a key you know: .*SLSA Build L1/),
      },
    ])
    const other = await makeKey(path, "other")
    expect((await verify("--key", other.publicPath)).code).toBe(1)
    // the token of whoever published is in none of this
    expect(stdout + published.stdout + readFileSync(key.publicPath, "utf8")).not.toContain(TOKEN)
  }, 300_000)
})
