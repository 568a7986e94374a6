import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect } from "effect"
import { afterAll, assert, describe, it } from "vitest"
import type { PublishError } from "../../src/hub/HubError.ts"
import type { Patience } from "../../src/hub/Requests.ts"
import { HubServer, KINDS, type Kind } from "./HubServer.ts"
import { files, small } from "./release.ts"
import { CANARY, contentOf, expected, hasty, owner, publishing, run } from "./world.ts"

/** A slow hub is waited for half as long as it takes. Not patient: gives up at the first failure, as a command that is killed there. */
const patienceFor = (kind: Kind, patient: boolean): Partial<Patience> => ({
  ...hasty,
  ...(kind === "slow" && { timeoutSeconds: 0.3 }),
  ...(!patient && { attempts: 1 }),
})

const EARLIER = Object.fromEntries(
  Object.entries(files("0")).map(([path, content]) => [path, content.toString("latin1")]),
)

const attempt = (server: HubServer, folder: string, to: string, patience: Partial<Patience>, looks: number) =>
  run(
    server,
    Effect.match(publishing(folder, { to, looks }), {
      onFailure: (error: PublishError) => error,
      onSuccess: () => undefined,
    }),
    { patience },
  )

interface Tally {
  readonly failed: number
  /** What a publication without a failure makes. */
  readonly requests: number
}

type Over = "nothing" | "an earlier release"

const everyRequest = async (folder: string, kind: Kind, over: Over, patient: boolean): Promise<Tally> => {
  const server = await HubServer.start({
    accounts: { [CANARY]: owner },
    slowSeconds: 0.6,
    multipartFrom: 2000,
    partSize: 1000,
    pageSize: 5,
  })
  return failEvery(server, folder, kind, over, patient).finally(() => server.stop())
}

/** Every request of a publication made to fail in one way, one after the other; returns how many were, and how many there are. */
const failEvery = async (
  server: HubServer,
  folder: string,
  kind: Kind,
  over: Over,
  patient: boolean,
): Promise<Tally> => {
  const content = await Effect.runPromise(contentOf(folder).pipe(Effect.provide(NodeServices.layer)))
  const wanted = expected(content)
  let failed = 0
  for (let n = 1; ; n++) {
    const to = `our-org/tiny-${n}`
    server.objects.clear()
    server.mains.length = 0
    if (over === "an earlier release") {
      const sums = Object.keys(EARLIER)
        .map((path) => `${"0".repeat(64)}  ${path}\n`)
        .join("")
      server.seed(to, { ...EARLIER, SHA256SUMS: sums, "notes/by-somebody-else.md": "kept\n" })
    }
    const others: Record<string, string> = {}
    if (over === "an earlier release")
      others["notes/by-somebody-else.md"] = server.sums(to)["notes/by-somebody-else.md"]!
    const seeded = server.mains.length
    server.seen.length = 0
    server.fail(n, kind)
    const error = await attempt(server, folder, to, patienceFor(kind, patient), patient ? 6 : 0)
    const beyond = server.count < n
    const happened = server.disarm()
    if (beyond) {
      assert.isUndefined(error, "a publication without a failure ends well")
      return { failed, requests: server.count }
    }
    if (happened) failed++
    if (happened && kind === "403" && server.seen[n - 1]?.place === "hub") {
      assert.strictEqual(error?._tag, "NotAllowed", `request ${n}`)
      // requests already under way beside it may still arrive, new ones may not begin
      assert.isAtMost(server.seen.length - n, 4, "nothing more is asked after a 403")
    } else if (patient) assert.isUndefined(error, `request ${n}: ${error?.message}`)
    if (error !== undefined) {
      assert.notInclude(error.message, CANARY)
      assert.notInclude(error.message, "X-Amz-Signature")
      assert.isUndefined(
        (await attempt(server, folder, to, patienceFor(kind, true), 6))?.message,
        `again after request ${n}`,
      )
    }
    const { ".gitattributes": _, ...main } = server.sums(to)
    assert.deepStrictEqual(main, { ...wanted, ...others }, `main after request ${n} failed`)
    assert.lengthOf(server.mains, seeded === 0 ? 2 : seeded + 1, "main went from the old to the whole new, at once")
    const repository = server.repositories.get(to)!
    assert.deepStrictEqual([...repository.tags.values()], [repository.refs.get("main")])
    assert.deepStrictEqual(
      repository.discussions.filter(({ status }) => status !== "closed").map(({ status }) => status),
      ["merged"],
      `one pull request, after request ${n}`,
    )
    assert.deepStrictEqual(server.violations, [])
  }
}

/** Whatever the variable says, each way of failing is tried at each request; with it, from every beginning too. */
const all = process.env["EXP_HUB_FAILURES"] === "all"
const FROM_NOTHING: ReadonlyArray<Kind> = all ? KINDS : ["500", "403", "answer lost"]
const ENDING: ReadonlyArray<Kind> = all
  ? KINDS.filter((kind) => kind !== "a byte flipped")
  : ["dropped before", "answer lost", "answer cut short"]

describe.concurrent("whichever request of a publication fails", () => {
  const place = mkdtempSync(join(tmpdir(), "exp-hub-"))
  const folder = small(join(place, "release"))
  afterAll(() => rmSync(place, { recursive: true, force: true }))
  const cases = [
    // the one that waits goes first, beside those that work
    ...[...KINDS].reverse().map((kind) => ({ kind, over: "an earlier release" as const })),
    ...FROM_NOTHING.map((kind) => ({ kind, over: "nothing" as const })),
  ]
  for (const { kind, over } of cases)
    it(`(${kind}), over ${over}, the release is published whole, and main is never half of it`, async () => {
      const { failed, requests } = await everyRequest(folder, kind, over, true)
      // only what carries bytes of a file can have one flipped, and only an answer with a body can be cut; a busy machine may be
      // slower than the slow hub, and ask more often
      if (kind === "a byte flipped") assert.isAtLeast(failed, 10)
      else if (kind === "answer cut short") assert.isAtLeast(failed, 45)
      else if (kind === "slow") assert.isAtLeast(failed, 60)
      else assert.strictEqual(failed, requests)
      console.log(`${kind}, over ${over}: ${failed} of ${requests} requests failed, each in a publication of its own`)
    }, 600_000)

  for (const kind of ENDING)
    it(`(${kind}) and ends the command, the next one goes on from there`, async () => {
      const { failed, requests } = await everyRequest(folder, kind, "nothing", false)
      if (kind === "answer cut short") assert.isAtLeast(failed, 45)
      else assert.strictEqual(failed, requests)
      console.log(`${kind}, ending the command: ${failed} of ${requests} requests failed`)
    }, 600_000)
})
