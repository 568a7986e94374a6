/**
 * The model that a release supersedes: its card is to say, in its front matter, which model is its new version. It may be somebody
 * else's, so it is asked for by pull request, and asked for once.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { withNewVersion } from "./FrontMatter.ts"
import { Hub } from "./Hub.ts"
import { NotAllowed, RepositoryChanged } from "./HubError.ts"

/** A predecessor's card, and the same with the new version in it. */
export const cardNaming = Effect.fnUntraced(function* (predecessor: string, successor: string) {
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
export const announce = Effect.fnUntraced(function* (predecessor: string, successor: string, author: string) {
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
