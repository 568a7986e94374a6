/**
 * A release folder becomes a revision of a repository, whole or not at all.
 *
 * The whole algorithm is: look what the hub has, do the one thing that is missing, look again.
 *
 * | what the hub has                             | what is done                                                           |
 * |----------------------------------------------|------------------------------------------------------------------------|
 * | no repository                                | it is created, empty, with the visibility that was asked for           |
 * | `main` differs, no pull request of ours      | a first commit opens one; its title bears the digest of the release    |
 * | our pull request lacks files                 | the next commit goes to `refs/pr/N`                                    |
 * | our pull request lists everything            | every file is downloaded from there and hashed                         |
 * | our pull request is what was sent, verified  | it is merged; one that does not fit `main` any more is closed           |
 * | `main` is the release                        | it gets its tag; then the collection, and the predecessor's new version |
 *
 * So there is no state but the hub's: an interrupted publication is resumed by doing it again, a finished one has nothing to do, and
 * an answer that never came costs one more look. `main` moves once, by the merge, from one whole revision to the next.
 *
 * | file             | what                                                                   |
 * |------------------|------------------------------------------------------------------------|
 * | `Standing.ts`    | the look: what the hub has, and what speaks against publishing         |
 * | `Transfer.ts`    | files go up, commit by commit, and come back to be looked at           |
 * | `Merge.ts`       | whether a pull request may be merged, and whether what was is the release |
 * | `Predecessor.ts` | the card of the model that this one supersedes                         |
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { stream } from "../model/Random.ts"
import { staying } from "./Foreign.ts"
import { Hub, type PullRequest, type Repository } from "./Hub.ts"
import { HubRefused, HubUnreachable, type PublishError, RepositoryChanged, TransferDamaged } from "./HubError.ts"
import { checkMerge, type Merging, misfitOf } from "./Merge.ts"
import { announce } from "./Predecessor.ts"
import type { ReleaseContent } from "./ReleaseFiles.ts"
import { checkTag, compare, type Destination, isSame, type Tree, treeOf } from "./Standing.ts"
import { batchOf, readBack, type Sending, send, type TransferEvent } from "./Transfer.ts"

export interface PublishOptions extends Destination {
  /** Whether every file is downloaded from the pull request and hashed before it is merged. On, if not said. */
  readonly readBack?: boolean | undefined
  readonly report?: (event: PublishEvent) => void
  /** How often an act without an answer is followed by another look. */
  readonly looks?: number
}

export type PublishEvent = TransferEvent | { readonly _tag: "Did"; readonly text: string }

/** What a publication leaves behind: which revision is which bytes. */
export const Receipt = Schema.Struct({
  format: Schema.Literal(1),
  endpoint: Schema.String,
  repository: Schema.String,
  url: Schema.String,
  /** Commit of `main` that is the release. */
  revision: Schema.String,
  tag: Schema.String,
  private: Schema.Boolean,
  /** Digest over all paths and sums. */
  release: Schema.String,
  collection: Schema.optionalKey(Schema.String),
  supersedes: Schema.optionalKey(Schema.String),
  files: Schema.Array(Schema.Struct({ path: Schema.String, bytes: Schema.Int, sha256: Schema.String })),
})
export type Receipt = typeof Receipt.Type

const LOOKS = 6
/** Far more than any publication needs: a hub that forgets what it was told must not keep us for ever. */
const ACTS = 1_000
const ROTTEN_READS = 4

/** The title by which a later attempt knows the pull request of this very release. */
const titleOf = (content: ReleaseContent): string => `Publish ${content.name} (release ${content.digest.slice(0, 32)})`
const tagOf = (content: ReleaseContent, options: PublishOptions): string =>
  options.tag ?? `release-${content.digest.slice(0, 12)}`

