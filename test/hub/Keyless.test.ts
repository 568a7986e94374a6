import { createHash } from "node:crypto"
import { readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Redacted, Result } from "effect"
import { afterEach, assert, beforeEach, describe, expect, it } from "vitest"
import { signKeyless, withKeyless } from "../../src/hub/Keyless.ts"
import { publish } from "../../src/hub/Publication.ts"
import { type ReleaseContent, readRelease } from "../../src/hub/ReleaseFiles.ts"
import { openTrust } from "../../src/hub/Sigstore.ts"
import { BUNDLE, readBundle } from "../../src/release/Sigstore.ts"
import { finished, publishing, start } from "../endToEnd/experiment.ts"
import { temporaryFolder } from "../temporary.ts"
import type { HubServer } from "./HubServer.ts"
import { stated } from "./release.ts"
import { forged, names, noSigstore, type Sigstore, startSigstore, startTuf, tokenOf } from "./sigstore.ts"
import { CANARY, contentOf, refusalOf, run as runOn, startHub, target } from "./world.ts"

const VARIABLES = [
  "SIGSTORE_ID_TOKEN",
  "XDG_CACHE_HOME",
  "EXP_SIGSTORE",
  "EXP_SIGSTORE_TUF",
  "EXP_SIGSTORE_TUF_ROOT",
  "ACTIONS_ID_TOKEN_REQUEST_URL",
] as const
const before = VARIABLES.map((name) => [name, process.env[name]] as const)
beforeEach(() => {
  process.env["XDG_CACHE_HOME"] = temporaryFolder()
  delete process.env["SIGSTORE_ID_TOKEN"]
  delete process.env["ACTIONS_ID_TOKEN_REQUEST_URL"]
})
afterEach(() => {
  for (const [name, value] of before)
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
})

const run = <A, E>(effect: Effect.Effect<A, E, NodeServices.NodeServices>): Promise<A> =>
  Effect.runPromise(Effect.provide(effect, NodeServices.layer))

const refused = <A, E extends { readonly message: string }>(effect: Effect.Effect<A, E, NodeServices.NodeServices>) =>
  run(Effect.match(effect, { onFailure: ({ message }) => message, onSuccess: () => "nothing was refused" }))

const statement = Buffer.from('{"_type":"https://in-toto.io/Statement/v1"}\n')
const settings = (sigstore: Pick<Sigstore, "signingConfig">) => ({
  signingConfig: sigstore.signingConfig,
  terminal: false,
  say: () => {},
})

/** Of what is on the hub's `main`, sha256 by path. */
const onHub = (server: HubServer): Readonly<Record<string, string>> => server.mains.at(-1)!.tree
const sha256 = (path: string): string => createHash("sha256").update(readFileSync(path)).digest("hex")

const release = (version = "1") => stated(join(temporaryFolder(), "release"), version)

