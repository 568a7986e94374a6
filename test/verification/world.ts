/** Releases to be checked: one that was really made, for what a model says, and a fabricated one, for what happens to bytes. */
import { cpSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect, Layer } from "effect"
import { layer as engine } from "../../src/engine/Engines.ts"
import { newKey, readPublicKey, readSigningKey } from "../../src/release/Keys.ts"
import { ENVELOPE } from "../../src/release/Signature.ts"
import { signedEnvelope } from "../../src/release/Signing.ts"
import { sha256OfFile } from "../../src/release/Sums.ts"
import type { Finding } from "../../src/verification/Finding.ts"
import { checkHashes } from "../../src/verification/Hashes.ts"
import { listRelease } from "../../src/verification/Listing.ts"
import { checkSignatures, type KnownKeys } from "../../src/verification/Signatures.ts"
import { type VerifyOptions, verify } from "../../src/verification/Verify.ts"
import { artifacts, exp, smallest, write } from "../endToEnd/experiment.ts"
import { assembled } from "../release/assembled.ts"

export const services = Layer.mergeAll(NodeServices.layer, engine)

export const run = <A, E>(effect: Effect.Effect<A, E, Layer.Success<typeof services>>): Promise<A> =>
  Effect.runPromise(effect.pipe(Effect.provide(services)))

/** A folder that lives until `remove`. */
export const place = () => {
  const path = mkdtempSync(join(tmpdir(), "exp-verification-"))
  return { path, remove: () => rmSync(path, { recursive: true, force: true }) }
}

/** Temporary files of this process and its children go to a folder of its own, so that none of others' are among those left behind. */
export const ownTemporary = (folder: string): string => {
  const own = join(folder, "tmp")
  mkdirSync(own, { recursive: true })
  process.env["TMPDIR"] = own
  return own
}

/** A key pair in `<folder>/<name>.pem`. */
export const makeKey = async (folder: string, name = "key") => {
  const { path, publicPath, keyid } = await run(newKey(join(folder, `${name}.pem`)))
  return { path, publicPath, keyid, publicKey: await run(readPublicKey(path)), secret: await run(readSigningKey(path)) }
}
export type Key = Awaited<ReturnType<typeof makeKey>>

export const signWith = async (release: string, { secret }: Key): Promise<void> =>
  writeFileSync(join(release, ENVELOPE), await run(signedEnvelope(release, secret)))

/** A fabricated release in `<folder>/release`, signed by a key of its own. */
export const signedRelease = async (folder: string) => {
  const release = join(folder, "release")
  await run(Effect.scoped(Effect.map(assembled(), (made) => cpSync(made, release, { recursive: true }))))
  const key = await makeKey(folder)
  await signWith(release, key)
  return { release, key }
}

/** A release that an experiment made in `<folder>/runs`: seconds of training, every kind of step, a seed that the file has not. */
export const realRelease = async (folder: string) => {
  write(folder, "smallest.ts", smallest())
  const { code, stderr } = await exp(folder, ["run", "smallest.ts", "--runs", "runs", "--set", "seed=9"])
  if (code !== 0) throw new Error(stderr)
  const runs = join(folder, "runs")
  return { runs, store: join(runs, "store"), release: join(artifacts(runs, "release")[0]!, "release") }
}

export const options: VerifyOptions = {
  keys: { known: [], demanded: [] },
  store: "/nowhere",
  replay: "no",
  corpus: undefined,
  say: () => {},
}

export const findingsOf = async (folder: string, more: Partial<VerifyOptions> = {}): Promise<ReadonlyArray<Finding>> =>
  (await run(verify(folder, { ...options, ...more }))).findings

/** Bytes and signature alone: all that damage must show in. */
export const damageIn = async (folder: string, keys: KnownKeys = options.keys): Promise<ReadonlyArray<string>> => {
  const listing = listRelease(folder)
  return wrongIn([...(await run(checkHashes(listing))), ...checkSignatures(listing, keys)])
}

/**
 * The same for who changes bytes of one file at a time: what is found when that file is another one than it was. Its sum is taken anew,
 * those of the others are what they were; names, sizes and kinds of files must be the same throughout.
 */
export const watcher = async (folder: string): Promise<(changed: string) => Promise<ReadonlyArray<string>>> => {
  const listing = listRelease(folder)
  const sums = new Map<string, Effect.Effect<string>>()
  for (const { path } of listing.files) {
    const full = join(folder, path)
    sums.set(full, Effect.succeed(await Effect.runPromise(sha256OfFile(full))))
  }
  return async (changed) => {
    const path = join(folder, changed)
    const hashed = checkHashes(listing, (full) => (full === path ? sha256OfFile(full) : sums.get(full)!))
    return wrongIn([...(await Effect.runPromise(hashed)), ...checkSignatures(listing, options.keys)])
  }
}

export const wrongIn = (findings: ReadonlyArray<Finding>): ReadonlyArray<string> =>
  findings.filter(({ state }) => state === "wrong").map(({ check, what, detail }) => `${check}: ${what}: ${detail}`)

export const stateOf = (findings: ReadonlyArray<Finding>, check: string): Readonly<Record<string, number>> => {
  const counts: Record<string, number> = {}
  for (const finding of findings) if (finding.check === check) counts[finding.state] = (counts[finding.state] ?? 0) + 1
  return counts
}

/** Paths of all plain files below a folder. */
export const filesIn = (folder: string): ReadonlyArray<string> =>
  (readdirSync(folder, { recursive: true }) as ReadonlyArray<string>)
    .filter((name) => statSync(join(folder, name)).isFile())
    .sort()
