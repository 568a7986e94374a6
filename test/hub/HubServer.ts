/**
 * A hub on this machine that speaks what the hub's clients speak, and fails when it is told to.
 *
 * Two servers, as in the real one: the hub itself, and the place where large objects lie, which is reached by signed addresses and
 * refuses a request that brings a token. What is sent is stored byte by byte and told by its real sums; a commit is a tree, `main`
 * and pull requests are names for commits.
 *
 * Every request to either is counted. `fail` makes the n-th go wrong in one of `KINDS`; what the server asserts of itself
 * (`violations`) holds whatever goes wrong.
 */
import { createHash, randomBytes } from "node:crypto"
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"

export const KINDS = [
  "429",
  "500",
  "503",
  "403",
  "dropped before",
  "dropped in the middle",
  "answer lost",
  "answer cut short",
  "a byte flipped",
  "slow",
] as const
export type Kind = (typeof KINDS)[number]

export interface Account {
  readonly name: string
  readonly orgs?: ReadonlyArray<{ readonly name: string; readonly roleInOrg?: string }>
  readonly role?: string
  readonly scoped?: ReadonlyArray<{
    readonly entity: { readonly type: string; readonly name: string }
    readonly permissions: ReadonlyArray<string>
  }>
}

interface Entry {
  readonly bytes: number
  readonly blob: string
  /** Of a small file; a large one is an object. */
  readonly content?: Buffer
  readonly sha256?: string
}
type Tree = ReadonlyMap<string, Entry>

interface Commit {
  readonly tree: Tree
  readonly parent: string | undefined
  readonly title: string
}

interface Discussion {
  readonly num: number
  readonly title: string
  readonly author: string
  readonly base: string
  status: "open" | "closed" | "merged"
  mergeCommitId?: string
}

export interface Repository {
  private: boolean
  /** Its files are for whoever has an account, or for those who were let in alone; its listing is for everybody. */
  gated?: boolean | ReadonlyArray<string>
  readonly commits: Map<string, Commit>
  readonly refs: Map<string, string>
  readonly tags: Map<string, string>
  readonly discussions: Array<Discussion>
}

export interface Seen {
  readonly place: "hub" | "storage"
  readonly method: string
  readonly url: string
  readonly headers: IncomingMessage["headers"]
  readonly body: Buffer
}

export interface HubSettings {
  readonly accounts: Readonly<Record<string, Account>>
  /** Objects of this size and more are sent in parts. */
  readonly multipartFrom?: number
  readonly partSize?: number
  /** Entries of a page of a tree or a list of discussions. */
  readonly pageSize?: number
  /** What is waited when it is slow. */
  readonly slowSeconds?: number
  readonly retryAfter?: string
}

class Refuse extends Error {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  constructor(status: number, message: string, headers: Readonly<Record<string, string>> = {}) {
    super(message)
    this.status = status
    this.headers = headers
  }
}

const sha1 = (data: string | Buffer): string => createHash("sha1").update(data).digest("hex")
const sha256 = (data: string | Buffer): string => createHash("sha256").update(data).digest("hex")
const blobOf = (content: Buffer): string => sha1(Buffer.concat([Buffer.from(`blob ${content.length}\0`), content]))
const pointer = (oid: string, size: number): Buffer =>
  Buffer.from(`version https://git-lfs.github.com/spec/v1\noid sha256:${oid}\nsize ${size}\n`)

const flipped = (content: Buffer): Buffer => {
  const other = Buffer.from(content)
  if (other.length > 0) other[other.length >> 1]! ^= 1
  return other
}

interface Answer {
  readonly status: number
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: Buffer
}
const json = (value: unknown, headers: Readonly<Record<string, string>> = {}): Answer => ({
  status: 200,
  headers: { "Content-Type": "application/json; charset=utf-8", ...headers },
  body: Buffer.from(JSON.stringify(value)),
})

const isLarge = (path: string, size: number): boolean =>
  /\.(safetensors|gguf|pt|bin|parquet|npz)$/.test(path) || size >= 10_000_000

