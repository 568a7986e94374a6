/**
 * The keyless signature that goes with a publication, `provenance.sigstore.json`: made by a key of this moment, for which Sigstore's
 * authority gives a certificate to whoever shows it an identity token, and written down in a public log. Unlike that of a key of one's
 * own it is another one each time, and stays in that log for ever. So nothing is asked of anybody until all else is known to be right, and
 * what was made is kept in `$XDG_CACHE_HOME/exp/sigstore/made`: publishing goes on with the bundle it began with.
 *
 * What leaves this machine: the token, to the authority; the statement with certificate and signature, to the log, which keeps of the
 * statement the sha256 and shows certificate and signature to everybody.
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { digest, sha256 } from "../model/Digest.ts"
import { STATEMENT } from "../release/Provenance.ts"
import { ReleaseFileFailed, type ReleaseInputUnreadable } from "../release/ReleaseError.ts"
import { PAYLOAD_TYPE } from "../release/Signature.ts"
import { type NotSignable, signableStatement } from "../release/Signing.ts"
import { BUNDLE, bundleText, type Claim, claimOf, plainBundle, readBundle, statementIn } from "../release/Sigstore.ts"
import type { Hub } from "./Hub.ts"
import type { PublishError } from "./HubError.ts"
import { IdentityMissing, type IdentityToken, identityToken, mayIdentify } from "./IdentityToken.ts"
import { plainly } from "./Redact.ts"
import { type ReleaseContent, withFile } from "./ReleaseFiles.ts"
import {
  cacheFolder,
  type Library,
  library,
  type SigstoreMissing,
  type SigstoreUnfit,
  services,
  wordsOf,
} from "./Sigstore.ts"
import { compare, type Destination } from "./Standing.ts"

/** What an authority or a log would not do. */
export class KeylessRefused extends Schema.TaggedError<KeylessRefused>()("KeylessRefused", {
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `signing keyless: ${this.problem}\n  hint: ${this.hint}`
  }
}

export type KeylessError =
  | SigstoreMissing
  | SigstoreUnfit
  | IdentityMissing
  | KeylessRefused
  | NotSignable
  | ReleaseInputUnreadable
  | ReleaseFileFailed

export interface KeylessSettings {
  /** File of a signing configuration, for another Sigstore than the public one. */
  readonly signingConfig?: string | undefined
  /** Whether somebody is there to be asked who they are. */
  readonly terminal: boolean
  readonly say: (text: string) => void
}

export interface Signed {
  /** Of `provenance.sigstore.json`. */
  readonly text: string
  readonly claim: Claim
}

/** A bundle over this statement whose parts agree. */
const fitting = (bytes: Uint8Array, statement: Uint8Array): Signed | undefined => {
  const bundle = readBundle(bytes)
  if (Result.isFailure(bundle) || !statementIn(bundle.success).equals(statement)) return undefined
  const claim = claimOf(bundle.success)
  return Result.isSuccess(claim) ? { text: Buffer.from(bytes).toString("utf8"), claim: claim.success } : undefined
}

/** One kept bundle for a statement and a Sigstore. */
const placeOf = (statement: Uint8Array, { signingConfig }: Pick<KeylessSettings, "signingConfig">) =>
  Effect.gen(function* () {
    const fs = yield* FileSystem.FileSystem
    const file = signingConfig ?? (process.env["EXP_SIGSTORE_SIGNING_CONFIG"] || undefined)
    const config = file === undefined ? "public" : yield* Effect.orElseSucceed(fs.readFileString(file), () => file)
    const name = digest([sha256(statement), config, process.env["EXP_SIGSTORE_TUF"] ?? ""])
    return `${cacheFolder()}/sigstore/made/${name}.json`
  })

const readSigned = (path: string, statement: Uint8Array) =>
  Effect.flatMap(FileSystem.FileSystem, (fs) =>
    fs.readFile(path).pipe(
      Effect.map((bytes) => fitting(bytes, statement)),
      Effect.orElseSucceed(() => undefined),
    ),
  )

const keep = Effect.fnUntraced(
  function* (path: string, text: string) {
    const fs = yield* FileSystem.FileSystem
    const aside = `${path}.${process.pid}.tmp`
    yield* fs.makeDirectory(path.slice(0, path.lastIndexOf("/")), { recursive: true })
    yield* fs.writeFileString(aside, text)
    yield* fs.rename(aside, path)
  },
  (effect, path) => Effect.mapError(effect, ({ message }) => new ReleaseFileFailed({ path, problem: message })),
)

const SECONDS = 20
const RETRIES = 2

