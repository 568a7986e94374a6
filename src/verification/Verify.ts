/**
 * All checks of a release, in the order of what they cost and of what they rest on: bytes and signature first. Where the bytes are not
 * those that were released, nothing in them is read, and where weights or signature are wrong, the model is not loaded and no program
 * of the release is run: what they would say is no finding about this release.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { checkAgreement } from "./Agreement.ts"
import { checkCard } from "./Card.ts"
import type { Origin } from "./Download.ts"
import { type CheckName, type Finding, isWrong, within } from "./Finding.ts"
import { checkHashes } from "./Hashes.ts"
import type { Listing } from "./Listing.ts"
import { isText, lookAt, openListing } from "./Release.ts"
import type { Rerun } from "./Replay.ts"
import { checkSignatures, type KnownKeys } from "./Signatures.ts"

export interface VerifyOptions {
  readonly keys: KnownKeys
  /** Folder of a store that may have texts and the parent checkpoint. */
  readonly store: string
  readonly replay: "no" | { readonly fromNothing: Rerun }
  readonly corpus: string | undefined
  /** Where the folder was brought from, if it was. */
  readonly origin?: Origin | undefined
  /** Told what is being done, as often as that changes. */
  readonly say: (text: string) => void
}

export interface Report {
  readonly folder: string
  /** Of `release.json`; absent when it cannot be read. */
  readonly name: string | undefined
  /** Of a release that was downloaded. */
  readonly origin?: Origin
  readonly findings: ReadonlyArray<Finding>
  readonly ok: number
  readonly wrong: number
  readonly skipped: number
}

/** Of the machine that checks, whatever is checked. */
const OF_THE_MACHINE = new Set(["ENOSPC", "EDQUOT", "EMFILE", "ENFILE", "ENOMEM", "EROFS"])

/**
 * Whether an error says nothing about the release: a full disk, and in a replay everything that does not name a file of the release,
 * such as texts that are missing, or a store that is damaged. Words are not looked at: they may be those of a stranger's file.
 */
const isOfTheUser = (check: CheckName, folder: string, cause: unknown): boolean => {
  const { code, path } = (typeof cause === "object" && cause !== null ? cause : {}) as Readonly<Record<string, unknown>>
  if (OF_THE_MACHINE.has(String(code))) return true
  return check === "replay" && !(typeof path === "string" && path.startsWith(`${folder}/`))
}

/** What a check throws at a release that is not what it expects is a finding, not the end. */
const guarded = <E, R>(
  check: CheckName,
  folder: string,
  effect: Effect.Effect<ReadonlyArray<Finding>, E, R>,
): Effect.Effect<ReadonlyArray<Finding>, never, R> => {
  const { wrong, skipped } = within(check)
  const words = (cause: unknown) =>
    (cause instanceof Error ? cause.message : String(cause)).replaceAll(`${folder}/`, "").slice(0, 1000)
  const found = (cause: unknown) =>
    isOfTheUser(check, folder, cause)
      ? [skipped("check", `it could not be done here: ${words(cause)}`)]
      : [wrong("check", words(cause))]
  return effect.pipe(
    Effect.catch((error) => Effect.succeed(found(error))),
    Effect.catchDefect((defect) => Effect.succeed(found(defect))),
  )
}

const counted = (
  folder: string,
  { origin }: VerifyOptions,
  name: string | undefined,
  findings: ReadonlyArray<Finding>,
): Report => {
  const of = (state: Finding["state"]) => findings.filter((finding) => finding.state === state).length
  return { folder, name, ...(origin && { origin }), findings, ok: of("ok"), wrong: of("wrong"), skipped: of("skipped") }
}

const none = (checks: ReadonlyArray<CheckName>, why: string): ReadonlyArray<Finding> =>
  checks.map((check) => within(check).skipped("all", why))

