/**
 * A Sigstore on loopback: authority, certificate log, log of either version, time authority, and an issuer of tokens with a device flow.
 * Certificates and stamps are made by `@sigstore/mock`, where EXP_SIGSTORE names a folder that has it beside Sigstore's own packages; the
 * log is a Merkle tree of our own, so that proofs have something to prove.
 */
import { createHash, generateKeyPairSync, sign as signBytes, verify as verifyBytes } from "node:crypto"
import { readFileSync, writeFileSync } from "node:fs"
import { createServer, type IncomingMessage } from "node:http"
import { createRequire } from "node:module"
import type { AddressInfo } from "node:net"
import { join, resolve } from "node:path"
import { pathToFileURL } from "node:url"
import { Result } from "effect"
import { onTestFinished } from "vitest"
import { canonicalJson } from "../../src/model/Digest.ts"
import { element, oid } from "../../src/release/Der.ts"
import { PAYLOAD_TYPE, preAuthentication } from "../../src/release/Signature.ts"
import { bundleText, plainBundle } from "../../src/release/Sigstore.ts"

interface Authority {
  readonly rootCertificate: Buffer
  readonly issueCertificate: (request: object) => Promise<Buffer>
}
interface CertificateLog {
  readonly logID: Buffer
  readonly publicKey: Buffer
}
interface Clock {
  readonly rootCertificate: Buffer
  readonly intCertificate: Buffer
}
type Handler = { readonly fn: (body: string) => Promise<{ statusCode: number; response: string | Buffer }> }
interface Mock {
  readonly initializeCA: (keys: object, log: CertificateLog) => Promise<Authority>
  readonly initializeCTLog: (keys: object) => Promise<CertificateLog>
  readonly initializeTSA: (keys: object) => Promise<Clock>
  readonly tsaHandler: (clock: Clock, options: object) => Handler
}

const found = (() => {
  const folder = process.env["EXP_SIGSTORE"]
  const why = "set EXP_SIGSTORE to a folder with Sigstore's packages and `@sigstore/mock` in node_modules"
  if (!folder) return { why }
  try {
    return { path: createRequire(join(resolve(folder), "any.js")).resolve("@sigstore/mock") }
  } catch {
    return { why: `there is no \`@sigstore/mock\` in ${folder}; ${why}` }
  }
})()

/** Why there can be no Sigstore here, if there can be none. */
export const noSigstore = found.why

const mock = async (): Promise<Mock> => {
  // its other half takes over `fetch`; ours are real servers
  process.env["NOCK_OFF"] = "true"
  return (await import(pathToFileURL(found.path!).href)) as Mock
}

const sha256 = (...parts: ReadonlyArray<string | Uint8Array>): Buffer => {
  const hash = createHash("sha256")
  for (const part of parts) hash.update(part)
  return hash.digest()
}

/** RFC 9162, 2.1.1, as it is written there. */
export const treeHash = (leaves: ReadonlyArray<Uint8Array>): Buffer => {
  if (leaves.length === 1) return sha256(Buffer.from([0]), leaves[0]!)
  const half = 2 ** Math.ceil(Math.log2(leaves.length) - 1)
  return sha256(Buffer.from([1]), treeHash(leaves.slice(0, half)), treeHash(leaves.slice(half)))
}

/** RFC 9162, 2.1.3.1. */
export const pathTo = (index: number, leaves: ReadonlyArray<Uint8Array>): ReadonlyArray<Buffer> => {
  if (leaves.length === 1) return []
  const half = 2 ** Math.ceil(Math.log2(leaves.length) - 1)
  return index < half
    ? [...pathTo(index, leaves.slice(0, half)), treeHash(leaves.slice(half))]
    : [...pathTo(index - half, leaves.slice(half)), treeHash(leaves.slice(0, half))]
}

const keyPair = () => {
  const { publicKey, privateKey } = generateKeyPairSync("ec", { namedCurve: "P-256" })
  return { publicKey, privateKey, der: publicKey.export({ type: "spki", format: "der" }) }
}

/** Entries that others made before. */
const OTHERS = ["a", "b", "c", "d", "e"].map((text) => Buffer.from(text))
/** Where the tree begins in the whole log. */
const BEFORE = 1000

