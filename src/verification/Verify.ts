/**
 * All checks of a release, in the order of what they cost and of what they rest on: bytes and signature first. Where the bytes are not
 * those that were released, nothing in them is read, and where weights or signature are wrong, the model is not loaded and no program
 * of the release is run: what they would say is no finding about this release.
 */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { TrainingDiverged } from "../engine/Engine.ts"
import { checkAgreement } from "./Agreement.ts"
import { checkCard } from "./Card.ts"
import type { Origin } from "./Download.ts"
import { type Folder, load, remedyOf } from "./Fault.ts"
import { type CheckName, type Finding, isUndone, isWrong, within } from "./Finding.ts"
import { checkHashes } from "./Hashes.ts"
import { checkKeyless, type KeylessAsked } from "./Keyless.ts"
import type { Listing } from "./Listing.ts"
import { isText, lookAt, NoRelease, openListing } from "./Release.ts"
import type { Rerun } from "./Replay.ts"
import { checkSignatures, type KnownKeys } from "./Signatures.ts"

export interface VerifyOptions {
  readonly keys: KnownKeys
  readonly keyless?: KeylessAsked | undefined
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
  /** Checks that this machine could not do. */
  readonly undone: number
}

/** The machine that checks could not look at a release: nothing was found for it or against it. */
export class CouldNotLook extends Schema.TaggedError<CouldNotLook>()("CouldNotLook", {
  folder: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `${this.folder} could not be looked at: ${this.problem}\n  hint: ${this.hint}`
  }
}

const wordsOf = (cause: unknown, { folder }: Folder): string =>
  (cause instanceof Error ? cause.message : String(cause))
    .split(/\n\s*hint:/)[0]!
    .replaceAll(`${folder}/`, "")
    .slice(0, 1000)

/** A replay needs texts and a store of the user's: what is wrong with these is nothing about the release. */
const isOfTheUser = (check: CheckName, { folder }: Folder, cause: unknown): boolean => {
  if (check !== "replay" || cause instanceof TrainingDiverged) return false
  const { path } = (typeof cause === "object" && cause !== null ? cause : {}) as Readonly<Record<string, unknown>>
  return !(typeof path === "string" && path.startsWith(`${folder}/`))
}

/**
 * What a check throws at a release that is not what it expects is a finding, and not the end. Where it is this machine that failed
 * (`Fault.ts`), the check is undone, and its other findings with it: half a check is none.
 */
