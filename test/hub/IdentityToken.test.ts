import { createHash } from "node:crypto"
import { createServer, type IncomingMessage } from "node:http"
import type { AddressInfo } from "node:net"
import { Effect, Redacted } from "effect"
import { afterEach, assert, beforeEach, describe, expect, it, onTestFinished } from "vitest"
import { identityToken } from "../../src/hub/IdentityToken.ts"
import { tokenOf } from "./sigstore.ts"

const VARIABLES = ["SIGSTORE_ID_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN"] as const
const before = VARIABLES.map((name) => [name, process.env[name]] as const)
beforeEach(() => {
  for (const name of VARIABLES) delete process.env[name]
})
afterEach(() => {
  for (const [name, value] of before)
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
})

type Answer = (request: IncomingMessage, fields: URLSearchParams) => readonly [status: number, body: unknown]

const serve = async (answers: Readonly<Record<string, Answer>>): Promise<string> => {
  const server = createServer(async (request, response) => {
    const chunks: Array<Buffer> = []
    for await (const chunk of request) chunks.push(chunk as Buffer)
    const fields = new URLSearchParams(Buffer.concat(chunks).toString("utf8"))
    const [status, body] = answers[request.url!.split("?")[0]!]?.(request, fields) ?? [404, {}]
    response.writeHead(status, { "content-type": "application/json" })
    response.end(typeof body === "string" ? body : JSON.stringify(body))
  })
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening))
  onTestFinished(() => void server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const asked = (issuer: string, terminal: boolean, said: Array<string> = []) =>
  identityToken({ issuer: Effect.succeed(issuer), terminal, say: (text) => void said.push(text) })

const refusal = (issuer: string, terminal: boolean): Promise<string> =>
  Effect.runPromise(
    Effect.match(asked(issuer, terminal), {
      onFailure: ({ message }) => message,
      onSuccess: () => "nothing was refused",
    }),
  )

const NOWHERE = "http://127.0.0.1:9"

describe("the token that says who signs", () => {
  it("is missed with all the ways to get one, where nobody can be asked", async () => {
    expect(await refusal(NOWHERE, false)).toMatchInlineSnapshot(`
      "signing keyless: nobody says who signs: there is no identity token
        hint: set SIGSTORE_ID_TOKEN to a token for the audience \`sigstore\` (GitLab: \`id_tokens\`), give the job \`id-token: write\` (GitHub Actions), or sign at a terminal"
    `)
  })

  it("is that of the environment, and its text is in nothing that is printed of it", async () => {
    const text = tokenOf({ email: "ada@example.org", email_verified: true })
    process.env["SIGSTORE_ID_TOKEN"] = `${text}\n`
    const found = await Effect.runPromise(asked(NOWHERE, false))
    assert.strictEqual(found.subject, "ada@example.org")
    assert.strictEqual(Redacted.value(found.token), text)
    assert.notInclude(JSON.stringify(found) + String(found.token), text)
  })

  it("is refused before it is sent anywhere when it is none, has run out, or names nobody; its text is in no message", async () => {
    const said: Array<string> = []
    for (const text of [
      "secret-that-is-no-token",
      tokenOf({ exp: 1_700_000_000 }),
      tokenOf({ email: "ada@example.org", email_verified: false }),
      tokenOf({ sub: undefined }),
    ]) {
      process.env["SIGSTORE_ID_TOKEN"] = text
      said.push((await refusal(NOWHERE, true)).split("\n")[0]!)
      assert.notInclude(said.at(-1), text)
    }
    expect(said.join("\n")).toMatchInlineSnapshot(`
      "signing keyless: the token of SIGSTORE_ID_TOKEN is no JSON web token
      signing keyless: the token of SIGSTORE_ID_TOKEN has run out
      signing keyless: the token of SIGSTORE_ID_TOKEN names an e-mail address nobody verified
      signing keyless: the token of SIGSTORE_ID_TOKEN names nobody"
    `)
  })

  it("is asked of the runner of GitHub Actions, for Sigstore, with the job's own key", async () => {
    const text = tokenOf({ sub: "repo:ada/tiny:ref:refs/heads/main" })
    const requests: Array<IncomingMessage> = []
    const url = await serve({
      "/token": (request) => {
        requests.push(request)
        return [200, { value: text }]
      },
    })
    process.env["ACTIONS_ID_TOKEN_REQUEST_URL"] = `${url}/token?api-version=2.0`
    process.env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = "the-key-of-the-job"
    const found = await Effect.runPromise(asked(NOWHERE, false))
    assert.strictEqual(Redacted.value(found.token), text)
    assert.deepStrictEqual(
      requests.map((request) => [request.url, request.headers.authorization]),
      [["/token?api-version=2.0&audience=sigstore", "Bearer the-key-of-the-job"]],
    )
  })

  it("of a runner that answers something else shows neither the answer nor the job's key", async () => {
    const url = await serve({
      "/token": () => [500, { oops: "the-key-of-the-job", value: 7 }],
      "/text": () => [200, "the-key-of-the-job"],
    })
    process.env["ACTIONS_ID_TOKEN_REQUEST_TOKEN"] = "the-key-of-the-job"
    const said: Array<string> = []
    for (const address of [`${url}/token`, `${url}/text`, `http://runner.example/?key=the-key-of-the-job`]) {
      process.env["ACTIONS_ID_TOKEN_REQUEST_URL"] = address
      said.push((await refusal(NOWHERE, true)).replaceAll(url, "<runner>"))
    }
    assert.notInclude(said.join(), "the-key-of-the-job")
    expect(said.map((text) => text.split("\n")[0]).join("\n")).toMatchInlineSnapshot(`
      "signing keyless: the runner of GitHub Actions answers with something else than was asked for
      signing keyless: <runner>/text: its answer is no JSON
      signing keyless: http://runner.example/: the token would go over the net unencrypted"
    `)
  })
})

/** An issuer that answers the questions for a token one after another. */
const issuer = async (answers: ReadonlyArray<readonly [number, unknown]>, more: object = {}) => {
  const polls: Array<URLSearchParams> = []
  let begun: URLSearchParams | undefined
  const url: string = await serve({
    "/.well-known/openid-configuration": () => [
      200,
      { issuer: url, device_authorization_endpoint: `${url}/device/code`, token_endpoint: `${url}/token`, ...more },
    ],
    "/device/code": (_, fields) => {
      begun = fields
      return [
        200,
        {
          device_code: "the-device-code",
          user_code: "WXYZ-BCDF",
          verification_uri: `${url}/device`,
          verification_uri_complete: `${url}/device?user_code=WXYZ-BCDF`,
          expires_in: 300,
          interval: 0.02,
        },
      ]
    },
    "/token": (_, fields) => {
      polls.push(fields)
      return answers[Math.min(polls.length, answers.length) - 1]!
    },
  })
  return { url, polls, begun: () => begun! }
}

const pending = [400, { error: "authorization_pending" }] as const

describe("at a terminal", () => {
  it("a person opens an address in a browser, and only who began can take the token", async () => {
    const text = tokenOf({ email: "ada@example.org", email_verified: true })
    const { url, polls, begun } = await issuer([pending, pending, [200, { id_token: text, access_token: "x" }]])
    const said: Array<string> = []
    const found = await Effect.runPromise(asked(url, true, said))
    assert.strictEqual(Redacted.value(found.token), text)
    assert.deepStrictEqual(said, [`open   ${url}/device?user_code=WXYZ-BCDF`, "code   WXYZ-BCDF"])
    assert.strictEqual(polls.length, 3)
    const [poll] = polls
    assert.strictEqual(begun().get("client_id"), "sigstore")
    assert.strictEqual(begun().get("scope"), "openid email")
    assert.strictEqual(begun().get("code_challenge_method"), "S256")
    assert.strictEqual(poll!.get("grant_type"), "urn:ietf:params:oauth:grant-type:device_code")
    assert.strictEqual(poll!.get("device_code"), "the-device-code")
    const verifier = poll!.get("code_verifier")!
    assert.isAtLeast(verifier.length, 43)
    assert.strictEqual(createHash("sha256").update(verifier).digest("base64url"), begun().get("code_challenge"))
  })

  it("who says no, says nothing in time, or asks another issuer, gets a sentence for it and no secret", async () => {
    const said: Array<string> = []
    for (const [answers, more] of [
      [[pending, [400, { error: "access_denied" }]], {}],
      [[[401, { error: "expired_token" }]], {}],
      [[[400, { error: "invalid_client" }]], {}],
      [[[400, { error: "the-device-code\u001b[31m" }]], {}],
      [[[200, { id_token: "the-device-code" }]], {}],
      [[pending], { issuer: "https://elsewhere.example" }],
      [[pending], { token_endpoint: "http://elsewhere.example/token" }],
      [[pending], { device_authorization_endpoint: "http://elsewhere.example/token" }],
    ] as ReadonlyArray<readonly [ReadonlyArray<readonly [number, unknown]>, object]>) {
      const { url, polls } = await issuer(answers, more)
      const message = await refusal(url, true)
      said.push(message.replaceAll(url, "<issuer>").split("\n")[0]!)
      if ("token_endpoint" in more) assert.isEmpty(polls)
    }
    assert.notInclude(said.join(), "the-device-code")
    expect(said.join("\n")).toMatchInlineSnapshot(`
      "signing keyless: <issuer>: the answer in the browser was no
      signing keyless: <issuer>: nobody said yes in time
      signing keyless: <issuer>: it refuses: invalid_client
      signing keyless: <issuer>: it refuses
      signing keyless: the token of <issuer> is no JSON web token
      signing keyless: <issuer>: it says that it is https://elsewhere.example
      signing keyless: <issuer>: http://elsewhere.example/token: the token would go over the net unencrypted
      signing keyless: <issuer>: http://elsewhere.example/token: the token would go over the net unencrypted"
    `)
  })
})
