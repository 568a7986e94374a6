import { Result } from "effect"
import { assert, describe, expect, it } from "vitest"
import { element, elements, NotDer, oid } from "../../src/release/Der.ts"
import { claimOf, readBundle, rootOf, statementIn } from "../../src/release/Sigstore.ts"
import { stampOf } from "../../src/release/Stamp.ts"
import { forged, names, pathTo, treeHash } from "../hub/sigstore.ts"

const statement = Buffer.from('{"_type":"https://in-toto.io/Statement/v1"}\n')
const text = forged(statement, names.email("ada@example.org"))

/** What is wrong with a bundle, or whose it says that it is. */
const said = (bundle: string | Buffer): string => {
  const read = readBundle(Buffer.from(bundle))
  if (Result.isFailure(read)) return read.failure.replaceAll(/\s+/g, " ")
  const claim = claimOf(read.success)
  return Result.isFailure(claim) ? claim.failure : `${claim.success.name} by ${claim.success.issuer}`
}

const changed = (change: (bundle: any) => void): string => {
  const bundle = JSON.parse(text)
  change(bundle)
  return `${JSON.stringify(bundle, null, 2)}\n`
}

describe("a keyless bundle", () => {
  it("tells who is said to have signed, by an e-mail address, a URI or a name of the issuer's own", () => {
    assert.strictEqual(said(text), "ada@example.org by https://issuer.example")
    const uri = "https://ci.example/ada/tiny/.ci/release.yml@refs/heads/main"
    assert.strictEqual(said(forged(statement, names.uri(uri))), `${uri} by https://issuer.example`)
    assert.strictEqual(
      said(forged(statement, names.other("ada!example.org"))),
      "ada!example.org by https://issuer.example",
    )
    const bundle = readBundle(Buffer.from(text))
    assert.isTrue(Result.isSuccess(bundle) && statementIn(bundle.success).equals(statement))
  })

  it("names one: a certificate of nobody, or of two, is none", () => {
    assert.strictEqual(said(forged(statement)), "its certificate names nobody")
    const two = forged(statement, names.email("ada@example.org"), names.email("bob@example.org"))
    assert.strictEqual(said(two), "its certificate names nobody")
  })

  it("has one spelling and no field that the format has not", () => {
    expect(said(JSON.stringify(JSON.parse(text)))).toBe("it is not spelled as it was written")
    expect(said(text.replace("\n", "\r\n"))).toBe("it is not spelled as it was written")
    expect(said(`${text}\n`)).toBe("it is not spelled as it was written")
    expect(said(text.replace('"mediaType"', '"mediaType": "x",\n  "mediaType"'))).toBe(
      "it is not spelled as it was written",
    )
    expect(said("{")).toBe("it is not JSON")
    expect(said(changed((bundle) => Object.assign(bundle, { note: 1 })))).toContain(
      'Expected no excess property at ["note"]',
    )
    expect(
      said(
        changed((bundle) => bundle.verificationMaterial.tlogEntries.push(bundle.verificationMaterial.tlogEntries[0])),
      ),
    ).toContain("tlogEntries")
  })

  it("is refused where its parts are of two bundles", () => {
    const other = JSON.parse(forged(statement, names.email("bob@example.org")))
    const another = JSON.parse(forged(Buffer.from("another\n"), names.email("ada@example.org")))
    const entry = (bundle: any) => bundle.verificationMaterial.tlogEntries[0]
    expect([
      said(changed((bundle) => Object.assign(bundle.dsseEnvelope, { payload: another.dsseEnvelope.payload }))),
      said(changed((bundle) => Object.assign(bundle, { dsseEnvelope: another.dsseEnvelope }))),
      said(
        changed((bundle) =>
          Object.assign(bundle.verificationMaterial, { certificate: other.verificationMaterial.certificate }),
        ),
      ),
      said(
        changed((bundle) =>
          Object.assign(bundle.verificationMaterial, { tlogEntries: other.verificationMaterial.tlogEntries }),
        ),
      ),
      said(changed((bundle) => Object.assign(entry(bundle), { canonicalizedBody: entry(another).canonicalizedBody }))),
      said(changed((bundle) => Object.assign(entry(bundle), { inclusionProof: entry(other).inclusionProof }))),
      said(changed((bundle) => Object.assign(entry(bundle), { kindVersion: { kind: "dsse", version: "0.0.2" } }))),
      said(changed((bundle) => Object.assign(entry(bundle), { integratedTime: "1700000000" }))),
      said(changed((bundle) => delete entry(bundle).integratedTime)),
      said(changed((bundle) => delete entry(bundle).inclusionPromise)),
    ]).toMatchInlineSnapshot(`
      [
        "the key of its certificate did not make its signature",
        "the key of its certificate did not make its signature",
        "the key of its certificate did not make its signature",
        "the log has another signature",
        "the log has another statement",
        "the proof does not lead from the entry to the log's root",
        "the log's entry is of another kind than is said",
        "the log wrote it down when the certificate did not hold",
        "the log promises and says no time",
        "the log says a time and promises nothing",
      ]
    `)
  })

  it("without the keys of its log and authority shows every flipped bit but those in what only they know", () => {
    const open: Array<string> = []
    const bytes = Buffer.from(text)
    for (let bit = 0; bit < 8 * bytes.length; bit++) {
      const at = bit >> 3
      const flipped = Buffer.from(bytes)
      flipped[at]! ^= 1 << (bit & 7)
      if (!said(flipped).includes(" by ")) continue
      // the field is the last one that was named before
      open.push([...text.slice(0, at).matchAll(/"(\w+)":/g)].at(-1)![1]!)
    }
    // number in the log, its name, its time and what it signed; of the time only the last digits, while the certificate held
    expect([...new Set(open)].sort()).toEqual([
      "envelope",
      "integratedTime",
      "keyId",
      "logIndex",
      "signedEntryTimestamp",
    ])
  }, 120_000)
})