const receiptOf = (
  content: ReleaseContent,
  options: PublishOptions,
  found: Pick<Receipt, "endpoint" | "revision" | "private">,
): Receipt => ({
  format: 1,
  endpoint: found.endpoint,
  repository: options.to,
  url: `${found.endpoint}/${options.to}`,
  revision: found.revision,
  tag: tagOf(content, options),
  private: found.private,
  release: content.digest,
  ...(options.collection !== undefined && { collection: options.collection }),
  ...(options.supersedes !== undefined && { supersedes: options.supersedes }),
  files: content.files.map(({ path, bytes, sha256 }) => ({ path, bytes, sha256 })),
})

export interface Published {
  readonly receipt: Receipt
  /** False when the hub had everything before. */
  readonly changed: boolean
}

/**
 * Publishes a release. Doing it again goes on from what the hub has.
 */
export const publish = Effect.fn("Publication.publish")(function* (
  content: ReleaseContent,
  options: PublishOptions,
): Effect.fn.Return<Published, PublishError, Hub> {
  const hub = yield* Hub
  const report = options.report ?? (() => {})
  const did = (text: string): void => report({ _tag: "Did", text })
  const title = titleOf(content)
  /** Commits whose every byte was downloaded and hashed, and what was wrong with the files of those that were not whole. */
  const verified = new Set<string>()
  let damaged: ReadonlyMap<string, string> = new Map()
  let sendings = 0
  let rottenReads = 0
  let misfits = 0
  let changed = false
  /** A merge that was asked for and not yet judged. */
  let merging: Merging | undefined
  /** The predecessor's card is asked for before anything is sent, and then not before it is to change. */
  let looked = options

  const sent = (sending: Omit<Sending, "title">) => send(content, { ...sending, title }, report)

  /** Closes a pull request that is not to be merged. The next look opens another; what was sent need not be sent again. */
  const abandon = (name: string, number: number, problem: string) =>
    Effect.gen(function* () {
      if (++misfits > 1)
        return yield* new RepositoryChanged({
          repository: name,
          problem: `pull request ${number} cannot be merged: ${problem}`,
          hint: `see who else writes to it: ${hub.endpoint}/${name}/discussions/${number}`,
        })
      yield* hub.close(name, number)
      did(`pull request ${number} does not fit \`main\`: closed, and another is opened (${problem})`)
    })

  /** One act on a pull request: what is missing is sent, what is whole is verified, what is verified is merged. */
  const advance = (
    { id: name, head }: Repository,
    main: Tree,
    removed: ReadonlyArray<string>,
    { number }: PullRequest,
  ) =>
    Effect.gen(function* () {
      const branch = yield* hub.repository(name, `refs/pr/${number}`)
      if (branch === undefined)
        return yield* new RepositoryChanged({
          repository: name,
          problem: `pull request ${number} has no branch`,
          hint: `close ${hub.endpoint}/${name}/discussions/${number} and publish again`,
        })
      const there = yield* treeOf(name, branch.head)
      const before = { head, tree: main }
      const misfit = yield* misfitOf(content, name, before, { head: branch.head, tree: there })
      if (misfit !== undefined) return yield* abandon(name, number, misfit)
      const missing = content.files.filter((file) => !isSame(file, there.get(file.path)) || damaged.has(file.path))
      const left = removed.filter((path) => there.has(path))
      if (missing.length > 0 || left.length > 0) {
        if (++sendings > 2 * content.files.length + 8)
          return yield* new TransferDamaged({
            repository: name,
            revision: `refs/pr/${number}`,
            problems: missing.map(({ path }) => `${path}: ${damaged.get(path) ?? "is sent and does not arrive"}`),
          })
        damaged = new Map([...damaged].filter(([path]) => !batchOf(missing).some((file) => file.path === path)))
        return yield* sent({ repository: name, parent: branch.head, pullRequest: number, missing, removed: left })
      }
      if (!verified.has(branch.head) && options.readBack !== false) {
        damaged = yield* readBack(content, name, branch.head, report)
        if (damaged.size === 0) {
          verified.add(branch.head)
          return did(`every byte of ${content.files.length} files read back from pull request ${number}`)
        }
        if (++rottenReads >= ROTTEN_READS)
          return yield* new TransferDamaged({
            repository: name,
            revision: `refs/pr/${number}`,
            problems: [...damaged].map(([path, problem]) => `${path}: ${problem}`),
          })
        return did(`${damaged.size} files arrived damaged and are sent again`)
      }
      merging = { repository: name, number, before, removed }
      const merged = yield* Effect.result(hub.merge(name, number))
      if (Result.isSuccess(merged)) return did(`merged pull request ${number}`)
      const error = merged.failure
      if (!(error instanceof HubRefused && error.status === 409)) return yield* error
      // somebody changed on main what this changes too
      yield* abandon(name, number, error.problem)
    })

  /** One look and one act. Gives the receipt when there is nothing left to do. */
  const step = Effect.gen(function* () {
    if (merging !== undefined) {
      yield* checkMerge(content, merging)
      merging = undefined
    }
    const { account, repository, main, removed, changes, foreign, collected } = yield* compare(content, looked)
    looked = { ...options, supersedes: undefined }
    if (repository === undefined) {
      changed = true
      yield* hub.create(options.to, options.private ? "private" : "public")
      return void did(`made ${hub.endpoint}/${options.to} (${options.private ? "private" : "public"})`)
    }
    if (changes.some(({ change }) => change !== "same")) {
      changed = true
      const ours = (yield* hub.pullRequests(options.to, account.name)).find((one) => one.title === title)
      if (ours !== undefined) return void (yield* advance(repository, main, removed, ours))
      const missing = content.files.filter((file) => !isSame(file, main.get(file.path)))
      return void (yield* sent({ repository: options.to, parent: repository.head, missing, removed }))
    }
    const tag = tagOf(content, options)
    const tagged = yield* checkTag(content, options.to, tag)
    if (tagged === undefined) {
      changed = true
      yield* hub.tag(options.to, repository.head, tag, `${content.name}, sha256 over all sums: ${content.digest}`)
      return void did(`tagged ${tag}`)
    }
    // another process publishing the same may have opened one beside ours
    for (const left of yield* hub.pullRequests(options.to, account.name))
      if (left.title === title) yield* hub.close(options.to, left.number)
    const { collection, supersedes } = options
    if (collection !== undefined && collected === false) {
      changed = true
      yield* hub.collect(collection, options.to)
      return void did(`added to the collection ${collection}`)
    }
    if (supersedes !== undefined) {
      const outcome = yield* announce(supersedes, options.to, account.name)
      if (outcome === "asked") {
        changed = true
        did(`asked ${supersedes} to name ${options.to} as its new version`)
      }
      if (outcome === "declined")
        did(`${supersedes} was asked before to name ${options.to}, and the pull request was closed: not asked again`)
    }
    if (foreign.length > 0) did(staying(foreign))
    return receiptOf(content, options, { endpoint: hub.endpoint, revision: tagged, private: repository.private })
  })

  const looks = options.looks ?? LOOKS
  const random = stream(0, `looks ${content.digest}`)
  let acts = 0
  for (let blind = 0; ; ) {
    if (++acts > ACTS)
      return yield* new RepositoryChanged({
        repository: options.to,
        problem: `${ACTS} acts did not make it the release`,
        hint: `look at ${hub.endpoint}/${options.to}/discussions`,
      })
    const outcome = yield* Effect.result(step)
    if (Result.isSuccess(outcome)) {
      if (outcome.success !== undefined) return { receipt: outcome.success, changed }
      continue
    }
    const error = outcome.failure
    // the act may have happened, or somebody else's did before it: what the hub has now decides
    const unclear =
      (error instanceof HubUnreachable && error.ambiguous) ||
      (error instanceof HubRefused && (error.status === 409 || error.status === 412))
    if (!unclear || ++blind > looks) return yield* error
    yield* Effect.sleep(`${random.uniform(blind) * Math.min(30, 0.25 * 2 ** blind) * 1000} millis`)
  }
})
