/**
 * A release brought here from the Hub to be checked, into a folder that is gone afterwards.
 *
 * A listing comes from outside and is believed in nothing: before anything is written all its names are judged together, for every kind
 * of machine (`src/hub/Paths.ts`), and one bad name refuses the whole. Each file must have the size and the digest the listing says:
 * sha256 for large files, git's own sum for small ones. No more is read than was announced. What the Hub adds is not fetched.
 */
import { createHash } from "node:crypto"
import { closeSync, mkdirSync, openSync, writeSync } from "node:fs"
import { dirname, join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { endpointSetting } from "../hub/Endpoint.ts"
import { HubAnswerStrange, HubRefused, HubUnreachable } from "../hub/HubError.ts"
import { pathProblems } from "../hub/Paths.ts"
import { redact } from "../hub/Redact.ts"
import { makeFetch, type Patience, patience } from "../hub/Requests.ts"
import { findToken } from "../hub/Token.ts"
import { plainly } from "./Finding.ts"
import { temporary } from "./Release.ts"

export class ListingHostile extends Schema.TaggedError<ListingHostile>()("ListingHostile", {
  repository: Schema.String,
  problems: Schema.Array(Schema.String),
}) {
  override get message() {
    const some = this.problems.slice(0, 10).map((problem) => `  ${plainly(problem.slice(0, 300))}`)
    const more = this.problems.length > 10 ? [`  and ${this.problems.length - 10} more`] : []
    return [
      `${this.repository} lists what cannot be written safely; nothing was written`,
      ...some,
      ...more,
      "  hint: no release of `exp` has such names; tell whoever owns the repository",
    ].join("\n")
  }
}

export class DownloadDamaged extends Schema.TaggedError<DownloadDamaged>()("DownloadDamaged", {
  repository: Schema.String,
  path: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `${this.repository}: ${this.path}: ${this.problem}\n  hint: run the same command again; if it stays so, the hub does not serve what it lists`
  }
}

const Size = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
const Entry = Schema.Struct({
  type: Schema.String,
  path: Schema.String,
  size: Size,
  oid: Schema.String,
  lfs: Schema.optionalKey(Schema.Struct({ oid: Schema.String, size: Size })),
})
type Entry = typeof Entry.Type
const Info = Schema.Struct({ sha: Schema.String.check(Schema.isPattern(/^[0-9a-f]{40,64}$/)) })

const MOST_FILES = 10_000
const MOST_PAGES = 1_000
const ATTEMPTS = 4
const REDIRECTS = 5

export interface DownloadRequest {
  /** org/name. */
  readonly repository: string
  readonly revision: string
  readonly endpoint: string | undefined
  readonly say: (text: string) => void
  readonly patience?: Partial<Patience>
}

/** What a checked release was brought from. */
export interface Origin {
  readonly repository: string
  /** Of the whole repository: what its revision stood for. */
  readonly commit: string
  /** Files of the repository that are no part of the release and were not fetched. */
  readonly added: ReadonlyArray<string>
}

const isAdded = (path: string): boolean => path === ".gitattributes" || path === ".gitignore"

const segments = (path: string): string => path.split("/").map(encodeURIComponent).join("/")

/** The next page of a list, if it lies on the same server. */
const nextPage = (link: string | null, before: string): string | undefined => {
  const [, address] = /<([^>]*)>\s*;\s*rel="?next"?/.exec(link ?? "") ?? []
  if (address === undefined) return undefined
  const next = new URL(address, before)
  if (next.origin !== new URL(before).origin) throw new Error("the list goes on at another server")
  return next.href
}

/** What was announced, as a check that is fed piece by piece. */
const expectation = ({ size, oid, lfs }: Entry) => {
  const bytes = lfs?.size ?? size
  const hash = lfs === undefined ? createHash("sha1").update(`blob ${bytes}\0`) : createHash("sha256")
  let seen = 0
  return {
    /** Throws as soon as there is more than was announced. */
    add: (chunk: Uint8Array): void => {
      seen += chunk.length
      if (seen > bytes) throw new Error(`it has more than the ${bytes} bytes the hub lists`)
      hash.update(chunk)
    },
    problem: (): string | undefined =>
      seen !== bytes
        ? `it broke off after ${seen} of ${bytes} bytes`
        : hash.digest("hex") !== (lfs?.oid ?? oid)
          ? "it has other bytes than the hub lists"
          : undefined,
  }
}

/** The downloaded release in a folder that is gone with the scope, and where it came from. */
export const download = Effect.fn("verification.download")(function* (request: DownloadRequest) {
  const { repository, revision, say } = request
  const endpoint = yield* endpointSetting(request.endpoint)
  const token = yield* Effect.option(findToken)
  const context = yield* Effect.context<never>()
  const fetching = makeFetch({
    endpoint,
    token: token._tag === "Some" ? token.value : undefined,
    patience: { ...patience, ...request.patience },
    watch: { waiting: say },
    sleep: (seconds, signal) =>
      Effect.runPromiseWith(context)(Effect.sleep(`${seconds * 1000} millis`), signal === undefined ? {} : { signal }),
  })
  const folder = yield* temporary

  const asking = <A>(doing: string, ask: (signal: AbortSignal) => Promise<A>) =>
    Effect.tryPromise({
      try: ask,
      catch: (cause) =>
        cause instanceof HubUnreachable || cause instanceof HubRefused || cause instanceof DownloadDamaged
          ? cause
          : new HubAnswerStrange({
              request: doing,
              problem: redact(cause instanceof Error ? cause.message.split("\n")[0]! : String(cause)),
            }),
    })

  const answerOf = async (doing: string, address: string, signal: AbortSignal): Promise<Response> => {
    let at = address
    for (let hops = 0; hops <= REDIRECTS; hops++) {
      const response = await fetching(at, { redirect: "manual", signal })
      if (response.status < 300 || response.status >= 400) {
        if (response.ok) return response
        await response.body?.cancel()
        throw new HubRefused({
          request: doing,
          status: response.status,
          problem:
            response.status === 404 || response.status === 401
              ? "there is no such repository or revision that your token may see"
              : "it says nothing more",
        })
      }
      await response.body?.cancel()
      // each address is judged anew whether the token may go there
      const next = new URL(response.headers.get("Location") ?? "", at)
      if (next.protocol !== "https:" && next.hostname !== new URL(endpoint).hostname)
        throw new Error("it is served from where anybody could change it on the way")
      at = next.href
    }
    throw new Error("it leads from one address to the next without an end")
  }

  const looking = `look at ${repository}`
  const { sha } = yield* asking(looking, async (signal) => {
    const address = `${endpoint}/api/models/${repository}/revision/${encodeURIComponent(revision)}`
    return Schema.decodeUnknownSync(Info)(await (await answerOf(looking, address, signal)).json())
  })
  say(`listing ${repository} at ${sha.slice(0, 12)}`)
  const entries = yield* asking(looking, async (signal) => {
    const all: Array<Entry> = []
    let page: string | undefined = `${endpoint}/api/models/${repository}/tree/${sha}?recursive=true`
    for (let pages = 0; page !== undefined; pages++) {
      if (pages >= MOST_PAGES || all.length > MOST_FILES) throw new Error(`it lists more than ${MOST_FILES} files`)
      const response: Response = await answerOf(looking, page, signal)
      all.push(...Schema.decodeUnknownSync(Schema.Array(Entry))(await response.json()))
      page = nextPage(response.headers.get("Link"), page)
    }
    return all
  })
  const files = entries.filter(({ type, path }) => type === "file" && !isAdded(path))
  const problems = [
    ...pathProblems(files.map(({ path }) => path)),
    ...entries
      .filter(({ type }) => type !== "file" && type !== "directory")
      .map(({ type, path }) => `${JSON.stringify(path)} is a ${JSON.stringify(type)}`),
  ]
  if (problems.length > 0) return yield* new ListingHostile({ repository, problems })

  for (const [index, entry] of files.entries()) {
    const { path } = entry
    const doing = `download ${path} of ${repository}`
    say(`downloading ${path}, ${index + 1} of ${files.length}`)
    yield* asking(doing, async (signal) => {
      const full = join(folder, ...path.split("/"))
      mkdirSync(dirname(full), { recursive: true })
      for (let attempt = 1; ; attempt++) {
        const { body } = await answerOf(doing, `${endpoint}/${repository}/resolve/${sha}/${segments(path)}`, signal)
        const expected = expectation(entry)
        const problem = await into(full, body, expected.add).then(expected.problem, (cause: Error) => cause.message)
        signal.throwIfAborted()
        if (problem === undefined) return
        if (attempt >= ATTEMPTS) throw new DownloadDamaged({ repository, path, problem: redact(problem) })
      }
    })
  }
  const added = entries.map(({ path }) => path).filter(isAdded)
  return { folder, origin: { repository, commit: sha, added } satisfies Origin }
})

const into = async (
  path: string,
  body: ReadableStream<Uint8Array> | null,
  add: (chunk: Uint8Array) => void,
): Promise<void> => {
  const file = openSync(path, "w")
  try {
    for await (const chunk of body ?? []) {
      add(chunk)
      for (let done = 0; done < chunk.length; ) done += writeSync(file, chunk, done)
    }
  } finally {
    closeSync(file)
  }
}