class Log {
  readonly keys = keyPair()
  readonly id = sha256(this.keys.der)
  readonly leaves: Array<Buffer> = [...OTHERS]
  readonly host: () => string
  constructor(host: () => string) {
    this.host = host
  }

  #checkpoint(): string {
    const note = `${this.host()} - 42\n${this.leaves.length}\n${treeHash(this.leaves).toString("base64")}\n`
    const signature = Buffer.concat([
      this.id.subarray(0, 4),
      signBytes("sha256", Buffer.from(note), this.keys.privateKey),
    ])
    return `${note}\n— ${this.host()} ${signature.toString("base64")}\n`
  }

  #append(body: Buffer) {
    const index = this.leaves.push(body) - 1
    return { index, size: this.leaves.length, root: treeHash(this.leaves), hashes: pathTo(index, this.leaves) }
  }

  /** Of the first version: with a promise over the time. */
  first(envelope: string, verifier: string): object {
    const { payload, signatures } = JSON.parse(envelope)
    const body = Buffer.from(
      canonicalJson({
        apiVersion: "0.0.1",
        kind: "dsse",
        spec: {
          envelopeHash: { algorithm: "sha256", value: sha256(envelope).toString("hex") },
          payloadHash: { algorithm: "sha256", value: sha256(Buffer.from(payload, "base64")).toString("hex") },
          signatures: [{ signature: signatures[0].sig, verifier }],
        },
      }),
    )
    const { index, size, root, hashes } = this.#append(body)
    const promised = {
      body: body.toString("base64"),
      integratedTime: Math.floor(Date.now() / 1000),
      logID: this.id.toString("hex"),
      logIndex: BEFORE + index,
    }
    return {
      [sha256(body).toString("hex")]: {
        ...promised,
        verification: {
          signedEntryTimestamp: signBytes(
            "sha256",
            Buffer.from(canonicalJson(promised)),
            this.keys.privateKey,
          ).toString("base64"),
          inclusionProof: {
            logIndex: index,
            treeSize: size,
            rootHash: root.toString("hex"),
            hashes: hashes.map((hash) => hash.toString("hex")),
            checkpoint: this.#checkpoint(),
          },
        },
      },
    }
  }

  /** Of the second: without a time; a witness signs its checkpoints too. */
  second({
    envelope,
    verifiers,
  }: {
    envelope: { payload: string; signatures: [{ sig: string }] }
    verifiers: [object]
  }): object {
    const { payload, signatures } = envelope
    const digest = sha256(Buffer.from(payload, "base64")).toString("base64")
    const body = Buffer.from(
      canonicalJson({
        apiVersion: "0.0.2",
        kind: "dsse",
        spec: {
          dsseV002: {
            payloadHash: { algorithm: "SHA2_256", digest },
            signatures: [{ content: signatures[0].sig, verifier: verifiers[0] }],
          },
        },
      }),
    )
    const { index, size, root, hashes } = this.#append(body)
    const witness = `— witness.example ${Buffer.alloc(70, 7).toString("base64")}\n`
    return {
      logIndex: String(index),
      logId: { keyId: this.id.toString("base64") },
      kindVersion: { kind: "dsse", version: "0.0.2" },
      inclusionProof: {
        logIndex: String(index),
        rootHash: root.toString("base64"),
        treeSize: String(size),
        hashes: hashes.map((hash) => hash.toString("base64")),
        checkpoint: { envelope: `${this.#checkpoint()}${witness}` },
      },
      canonicalizedBody: body.toString("base64"),
    }
  }
}

const object = (dotted: string): Buffer => element(0x06, Buffer.from(oid(dotted), "hex"))
const time = (milliseconds: number): Buffer =>
  element(
    0x17,
    Buffer.from(
      `${new Date(milliseconds)
        .toISOString()
        .replaceAll(/[-:T]|\.\d+/g, "")
        .slice(2, 14)}Z`,
    ),
  )

/** How a certificate names somebody. */
export const names = {
  email: (text: string) => element(0x81, Buffer.from(text)),
  uri: (text: string) => element(0x86, Buffer.from(text)),
  other: (text: string) =>
    element(0xa0, object("1.3.6.1.4.1.57264.1.7"), element(0xa0, element(0x0c, Buffer.from(text)))),
}

