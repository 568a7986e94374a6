/**
 * Keys that sign releases: ed25519, as PEM files.
 *
 * | file                        | what                                                                        |
 * |-----------------------------|-----------------------------------------------------------------------------|
 * | `<keys>/signing.pem`        | the private key (PKCS #8), readable by its owner alone; never overwritten     |
 * | `<keys>/signing.pub.pem`    | its public key (SPKI), to be handed on                                       |
 * | `<keys>/*.pem`              | every key in there is known: what it signed counts as signed by somebody known |
 *
 * `<keys>` is `$XDG_CONFIG_HOME/exp/keys` (`~/.config/exp/keys`; on Windows `%APPDATA%\exp\keys`). A private key is `Redacted`
 * from the moment it is read, so that no message, log or error can hold it.
 */
import { createPrivateKey, createPublicKey, generateKeyPairSync, type KeyObject } from "node:crypto"
import { chmodSync, existsSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { homedir } from "node:os"
import { dirname, join } from "node:path"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import { keyIdOf, publicPem } from "./Signature.ts"

export class KeyUnreadable extends Schema.TaggedError<KeyUnreadable>()("KeyUnreadable", {
  path: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `key ${this.path}: ${this.problem}\n  hint: ${this.hint}`
  }
}

export class KeyUnwritable extends Schema.TaggedError<KeyUnwritable>()("KeyUnwritable", {
  path: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `key ${this.path}: ${this.problem}\n  hint: ${this.hint}`
  }
}

export type Environment = Readonly<Record<string, string | undefined>>

/** Folder of keys of this user. A relative `XDG_CONFIG_HOME` counts as unset, as the XDG specification has it. */
export const keysFolder = (environment: Environment = process.env): string => {
  const { XDG_CONFIG_HOME: xdg, APPDATA: appData } = environment
  if (xdg?.startsWith("/") || (xdg !== undefined && /^[A-Za-z]:[\\/]/.test(xdg))) return join(xdg, "exp", "keys")
  if (process.platform === "win32" && appData) return join(appData, "exp", "keys")
  return join(environment["HOME"] || homedir(), ".config", "exp", "keys")
}

export const signingKeyPath = (environment: Environment = process.env): string =>
  environment["EXP_SIGNING_KEY"] || join(keysFolder(environment), "signing.pem")

const publicPath = (path: string): string => `${path.replace(/\.pem$/, "")}.pub.pem`

const words = (cause: unknown): string => {
  const { code, message } = cause as NodeJS.ErrnoException
  return code === "EEXIST"
    ? "there is one already"
    : code === "ENOENT"
      ? "there is no such file"
      : code === "ENOTDIR"
        ? "it is no folder"
        : code === "EACCES" || code === "EPERM"
          ? "you may not read or write it"
          : (message ?? String(cause))
}

export interface NewKey {
  readonly path: string
  readonly publicPath: string
  readonly keyid: string
  /** PEM. */
  readonly publicKey: string
}

/** Makes a key pair. A file that is there is never written over. */
export const newKey = (path: string): Effect.Effect<NewKey, KeyUnwritable> =>
  Effect.try({
    try: () => {
      const folder = dirname(path)
      // only a folder that we make is ours to close; somebody's home folder is not
      if (!existsSync(folder)) mkdirSync(folder, { recursive: true, mode: 0o700 })
      const beside = publicPath(path)
      if (existsSync(path) || existsSync(beside)) throw Object.assign(new Error(), { code: "EEXIST" })
      const { privateKey, publicKey } = generateKeyPairSync("ed25519")
      const pem = publicPem(publicKey)
      writeFileSync(path, privateKey.export({ type: "pkcs8", format: "pem" }), { flag: "wx", mode: 0o600 })
      chmodSync(path, 0o600)
      writeFileSync(beside, pem, { flag: "wx", mode: 0o644 })
      return { path, publicPath: beside, keyid: keyIdOf(publicKey), publicKey: pem }
    },
    catch: (cause) =>
      new KeyUnwritable({
        path,
        problem: words(cause),
        hint:
          (cause as NodeJS.ErrnoException).code === "EEXIST"
            ? "a key is never written over: name another file with `--out`, or go on with the one you have"
            : "name a file in a folder that you can write to with `--out`",
      }),
  })

const MAX_KEY_BYTES = 1 << 16

const readKey = (path: string): KeyObject => {
  if (statSync(path).size > MAX_KEY_BYTES) throw new Error("it is too long for a key")
  const text = readFileSync(path, "utf8")
  // OpenSSL's own words may quote what it could not read
  const refused = () => new Error("it is no PEM of a key, or it is encrypted")
  let key: KeyObject
  try {
    key = text.includes("PRIVATE KEY-----") ? createPrivateKey(text) : createPublicKey(text)
  } catch {
    throw refused()
  }
  if (key.asymmetricKeyType !== "ed25519") throw new Error(`it is ${key.asymmetricKeyType}, not ed25519`)
  return key
}

/** A public key, or the public half of a private one. */
export const readPublicKey = (path: string): Effect.Effect<KeyObject, KeyUnreadable> =>
  Effect.try({
    try: () => {
      const key = readKey(path)
      return key.type === "private" ? createPublicKey(key) : key
    },
    catch: (cause) =>
      new KeyUnreadable({
        path,
        problem: words(cause),
        hint: "a public key is a PEM file that begins with `-----BEGIN PUBLIC KEY-----`; `exp keys show` prints yours",
      }),
  })

export const readSigningKey = (path: string): Effect.Effect<Redacted.Redacted<KeyObject>, KeyUnreadable> =>
  Effect.try({
    try: () => {
      const key = readKey(path)
      if (key.type !== "private") throw new Error("it is a public key: nothing can be signed with it")
      if (process.platform !== "win32" && (statSync(path).mode & 0o077) !== 0)
        throw new Error("others can read it, so what it signs proves nothing")
      return Redacted.make(key, { label: "signing key" })
    },
    catch: (cause) => {
      const problem = words(cause)
      return new KeyUnreadable({
        path,
        problem,
        hint: problem.startsWith("others can read it")
          ? `\`chmod 600 ${path}\``
          : problem.startsWith("you may not")
            ? `\`ls -l ${path}\` says whose it is`
            : "`exp keys new` makes one; `--key` or `EXP_SIGNING_KEY` names another",
      })
    },
  })

/** All keys of the keys folder. A file there that is no key is told of, not passed over. */
export const knownKeys = (
  environment: Environment = process.env,
): Effect.Effect<ReadonlyArray<KeyObject>, KeyUnreadable> =>
  Effect.gen(function* () {
    const folder = keysFolder(environment)
    const names = yield* Effect.try({
      try: () => (existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".pem")) : []),
      catch: (cause) =>
        new KeyUnreadable({
          path: folder,
          problem: words(cause),
          hint: "it must be a folder that you can read; move what is there away, or set `XDG_CONFIG_HOME`",
        }),
    })
    const keys = new Map<string, KeyObject>()
    for (const name of names.sort()) {
      const key = yield* readPublicKey(join(folder, name))
      keys.set(keyIdOf(key), key)
    }
    return [...keys.values()]
  })
