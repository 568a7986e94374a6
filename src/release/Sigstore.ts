/**
 * Keyless signatures over a release's statement: `provenance.sigstore.json`, a Sigstore bundle (github.com/sigstore/protobuf-specs,
 * v0.3). What is signed are the same bytes as in `provenance.dsse.json`, but by a key that lives for one signature. Who held it says a
 * certificate of ten minutes, by an authority that was shown a token of an identity (an e-mail address, a job of a CI); that it was
 * used in those minutes says a public log.
 *
 * | field                                  | what                                                                         |
 * |----------------------------------------|------------------------------------------------------------------------------|
 * | `mediaType`                            | of the format and its version                                                 |
 * | `verificationMaterial.certificate`     | of the key, X.509 in DER: identity, and who vouched for it                    |
 * | `verificationMaterial.tlogEntries`     | one entry of the log: its body, the log's promise, the proof that it is in     |
 * | `….timestampVerificationData`          | stamps of an authority for time, where one was asked                          |
 * | `dsseEnvelope`                         | as in `provenance.dsse.json`; no key is named, the certificate has it          |
 *
 * Bytes are base64. Here it is spelled in one way, in the order of this table: any other spelling is wrong, and so is a field that the
 * format has not.
 *
 * What this file finds needs nobody's word: that the parts agree with one another. Whether the authority and the log are those of
 * Sigstore, and not made up with the rest, only their keys tell (`src/verification/Keyless.ts`).
 */
import { createHash, verify as verifyBytes, X509Certificate } from "node:crypto"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { type Element, elements, oid } from "./Der.ts"
import { type Json, prettyJson } from "./Json.ts"
import { PAYLOAD_TYPE, preAuthentication } from "./Signature.ts"
import { stampOf } from "./Stamp.ts"

export const BUNDLE = "provenance.sigstore.json"

const bytesOf = (text: string): Buffer => Buffer.from(text, "base64")

/** One spelling for each byte sequence. */
const Base64 = Schema.String.check(
  Schema.makeFilter((text) => (bytesOf(text).toString("base64") === text ? undefined : "expected base64")),
)
/** Numbers of 64 bits are strings in this format. */
const Count = Schema.String.check(Schema.isPattern(/^(?:0|[1-9]\d{0,18})$/, { message: "expected a number in quotes" }))

const LogEntry = Schema.Struct({
  /** In the whole log, of which a tree is a part. */
  logIndex: Count,
  logId: Schema.Struct({ keyId: Base64 }),
  kindVersion: Schema.Struct({ kind: Schema.String, version: Schema.String }),
  /** Seconds since 1970, and the log's promise over them: of logs of the first version. The second leaves time to an authority. */
  integratedTime: Schema.optionalKey(Count),
  inclusionPromise: Schema.optionalKey(Schema.Struct({ signedEntryTimestamp: Base64 })),
  inclusionProof: Schema.Struct({
    /** In the tree. */
    logIndex: Count,
    rootHash: Base64,
    treeSize: Count,
    hashes: Schema.Array(Base64),
    checkpoint: Schema.Struct({ envelope: Schema.String }),
  }),
  canonicalizedBody: Base64,
})

const Stamp = Schema.Struct({ signedTimestamp: Base64 })

const bundleWith = <S extends Schema.Top>(stamps: S) =>
  Schema.Struct({
    mediaType: Schema.Literal("application/vnd.dev.sigstore.bundle.v0.3+json"),
    verificationMaterial: Schema.Struct({
      certificate: Schema.Struct({ rawBytes: Base64 }),
      tlogEntries: Schema.Tuple([LogEntry]),
      timestampVerificationData: Schema.optionalKey(Schema.Struct({ rfc3161Timestamps: stamps })),
    }),
    dsseEnvelope: Schema.Struct({
      payload: Base64,
      payloadType: Schema.Literal(PAYLOAD_TYPE),
      signatures: Schema.Tuple([Schema.Struct({ sig: Base64, keyid: Schema.optionalKey(Schema.Literal("")) })]),
    }),
  })

export const Bundle = bundleWith(Schema.NonEmptyArray(Stamp))
export type Bundle = typeof Bundle.Type
/** Of a library, which writes lists of nothing too. */
const Made = bundleWith(Schema.optionalKey(Schema.Array(Stamp)))

