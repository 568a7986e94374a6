/**
 * Who answers for the statement without a key of their own: `provenance.sigstore.json`. That its parts agree is seen here and by anybody;
 * that the certificate is Sigstore's, and the log's promise and proof are the log's, only with Sigstore's library and the keys it trusts.
 * Without these the signature may be anybody's, made up with certificate and log: then nothing speaks for it, and it is never `ok`.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Result from "effect/Result"
import { openTrust, type Trust } from "../hub/Sigstore.ts"
import { STATEMENT } from "../release/Provenance.ts"
import { BUNDLE, type Claim, claimOf, type Identity, readBundle, statementIn } from "../release/Sigstore.ts"
import { type Finding, within } from "./Finding.ts"
import type { Listing } from "./Listing.ts"

const { ok, wrong, skipped, undone } = within("signature")

export interface KeylessAsked {
  /** Given by name: this one must have signed, by the word of this issuer. */
  readonly demanded?: Required<{ readonly [field in keyof Identity]: string }> | undefined
  /** File of a trusted root; by default that of Sigstore's repository, from the cache while it is fresh. */
  readonly trustedRoot?: string | undefined
}

/** Of a statement with a long list of files and a long difference in it, several times over. */
const LONGEST = 1 << 26

export const KEYLESS_PROVES =
  "whoever had this identity then says that these bytes were made so (SLSA Build L1); it proves nothing about the machine"

const named = ({ name, issuer }: Identity): string =>
  `${name}, by the word of ${issuer ?? "an issuer it does not name"}`

const judged = (claim: Claim, trusted: Result.Result<void, string>, demanded: KeylessAsked["demanded"]): Finding => {
  const { name, issuer, time, entry } = claim
  if (Result.isFailure(trusted)) return wrong(BUNDLE, `is not one of Sigstore's: ${trusted.failure}`)
  const said = `signed by ${named(claim)}, certified ${time}, entry ${entry} of the log`
  if (demanded === undefined) return ok(name, `${said}: ${KEYLESS_PROVES}; whether you trust them is yours to say`)
  return name === demanded.name && issuer === demanded.issuer
    ? ok(name, `${said}, as was asked: ${KEYLESS_PROVES}`)
    : wrong(name, `${said}, and not by ${named(demanded)}`)
}

/** What is not looked at, of a bundle whose parts agree. */
const unjudged = (claim: Claim, why: string, { demanded, trustedRoot }: KeylessAsked): Finding => {
  const said = `it says that it is of ${named(claim)}`
  // who says itself to be another needs nobody's keys to be refused
  if (demanded !== undefined && (claim.name !== demanded.name || claim.issuer !== demanded.issuer))
    return wrong(BUNDLE, `${said}, and not of ${named(demanded)}`)
  if (demanded !== undefined || trustedRoot !== undefined)
    return undone(BUNDLE, `${said}, and whether it is cannot be seen here: ${why}`)
  return skipped(
    BUNDLE,
    `${said}, and anybody can make one that says so; whether Sigstore did was not looked at: ${why}`,
  )
}

/** Of an error its message and what it hints at, in one sentence: a finding ends where a hint begins. */
const sentence = ({ message }: Error): string =>
  message.replace(/^sigstore: /, "").replace(/\n\s*hint: /, "; what helps: ")

export const checkKeyless = Effect.fn("verification.checkKeyless")(function* (
  { folder, files }: Listing,
  asked: KeylessAsked = {},
): Effect.fn.Return<ReadonlyArray<Finding>, never, FileSystem.FileSystem> {
  const { demanded, trustedRoot } = asked
  const entry = files.find(({ path }) => path === BUNDLE)
  if (entry === undefined)
    return demanded === undefined
      ? []
      : [wrong(BUNDLE, "is missing: it is not signed keyless, and an identity was asked for")]
  if (entry.bytes > LONGEST) return [wrong(BUNDLE, "is too long to be one")]
  const bundle = readBundle(readFileSync(join(folder, BUNDLE)))
  if (Result.isFailure(bundle)) return [wrong(BUNDLE, `is no signed statement: ${bundle.failure}`)]
  const isOther =
    files.some(({ path }) => path === STATEMENT) &&
    !statementIn(bundle.success).equals(readFileSync(join(folder, STATEMENT)))
  const other = isOther ? [wrong(BUNDLE, `what was signed is not ${STATEMENT}`)] : []
  const claim = claimOf(bundle.success)
  if (Result.isFailure(claim)) return [...other, wrong(BUNDLE, claim.failure)]
  const trust: Result.Result<Trust, Error> = yield* Effect.result(openTrust(trustedRoot))
  const finding = Result.isFailure(trust)
    ? unjudged(claim.success, sentence(trust.failure), asked)
    : judged(claim.success, trust.success.check(bundle.success), demanded)
  return [...other, finding]
})