describe("a proof", () => {
  it("leads to the root of every tree from every leaf, and with a hash more or less to none", () => {
    for (let size = 1; size <= 17; size++) {
      const leaves = Array.from({ length: size }, (_, n) => Buffer.from(`leaf ${n}`))
      const root = treeHash(leaves)
      for (const [index, leaf] of leaves.entries()) {
        const path = pathTo(index, leaves)
        const at = [BigInt(index), BigInt(size)] as const
        assert.isTrue(rootOf(leaf, ...at, path)?.equals(root), `${index} of ${size}`)
        assert.notDeepEqual(rootOf(Buffer.from("another"), ...at, path), root)
        assert.isUndefined(rootOf(leaf, ...at, [...path, root]))
        if (path.length > 0) assert.isUndefined(rootOf(leaf, ...at, path.slice(1)))
        assert.isUndefined(rootOf(leaf, BigInt(size), BigInt(size), path))
      }
    }
  })
})

describe("DER", () => {
  it("is read in the one form it has", () => {
    const long = element(0x04, Buffer.alloc(300, 1))
    assert.deepStrictEqual([...long.subarray(0, 4)], [0x04, 0x82, 0x01, 0x2c])
    assert.deepStrictEqual(elements(Buffer.concat([long, element(0x05)])), [
      { tag: 0x04, content: Buffer.alloc(300, 1) },
      { tag: 0x05, content: Buffer.alloc(0) },
    ])
    assert.strictEqual(oid("2.5.29.17"), "551d11")
    assert.strictEqual(oid("1.3.6.1.4.1.57264.1.8"), "2b0601040183bf300108")
    for (const bytes of [
      [0x04],
      [0x04, 0x02, 0],
      [0x04, 0x80],
      [0x04, 0x81, 0x01, 0],
      [0x04, 0x82, 0, 0x81],
      [0x1f, 0x01, 0],
    ])
      assert.throws(() => elements(Buffer.from(bytes)), NotDer)
  })

  it("of a stamp that is none gives none", () => {
    assert.isUndefined(stampOf(Buffer.from("no stamp")))
    assert.isUndefined(stampOf(element(0x30, element(0x30), element(0x30))))
  })
})
