/**
 * Where releases go. The service says what a publication needs of a hub; `HuggingFace.ts` does it.
 *
 * Every operation is one question or one act, so that whoever publishes can look what the hub has after an answer that never came
 * (`HubUnreachable.ambiguous`), instead of doing something twice.
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type { RequestError } from "./HubError.ts"

/** Whose token it is, and what it may do as far as the hub tells. */
export interface Account {
  readonly name: string
  readonly organizations: ReadonlyArray<{ readonly name: string; readonly role?: string }>
  /** `read`, `write`, `fineGrained`, or a word of a newer hub. */
  readonly role: string
  /** Of a fine-grained token: what it may do to which user, organization or repository. */
  readonly scopes: ReadonlyArray<{ readonly entity: string; readonly permissions: ReadonlyArray<string> }>
}

export interface Repository {
  /** As the hub spells it; another than was asked for when it was renamed. */
  readonly id: string
  readonly private: boolean
  /** Commit that the asked-for revision is. */
  readonly head: string
}

export interface RemoteFile {
  readonly path: string
  readonly bytes: number
  /** What git calls the content; of a large file, its pointer. */
  readonly blob: string
  /** Of a large file. */
  readonly sha256?: string
}

export interface PullRequest {
  readonly number: number
  readonly title: string
  readonly author: string
  /** `open`, `closed`, `merged`, or a word of a newer hub. */
  readonly status: string
}

export interface CommitFile {
  readonly path: string
  readonly bytes: number
  /** A file of this disk, or a text. */
  readonly content: { readonly full: string } | { readonly text: string }
}

export interface CommitRequest {
  readonly repository: string
  /** A pull request's branch; without it, the commit opens a new one. */
  readonly pullRequest?: number
  /** What the branch must be at, or the hub refuses with 412. */
  readonly parent: string
  readonly title: string
  readonly description: string
  readonly files: ReadonlyArray<CommitFile>
  readonly removed: ReadonlyArray<string>
  /** Told of each file: `hashing`, `sending`, `sent`. */
  readonly file: (path: string, state: "hashing" | "sending" | "sent") => void
  /** Told of a large file while it is sent: bytes that have gone out. */
  readonly part: (path: string, bytes: number) => void
}

type Answer<A> = Effect.Effect<A, RequestError>

export class Hub extends Context.Service<
  Hub,
  {
    /** Without a slash at the end. */
    readonly endpoint: string
    readonly whoAmI: Answer<Account>
    /** A repository at a revision; undefined when there is none that the token may see. */
    readonly repository: (name: string, revision?: string) => Answer<Repository | undefined>
    readonly create: (name: string, visibility: "public" | "private") => Answer<void>
    /** All files at a commit, sorted by path. */
    readonly tree: (name: string, commit: string) => Answer<ReadonlyArray<RemoteFile>>
    readonly commit: (request: CommitRequest) => Answer<void>
    /** By an author, the oldest first; open ones unless all are asked for. */
    readonly pullRequests: (name: string, author: string, status?: "any") => Answer<ReadonlyArray<PullRequest>>
    readonly merge: (name: string, pullRequest: number) => Answer<void>
    /** Commit of `main` that a pull request was merged as; undefined when it was not. */
    readonly merged: (name: string, pullRequest: number) => Answer<string | undefined>
    readonly close: (name: string, pullRequest: number) => Answer<void>
    /** Commits by tag. */
    readonly tags: (name: string) => Answer<ReadonlyMap<string, string>>
    readonly tag: (name: string, commit: string, tag: string, message: string) => Answer<void>
    /** sha256 and size of a file's bytes as anybody would download them. `told`: how many have come so far. */
    readonly hash: (
      name: string,
      commit: string,
      path: string,
      told?: (bytes: number) => void,
    ) => Answer<{ readonly bytes: number; readonly sha256: string }>
    /** A small text; undefined when there is no such file. Fails above a megabyte. */
    readonly text: (name: string, commit: string, path: string) => Answer<string | undefined>
    /** What a collection has of models; undefined when there is no such collection that the token may see. */
    readonly collection: (collection: string) => Answer<ReadonlyArray<string> | undefined>
    /** Adds a model; one that is there stays. */
    readonly collect: (collection: string, name: string) => Answer<void>
  }
>()("exp/hub/Hub") {}