describe("signing keyless", () => {
  it("without Sigstore's library says by which command it is had, and asks nobody anything", async () => {
    process.env["EXP_SIGSTORE"] = temporaryFolder()
    process.env["SIGSTORE_ID_TOKEN"] = tokenOf()
    const said = await refused(signKeyless(statement, settings({ signingConfig: "/nowhere" })))
    expect(said.replace(process.env["EXP_SIGSTORE"], "<folder>")).toMatchInlineSnapshot(`
      "sigstore: \`@sigstore/bundle\` is not installed in <folder>
        hint: \`npm install --no-save --ignore-scripts @sigstore/bundle@5 @sigstore/protobuf-specs@0.5 @sigstore/sign@5 @sigstore/tuf@5 @sigstore/verify@4\`, or EXP_SIGSTORE as a folder that has them in node_modules"
    `)
  })

  it("without a token is refused before the library is looked for", async () => {
    process.env["EXP_SIGSTORE"] = temporaryFolder()
    const said = await refused(signKeyless(statement, settings({ signingConfig: "/nowhere" })))
    assert.match(
      said,
      /^signing keyless: nobody says who signs: there is no identity token\n {2}hint: set SIGSTORE_ID_TOKEN/,
    )
  })

  it("of the command line is refused so too, and shows no token", async () => {
    const folder = release()
    const environment = {
      EXP_SIGSTORE: temporaryFolder(),
      SIGSTORE_ID_TOKEN: tokenOf(),
      XDG_CACHE_HOME: temporaryFolder(),
      NO_COLOR: "1",
    }
    const { code, stdout, stderr } = await finished(start(folder, ["sign", ".", "--keyless"], environment))
    assert.strictEqual(code, 1)
    assert.match(
      stderr,
      /error: sigstore: `@sigstore\/\w+[\w-]*` is not installed.*\n {2}hint: `npm install --no-save --ignore-scripts/,
    )
    assert.notInclude(stdout + stderr, environment.SIGSTORE_ID_TOKEN)
    assert.notInclude(readdirSync(folder), BUNDLE)
    const alone = await finished(start(folder, ["sign", ".", "--keyless"], { ...environment, SIGSTORE_ID_TOKEN: "" }))
    assert.match(alone.stderr, /nobody says who signs/)
  }, 60_000)
})

describe("a release with a keyless signature", () => {
  it("is refused with one over another release, or whose parts do not agree", async () => {
    const folder = release()
    const path = join(folder, BUNDLE)
    const own = readFileSync(join(folder, "provenance.json"))
    writeFileSync(path, forged(own, names.email("ada@example.org")))
    assert.include(
      (await run(contentOf(folder))).files.map((file) => file.path),
      BUNDLE,
    )
    const said: Array<string> = []
    const bundle = JSON.parse(readFileSync(path, "utf8"))
    const other = JSON.parse(forged(own, names.email("bob@example.org")))
    for (const text of [
      "signed, honestly\n",
      forged(statement, names.email("ada@example.org")),
      `${JSON.stringify({ ...bundle, dsseEnvelope: other.dsseEnvelope }, null, 2)}\n`,
    ]) {
      writeFileSync(path, text)
      said.push((await refused(contentOf(folder))).replaceAll(folder, "<release>"))
      rmSync(path)
      assert.strictEqual(
        (await refused(contentOf(folder, [{ path: BUNDLE, text }]))).replaceAll(folder, "<release>"),
        said.at(-1),
      )
    }
    expect(said.join("\n")).toMatchInlineSnapshot(`
      "<release> cannot be published
        provenance.sigstore.json: it is not JSON
        hint: \`exp verify\` says more; \`exp publish --keyless\` signs it anew
      <release> cannot be published
        provenance.sigstore.json: what is signed is not this release's provenance.json
        hint: \`exp verify\` says more; \`exp publish --keyless\` signs it anew
      <release> cannot be published
        provenance.sigstore.json: the key of its certificate did not make its signature
        hint: \`exp verify\` says more; \`exp publish --keyless\` signs it anew"
    `)
  })

  it("loses it on the hub when it is published again without, and gets the new one's with it", async () => {
    const server = await startHub()
    const [first, second] = [release("1"), release("2")]
    const publishing = (folder: string) =>
      runOn(
        server,
        Effect.flatMap(contentOf(folder), (content) => publish(content, target)),
      )
    const sign = (folder: string) =>
      writeFileSync(
        join(folder, BUNDLE),
        forged(readFileSync(join(folder, "provenance.json")), names.email("ada@example.org")),
      )
    sign(first)
    assert.isTrue((await publishing(first)).receipt.files.some(({ path }) => path === BUNDLE))
    assert.include(Object.keys(onHub(server)), BUNDLE)
    await publishing(second)
    assert.notInclude(Object.keys(onHub(server)), BUNDLE)
    sign(second)
    await publishing(second)
    assert.strictEqual(onHub(server)[BUNDLE], sha256(join(second, BUNDLE)))
  }, 60_000)
})

