/**
 * Files of a repository on the hub: what a revision lists, and each of them brought here.
 *
 * A listing comes from outside and is believed in nothing. A file must have the size and the digest the listing says: sha256 for large
 * files, git's own sum for small ones. No more is read than was announced. What broke off goes on where it ended (`Range`), be it in
 * this process or in a later one: what lies there is hashed again first, so that the sum is over the whole file in any case.
 *
 * | what went wrong                          | what is done                                                           |
 * |------------------------------------------|------------------------------------------------------------------------|
 * | broken off after a megabyte or more      | goes on from there, as often as it takes                               |
 * | broken off sooner, or the address is over | the same, four times in a row                                          |
 * | other bytes than listed, or more of them | begun anew, four times                                                 |
 *
 * The token is sent where the hub does not serve without: what is public is asked for by nobody in particular.
 */
import { createHash, type Hash } from "node:crypto"
import { closeSync, ftruncateSync, mkdirSync, openSync, readSync, writeSync } from "node:fs"
import { dirname } from "node:path"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { isPlatform } from "../store/Failed.ts"
import { endpointSetting } from "./Endpoint.ts"
import { HubAnswerStrange, HubRefused, HubUnreachable } from "./HubError.ts"
import { plainly, redact } from "./Redact.ts"
import { makeFetch, type Patience, patience } from "./Requests.ts"
import { findToken } from "./Token.ts"

export class ListingHostile extends Schema.TaggedError<ListingHostile>()("ListingHostile", {
  repository: Schema.String,
  problems: Schema.Array(Schema.String),
  hint: Schema.String,
}) {
  override get message() {
    const some = this.problems.slice(0, 10).map((problem) => `  ${plainly(problem.slice(0, 300))}`)
    const more = this.problems.length > 10 ? [`  and ${this.problems.length - 10} more`] : []
    return [
      `${this.repository} lists what cannot be written safely; nothing was written`,
      ...some,
      ...more,
      `  hint: ${this.hint}`,
    ].join("\n")
  }
}

export class ListingTooLong extends Schema.TaggedError<ListingTooLong>()("ListingTooLong", {
  repository: Schema.String,
  below: Schema.String,
  most: Schema.Int,
}) {
  override get message() {
    const { repository, below, most } = this
    return `${repository} lists more than ${most} files${below === "" ? "" : ` in \`${below}\``}: nothing was fetched of it\n  hint: see that it is the repository you mean; of a data set, name a folder of fewer in \`files\``
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

/** This machine's disk took no more: nobody else's fault, and asking again changes nothing. */
export class DownloadUnwritable extends Schema.TaggedError<DownloadUnwritable>()("DownloadUnwritable", {
  path: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `${this.path} cannot be written: ${this.problem}\n  hint: see that its disk has room and may be written, then run the same command again: it goes on from what is there`
  }
}

const Size = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
export const Entry = Schema.Struct({
  type: Schema.String,
  path: Schema.String,
  size: Size,
  oid: Schema.String,
  lfs: Schema.optionalKey(Schema.Struct({ oid: Schema.String, size: Size })),
})
export type Entry = typeof Entry.Type
const Info = Schema.Struct({ sha: Schema.String.check(Schema.isPattern(/^[0-9a-f]{40,64}$/)) })

const MOST_PAGES = 1_000
const ATTEMPTS = 4
const REDIRECTS = 5
/** A connection that brought less than this before it broke was none. */
const PROGRESS = 1_000_000
const READ_AT_ONCE = 1 << 20

/** Bytes of a file as its content is listed: of a large one, not those of its pointer. */
export const bytesOf = ({ size, lfs }: Entry): number => lfs?.size ?? size

export interface FilesRequest {
  readonly kind: "models" | "datasets"
  /** org/name. */
  readonly repository: string
  readonly endpoint: string | undefined
  readonly say: (text: string) => void
  readonly patience?: Partial<Patience> | undefined
}

export type FilesError =
  | HubUnreachable
  | HubRefused
  | HubAnswerStrange
  | ListingTooLong
  | DownloadDamaged
  | DownloadUnwritable

export interface Files {
  /** The commit that a branch, a tag or a commit stands for. */
  readonly commitOf: (revision: string) => Effect.Effect<string, FilesError>
  /** All that is below a folder of the repository, "" for all of it; more than `most` is refused. */
  readonly list: (commit: string, below: string, most: number) => Effect.Effect<ReadonlyArray<Entry>, FilesError>
  /** Brings a file to `to`, going on from what lies there; gives its sha256. `moved` is told how many of its bytes are there. */
  readonly bring: (
    commit: string,
    entry: Entry,
    to: string,
    moved?: (bytes: number) => void,
  ) => Effect.Effect<string, FilesError>
}

const segments = (path: string): string => path.split("/").map(encodeURIComponent).join("/")

/** The next page of a list, if it lies on the same server. */
const nextPage = (link: string | null, before: string): string | undefined => {
  const [, address] = /<([^>]*)>\s*;\s*rel="?next"?/.exec(link ?? "") ?? []
  if (address === undefined) return undefined
  const next = new URL(address, before)
  if (next.origin !== new URL(before).origin) throw new Error("the list goes on at another server")
  return next.href
}

/** What a file that is on its way must become, and how much of it is there. */
class Landing {
  readonly #path: string
  readonly #file: number
  readonly #entry: Entry
  readonly bytes: number
  #git!: Hash
  #sha256!: Hash
  /** Bytes that lie there and are counted in the sums: never more than were written. */
  seen = 0

  constructor(path: string, entry: Entry) {
    this.#path = path
    this.#entry = entry
    this.bytes = bytesOf(entry)
    this.#file = this.#here(() => {
      mkdirSync(dirname(path), { recursive: true })
      // "a+" makes it where it is missing, and "r+" may write at any place
      closeSync(openSync(path, "a+"))
      return openSync(path, "r+")
    })
    this.#begin()
  }

  /** What is asked of this machine fails as this machine's. */
  #here<A>(work: () => A): A {
    try {
      return work()
    } catch (cause) {
      if (!isPlatform(cause)) throw cause
      throw new DownloadUnwritable({ path: this.#path, problem: cause.message })
    }
  }

  #begin(): void {
    this.#git = createHash("sha1").update(`blob ${this.bytes}\0`)
    this.#sha256 = createHash("sha256")
    this.seen = 0
  }

  #fits(chunk: Uint8Array): void {
    if (this.seen + chunk.length <= this.bytes) return
    this.seen = this.bytes + 1
    throw new Error(`it has more than the ${this.bytes} bytes the hub lists`)
  }

  #count(chunk: Uint8Array): void {
    this.seen += chunk.length
    this.#git.update(chunk)
    this.#sha256.update(chunk)
  }

  /** Takes in what an earlier attempt left, some at a time. */
  *leftovers(): Generator<void> {
    const buffer = Buffer.alloc(READ_AT_ONCE)
    try {
      for (let read = readSync(this.#file, buffer); read > 0; read = readSync(this.#file, buffer)) {
        const chunk = buffer.subarray(0, read)
        this.#fits(chunk)
        this.#count(chunk)
        yield
      }
    } catch {
      this.restart()
    }
  }

  add(chunk: Uint8Array): void {
    this.#fits(chunk)
    this.#here(() => {
      for (let done = 0; done < chunk.length; )
        done += writeSync(this.#file, chunk, done, chunk.length - done, this.seen + done)
    })
    this.#count(chunk)
  }

  restart(): void {
    this.#here(() => ftruncateSync(this.#file, 0))
    this.#begin()
  }

  get whole(): boolean {
    return this.seen === this.bytes
  }
  get sha256(): string {
    return this.#sha256.copy().digest("hex")
  }
  get asListed(): boolean {
    const { lfs, oid } = this.#entry
    return lfs === undefined ? this.#git.copy().digest("hex") === oid : this.sha256 === lfs.oid
  }

  close(): void {
    closeSync(this.#file)
  }
}