/** A certificate that nobody vouches for. */
const forgedCertificate = ({ der, privateKey }: ReturnType<typeof keyPair>, ...who: ReadonlyArray<Buffer>): Buffer => {
  const extension = (id: string, value: Buffer) => element(0x30, object(id), element(0x04, value))
  const scheme = element(0x30, object("1.2.840.10045.4.3.2"))
  const now = Date.now()
  const signed = element(
    0x30,
    element(0xa0, element(0x02, Buffer.from([2]))),
    element(0x02, Buffer.from([7])),
    scheme,
    element(0x30),
    element(0x30, time(now - 1000), time(now + 600_000)),
    element(0x30),
    der,
    element(
      0xa3,
      element(
        0x30,
        extension("2.5.29.37", element(0x30, object("1.3.6.1.5.5.7.3.3"))),
        extension("2.5.29.17", element(0x30, ...who)),
        extension("1.3.6.1.4.1.57264.1.8", element(0x0c, Buffer.from("https://issuer.example"))),
      ),
    ),
  )
  const signature = signBytes("sha256", signed, privateKey)
  return element(0x30, signed, scheme, element(0x03, Buffer.from([0]), signature))
}

/** A bundle whose parts agree, certificate and log made up with it: nobody but Sigstore's own keys can tell. */
export const forged = (statement: Uint8Array, ...who: ReadonlyArray<Buffer>): string => {
  const keys = keyPair()
  const log = new Log(() => "log.example")
  const certificate = forgedCertificate(keys, ...who)
  const sig = signBytes("sha256", preAuthentication(PAYLOAD_TYPE, statement), keys.privateKey).toString("base64")
  const envelope = {
    payload: Buffer.from(statement).toString("base64"),
    payloadType: PAYLOAD_TYPE,
    signatures: [{ sig }],
  }
  const pem = `-----BEGIN CERTIFICATE-----\n${certificate.toString("base64")}\n-----END CERTIFICATE-----\n`
  const [entry] = Object.values(log.first(JSON.stringify(envelope), Buffer.from(pem).toString("base64"))) as [any]
  const { inclusionProof: proof, signedEntryTimestamp } = entry.verification
  const base64 = (hex: string) => Buffer.from(hex, "hex").toString("base64")
  const bundle = plainBundle({
    mediaType: "application/vnd.dev.sigstore.bundle.v0.3+json",
    verificationMaterial: {
      certificate: { rawBytes: certificate.toString("base64") },
      tlogEntries: [
        {
          logIndex: String(entry.logIndex),
          logId: { keyId: base64(entry.logID) },
          kindVersion: { kind: "dsse", version: "0.0.1" },
          integratedTime: String(entry.integratedTime),
          inclusionPromise: { signedEntryTimestamp },
          inclusionProof: {
            logIndex: String(proof.logIndex),
            rootHash: base64(proof.rootHash),
            treeSize: String(proof.treeSize),
            hashes: proof.hashes.map(base64),
            checkpoint: { envelope: proof.checkpoint },
          },
          canonicalizedBody: entry.body,
        },
      ],
    },
    dsseEnvelope: envelope,
  })
  if (Result.isFailure(bundle)) throw new Error(bundle.failure)
  return bundleText(bundle.success)
}

const base64url = (value: object): string => Buffer.from(JSON.stringify(value)).toString("base64url")

/** A token as an issuer makes it; nobody here asks for its signature. */
export const tokenOf = (claims: object = {}): string => {
  const now = Math.floor(Date.now() / 1000)
  const all = {
    iss: "https://issuer.example",
    aud: "sigstore",
    sub: "https://ci.example/ada/tiny",
    exp: now + 600,
    ...claims,
  }
  return `${base64url({ alg: "ES256", typ: "JWT" })}.${base64url(all)}.${Buffer.from("signature").toString("base64url")}`
}

const claimsOf = (token: string) => JSON.parse(Buffer.from(token.split(".")[1]!, "base64url").toString("utf8"))

const bodyOf = async (request: IncomingMessage): Promise<string> => {
  const chunks: Array<Buffer> = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString("utf8")
}

export interface Asked {
  readonly path: string
  readonly body: string
}