const ask = (statement: Buffer, { sign, bundle, specs }: Library, config: unknown, { token }: IdentityToken) =>
  Effect.tryPromise({
    try: async () => {
      const builder = sign.bundleBuilderFromSigningConfig({
        signingConfig: specs.SigningConfig.fromJSON(config),
        identityProvider: { getToken: async () => Redacted.value(token) },
        bundleType: "dsseEnvelope",
        fetchOptions: { timeout: SECONDS * 1000, retry: { retries: RETRIES } },
      })
      return bundle.bundleToJSON(await builder.create({ data: statement, type: PAYLOAD_TYPE }))
    },
    // an authority that refuses a token may say which
    catch: (cause) =>
      new KeylessRefused({
        problem: plainly(wordsOf(cause, token)),
        hint: "try again with a new token; `--signing-config` names another Sigstore",
      }),
  })

/** A new signature over these bytes, by whoever the environment or a person at the terminal is. */
export const signKeyless = Effect.fn("Keyless.sign")(function* (
  statement: Buffer,
  settings: KeylessSettings,
): Effect.fn.Return<Signed, KeylessError, FileSystem.FileSystem> {
  const { terminal, say } = settings
  yield* mayIdentify(terminal)
  const loaded = yield* library
  const { json, issuer } = yield* services(settings.signingConfig, loaded)
  const named = Effect.suspend(() =>
    issuer === undefined
      ? Effect.fail(
          new IdentityMissing({ problem: "the signing configuration names no issuer", hint: "set SIGSTORE_ID_TOKEN" }),
        )
      : Effect.succeed(issuer.replace(/\/+$/, "")),
  )
  say(
    "keyless   who signs, and the sha256 of what, goes into a public log for ever; the log is shown all of provenance.json",
  )
  const token = yield* identityToken({ issuer: named, terminal, say })
  say(`keyless   signing as ${token.subject}`)
  const bundle = plainBundle(yield* ask(statement, loaded, json, token))
  const text = Result.map(bundle, bundleText)
  // what was made is read as anybody will: a log's or an authority's mistake must not be published
  const made = Result.isSuccess(text) ? fitting(Buffer.from(text.success), statement) : undefined
  if (made !== undefined) return made
  const problem = Result.isFailure(bundle)
    ? bundle.failure
    : Result.getOrElse(Result.flip(claimOf(bundle.success)), () => "")
  return yield* new KeylessRefused({
    problem: `what came back is no signature of this statement: ${plainly(problem)}`,
    hint: "nothing was published; say so to whoever runs that Sigstore",
  })
})

/** The keyless signature over a folder's statement that is there already: in the folder, or kept since an attempt to publish it. */
export const madeBefore = Effect.fn("Keyless.madeBefore")(function* (
  folder: string,
  settings: Pick<KeylessSettings, "signingConfig">,
): Effect.fn.Return<Signed | undefined, never, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const statement = yield* Effect.orElseSucceed(fs.readFile(`${folder}/${STATEMENT}`), () => undefined)
  if (statement === undefined) return undefined
  const own = yield* readSigned(`${folder}/${BUNDLE}`, statement)
  return own ?? (yield* readSigned(yield* placeOf(statement, settings), statement))
})

/** Whether there is all that signing takes, as far as can be told without asking anybody. Nothing, where it is signed already. */
export const maySign = Effect.fn("Keyless.maySign")(function* (folder: string, settings: KeylessSettings) {
  if ((yield* madeBefore(folder, settings)) === undefined) yield* mayKeyless(settings.terminal)
})

/** What signing takes: the library, and a token, a runner that gives one, or somebody to ask. */
export const mayKeyless = Effect.fn("Keyless.may")(function* (terminal: boolean) {
  yield* mayIdentify(terminal)
  yield* library
})

/**
 * A release with its keyless signature: the one that was made before, or one that is made now and kept. It is made when the hub has
 * nothing against the release any more, for it cannot be taken back.
 */
export const withKeyless = Effect.fn("Keyless.with")(function* (
  content: ReleaseContent,
  options: Destination,
  settings: KeylessSettings,
): Effect.fn.Return<ReleaseContent, KeylessError | PublishError, FileSystem.FileSystem | Hub> {
  const sums = new Map(content.files.map(({ path, sha256 }) => [path, sha256]))
  const statement = yield* signableStatement(content.folder, sums)
  const before = yield* madeBefore(content.folder, settings)
  if (before !== undefined) {
    settings.say(`keyless   signed before, by ${plainly(before.claim.name)}`)
    return withFile(content, { path: BUNDLE, text: before.text })
  }
  yield* compare(content, options)
  const { text } = yield* signKeyless(statement, settings)
  yield* keep(yield* placeOf(statement, settings), text)
  return withFile(content, { path: BUNDLE, text })
})
