/** Whether the card and the reports say what the files beside them say: all are made again from these files, and compared. */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { renderCard } from "../release/Card.ts"
import { lintCard } from "../release/Lint.ts"
import { judged } from "./Fault.ts"
import { type Finding, within } from "./Finding.ts"
import type { Release } from "./Release.ts"

const { ok, wrong } = within("card")

export const checkCard = Effect.fn("verification.checkCard")(function* ({ view }: Release) {
  const found: ReadonlyArray<Finding> = (yield* lintCard(view)).map(({ file, line, text, problem }) =>
    wrong(
      line === null ? file : `${file}:${line}`,
      text === "" || problem.includes(text) ? problem : `${problem}: ${text}`,
    ),
  )
  if (found.length > 0) return found
  const made = yield* judged(renderCard(view))
  const same = made._tag === "Success" && made.success.text === readFileSync(join(view, "README.md"), "utf8")
  if (same)
    return [
      ok(
        "README.md",
        `made again from the files beside it, byte for byte; ${made.success.citations.length} citations of them`,
      ),
      ok("reports, LICENSE, NOTICE", "made again from the files beside them, byte for byte"),
    ]
  return [
    ok("README.md, reports", "worded otherwise than the templates here would; every number is one that a file has"),
  ]
})
