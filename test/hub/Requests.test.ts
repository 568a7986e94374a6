import { createServer, type IncomingMessage, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { Effect, Redacted } from "effect"
import { assert, describe, expect, it, onTestFinished } from "vitest"
import { endpointOf } from "../../src/hub/Endpoint.ts"
import { redact } from "../../src/hub/Redact.ts"
import { makeFetch, type Patience, patience, serverWait } from "../../src/hub/Requests.ts"
import { CANARY } from "./world.ts"

type Handler = (request: IncomingMessage, response: ServerResponse, nth: number) => void

const serve = async (handle: Handler): Promise<string> => {
  let count = 0
  const server = createServer((request, response) => {
    request.resume()
    request.once("end", () => handle(request, response, ++count))
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  onTestFinished(() => void server.close())
  onTestFinished(() => server.closeAllConnections())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

const fetching = (endpoint: string, changes: Partial<Patience> = {}) => {
  const waits: Array<number> = []
  const request = makeFetch({
    endpoint,
    token: Redacted.make(CANARY),
    patience: { ...patience, ...changes },
    watch: {},
    sleep: async (seconds) => void waits.push(seconds),
  })
  return { request, waits }
}

const answer = (response: ServerResponse, status: number, headers: Record<string, string> = {}, body = "{}"): void => {
  response.writeHead(status, { "Content-Type": "application/json", ...headers })
  response.end(body)
}

describe("a request to the hub", () => {
  it("waits as long as the server asks for, and else a random part of twice as long each time", async () => {
    const asked = await serve((_, response, nth) => answer(response, nth < 3 ? 429 : 200, { "Retry-After": "7" }))
    const polite = fetching(asked)
    await polite.request(`${asked}/api/x`)
    for (const wait of polite.waits) assert.isTrue(wait >= 7 && wait <= 8)
    assert.lengthOf(polite.waits, 2)

    const busy = await serve((_, response, nth) => answer(response, nth < 6 ? 503 : 200))
    const first = fetching(busy)
    await first.request(`${busy}/api/x`)
    first.waits.forEach((wait, index) => {
      assert.isBelow(wait, 0.5 * 2 ** index)
    })
    assert.lengthOf(first.waits, 5)
  })

  it("draws its waits from a seed", async () => {
    const waitsOf = async (seed: number) => {
      const endpoint = await serve((_, response) => answer(response, 500))
      const { request, waits } = fetching(endpoint, { seed })
      await request(`${endpoint}/api/x`).catch(() => {})
      return waits
    }
    assert.deepStrictEqual(await waitsOf(1), await waitsOf(1))
    assert.notDeepEqual(await waitsOf(1), await waitsOf(2))
  })

  it("gives up after so many attempts, and at once when the server asks for an hour", async () => {
    let count = 0
    const endpoint = await serve((_, response) => {
      count++
      answer(response, 500)
    })
    const error = await fetching(endpoint)
      .request(`${endpoint}/api/x`)
      .catch((cause: Error) => cause)
    assert.strictEqual(count, 6)
    assert.include((error as Error).message, "GET /api/x: the hub says 500 (tried 6 times)")
    const slow = await serve((_, response) => answer(response, 429, { "Retry-After": "3600" }))
    const refused = fetching(slow)
    const said = await refused.request(`${slow}/api/x`).catch((cause: Error) => cause)
    assert.include((said as Error).message, "asks to wait for 3600 s (tried 1 time)")
    assert.deepStrictEqual(refused.waits, [])
  })

  it("that changes something is never sent twice when nobody knows whether it happened", async () => {
    let count = 0
    const endpoint = await serve((request) => {
      count++
      request.socket.destroy()
    })
    const { request } = fetching(endpoint)
    const error = await request(`${endpoint}/api/models/a/b/commit/main`, { method: "POST", body: "{}" }).catch(
      (cause: unknown) => cause,
    )
    assert.strictEqual(count, 1)
    assert.isTrue((error as { ambiguous: boolean }).ambiguous)
  })

  it("is told over with an answer that breaks off, or that is not the JSON it says it is", async () => {
    const endpoint = await serve((_, response, nth) => {
      if (nth === 1) {
        response.writeHead(200, { "Content-Type": "application/json", "Content-Length": "100" })
        response.write('{"a":')
        setTimeout(() => response.destroy(), 10)
      } else answer(response, 200, {}, nth === 2 ? '{"a":' : '{"a":1}')
    })
    const { request, waits } = fetching(endpoint)
    assert.deepStrictEqual(await (await request(`${endpoint}/api/x`)).json(), { a: 1 })
    assert.lengthOf(waits, 2)
  })

  it("brings the token to the hub itself, and to no other place, whatever is asked and wherever it is sent on to", async () => {
    const tokens: Array<string> = []
    const note =
      (place: string): Handler =>
      (request, response) => {
        tokens.push(`${place}: ${request.headers.authorization === undefined ? "none" : "token"}`)
        answer(response, 200)
      }
    const elsewhere = await serve(note("elsewhere"))
    const endpoint = await serve((request, response, nth) =>
      request.url === "/api/on"
        ? answer(response, 302, { Location: `${elsewhere}/x` })
        : note("hub")(request, response, nth),
    )
    const { request } = fetching(endpoint)
    const headers = { Authorization: `Bearer ${CANARY}` }
    await request(`${endpoint}/api/x`, { headers })
    await request(`${elsewhere}/objects/1?X-Amz-Signature=abc`, { method: "PUT", body: "x", headers })
    await request(`${elsewhere}/list?cursor=2`, { headers })
    await request(`${endpoint}/api/on`, { headers })
    assert.deepStrictEqual(tokens, ["hub: token", "elsewhere: none", "elsewhere: none", "elsewhere: none"])
  })

  it("downloads for as long as pieces come, and not when they come no more", async () => {
    const endpoint = await serve(({ url }, response) => {
      response.writeHead(200, { "Content-Type": "application/octet-stream" })
      let pieces = 0
      const timer = setInterval(() => {
        response.write("piece")
        if (++pieces < 12) return
        clearInterval(timer)
        if (url === "/a/b/resolve/c/whole") response.end()
      }, 50)
    })
    const { request } = fetching(endpoint, { timeoutSeconds: 0.3 })
    const whole = await request(`${endpoint}/a/b/resolve/c/whole`)
    assert.strictEqual(await whole.text(), "piece".repeat(12))
    const broken = await request(`${endpoint}/a/b/resolve/c/broken`)
    const problem = await broken.text().catch((cause: Error) => cause.message)
    assert.strictEqual(problem, "nothing more came for 0.3 s")
  })

  it("does not take a reader's own slowness for silence", async () => {
    const endpoint = await serve((_, response) => response.end("all at once"))
    const { request } = fetching(endpoint, { timeoutSeconds: 0.1 })
    const response = await request(`${endpoint}/a/b/resolve/c/d`)
    await new Promise((resolve) => setTimeout(resolve, 400))
    assert.strictEqual(await response.text(), "all at once")
  })

  it("ends when the server is silent", async () => {
    const endpoint = await serve(() => {})
    const { request } = fetching(endpoint, { timeoutSeconds: 0.05, attempts: 2 })
    const error = await request(`${endpoint}/api/x`).catch((cause: Error) => cause)
    assert.include((error as Error).message, "no answer in time (tried 2 times)")
  })
})

it("reads how long a server asks to wait", () => {
  const now = Date.parse("2026-01-01T00:00:00Z")
  const wait = (headers: Record<string, string>) => serverWait(new Headers(headers), now)
  assert.strictEqual(wait({ "Retry-After": "30" }), 30)
  assert.strictEqual(wait({ "Retry-After": "Thu, 01 Jan 2026 00:01:00 GMT" }), 60)
  assert.strictEqual(wait({ RateLimit: '"api";r=0;t=55' }), 55)
  assert.isUndefined(wait({ RateLimit: '"api";r=12;t=55' }))
  assert.isUndefined(wait({}))
})

it("shows neither tokens nor signatures", () => {
  const token = Redacted.make("hf_abc")
  expect(
    redact(
      "Bearer hf_abc and hf_abcdefgh1234 at https://s.example/o/1?X-Amz-Signature=abc&x=1 (api_org_abcdefgh12)",
      token,
    ),
  ).toMatchInlineSnapshot(`"Bearer <token> and <token> at https://s.example/o/1?<left out> (<token>)"`)
})

it("an endpoint is an address, with encryption unless it is this machine", () => {
  const said = (text: string) =>
    Effect.runSync(
      Effect.match(endpointOf(text), { onSuccess: (ok) => ok, onFailure: ({ message }) => message.split("\n")[0]! }),
    )
  expect(
    [
      "https://hub.example/",
      "http://127.0.0.1:8080",
      "http://localhost:1/",
      "http://hub.example",
      "hub.example",
      "https://me:pw@hub.example",
      "https://hub.example?x=1",
      "ftp://x",
    ].map(said),
  ).toMatchInlineSnapshot(`
    [
      "https://hub.example",
      "http://127.0.0.1:8080",
      "http://localhost:1",
      "endpoint http://hub.example: the token would go over the net unencrypted",
      "endpoint hub.example: it is no HTTP address",
      "endpoint https://<left out>@hub.example: it has a user, a password, a query or a fragment in it",
      "endpoint https://hub.example?<left out>: it has a user, a password, a query or a fragment in it",
      "endpoint ftp://x: it is no HTTP address",
    ]
  `)
})
