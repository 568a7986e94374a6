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
 * an answer that never came costs one more look. Commits name the parent they were made for, so that none can happen twice. `main`
 * moves once, by the merge, from one whole revision to the next.
 *
 * Large objects are addressed by content: what the hub has of them it says, and they are not sent again. Files that an earlier
 * release of ours put there (its `SHA256SUMS` lists them, and its signatures) and this one lacks are removed; files of other people
 * are left alone (`Foreign.ts`), unless a loader would take them for a part of the release: then nothing is published.
 *
 * The hub merges whatever the pull request is by then, so the merge is judged by what came of it.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { stream } from "../model/Random.ts"
import { isRepository } from "../model/Repository.ts"
import { ENVELOPE } from "../release/Signature.ts"
import { BUNDLE } from "../release/Sigstore.ts"
import { SUMS } from "../release/Sums.ts"
import { ATTRIBUTES, foreignFiles, isHubsOwnChange, isLoaded, staying } from "./Foreign.ts"
import { withNewVersion } from "./FrontMatter.ts"
import { type Account, Hub, type PullRequest, type RemoteFile, type Repository } from "./Hub.ts"
import {
  HubRefused,
  HubUnreachable,
  MergedOthers,
  NotAllowed,
  type PublishError,
  RepositoryChanged,
  TransferDamaged,
} from "./HubError.ts"
import { isWeights, parseSums, type ReleaseContent, type ReleaseFile } from "./ReleaseFiles.ts"
import { refusal } from "./Rights.ts"

export interface PublishOptions {
  /** `org/name`. */
  readonly to: string
  /** Of a repository that is not there yet. One that is there keeps its own; asked to be private, it must be. */
  readonly private: boolean
  /** By default `release-` and the beginning of the release's digest. */
  readonly tag?: string | undefined
  /** A collection's slug, `org/title-0123456789abcdef01234567`. */
  readonly collection?: string | undefined
  /** `org/name` of a model whose card is to say, by pull request, that this is its new version. */
  readonly supersedes?: string | undefined
  /** Whether every file is downloaded from the pull request and hashed before it is merged. On, if not said. */
  readonly readBack?: boolean | undefined
  readonly report?: (event: PublishEvent) => void
  /** How often an act without an answer is followed by another look. */
  readonly looks?: number
}

export type PublishEvent =
  /** All that is still to be sent, of which the next commit may be a part. */
  | { readonly _tag: "Sending"; readonly files: number; readonly bytes: number }
  | {
      readonly _tag: "File"
      readonly path: string
      readonly state: "hashing" | "sending" | "sent"
      readonly bytes: number
    }
  /** Of a file that is being sent or read back: bytes so far. */
  | { readonly _tag: "Part"; readonly path: string; readonly bytes: number }
  | { readonly _tag: "ReadingBack"; readonly files: number; readonly bytes: number }
  | { readonly _tag: "ReadBack"; readonly path: string; readonly bytes: number }
  | { readonly _tag: "Did"; readonly text: string }

export interface Change {
  readonly path: string
  readonly change: "new" | "changed" | "same" | "removed"
  readonly bytes: number
}

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

const SMALL = 1_000_000
const SMALL_FILES_A_COMMIT = 100
const BYTES_A_COMMIT = 1_000_000_000
const READ_BACK_AT_ONCE = 4

const isLarge = ({ path, bytes }: ReleaseFile): boolean => bytes >= SMALL || isWeights(path)

/** The title by which a later attempt knows the pull request of this very release. */
const titleOf = (content: ReleaseContent): string => `Publish ${content.name} (release ${content.digest.slice(0, 32)})`
const tagOf = (content: ReleaseContent, options: PublishOptions): string =>
  options.tag ?? `release-${content.digest.slice(0, 12)}`

const isSame = (file: ReleaseFile, remote: RemoteFile | undefined): boolean =>
  remote !== undefined &&
  remote.bytes === file.bytes &&
  (remote.sha256 === undefined ? remote.blob === file.blob : remote.sha256 === file.sha256)

