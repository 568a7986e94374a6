/**
 * What may be merged, and what was. The hub merges whatever a pull request is by then, so it is looked at before and the merge is judged
 * by what came of it: `main` as it was, with the release in it.
 */
import * as Effect from "effect/Effect"
import { ATTRIBUTES, isHubsOwnChange } from "./Foreign.ts"
import { Hub } from "./Hub.ts"
import { MergedOthers } from "./HubError.ts"
import type { ReleaseContent } from "./ReleaseFiles.ts"
import { isSame, type Tree, treeOf } from "./Standing.ts"

export interface Revision {
  readonly head: string
  readonly tree: Tree
}

export interface Merging {
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

/** Why a pull request is not the release, or a part of it, on top of `main`; undefined where it is. */
export const misfitOf = Effect.fnUntraced(function* (
  content: ReleaseContent,
  name: string,
  main: Revision,
  branch: Revision,
) {
  const wanted = new Set(content.files.map(({ path }) => path))
  // beside the release it may have what `main` has and nothing else: whatever was pushed into it, and whatever `main` lost since
  const strange = [...branch.tree.values()].find(
    ({ path, blob }) => !wanted.has(path) && path !== ATTRIBUTES && main.tree.get(path)?.blob !== blob,
  )
  if (strange !== undefined) return `it has another ${strange.path} than \`main\``
  if (!(yield* isAttributesOurs(content, name, main, branch))) return `it has another ${ATTRIBUTES} than \`main\``
  return undefined
})

/**
 * Holds the commit of a merge against `main` as it was, with the release in it. Another difference was pushed into the pull request,
 * or to `main`, after the last look: it is published, and must not stay unnoticed. A merge that did not happen is none.
 */
export const checkMerge = Effect.fnUntraced(function* (
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
