/**
 * Stamps of an authority for time (RFC 3161): its signed word that it saw a signature at a moment. Around what is signed lies much that is
 * not, and that nobody reads: versions, a list of digests, certificates. So there is one spelling here, of what is signed, the signature
 * and whose it is; any other byte is wrong. The certificates are those of the trusted root, so none is kept.
 */
import { element, elements, NotDer, oid } from "./Der.ts"

const INTEGER = 0x02
const OCTETS = 0x04
const OBJECT = 0x06
const SEQUENCE = 0x30
const SET = 0x31
const FIELD = 0xa0

const object = (dotted: string): Buffer => element(OBJECT, Buffer.from(oid(dotted), "hex"))
const integer = (value: number): Buffer => element(INTEGER, Buffer.from([value]))

const SIGNED_DATA = object("1.2.840.113549.1.7.2")
const TIME_STAMP = object("1.2.840.113549.1.9.16.1.4")

/** Contents of the elements of this one, which must have these tags. */
const fields = (content: Uint8Array, ...tags: ReadonlyArray<number>): ReadonlyArray<Buffer> => {
  const found = elements(content)
  if (found.length !== tags.length || found.some(({ tag }, at) => tag !== tags[at])) throw new NotDer("another form")
  return found.map(({ content }) => content)
}

/** ECDSA with SHA-256, SHA-384, SHA-512: by what a reader does not know it may read on as if nothing were said. */
const SCHEMES = [2, 3, 4].map((last) => object(`1.2.840.10045.4.3.${last}`))
const DIGESTS = [1, 2, 3].map((last) => object(`2.16.840.1.101.3.4.2.${last}`))

/** One of these algorithms by its name alone: none of them takes parameters. */
const algorithm = (content: Buffer, known: ReadonlyArray<Buffer>): Buffer => {
  const [name] = elements(content)
  const same = known.find((one) => name?.tag === OBJECT && one.subarray(2).equals(name.content))
  if (same === undefined) throw new NotDer("another algorithm")
  return element(SEQUENCE, same)
}

const respelled = (token: Uint8Array): Buffer => {
  const [response] = fields(token, SEQUENCE)
  const [, envelope] = fields(response!, SEQUENCE, SEQUENCE)
  const [, wrapped] = fields(envelope!, OBJECT, FIELD)
  const [data] = fields(wrapped!, SEQUENCE)
  // version, digests, what is signed, perhaps certificates and revocations, signers
  const parts = elements(data!)
  const [, held] = fields(parts[2]!.content, OBJECT, FIELD)
  const [info] = fields(held!, OCTETS)
  const [signer] = fields(parts.at(-1)!.content, SEQUENCE)
  const [version, identifier, digest, attributes, scheme, signature] = elements(signer!)
  const signed = [version, identifier, digest, attributes, scheme, signature]
  const tags = [INTEGER, SEQUENCE, SEQUENCE, FIELD, SEQUENCE, OCTETS]
  if (signed.some((part, at) => part?.tag !== tags[at])) throw new NotDer("another form")
  const [issuer, serial] = fields(identifier!.content, SEQUENCE, INTEGER)
  const by = element(
    SEQUENCE,
    integer(1),
    element(SEQUENCE, element(SEQUENCE, issuer!), element(INTEGER, serial!)),
    algorithm(digest!.content, DIGESTS),
    element(FIELD, attributes!.content),
    algorithm(scheme!.content, SCHEMES),
    element(OCTETS, signature!.content),
  )
  const content = element(SEQUENCE, TIME_STAMP, element(FIELD, element(OCTETS, info!)))
  const all = element(
    SEQUENCE,
    integer(3),
    element(SET, algorithm(digest!.content, DIGESTS)),
    content,
    element(SET, by),
  )
  const status = element(SEQUENCE, integer(0))
  return element(SEQUENCE, status, element(SEQUENCE, SIGNED_DATA, element(FIELD, all)))
}

/** The one spelling of a stamp, or nothing where it is none. */
export const stampOf = (token: Uint8Array): Buffer | undefined => {
  try {
    return respelled(token)
  } catch {
    return undefined
  }
}
