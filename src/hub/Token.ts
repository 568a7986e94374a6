/**
 * The hub's token: `HF_TOKEN`, else the file where the hub's own tools keep it. `Redacted` from the first line: it is opened where
 * a request's header is written, and nowhere else.
 */
import { homedir } from "node:os"
import { join } from "node:path"
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Option from "effect/Option"
import * as Redacted from "effect/Redacted"
import { TokenMissing } from "./HubError.ts"

const setting = (name: string) =>
  Effect.map(Effect.option(Config.String(name)), (value) => Option.getOrUndefined(Option.filter(value, Boolean)))

/** `$HF_TOKEN_PATH`, or `token` in `$HF_HOME`, `$XDG_CACHE_HOME/huggingface` or `~/.cache/huggingface`. */
export const tokenFile = Effect.gen(function* () {
  const path = yield* setting("HF_TOKEN_PATH")
  if (path !== undefined) return path
  const home = yield* setting("HF_HOME")
  const cache = yield* setting("XDG_CACHE_HOME")
  return join(home ?? join(cache ?? join(homedir(), ".cache"), "huggingface"), "token")
})

export const findToken: Effect.Effect<Redacted.Redacted<string>, TokenMissing, FileSystem.FileSystem> = Effect.gen(
  function* () {
    const fs = yield* FileSystem.FileSystem
    const file = yield* tokenFile
    const looked = ["HF_TOKEN", file]
    const given = yield* Effect.option(Config.Redacted("HF_TOKEN"))
    const kept = Effect.option(Effect.map(fs.readFileString(file), Redacted.make<string>))
    const found = Option.isSome(given) && Redacted.value(given.value) !== "" ? given : yield* kept
    const token = Option.map(found, (raw) => Redacted.make(Redacted.value(raw).trim()))
    if (Option.isNone(token) || Redacted.value(token.value) === "")
      return yield* new TokenMissing({ problem: "there is no token for the hub", looked })
    // what is no token of the hub is most likely a secret of something else: it is not sent anywhere
    if (!/^hf_[A-Za-z0-9_-]+$/.test(Redacted.value(token.value)))
      return yield* new TokenMissing({
        problem: "what is kept as the hub's token is none: it begins with `hf_`",
        looked,
      })
    return token.value
  },
)
