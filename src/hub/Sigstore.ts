/**
 * Sigstore's library, where somebody has installed it. It is an optional peer, as large as all the rest that is no engine: `npm ci`
 * never installs it, and everything that needs it says how. What is asked of it is little, and written down here instead of its types.
 *
 * | setting                        | what                                                                                    |
 * |--------------------------------|-----------------------------------------------------------------------------------------|
 * | `EXP_SIGSTORE`                 | a folder that has it in `node_modules`; by default what can be loaded from here           |
 * | `EXP_SIGSTORE_SIGNING_CONFIG`  | file: whom to ask for certificates, log entries, stamps and tokens, in Sigstore's format  |
 * | `EXP_SIGSTORE_TUF`             | another repository of trusted keys than Sigstore's own                                    |
 * | `EXP_SIGSTORE_TUF_ROOT`        | file: the root by which that repository is known                                          |
 *
 * Which keys to trust, and whom to ask, is fetched by TUF (theupdateframework.io) and kept in `$XDG_CACHE_HOME/exp/sigstore`: while it is
 * fresh, nobody is asked.
 */
import { createRequire } from "node:module"
import { homedir } from "node:os"
import { isAbsolute, join, resolve } from "node:path"
import { pathToFileURL } from "node:url"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type { Bundle } from "../release/Sigstore.ts"
import { endpointOf } from "./Endpoint.ts"
import { redact } from "./Redact.ts"

/** Major versions whose use was written and tested. */
const PACKAGES = {
  bundle: "@sigstore/bundle@5",
  specs: "@sigstore/protobuf-specs@0.5",
  sign: "@sigstore/sign@5",
  tuf: "@sigstore/tuf@5",
  verify: "@sigstore/verify@4",
} as const

/** What adds the library to this project, and nothing to its files. */
export const INSTALL = `npm install --no-save --ignore-scripts ${Object.values(PACKAGES).join(" ")}`

export class SigstoreMissing extends Schema.TaggedError<SigstoreMissing>()("SigstoreMissing", {
  problem: Schema.String,
}) {
  override get message() {
    return `sigstore: ${this.problem}\n  hint: \`${INSTALL}\`, or EXP_SIGSTORE as a folder that has them in node_modules`
  }
}

/** Files or services that say whom to trust, or whom to ask. */
export class SigstoreUnfit extends Schema.TaggedError<SigstoreUnfit>()("SigstoreUnfit", {
  what: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `sigstore: ${this.what}: ${this.problem}\n  hint: ${this.hint}`
  }
}

interface Opaque {
  readonly [field: string]: unknown
}
/** Parsed by the library, and handed back to it. */
type TrustedRoot = Opaque & {
  readonly certificateAuthorities: ReadonlyArray<unknown>
  readonly tlogs: ReadonlyArray<unknown>
}

export interface Library {
  readonly bundle: {
    readonly bundleFromJSON: (json: unknown) => Opaque
    readonly bundleToJSON: (bundle: Opaque) => unknown
  }
  readonly specs: {
    readonly TrustedRoot: { readonly fromJSON: (json: unknown) => TrustedRoot }
    readonly SigningConfig: { readonly fromJSON: (json: unknown) => Opaque }
  }
  readonly sign: {
    readonly bundleBuilderFromSigningConfig: (options: {
      readonly signingConfig: Opaque
      readonly identityProvider: { readonly getToken: () => Promise<string> }
      readonly bundleType: "dsseEnvelope"
      readonly fetchOptions: { readonly timeout: number; readonly retry: { readonly retries: number } }
    }) => { readonly create: (artifact: { readonly data: Buffer; readonly type: string }) => Promise<Opaque> }
  }
  readonly tuf: {
    readonly initTUF: (options: object) => Promise<{ readonly getTarget: (name: string) => Promise<string> }>
  }
  readonly verify: {
    readonly toTrustMaterial: (root: TrustedRoot) => Opaque
    readonly toSignedEntity: (bundle: Opaque) => Opaque
    readonly Verifier: new (trust: Opaque, options?: object) => { readonly verify: (entity: Opaque) => unknown }
  }
}

/** By these functions a version is known to be one that can be used. */
const USED: { readonly [part in keyof Library]: ReadonlyArray<keyof Library[part] & string> } = {
  bundle: ["bundleFromJSON", "bundleToJSON"],
  specs: ["TrustedRoot", "SigningConfig"],
  sign: ["bundleBuilderFromSigningConfig"],
  tuf: ["initTUF"],
  verify: ["toTrustMaterial", "toSignedEntity", "Verifier"],
}

const nameOf = (spec: string): string => spec.slice(0, spec.lastIndexOf("@"))