const Hash = Schema.Struct({ algorithm: Schema.Literal("sha256"), value: Schema.String })
/** What a log of the first version keeps of an envelope. The hash over the whole of it is the log's own: the proof answers for it. */
const Body = Schema.Struct({
  apiVersion: Schema.Literal("0.0.1"),
  kind: Schema.Literal("dsse"),
  spec: Schema.Struct({
    envelopeHash: Hash,
    payloadHash: Hash,
    /** The certificate in base64 of PEM. */
    signatures: Schema.Tuple([Schema.Struct({ signature: Schema.String, verifier: Schema.String })]),
  }),
})
const Verifier = Schema.Struct({
  keyDetails: Schema.String,
  x509Certificate: Schema.Struct({ rawBytes: Schema.String }),
})
/** The same of the second version: at first of an envelope, with the sha256 of the statement. */
const SecondBody = Schema.Struct({
  apiVersion: Schema.Literal("0.0.2"),
  kind: Schema.Literal("dsse"),
  spec: Schema.Struct({
    dsseV002: Schema.Struct({
      payloadHash: Schema.Struct({ algorithm: Schema.Literal("SHA2_256"), digest: Schema.String }),
      signatures: Schema.Tuple([Schema.Struct({ content: Schema.String, verifier: Verifier })]),
    }),
  }),
})
/** And later of any signature, with the sha256 of what was signed. */
const HashedBody = Schema.Struct({
  apiVersion: Schema.Literal("0.0.2"),
  kind: Schema.Literal("hashedrekord"),
  spec: Schema.Struct({
    hashedRekordV002: Schema.Struct({
      data: Schema.Struct({ algorithm: Schema.Literal("SHA2_256"), digest: Schema.String }),
      signature: Schema.Struct({ content: Schema.String, verifier: Verifier }),
    }),
  }),
})

/** The bundle as it is written. */
export const bundleText = ({ mediaType, verificationMaterial, dsseEnvelope }: Bundle): string => {
  const { certificate, tlogEntries, timestampVerificationData: stamps } = verificationMaterial
  const [entry] = tlogEntries
  const { inclusionPromise: promise } = entry
  const { logIndex, rootHash, treeSize, hashes, checkpoint } = entry.inclusionProof
  const [{ sig, keyid }] = dsseEnvelope.signatures
  return prettyJson({
    mediaType,
    verificationMaterial: {
      certificate: { rawBytes: certificate.rawBytes },
      tlogEntries: [
        {
          logIndex: entry.logIndex,
          logId: { keyId: entry.logId.keyId },
          kindVersion: { kind: entry.kindVersion.kind, version: entry.kindVersion.version },
          integratedTime: entry.integratedTime,
          inclusionPromise: promise === undefined ? undefined : { signedEntryTimestamp: promise.signedEntryTimestamp },
          inclusionProof: { logIndex, rootHash, treeSize, hashes, checkpoint: { envelope: checkpoint.envelope } },
          canonicalizedBody: entry.canonicalizedBody,
        },
      ],
      timestampVerificationData:
        stamps === undefined
          ? undefined
          : { rfc3161Timestamps: stamps.rfc3161Timestamps.map(({ signedTimestamp }) => ({ signedTimestamp })) },
    },
    dsseEnvelope: {
      payload: dsseEnvelope.payload,
      payloadType: dsseEnvelope.payloadType,
      signatures: [{ sig, keyid }],
    },
  } satisfies Json)
}

const decodeBundle = (value: unknown): Result.Result<Bundle, string> =>
  Result.mapError(
    Schema.decodeUnknownResult(Bundle)(value, { errors: "all", onExcessProperty: "error" }),
    (error) => error.message,
  )

/**
 * The bundle as it is written, of one that a library made: without times that nobody said, without lists of nothing, and of what others
 * say of time and tree only what will be checked.
 */
