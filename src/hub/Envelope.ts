/**
 * The signature that goes with a publication: `provenance.dsse.json` is made when a release is sent, for what lies in the store is
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
    if (statement === undefined || !signed.equals(statement))
      return [...problems, `${ENVELOPE}: what is signed is not this release's ${STATEMENT}`]
    const decoded = yield* Effect.result(decodeStatement(signed.toString("utf8")))
    if (Result.isFailure(decoded)) return [...problems, `${STATEMENT}: ${decoded.failure.message.split("\n")[0]}`]
    const named = new Map(decoded.success.subject.map(({ name, digest }) => [name, digest.sha256]))
    for (const path of new Set([...named.keys(), ...sums.keys()]))
      if (path !== STATEMENT && !unsummed.has(path) && named.get(path) !== sums.get(path))
        problems.push(`${ENVELOPE}: ${path} is not as it was signed`)
    return problems
  })