export class HubServer {
  readonly repositories = new Map<string, Repository>()
  readonly objects = new Map<string, Buffer>()
  readonly collections = new Map<string, Set<string>>()
  readonly seen: Array<Seen> = []
  /** Every tree that was `main` of a repository at some time, in order: paths with sums. */
  readonly mains: Array<{ readonly repository: string; readonly tree: Readonly<Record<string, string>> }> = []
  readonly violations: Array<string> = []
  /** What happens between the last look of whoever merges and the merge, once. */
  beforeMerge: (() => void) | undefined
  /** Pieces that answers are sent in, and what is waited before each. */
  drip: { readonly bytes: number; readonly milliseconds: number } | undefined
  readonly #settings: HubSettings
  readonly #parts = new Map<string, Map<number, Buffer>>()
  readonly #signature = randomBytes(8).toString("hex")
  #hub!: Server
  #storage!: Server
  endpoint = ""
  storage = ""
  #armed: { readonly nth: number; readonly kind: Kind; done: boolean } | undefined
  #count = 0

  constructor(settings: HubSettings) {
    this.#settings = settings
  }

  static async start(settings: HubSettings): Promise<HubServer> {
    const server = new HubServer(settings)
    const listen = (place: Seen["place"]) =>
      new Promise<Server>((resolve) => {
        const one = createServer((request, response) => void server.#serve(place, request, response))
        one.listen(0, "127.0.0.1", () => resolve(one))
      })
    server.#hub = await listen("hub")
    server.#storage = await listen("storage")
    server.endpoint = `http://127.0.0.1:${(server.#hub.address() as AddressInfo).port}`
    server.storage = `http://127.0.0.1:${(server.#storage.address() as AddressInfo).port}`
    return server
  }

  async stop(): Promise<void> {
    for (const one of [this.#hub, this.#storage]) {
      one.closeAllConnections()
      await new Promise((resolve) => one.close(resolve))
    }
  }

  /** The n-th request from now on goes wrong, once. */
  fail(nth: number, kind: Kind): void {
    this.#armed = { nth, kind, done: false }
    this.#count = 0
  }

  /** Whether the failure that was asked for happened; nothing is armed any more. */
  disarm(): boolean {
    const happened = this.#armed?.done ?? false
    this.#armed = undefined
    return happened
  }

  /** How many requests came since `fail`, or since the beginning. */
  get count(): number {
    return this.#count
  }

  /** A repository that was there before, with files of somebody else's. */
  seed(name: string, files: Readonly<Record<string, string>>, isPrivate = false): void {
    this.#create(name, isPrivate)
    this.push(name, "main", files)
  }

  /** A data set, as `datasets/org/name` among the repositories. Gives its commit. */
  seedDataset(name: string, files: Readonly<Record<string, Uint8Array>>, is: Partial<Repository> = {}): string {
    return this.seedFiles(`datasets/${name}`, files, is)
  }

  /** Files of any size. Gives the commit. */
  seedFiles(full: string, files: Readonly<Record<string, Uint8Array>>, is: Partial<Repository> = {}): string {
    const repository = Object.assign(this.repositories.get(full) ?? this.#create(full, false), is)
    const tree = new Map(this.#head(repository, "main").tree)
    for (const [path, bytes] of Object.entries(files)) {
      const content = Buffer.from(bytes)
      if (!isLarge(path, content.length)) tree.set(path, this.#small(content))
      else {
        const oid = sha256(content)
        this.objects.set(oid, content)
        tree.set(path, { bytes: content.length, blob: blobOf(pointer(oid, content.length)), sha256: oid })
      }
    }
    return this.#commit(full, repository, "main", tree, "files of somebody's")
  }

  /** A commit of somebody else's to `main` or a pull request. */
  push(name: string, ref: string, files: Readonly<Record<string, string>>): string {
    const repository = this.repositories.get(name)!
    const tree = new Map(this.#head(repository, ref).tree)
    for (const [path, text] of Object.entries(files)) tree.set(path, this.#small(Buffer.from(text)))
    return this.#commit(name, repository, ref, tree, "somebody else's")
  }

  /** A file as somebody who downloads it gets it. */
  read(name: string, revision: string, path: string): Buffer | undefined {
    const repository = this.repositories.get(name)
    const entry = repository && this.#resolve(repository, revision)?.[1].tree.get(path)
    return entry && this.#bytes(entry)
  }

  /** Paths and real sha256 of everything at a revision. */
  sums(name: string, revision = "main"): Readonly<Record<string, string>> {
    const found = this.#resolve(this.repositories.get(name)!, revision)
    return found === undefined ? {} : this.#sumsOf(found[1].tree)
  }

  #sumsOf(tree: Tree): Readonly<Record<string, string>> {
    return Object.fromEntries(
      [...tree].sort(([a], [b]) => (a < b ? -1 : 1)).map(([path, entry]) => [path, sha256(this.#bytes(entry))]),
    )
  }

  #bytes(entry: Entry): Buffer {
    return entry.content ?? this.objects.get(entry.sha256!)!
  }

  #small(content: Buffer): Entry {
    return { bytes: content.length, blob: blobOf(content), content }
  }

  #head(repository: Repository, ref: string): Commit {
    return repository.commits.get(repository.refs.get(ref)!)!
  }

  #resolve(repository: Repository, revision: string): readonly [string, Commit] | undefined {
    const oid = repository.refs.get(revision) ?? repository.tags.get(revision) ?? revision
    const commit = repository.commits.get(oid)
    return commit === undefined ? undefined : [oid, commit]
  }

  #commit(name: string, repository: Repository, ref: string, tree: Tree, title: string): string {
    const parent = repository.refs.get(ref)
    const oid = sha1(JSON.stringify([name, parent, title, [...tree].map(([path, { blob }]) => [path, blob]), ref]))
    repository.commits.set(oid, { tree, parent, title })
    repository.refs.set(ref, oid)
    if (ref === "main") this.mains.push({ repository: name, tree: this.#sumsOf(tree) })
    return oid
  }

  #create(name: string, isPrivate: boolean): Repository {
    const repository: Repository = {
      private: isPrivate,
      commits: new Map(),
      refs: new Map(),
      tags: new Map(),
      discussions: [],
    }
    this.repositories.set(name, repository)
    this.#commit(
      name,
      repository,
      "main",
      new Map([[".gitattributes", this.#small(Buffer.from("*.safetensors filter=lfs\n"))]]),
      "initial commit",
    )
    return repository
  }

  async #serve(place: Seen["place"], request: IncomingMessage, response: ServerResponse): Promise<void> {
    const nth = ++this.#count
    const failing = this.#armed !== undefined && !this.#armed.done && this.#armed.nth === nth ? this.#armed : undefined
    const method = request.method ?? "GET"
    request.on("error", () => {})
    response.on("error", () => {})
    if (failing?.kind === "dropped before") {
      failing.done = true
      return void request.socket.destroy()
    }
    if (failing?.kind === "dropped in the middle") {
      failing.done = true
      request.once("data", () => request.socket.destroy())
      request.once("end", () => request.socket.destroy())
      return
    }
    const chunks: Array<Buffer> = []
    try {
      for await (const chunk of request) chunks.push(chunk)
    } catch {
      return
    }
    const body = Buffer.concat(chunks)
    this.seen.push({ place, method, url: request.url ?? "", headers: request.headers, body })
    const status = failing === undefined ? Number.NaN : Number(failing.kind)
    if (failing !== undefined && status >= 400) {
      failing.done = true
      // a careless server repeats what it was told, and where it would have sent it
      const said = `${request.headers.authorization ?? "nobody"} at ${this.#signed("/objects/echo")}`
      const error = { error: `${status === 403 ? "Forbidden" : "Asked for"}: ${said}` }
      const after = status === 429 ? { "Retry-After": this.#settings.retryAfter ?? "0" } : {}
      return this.#answer(response, method, { ...json(error, after), status })
    }
    const flip = failing?.kind === "a byte flipped"
    let answer: Answer
    try {
      answer = place === "hub" ? this.#hubAnswer(request, body, flip) : this.#storageAnswer(request, body, flip)
      if (flip && this.#flips(place, request, body)) failing.done = true
    } catch (cause) {
      if (!(cause instanceof Refuse)) throw cause
      answer = { ...json({ error: cause.message }, cause.headers), status: cause.status }
    }
    if (failing?.kind === "answer lost") {
      failing.done = true
      return void request.socket.destroy()
    }
    if (failing?.kind === "answer cut short" && (answer.body?.length ?? 0) > 1) {
      failing.done = true
      response.writeHead(answer.status, { ...answer.headers, "Content-Length": String(answer.body!.length) })
      response.write(answer.body!.subarray(0, answer.body!.length >> 1), () => request.socket.destroy())
      return
    }
    if (failing?.kind === "slow") {
      failing.done = true
      await new Promise((resolve) => setTimeout(resolve, (this.#settings.slowSeconds ?? 1) * 1000))
    }
    this.#answer(response, method, answer)
  }

  /** Whether a request has bytes of a file in it or in its answer: only those can be flipped unseen. */
  #flips(place: Seen["place"], request: IncomingMessage, body: Buffer): boolean {
    const { method = "GET", url = "" } = request
    if (place === "storage") return method === "PUT" || method === "GET"
    if (/\/api\/resolve-cache\//.test(url)) return method === "GET"
    return /\/commit\//.test(url) && body.includes('"key":"file"')
  }

  #answer(response: ServerResponse, method: string, { status, headers = {}, body = Buffer.alloc(0) }: Answer): void {
    if (response.destroyed) return
    response.writeHead(status, { "Content-Length": String(body.length), ...headers })
    if (method === "HEAD" || this.drip === undefined || body.length <= this.drip.bytes)
      return void response.end(method === "HEAD" ? undefined : body)
    void this.#pour(response, body, this.drip)
  }

  async #pour(response: ServerResponse, body: Buffer, drip: NonNullable<HubServer["drip"]>): Promise<void> {
    for (let at = 0; at < body.length && !response.destroyed; at += drip.bytes) {
      await new Promise((resolve) => setTimeout(resolve, drip.milliseconds))
      response.write(body.subarray(at, at + drip.bytes))
    }
    response.end()
  }

  #account({ headers }: IncomingMessage): Account | undefined {
    const token = /^Bearer (.+)$/.exec(headers.authorization ?? "")?.[1]
    if (token === undefined) return undefined
    const account = this.#settings.accounts[token]
    if (account === undefined) throw new Refuse(401, "Invalid username or password.")
    return account
  }

  #writer(request: IncomingMessage, namespace: string): Account {
    const account = this.#account(request)
    if (account === undefined) throw new Refuse(401, "Invalid username or password.")
    const member = account.name === namespace || account.orgs?.some((org) => org.name === namespace)
    if (!member || account.role === "read") throw new Refuse(403, "You don't have the rights to write here")
    return account
  }

  #repository(name: string, account: Account | undefined): Repository {
    const repository = this.repositories.get(name)
    const [namespace] = name.replace(/^datasets\//, "").split("/")
    const may = account?.name === namespace || account?.orgs?.some((org) => org.name === namespace)
    if (repository === undefined || (repository.private && !may))
      throw new Refuse(account === undefined ? 401 : 404, "Repository not found")
    return repository
  }

  #at(repository: Repository, revision: string): readonly [string, Commit] {
    const found = this.#resolve(repository, revision)
    if (found === undefined) throw new Refuse(404, `Invalid rev id: ${revision}`)
    return found
  }

  #signed(path: string): string {
    return `${this.storage}${path}?X-Amz-Signature=${this.#signature}&X-Amz-Expires=900`
  }

  #hubAnswer(request: IncomingMessage, body: Buffer, flip: boolean): Answer {
    const url = new URL(request.url ?? "/", this.endpoint)
    const path = url.pathname
    const method = request.method ?? "GET"
    const parsed = <A>(): A => JSON.parse(body.toString("utf8")) as A
    const account = this.#account(request)

    if (path === "/api/whoami-v2") {
      if (account === undefined) throw new Refuse(401, "Invalid username or password.")
      const { name, orgs = [], role = "write", scoped } = account
      return json({
        type: "user",
        name,
        orgs: orgs.map((org) => ({ type: "org", ...org })),
        auth: {
          type: "access_token",
          accessToken: { displayName: "test", role, ...(scoped && { fineGrained: { global: [], scoped } }) },
        },
      })
    }
    if (path === "/api/repos/create" && method === "POST") {
      const { name, organization, visibility } = parsed<{ name: string; organization: string; visibility?: string }>()
      const full = `${organization}/${name}`
      this.#writer(request, organization)
      if (this.repositories.has(full)) throw new Refuse(409, "You already created this model repo")
      this.#create(full, visibility === "private")
      return json({ url: `${this.endpoint}/${full}`, name: full, id: full })
    }
    const collection = /^\/api\/collections\/([^/]+\/[^/]+)\/items$/.exec(path)
    if (collection !== null) {
      this.#writer(request, collection[1]!.split("/")[0]!)
      const items = this.collections.get(collection[1]!)
      if (items === undefined) throw new Refuse(404, "Collection not found")
      const { item } = parsed<{ item: { id: string } }>()
      if (items.has(item.id)) throw new Refuse(409, "Item already in the collection")
      items.add(item.id)
      return json({ slug: collection[1] })
    }
    const listed = /^\/api\/collections\/([^/]+\/[^/]+)$/.exec(path)
    if (listed !== null && method === "GET") {
      const items = this.collections.get(listed[1]!)
      if (items === undefined) throw new Refuse(404, "Collection not found")
      return json({ slug: listed[1], items: [...items].map((id) => ({ _id: sha1(id), type: "model", id })) })
    }
    const batch = /^\/([^/]+\/[^/]+)\.git\/info\/lfs\/objects\/batch$/.exec(path)
    if (batch !== null) return this.#batch(request, batch[1]!, parsed())
    const file = /^\/((?:datasets\/)?[^/]+\/[^/]+)\/resolve\/([^/]+)\/(.+)$/.exec(path)
    if (file !== null) {
      const [, name, revision, at] = file as unknown as [string, string, string, string]
      return this.#resolveFile(name, decodeURIComponent(revision), decodeURIComponent(at), account)
    }
    const cached = /^\/api\/resolve-cache\/(models|datasets)\/([^/]+\/[^/]+)\/([^/]+)\/(.+)$/.exec(path)
    if (cached !== null) {
      const [, kind, own, oid, at] = cached as unknown as [string, string, string, string, string]
      const name = kind === "models" ? own : `datasets/${own}`
      const [, commit] = this.#at(this.#repository(name, account), oid)
      const entry = commit.tree.get(decodeURIComponent(at))!
      return this.#ranged(request, flip ? flipped(entry.content!) : entry.content!, {
        "X-Repo-Commit": oid,
        ETag: `"${entry.blob}"`,
      })
    }
    const model = /^\/api\/(models|datasets)\/([^/]+\/[^/]+)(?:\/(.*))?$/.exec(path)
    if (model === null) throw new Refuse(404, `no such page: ${path}`)
    const [, kind, own = "", rest = ""] = model
    const name = kind === "models" ? own : `datasets/${own}`
    const repository = this.#repository(name, account)
    return this.#model(request, url, name, repository, rest, body, flip)
  }

  #model(
    request: IncomingMessage,
    url: URL,
    name: string,
    repository: Repository,
    rest: string,
    body: Buffer,
    flip: boolean,
  ): Answer {
    const method = request.method ?? "GET"
    const [what = "", ...more] = rest.split("/")
    const parsed = <A>(): A => JSON.parse(body.toString("utf8")) as A
    const namespace = name.split("/")[0]!
    if (method === "GET" && (what === "" || what === "revision")) {
      const [oid, commit] = this.#at(repository, what === "" ? "main" : decodeURIComponent(more[0]!))
      return json({
        _id: sha1(name).slice(0, 24),
        id: name,
        private: repository.private,
        sha: oid,
        lastModified: "2026-01-01T00:00:00.000Z",
        tags: [],
        downloads: 0,
        likes: 0,
        siblings: [...commit.tree.keys()].map((rfilename) => ({ rfilename })),
      })
    }
    if (method === "GET" && what === "tree")
      return this.#listing(
        url,
        this.#at(repository, decodeURIComponent(more[0]!))[1],
        more.slice(1).map(decodeURIComponent).join("/"),
      )
    if (method === "POST" && what === "paths-info") {
      const { tree } = this.#at(repository, decodeURIComponent(more[0]!))[1]
      return json(
        parsed<{ paths: ReadonlyArray<string> }>().paths.flatMap((path) =>
          tree.has(path) ? [entryOf(path, tree.get(path)!)] : [],
        ),
      )
    }
    if (method === "POST" && what === "preupload") {
      this.#writer(request, namespace)
      const { files } = parsed<{ files: ReadonlyArray<{ path: string; size: number }> }>()
      return json({
        files: files.map(({ path, size }) => ({
          path,
          uploadMode: isLarge(path, size) ? "lfs" : "regular",
          shouldIgnore: false,
        })),
      })
    }
    if (method === "POST" && what === "commit") {
      const author = this.#writer(request, namespace)
      return this.#commitRequest(
        author,
        name,
        repository,
        decodeURIComponent(more[0]!),
        url.searchParams.has("create_pr"),
        body,
        flip,
      )
    }
    if (method === "GET" && what === "refs") {
      const list = (refs: Iterable<readonly [string, string]>, prefix: string) =>
        [...refs].map(([ref, targetCommit]) => ({
          name: ref.replace("refs/pr/", ""),
          ref: `${prefix}${ref}`,
          targetCommit,
        }))
      const refs = [...repository.refs]
      return json({
        branches: list(
          refs.filter(([ref]) => ref === "main"),
          "refs/heads/",
        ),
        converts: [],
        tags: list(repository.tags, "refs/tags/"),
        pullRequests: list(
          refs.filter(([ref]) => ref.startsWith("refs/pr/")),
          "",
        ),
      })
    }
    if (method === "POST" && what === "tag") {
      this.#writer(request, namespace)
      const { tag } = parsed<{ tag: string }>()
      if (repository.tags.has(tag)) throw new Refuse(409, `Tag reference exists already: ${tag}`)
      repository.tags.set(tag, this.#at(repository, decodeURIComponent(more[0]!))[0])
      return json({ success: true })
    }
    if (what === "discussions") return this.#discussion(request, url, name, repository, more)
    if (/^xet-(write|read)-token$/.test(what)) throw new Refuse(404, "Xet is not enabled for this repository")
    throw new Refuse(404, `no such page: ${rest}`)
  }

