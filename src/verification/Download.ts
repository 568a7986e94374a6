/**
 * A release brought here from the Hub to be checked, into a folder that is gone afterwards.
 *
 * Before anything is written all names of the listing are judged together, for every kind of machine (`src/hub/Paths.ts`), and one bad
 * name refuses the whole. How a file comes here, and what it is held against, is in `src/hub/Files.ts`. What the Hub adds is not fetched.
 */
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { ListingHostile, openFiles } from "../hub/Files.ts"
import { pathProblems } from "../hub/Paths.ts"
import type { Patience } from "../hub/Requests.ts"
import { temporary } from "./Release.ts"

const MOST_FILES = 10_000

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

/** The downloaded release in a folder that is gone with the scope, and where it came from. */
export const download = Effect.fn("verification.download")(function* (request: DownloadRequest) {
  const { repository, revision, say } = request
  const { commitOf, list, bring } = yield* openFiles({ ...request, kind: "models" })
  const folder = yield* temporary
  const commit = yield* commitOf(revision)
  say(`listing ${repository} at ${commit.slice(0, 12)}`)
  const entries = yield* list(commit, "", MOST_FILES)
  const files = entries.filter(({ type, path }) => type === "file" && !isAdded(path))
  const problems = [
    ...pathProblems(files.map(({ path }) => path)),
    ...entries
      .filter(({ type }) => type !== "file" && type !== "directory")
      .map(({ type, path }) => `${JSON.stringify(path)} is a ${JSON.stringify(type)}`),
  ]
  if (problems.length > 0)
    return yield* new ListingHostile({
      repository,
      problems,
      hint: "no release of `exp` has such names; tell whoever owns the repository",
    })

  for (const [index, entry] of files.entries()) {
    say(`downloading ${entry.path}, ${index + 1} of ${files.length}`)
    yield* bring(commit, entry, join(folder, ...entry.path.split("/")))
  }
  const added = entries.map(({ path }) => path).filter(isAdded)
  return { folder, origin: { repository, commit, added } satisfies Origin }
})