/** What a refusal means; `page` is where people look, `asked` whether a token was shown. */
const refusal = (
  response: Response,
  page: string,
  asked: boolean,
): { readonly problem: string; readonly hint?: string } => {
  if (response.headers.get("X-Error-Code") === "GatedRepo")
    return asked
      ? {
          problem: "it is open to those who accepted its terms, and the owner of the token is none of them",
          hint: `accept them at ${page} as the owner of the token, which must be allowed to read gated repositories; some are opened by hand, and take days`,
        }
      : {
          problem: "it is open to those who accepted its terms",
          hint: `accept them at ${page}, then set HF_TOKEN or run \`hf auth login\``,
        }
  if (response.status === 404 || response.status === 401)
    return asked
      ? { problem: "there is no such repository or revision that your token may see" }
      : {
          problem: "there is no such repository or revision, or it is private",
          hint: "see that it is spelled so; what is private needs HF_TOKEN or `hf auth login`",
        }
  return { problem: "it says nothing more" }
}

/** A repository to list and to bring files from. */
export const openFiles = Effect.fn("hub.openFiles")(function* (request: FilesRequest) {
  const { kind, repository, say } = request
  const endpoint = yield* endpointSetting(request.endpoint)
  const kept = Option.getOrUndefined(yield* Effect.option(findToken))
  const context = yield* Effect.context<never>()
  const as = (token: typeof kept) =>
    makeFetch({
      endpoint,
      token,
      patience: { ...patience, ...request.patience },
      watch: { waiting: say },
      sleep: (seconds, signal) =>
        Effect.runPromiseWith(context)(
          Effect.sleep(`${seconds * 1000} millis`),
          signal === undefined ? {} : { signal },
        ),
    })
  let fetching = as(undefined)
  let known = false
  const own = kind === "models" ? repository : `${kind}/${repository}`
  const api = `${endpoint}/api/${kind}/${repository}`

  const asking = <A>(doing: string, ask: (signal: AbortSignal) => Promise<A>): Effect.Effect<A, FilesError> =>
    Effect.tryPromise({
      try: ask,
      catch: (cause) =>
        cause instanceof HubUnreachable ||
        cause instanceof HubRefused ||
        cause instanceof ListingTooLong ||
        cause instanceof DownloadDamaged ||
        cause instanceof DownloadUnwritable
          ? cause
          : new HubAnswerStrange({
              request: doing,
              problem: redact(cause instanceof Error ? cause.message.split("\n")[0]! : String(cause)),
            }),
    })

  const answerOf = async (doing: string, address: string, init: RequestInit): Promise<Response> => {
    let at = address
    for (let hops = 0; hops <= REDIRECTS; hops++) {
      const response = await fetching(at, { ...init, redirect: "manual" })
      if (response.status < 300 || response.status >= 400) {
        if (response.ok) return response
        await response.body?.cancel()
        // what is private is said not to be there
        if ([401, 403, 404].includes(response.status) && !known && kept !== undefined) {
          known = true
          fetching = as(kept)
          return answerOf(doing, address, init)
        }
        throw new HubRefused({
          request: doing,
          status: response.status,
          ...refusal(response, `${endpoint}/${own}`, known),
        })
      }
      await response.body?.cancel()
      // each address is judged anew whether the token may go there
      const next = new URL(response.headers.get("Location") ?? "", at)
      if (next.protocol !== "https:" && (endpoint.startsWith("https:") || next.hostname !== new URL(endpoint).hostname))
        throw new Error("it is served from where anybody could change it on the way")
      at = next.href
    }
    throw new Error("it leads from one address to the next without an end")
  }

  const looking = `look at ${repository}`
  const commitOf: Files["commitOf"] = (revision) =>
    asking(looking, async (signal) => {
      const response = await answerOf(looking, `${api}/revision/${encodeURIComponent(revision)}`, { signal })
      return Schema.decodeUnknownSync(Info)(await response.json()).sha
    })

  const list: Files["list"] = (commit, below, most) =>
    asking(looking, async (signal) => {
      const all: Array<Entry> = []
      const folder = below === "" ? "" : `/${segments(below)}`
      let page: string | undefined = `${api}/tree/${commit}${folder}?recursive=true`
      for (let pages = 0; page !== undefined; pages++) {
        if (pages >= MOST_PAGES) throw new Error(`its list goes on after ${MOST_PAGES} pages`)
        const response: Response = await answerOf(looking, page, { signal })
        all.push(...Schema.decodeUnknownSync(Schema.Array(Entry))(await response.json()))
        if (all.length > most && all.filter(({ type }) => type === "file").length > most)
          throw new ListingTooLong({ repository, below, most })
        page = nextPage(response.headers.get("Link"), page)
      }
      return all
    })

  /** One connection's worth of a file; throws what ended it. */
  const fill = async (doing: string, address: string, landing: Landing, signal: AbortSignal, moved: () => void) => {
    const range = landing.seen === 0 ? {} : { headers: { Range: `bytes=${landing.seen}-` } }
    const response = await answerOf(doing, address, { ...range, signal })
    const goesOn = response.headers.get("Content-Range")?.startsWith(`bytes ${landing.seen}-`)
    if (landing.seen > 0 && !(response.status === 206 && goesOn)) landing.restart()
    for await (const chunk of response.body ?? []) {
      landing.add(chunk)
      moved()
    }
    if (!landing.whole) throw new Error(`it broke off after ${landing.seen} of ${landing.bytes} bytes`)
  }

  const bring: Files["bring"] = (commit, entry, to, moved) => {
    const doing = `download ${entry.path} of ${repository}`
    const address = `${endpoint}/${own}/resolve/${commit}/${segments(entry.path)}`
    return asking(doing, async (signal) => {
      const landing = new Landing(to, entry)
      try {
        for (const _ of landing.leftovers()) {
          // hashing gigabytes holds up nobody
          await new Promise(setImmediate)
          signal.throwIfAborted()
        }
        let broken = 0
        let spoiled = 0
        for (;;) {
          const before = landing.seen
          const problem = landing.whole
            ? undefined
            : await fill(doing, address, landing, signal, () => moved?.(landing.seen)).then(
                () => undefined,
                (cause: unknown) => cause,
              )
          signal.throwIfAborted()
          if (problem instanceof DownloadUnwritable) throw problem
          if (landing.whole && landing.asListed) return landing.sha256
          // the place it was to go on at does not exist there
          const short = problem instanceof HubRefused && problem.status === 416
          if (landing.seen >= landing.bytes || short) {
            spoiled++
            landing.restart()
          } else if (problem instanceof HubRefused || (problem instanceof HubUnreachable && !problem.ambiguous))
            throw problem
          else broken = landing.seen - before >= PROGRESS ? 0 : broken + 1
          if (spoiled < ATTEMPTS && broken < ATTEMPTS) continue
          const said =
            problem instanceof Error ? problem.message.split("\n")[0]! : "it has other bytes than the hub lists"
          throw new DownloadDamaged({ repository, path: entry.path, problem: redact(said) })
        }
      } finally {
        landing.close()
      }
    })
  }

  return { commitOf, list, bring } satisfies Files as Files
})