const load = async (part: keyof Library): Promise<unknown> => {
  const folder = process.env["EXP_SIGSTORE"]
  const from = createRequire(folder ? join(resolve(folder), "any.js") : import.meta.url)
  const name = nameOf(PACKAGES[part])
  const path = (() => {
    try {
      return from.resolve(name)
    } catch {
      throw new SigstoreMissing({ problem: `\`${name}\` is not installed${folder ? ` in ${folder}` : ""}` })
    }
  })()
  const module = (await import(pathToFileURL(path).href)) as Opaque
  const lacking = USED[part].find((used) => module[used] === undefined)
  if (lacking === undefined) return module
  throw new SigstoreMissing({
    problem: `\`${name}\` has no \`${lacking}\`: it is not of the version that is used here`,
  })
}

export const library: Effect.Effect<Library, SigstoreMissing> = Effect.tryPromise({
  try: async () => {
    const parts = await Promise.all(
      (Object.keys(PACKAGES) as Array<keyof Library>).map(async (part) => [part, await load(part)]),
    )
    return Object.fromEntries(parts) as Library
  },
  catch: (cause) =>
    cause instanceof SigstoreMissing
      ? cause
      : new SigstoreMissing({ problem: cause instanceof Error ? redact(cause.message) : "it cannot be loaded" }),
})

/** Where exp keeps what it can get again. A relative `XDG_CACHE_HOME` counts as unset, as the XDG specification has it. */
export const cacheFolder = (environment: NodeJS.ProcessEnv = process.env): string => {
  const { XDG_CACHE_HOME: xdg, LOCALAPPDATA: local } = environment
  if (xdg !== undefined && isAbsolute(xdg)) return join(xdg, "exp")
  if (process.platform === "win32" && local) return join(local, "exp", "cache")
  return join(environment["HOME"] || homedir(), ".cache", "exp")
}

const PUBLIC_TUF = "https://tuf-repo-cdn.sigstore.dev"
const TUF_SECONDS = 30

/** The repository of keys that is trusted, and its root where it is not Sigstore's own. */
const repository = Effect.gen(function* () {
  const address = process.env["EXP_SIGSTORE_TUF"] || PUBLIC_TUF
  const unfit = (problem: string, hint: string) => new SigstoreUnfit({ what: "EXP_SIGSTORE_TUF", problem, hint })
  const mirror = yield* Effect.mapError(endpointOf(address), ({ problem }) => unfit(problem, "give its address"))
  const root = process.env["EXP_SIGSTORE_TUF_ROOT"] || undefined
  if (mirror !== PUBLIC_TUF && root === undefined)
    return yield* unfit("nothing says by which root it is known", "set EXP_SIGSTORE_TUF_ROOT to its root.json")
  return { mirror, root }
})

/** A file of the repository of keys, verified by TUF; from the cache while that is fresh. */
const target = (name: string, { tuf }: Library): Effect.Effect<string, SigstoreUnfit> =>
  Effect.gen(function* () {
    const { mirror, root } = yield* repository
    const failed = (problem: string) =>
      new SigstoreUnfit({
        what: `${name} of ${mirror}`,
        problem,
        hint: "try again when you are online, or name a file: `--trusted-root`, `--signing-config`",
      })
    return yield* Effect.tryPromise({
      try: async () => {
        const cachePath = join(cacheFolder(), "sigstore")
        const client = await tuf.initTUF({ mirrorURL: mirror, rootPath: root, cachePath, forceCache: true })
        return await client.getTarget(name)
      },
      catch: (cause) => failed(wordsOf(cause)),
    }).pipe(
      Effect.timeoutOrElse({
        duration: `${TUF_SECONDS} seconds`,
        orElse: () => Effect.fail(failed("no answer in time")),
      }),
    )
  })

/** A token, or as much of one as somebody quotes. */
const QUOTED_TOKEN = /\beyJ[\w-]{8,}(?:\.[\w-]*)*/g

/**
 * The library's own words and, of a service that could not be asked, what was in the way. A service may repeat the token it was shown,
 * whole or cut off.
 */
export const wordsOf = (cause: unknown, token?: Redacted.Redacted<string>): string => {
  const { message, cause: inner } = cause instanceof Error ? cause : { message: String(cause), cause: undefined }
  const more = inner instanceof Error && !message.includes(inner.message) ? `: ${inner.message}` : ""
  const known = token === undefined ? "" : Redacted.value(token)
  const words = known === "" ? `${message}${more}` : `${message}${more}`.replaceAll(known, "<token>")
  return redact(words.replaceAll(QUOTED_TOKEN, "<token>"))
}

const readText = (path: string): Effect.Effect<string, SigstoreUnfit, FileSystem.FileSystem> =>
  Effect.flatMap(FileSystem.FileSystem, (fs) =>
    Effect.mapError(
      fs.readFileString(path),
      () => new SigstoreUnfit({ what: path, problem: "it cannot be read", hint: "name a file that is there" }),
    ),
  )

