/**
 * What the hub has of a release: which of its files are there, which are others, and what speaks against publishing it. Asking changes
 * nothing.
 *
 * Files that an earlier release of ours put there (its `SHA256SUMS` lists them, and its signatures) and this one lacks are removed; files
 * of other people are left alone (`Foreign.ts`), unless a loader would take them for a part of the release: then nothing is published.
 */
import * as Effect from "effect/Effect"
import { isRepository } from "../model/Repository.ts"
import { ENVELOPE } from "../release/Signature.ts"
import { BUNDLE } from "../release/Sigstore.ts"
import { SUMS } from "../release/Sums.ts"
import { foreignFiles, isLoaded } from "./Foreign.ts"
import { type Account, Hub, type RemoteFile, type Repository } from "./Hub.ts"
import { NotAllowed, type PublishError, RepositoryChanged } from "./HubError.ts"
import { cardNaming } from "./Predecessor.ts"
import { parseSums, type ReleaseContent, type ReleaseFile } from "./ReleaseFiles.ts"
import { refusal } from "./Rights.ts"

/** Where a release goes, and what is to point to it there. */
export interface Destination {
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
}

export interface Change {
  readonly path: string
  readonly change: "new" | "changed" | "same" | "removed"
  readonly bytes: number
}

export const isSame = (file: ReleaseFile, remote: RemoteFile | undefined): boolean =>
  remote !== undefined &&
  remote.bytes === file.bytes &&
  (remote.sha256 === undefined ? remote.blob === file.blob : remote.sha256 === file.sha256)

/** Files at a commit, by path. */
export type Tree = ReadonlyMap<string, RemoteFile>

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

const checkNames = (options: Destination) =>
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

export const treeOf = Effect.fnUntraced(function* (name: string, commit: string) {
  const hub = yield* Hub
  return new Map((yield* hub.tree(name, commit)).map((file) => [file.path, file]))
})

/** Paths that are there at a commit and this release removes. */
const outdatedAt = Effect.fnUntraced(function* (content: ReleaseContent, name: string, commit: string, there: Tree) {
  const hub = yield* Hub
  return outdated(content, there, there.has(SUMS) ? yield* hub.text(name, commit, SUMS) : undefined)
})

/** The tag that was asked for: new, or at a commit that is this release. Any other is refused: a tag is never moved. */
export const checkTag = Effect.fnUntraced(function* (content: ReleaseContent, name: string, tag: string) {
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
export interface Standing {
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
export const mayPublish = Effect.fn("Standing.mayPublish")(function* (
  options: Destination,
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
export const compare = Effect.fn("Standing.compare")(function* (
  content: ReleaseContent,
  options: Destination,
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
