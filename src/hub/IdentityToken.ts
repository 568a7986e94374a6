/**
 * The token that says who signs: a JSON web token of an OpenID Connect issuer, for the audience `sigstore`. `Redacted` from the first
 * line; it is opened where Sigstore's authority is asked for a certificate, and nowhere else.
 *
 * | where                                | how                                                                              |
 * |--------------------------------------|----------------------------------------------------------------------------------|
 * | `SIGSTORE_ID_TOKEN`                  | as it is; GitLab makes it where a job says `id_tokens: SIGSTORE_ID_TOKEN: aud: sigstore` |
 * | GitHub Actions                       | asked of the runner, where the job has `permissions: id-token: write`             |
 * | a terminal                           | the device flow (RFC 8628, with PKCE) of Sigstore's issuer: a person opens an address in a browser of any machine |
 */
import { createHash, randomBytes } from "node:crypto"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { endpointOf } from "./Endpoint.ts"
import { plainly, redact } from "./Redact.ts"

export class IdentityMissing extends Schema.TaggedError<IdentityMissing>()("IdentityMissing", {
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `signing keyless: ${this.problem}\n  hint: ${this.hint}`
  }
}

const AUDIENCE = "sigstore"
const CLIENT = "sigstore"

const HOW =
  "set SIGSTORE_ID_TOKEN to a token for the audience `sigstore` (GitLab: `id_tokens`), give the job `id-token: write` (GitHub Actions), or sign at a terminal"

export interface IdentityToken {
  readonly token: Redacted.Redacted<string>
  /** As the certificate will name it, or nearly: of a job the authority makes a URI of its own. */
  readonly subject: string
}

const Claims = Schema.Struct({
  sub: Schema.optionalKey(Schema.String),
  email: Schema.optionalKey(Schema.String),
  email_verified: Schema.optionalKey(Schema.Unknown),
  /** Seconds since 1970. */
  exp: Schema.optionalKey(Schema.Finite),
})

const claimsIn = (text: string): typeof Claims.Type | undefined => {
  const [, body] = /^[\w-]+\.([\w-]+)\.[\w-]+$/.exec(text) ?? []
  if (body === undefined) return undefined
  const read = Schema.decodeUnknownResult(Schema.fromJsonString(Claims))(
    Buffer.from(body, "base64url").toString("utf8"),
  )
  return Result.isSuccess(read) ? read.success : undefined
}

/** A text as a token that can be used now. Whether it is one of its issuer's, the authority says. */
const tokenOf = (text: string, from: string): Effect.Effect<IdentityToken, IdentityMissing> =>
  Effect.gen(function* () {
    const claims = claimsIn(text)
    const refuse = (problem: string) => new IdentityMissing({ problem: `the token of ${from} ${problem}`, hint: HOW })
    if (claims === undefined) return yield* refuse("is no JSON web token")
    const now = yield* Clock.currentTimeMillis
    if (claims.exp !== undefined && claims.exp * 1000 <= now) return yield* refuse("has run out")
    const { sub, email } = claims
    if (email !== undefined && !claims.email_verified) return yield* refuse("names an e-mail address nobody verified")
    const subject = email ?? sub
    if (subject === undefined) return yield* refuse("names nobody")
    return { token: Redacted.make(text, { label: "identity token" }), subject: plainly(subject) }
  })

const setting = (name: string) =>
  Effect.sync(() => {
    const value = process.env[name]?.trim()
    return value ? Redacted.make(value, { label: name }) : undefined
  })

