import { createHash } from "node:crypto"
import { existsSync, readdirSync, readFileSync } from "node:fs"
import { createServer } from "node:http"
import type { AddressInfo } from "node:net"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Effect } from "effect"
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest"
import { type DownloadRequest, download } from "../../src/verification/Download.ts"
import { exp } from "../endToEnd/experiment.ts"
import { damageIn, filesIn, ownTemporary, place, run, signedRelease } from "./world.ts"

const { path, remove } = place()
ownTemporary(path)
afterAll(remove)
let release: string
beforeAll(async () => {
  release = (await signedRelease(path)).release
}, 60_000)

const COMMIT = "0123456789abcdef0123456789abcdef01234567"

interface Served {
  readonly path: string
  readonly bytes: Buffer
  /** As a large file: by its sha256. */
  readonly large?: boolean
  /** What the listing says, where it lies. */
  readonly said?: Record<string, unknown>
  /** What is sent, where it is not what is listed. */
  readonly sent?: (attempt: number) => Buffer
}

const entryOf = ({ path, bytes, large, said }: Served) => ({
  type: "file",
  path,
  size: bytes.length,
  oid: createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex"),
  ...(large && {
    lfs: { oid: createHash("sha256").update(bytes).digest("hex"), size: bytes.length, pointerSize: 134 },
  }),
  ...said,
})

/**
 * A hub that says and sends what it is told to. `requests` are the paths it was asked for. `next` is what it says of the page after
 * each page of a listing.
 */
const lyingHub = async (files: ReadonlyArray<Served>, next?: (page: string) => string) => {
  const requests: Array<string> = []
  const attempts = new Map<string, number>()
  const server = createServer((request, response) => {
    const url = new URL(request.url!, "http://hub")
    requests.push(url.pathname)
    const json = (value: unknown, headers = {}) => {
      response.writeHead(200, { "Content-Type": "application/json", ...headers })
      response.end(JSON.stringify(value))
    }
    if (url.pathname.endsWith("/revision/main")) return json({ id: "our-org/tiny", sha: COMMIT })
    if (url.pathname.includes("/tree/")) {
      const page = Number(url.searchParams.get("page") ?? 0)
      const size = 10
      const after = `<${url.pathname}?recursive=true&page=${page + 1}>; rel="next"`
      const link = next?.(request.url!) ?? ((page + 1) * size < files.length ? after : undefined)
      return json(files.slice(page * size, (page + 1) * size).map(entryOf), link === undefined ? {} : { Link: link })
    }
    const file = files.find(
      (one) =>
        url.pathname === `/our-org/tiny/resolve/${COMMIT}/${encodeURIComponent(one.path).replaceAll("%2F", "/")}`,
    )
    if (file === undefined) {
      response.writeHead(404)
      return response.end()
    }
    const attempt = (attempts.get(file.path) ?? 0) + 1
    attempts.set(file.path, attempt)
    response.writeHead(200)
    return response.end(file.sent?.(attempt) ?? file.bytes)
  })
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return { endpoint: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, requests }
}

const asked = (endpoint: string): DownloadRequest => ({
  repository: "our-org/tiny",
  revision: "main",
  endpoint,
  say: () => {},
  patience: { firstWaitSeconds: 0.001, longestWaitSeconds: 0.01, timeoutSeconds: 10 },
})

const refused = (endpoint: string): Promise<{ readonly tag: string; readonly message: string }> =>
  run(
    download(asked(endpoint)).pipe(
      Effect.match({
        onFailure: (error) => ({ tag: error._tag, message: error.message }),
        onSuccess: () => ({ tag: "none", message: "accepted" }),
      }),
      Effect.scoped,
    ),
  )

const served = (folder: string): ReadonlyArray<Served> =>
  filesIn(folder).map((name) => ({
    path: name,
    bytes: readFileSync(join(folder, name)),
    large: name.endsWith(".safetensors"),
  }))

const leftovers = () => readdirSync(tmpdir()).filter((name) => name.startsWith("exp-verify-"))

