/** What checks find. A check never stops at the first thing that is wrong, and says of what it could not do why. */
import * as Schema from "effect/Schema"

export const CheckName = Schema.Literals([
  "hashes",
  "signature",
  "card",
  "arithmetic",
  "consistency",
  "weights",
  "measurements",
  "replay",
])
export type CheckName = typeof CheckName.Type

export const Finding = Schema.Struct({
  check: CheckName,
  /** What was looked at: a file, a figure, a signature. */
  what: Schema.String,
  /**
   * `skipped`: not asked for, or nothing that speaks for or against; `undone`: asked for, and this machine could not do it. Of both
   * `detail` says why.
   */
  state: Schema.Literals(["ok", "wrong", "skipped", "undone"]),
  detail: Schema.String,
})
export type Finding = typeof Finding.Type

type Say = (what: string, detail: string) => Finding

/** The ways of saying something within one check. */
export const within = (check: CheckName): { readonly [state in Finding["state"]]: Say } => {
  const say =
    (state: Finding["state"]): Say =>
    (what, detail) => ({ check, what, state, detail: firstLines(detail) })
  return { ok: say("ok"), wrong: say("wrong"), skipped: say("skipped"), undone: say("undone") }
}

/** Of an error: what happened, without the hint, which speaks to whoever makes releases. */
const firstLines = (text: string): string => text.split(/\n\s*hint:/)[0]!.trim()

export { plainly } from "../hub/Redact.ts"

export const isWrong = ({ state }: Finding): boolean => state === "wrong"
export const isUndone = ({ state }: Finding): boolean => state === "undone"