const guarded = <E, R>(
  check: CheckName,
  folder: Folder,
  effect: Effect.Effect<ReadonlyArray<Finding>, E, R>,
): Effect.Effect<ReadonlyArray<Finding>, never, R> => {
  const { wrong, skipped, undone } = within(check)
  const found = (cause: unknown) => {
    const words = wordsOf(cause, folder)
    const remedy = remedyOf(cause, folder)
    if (remedy !== undefined) return [undone("check", `it could not be done here: ${words}; ${remedy}`)]
    return isOfTheUser(check, folder, cause)
      ? [skipped("check", `it could not be done here: ${words}`)]
      : [wrong("check", words)]
  }
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
  const counts = { ok: of("ok"), wrong: of("wrong"), skipped: of("skipped"), undone: of("undone") }
  return { folder, name, ...(origin && { origin }), findings, ...counts }
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

/** What is done before there is a check to speak of: of what fails here, only what is the machine's can be. */
const looking = <A, E, R>(
  folder: Folder,
  effect: Effect.Effect<A, E, R>,
): Effect.Effect<A, CouldNotLook | NoRelease, R> => {
  const told = (cause: unknown) => {
    const hint = remedyOf(cause, folder) ?? "verify again, and tell who wrote `exp` if it stays so"
    return new CouldNotLook({ folder: folder.folder, problem: wordsOf(cause, folder), hint })
  }
  return effect.pipe(
    Effect.catch((error) => Effect.fail(error instanceof NoRelease ? error : told(error))),
    Effect.catchDefect((defect) => Effect.fail(told(defect))),
  )
}

export const verify = Effect.fn("verification.verify")(function* (folder: string, options: VerifyOptions) {
  const listing = yield* looking({ folder, has: () => false }, lookAt(folder))
  const names = new Set(listing.files.map(({ path }) => path))
  const has = (path: string) => names.has(path)
  const there: Folder = { folder, has }
  options.say("hashing every file")
  const findings: Array<Finding> = [
    ...(yield* guarded("hashes", there, checkHashes(listing))),
    ...(yield* guarded(
      "signature",
      there,
      Effect.sync(() => checkSignatures(listing, options.keys)),
    )),
    ...(yield* guarded("signature", there, checkKeyless(listing, options.keyless))),
  ]
  const report = (name: string | undefined, more: ReadonlyArray<Finding> = []) =>
    counted(folder, options, name, [...findings, ...more])
  const wrongIn = (check: CheckName) => findings.some((finding) => isWrong(finding) && finding.check === check)
  const undoneIn = (check: CheckName) => findings.some((finding) => isUndone(finding) && finding.check === check)
  for (const path of options.origin?.added ?? [])
    findings.push(within("hashes").skipped(path, "in the repository, not fetched: no part of the release"))
  if (findings.some((finding) => isWrong(finding) && finding.check === "hashes" && isText(finding.what)))
    return report(nameOf(listing, findings), none(READING, OTHER_BYTES))
  if (undoneIn("hashes"))
    return report(undefined, none(READING, "whether the bytes are those that were released is not known"))

  const release = yield* looking(there, openListing(listing))
  const { files, view } = release
  if (files === undefined) {
    const why = `a file cannot be read: ${release.problem}`
    findings.push(within("consistency").wrong("files", why))
    return report(undefined, none(["card", "arithmetic", "weights", "measurements", "replay"], why))
  }
  const stillThere = Effect.suspend(() =>
    existsSync(view)
      ? Effect.void
      : Effect.fail(
          new CouldNotLook({
            folder,
            problem: "the folder for temporary files was taken away while it was looked at",
            hint: "verify again; `TMPDIR` names another folder for them",
          }),
        ),
  )
  const linked: Folder = { folder: view, has }
  const check = <E, R>(name: CheckName, say: string | undefined, run: Effect.Effect<ReadonlyArray<Finding>, E, R>) =>
    Effect.map(
      Effect.andThen(
        Effect.sync(() => say !== undefined && options.say(say)),
        guarded(name, linked, run),
      ),
      (found) => {
        findings.push(...found)
      },
    )
  const from = <M, E, R>(module: () => Promise<M>, run: (module: M) => Effect.Effect<ReadonlyArray<Finding>, E, R>) =>
    Effect.flatMap(load(module), run)

  const contents = from(
    () => import("./Contents.ts"),
    ({ checkContents }) => checkContents(release, files),
  )
  const arithmetic = from(
    () => import("./Arithmetic.ts"),
    ({ checkArithmetic }) => checkArithmetic(release, files),
  )
  const words = from(
    () => import("./Words.ts"),
    ({ checkWords }) => checkWords(release, files),
  )
  const weights = from(
    () => import("./Weights.ts"),
    ({ checkWeights }) => checkWeights(release, files),
  )
  yield* check("consistency", undefined, contents)
  yield* check("card", "making the card again", checkCard(release))
  yield* check("arithmetic", "working the figures out again", arithmetic)
  yield* check("consistency", undefined, checkAgreement(release, files))
  yield* check("consistency", undefined, words)
  yield* check("weights", "reading the weights", weights)
  if (files.release.torch_checkpoint === true)
    yield* check(
      "weights",
      "making the checkpoint for PyTorch again",
      from(
        () => import("./TorchFile.ts"),
        ({ checkTorchFile }) => checkTorchFile(release, files),
      ),
    )
  if (files.quantisation !== undefined)
    yield* check(
      "weights",
      "reading the GGUF files",
      from(
        () => import("./Ggufs.ts"),
        ({ checkGgufs }) => checkGgufs(release, files),
      ),
    )

  // a file that is missing now is missing in our folder of links
  yield* stillThere
  const unsound =
    wrongIn("hashes") || wrongIn("weights")
      ? OTHER_BYTES
      : wrongIn("signature")
        ? "the signature is wrong: nothing of it is run"
        : undoneIn("weights") || undoneIn("signature")
          ? "weights or signature could not be looked at here"
          : undefined
  if (unsound !== undefined) return report(files.release.name, none(["measurements", "replay"], unsound))
  const measurements = from(
    () => import("./Measurements.ts"),
    ({ checkMeasurements }) => checkMeasurements(release, files, options),
  )
  yield* check("measurements", undefined, measurements)
  if (options.replay === "no") findings.push(...none(["replay"], "`--replay` trains the tail again"))
  else {
    const { fromNothing } = options.replay
    const { corpus } = options
    const replay = {
      ...options,
      fromNothing: (...args: Parameters<Rerun>) =>
        Effect.andThen(
          corpus === undefined
            ? Effect.void
            : Effect.flatMap(
                load(() => import("./Texts.ts")),
                ({ findTexts }) => findTexts(corpus, files),
              ),
          fromNothing(...args),
        ),
    }
    yield* check(
      "replay",
      undefined,
      from(
        () => import("./Replay.ts"),
        ({ checkReplay }) => checkReplay(release, files, replay),
      ),
    )
  }
  yield* stillThere
  return report(files.release.name)
}, Effect.scoped)
