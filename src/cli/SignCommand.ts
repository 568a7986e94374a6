/** `exp sign FOLDER`: adds `provenance.dsse.json` to a copy of a release. What lies in the store is never changed. */
import { existsSync, readFileSync, realpathSync, renameSync, writeFileSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { readSigningKey, signingKeyPath } from "../release/Keys.ts"
import { ReleaseFileFailed } from "../release/ReleaseError.ts"
import { ENVELOPE, keyIdOf } from "../release/Signature.ts"
import { NotSignable, signedEnvelope } from "../release/Signing.ts"
import { PROVES } from "../verification/Signatures.ts"

const isStored = (folder: string): boolean => {
  const artifact = dirname(existsSync(folder) ? realpathSync(folder) : folder)
  return /^[a-z]+-[0-9a-f]{16}$/.test(basename(artifact)) && existsSync(join(artifact, "manifest.json"))
}

export const sign = Effect.fn("exp sign")(function* (folder: string, key: string | undefined) {
  if (isStored(folder))
    return yield* new NotSignable({
      folder,
      problem: "it lies in the store, where nothing is ever changed",
      hint: `sign a copy: \`cp -r ${folder} my-release && exp sign my-release\`; \`exp publish\` signs what it sends`,
    })
  const secret = yield* readSigningKey(key ?? signingKeyPath())
  const text = yield* signedEnvelope(folder, secret)
  const path = join(folder, ENVELOPE)
  yield* Effect.try({
    try: () => {
      if (existsSync(path) && readFileSync(path, "utf8") === text) return
      writeFileSync(`${path}.${process.pid}.tmp`, text, { flag: "wx" })
      renameSync(`${path}.${process.pid}.tmp`, path)
    },
    catch: (cause) => new ReleaseFileFailed({ path, problem: cause instanceof Error ? cause.message : String(cause) }),
  })
  yield* Console.log([`${path}`, `signed by ${keyIdOf(Redacted.value(secret))}: ${PROVES}`].join("\n"))
})
