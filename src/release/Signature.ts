/**
 * Signatures over a release's statement: `provenance.dsse.json`, a DSSE envelope (github.com/secure-systems-lab/dsse, 1.0) whose
 * payload is `provenance.json` byte for byte. The statement names every file with its sha256, so one signature answers for all;
 * signing adds this file and changes no other, and `SHA256SUMS` leaves it out.
 *
 * | field         | what                                                                                           |
 * |---------------|------------------------------------------------------------------------------------------------|
 * | `payload`     | base64 of `provenance.json`                                                                     |
 * | `payloadType` | `application/vnd.in-toto+json`                                                                  |
 * | `signatures`  | one or more of `keyid` (sha256 of the public key's SPKI in DER), `sig` (base64, ed25519) and     |
 * |               | `extension` (in the form of the 1.1 draft): the public key itself, as PEM                        |
 *
 * What is signed is not the payload but PAE(type, payload), so that a signature of one kind of document is never one of another.
 * The enclosed key makes any changed byte show to anybody; whether the key is one to be trusted it does not say.
 */
import { createHash, createPublicKey, type KeyObject, sign as signBytes, verify as verifyBytes } from "node:crypto"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { type Json, prettyJson } from "./Json.ts"

export const ENVELOPE = "provenance.dsse.json"
export const PAYLOAD_TYPE = "application/vnd.in-toto+json"

const PUBLIC_KEY = "urn:exp:public-key:1"

/** Fields that are not of the format are skipped: others may add theirs. */
export const Envelope = Schema.Struct({
  payload: Schema.String,
  payloadType: Schema.String,
  signatures: Schema.NonEmptyArray(
    Schema.Struct({
      keyid: Schema.optionalKey(Schema.String),
      sig: Schema.String,
      extension: Schema.optionalKey(Schema.Struct({ kind: Schema.String, ext: Schema.Json })),
    }),
  ),
})
export type Envelope = typeof Envelope.Type

/** Pre-authentication encoding: `DSSEv1`, then length and bytes of the type and of the payload, with single blanks between. */
export const preAuthentication = (payloadType: string, payload: Uint8Array): Buffer => {
  const type = Buffer.from(payloadType, "utf8")
  return Buffer.concat([
    Buffer.from(`DSSEv1 ${type.length} `),
    type,
    Buffer.from(` ${payload.length} `),
    Buffer.from(payload),
  ])
}

export const publicPem = (key: KeyObject): string =>
  (key.type === "private" ? createPublicKey(key) : key).export({ type: "spki", format: "pem" }).toString()

/** Names a key for people and machines: sha256 of the public key's SPKI in DER, hex. */
export const keyIdOf = (key: KeyObject): string =>
  createHash("sha256")
    .update((key.type === "private" ? createPublicKey(key) : key).export({ type: "spki", format: "der" }))
    .digest("hex")

/** Adds this key's signature, in place of one it made before. The same key and statement give the same bytes. */
export const sign = (statement: Uint8Array, key: KeyObject, before?: Envelope): Envelope => {
  const keyid = keyIdOf(key)
  const signature = {
    keyid,
    sig: signBytes(null, preAuthentication(PAYLOAD_TYPE, statement), key).toString("base64"),
    extension: { kind: PUBLIC_KEY, ext: { pem: publicPem(key) } },
  }
  const others = before?.signatures.filter((one) => one.keyid !== keyid) ?? []
  return {
    payload: Buffer.from(statement).toString("base64"),
    payloadType: PAYLOAD_TYPE,
    signatures: [...others, signature] as unknown as Envelope["signatures"],
  }
}

export const envelopeText = ({ payload, payloadType, signatures }: Envelope): string =>
  prettyJson({
    payload,
    payloadType,
    signatures: signatures.map(({ keyid, sig, extension }) => ({
      keyid,
      sig,
      extension: extension as Json | undefined,
    })),
  })