export const plainBundle = (value: unknown): Result.Result<Bundle, string> =>
  Result.map(
    Schema.decodeUnknownResult(Made)(value, { errors: "all", onExcessProperty: "error" }),
    ({ mediaType, verificationMaterial, dsseEnvelope }): Bundle => {
      const { certificate, tlogEntries, timestampVerificationData } = verificationMaterial
      const [{ integratedTime, inclusionProof, ...entry }] = tlogEntries
      const envelope = ownCheckpoint(inclusionProof.checkpoint.envelope)
      const [first, ...more] = (timestampVerificationData?.rfc3161Timestamps ?? []).map(({ signedTimestamp }) => ({
        signedTimestamp: stampOf(bytesOf(signedTimestamp))?.toString("base64") ?? signedTimestamp,
      }))
      return {
        mediaType,
        verificationMaterial: {
          certificate,
          tlogEntries: [
            {
              ...entry,
              inclusionProof: { ...inclusionProof, checkpoint: { envelope } },
              ...(integratedTime !== undefined && integratedTime !== "0" && { integratedTime }),
            },
          ],
          ...(first !== undefined && { timestampVerificationData: { rfc3161Timestamps: [first, ...more] } }),
        },
        dsseEnvelope,
      }
    },
  ).pipe(Result.mapError((error) => error.message))

/** Reads a bundle and refuses every spelling but its own. */
export const readBundle = (bytes: Uint8Array): Result.Result<Bundle, string> =>
  Result.gen(function* () {
    const text = Buffer.from(bytes).toString("utf8")
    const value = yield* Result.try({ try: (): unknown => JSON.parse(text), catch: () => "it is not JSON" })
    const bundle = yield* decodeBundle(value)
    if (!Buffer.from(bundleText(bundle)).equals(bytes)) return yield* Result.fail("it is not spelled as it was written")
    return bundle
  })

/** The bytes that were signed. */
export const statementIn = ({ dsseEnvelope }: Bundle): Buffer => bytesOf(dsseEnvelope.payload)

/** Who a certificate says holds its key. */
export interface Identity {
  /** An e-mail address, or a URI: of a job of a CI, its workflow. */
  readonly name: string
  /** Of the token that the authority was shown; absent where the certificate does not say. */
  readonly issuer: string | undefined
}

export interface Claim extends Identity {
  /** When the certificate was made, ISO 8601; it holds for ten minutes. */
  readonly time: string
  /** Number of the entry in the log. */
  readonly entry: string
}

const SUBJECT_ALTERNATIVE_NAME = oid("2.5.29.17")
/** Of the token's issuer: first as bare bytes, since 2022 as a string in DER. */
const ISSUER = oid("1.3.6.1.4.1.57264.1.1")
const ISSUER_STRING = oid("1.3.6.1.4.1.57264.1.8")
/** A user's name that is no e-mail address. */
const OTHER_NAME = oid("1.3.6.1.4.1.57264.1.7")

/** Extensions of a certificate, the value of each by its identifier in hex. */
const extensionsOf = (certificate: Uint8Array): ReadonlyMap<string, Buffer> => {
  const found = new Map<string, Buffer>()
  const [whole] = elements(certificate)
  const [signed] = elements(whole!.content)
  const [list] = elements(elements(signed!.content).find(({ tag }) => tag === 0xa3)!.content)
  for (const { content } of elements(list!.content)) {
    const parts = elements(content)
    found.set(parts[0]!.content.toString("hex"), parts.at(-1)!.content)
  }
  return found
}

const otherName = (content: Buffer): string | undefined => {
  const [kind, value] = elements(content)
  if (kind?.content.toString("hex") !== OTHER_NAME || value === undefined) return undefined
  return elements(value.content)[0]?.content.toString("utf8")
}

const nameIn = ({ tag, content }: Element): string | undefined =>
  tag === 0x81 || tag === 0x86 ? content.toString("utf8") : tag === 0xa0 ? otherName(content) : undefined

/** Throws what a reader of DER throws at what is none. */
const identityOf = (certificate: Uint8Array): Identity | undefined => {
  const extensions = extensionsOf(certificate)
  const [names] = elements(extensions.get(SUBJECT_ALTERNATIVE_NAME) ?? Buffer.alloc(0))
  const [name, ...more] = names === undefined ? [] : elements(names.content).map(nameIn)
  if (name === undefined || more.length > 0) return undefined
  const string = extensions.get(ISSUER_STRING)
  const issuer = string === undefined ? extensions.get(ISSUER) : elements(string)[0]?.content
  return { name, issuer: issuer?.toString("utf8") }
}

