/**
 * `exp sign FOLDER`: adds `provenance.dsse.json` to a copy of a release, or with `--keyless` `provenance.sigstore.json`; with a key and
 * `--keyless` both. What lies in the store is never changed.
 */
import { existsSync, readFileSync, realpathSync, renameSync, writeFileSync } from "node:fs"
import { basename, dirname, join } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { plainly } from "../hub/Redact.ts"
import { readSigningKey, signingKeyPath } from "../release/Keys.ts"
import { ReleaseFileFailed } from "../release/ReleaseError.ts"
import { ENVELOPE, keyIdOf } from "../release/Signature.ts"
import { NotSignable, signableStatement, signedEnvelope } from "../release/Signing.ts"
import { BUNDLE } from "../release/Sigstore.ts"
import { KEYLESS_PROVES } from "../verification/Keyless.ts"
import { PROVES } from "../verification/Signatures.ts"

const isStored = (folder: string): boolean => {
  const artifact = dirname(existsSync(folder) ? realpathSync(folder) : folder)
  return /^[a-z]+-[0-9a-f]{16}$/.test(basename(artifact)) && existsSync(join(artifact, "manifest.json"))
}

const write = (path: string, text: string) =>
  Effect.try({
    try: () => {
      if (existsSync(path) && readFileSync(path, "utf8") === text) return
      writeFileSync(`${path}.${process.pid}.tmp`, text, { flag: "wx" })
      renameSync(`${path}.${process.pid}.tmp`, path)
    },
    catch: (cause) => new ReleaseFileFailed({ path, problem: cause instanceof Error ? cause.message : String(cause) }),
  })

const signWithKey = Effect.fnUntraced(function* (folder: string, key: string | undefined) {
  const secret = yield* readSigningKey(key ?? signingKeyPath())
  const path = join(folder, ENVELOPE)
  yield* write(path, yield* signedEnvelope(folder, secret))
  yield* Console.log([`${path}`, `signed by ${keyIdOf(Redacted.value(secret))}: ${PROVES}`].join("\n"))
})

const signWithoutKey = Effect.fnUntraced(function* (folder: string, signingConfig: string | undefined) {
  const { signKeyless } = yield* Effect.promise(() => import("../hub/Keyless.ts"))
  const statement = yield* signableStatement(folder)
  const { text, claim } = yield* signKeyless(statement, {
    signingConfig,
    terminal: process.stderr.isTTY === true,
    say: (line) => void process.stderr.write(`${line}\n`),
  })
  const path = join(folder, BUNDLE)
  yield* write(path, text)
  const { name, issuer, entry } = claim
  const by = `signed by ${name}, by the word of ${issuer ?? "an issuer it does not name"}, entry ${entry} of the log`
  yield* Console.log([`${path}`, `${plainly(by)}: ${KEYLESS_PROVES}`].join("\n"))
})

export interface SignSettings {
  readonly folder: string
  readonly key: string | undefined
  readonly keyless: boolean
  readonly signingConfig: string | undefined
}

export const sign = Effect.fn("exp sign")(function* ({ folder, key, keyless, signingConfig }: SignSettings) {
  if (isStored(folder))
    return yield* new NotSignable({
      folder,
      problem: "it lies in the store, where nothing is ever changed",
      hint: `sign a copy: \`cp -r ${folder} my-release && exp sign my-release\`; \`exp publish\` signs what it sends`,
    })
  if (!keyless || key !== undefined) yield* signWithKey(folder, key)
  if (keyless) yield* signWithoutKey(folder, signingConfig)
})