/** What a runner of GitHub Actions hands to a job that may ask for tokens. */
const runner = Effect.gen(function* () {
  const address = yield* setting("ACTIONS_ID_TOKEN_REQUEST_URL")
  const key = yield* setting("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
  return address === undefined || key === undefined ? undefined : { address: Redacted.value(address), key }
})

interface Source {
  readonly name: string
  readonly token: Effect.Effect<IdentityToken, IdentityMissing>
}

/** The environment's own token, if it has one: asked for when it is needed, for it lives a few minutes. */
const ambient: Effect.Effect<Source | undefined> = Effect.gen(function* () {
  const given = yield* setting("SIGSTORE_ID_TOKEN")
  if (given !== undefined)
    return { name: "SIGSTORE_ID_TOKEN", token: tokenOf(Redacted.value(given), "SIGSTORE_ID_TOKEN") }
  const found = yield* runner
  return found === undefined ? undefined : { name: "GitHub Actions", token: fromRunner(found.address, found.key) }
})

export interface Asking {
  /** Address of an OpenID Connect issuer with a device flow. */
  readonly issuer: Effect.Effect<string, IdentityMissing>
  /** Whether somebody is there to be asked. */
  readonly terminal: boolean
  /** What a person is to read. */
  readonly say: (text: string) => void
}

/** Whether there will be a token, as far as can be told without asking anybody for one. */
export const mayIdentify = (terminal: boolean): Effect.Effect<void, IdentityMissing> =>
  Effect.gen(function* () {
    const source = yield* ambient
    // a token that is there is looked at; a runner's is asked for when it is needed
    if (source?.name === "SIGSTORE_ID_TOKEN") return void (yield* source.token)
    if (source === undefined && !terminal)
      return yield* new IdentityMissing({ problem: "nobody says who signs: there is no identity token", hint: HOW })
  })

export const identityToken = Effect.fn("IdentityToken.ask")(function* ({ issuer, terminal, say }: Asking) {
  yield* mayIdentify(terminal)
  const source = yield* ambient
  return source === undefined ? yield* fromDevice(yield* issuer, say) : yield* source.token
})

const SECONDS = 20

/** An answer of JSON, whatever its status. Only this machine is spoken to without encryption, and no redirect is followed. */
const answer = (address: string, request: RequestInit, secret?: Redacted.Redacted<string>) => {
  // a secret may be in the question
  const asked = address.replace(/[?#].*$/s, "")
  const failed = (problem: string) =>
    new IdentityMissing({
      problem: `${redact(asked, secret)}: ${problem}`,
      hint: "try again; or set SIGSTORE_ID_TOKEN",
    })
  return Effect.gen(function* () {
    yield* Effect.mapError(endpointOf(asked), ({ problem }) => failed(problem))
    return yield* Effect.tryPromise({
      try: async (signal) => {
        const limit = AbortSignal.any([signal, AbortSignal.timeout(SECONDS * 1000)])
        const response = await fetch(address, { ...request, redirect: "error", signal: limit })
        return { status: response.status, body: (await response.json()) as unknown }
      },
      catch: (cause) => failed(cause instanceof SyntaxError ? "its answer is no JSON" : "it does not answer"),
    })
  })
}

const decoded = <S extends Schema.Top & { readonly DecodingServices: never }>(
  schema: S,
  body: unknown,
  what: string,
): Effect.Effect<S["Type"], IdentityMissing> =>
  Effect.mapError(
    Schema.decodeUnknownEffect(schema)(body),
    // the answer may hold the very token
    () => new IdentityMissing({ problem: `${what} answers with something else than was asked for`, hint: HOW }),
  )

const fromRunner = (address: string, key: Redacted.Redacted<string>): Effect.Effect<IdentityToken, IdentityMissing> =>
  Effect.gen(function* () {
    const url = `${address}${address.includes("?") ? "&" : "?"}audience=${AUDIENCE}`
    const headers = { authorization: `Bearer ${Redacted.value(key)}`, accept: "application/json" }
    const { body } = yield* answer(url, { headers }, key)
    const { value } = yield* decoded(Schema.Struct({ value: Schema.String }), body, "the runner of GitHub Actions")
    return yield* tokenOf(value, "GitHub Actions")
  })

const Discovery = Schema.Struct({
  issuer: Schema.String,
  device_authorization_endpoint: Schema.String,
  token_endpoint: Schema.String,
})
const Device = Schema.Struct({
  device_code: Schema.String,
  user_code: Schema.String,
  verification_uri: Schema.String,
  verification_uri_complete: Schema.optionalKey(Schema.String),
  expires_in: Schema.Finite,
  interval: Schema.optionalKey(Schema.Finite),
})
const Answer = Schema.Struct({ id_token: Schema.optionalKey(Schema.String), error: Schema.optionalKey(Schema.String) })

const form = (fields: Readonly<Record<string, string>>): RequestInit => ({
  method: "POST",
  body: new URLSearchParams(fields),
  headers: { accept: "application/json" },
})

/** RFC 8628, 3.2 and 3.5. */
const INTERVAL_SECONDS = 5
const SLOWER_SECONDS = 5
/** An issuer is not waited for longer than this, whatever it says. */
const LONGEST_SECONDS = 1800

/** A person opens the address, here or on a telephone, and says yes there; meanwhile the issuer is asked again and again. */
const fromDevice = (issuer: string, say: (text: string) => void): Effect.Effect<IdentityToken, IdentityMissing> =>
  Effect.gen(function* () {
    const refuse = (problem: string, hint = "start again, and say yes in the browser") =>
      new IdentityMissing({ problem: `${issuer}: ${problem}`, hint })
    const found = yield* answer(`${issuer}/.well-known/openid-configuration`, {})
    const endpoints = yield* decoded(Discovery, found.body, issuer)
    if (endpoints.issuer !== issuer)
      return yield* refuse(`it says that it is ${plainly(endpoints.issuer)}`, "name the issuer as it names itself")
    for (const address of [endpoints.device_authorization_endpoint, endpoints.token_endpoint])
      yield* Effect.mapError(endpointOf(address), ({ problem }) => refuse(`${plainly(address)}: ${problem}`, HOW))
    // only who began the flow can end it: the issuer is shown a digest first, and what it is of with the question for the token
    const verifier = randomBytes(32).toString("base64url")
    const challenge = createHash("sha256").update(verifier).digest("base64url")
    const begun = yield* answer(
      endpoints.device_authorization_endpoint,
      form({ client_id: CLIENT, scope: "openid email", code_challenge: challenge, code_challenge_method: "S256" }),
    )
    const device = yield* decoded(Device, begun.body, issuer)
    const secret = Redacted.make(device.device_code)
    say(`open   ${plainly(device.verification_uri_complete ?? device.verification_uri)}`)
    say(`code   ${plainly(device.user_code)}`)
    const end = (yield* Clock.currentTimeMillis) + Math.min(device.expires_in, LONGEST_SECONDS) * 1000
    let wait = Math.max(device.interval ?? INTERVAL_SECONDS, 0.01)
    for (;;) {
      yield* Effect.sleep(`${wait * 1000} millis`)
      if ((yield* Clock.currentTimeMillis) > end) return yield* refuse("nobody said yes in time")
      const asked = yield* Effect.result(
        answer(
          endpoints.token_endpoint,
          form({
            grant_type: "urn:ietf:params:oauth:grant-type:device_code",
            client_id: CLIENT,
            device_code: Redacted.value(secret),
            code_verifier: verifier,
          }),
          secret,
        ),
      )
      // a line that broke is asked over, at a slower pace
      if (Result.isFailure(asked)) wait = Math.min(wait * 2, 60)
      else {
        const { id_token: token, error } = yield* decoded(Answer, asked.success.body, issuer)
        if (token !== undefined) return yield* tokenOf(token, issuer)
        if (error === "slow_down") wait += SLOWER_SECONDS
        else if (error === "access_denied") return yield* refuse("the answer in the browser was no")
        else if (error === "expired_token") return yield* refuse("nobody said yes in time")
        else if (error !== "authorization_pending")
          return yield* refuse(/^[a-z_]{1,40}$/.test(error ?? "") ? `it refuses: ${error}` : "it refuses", HOW)
      }
    }
  })
