/**
 * The Hugging Face Hub: `@huggingface/hub` for what it can do, plain requests for what it cannot (merge, tags, refs, reading a pull
 * request), all of it through one `fetch` (`Requests.ts`).
 *
 * `useXet` is off: plain LFS in memory of a constant size, answers that say what is there already, and sums that can be compared;
 * see docs/decisions/007.
 */
import { createHash } from "node:crypto"
import type { ListFileEntry } from "@huggingface/hub"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { type Account, type CommitRequest, Hub, type PullRequest, type Repository } from "./Hub.ts"
import { HubAnswerStrange, HubRefused, HubUnreachable, NotAllowed, type RequestError } from "./HubError.ts"
import { redact } from "./Redact.ts"
import { makeFetch, type Patience, patience, type Watch } from "./Requests.ts"
import { SentFile } from "./SentFile.ts"

export interface HuggingFaceSettings {
  readonly endpoint: string
  readonly token: Redacted.Redacted<string>
  readonly patience?: Partial<Patience>
  readonly watch?: Watch
}

const LONGEST_TEXT = 1 << 20
const READ_ATTEMPTS = 4

const segments = (path: string): string => path.split("/").map(encodeURIComponent).join("/")

const WhoAmI = Schema.Struct({
  name: Schema.String,
  orgs: Schema.optionalKey(
    Schema.Array(Schema.Struct({ name: Schema.String, roleInOrg: Schema.optionalKey(Schema.String) })),
  ),
  auth: Schema.Struct({
    accessToken: Schema.optionalKey(
      Schema.Struct({
        role: Schema.String,
        fineGrained: Schema.optionalKey(
          Schema.Struct({
            scoped: Schema.optionalKey(
              Schema.Array(
                Schema.Struct({
                  entity: Schema.Struct({ type: Schema.String, name: Schema.String }),
                  permissions: Schema.Array(Schema.String),
                }),
              ),
            ),
          }),
        ),
      }),
    ),
  }),
})

const Info = Schema.Struct({ id: Schema.String, private: Schema.optionalKey(Schema.Boolean), sha: Schema.String })
const Discussions = Schema.Struct({
  discussions: Schema.Array(
    Schema.Struct({
      num: Schema.Int,
      title: Schema.String,
      status: Schema.String,
      isPullRequest: Schema.Boolean,
      author: Schema.optionalKey(Schema.Struct({ name: Schema.String })),
    }),
  ),
  count: Schema.Int,
  start: Schema.Int,
})
const Discussion = Schema.Struct({
  status: Schema.String,
  changes: Schema.optionalKey(Schema.Struct({ mergeCommitId: Schema.optionalKey(Schema.NullOr(Schema.String)) })),
})
const Collection = Schema.Struct({
  items: Schema.Array(Schema.Struct({ type: Schema.String, id: Schema.optionalKey(Schema.String) })),
})
const Refs = Schema.Struct({
  tags: Schema.Array(Schema.Struct({ name: Schema.String, targetCommit: Schema.String })),
})

/** An answer that is no success, as the client's own error has it. */
class Refusal extends Error {
  readonly statusCode: number
  readonly data: unknown
  constructor(statusCode: number, data: unknown) {
    super(`status ${statusCode}`)
    this.statusCode = statusCode
    this.data = data
  }
}

const isRefusal = (cause: unknown): cause is { readonly statusCode: number; readonly data?: unknown } =>
  cause instanceof Error && "statusCode" in cause && typeof cause.statusCode === "number"

/** What the hub says is wrong. The client's own message is never used: it carries addresses. */
const saying = (data: unknown): string => {
  if (typeof data !== "object" || data === null) return "it says nothing more"
  const { error, message } = data as { readonly error?: unknown; readonly message?: unknown }
  const text = typeof error === "string" ? error : typeof message === "string" ? message : ""
  return text.trim() === "" ? "it says nothing more" : text.trim().split("\n")[0]!
}