type Tree = ReadonlyMap<string, RemoteFile>

/** Paths that an earlier release put there and this one lacks. `sums`: the `SHA256SUMS` that is there. */
const outdated = (content: ReleaseContent, there: Tree, sums: string | undefined): ReadonlyArray<string> => {
  const wanted = new Set(content.files.map(({ path }) => path))
  // a signature answers for the files it was made over, and is listed in no sums
  const put = [...parseSums(sums ?? "").sums.keys(), ENVELOPE, BUNDLE]
  return put.filter((path) => there.has(path) && !wanted.has(path)).sort()
}

const changesOf = (content: ReleaseContent, there: Tree, removed: ReadonlyArray<string>): ReadonlyArray<Change> =>
  [
    ...content.files.map((file): Change => {
      const remote = there.get(file.path)
      return {
        path: file.path,
        bytes: file.bytes,
        change: remote === undefined ? "new" : isSame(file, remote) ? "same" : "changed",
      }
    }),
    ...removed.map((path): Change => ({ path, bytes: there.get(path)!.bytes, change: "removed" })),
  ].sort((a, b) => (a.path < b.path ? -1 : 1))

/**
 * The next files to send: the small ones together, then the large ones, a gigabyte a commit or one alone. Two large files of the same
 * bytes never go together: the client would send both, at once, to one place; the second finds its object there.
 */
const batchOf = (missing: ReadonlyArray<ReleaseFile>): ReadonlyArray<ReleaseFile> => {
  const small = missing.filter((file) => !isLarge(file))
  if (small.length > 0) return small.slice(0, SMALL_FILES_A_COMMIT)
  const batch: Array<ReleaseFile> = []
  let bytes = 0
  for (const file of missing) {
    if (batch.some(({ sha256 }) => sha256 === file.sha256)) continue
    if (batch.length > 0 && bytes + file.bytes > BYTES_A_COMMIT) break
    batch.push(file)
    bytes += file.bytes
  }
  return batch
}

const checkNames = (options: PublishOptions) =>
  Effect.gen(function* () {
    for (const name of [options.to, ...(options.supersedes === undefined ? [] : [options.supersedes])])
      if (!isRepository(name))
        return yield* new NotAllowed({
          repository: name,
          problem: "it cannot name a repository",
          hint: "repositories are called org/name, of letters, digits, `-`, `_` and `.`",
        })
    if (options.tag !== undefined && !/^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$/.test(options.tag))
      return yield* new NotAllowed({
        repository: options.to,
        problem: `\`${options.tag}\` cannot name a tag`,
        hint: "up to 100 letters, digits, `.`, `_` and `-`",
      })
    if (options.collection !== undefined && !/^[A-Za-z0-9._-]+\/[A-Za-z0-9._-]+$/.test(options.collection))
      return yield* new NotAllowed({
        repository: options.to,
        problem: `\`${options.collection}\` names no collection`,
        hint: "the end of its address is meant: org/title-0123456789abcdef01234567",
      })
  })

const treeOf = Effect.fnUntraced(function* (name: string, commit: string) {
  const hub = yield* Hub
  return new Map((yield* hub.tree(name, commit)).map((file) => [file.path, file]))
})

/** Paths that are there at a commit and this release removes. */
const outdatedAt = Effect.fnUntraced(function* (content: ReleaseContent, name: string, commit: string, there: Tree) {
  const hub = yield* Hub
  return outdated(content, there, there.has(SUMS) ? yield* hub.text(name, commit, SUMS) : undefined)
})

/** The tag that was asked for: new, or at a commit that is this release. Any other is refused: a tag is never moved. */
const checkTag = Effect.fnUntraced(function* (content: ReleaseContent, name: string, tag: string) {
  const hub = yield* Hub
  const commit = (yield* hub.tags(name)).get(tag)
  if (commit === undefined) return undefined
  const there = yield* treeOf(name, commit)
  const changes = changesOf(content, there, yield* outdatedAt(content, name, commit, there))
  if (changes.every(({ change }) => change === "same")) return commit
  return yield* new RepositoryChanged({
    repository: name,
    problem: `the tag \`${tag}\` names another revision, ${commit.slice(0, 12)}`,
    hint: "publish with another `--tag`: a tag that people may have used is never moved",
  })
})