  #listing(url: URL, { tree: whole }: Commit, below: string): Answer {
    const tree = new Map([...whole].filter(([path]) => below === "" || path.startsWith(`${below}/`)))
    if (tree.size === 0) throw new Refuse(404, `${below} does not exist`, { "X-Error-Code": "EntryNotFound" })
    const entries = [...tree].sort(([a], [b]) => (a < b ? -1 : 1)).map(([path, entry]) => entryOf(path, entry))
    const folders = new Set(
      [...tree.keys()].flatMap((path) =>
        path
          .split("/")
          .slice(0, -1)
          .map((_, index, parts) => parts.slice(0, index + 1).join("/")),
      ),
    )
    const all = [...[...folders].map((path) => ({ type: "directory", path, size: 0, oid: sha1(path) })), ...entries]
    const from = Number(url.searchParams.get("cursor") ?? 0)
    const size = this.#settings.pageSize ?? 1000
    const next = new URL(url)
    next.searchParams.set("cursor", String(from + size))
    return json(all.slice(from, from + size), from + size < all.length ? { Link: `<${next.href}>; rel="next"` } : {})
  }

  #batch(
    request: IncomingMessage,
    name: string,
    asked: { readonly operation: string; readonly objects: ReadonlyArray<{ oid: string; size: number }> },
  ): Answer {
    const account = this.#writer(request, name.split("/")[0]!)
    this.#repository(name, account)
    const { multipartFrom = Number.POSITIVE_INFINITY, partSize = 5_000_000 } = this.#settings
    return {
      ...json({
        transfer: "basic",
        objects: asked.objects.map(({ oid, size }) => {
          const there = this.objects.get(oid)
          // what has rotted is not there
          if (there !== undefined && sha256(there) === oid) return { oid, size }
          if (size < multipartFrom) return { oid, size, actions: { upload: { href: this.#signed(`/objects/${oid}`) } } }
          const parts = Array.from({ length: Math.ceil(size / partSize) }, (_, index) => [
            String(index + 1).padStart(5, "0"),
            this.#signed(`/parts/${oid}/${index + 1}`),
          ])
          return {
            oid,
            size,
            actions: {
              upload: {
                href: this.#signed(`/complete/${oid}`),
                header: { chunk_size: String(partSize), ...Object.fromEntries(parts) },
              },
            },
          }
        }),
      }),
      headers: { "Content-Type": "application/vnd.git-lfs+json" },
    }
  }

  #commitRequest(
    author: Account,
    name: string,
    repository: Repository,
    revision: string,
    opens: boolean,
    body: Buffer,
    flip: boolean,
  ): Answer {
    const lines = body
      .toString("utf8")
      .split("\n")
      .map((line) => JSON.parse(line) as { readonly key: string; readonly value: any })
    const header = lines.find(({ key }) => key === "header")!.value as { summary: string; parentCommit?: string }
    const [head, parent] = this.#at(repository, opens ? "main" : revision)
    if (header.parentCommit !== undefined && header.parentCommit !== head)
      throw new Refuse(412, `A commit has happened since. Please refresh and try again: ${head}`)
    const tree = new Map(parent.tree)
    let flips = flip
    for (const { key, value } of lines) {
      if (key === "file") {
        const content = Buffer.from(value.content, value.encoding)
        tree.set(value.path, this.#small(flips ? flipped(content) : content))
        flips = false
      }
      if (key === "lfsFile") {
        if (!this.objects.has(value.oid)) throw new Refuse(400, `lfs object ${value.oid} was not uploaded`)
        tree.set(value.path, { bytes: value.size, blob: blobOf(pointer(value.oid, value.size)), sha256: value.oid })
      }
      if (key === "deletedFile" && !tree.delete(value.path)) throw new Refuse(400, `no such file: ${value.path}`)
    }
    let pullRequest: Discussion | undefined
    let ref = revision
    if (opens) {
      pullRequest = {
        num: repository.discussions.length + 1,
        title: header.summary,
        author: author.name,
        base: head,
        status: "open",
      }
      repository.discussions.push(pullRequest)
      ref = `refs/pr/${pullRequest.num}`
      repository.refs.set(ref, head)
    }
    const oid = this.#commit(name, repository, ref, tree, header.summary)
    return json({
      success: true,
      commitOid: oid,
      commitUrl: `${this.endpoint}/${name}/commit/${oid}`,
      hookOutput: "",
      ...(pullRequest && { pullRequestUrl: `${this.endpoint}/${name}/discussions/${pullRequest.num}` }),
    })
  }

  #discussion(
    request: IncomingMessage,
    url: URL,
    name: string,
    repository: Repository,
    more: ReadonlyArray<string>,
  ): Answer {
    const method = request.method ?? "GET"
    const shown = (one: Discussion) => ({
      num: one.num,
      title: one.title,
      status: one.status,
      isPullRequest: true,
      author: { name: one.author },
      createdAt: "2026-01-01T00:00:00.000Z",
      repo: { name, type: "model" },
    })
    if (method === "GET" && more.length === 0) {
      const { searchParams } = url
      const all = repository.discussions
        .filter((one) => !searchParams.has("status") || one.status === searchParams.get("status"))
        .filter((one) => !searchParams.has("author") || one.author === searchParams.get("author"))
        .reverse()
      const size = this.#settings.pageSize ?? 10
      const start = Number(searchParams.get("p") ?? 0) * size
      return json({ discussions: all.slice(start, start + size).map(shown), count: all.length, start })
    }
    const one = repository.discussions.find(({ num }) => num === Number(more[0]))
    if (one === undefined) throw new Refuse(404, "Discussion not found")
    if (method === "GET")
      return json({
        ...shown(one),
        events: [],
        filesWithConflicts: [],
        changes: { base: "refs/heads/main", ...(one.mergeCommitId && { mergeCommitId: one.mergeCommitId }) },
      })
    this.#writer(request, name.split("/")[0]!)
    if (one.status !== "open") throw new Refuse(409, "This pull request is not open")
    if (more[1] === "status") {
      one.status = "closed"
      return json({ success: true })
    }
    if (more[1] !== "merge") throw new Refuse(404, `no such page: ${more.join("/")}`)
    this.beforeMerge?.()
    this.beforeMerge = undefined
    const main = this.#head(repository, "main")
    const base = repository.commits.get(one.base)!
    const branch = this.#head(repository, `refs/pr/${one.num}`)
    const tree = new Map(main.tree)
    for (const path of new Set([...base.tree.keys(), ...branch.tree.keys()])) {
      const [before, after] = [base.tree.get(path), branch.tree.get(path)]
      if (before?.blob === after?.blob) continue
      if (main.tree.get(path)?.blob !== before?.blob) throw new Refuse(409, `Merge conflict in ${path}`)
      if (after === undefined) tree.delete(path)
      else tree.set(path, after)
    }
    one.mergeCommitId = this.#commit(name, repository, "main", tree, `${one.title} (#${one.num})`)
    one.status = "merged"
    return json({ success: true })
  }

  #resolveFile(name: string, revision: string, path: string, account: Account | undefined): Answer {
    const repository = this.#repository(name, account)
    const { gated = false } = repository
    if (typeof gated === "object" ? !gated.includes(account?.name ?? "") : gated && account === undefined)
      throw new Refuse(account === undefined ? 401 : 403, "Access to this repository is restricted", {
        "X-Error-Code": "GatedRepo",
      })
    const [oid, commit] = this.#at(repository, revision)
    const entry = commit.tree.get(path)
    if (entry === undefined)
      return {
        ...json({ error: "Entry not found" }, { "X-Error-Code": "EntryNotFound", "X-Repo-Commit": oid }),
        status: 404,
      }
    const common = { "X-Repo-Commit": oid, "X-Linked-Size": String(entry.bytes) }
    const encoded = path.split("/").map(encodeURIComponent).join("/")
    return entry.sha256 === undefined
      ? {
          status: 307,
          headers: {
            ...common,
            ETag: `"${entry.blob}"`,
            Location: `/api/resolve-cache/${name.startsWith("datasets/") ? name : `models/${name}`}/${oid}/${encoded}`,
          },
        }
      : {
          status: 302,
          headers: {
            ...common,
            "X-Linked-ETag": `"${entry.sha256}"`,
            ETag: `"${entry.sha256}"`,
            Location: this.#signed(`/objects/${entry.sha256}`),
          },
        }
  }

  #ranged({ headers }: IncomingMessage, content: Buffer, own: Readonly<Record<string, string>>): Answer {
    const range = /^bytes=(\d+)-(\d*)$/.exec(headers.range ?? "")
    const common = { "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream", ...own }
    if (range === null) return { status: 200, headers: common, body: content }
    const from = Number(range[1])
    const to = range[2] === "" ? content.length - 1 : Math.min(Number(range[2]), content.length - 1)
    if (from > to) return { status: 416, headers: { "Content-Range": `bytes */${content.length}` } }
    return {
      status: 206,
      headers: { ...common, "Content-Range": `bytes ${from}-${to}/${content.length}` },
      body: content.subarray(from, to + 1),
    }
  }

  #storageAnswer(request: IncomingMessage, body: Buffer, flip: boolean): Answer {
    const url = new URL(request.url ?? "/", this.storage)
    const method = request.method ?? "GET"
    if (request.headers.authorization !== undefined) {
      this.violations.push(`a token came with ${method} ${url.pathname}`)
      throw new Refuse(400, "Only one auth mechanism allowed")
    }
    if (url.searchParams.get("X-Amz-Signature") !== this.#signature) throw new Refuse(403, "SignatureDoesNotMatch")
    const [, what, oid = "", part] = url.pathname.split("/")
    const content = flip ? flipped(body) : body
    if (method === "PUT" && what === "objects") {
      this.objects.set(oid, content)
      return { status: 200, headers: { ETag: `"${sha1(content)}"` } }
    }
    if (method === "PUT" && what === "parts") {
      const parts = this.#parts.get(oid) ?? new Map<number, Buffer>()
      this.#parts.set(oid, parts.set(Number(part), content))
      return { status: 200, headers: { ETag: `"${sha1(content)}"` } }
    }
    if (method === "POST" && what === "complete") {
      const asked = JSON.parse(body.toString("utf8")) as {
        readonly parts: ReadonlyArray<{ partNumber: number; etag: string }>
      }
      const parts = this.#parts.get(oid)
      const pieces = asked.parts.map(({ partNumber, etag }) => {
        const piece = parts?.get(partNumber)
        if (piece === undefined || etag !== `"${sha1(piece)}"`) throw new Refuse(400, `part ${partNumber} is missing`)
        return piece
      })
      this.objects.set(oid, Buffer.concat(pieces))
      return json({ oid })
    }
    const object = this.objects.get(oid)
    if (object === undefined) throw new Refuse(404, "NoSuchKey")
    return this.#ranged(request, flip && method === "GET" ? flipped(object) : object, { ETag: '"of-the-storage"' })
  }
}

const entryOf = (path: string, { bytes, blob, sha256 }: Entry) => ({
  type: "file",
  path,
  size: bytes,
  oid: blob,
  ...(sha256 !== undefined && { lfs: { oid: sha256, size: bytes, pointerSize: pointer(sha256, bytes).length } }),
})
