/** What a repository of the Hub may be called. */
import * as Schema from "effect/Schema"

/** Letters, digits, `-`, `_` and `.`, no `--` or `..`, not ending in `.git`, `.` or `-`. */
const PATTERN =
  /^(?!.*(?:--|\.\.|(?:\.git|[.-])(?:\/|$)))[A-Za-z0-9][A-Za-z0-9_.-]{0,95}\/[A-Za-z0-9][A-Za-z0-9_.-]{0,95}$/

export const isRepository = (name: string): boolean => PATTERN.test(name)

/** `org/name`. */
export const Repository = Schema.String.check(Schema.isPattern(PATTERN, { message: "expected org/name" }))