const Service = Schema.Struct({
  url: Schema.String,
  majorApiVersion: Schema.Int,
  validFor: Schema.optionalKey(
    Schema.Struct({ start: Schema.optionalKey(Schema.String), end: Schema.optionalKey(Schema.String) }),
  ),
})
type Service = typeof Service.Type

/** As much of Sigstore's signing configuration as is looked at here; the rest is the library's. */
const SigningConfig = Schema.Struct({
  mediaType: Schema.Literal("application/vnd.dev.sigstore.signingconfig.v0.2+json"),
  caUrls: Schema.NonEmptyArray(Service),
  oidcUrls: Schema.Array(Service).pipe(Schema.withDecodingDefaultKey(Effect.succeed([]))),
  rekorTlogUrls: Schema.NonEmptyArray(Service),
  rekorTlogConfig: Schema.Struct({ selector: Schema.Literal("ANY") }),
  tsaUrls: Schema.Array(Service).pipe(Schema.withDecodingDefaultKey(Effect.succeed([]))),
})

export interface Services {
  /** Of the configuration, as it was read. */
  readonly json: unknown
  readonly text: string
  /** Of the device flow; absent where the configuration names none. */
  readonly issuer: string | undefined
}

/** The newest that still holds: the rule by which the library chooses the others. */
const newest = (services: ReadonlyArray<Service>, now: number): string | undefined =>
  services
    .filter(({ validFor }) => validFor?.end === undefined || Date.parse(validFor.end) >= now)
    .sort((a, b) => Date.parse(b.validFor?.start ?? "1970") - Date.parse(a.validFor?.start ?? "1970"))[0]?.url

/** Whom to ask: of the file, else of `EXP_SIGSTORE_SIGNING_CONFIG`, else as Sigstore's repository says. */
export const services = Effect.fn("Sigstore.services")(function* (file: string | undefined, loaded: Library) {
  const path = file ?? (process.env["EXP_SIGSTORE_SIGNING_CONFIG"] || undefined)
  const text = path === undefined ? yield* target("signing_config.v0.2.json", loaded) : yield* readText(path)
  const unfit = (problem: string) =>
    new SigstoreUnfit({
      what: path ?? "signing_config.v0.2.json",
      problem,
      hint: "a signing configuration of version 0.2 is meant, as Sigstore's own repository has one",
    })
  const read = yield* Effect.mapError(Schema.decodeUnknownEffect(Schema.fromJsonString(SigningConfig))(text), (error) =>
    unfit(error.message.split("\n").join(" ")),
  )
  for (const { url } of [read.caUrls, read.oidcUrls, read.rekorTlogUrls, read.tsaUrls].flat())
    yield* Effect.mapError(endpointOf(url), ({ problem }) => unfit(`${url}: ${problem}`))
  const issuer = newest(read.oidcUrls, yield* Clock.currentTimeMillis)
  return { json: JSON.parse(text) as unknown, text, issuer } satisfies Services
})

/** Keys that are trusted, and what they say of a bundle. */
export interface Trust {
  /** Fails with words where certificate chain, certificate log, entry, time or signature do not hold. */
  readonly check: (bundle: Bundle) => Result.Result<void, string>
}

const ROOT = /^application\/vnd\.dev\.sigstore\.trustedroot(?:\+json;version=0\.1|\.v0\.2\+json)$/

/** The trusted root of a file, else of Sigstore's repository. */
export const openTrust = Effect.fn("Sigstore.openTrust")(function* (
  file: string | undefined,
): Effect.fn.Return<Trust, SigstoreMissing | SigstoreUnfit, FileSystem.FileSystem> {
  const loaded = yield* library
  const text = file === undefined ? yield* target("trusted_root.json", loaded) : yield* readText(file)
  const { specs, verify, bundle: bundles } = loaded
  const trust = yield* Effect.try({
    try: () => {
      const json = JSON.parse(text) as { readonly mediaType?: unknown }
      if (typeof json.mediaType !== "string" || !ROOT.test(json.mediaType)) throw new Error("it is of no such type")
      const root = specs.TrustedRoot.fromJSON(json)
      if (root.certificateAuthorities.length === 0 || root.tlogs.length === 0) throw new Error("it trusts nobody")
      return verify.toTrustMaterial(root)
    },
    catch: (cause) =>
      new SigstoreUnfit({
        what: file ?? "trusted_root.json",
        problem: `it is no trusted root: ${wordsOf(cause)}`,
        hint: "a `trusted_root.json` is meant, as Sigstore's own repository has one",
      }),
  })
  return {
    check: (bundle) =>
      Result.try({
        try: () => {
          new verify.Verifier(trust).verify(verify.toSignedEntity(bundles.bundleFromJSON(bundle)))
        },
        catch: wordsOf,
      }),
  }
})