describe("a release on a hub", () => {
  it("comes here byte for byte, without what the hub added, and verifies", async () => {
    const added = { path: ".gitattributes", bytes: Buffer.from("*.safetensors filter=lfs\n") }
    const { endpoint, requests } = await lyingHub([...served(release), added])
    await run(
      Effect.scoped(
        Effect.gen(function* () {
          const { folder, origin } = yield* download(asked(endpoint))
          expect(origin).toEqual({
            repository: asked(endpoint).repository,
            commit: expect.stringMatching(/^[0-9a-f]{40}$/),
            added: [".gitattributes"],
          })
          expect(filesIn(folder)).toEqual(filesIn(release))
          expect(yield* Effect.promise(() => damageIn(folder))).toEqual([])
        }),
      ),
    )
    expect(requests.filter((one) => one.includes("gitattributes"))).toEqual([])
  })

  it("is fetched again when it broke off or came with another byte, and given up on when it stays so", async () => {
    const [first, ...rest] = served(release)
    const flipped = (bytes: Buffer) => {
      const other = Buffer.from(bytes)
      other[0]! ^= 1
      return other
    }
    const once = { ...first!, sent: (attempt: number) => (attempt === 1 ? flipped(first!.bytes) : first!.bytes) }
    const short = {
      ...rest[0]!,
      sent: (attempt: number) => (attempt === 1 ? rest[0]!.bytes.subarray(1) : rest[0]!.bytes),
    }
    expect((await refused((await lyingHub([once, short])).endpoint)).message).toBe("accepted")
    const always = { ...first!, sent: () => flipped(first!.bytes) }
    const { tag, message } = await refused((await lyingHub([always])).endpoint)
    expect(tag).toBe("DownloadDamaged")
    expect(message).toMatch(
      new RegExp(`^our-org/tiny: ${first!.path}: it has other bytes than the hub lists\n {2}hint: `),
    )
  })

  it("is read no further than was announced", async () => {
    const endless = { path: "README.md", bytes: Buffer.from("short"), sent: () => Buffer.alloc(1 << 24, "x") }
    expect((await refused((await lyingHub([endless])).endpoint)).message).toMatch(
      /it has more than the 5 bytes the hub lists/,
    )
  })

  const hostile: ReadonlyArray<readonly [name: string, ...paths: ReadonlyArray<string>]> = [
    ["leads out of the folder", "../x"],
    ["leads out of a folder of it", "a/../../x"],
    ["is a folder", "."],
    ["is absolute", "/etc/passwd"],
    ["is absolute on Windows", "C:\\x"],
    ["is on a drive of Windows", "C:x"],
    ["has the other slash", "a\\b"],
    ["is on another machine", "//server/share"],
    ["has an empty part", "a//b"],
    ["is a device of Windows", "NUL"],
    ["is a device of Windows, whatever follows", "aux.json"],
    ["is a device of Windows in another spelling", "COM¹.txt"],
    ["is a stream of another file", "README.md:hidden"],
    ["ends in a dot", "model.safetensors."],
    ["ends in a space", "model.safetensors "],
    ["has a line end", "a\nb"],
    ["has a NUL", "a\0b"],
    ["turns the reading direction", "a\u202egnp.exe"],
    ["has a character that cannot be seen", "READ\u200bME.md"],
    ["is too long", `${"x".repeat(300)}.json`],
    ["is too deep", "a/".repeat(200)],
    ["is git's own folder", ".git/hooks/post-checkout"],
    ["is the same on a Mac", "café.txt", "cafe\u0301.txt"],
    ["is the same where case makes no difference", "README.md", "readme.MD"],
    ["is the same after folding", "ﬁle.txt", "file.txt"],
    ["is there twice", "a.txt", "a.txt"],
    ["is a file and a folder", "a", "a/b"],
  ]
  for (const [name, ...paths] of hostile)
    it(`is refused whole, with nothing written, when a name ${name}`, async () => {
      const before = leftovers()
      const good = { path: "SHA256SUMS", bytes: Buffer.from("fine\n") }
      const { endpoint, requests } = await lyingHub([
        good,
        ...paths.map((one) => ({ path: one, bytes: Buffer.from("x") })),
      ])
      const { tag, message } = await refused(endpoint)
      expect(tag).toBe("ListingHostile")
      expect(message).toMatch(/^our-org\/tiny lists what cannot be written safely; nothing was written\n/)
      expect(message.length).toBeLessThan(2000)
      // names are quoted: none of them reaches a terminal as it is
      expect(message.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\u202e\u200b]/u)
      expect(requests.filter((one) => one.includes("/resolve/"))).toEqual([])
      expect(leftovers()).toEqual(before)
      expect(existsSync(join(tmpdir(), "x"))).toBe(false)
    })

  it("is not called wrong where the hub is not there, or is busy for good", async () => {
    expect((await refused("http://127.0.0.1:9")).tag).toBe("HubUnreachable")
    const busy = createServer((_, response) => {
      response.writeHead(503)
      response.end()
    })
    await new Promise<void>((done) => busy.listen(0, "127.0.0.1", done))
    onTestFinished(() => void busy.close())
    const { tag, message } = await refused(`http://127.0.0.1:${(busy.address() as AddressInfo).port}`)
    expect(tag).toMatch(/^Hub(?:Unreachable|Refused)$/)
    expect(message).toMatch(/503/)
  })

  it("is refused when its listing is none, has a strange kind of entry, or goes on elsewhere or for ever", async () => {
    const file = { path: "a.txt", bytes: Buffer.from("x") }
    const strange = await refused((await lyingHub([{ ...file, said: { type: "symlink" } }])).endpoint)
    expect(strange.message).toMatch(/"a\.txt" is a "symlink"/)
    for (const said of [{ size: -1 }, { size: "1" }, { path: 7 }, { oid: null }, { lfs: {} }])
      expect((await refused((await lyingHub([{ ...file, said }])).endpoint)).tag).toBe("HubAnswerStrange")
    const elsewhere = await lyingHub([file], () => '<http://127.0.0.1:9/api>; rel="next"')
    expect((await refused(elsewhere.endpoint)).message).toMatch(/the list goes on at another server/)
    const endless = await lyingHub([file], (page) => `<${page}>; rel="next"`)
    expect((await refused(endless.endpoint)).message).toMatch(/its list goes on after \d+ pages/)
    const absent = await lyingHub([])
    const { message } = await run(
      download({ ...asked(absent.endpoint), revision: "v9" }).pipe(Effect.flip, Effect.scoped),
    )
    expect(message).toMatch(/404: there is no such repository or revision/)
  })

  it("is verified by its name on the hub, and the exit status tells", async () => {
    const { endpoint } = await lyingHub(served(release))
    const { code, stdout } = await exp(path, ["verify", "our-org/tiny", "--endpoint", endpoint], {
      XDG_CONFIG_HOME: join(path, "none"),
      HF_HOME: join(path, "none"),
      HF_TOKEN: "",
    })
    // the release of this test was fabricated: its bytes are sound, its measurements are not
    expect(stdout).toMatch(/hashes +ok +SHA256SUMS/)
    expect(stdout).toMatch(/WRONG +probes/)
    expect(code).toBe(1)
    const gone = await exp(path, ["verify", "our-org/tiny@v9", "--endpoint", endpoint], { HF_HOME: path, HF_TOKEN: "" })
    expect(gone.code).toBe(2)
    expect(gone.stderr).toMatch(/^error: hub: look at our-org\/tiny: 404: /)
  }, 180_000)
})