/** By its own `release.json`, where that is as it was released. */
const nameOf = (listing: Listing, findings: ReadonlyArray<Finding>): string | undefined => {
  const entry = listing.files.find(({ path }) => path === "release.json")
  if (entry === undefined || entry.bytes > 1 << 20) return undefined
  if (findings.some((finding) => isWrong(finding) && finding.what === entry.path)) return undefined
  try {
    const { name } = JSON.parse(readFileSync(join(listing.folder, entry.path), "utf8")) as { readonly name?: unknown }
    return typeof name === "string" ? name : undefined
  } catch {
    return undefined
  }
}

const READING = ["card", "arithmetic", "consistency", "weights", "measurements", "replay"] as const
const OTHER_BYTES = "the bytes are not those that were released"

export const verify = Effect.fn("verification.verify")(function* (folder: string, options: VerifyOptions) {
  const listing = yield* lookAt(folder)
  options.say("hashing every file")
  const findings: Array<Finding> = [
    ...(yield* guarded("hashes", folder, checkHashes(listing))),
    ...(yield* guarded(
      "signature",
      folder,
      Effect.sync(() => checkSignatures(listing, options.keys)),
    )),
  ]
  for (const path of options.origin?.added ?? [])
    findings.push(within("hashes").skipped(path, "in the repository, not fetched: no part of the release"))
  if (findings.some((finding) => isWrong(finding) && finding.check === "hashes" && isText(finding.what)))
    return counted(folder, options, nameOf(listing, findings), [...findings, ...none(READING, OTHER_BYTES)])

  const release = yield* openListing(listing)
  const { files, view } = release
  if (files === undefined) {
    const why = `a file cannot be read: ${release.problem}`
    findings.push(within("consistency").wrong("files", why))
    findings.push(...none(["card", "arithmetic", "weights", "measurements", "replay"], why))
    return counted(folder, options, undefined, findings)
  }
  const { checkArithmetic } = yield* Effect.promise(() => import("./Arithmetic.ts"))
  const { checkContents } = yield* Effect.promise(() => import("./Contents.ts"))
  const { checkWeights } = yield* Effect.promise(() => import("./Weights.ts"))
  findings.push(...(yield* guarded("consistency", view, checkContents(release, files))))
  options.say("making the card again")
  findings.push(...(yield* guarded("card", view, checkCard(release))))
  options.say("working the figures out again")
  findings.push(...(yield* guarded("arithmetic", view, checkArithmetic(release, files))))
  findings.push(...(yield* guarded("consistency", view, checkAgreement(release, files))))
  findings.push(...(yield* guarded("weights", view, checkWeights(release, files))))
  if (files.quantisation !== undefined) {
    options.say("reading the GGUF files")
    const { checkGgufs } = yield* Effect.promise(() => import("./Ggufs.ts"))
    findings.push(...(yield* guarded("weights", view, checkGgufs(release, files))))
  }
  const wrongIn = (check: CheckName) => findings.some((finding) => isWrong(finding) && finding.check === check)
  const unsound =
    wrongIn("hashes") || wrongIn("weights")
      ? OTHER_BYTES
      : wrongIn("signature")
        ? "the signature is wrong: nothing of it is run"
        : undefined
  if (unsound !== undefined)
    return counted(folder, options, files.release.name, [...findings, ...none(["measurements", "replay"], unsound)])
  const { checkMeasurements } = yield* Effect.promise(() => import("./Measurements.ts"))
  findings.push(...(yield* guarded("measurements", view, checkMeasurements(release, files, options))))
  if (options.replay === "no") findings.push(...none(["replay"], "`--replay` trains the tail again"))
  else {
    const { checkReplay } = yield* Effect.promise(() => import("./Replay.ts"))
    const { fromNothing } = options.replay
    const { corpus } = options
    const { findTexts } = yield* Effect.promise(() => import("./Texts.ts"))
    const replay = {
      ...options,
      fromNothing: (...args: Parameters<Rerun>) =>
        Effect.andThen(corpus === undefined ? Effect.void : findTexts(corpus, files), fromNothing(...args)),
    }
    findings.push(...(yield* guarded("replay", view, checkReplay(release, files, replay))))
  }
  return counted(folder, options, files.release.name, findings)
}, Effect.scoped)
