/**
 * All checks of a release, in the order of what they cost and of what they rest on: bytes and signature first. Where the bytes are not
 * those that were released, the model is not loaded: what it would say is no finding about this release.
 */
import * as Effect from "effect/Effect"
import { checkAgreement } from "./Agreement.ts"
import { checkCard } from "./Card.ts"
import { type CheckName, type Finding, isWrong, within } from "./Finding.ts"
import { checkHashes } from "./Hashes.ts"
import { openRelease, type Release } from "./Release.ts"
import type { Rerun } from "./Replay.ts"
import { checkSignatures, type KnownKeys } from "./Signatures.ts"

export interface VerifyOptions {
  readonly keys: KnownKeys
  /** Folder of a store that may have texts and the parent checkpoint. */
  readonly store: string
  readonly replay: "no" | { readonly fromNothing: Rerun }
  readonly corpus: string | undefined
  /** Told what is being done, as often as that changes. */
  readonly say: (text: string) => void
}

export interface Report {
  readonly folder: string
  /** Of `release.json`; absent when it cannot be read. */
  readonly name: string | undefined
  readonly findings: ReadonlyArray<Finding>
  readonly ok: number
  readonly wrong: number
  readonly skipped: number
}

/** What a check throws at a release that is not what it expects is a finding, not the end. */
const guarded = <E, R>(
  check: CheckName,
  { view }: Release,
  effect: Effect.Effect<ReadonlyArray<Finding>, E, R>,
): Effect.Effect<ReadonlyArray<Finding>, never, R> => {
  const { wrong } = within(check)
  const words = (cause: unknown) =>
    (cause instanceof Error ? cause.message : String(cause)).replaceAll(`${view}/`, "").slice(0, 1000)
  return effect.pipe(
    Effect.catch((error) => Effect.succeed([wrong("check", words(error))])),
    Effect.catchDefect((defect) => Effect.succeed([wrong("check", words(defect))])),
  )
}

const counted = (folder: string, name: string | undefined, findings: ReadonlyArray<Finding>): Report => {
  const of = (state: Finding["state"]) => findings.filter((finding) => finding.state === state).length
  return { folder, name, findings, ok: of("ok"), wrong: of("wrong"), skipped: of("skipped") }
}

const none = (checks: ReadonlyArray<CheckName>, why: string): ReadonlyArray<Finding> =>
  checks.map((check) => within(check).skipped("all", why))

export const verify = Effect.fn("verification.verify")(function* (folder: string, options: VerifyOptions) {
  const release = yield* openRelease(folder)
  const { listing, files } = release
  options.say("hashing every file")
  const findings: Array<Finding> = [
    ...(yield* guarded("hashes", release, checkHashes(listing))),
    ...(yield* guarded(
      "signature",
      release,
      Effect.sync(() => checkSignatures(listing, options.keys)),
    )),
  ]
  if (files === undefined) {
    const why = `a file cannot be read: ${release.problem}`
    findings.push(within("consistency").wrong("files", why))
    findings.push(...none(["card", "arithmetic", "weights", "measurements", "replay"], why))
    return counted(folder, undefined, findings)
  }
  const { checkArithmetic } = yield* Effect.promise(() => import("./Arithmetic.ts"))
  const { checkWeights } = yield* Effect.promise(() => import("./Weights.ts"))
  options.say("making the card again")
  findings.push(...(yield* guarded("card", release, checkCard(release))))
  options.say("working the figures out again")
  findings.push(...(yield* guarded("arithmetic", release, checkArithmetic(release, files))))
  findings.push(...(yield* guarded("consistency", release, checkAgreement(release, files))))
  findings.push(...(yield* guarded("weights", release, checkWeights(release, files))))
  const unsound = findings.some(
    (finding) => isWrong(finding) && (finding.check === "hashes" || finding.check === "weights"),
  )
  if (unsound) {
    const why = "the bytes are not those that were released"
    return counted(folder, files.release.name, [...findings, ...none(["measurements", "replay"], why)])
  }
  const { checkMeasurements } = yield* Effect.promise(() => import("./Measurements.ts"))
  findings.push(...(yield* guarded("measurements", release, checkMeasurements(release, files, options))))
  if (options.replay === "no") findings.push(...none(["replay"], "`--replay` trains the tail again"))
  else {
    const { checkReplay } = yield* Effect.promise(() => import("./Replay.ts"))
    const { fromNothing } = options.replay
    findings.push(...(yield* guarded("replay", release, checkReplay(release, files, { ...options, fromNothing }))))
  }
  return counted(folder, files.release.name, findings)
}, Effect.scoped)
