import { generateKeyPairSync } from "node:crypto"
import { chmodSync, existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Redacted } from "effect"
import { describe, expect, it } from "vitest"
import { keysFolder, knownKeys, newKey, readPublicKey, readSigningKey, signingKeyPath } from "../../src/release/Keys.ts"
import { keyIdOf } from "../../src/release/Signature.ts"
import { temporaryFolder } from "../temporary.ts"

const run = <A, E>(effect: Effect.Effect<A, E>): Promise<A> =>
  Effect.runPromise(effect.pipe(Effect.provide(NodeServices.layer)))
const refused = (effect: Effect.Effect<unknown, { readonly message: string }>): Promise<string> =>
  run(Effect.match(effect, { onFailure: ({ message }) => message, onSuccess: () => "accepted" }))

const posix = process.platform !== "win32"

describe("a key", () => {
  it("is made for its owner alone and never written over", async () => {
    const path = join(temporaryFolder(), "config", "exp", "keys", "signing.pem")
    const key = await run(newKey(path))
    expect(readFileSync(path, "utf8")).toMatch(/^-----BEGIN PRIVATE KEY-----/)
    expect(readFileSync(key.publicPath, "utf8")).toBe(key.publicKey)
    if (posix) {
      expect(statSync(path).mode & 0o777).toBe(0o600)
      expect(statSync(join(path, "..")).mode & 0o777).toBe(0o700)
    }
    const before = readFileSync(path)
    expect(await refused(newKey(path))).toMatch(/there is one already\n {2}hint: a key is never written over/)
    expect(readFileSync(path).equals(before)).toBe(true)
    // nor is the public half of another
    const other = join(temporaryFolder(), "other.pem")
    writeFileSync(other.replace(".pem", ".pub.pem"), "mine")
    expect(await refused(newKey(other))).toMatch(/there is one already/)
    expect(existsSync(other)).toBe(false)
  })

  it("is read as the key it was made as, and shows itself in no text", async () => {
    const path = join(temporaryFolder(), "key.pem")
    const { keyid, publicPath } = await run(newKey(path))
    const secret = await run(readSigningKey(path))
    expect(keyIdOf(Redacted.value(secret))).toBe(keyid)
    expect(keyIdOf(await run(readPublicKey(path)))).toBe(keyid)
    expect(keyIdOf(await run(readPublicKey(publicPath)))).toBe(keyid)
    expect(`${secret} ${JSON.stringify(secret)}`).toBe('<redacted:signing key> "<redacted:signing key>"')
  })

  it("is refused with a reason when others can read it, when it is public, of another kind, or none", async () => {
    const folder = temporaryFolder()
    const file = (name: string, text: string) => {
      const path = join(folder, name)
      writeFileSync(path, text, { mode: 0o600 })
      return path
    }
    const { path, publicPath } = await run(newKey(join(folder, "key.pem")))
    expect(await refused(readSigningKey(publicPath))).toMatch(/it is a public key/)
    if (posix) {
      chmodSync(path, 0o644)
      expect(await refused(readSigningKey(path))).toMatch(/others can read it.*\n {2}hint: `chmod 600 /)
    }
    const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 }).privateKey.export({ type: "pkcs8", format: "pem" })
    expect(await refused(readSigningKey(file("rsa.pem", rsa.toString())))).toMatch(/it is rsa, not ed25519/)
    expect(await refused(readSigningKey(join(folder, "absent.pem")))).toMatch(/there is no such file/)
    const canary = "c2VjcmV0Y2FuYXJ5Y2FuYXJ5"
    for (const text of [canary, `-----BEGIN PRIVATE KEY-----\n${canary}\n-----END PRIVATE KEY-----\n`]) {
      const message = await refused(readSigningKey(file("broken.pem", text)))
      expect(message).toMatch(/it is no PEM of a key, or it is encrypted/)
      expect(message).not.toMatch(canary)
    }
    expect(await refused(readPublicKey(file("long.pem", "x".repeat(100_000))))).toMatch(/too long for a key/)
  })

  it("is looked for where the XDG specification says, or where the environment does", () => {
    if (!posix) return
    expect(keysFolder({ HOME: "/home/ada" })).toBe("/home/ada/.config/exp/keys")
    expect(keysFolder({ HOME: "/home/ada", XDG_CONFIG_HOME: "/etc/xdg" })).toBe("/etc/xdg/exp/keys")
    // a relative path is to be ignored
    expect(keysFolder({ HOME: "/home/ada", XDG_CONFIG_HOME: "xdg" })).toBe("/home/ada/.config/exp/keys")
    expect(signingKeyPath({ HOME: "/home/ada" })).toBe("/home/ada/.config/exp/keys/signing.pem")
    expect(signingKeyPath({ HOME: "/home/ada", EXP_SIGNING_KEY: "/run/key.pem" })).toBe("/run/key.pem")
  })

  it("in the keys folder is known, once for its two halves", async () => {
    const XDG_CONFIG_HOME = temporaryFolder()
    const environment = { XDG_CONFIG_HOME }
    expect(await run(knownKeys(environment))).toEqual([])
    const own = await run(newKey(signingKeyPath(environment)))
    const theirs = await run(newKey(join(temporaryFolder(), "theirs.pem")))
    writeFileSync(join(keysFolder(environment), "them.pem"), theirs.publicKey)
    expect((await run(knownKeys(environment))).map(keyIdOf).sort()).toEqual([own.keyid, theirs.keyid].sort())
    mkdirSync(join(keysFolder(environment), "folder.pem"))
    expect(await refused(knownKeys(environment))).toMatch(/folder\.pem/)
  })

  it("is looked for in a folder, and what stands in its place is told of", async () => {
    const XDG_CONFIG_HOME = temporaryFolder()
    mkdirSync(join(XDG_CONFIG_HOME, "exp"))
    writeFileSync(join(XDG_CONFIG_HOME, "exp", "keys"), "")
    expect(await refused(knownKeys({ XDG_CONFIG_HOME }))).toMatch(
      /keys: it is no folder\n {2}hint: it must be a folder that you can read/,
    )
    expect(await refused(newKey(join(XDG_CONFIG_HOME, "exp", "keys", "signing.pem")))).toMatch(
      /hint: name a file in a folder that you can write to with `--out`/,
    )
  })
})