/** Whether a collection has the repository. Fails when there is no such collection, or it is not one to write to. */
const checkCollection = Effect.fnUntraced(function* (collection: string, name: string, account: Account) {
  const hub = yield* Hub
  const [owner = ""] = collection.split("/")
  const organization = account.organizations.find((one) => one.name === owner)
  if (owner !== account.name && (organization === undefined || organization.role === "read"))
    return yield* new NotAllowed({
      repository: name,
      problem: `${account.name} may not write to the collections of \`${owner}\``,
      hint: "name a collection of your own or of an organization where you may write, or leave `--collection` out",
    })
  const items = yield* hub.collection(collection)
  if (items === undefined)
    return yield* new NotAllowed({
      repository: name,
      problem: `there is no collection \`${collection}\`, or the token may not see it`,
      hint: "the end of its address is meant: org/title-0123456789abcdef01234567",
    })
  return items.includes(name)
})

/** What the hub has of a release. */
interface Standing {
  readonly account: Account
  /** Absent when it is still to be created. */
  readonly repository: Repository | undefined
  readonly main: Tree
  readonly removed: ReadonlyArray<string>
  readonly changes: ReadonlyArray<Change>
  /** Paths of other people's files: they stay. */
  readonly foreign: ReadonlyArray<string>
  /** Commit of the tag that was asked for, which is this release. Absent when it is still to be made, or none was asked for. */
  readonly tagged: string | undefined
  /** Whether the collection has the repository. Absent when none was asked for. */
  readonly collected: boolean | undefined
}

/**
 * What can be asked of the hub before there is a release: whether the token may publish there, as what was asked for. Changes nothing.
 */
export const mayPublish = Effect.fn("Publication.mayPublish")(function* (
  options: PublishOptions,
): Effect.fn.Return<Pick<Standing, "account" | "repository" | "collected">, PublishError, Hub> {
  const hub = yield* Hub
  yield* checkNames(options)
  const account = yield* hub.whoAmI
  const repository = yield* hub.repository(options.to)
  const refused = refusal(account, options.to, repository !== undefined)
  if (refused !== undefined) return yield* refused
  if (repository !== undefined && repository.id !== options.to)
    return yield* new RepositoryChanged({
      repository: options.to,
      problem: `it is called ${repository.id} now`,
      hint: `publish with \`--to ${repository.id}\``,
    })
  if (options.private && repository?.private === false)
    return yield* new RepositoryChanged({
      repository: options.to,
      problem: "it is public, and the release is to be private",
      hint: "make it private in its settings, publish to another, or leave `--private` out",
    })
  const { collection, supersedes } = options
  if (supersedes !== undefined) yield* cardNaming(supersedes, options.to)
  const collected = collection === undefined ? undefined : yield* checkCollection(collection, options.to, account)
  return { account, repository, collected }
})

/**
 * Compares a release with what the hub has of it, and says what speaks against publishing. Changes nothing.
 */
