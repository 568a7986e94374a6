/**
 * The signatures that go with a publication: `provenance.dsse.json` is made when a release is sent, for what lies in the store is
 * never changed. The same key makes the same bytes, so that publishing again has nothing to do.
 *
 * What is called signed is: an envelope that lies in the folder already is held against what is published, like one made here.
 */
import { existsSync } from "node:fs"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { readSigningKey, signingKeyPath } from "../release/Keys.ts"
import { decodeStatement, STATEMENT } from "../release/Provenance.ts"
import { ENVELOPE, verifyEnvelope } from "../release/Signature.ts"
import { BUNDLE, claimOf, readBundle, statementIn } from "../release/Sigstore.ts"
import { unsummed } from "../release/Sums.ts"

/** The key that a publication is signed with: the one that was named, or the user's own; undefined where there is none. */
export const keyFor = (key: string | undefined) =>
  Effect.suspend(() => {
    const named = key ?? (process.env["EXP_SIGNING_KEY"] || undefined)
    const path = named ?? signingKeyPath()
    // a key that was asked for and is not there ends it: unsigned would be less than was asked for
    return named === undefined && !existsSync(path) ? Effect.succeed(undefined) : readSigningKey(path)
  })

/**
 * What is wrong with an envelope over these files: a signature that its key did not make, none that proves itself, another statement
 * than is published, or files that the statement does not name so. Whose key it is, is for `exp verify` to say.
 *
 * @param sums sha256 of what is published, by path
 */
export const envelopeProblems = (
  envelope: string,
  statement: Buffer | undefined,
  sums: ReadonlyMap<string, string>,
): Effect.Effect<ReadonlyArray<string>> =>
  Effect.gen(function* () {
    const verified = verifyEnvelope(envelope, [])
    if (Result.isFailure(verified)) return [`${ENVELOPE}: ${verified.failure}`]
    const { statement: signed, signers } = verified.success
    const problems = signers.flatMap(({ keyid, verdict }) =>
      verdict === "forged" ? [`${ENVELOPE}: the key ${keyid.slice(0, 16)} did not make its signature`] : [],
    )
    if (problems.length === 0 && !signers.some(({ verdict }) => verdict === "unknown"))
      problems.push(`${ENVELOPE}: no signature brings the key along that made it`)
    return [...problems, ...(yield* signedProblems(ENVELOPE, signed, statement, sums))]
  })

/** The same of a keyless signature. Whether its authority and its log are Sigstore's, is for `exp verify` to say. */
export const bundleProblems = (
  bundle: Uint8Array,
  statement: Buffer | undefined,
  sums: ReadonlyMap<string, string>,
): Effect.Effect<ReadonlyArray<string>> =>
  Effect.gen(function* () {
    const read = readBundle(bundle)
    if (Result.isFailure(read)) return [`${BUNDLE}: ${read.failure}`]
    const claim = claimOf(read.success)
    const problems = Result.isFailure(claim) ? [`${BUNDLE}: ${claim.failure}`] : []
    return [...problems, ...(yield* signedProblems(BUNDLE, statementIn(read.success), statement, sums))]
  })

const signedProblems = Effect.fnUntraced(function* (
  file: string,
  signed: Buffer,
  statement: Buffer | undefined,
  sums: ReadonlyMap<string, string>,
) {
  if (statement === undefined || !signed.equals(statement))
    return [`${file}: what is signed is not this release's ${STATEMENT}`]
  const decoded = yield* Effect.result(decodeStatement(signed.toString("utf8")))
  if (Result.isFailure(decoded)) return [`${STATEMENT}: ${decoded.failure.message.split("\n")[0]}`]
  const named = new Map(decoded.success.subject.map(({ name, digest }) => [name, digest.sha256]))
  return [...new Set([...named.keys(), ...sums.keys()])].flatMap((path) =>
    path !== STATEMENT && !unsummed.has(path) && named.get(path) !== sums.get(path)
      ? [`${file}: ${path} is not as it was signed`]
      : [],
  )
})