const sha256 = (...parts: ReadonlyArray<Uint8Array>): Buffer => {
  const hash = createHash("sha256")
  for (const part of parts) hash.update(part)
  return hash.digest()
}

const LEAF = Buffer.from([0])
const NODE = Buffer.from([1])

/**
 * Root of a Merkle tree by one leaf and the hashes beside its way up, RFC 9162, 2.1.3.2. Undefined where the hashes are too few or too
 * many for a leaf at this place.
 */
export const rootOf = (
  leaf: Uint8Array,
  index: bigint,
  size: bigint,
  beside: ReadonlyArray<Buffer>,
): Buffer | undefined => {
  if (index >= size) return undefined
  let [at, last] = [index, size - 1n]
  let hash = sha256(LEAF, leaf)
  for (const other of beside) {
    if (last === 0n) return undefined
    if (at % 2n === 1n || at === last) {
      hash = sha256(NODE, other, hash)
      while (at % 2n === 0n && at !== 0n) [at, last] = [at / 2n, last / 2n]
    } else hash = sha256(NODE, hash, other)
    ;[at, last] = [at / 2n, last / 2n]
  }
  return last === 0n ? hash : undefined
}

/**
 * A log's signed word about its tree: its name, size and root, perhaps more lines, an empty line, and its signature. Others may sign it
 * too; nobody here knows their keys, so their lines are left out when it is written.
 */
const CHECKPOINT = /^([^\n]+)\n(\d+)\n([A-Za-z0-9+/=]+)\n(?:[^\n]+\n)*\n\u2014 (\S+) ([A-Za-z0-9+/=]+)\n$/

type Entry = Bundle["verificationMaterial"]["tlogEntries"][0]

const checkpointProblem = (entry: Entry): string | undefined => {
  const { rootHash, treeSize, checkpoint } = entry.inclusionProof
  const [, origin, size, root, name, signature] = CHECKPOINT.exec(checkpoint.envelope) ?? []
  if (origin === undefined || bytesOf(signature!).toString("base64") !== signature)
    return "its log's checkpoint is none, or signed by more than the log"
  if (size !== treeSize || root !== rootHash) return "its log's checkpoint is of another tree"
  if (name !== origin.split(" - ")[0]) return "its log's checkpoint is not signed in the log's own name"
  return bytesOf(signature).subarray(0, 4).equals(bytesOf(entry.logId.keyId).subarray(0, 4))
    ? undefined
    : "its log's checkpoint is signed by another log"
}

/** A checkpoint with the signature of its log alone. */
const ownCheckpoint = (envelope: string): string => {
  const [origin = ""] = envelope.split("\n")
  const end = envelope.indexOf("\n\n") + 2
  const own = envelope
    .slice(end)
    .split("\n")
    .filter((line) => line.startsWith(`\u2014 ${origin.split(" - ")[0]} `))
  return own.length === 1 ? `${envelope.slice(0, end)}${own[0]}\n` : envelope
}

/** What the log says of a signature, whatever the kind of its entry. */
interface Logged {
  readonly kind: string
  readonly version: string
  /** sha256 of the statement, or of the bytes that were signed. */
  readonly digest: Buffer
  readonly of: "statement" | "signed"
  readonly signature: string
  readonly certificate: Buffer
}

const loggedOf = (body: string): Result.Result<Logged, unknown> =>
  Result.map(
    Schema.decodeUnknownResult(Schema.fromJsonString(Schema.Union([Body, SecondBody, HashedBody])))(body, {
      onExcessProperty: "error",
    }),
    (read): Logged => {
      const { kind, apiVersion: version } = read
      if (read.apiVersion === "0.0.1") {
        const { payloadHash, signatures } = read.spec
        const [{ signature, verifier }] = signatures
        const certificate = new X509Certificate(bytesOf(verifier)).raw
        return { kind, version, digest: Buffer.from(payloadHash.value, "hex"), of: "statement", signature, certificate }
      }
      const isHashed = read.kind === "hashedrekord"
      const digest = isHashed ? read.spec.hashedRekordV002.data.digest : read.spec.dsseV002.payloadHash.digest
      const made = isHashed ? read.spec.hashedRekordV002.signature : read.spec.dsseV002.signatures[0]
      const certificate = bytesOf(made.verifier.x509Certificate.rawBytes)
      const of = isHashed ? "signed" : "statement"
      return { kind, version, digest: bytesOf(digest), of, signature: made.content, certificate }
    },
  )

