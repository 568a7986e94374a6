/** What a plan that ends on the hub asks for before it begins. */
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { join } from "node:path"
import { assert, describe, it, onTestFinished } from "vitest"
import { finished, type Outcome, smallest, start } from "../endToEnd/experiment.ts"
import { temporaryFolder } from "../temporary.ts"
import type { HubServer } from "./HubServer.ts"
import { tokenOf } from "./sigstore.ts"
import { CANARY, owner, startHub } from "./world.ts"

/** The smallest experiment, to a repository of this name. */
const publishing = (to: string, more = ""): string =>
  smallest()
    .replace("pack, release", "pack, publish, release")
    .replace("return yield* release(", "const bundle = yield* release(")
    .replace(/\n\}\)\s*$/, `\n  return yield* publish({ release: bundle, to: ${JSON.stringify(to)}${more} })\n})\n`)

const folderFor = (experiment: string): string => {
  const folder = temporaryFolder()
  mkdirSync(join(folder, "home"))
  writeFileSync(join(folder, "published.ts"), experiment)
  return folder
}

const environment = (folder: string, endpoint: string, token: string): NodeJS.ProcessEnv => ({
  HF_TOKEN: token,
  HF_ENDPOINT: endpoint,
  HF_HOME: join(folder, "home"),
  HOME: join(folder, "home"),
  XDG_CONFIG_HOME: join(folder, "home/config"),
  EXP_SIGNING_KEY: "",
  NO_COLOR: "1",
})

const refused = async (server: HubServer, experiment: string, { token = CANARY, env = {} } = {}): Promise<Outcome> => {
  const folder = folderFor(experiment)
  const args = ["run", "published.ts", "--runs", "runs"]
  const outcome = await finished(start(folder, args, { ...environment(folder, server.endpoint, token), ...env }))
  assert.strictEqual(outcome.code, 1)
  const made = existsSync(join(folder, "runs/store")) ? readdirSync(join(folder, "runs/store")) : []
  assert.isEmpty(
    made.filter((name) => /^(corpus|tokenizer)-/.test(name)),
    "nothing was begun",
  )
  assert.isEmpty(server.mains)
  return outcome
}

describe("a run that ends on the hub", () => {
  it("is refused before it begins without a token, and with one that may not write there", async () => {
    const reader = "hf_readerReaderReaderReader0123456789"
    const server = await startHub({ accounts: { [CANARY]: owner, [reader]: { ...owner, role: "read" } } })
    const said = async (experiment: string, more = {}) => (await refused(server, experiment, more)).stderr
    assert.match(
      await said(publishing("our-org/tiny"), { token: "" }),
      /^error: .*there is no token for the hub \(looked in HF_TOKEN, .*\)\n {2}hint: make a token that may write/m,
    )
    assert.match(
      await said(publishing("our-org/tiny"), { token: reader }),
      /our-org\/tiny: the token may only read\n {2}hint: /,
    )
    assert.match(await said(publishing("their-org/tiny")), /the token is ada's, who is no member of `their-org`/)
    assert.match(
      await said(publishing("our-org/tiny"), { token: "hf_revokedRevokedRevokedRevoked01234" }),
      /the hub does not take the token \(401\)/,
    )
    assert.match(
      await said(publishing("our-org/tiny", ', collection: "our-org/none-0123456789abcdef01234567"')),
      /there is no collection `our-org\/none-/,
    )
    assert.match(
      await said(publishing("our-org/tiny"), { env: { EXP_SIGNING_KEY: "/nowhere/key.pem" } }),
      /\/nowhere\/key\.pem: there is no such file/,
    )
    server.seed("our-org/open", { "README.md": "hello\n" })
    server.mains.length = 0
    assert.match(
      await said(publishing("our-org/open", ", private: true")),
      /it is public, and the release is to be private/,
    )
  }, 120_000)

  it("and is to go signed keyless, is refused without an identity token, and without Sigstore's library", async () => {
    const server = await startHub()
    const said = async (more = {}) =>
      (await refused(server, publishing("our-org/tiny", ", keyless: true"), more)).stderr
    const env = { EXP_SIGSTORE: temporaryFolder(), SIGSTORE_ID_TOKEN: "", ACTIONS_ID_TOKEN_REQUEST_URL: "" }
    assert.match(await said({ env }), /nobody says who signs: there is no identity token\n {2}hint: /)
    const token = tokenOf()
    const alone = await said({ env: { ...env, SIGSTORE_ID_TOKEN: token } })
    assert.match(alone, /`@sigstore\/\S+` is not installed in .*\n {2}hint: `npm install /)
    assert.notInclude(alone, token)
  }, 120_000)

  it("begins all the same while the hub does not answer, and says so; a secret is in none of its words", async () => {
    const server = createServer((request) => void request.socket.destroy())
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", () => resolve()))
    onTestFinished(() => void server.close())
    const folder = folderFor(publishing("our-org/tiny"))
    const endpoint = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const args = ["run", "published.ts", "--runs", "runs", "--until", "publish"]
    const child = start(folder, args, environment(folder, endpoint, CANARY))
    let out = ""
    child.stdout!.on("data", (chunk) => {
      out += chunk
      // it has begun: the rest is other tests'
      if (/done|made|running/.test(out)) child.kill("SIGINT")
    })
    const { stdout, stderr } = await finished(child)
    assert.include(
      stdout,
      `publish our-org/tiny: ${endpoint} does not answer now: whether it may be published to is looked at when it is`,
    )
    assert.notInclude(stdout + stderr, CANARY)
  }, 120_000)
})
