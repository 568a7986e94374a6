/**
 * Who answers for the statement. A signature from a laptop is SLSA Build L1: whoever holds the key says that these bytes were made
 * so. About the machine they were made on, and whether it was tampered with, it proves nothing.
 */
import type { KeyObject } from "node:crypto"
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as Result from "effect/Result"
import { STATEMENT } from "../release/Provenance.ts"
import {
  ENVELOPE,
  envelopeText,
  hasStrangeFields,
  keyIdOf,
  readEnvelope,
  verifyEnvelope,
} from "../release/Signature.ts"
import { BUNDLE } from "../release/Sigstore.ts"
import { type Finding, within } from "./Finding.ts"
import type { Listing } from "./Listing.ts"
import { LONGEST_TEXT } from "./Release.ts"

const { ok, wrong, skipped } = within("signature")

export interface KnownKeys {
  /** Of the keys folder. */
  readonly known: ReadonlyArray<KeyObject>
  /** Given by name: one of them must have signed. */
  readonly demanded: ReadonlyArray<KeyObject>
}

export const PROVES =
  "whoever holds this key says that these bytes were made so (SLSA Build L1); it proves nothing about the machine"

const short = (keyid: string): string => keyid.slice(0, 16)

export const checkSignatures = (listing: Listing, keys: KnownKeys): ReadonlyArray<Finding> => {
  const has = (path: string) => listing.files.some((file) => file.path === path)
  if (!has(ENVELOPE)) {
    if (keys.demanded.length > 0) return [wrong(ENVELOPE, "is missing: it is not signed, and a key was asked for")]
    // one that is signed keyless is signed
    return has(BUNDLE) ? [] : [skipped(ENVELOPE, "not signed: the sums show accidents, not who made it")]
  }
  if ((listing.files.find(({ path }) => path === ENVELOPE)?.bytes ?? 0) > LONGEST_TEXT)
    return [wrong(ENVELOPE, "is too long to be one")]
  const bytes = readFileSync(join(listing.folder, ENVELOPE))
  const text = bytes.toString("utf8")
  const all = [...keys.demanded, ...keys.known]
  const verified = verifyEnvelope(text, all)
  if (Result.isFailure(verified)) return [wrong(ENVELOPE, `is no signed statement: ${verified.failure}`)]
  const { statement, signers } = verified.success
  const findings: Array<Finding> = []
  const envelope = readEnvelope(text)
  const plain = Result.isSuccess(envelope) && Buffer.from(envelopeText(envelope.success)).equals(bytes)
  // what others sign may be spelled otherwise: then only the signature speaks
  const others = signers.some(({ verdict }) => verdict === "unproven")
  if (!plain && !others) findings.push(wrong(ENVELOPE, "is not spelled as it was written"))
  if (others && hasStrangeFields(text))
    findings.push(wrong(ENVELOPE, "has a field that no envelope has, and a signature that cannot be tried"))
  if (has(STATEMENT) && !statement.equals(readFileSync(join(listing.folder, STATEMENT))))
    findings.push(wrong(ENVELOPE, `what was signed is not ${STATEMENT}`))
  for (const { keyid, verdict } of signers) {
    const name = keyid === "" ? "a key without a name" : short(keyid)
    if (verdict === "known") findings.push(ok(name, `signed by ${keyid}, a key you know: ${PROVES}`))
    else if (verdict === "forged") findings.push(wrong(name, "the key that is named did not make this signature"))
    else
      findings.push(
        skipped(
          name,
          `signed by ${keyid || name}, which you do not know: ${
            verdict === "unknown" ? "the signature is that key's, and anybody can make a key" : "it cannot be tried"
          }; \`--key PUBLIC.pem\` names one you trust`,
        ),
      )
  }
  if (keys.demanded.length > 0) {
    const demanded = new Set(keys.demanded.map(keyIdOf))
    if (!signers.some(({ keyid, verdict }) => verdict === "known" && demanded.has(keyid)))
      findings.push(wrong(ENVELOPE, `none of its signatures is of ${[...demanded].map(short).join(", ")}`))
  }
  return findings
}
