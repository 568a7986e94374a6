/** `exp keys new`, `exp keys show`: the key that signs releases, and what others need to know of it. */
import { existsSync } from "node:fs"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import { newKey, readPublicKey, signingKeyPath } from "../release/Keys.ts"
import { keyIdOf, publicPem } from "../release/Signature.ts"
import { NotFound } from "./Errors.ts"

export const makeKey = Effect.fn("exp keys new")(function* (out: string | undefined, json: boolean) {
  const key = yield* newKey(out ?? signingKeyPath())
  if (json) return yield* Console.log(JSON.stringify(key))
  yield* Console.log(
    [
      `private key  ${key.path}`,
      `public key   ${key.publicPath}`,
      `key id       ${key.keyid}`,
      "",
      key.publicKey.trimEnd(),
      "",
      "Keep the private key to yourself, and a copy of it where you will find it. Whoever is to check your releases needs the public",
      "key: for `exp verify --key`, or as a file in their `~/.config/exp/keys`",
    ].join("\n"),
  )
})

export const showKey = Effect.fn("exp keys show")(function* (key: string | undefined, json: boolean) {
  const path = key ?? signingKeyPath()
  if (!existsSync(path))
    return yield* new NotFound({
      what: `there is no key ${path}`,
      hint: "`exp keys new` makes one; `--key` or `EXP_SIGNING_KEY` names another",
    })
  const found = yield* readPublicKey(path)
  const [keyid, pem] = [keyIdOf(found), publicPem(found)]
  yield* Console.log(
    json ? JSON.stringify({ path, keyid, publicKey: pem }) : [`key id  ${keyid}`, "", pem.trimEnd()].join("\n"),
  )
})
