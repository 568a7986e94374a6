import { readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest"
import { signKeyless } from "../../src/hub/Keyless.ts"
import { stream } from "../../src/model/Random.ts"
import { BUNDLE, bundleText, readBundle } from "../../src/release/Sigstore.ts"
import { checkKeyless, type KeylessAsked } from "../../src/verification/Keyless.ts"
import { listRelease } from "../../src/verification/Listing.ts"
import { exp } from "../endToEnd/experiment.ts"
import { forged, names, noSigstore, type Sigstore, startSigstore, tokenOf } from "../hub/sigstore.ts"
import { findingsOf, place, run, signedRelease } from "./world.ts"

const { path, remove } = place()
afterAll(remove)
let release: string
let statement: Buffer
const cache = process.env["XDG_CACHE_HOME"]
afterAll(() => {
  if (cache === undefined) delete process.env["XDG_CACHE_HOME"]
  else process.env["XDG_CACHE_HOME"] = cache
})
beforeAll(async () => {
  process.env["XDG_CACHE_HOME"] = join(path, "cache")
  release = (await signedRelease(path)).release
  statement = readFileSync(join(release, "provenance.json"))
}, 60_000)

const library = process.env["EXP_SIGSTORE"]
afterEach(() => {
  if (library === undefined) delete process.env["EXP_SIGSTORE"]
  else process.env["EXP_SIGSTORE"] = library
  delete process.env["SIGSTORE_ID_TOKEN"]
  rmSync(join(release, BUNDLE), { force: true })
})

const put = (text: string | Buffer) => writeFileSync(join(release, BUNDLE), text)

/** Marks and words of what is found of a bundle that lies there. */
const said = async (asked?: KeylessAsked): Promise<ReadonlyArray<string>> =>
  (await run(checkKeyless(listRelease(release), asked))).map(
    ({ state, what, detail }) => `${state}: ${what}: ${detail}`,
  )

const ada = { name: "https://ci.example/ada/tiny", issuer: "https://issuer.example" }

describe("a keyless signature, where Sigstore's library is not", () => {
  const withoutLibrary = async (asked?: KeylessAsked) => {
    process.env["EXP_SIGSTORE"] = path
    return (await said(asked)).map((text) => text.replaceAll(path, "<folder>"))
  }

  it("is nothing to speak of when there is none, and missing when an identity was asked for", async () => {
    expect(await withoutLibrary()).toEqual([])
    expect(await withoutLibrary({ demanded: ada })).toEqual([
      "wrong: provenance.sigstore.json: is missing: it is not signed keyless, and an identity was asked for",
    ])
  })

  it("speaks for nobody, with words for what is needed; of another than was asked for it is wrong by its own word", async () => {
    put(forged(statement, names.uri(ada.name)))
    expect([
      ...(await withoutLibrary()),
      ...(await withoutLibrary({ demanded: ada })),
      ...(await withoutLibrary({ demanded: { ...ada, name: "https://ci.example/bob/tiny" } })),
      ...(await withoutLibrary({ demanded: { ...ada, issuer: "https://other.example" } })),
    ]).toMatchInlineSnapshot(`
      [
        "skipped: provenance.sigstore.json: it says that it is of https://ci.example/ada/tiny, by the word of https://issuer.example, and anybody can make one that says so; whether Sigstore did was not looked at: \`@sigstore/bundle\` is not installed in <folder>; what helps: \`npm install --no-save --ignore-scripts @sigstore/bundle@5 @sigstore/protobuf-specs@0.5 @sigstore/sign@5 @sigstore/tuf@5 @sigstore/verify@4\`, or EXP_SIGSTORE as a folder that has them in node_modules",
        "undone: provenance.sigstore.json: it says that it is of https://ci.example/ada/tiny, by the word of https://issuer.example, and whether it is cannot be seen here: \`@sigstore/bundle\` is not installed in <folder>; what helps: \`npm install --no-save --ignore-scripts @sigstore/bundle@5 @sigstore/protobuf-specs@0.5 @sigstore/sign@5 @sigstore/tuf@5 @sigstore/verify@4\`, or EXP_SIGSTORE as a folder that has them in node_modules",
        "wrong: provenance.sigstore.json: it says that it is of https://ci.example/ada/tiny, by the word of https://issuer.example, and not of https://ci.example/bob/tiny, by the word of https://issuer.example",
        "wrong: provenance.sigstore.json: it says that it is of https://ci.example/ada/tiny, by the word of https://issuer.example, and not of https://ci.example/ada/tiny, by the word of https://other.example",
      ]
    `)
  })

  it("over another statement is found, and so is one that is spelled otherwise or does not agree with itself", async () => {
    put(forged(Buffer.from("another\n"), names.uri(ada.name)))
    expect((await withoutLibrary())[0]).toBe("wrong: provenance.sigstore.json: what was signed is not provenance.json")
    const text = forged(statement, names.uri(ada.name))
    put(text.replace("{", "{ "))
    expect(await withoutLibrary()).toEqual([
      "wrong: provenance.sigstore.json: is no signed statement: it is not spelled as it was written",
    ])
    const other = JSON.parse(forged(statement, names.uri(ada.name)))
    put(`${JSON.stringify({ ...JSON.parse(text), dsseEnvelope: other.dsseEnvelope }, null, 2)}\n`)
    expect(await withoutLibrary()).toEqual([
      "wrong: provenance.sigstore.json: the key of its certificate did not make its signature",
    ])
  })

  it("is a file that a release may have, beside the other signature or alone, and changes nothing else that is found", async () => {
    process.env["EXP_SIGSTORE"] = path
    const before = await findingsOf(release)
    put(forged(statement, names.uri(ada.name)))
    const of = (all: typeof before) => all.filter(({ what }) => what !== BUNDLE && what !== "names")
    const found = await findingsOf(release)
    expect(of(found)).toEqual(of(before))
    expect(found.find(({ what }) => what === "names")?.state).toBe("ok")
    expect(found.filter(({ what }) => what === BUNDLE).map(({ state }) => state)).toEqual(["skipped"])
  }, 120_000)
})

describe.skipIf(noSigstore !== undefined)(
  `a keyless signature of a Sigstore on loopback${noSigstore === undefined ? "" : ` (skipped: ${noSigstore})`}`,
  () => {
    const signed = async (version: 1 | 2): Promise<Sigstore> => {
      const sigstore = await startSigstore(path, version)
      process.env["SIGSTORE_ID_TOKEN"] = tokenOf()
      const { text } = await run(
        signKeyless(statement, { signingConfig: sigstore.signingConfig, terminal: false, say: () => {} }),
      )
      put(text)
      return sigstore
    }

    it("is told with its name, by the keys that are trusted; the one that was asked for is ok, and any other wrong", async () => {
      const { trustedRoot } = await signed(1)
      const words = async (asked: KeylessAsked) =>
        (await said({ trustedRoot, ...asked })).map((text) => text.replaceAll(/\d{4}-\d\d-\d\dT[\d:]+Z/g, "<time>"))
      expect([
        ...(await words({})),
        ...(await words({ demanded: ada })),
        ...(await words({ demanded: { ...ada, name: "https://ci.example/ada" } })),
        ...(await words({ demanded: { ...ada, issuer: "https://other.example" } })),
      ]).toMatchInlineSnapshot(`
        [
          "ok: https://ci.example/ada/tiny: signed by https://ci.example/ada/tiny, by the word of https://issuer.example, certified <time>, entry 1005 of the log: whoever had this identity then says that these bytes were made so (SLSA Build L1); it proves nothing about the machine; whether you trust them is yours to say",
          "ok: https://ci.example/ada/tiny: signed by https://ci.example/ada/tiny, by the word of https://issuer.example, certified <time>, entry 1005 of the log, as was asked: whoever had this identity then says that these bytes were made so (SLSA Build L1); it proves nothing about the machine",
          "wrong: https://ci.example/ada/tiny: signed by https://ci.example/ada/tiny, by the word of https://issuer.example, certified <time>, entry 1005 of the log, and not by https://ci.example/ada, by the word of https://issuer.example",
          "wrong: https://ci.example/ada/tiny: signed by https://ci.example/ada/tiny, by the word of https://issuer.example, certified <time>, entry 1005 of the log, and not by https://ci.example/ada/tiny, by the word of https://other.example",
        ]
      `)
      // what speaks for itself with other people's keys
      put(forged(statement, names.uri(ada.name)))
      expect(await words({ demanded: ada })).toEqual([
        expect.stringMatching(/^wrong: provenance\.sigstore\.json: is not one of Sigstore's: /),
      ])
    })

    it("could not be checked, with why, where the file of keys is none, trusts nobody, or is not there", async () => {
      await signed(1)
      const file = (name: string, value: object) => {
        writeFileSync(join(path, name), JSON.stringify(value))
        return join(path, name)
      }
      const mediaType = "application/vnd.dev.sigstore.trustedroot+json;version=0.1"
      const why: Array<string> = []
      for (const trustedRoot of ["/nowhere/root.json", file("a.json", {}), file("b.json", { mediaType })]) {
        const [text, ...more] = await said({ trustedRoot })
        expect(more).toEqual([])
        expect(text).toMatch(/^undone: /)
        why.push(text!.split("cannot be seen here: ")[1]!.replaceAll(path, "<folder>"))
      }
      expect(why).toMatchInlineSnapshot(`
        [
          "/nowhere/root.json: it cannot be read; what helps: name a file that is there",
          "<folder>/a.json: it is no trusted root: it is of no such type; what helps: a \`trusted_root.json\` is meant, as Sigstore's own repository has one",
          "<folder>/b.json: it is no trusted root: it trusts nobody; what helps: a \`trusted_root.json\` is meant, as Sigstore's own repository has one",
        ]
      `)
    })

    it("is skipped with why, where no file of keys is named and their repository does not answer", async () => {
      await signed(1)
      const before = ["EXP_SIGSTORE_TUF", "EXP_SIGSTORE_TUF_ROOT"].map((name) => [name, process.env[name]] as const)
      try {
        process.env["EXP_SIGSTORE_TUF"] = "http://127.0.0.1:9"
        process.env["EXP_SIGSTORE_TUF_ROOT"] = join(path, "a.json")
        writeFileSync(join(path, "a.json"), "{}")
        const [text, ...more] = await said()
        expect(more).toEqual([])
        expect(text).toMatch(
          /^skipped: .* was not looked at: trusted_root\.json of http:\S+: .*; what helps: try again when/,
        )
      } finally {
        for (const [name, value] of before)
          if (value === undefined) delete process.env[name]
          else process.env[name] = value
      }
    }, 60_000)

    for (const version of [1, 2] as const)
      it(`shows a flipped byte wherever it is, of a log of version ${version}`, async () => {
        const { trustedRoot } = await signed(version)
        const bytes = readFileSync(join(release, BUNDLE))
        const payload = [bytes.indexOf('"payload"'), bytes.indexOf('"payloadType"')] as const
        const random = stream(20_261_122, `flips ${version}`)
        const step = process.env["EXP_FAULT_BYTES"] === "all" ? 1 : 11
        const isText = (at: number) => at > payload[0] + 40 && at < payload[1] - 40
        for (let at = 0; at < bytes.length; at++) {
          // every byte takes minutes; of the statement, which is compared byte by byte, fewer are enough
          if (at % (isText(at) ? 100 * step : step) !== 0) continue
          const changed = Buffer.from(bytes)
          changed[at]! ^= 1 << (random.word(at) % 8)
          put(changed)
          const found = await run(checkKeyless(listRelease(release), { trustedRoot }))
          expect(
            found.some(({ state }) => state === "wrong"),
            `byte ${at}: ${changed.subarray(at - 20, at + 20)}`,
          ).toBe(true)
        }
      }, 300_000)

    it("is made and checked by the commands, with the key's or alone", async () => {
      const sigstore = await startSigstore(path)
      const environment = {
        SIGSTORE_ID_TOKEN: tokenOf(),
        XDG_CACHE_HOME: join(path, "cache"),
        XDG_CONFIG_HOME: join(path, "config"),
        NO_COLOR: "1",
      }
      const sign = await exp(
        path,
        ["sign", release, "--keyless", "--signing-config", sigstore.signingConfig],
        environment,
      )
      expect(sign.stdout).toContain(
        "signed by https://ci.example/ada/tiny, by the word of https://issuer.example, entry 1005 of the log",
      )
      expect([sign.code, sign.stdout + sign.stderr]).not.toContain(environment.SIGSTORE_ID_TOKEN)
      const bundle = readBundle(readFileSync(join(release, BUNDLE)))
      expect(bundle._tag === "Success" && bundleText(bundle.success)).toBe(readFileSync(join(release, BUNDLE), "utf8"))
      const verify = async (...more: ReadonlyArray<string>) => {
        const { code, stdout, stderr } = await exp(
          path,
          ["verify", release, "--json", "--trusted-root", sigstore.trustedRoot, ...more],
          environment,
        )
        const rows =
          code === 2
            ? []
            : (JSON.parse(stdout).findings as ReadonlyArray<{ check: string; what: string; state: string }>)
        return {
          stderr,
          rows: rows
            .filter(({ check }) => check === "signature")
            .map(({ what, state }) => `${state}: ${what.slice(0, 30)}`),
        }
      }
      expect((await verify("--identity", ada.name, "--issuer", ada.issuer)).rows.at(-1)).toBe(`ok: ${ada.name}`)
      expect((await verify("--identity", "bob@example.org", "--issuer", ada.issuer)).rows.at(-1)).toBe(
        `wrong: ${ada.name}`,
      )
      expect((await verify("--identity", ada.name)).stderr).toContain("`--identity` asks for half of a name")
      rmSync(join(release, "provenance.dsse.json"))
      expect((await verify()).rows).toEqual([`ok: ${ada.name}`])
    }, 300_000)
  },
)
