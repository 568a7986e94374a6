import { createPrivateKey, generateKeyPairSync, type KeyObject } from "node:crypto"
import * as Result from "effect/Result"
import { describe, expect, it } from "vitest"
import {
  type Envelope,
  envelopeText,
  keyIdOf,
  preAuthentication,
  publicPem,
  type Signer,
  sign,
  verifyEnvelope,
} from "../../src/release/Signature.ts"

/** ed25519 keys by their seeds: those of RFC 8032, section 7.1, tests 1 and 2. */
const keyOf = (seed: string): KeyObject =>
  createPrivateKey({
    key: Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), Buffer.from(seed, "hex")]),
    format: "der",
    type: "pkcs8",
  })
const ada = keyOf("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
const bob = keyOf("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")

const statement = Buffer.from('{"_type":"https://in-toto.io/Statement/v1"}')

const verdicts = (
  envelope: Envelope | string,
  known: ReadonlyArray<KeyObject> = [],
): ReadonlyArray<Signer["verdict"]> => {
  const text = typeof envelope === "string" ? envelope : envelopeText(envelope)
  const verified = verifyEnvelope(text, known)
  return Result.isSuccess(verified) ? verified.success.signers.map(({ verdict }) => verdict) : []
}

const refusal = (text: string): string => {
  const verified = verifyEnvelope(text, [])
  return Result.isFailure(verified) ? verified.failure : "accepted"
}

/** With other fields in the first signature; those that are undefined are not there. */
const changed = (envelope: Envelope, fields: Readonly<Record<string, unknown>>): Envelope => {
  const [first, ...rest] = envelope.signatures
  return JSON.parse(JSON.stringify({ ...envelope, signatures: [{ ...first, ...fields }, ...rest] }))
}

describe("a signature", () => {
  it("is over the encoding that the specification prints", () => {
    expect(preAuthentication("http://example.com/HelloWorld", Buffer.from("hello world")).toString()).toBe(
      "DSSEv1 29 http://example.com/HelloWorld 11 hello world",
    )
    // lengths count bytes, not characters
    expect(preAuthentication("ä", Buffer.from("ü")).toString()).toBe("DSSEv1 2 ä 2 ü")
    expect(preAuthentication("t", new Uint8Array()).toString()).toBe("DSSEv1 1 t 0 ")
  })

  it("is the one that other implementations make of the same key and statement", () => {
    expect(sign(statement, ada).signatures[0].sig).toBe(
      "2WAfaHm5jluo0w+0rk8uVkluELJYWjSmU9x7EUzx+AyteDGJ4/nqyJXfmAUVFIAoQafWm7AxBZNw5M9ixNHiCA==",
    )
    expect(sign(statement, bob).signatures[0].sig).toBe(
      "c1+67/aT0yqEpwx8PsVY3MLHsj9D0CZ014/Fv/QlG59P+9CobUZ7xECJ/V3USG0Ob9CiE5LjReEZUzNF2l7eBw==",
    )
  })

  it("says the same bytes for the same key, and whose they are", () => {
    expect(envelopeText(sign(statement, ada))).toBe(envelopeText(sign(statement, ada, sign(statement, ada))))
    expect(verdicts(sign(statement, ada), [ada])).toEqual(["known"])
    expect(verdicts(sign(statement, ada), [bob])).toEqual(["unknown"])
    expect(verdicts(sign(statement, ada))).toEqual(["unknown"])
  })

  it("stands beside those of others", () => {
    const both = sign(statement, bob, sign(statement, ada))
    expect(verdicts(both, [ada, bob])).toEqual(["known", "known"])
    expect(verdicts(both, [bob])).toEqual(["unknown", "known"])
    expect(both.signatures.map(({ keyid }) => keyid)).toEqual([keyIdOf(ada), keyIdOf(bob)])
  })

  it("is forged when it says another's name, brings another's key, or is of another statement", () => {
    const signed = sign(statement, ada)
    const [of, ofEmpty] = [sign(statement, bob).signatures[0], sign(Buffer.from("{}"), ada).signatures[0]]
    for (const fields of [
      { keyid: keyIdOf(bob) },
      { extension: of.extension },
      { sig: of.sig },
      { sig: ofEmpty.sig },
      { sig: "AAAA" },
    ])
      for (const known of [[], [ada], [bob], [ada, bob]])
        expect(verdicts(changed(signed, fields), known), Object.keys(fields).join()).toEqual(["forged"])
  })

  it("of others' tools, without a key enclosed, is judged by the known keys alone", () => {
    const bare = changed(sign(statement, ada), { extension: undefined, keyid: undefined })
    expect(verdicts(bare, [ada])).toEqual(["known"])
    expect(verdicts(bare, [bob])).toEqual(["unproven"])
    const named = changed(sign(statement, ada), { extension: undefined, sig: sign(statement, bob).signatures[0].sig })
    expect(verdicts(named, [ada])).toEqual(["forged"])
    // either alphabet of base64, and fields that nobody here knows
    const spelled = JSON.parse(envelopeText(bare)) as { signatures: Array<{ sig: string }>; note?: string }
    spelled.signatures[0]!.sig = spelled.signatures[0]!.sig.replaceAll("+", "-").replaceAll("/", "_")
    spelled.note = "made elsewhere"
    expect(verdicts(JSON.stringify(spelled), [ada])).toEqual(["known"])
  })

  it("is refused with words when the envelope is none", () => {
    const signed = JSON.parse(envelopeText(sign(statement, ada)))
    expect(refusal("")).toBe("it is not JSON")
    expect(refusal("[]")).toMatch(/Expected/)
    expect(refusal(JSON.stringify({ ...signed, signatures: [] }))).toMatch(/signatures/)
    expect(refusal(JSON.stringify({ ...signed, payloadType: "text/plain" }))).toBe(
      "its payload is text/plain, not application/vnd.in-toto+json",
    )
    expect(refusal(JSON.stringify({ ...signed, payload: "e30" }))).toBe("its payload is not base64")
  })

  it("names a key by the sha256 of its public half, the same for both halves", () => {
    const { privateKey, publicKey } = generateKeyPairSync("ed25519")
    expect(keyIdOf(privateKey)).toBe(keyIdOf(publicKey))
    expect(publicPem(privateKey)).toBe(publicPem(publicKey))
    expect(publicPem(privateKey)).not.toMatch(/PRIVATE/)
  })
})
