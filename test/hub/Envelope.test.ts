import { readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Redacted } from "effect"
import { assert, describe, expect, it } from "vitest"
import { keyFor } from "../../src/hub/Envelope.ts"
import { readRelease } from "../../src/hub/ReleaseFiles.ts"
import { newKey, readSigningKey } from "../../src/release/Keys.ts"
import { signedEnvelope } from "../../src/release/Signing.ts"
import { temporaryFolder } from "../temporary.ts"
import { sum, stated as withStatement } from "./release.ts"
import { CANARY, contentOf } from "./world.ts"

const run = <A, E>(effect: Effect.Effect<A, E, NodeServices.NodeServices>): Promise<A> =>
  Effect.runPromise(Effect.provide(effect, NodeServices.layer))

const refusal = <A, E extends { readonly message: string }>(effect: Effect.Effect<A, E, NodeServices.NodeServices>) =>
  run(Effect.match(effect, { onFailure: ({ message }) => message, onSuccess: () => "nothing was refused" }))

const stated = (version = "1"): string => withStatement(join(temporaryFolder(), "release"), version)

const signature = async (folder: string): Promise<string> => {
  const { path } = await run(newKey(join(temporaryFolder(), "key.pem")))
  return run(Effect.flatMap(readSigningKey(path), (key) => signedEnvelope(folder, key)))
}

/** A release that lies there with its signature. */
const signed = async (): Promise<string> => {
  const folder = stated()
  const envelope = await signature(folder)
  writeFileSync(join(folder, "provenance.dsse.json"), envelope)
  return folder
}

describe("a release that is published signed", () => {
  it("takes along the envelope that lies in its folder, when it is one over this release", async () => {
    const { files } = await run(contentOf(await signed()))
    assert.include(
      files.map(({ path }) => path),
      "provenance.dsse.json",
    )
  })

  it("is refused with an envelope that is none, is another's, or that its key did not make", async () => {
    const folder = await signed()
    const path = join(folder, "provenance.dsse.json")
    const envelope = JSON.parse(readFileSync(path, "utf8"))
    const [made] = envelope.signatures
    const said: Array<string> = []
    for (const text of [
      "signed, honestly\n",
      await signature(stated("2")),
      JSON.stringify({ ...envelope, signatures: [{ ...made, sig: `${"A".repeat(86)}==` }] }),
      JSON.stringify({ ...envelope, signatures: [{ sig: made.sig }] }),
    ]) {
      writeFileSync(path, text)
      said.push(await refusal(contentOf(folder)))
      // whoever hands one in is believed no more
      rmSync(path)
      assert.strictEqual(await refusal(contentOf(folder, [{ path: "provenance.dsse.json", text }])), said.at(-1))
    }
    expect(
      said.map((text) => text.replaceAll(folder, "<release>").replaceAll(/[0-9a-f]{16}/g, "<key>")).join("\n"),
    ).toMatchInlineSnapshot(`
      "<release> cannot be published
        provenance.dsse.json: it is not JSON
        hint: \`exp verify\` says more; without provenance.dsse.json, \`exp publish --key\` signs it anew
      <release> cannot be published
        provenance.dsse.json: what is signed is not this release's provenance.json
        hint: \`exp verify\` says more; without provenance.dsse.json, \`exp publish --key\` signs it anew
      <release> cannot be published
        provenance.dsse.json: the key <key> did not make its signature
        hint: \`exp verify\` says more; without provenance.dsse.json, \`exp publish --key\` signs it anew
      <release> cannot be published
        provenance.dsse.json: no signature brings the key along that made it
        hint: \`exp verify\` says more; without provenance.dsse.json, \`exp publish --key\` signs it anew"
    `)
  })

  it("is signed with the sums that were made for sending it: the same bytes as signing it by itself, and nothing else is", async () => {
    const folder = stated()
    const { path } = await run(newKey(join(temporaryFolder(), "key.pem")))
    const key = await run(readSigningKey(path))
    const signing = () => readRelease(folder, Redacted.make(CANARY), { key })
    const { files } = await run(signing())
    const envelope = files.find(({ path }) => path === "provenance.dsse.json")!
    assert.deepStrictEqual(envelope.content, { text: await run(signedEnvelope(folder, key)) })
    writeFileSync(join(folder, "tiny-step_1.json"), '{"step":2}\n')
    sum(folder)
    assert.match(await refusal(signing()), /it cannot be signed: tiny-step_1\.json has other bytes\n {2}hint: /)
  })

  it("is refused when its files were changed since, sums and all", async () => {
    const folder = await signed()
    const path = join(folder, "provenance.dsse.json")
    const envelope = readFileSync(path, "utf8")
    rmSync(path)
    writeFileSync(join(folder, "tiny-step_1.json"), '{"step":2}\n')
    sum(folder)
    writeFileSync(path, envelope)
    assert.include(await refusal(contentOf(folder)), "provenance.dsse.json: tiny-step_1.json is not as it was signed")
  })
})

describe("the key of a publication", () => {
  it("that is named by EXP_SIGNING_KEY and is not there ends it, instead of leaving it unsigned", async () => {
    const before = { key: process.env["EXP_SIGNING_KEY"], config: process.env["XDG_CONFIG_HOME"] }
    const folder = stated()
    try {
      process.env["XDG_CONFIG_HOME"] = temporaryFolder()
      delete process.env["EXP_SIGNING_KEY"]
      assert.strictEqual(await run(keyFor(undefined)), undefined)
      process.env["EXP_SIGNING_KEY"] = join(folder, "../none.pem")
      assert.match(await refusal(keyFor(undefined)), /none\.pem: there is no such file\n {2}hint: /)
    } finally {
      for (const [name, value] of [
        ["EXP_SIGNING_KEY", before.key],
        ["XDG_CONFIG_HOME", before.config],
      ] as const)
        if (value === undefined) delete process.env[name]
        else process.env[name] = value
    }
  })
})