export const make = Effect.fnUntraced(function* (settings: HuggingFaceSettings) {
  const { endpoint, token } = settings
  const context = yield* Effect.context<never>()
  const request = makeFetch({
    endpoint,
    token,
    patience: { ...patience, ...settings.patience },
    watch: settings.watch ?? {},
    sleep: (seconds, signal) =>
      Effect.runPromiseWith(context)(Effect.sleep(`${seconds * 1000} millis`), signal === undefined ? {} : { signal }),
  })
  const client = yield* Effect.cached(Effect.promise(() => import("@huggingface/hub")))
  // the client asks for a token and must not have it: `request` writes the header
  const access = { accessToken: "hf_written_by_fetch", hubUrl: endpoint, fetch: request }
  const typed = (name: string) => ({ type: "model" as const, name })

  const failure =
    (about: string, doing: string) =>
    (cause: unknown): RequestError => {
      if (cause instanceof HubUnreachable) return cause
      if (!isRefusal(cause))
        return new HubAnswerStrange({
          request: doing,
          problem: redact(cause instanceof Error ? cause.message : String(cause), token),
        })
      const problem = redact(saying(cause.data), token)
      if (cause.statusCode === 401)
        return new NotAllowed({
          repository: about,
          problem: `the hub does not take the token (401): ${problem}`,
          hint: "make a new token at https://huggingface.co/settings/tokens, then set HF_TOKEN or run `hf auth login`",
        })
      if (cause.statusCode === 403)
        return new NotAllowed({
          repository: about,
          problem: `${doing}: the hub forbids it (403): ${problem}`,
          hint: "use a token with write access to this repository, or ask its owner for the right to write",
        })
      return new HubRefused({ request: doing, status: cause.statusCode, problem })
    }

  const asking = <A>(about: string, doing: string, ask: (signal: AbortSignal) => Promise<A>) =>
    Effect.tryPromise({ try: ask, catch: failure(about, doing) })

  const decoded =
    <S extends Schema.Top & { readonly DecodingServices: never }>(schema: S, doing: string) =>
    (answer: unknown) =>
      Effect.mapError(
        Schema.decodeUnknownEffect(schema)(answer),
        (error) => new HubAnswerStrange({ request: doing, problem: error.message.replaceAll(/\s*\n\s*/g, " ") }),
      )

  /** A request of our own; its answer as JSON. */
  const api = (about: string, method: "GET" | "POST", path: string, body?: unknown) =>
    asking(about, `${method} ${path.replace(/\?.*/, "")}`, async (signal) => {
      const response = await request(`${endpoint}${path}`, {
        method,
        signal,
        headers: { Accept: "application/json", ...(body !== undefined && { "Content-Type": "application/json" }) },
        ...(body !== undefined && { body: JSON.stringify(body) }),
      })
      const text = await response.text()
      const answer = parsed(text)
      if (!response.ok) throw new Refusal(response.status, answer ?? { message: text })
      return answer
    })

  const absent = <A, E, R>(effect: Effect.Effect<A, E | HubRefused, R>) =>
    Effect.catchIf(
      effect,
      (error): error is HubRefused => error instanceof HubRefused && error.status === 404,
      () => Effect.succeed(undefined),
    )

  // the hub counts this question strictly: it is asked once
  let account: Account | undefined
  const ask = api(endpoint, "GET", "/api/whoami-v2").pipe(
    Effect.flatMap(decoded(WhoAmI, "GET /api/whoami-v2")),
    Effect.map(
      ({ name, orgs = [], auth: { accessToken } }): Account => ({
        name,
        organizations: orgs.map((org) => ({
          name: org.name,
          ...(org.roleInOrg !== undefined && { role: org.roleInOrg }),
        })),
        role: accessToken?.role ?? "unknown",
        scopes: (accessToken?.fineGrained?.scoped ?? []).map(({ entity, permissions }) => ({
          entity: entity.name,
          permissions,
        })),
      }),
    ),
    Effect.tap((answer) =>
      Effect.sync(() => {
        account = answer
      }),
    ),
  )
  const whoAmI = Effect.suspend(() => (account === undefined ? ask : Effect.succeed(account)))

  const repository = (name: string, revision?: string) => {
    const path = `/api/models/${name}${revision === undefined ? "" : `/revision/${encodeURIComponent(revision)}`}`
    return absent(
      api(name, "GET", path).pipe(
        Effect.flatMap(decoded(Info, `GET ${path}`)),
        Effect.map((info): Repository => ({ id: info.id, private: info.private ?? false, head: info.sha })),
      ),
    )
  }

  const create = (name: string, visibility: "public" | "private") =>
    Effect.gen(function* () {
      const { createRepo } = yield* client
      yield* asking(name, `create ${name}`, () => createRepo({ ...access, repo: typed(name), visibility }))
    })

  const tree = (name: string, commit: string) =>
    Effect.gen(function* () {
      const { listFiles } = yield* client
      const entries = yield* asking(name, `list the files of ${name}`, async () => {
        const found: Array<ListFileEntry> = []
        const listing = { ...access, repo: typed(name), revision: encodeURIComponent(commit), recursive: true }
        for await (const entry of listFiles(listing)) found.push(entry)
        return found
      })
      return entries
        .flatMap(({ type, path, size, oid, lfs }) =>
          type === "file"
            ? [{ path, bytes: lfs?.size ?? size, blob: oid ?? "", ...(lfs !== undefined && { sha256: lfs.oid }) }]
            : [],
        )
        .sort((a, b) => (a.path < b.path ? -1 : 1))
    })

  const commit = (wanted: CommitRequest) =>
    Effect.gen(function* () {
      const { commitIter } = yield* client
      const doing = `commit to ${wanted.repository}`
      yield* asking(wanted.repository, doing, async (signal) => {
        const contents = await Promise.all(
          wanted.files.map(({ path, content }) =>
            "full" in content
              ? SentFile.open(content.full, (bytes) => wanted.part(path, bytes))
              : new Blob([content.text]),
          ),
        )
        const progress = commitIter({
          ...access,
          fetch: emptyAsRegular(request),
          abortSignal: signal,
          useXet: false,
          repo: typed(wanted.repository),
          title: wanted.title,
          description: wanted.description,
          parentCommit: wanted.parent,
          ...(wanted.pullRequest === undefined ? { isPullRequest: true } : { branch: `refs/pr/${wanted.pullRequest}` }),
          operations: [
            ...wanted.files.map(({ path }, index) => ({
              operation: "addOrUpdate" as const,
              path,
              content: contents[index]!,
            })),
            ...wanted.removed.map((path) => ({ operation: "delete" as const, path })),
          ],
        })
        for (let step = await progress.next(); ; step = await progress.next()) {
          if (step.done) {
            if (typeof step.value?.commit.oid !== "string") throw new Error("it names no commit")
            return
          }
          if (step.value.event !== "fileProgress") continue
          const { path, state, progress: share } = step.value
          if (state !== "error") wanted.file(path, state === "hashing" ? "hashing" : share >= 1 ? "sent" : "sending")
        }
      })
    })

  const pullRequests = (name: string, author: string, status?: "any") =>
    Effect.gen(function* () {
      const found: Array<PullRequest> = []
      for (let page = 0; ; page++) {
        const path = `/api/models/${name}/discussions`
        const query = `?type=pull_request${status === "any" ? "" : "&status=open"}&author=${encodeURIComponent(author)}&p=${page}`
        const { discussions, count, start } = yield* api(name, "GET", path + query).pipe(
          Effect.flatMap(decoded(Discussions, `GET ${path}`)),
        )
        for (const one of discussions)
          if (one.isPullRequest && (status === "any" || one.status === "open") && one.author?.name === author)
            found.push({ number: one.num, title: one.title, author, status: one.status })
        if (discussions.length === 0 || start + discussions.length >= count) break
      }
      return found.sort((a, b) => a.number - b.number)
    })

  const merged = (name: string, number: number) =>
    Effect.gen(function* () {
      const path = `/api/models/${name}/discussions/${number}`
      const { status, changes } = yield* api(name, "GET", path).pipe(Effect.flatMap(decoded(Discussion, `GET ${path}`)))
      if (status !== "merged") return undefined
      // a hub that names no commit leaves what `main` is now
      return changes?.mergeCommitId ?? (yield* repository(name))?.head
    })

  const collection = (slug: string) => {
    const path = `/api/collections/${segments(slug)}`
    return absent(
      api(slug, "GET", path).pipe(
        Effect.flatMap(decoded(Collection, `GET ${path}`)),
        Effect.map(({ items }) => items.flatMap(({ type, id }) => (type === "model" && id !== undefined ? [id] : []))),
      ),
    )
  }

  /** A file's bytes, piece by piece. What breaks off is read again from the beginning. */
  const read = <A>(name: string, commit: string, path: string, use: (body: Response) => Promise<A>) =>
    asking(name, `read ${path} of ${name}`, async (signal) => {
      for (let attempt = 1; ; attempt++) {
        let address = `${endpoint}/${name}/resolve/${encodeURIComponent(commit)}/${segments(path)}`
        let response = await request(address, { redirect: "manual", signal })
        // followed here, so that each address is judged anew whether the token may go there
        for (let hops = 0; response.status >= 300 && response.status < 400 && hops < 5; hops++) {
          address = new URL(response.headers.get("Location") ?? "", address).href
          await response.body?.cancel()
          response = await request(address, { redirect: "manual", signal })
        }
        if (!response.ok) throw new Refusal(response.status, parsed(await response.text()))
        try {
          return await use(response)
        } catch (cause) {
          signal.throwIfAborted()
          if (cause instanceof TooLong) throw cause
          if (attempt >= READ_ATTEMPTS)
            throw new HubUnreachable({
              request: `GET ${path} of ${name}`,
              attempts: attempt,
              problem: redact(cause instanceof Error ? cause.message : String(cause), token),
              ambiguous: false,
            })
        }
      }
    })

  const hash = (name: string, commit: string, path: string, told: (bytes: number) => void = () => {}) =>
    read(name, commit, path, async ({ body, headers }) => {
      const sha256 = createHash("sha256")
      let bytes = 0
      for await (const chunk of body ?? []) {
        sha256.update(chunk)
        bytes += chunk.length
        told(bytes)
      }
      const said = headers.get("Content-Length")
      if (said !== null && headers.get("Content-Encoding") === null && Number(said) !== bytes)
        throw new Error(`the answer broke off after ${bytes} of ${said} bytes`)
      return { bytes, sha256: sha256.digest("hex") }
    })

  const text = (name: string, commit: string, path: string) =>
    absent(
      read(name, commit, path, async ({ body }) => {
        const chunks: Array<Uint8Array> = []
        let bytes = 0
        for await (const chunk of body ?? []) {
          bytes += chunk.length
          if (bytes > LONGEST_TEXT) throw new TooLong(`${path} has more than ${LONGEST_TEXT} bytes`)
          chunks.push(chunk)
        }
        return Buffer.concat(chunks).toString("utf8")
      }),
    )

  return Hub.of({
    endpoint,
    whoAmI,
    repository,
    create,
    tree,
    commit,
    pullRequests,
    merge: (name, number) => Effect.asVoid(api(name, "POST", `/api/models/${name}/discussions/${number}/merge`, {})),
    merged,
    close: (name, number) =>
      Effect.asVoid(api(name, "POST", `/api/models/${name}/discussions/${number}/status`, { status: "closed" })),
    tags: (name) =>
      api(name, "GET", `/api/models/${name}/refs`).pipe(
        Effect.flatMap(decoded(Refs, `GET /api/models/${name}/refs`)),
        Effect.map(({ tags }) => new Map(tags.map((tag) => [tag.name, tag.targetCommit]))),
      ),
    tag: (name, commit, tag, message) =>
      Effect.asVoid(api(name, "POST", `/api/models/${name}/tag/${encodeURIComponent(commit)}`, { tag, message })),
    hash,
    text,
    collection,
    collect: (collection, name) =>
      api(name, "POST", `/api/collections/${segments(collection)}/items`, { item: { type: "model", id: name } }).pipe(
        Effect.catchIf(
          (error): error is HubRefused => error instanceof HubRefused && error.status === 409,
          () => Effect.void,
        ),
        Effect.asVoid,
      ),
  })
})

class TooLong extends Error {}

const parsed = (text: string): unknown => {
  try {
    return text === "" ? undefined : JSON.parse(text)
  } catch {
    return undefined
  }
}

/** The hub asks for some files by name as large ones; an empty one cannot be sent so, and goes with the commit instead. */
const emptyAsRegular =
  (request: typeof fetch): typeof fetch =>
  async (input, init) => {
    const response = await request(input, init)
    if (!response.ok || !/\/preupload\//.test(String(input)) || typeof init?.body !== "string") return response
    const asked = JSON.parse(init.body) as { readonly files: ReadonlyArray<{ path: string; size: number }> }
    const empty = new Set(asked.files.filter(({ size }) => size === 0).map(({ path }) => path))
    const answer = (await response.json()) as { readonly files: ReadonlyArray<{ path: string; uploadMode: string }> }
    return Response.json({
      ...answer,
      files: answer.files.map((file) => (empty.has(file.path) ? { ...file, uploadMode: "regular" } : file)),
    })
  }

export const layer = (settings: HuggingFaceSettings): Layer.Layer<Hub> => Layer.effect(Hub, make(settings))