describe.skipIf(noSigstore !== undefined)(
  `with a Sigstore on loopback${noSigstore === undefined ? "" : ` (skipped: ${noSigstore})`}`,
  () => {
    for (const version of [1, 2] as const)
      it(`signs the same bytes, as a log of version ${version} and its authorities have it, and only the authority gets the token`, async () => {
        const sigstore = await startSigstore(temporaryFolder(), version)
        const token = tokenOf()
        process.env["SIGSTORE_ID_TOKEN"] = token
        const { text, claim } = await run(signKeyless(statement, settings(sigstore)))
        assert.deepInclude(claim, { name: "https://ci.example/ada/tiny", issuer: "https://issuer.example" })
        const bundle = readBundle(Buffer.from(text))
        assert.isTrue(Result.isSuccess(bundle))
        const trust = await run(openTrust(sigstore.trustedRoot))
        assert.isTrue(Result.isSuccess(trust.check(Result.getOrThrow(bundle))))
        assert.notInclude(text, token)
        for (const { path, body } of sigstore.asked)
          if (path !== "/api/v2/signingCert") assert.notInclude(body, token, path)
        // made up in every part: it agrees with itself, and Sigstore's keys know nothing of it
        const madeUp = readBundle(Buffer.from(forged(statement, names.uri("https://ci.example/ada/tiny"))))
        assert.isTrue(Result.isFailure(trust.check(Result.getOrThrow(madeUp))))
      })

    it("says what an authority refuses, and not the token that it repeats, be it long or cut off", async () => {
      const sigstore = await startSigstore(temporaryFolder())
      // as long as those of a runner are
      const token = tokenOf({ job: "workflow ".repeat(200) })
      process.env["SIGSTORE_ID_TOKEN"] = token
      const said: Array<string> = []
      for (const quoted of [token, token.slice(0, 700), `${token.split(".")[0]}.`]) {
        sigstore.refusal = () => ({ status: 401, message: `cannot verify ${quoted}` })
        said.push(await refused(signKeyless(statement, settings(sigstore))))
        assert.notInclude(said.at(-1), token.slice(0, 20))
        assert.notInclude(said.at(-1), token.slice(200, 230))
      }
      assert.lengthOf([...new Set(said)], 1)
      expect(said[0]).toMatchInlineSnapshot(`
        "signing keyless: error creating signing certificate - (401) cannot verify <token>
          hint: try again with a new token; \`--signing-config\` names another Sigstore"
      `)
    })

    it("does not hand on what a log gets wrong", async () => {
      const sigstore = await startSigstore(temporaryFolder())
      process.env["SIGSTORE_ID_TOKEN"] = tokenOf()
      sigstore.mistake = (entry: any) => {
        const [made] = Object.values(entry) as [any]
        made.verification.inclusionProof.treeSize += 1
        return entry
      }
      const said = await refused(signKeyless(statement, settings(sigstore)))
      assert.match(said, /what came back is no signature of this statement: /)
    })

    it("takes whom to ask and whom to trust from a repository of keys, and keeps them while they are fresh", async () => {
      const [folder, sigstore] = [temporaryFolder(), await startSigstore(temporaryFolder())]
      const { signingConfig, trustedRoot } = sigstore
      const tuf = await startTuf(folder, {
        "signing_config.v0.2.json": signingConfig,
        "trusted_root.json": trustedRoot,
      })
      process.env["SIGSTORE_ID_TOKEN"] = tokenOf()
      process.env["EXP_SIGSTORE_TUF"] = tuf.url
      const alone = { terminal: false, say: () => {} }
      assert.match(
        await refused(signKeyless(statement, alone)),
        /EXP_SIGSTORE_TUF: nothing says by which root it is known/,
      )
      process.env["EXP_SIGSTORE_TUF_ROOT"] = tuf.rootFile
      const { text } = await run(signKeyless(statement, alone))
      const bundle = Result.getOrThrow(readBundle(Buffer.from(text)))
      const trusts = async () => Result.isSuccess((await run(openTrust(undefined))).check(bundle))
      assert.isTrue(await trusts())
      const before = tuf.asked.length
      assert.isTrue(await trusts())
      assert.strictEqual(tuf.asked.length, before, "what is fresh is not asked for again")
      await tuf.close()
      assert.isTrue(await trusts())
      // where nothing is kept, and nobody answers, it says so
      process.env["XDG_CACHE_HOME"] = temporaryFolder()
      const said = await refused(openTrust(undefined))
      assert.match(
        said,
        /^sigstore: trusted_root\.json of http:\S+: .*\n {2}hint: try again when you are online, or name a file/,
      )
    }, 60_000)

    it("believes no repository whose file is not the one that its root stands for", async () => {
      const [folder, { trustedRoot }] = [temporaryFolder(), await startSigstore(temporaryFolder())]
      const tuf = await startTuf(folder, { "trusted_root.json": trustedRoot })
      process.env["EXP_SIGSTORE_TUF"] = tuf.url
      process.env["EXP_SIGSTORE_TUF_ROOT"] = tuf.rootFile
      const [name, bytes] = [...tuf.files].find(([path]) => path.startsWith("/targets/"))!
      tuf.files.set(name, Buffer.from(bytes.toString("utf8").replace("sigstore", "sigst0re")))
      assert.match(await refused(openTrust(undefined)), /trusted_root\.json of http/)
    })

    it("goes with what the command publishes; a dry run shows the file and signs nothing", async () => {
      const [sigstore, server] = [await startSigstore(temporaryFolder()), await startHub()]
      const folder = release()
      const environment = {
        HF_TOKEN: CANARY,
        HF_ENDPOINT: server.endpoint,
        HOME: folder,
        XDG_CONFIG_HOME: join(folder, "../config"),
        EXP_SIGNING_KEY: "",
        SIGSTORE_ID_TOKEN: tokenOf(),
        NO_COLOR: "1",
      }
      const publishing = async (...more: ReadonlyArray<string>) => {
        const args = [
          "publish",
          ".",
          "--to",
          target.to,
          "--keyless",
          "--signing-config",
          sigstore.signingConfig,
          ...more,
        ]
        const { code, stdout, stderr } = await finished(start(folder, args, environment))
        assert.strictEqual(code, 0, stderr)
        assert.notInclude(stdout + stderr, environment.SIGSTORE_ID_TOKEN)
        return stdout
      }
      assert.match(await publishing("--dry-run"), /^new {2}provenance\.sigstore\.json +0 B$/m)
      assert.isEmpty(sigstore.asked)
      const first = await publishing()
      assert.match(first, /^keyless {3}signing as https:\/\/ci\.example\/ada\/tiny$/m)
      assert.match(first, /^signed {4}provenance\.sigstore\.json$/m)
      assert.include(Object.keys(onHub(server)), BUNDLE)
      environment.SIGSTORE_ID_TOKEN = "none-is-needed-any-more"
      assert.match(await publishing("--dry-run"), /^same {2}provenance\.sigstore\.json/m)
      const again = await publishing()
      assert.include(again, "keyless   signed before, by https://ci.example/ada/tiny")
      assert.include(again, "nothing to do: the hub has this release")
    }, 120_000)

    it("goes with what a run publishes, by the token of its environment", async () => {
      const [sigstore, server] = [await startSigstore(temporaryFolder()), await startHub()]
      const folder = temporaryFolder()
      const experiment = publishing("keyless: true")
      writeFileSync(join(folder, "smallest.ts"), experiment)
      const token = tokenOf()
      const environment = {
        HF_TOKEN: CANARY,
        HF_ENDPOINT: server.endpoint,
        HOME: folder,
        XDG_CONFIG_HOME: join(folder, "config"),
        XDG_CACHE_HOME: join(folder, "cache"),
        EXP_SIGNING_KEY: "",
        SIGSTORE_ID_TOKEN: token,
        EXP_SIGSTORE_SIGNING_CONFIG: sigstore.signingConfig,
        NO_COLOR: "1",
      }
      const { code, stdout, stderr } = await finished(start(folder, ["run", "smallest.ts"], environment))
      assert.strictEqual(code, 0, stderr)
      assert.include(stdout, "signed: provenance.sigstore.json")
      assert.include(Object.keys(onHub(server)), BUNDLE)
      for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true }))
        if (entry.isFile()) assert.isFalse(readFileSync(join(entry.parentPath, entry.name)).includes(token), entry.name)
      assert.notInclude(stdout + stderr, token)
    }, 300_000)

    it("publishes with one signature however often it is begun, after the hub's own refusals, and signs another release anew", async () => {
      const sigstore = await startSigstore(temporaryFolder())
      const server = await startHub()
      process.env["SIGSTORE_ID_TOKEN"] = tokenOf()
      const signing = (folder: string, to = target.to) =>
        Effect.gen(function* () {
          const unsigned = yield* readRelease(folder, Redacted.make(CANARY), { keyless: true })
          return yield* withKeyless(unsigned, { ...target, to }, settings(sigstore))
        })
      const certificates = () => sigstore.asked.filter(({ path }) => path === "/api/v2/signingCert").length
      const folder = release()
      assert.match(await refusalOf(server, signing(folder, "their-org/tiny")), /no member of `their-org`/)
      assert.isEmpty(sigstore.asked, "nothing went into the log")
      const first = await runOn(server, signing(folder))
      // interrupted here, and begun again without a token
      delete process.env["SIGSTORE_ID_TOKEN"]
      const second = await runOn(server, signing(folder))
      assert.strictEqual(second.digest, first.digest)
      assert.strictEqual(certificates(), 1)
      assert.isTrue((await runOn(server, publish(second, target))).changed)
      assert.isFalse((await runOn(server, publish(await runOn(server, signing(folder)), target))).changed)
      process.env["SIGSTORE_ID_TOKEN"] = tokenOf()
      const other = release("2")
      // it lies there from before, and is another's
      const textOf = ({ files }: ReleaseContent) => {
        const content = files.find(({ path }) => path === BUNDLE)!.content
        return "text" in content ? content.text : readFileSync(content.full, "utf8")
      }
      writeFileSync(join(other, BUNDLE), textOf(second))
      const third = await runOn(server, signing(other))
      assert.strictEqual(certificates(), 2)
      await runOn(server, publish(third, target))
      const bundle = readBundle(Buffer.from(textOf(third)))
      assert.strictEqual(onHub(server)[BUNDLE], third.files.find(({ path }) => path === BUNDLE)!.sha256)
      assert.isTrue(Result.isSuccess((await run(openTrust(sigstore.trustedRoot))).check(Result.getOrThrow(bundle))))
    }, 60_000)
  },
)