export const compare = Effect.fn("Publication.compare")(function* (
  content: ReleaseContent,
  options: PublishOptions,
): Effect.fn.Return<Standing, PublishError, Hub> {
  const hub = yield* Hub
  const { account, repository, collected } = yield* mayPublish(options)
  const { tag } = options
  const tagged = repository === undefined || tag === undefined ? undefined : yield* checkTag(content, options.to, tag)
  const main: Tree = repository === undefined ? new Map() : yield* treeOf(options.to, repository.head)
  const removed = repository === undefined ? [] : yield* outdatedAt(content, options.to, repository.head, main)
  const changes = changesOf(content, main, removed)
  const foreign = foreignFiles([...main.keys()], changes)
  const loaded = foreign.filter(isLoaded)
  if (loaded.length > 0)
    return yield* new RepositoryChanged({
      repository: options.to,
      problem: `it has files that are not of the release and would be loaded with it: ${loaded.join(", ")}`,
      hint: `delete them at ${hub.endpoint}/${options.to}/tree/main, or publish to another repository`,
    })
  return { account, repository, main, removed, changes, foreign, tagged, collected }
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

  const send = (
    repository: string,
    parent: string,
    missing: ReadonlyArray<ReleaseFile>,
    removed: ReadonlyArray<string>,
    pullRequest?: number,
  ) =>
    Effect.gen(function* () {
      const files = batchOf(missing)
      const bytes = new Map(files.map((file) => [file.path, file.bytes]))
      report({ _tag: "Sending", files: missing.length, bytes: missing.reduce((sum, file) => sum + file.bytes, 0) })
      yield* hub.commit({
        repository,
        parent,
        title:
          pullRequest === undefined
            ? title
            : `${content.name}: ${files.length === 1 ? files[0]!.path : `${files.length} files`}`,
        description: `${content.files.length} files, ${content.bytes} bytes; sha256 over all sums: ${content.digest}`,
        ...(pullRequest !== undefined && { pullRequest }),
        files,
        removed: files.length === missing.length ? removed : [],
        file: (path, state) => report({ _tag: "File", path, state, bytes: bytes.get(path) ?? 0 }),
        part: (path, bytes) => report({ _tag: "Part", path, bytes }),
      })
      for (const file of files) report({ _tag: "File", path: file.path, state: "sent", bytes: file.bytes })
    })

  /** Downloads every file as anybody would, and says which are not the release's. */
  const readBack = (name: string, commit: string) =>
    Effect.gen(function* () {
      report({ _tag: "ReadingBack", files: content.files.length, bytes: content.bytes })
      const found = yield* Effect.forEach(
        content.files,
        (file) =>
          Effect.map(
            hub.hash(name, commit, file.path, (so) => report({ _tag: "Part", path: file.path, bytes: so })),
            (there) => {
              report({ _tag: "ReadBack", path: file.path, bytes: file.bytes })
              return there.sha256 === file.sha256 && there.bytes === file.bytes
                ? []
                : [
                    [
                      file.path,
                      `sha256 ${there.sha256.slice(0, 16)}…, ${there.bytes} bytes; sent were ${file.sha256.slice(0, 16)}…, ${file.bytes} bytes`,
                    ] as const,
                  ]
            },
          ),
        { concurrency: READ_BACK_AT_ONCE },
      )
      return new Map(found.flat())
    })

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
      const wanted = new Set(content.files.map(({ path }) => path))
      // beside the release it may have what `main` has and nothing else: whatever was pushed into it, and whatever `main` lost since
      const strange = [...there.values()].find(
        ({ path, blob }) => !wanted.has(path) && path !== ATTRIBUTES && main.get(path)?.blob !== blob,
      )
      if (strange !== undefined) return yield* abandon(name, number, `it has another ${strange.path} than \`main\``)
      if (!(yield* isAttributesOurs(content, name, { head, tree: main }, { head: branch.head, tree: there })))
        return yield* abandon(name, number, `it has another ${ATTRIBUTES} than \`main\``)
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
        return yield* send(name, branch.head, missing, left, number)
      }
      if (!verified.has(branch.head) && options.readBack !== false) {
        damaged = yield* readBack(name, branch.head)
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
      merging = { repository: name, number, before: { head, tree: main }, removed }
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
      return void (yield* send(options.to, repository.head, missing, removed))
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
    const receipt: Receipt = {
      format: 1,
      endpoint: hub.endpoint,
      repository: options.to,
      url: `${hub.endpoint}/${options.to}`,
      revision: tagged,
      tag,
      private: repository.private,
      release: content.digest,
      ...(collection !== undefined && { collection }),
      ...(supersedes !== undefined && { supersedes }),
      files: content.files.map(({ path, bytes, sha256 }) => ({ path, bytes, sha256 })),
    }
    return receipt
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

const LOOKS = 6
/** Far more than any publication needs: a hub that forgets what it was told must not keep us for ever. */
const ACTS = 1_000
const ROTTEN_READS = 4

interface Revision {
  readonly head: string
  readonly tree: Tree
}

interface Merging {
  readonly repository: string
  readonly number: number
  /** `main` as it was looked at before. */
  readonly before: Revision
  readonly removed: ReadonlyArray<string>
}

/** Whether `.gitattributes` is what it was, but for what the hub itself writes there. */
const isAttributesOurs = Effect.fnUntraced(function* (
  content: ReleaseContent,
  name: string,
  before: Revision,
  after: Revision,
) {
  const hub = yield* Hub
  if (before.tree.get(ATTRIBUTES)?.blob === after.tree.get(ATTRIBUTES)?.blob) return true
  const text = ({ head, tree }: Revision) =>
    tree.has(ATTRIBUTES) ? hub.text(name, head, ATTRIBUTES) : Effect.succeed(undefined)
  return isHubsOwnChange((yield* text(before)) ?? "", (yield* text(after)) ?? "", content)
})

/**
 * Holds the commit of a merge against `main` as it was, with the release in it. Another difference was pushed into the pull request,
 * or to `main`, after the last look: it is published, and must not stay unnoticed. A merge that did not happen is none.
 */
const checkMerge = Effect.fnUntraced(function* (
  content: ReleaseContent,
  { repository, number, before, removed }: Merging,
) {
  const hub = yield* Hub
  const commit = yield* hub.merged(repository, number)
  if (commit === undefined) return
  const tree = yield* treeOf(repository, commit)
  const files = new Map(content.files.map((file) => [file.path, file]))
  const differs = (path: string): boolean => {
    const file = files.get(path)
    if (file !== undefined) return !isSame(file, tree.get(path))
    return tree.get(path)?.blob !== (removed.includes(path) ? undefined : before.tree.get(path)?.blob)
  }
  const paths = [...new Set([...tree.keys(), ...before.tree.keys(), ...files.keys()])]
  const strange = paths.filter((path) => path !== ATTRIBUTES && differs(path))
  if (!(yield* isAttributesOurs(content, repository, before, { head: commit, tree }))) strange.push(ATTRIBUTES)
  if (strange.length > 0)
    return yield* new MergedOthers({ repository, number, commit, paths: strange.sort(), endpoint: hub.endpoint })
})

/** A predecessor's card, and the same with the new version in it. */
const cardNaming = Effect.fnUntraced(function* (predecessor: string, successor: string) {
  const hub = yield* Hub
  const repository = yield* hub.repository(predecessor)
  if (repository === undefined)
    return yield* new NotAllowed({
      repository: predecessor,
      problem: "there is no such model, or the token may not see it",
      hint: "`--supersedes` names the model whose card is to point to the new one",
    })
  const card = (yield* hub.text(predecessor, repository.head, "README.md")) ?? ""
  const edited = yield* Effect.promise(() => withNewVersion(card, successor))
  if (Result.isFailure(edited))
    return yield* new RepositoryChanged({
      repository: predecessor,
      problem: `its card's front matter cannot be given a new version: ${edited.failure}`,
      hint: "mend its README.md, or publish without `--supersedes`",
    })
  return { head: repository.head, card, edited: edited.success }
})

/** Opens a pull request that sets `new_version` in a predecessor's card, unless it is set or was asked for before, whatever came of it. */
const announce = Effect.fnUntraced(function* (predecessor: string, successor: string, author: string) {
  const hub = yield* Hub
  const { head, card, edited } = yield* cardNaming(predecessor, successor)
  if (edited === card) return "done"
  const title = `New version: ${successor}`
  const before = (yield* hub.pullRequests(predecessor, author, "any")).filter((one) => one.title === title)
  if (before.length > 0) return before.some(({ status }) => status === "open") ? "waiting" : "declined"
  yield* hub.commit({
    repository: predecessor,
    parent: head,
    title,
    description: `${successor} supersedes this model.`,
    files: [{ path: "README.md", bytes: Buffer.byteLength(edited), content: { text: edited } }],
    removed: [],
    file: () => {},
    part: () => {},
  })
  return "asked"
})
