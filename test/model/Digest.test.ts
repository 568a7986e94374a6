import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { canonicalJson, digest, NotCanonical, sha256 } from "../../src/model/Digest.ts"

describe("canonical JSON", () => {
  it("spells a value in one way: keys in order, no white space, absent members left out", () => {
    assert.strictEqual(
      canonicalJson({ b: [1, "é", null], a: { z: true, y: undefined, A: 1e21 } }),
      '{"a":{"A":1e+21,"z":true},"b":[1,"é",null]}',
    )
    assert.strictEqual(digest({ a: 1, b: 2 }), digest({ b: 2, a: 1 }))
    assert.notStrictEqual(digest({ a: 1, b: 2 }), digest({ a: 2, b: 1 }))
    assert.notStrictEqual(digest([1, 2]), digest([2, 1]))
  })

  it("sorts keys by UTF-16 code unit, whatever the language of the machine", () => {
    assert.strictEqual(
      canonicalJson({ ä: 1, z: 2, B: 3, a: 4, "10": 5, "9": 6 }),
      '{"10":5,"9":6,"B":3,"a":4,"z":2,"ä":1}',
    )
  })

  it("does not tell -0 from 0", () => {
    assert.strictEqual(canonicalJson([-0]), "[0]")
    assert.strictEqual(digest({ lr: -0 }), digest({ lr: 0 }))
  })

  it("refuses what JSON cannot say, and names the place", () => {
    const refused = (value: unknown, at: RegExp) => {
      assert.throws(() => canonicalJson(value), NotCanonical)
      assert.throws(() => canonicalJson(value), at)
    }
    refused({ lr: [1, Number.NaN] }, /\$\.lr\[1\] is NaN/)
    refused(Number.POSITIVE_INFINITY, /\$ is Infinity/)
    refused({ at: new Date(0) }, /\$\.at is a Date/)
    refused([new Map()], /\$\[0\] is a Map/)
    refused(10n, /bigint/)
    refused(() => 1, /function/)
    refused([undefined], /undefined/)
  })

  it("hashes bytes and the UTF-8 of strings alike", () => {
    assert.strictEqual(sha256("è"), sha256(new TextEncoder().encode("è")))
    assert.strictEqual(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
  })

  const Value = Schema.Record(Schema.String, Schema.Array(Schema.Union([Schema.Finite, Schema.String, Schema.Boolean])))
  it.prop("is JSON of the same value and the same after a round trip", [Value], ([value]) => {
    const text = canonicalJson(value)
    assert.strictEqual(canonicalJson(JSON.parse(text)), text)
    for (const [key, members] of Object.entries(JSON.parse(text) as typeof value))
      assert.deepStrictEqual(
        members,
        value[key]!.map((member) => (member === 0 ? 0 : member)),
      )
  })
})