export interface Sigstore {
  readonly url: string
  /** Files. */
  readonly signingConfig: string
  readonly trustedRoot: string
  readonly asked: ReadonlyArray<Asked>
  /** What the authority answers with, instead of a certificate. */
  refusal: ((token: string) => { readonly status: number; readonly message: string }) | undefined
  /** What the log answers with in place of the true entry. */
  mistake: ((entry: object) => object) | undefined
}

/** @param version of the log; the second leaves time to an authority */
export const startSigstore = async (folder: string, version: 1 | 2 = 1): Promise<Sigstore> => {
  const { initializeCA, initializeCTLog, initializeTSA, tsaHandler } = await mock()
  const certificateLog = await initializeCTLog(keyPair())
  const authority = await initializeCA(keyPair(), certificateLog)
  const clock = await initializeTSA(keyPair())
  const stamps = tsaHandler(clock, { strict: true })
  const asked: Array<Asked> = []
  let host = ""
  const log = new Log(() => host)

  const certify = async (body: string): Promise<[number, object]> => {
    const { credentials, publicKeyRequest } = JSON.parse(body)
    const token: string = credentials.oidcIdentityToken
    const refusal = made.refusal?.(token)
    if (refusal !== undefined) return [refusal.status, { code: 3, message: refusal.message }]
    const { sub, email, iss } = claimsOf(token)
    const pem: string = publicKeyRequest.publicKey.content
    const proof = Buffer.from(publicKeyRequest.proofOfPossession, "base64")
    if (!verifyBytes("sha256", Buffer.from(email ?? sub), pem, proof))
      return [400, { message: "no proof of possession" }]
    const der = Buffer.from(pem.replaceAll(/-----[^-]+-----|\s/g, ""), "base64")
    const extensions = [{ oid: "1.3.6.1.4.1.57264.1.8", value: iss }]
    const leaf = await authority.issueCertificate({ publicKey: der, subjectAltName: email ?? sub, extensions })
    const pemOf = (bytes: Buffer) =>
      `-----BEGIN CERTIFICATE-----\n${bytes.toString("base64")}\n-----END CERTIFICATE-----\n`
    const certificates = [leaf, authority.rootCertificate].map(pemOf)
    return [200, { signedCertificateEmbeddedSct: { chain: { certificates } } }]
  }

  const record = (body: string): [number, object] => {
    const { spec, dsseRequestV002 } = JSON.parse(body)
    const entry =
      version === 1
        ? log.first(spec.proposedContent.envelope, spec.proposedContent.verifiers[0])
        : log.second(dsseRequestV002)
    return [201, made.mistake?.(entry) ?? entry]
  }

  const answer = async (path: string, body: string): Promise<[number, object | Buffer]> => {
    if (path === "/api/v2/signingCert") return certify(body)
    if (path === `/api/v${version}/log/entries`) return record(body)
    if (path === "/api/v1/timestamp") {
      const { statusCode, response } = await stamps.fn(body)
      return [statusCode, Buffer.from(response as Buffer)]
    }
    return [404, { message: `there is no ${path}` }]
  }

  const server = createServer(async (request, response) => {
    const body = await bodyOf(request)
    asked.push({ path: request.url!, body })
    const [status, value] = await answer(request.url!, body).catch((cause): [number, object] => [
      500,
      { message: String(cause) },
    ])
    const isStamp = Buffer.isBuffer(value)
    response.writeHead(status, { "content-type": isStamp ? "application/timestamp-reply" : "application/json" })
    response.end(isStamp ? value : JSON.stringify(value))
  })
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening))
  onTestFinished(() => void server.close())
  host = `127.0.0.1:${(server.address() as AddressInfo).port}`
  const url = `http://${host}`

  const validFor = { start: "2020-01-01T00:00:00Z" }
  const logged = (id: Buffer, der: Buffer, baseUrl: string) => ({
    baseUrl,
    hashAlgorithm: "SHA2_256",
    publicKey: { rawBytes: der.toString("base64"), keyDetails: "PKIX_ECDSA_P256_SHA_256", validFor },
    logId: { keyId: id.toString("base64") },
  })
  const certified = (uri: string, ...certificates: ReadonlyArray<Buffer>) => ({
    subject: { organization: "sigstore.mock", commonName: "sigstore" },
    uri,
    certChain: { certificates: certificates.map((one) => ({ rawBytes: Buffer.from(one).toString("base64") })) },
    validFor,
  })
  const write = (name: string, value: object): string => {
    const path = join(folder, name)
    writeFileSync(path, `${JSON.stringify(value, null, 2)}\n`)
    return path
  }
  const service = (address: string, majorApiVersion: number) => ({
    url: address,
    majorApiVersion,
    validFor,
    operator: "test",
  })
  const made: Sigstore = {
    url,
    asked,
    refusal: undefined,
    mistake: undefined,
    signingConfig: write("signing_config.json", {
      mediaType: "application/vnd.dev.sigstore.signingconfig.v0.2+json",
      caUrls: [service(url, 1)],
      oidcUrls: [service(url, 1)],
      rekorTlogUrls: [service(url, version)],
      rekorTlogConfig: { selector: "ANY" },
      ...(version === 2 && { tsaUrls: [service(url, 1)], tsaConfig: { selector: "ANY" } }),
    }),
    trustedRoot: write("trusted_root.json", {
      mediaType: "application/vnd.dev.sigstore.trustedroot+json;version=0.1",
      tlogs: [logged(log.id, log.keys.der, url)],
      certificateAuthorities: [certified(url, authority.rootCertificate)],
      ctlogs: [logged(certificateLog.logID, certificateLog.publicKey, `${url}/ct`)],
      timestampAuthorities: [certified(`${url}/api/v1/timestamp`, clock.intCertificate, clock.rootCertificate)],
    }),
  }
  return made
}

