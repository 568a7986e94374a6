/** Whether the files of a release tell one story: every disagreement between two of them, not only the first. */
import * as Effect from "effect/Effect"
import { checkConsistency, disagreements } from "../release/Consistency.ts"
import type { ReleaseFiles } from "../release/Folder.ts"
import { judged } from "./Fault.ts"
import { type Finding, within } from "./Finding.ts"
import type { Release } from "./Release.ts"

const { ok, wrong } = within("consistency")

export const checkAgreement = Effect.fn("verification.checkAgreement")(function* (
  { view }: Release,
  files: ReleaseFiles,
) {
  const found: Array<Finding> = disagreements(files).map(({ first, second, problem }) =>
    wrong(`${first}, ${second}`, problem),
  )
  if (found.length > 0) return found
  const rest = yield* judged(checkConsistency(view, files))
  if (rest._tag === "Success") return [ok("files", "no two of them say different things")]
  const error = rest.failure
  return [
    error._tag === "ReleaseInconsistent"
      ? wrong(`${error.first}, ${error.second}`, error.problem)
      : wrong(error.path.slice(view.length + 1), error.problem),
  ]
})