/** Either alphabet of base64, as the specification allows, but each byte sequence in one spelling only. */
const fromBase64 = (text: string): Buffer | undefined => {
  const bytes = Buffer.from(text, "base64")
  const spellings = [bytes.toString("base64"), bytes.toString("base64").replaceAll("+", "-").replaceAll("/", "_")]
  return spellings.includes(text) ? bytes : undefined
}

/** The key that a signature brings along, if it is one of ours and in the one spelling it has. */
const enclosedKey = ({ extension }: Envelope["signatures"][number]): KeyObject | undefined => {
  if (extension?.kind !== PUBLIC_KEY) return undefined
  const { pem } = (extension.ext ?? {}) as { readonly pem?: unknown }
  if (typeof pem !== "string") return undefined
  try {
    const key = createPublicKey(pem)
    return key.asymmetricKeyType === "ed25519" && publicPem(key) === pem ? key : undefined
  } catch {
    return undefined
  }
}

export interface Signer {
  readonly keyid: string
  /**
   * `known`: made by a known key. `unknown`: made by the key it brings along, which may be anybody's.
   * `unproven`: by neither, and no key is named that we could try. `forged`: the key that is named or enclosed did not make it.
   */
  readonly verdict: "known" | "unknown" | "unproven" | "forged"
}

export interface Verified {
  /** The bytes that were signed: read these and no others. */
  readonly statement: Buffer
  readonly signers: ReadonlyArray<Signer>
}

const judge = (
  signature: Envelope["signatures"][number],
  signed: Uint8Array,
  known: ReadonlyArray<KeyObject>,
): Signer => {
  const { keyid = "", sig, extension } = signature
  const bytes = fromBase64(sig)
  const enclosed = enclosedKey(signature)
  const made = (key: KeyObject) => bytes !== undefined && bytes.length === 64 && verifyBytes(null, signed, key, bytes)
  const maker = known.find(made)
  // by either mark, so that no changed bit in one of them makes it a stranger's, of whom less is asked
  const ours = extension?.kind === PUBLIC_KEY || Object.hasOwn(Object(extension?.ext), "pem")
  // a signature under another's name, or beside another's key, is a lie about who made it
  if (maker !== undefined) {
    const honest = (keyid === "" || keyIdOf(maker) === keyid) && (!ours || (enclosed && keyIdOf(enclosed)) === keyid)
    return { keyid: keyIdOf(maker), verdict: honest ? "known" : "forged" }
  }
  if (ours)
    return {
      keyid,
      verdict: enclosed !== undefined && keyIdOf(enclosed) === keyid && made(enclosed) ? "unknown" : "forged",
    }
  return { keyid, verdict: known.some((key) => keyIdOf(key) === keyid) ? "forged" : "unproven" }
}

/** Reads an envelope and tries every known key on every signature. Fails with words when it is no envelope of a statement. */
export const verifyEnvelope = (text: string, known: ReadonlyArray<KeyObject>): Result.Result<Verified, string> =>
  Result.gen(function* () {
    const envelope = yield* readEnvelope(text)
    if (envelope.payloadType !== PAYLOAD_TYPE)
      return yield* Result.fail(`its payload is ${envelope.payloadType}, not ${PAYLOAD_TYPE}`)
    const statement = fromBase64(envelope.payload)
    if (statement === undefined) return yield* Result.fail("its payload is not base64")
    const signed = preAuthentication(envelope.payloadType, statement)
    return { statement, signers: envelope.signatures.map((signature) => judge(signature, signed, known)) }
  })

/** Whether it has fields that the format has not: one of them may be a field of ours with a changed bit in its name. */
export const hasStrangeFields = (text: string): boolean => {
  const strict = Schema.decodeUnknownResult(Schema.fromJsonString(Envelope), { onExcessProperty: "error" })
  return Result.isSuccess(readEnvelope(text)) && Result.isFailure(strict(text))
}

export const readEnvelope = (text: string): Result.Result<Envelope, string> =>
  Result.gen(function* () {
    const value = yield* Result.try({ try: (): unknown => JSON.parse(text), catch: () => "it is not JSON" })
    return yield* Result.mapError(
      Schema.decodeUnknownResult(Envelope)(value, { errors: "all" }),
      (error) => error.message,
    )
  })