const logProblem = (bundle: Bundle, signed: Buffer, certificate: X509Certificate): string | undefined => {
  const [entry] = bundle.verificationMaterial.tlogEntries
  const { kind, version } = entry.kindVersion
  const body = bytesOf(entry.canonicalizedBody)
  const read = loggedOf(body.toString("utf8"))
  if (Result.isFailure(read)) return "what the log has of it is no entry of an envelope"
  const logged = read.success
  if (kind !== logged.kind || version !== logged.version) return "the log's entry is of another kind than is said"
  if (!logged.digest.equals(sha256(logged.of === "signed" ? signed : statementIn(bundle))))
    return "the log has another statement"
  if (logged.signature !== bundle.dsseEnvelope.signatures[0].sig) return "the log has another signature"
  if (!logged.certificate.equals(certificate.raw)) return "the log has another certificate"
  const { logIndex, rootHash, treeSize, hashes } = entry.inclusionProof
  const root = rootOf(body, BigInt(logIndex), BigInt(treeSize), hashes.map(bytesOf))
  if (!root?.equals(bytesOf(rootHash))) return "the proof does not lead from the entry to the log's root"
  return timeProblem(bundle, certificate) ?? checkpointProblem(entry)
}

/** A log's promise is over the time and the entry's number; without one no time may be said, and the number is that of the proof. */
const timeProblem = ({ verificationMaterial }: Bundle, certificate: X509Certificate): string | undefined => {
  const { timestampVerificationData: stamps } = verificationMaterial
  const [{ inclusionPromise, integratedTime, logIndex, inclusionProof }] = verificationMaterial.tlogEntries
  for (const { signedTimestamp } of stamps?.rfc3161Timestamps ?? [])
    if (stampOf(bytesOf(signedTimestamp))?.toString("base64") !== signedTimestamp)
      return "a stamp of time has bytes that are none of it"
  if (inclusionPromise === undefined) {
    if (integratedTime !== undefined) return "the log says a time and promises nothing"
    if (logIndex !== inclusionProof.logIndex) return "the entry has two numbers"
    return stamps === undefined ? "neither log nor authority says when it was signed" : undefined
  }
  if (integratedTime === undefined) return "the log promises and says no time"
  const time = Number(integratedTime) * 1000
  return time < certificate.validFromDate.getTime() || time > certificate.validToDate.getTime()
    ? "the log wrote it down when the certificate did not hold"
    : undefined
}

const CODE_SIGNING = "1.3.6.1.5.5.7.3.3"

/**
 * Whether the parts of a bundle agree: the certificate's key made the signature, and the log's entry is of this signature, under this
 * certificate, over this statement, in the tree that the proof is of. Gives what is claimed; whoever made all parts made that too.
 */
export const claimOf = (bundle: Bundle): Result.Result<Claim, string> => {
  try {
    const { certificate, tlogEntries } = bundle.verificationMaterial
    const raw = bytesOf(certificate.rawBytes)
    const read = new X509Certificate(raw)
    const identity = identityOf(raw)
    const signed = preAuthentication(PAYLOAD_TYPE, statementIn(bundle))
    if (!read.raw.equals(raw)) return Result.fail("its certificate has bytes that are none of it")
    if (identity === undefined) return Result.fail("its certificate names nobody")
    if (read.ca || !read.keyUsage?.includes(CODE_SIGNING)) return Result.fail("its certificate is none for signing")
    if (!verifyBytes("sha256", signed, read.publicKey, bytesOf(bundle.dsseEnvelope.signatures[0].sig)))
      return Result.fail("the key of its certificate did not make its signature")
    const problem = logProblem(bundle, signed, read)
    if (problem !== undefined) return Result.fail(problem)
    const time = read.validFromDate.toISOString().replace(".000Z", "Z")
    return Result.succeed({ ...identity, time, entry: tlogEntries[0].logIndex })
  } catch {
    return Result.fail("its certificate cannot be read")
  }
}