/** A repository of keys on loopback, as TUF has it (theupdateframework.github.io/specification, 1.0), fresh for a day. */
export const startTuf = async (folder: string, targets: Readonly<Record<string, string>>) => {
  const { publicKey, privateKey } = generateKeyPairSync("ed25519")
  const key = {
    keytype: "ed25519",
    scheme: "ed25519",
    keyval: { public: publicKey.export({ type: "spki", format: "der" }).subarray(-32).toString("hex") },
  }
  const keyid = sha256(canonicalJson(key)).toString("hex")
  const expires = new Date(Date.now() + 86_400_000).toISOString().replace(/\.\d+Z/, "Z")
  const files = new Map<string, Buffer>()
  const put = (name: string, fields: object): Buffer => {
    const signed = { spec_version: "1.0.31", version: 1, expires, ...fields }
    const sig = signBytes(null, Buffer.from(canonicalJson(signed)), privateKey).toString("hex")
    const bytes = Buffer.from(JSON.stringify({ signatures: [{ keyid, sig }], signed }))
    files.set(`/${name}`, bytes)
    return bytes
  }
  const described = (bytes: Buffer) => ({ length: bytes.length, hashes: { sha256: sha256(bytes).toString("hex") } })
  const role = { keyids: [keyid], threshold: 1 }
  const root = put("1.root.json", {
    _type: "root",
    consistent_snapshot: true,
    keys: { [keyid]: key },
    roles: { root: role, timestamp: role, snapshot: role, targets: role },
  })
  const listed: Record<string, object> = {}
  for (const [name, path] of Object.entries(targets)) {
    const bytes = readFileSync(path)
    files.set(`/targets/${sha256(bytes).toString("hex")}.${name}`, bytes)
    listed[name] = described(bytes)
  }
  const listing = put("1.targets.json", { _type: "targets", targets: listed })
  const snapshot = put("1.snapshot.json", {
    _type: "snapshot",
    meta: { "targets.json": { version: 1, ...described(listing) } },
  })
  put("timestamp.json", { _type: "timestamp", meta: { "snapshot.json": { version: 1, ...described(snapshot) } } })
  const asked: Array<string> = []
  const server = createServer((request, response) => {
    asked.push(request.url!)
    const file = files.get(request.url!)
    response.writeHead(file === undefined ? 404 : 200)
    response.end(file)
  })
  await new Promise<void>((listening) => server.listen(0, "127.0.0.1", listening))
  onTestFinished(() => void server.close())
  const rootFile = join(folder, "root.json")
  writeFileSync(rootFile, root)
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    rootFile,
    asked,
    files,
    close: () =>
      new Promise<void>((closed) => {
        server.close(() => closed())
        server.closeAllConnections()
      }),
  }
}
