/**
 * The one way out: a `fetch` for the hub's client and for our own requests. The client retries nothing, waits for ever, and hands
 * signed addresses and the token on as it gets them; what it lacks is here.
 *
 * | what                    | rule                                                                                            |
 * |-------------------------|-------------------------------------------------------------------------------------------------|
 * | token                   | goes to the endpoint's own origin and nowhere else: a signed address is its own permission       |
 * | 429                     | wait as long as `Retry-After` or `RateLimit` says, then again                                    |
 * | 408, 5xx, no connection | again after a random part of 0.5 s, 1 s, 2 s … 30 s (full jitter, seeded), or what the server says |
 * | other 4xx               | final, 401 and 403 before all                                                                    |
 * | a change without answer | not repeated here: it may have happened. Whoever asked looks what the hub has, see Publication.ts |
 * | silence                 | a minute, and for what is sent a second more for each 50 kB; of a download, between two pieces    |
 *
 * A `PUT` is given `redirect: "error"` and no window: otherwise fetch tees the body to be able to send it again, and holds all of
 * it in memory (1.15 GB for 1 GB, against 160 MB so).
 */
import * as Redacted from "effect/Redacted"
import { stream } from "../model/Random.ts"
import { HubUnreachable } from "./HubError.ts"
import { redact, withoutQuery } from "./Redact.ts"
import { SentFile } from "./SentFile.ts"

export interface Patience {
  /** Requests for one answer, the first included. */
  readonly attempts: number
  /** The first wait is a random part of this, and the next of twice as much. */
  readonly firstWaitSeconds: number
  readonly longestWaitSeconds: number
  /** A server that asks for more is not waited for. */
  readonly longestServerWaitSeconds: number
  readonly timeoutSeconds: number
  /** Of the random parts. */
  readonly seed: number
}

export const patience: Patience = {
  attempts: 6,
  firstWaitSeconds: 0.5,
  longestWaitSeconds: 30,
  longestServerWaitSeconds: 600,
  timeoutSeconds: 60,
  seed: 0,
}

const BYTES_A_SECOND = 50_000

/** What the requests tell while they go on. */
export interface Watch {
  readonly waiting?: (text: string) => void
  readonly sent?: (bytes: number) => void
}

/** Seconds that a server asks to wait: `Retry-After` in seconds or as a date, or `RateLimit: "api";r=0;t=55`. */
export const serverWait = (headers: Headers, now: number): number | undefined => {
  const after = headers.get("Retry-After")?.trim()
  if (after !== undefined && /^\d+(\.\d+)?$/.test(after)) return Number(after)
  if (after !== undefined && !Number.isNaN(Date.parse(after))) return Math.max(0, (Date.parse(after) - now) / 1000)
  const limit = headers.get("RateLimit")
  const reset = limit === null ? null : /;\s*t=(\d+)/.exec(limit)
  const left = limit === null ? null : /;\s*r=(\d+)/.exec(limit)
  return reset === null || (left !== null && left[1] !== "0") ? undefined : Number(reset[1])
}

/** Asking again what only looks, or what is addressed by its content, changes nothing. */
const isRepeatable = (method: string, path: string): boolean =>
  /^(GET|HEAD|PUT)$/.test(method) || /\/(preupload|paths-info)\/|\/info\/lfs\/objects\/batch$/.test(path)

const TRANSIENT: ReadonlySet<number> = new Set([408, 425, 429, 500, 502, 503, 504])

const sizeOf = (body: RequestInit["body"]): number =>
  body instanceof Blob ? body.size : typeof body === "string" ? body.length : 0

/** Nobody was spoken to: it may be the wrong address. */
const UNREACHED: ReadonlySet<string> = new Set([
  "ECONNREFUSED",
  "ENOTFOUND",
  "EAI_AGAIN",
  "EHOSTUNREACH",
  "ENETUNREACH",
])

const problemOf = (cause: unknown, host: string): string => {
  if (!(cause instanceof Error)) return String(cause)
  if (cause.name === "TimeoutError") return "no answer in time"
  const inner = cause.cause
  const code = inner instanceof Error && "code" in inner ? String(inner.code) : undefined
  if (code !== undefined && UNREACHED.has(code)) return `${host} cannot be reached (${code})`
  return code ?? (inner instanceof Error ? inner.message : cause.message)
}

/** Answers without a body, whatever is in it. */
const BODILESS: ReadonlySet<number> = new Set([101, 204, 205, 304])

/** An answer with its body read, so that one that breaks off counts as none. */
const whole = async (response: Response): Promise<Response> => {
  if (BODILESS.has(response.status)) return response
  const bytes = await response.arrayBuffer()
  if (response.ok && response.headers.get("Content-Type")?.startsWith("application/json"))
    JSON.parse(Buffer.from(bytes).toString("utf8"))
  const headers = new Headers(response.headers)
  headers.delete("Content-Encoding")
  headers.delete("Content-Length")
  return new Response(bytes, { status: response.status, headers })
}

/**
 * An answer whose body is read by whoever asked. However long it takes in all, each piece must come within `seconds` of being asked
 * for: a reader that is slow itself, as a full disk's is, counts as no silence.
 */
const awaited = (response: Response, seconds: number, end: (reason: Error) => void): Response => {
  if (response.body === null) return response
  const reader = response.body.getReader()
  const body = new ReadableStream<Uint8Array>(
    {
      pull: async (controller) => {
        const silence = new Error(`nothing more came for ${seconds} s`)
        const timer = setTimeout(() => end(silence), seconds * 1000)
        try {
          const { done, value } = await reader.read()
          if (done) controller.close()
          else controller.enqueue(value)
        } finally {
          clearTimeout(timer)
        }
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  )
  return new Response(body, { status: response.status, headers: response.headers })
}

export interface Way {
  readonly endpoint: string
  /** Without one, only what is public is seen. */
  readonly token: Redacted.Redacted<string> | undefined
  readonly patience: Patience
  readonly watch: Watch
  /** Waits; interrupted by the signal. */
  readonly sleep: (seconds: number, signal: AbortSignal | undefined) => Promise<void>
}

/**
 * A `fetch` by the rules above. What it gives up on it throws as `HubUnreachable`; an answer that is no success but final is
 * returned as it is.
 */
export const makeFetch = ({ endpoint, token, patience, watch, sleep }: Way): typeof fetch => {
  const random = stream(patience.seed, "hub retries")
  let drawn = 0
  const { origin } = new URL(endpoint)

  return async (input, init = {}) => {
    const address = input instanceof Request ? input.url : String(input)
    const url = new URL(address)
    const method = (init.method ?? "GET").toUpperCase()
    const own = url.origin === origin
    const headers = new Headers(init.headers)
    if (own && token !== undefined) headers.set("Authorization", `Bearer ${Redacted.value(token)}`)
    else headers.delete("Authorization")
    headers.set("User-Agent", "exp/0.1.0; hf_hub/2.17.5")
    const request = `${method} ${own ? withoutQuery(url.pathname + url.search) : `${url.origin}/<signed address>`}`
    const repeatable = own ? isRepeatable(method, url.pathname) : true
    const streams = method === "GET" && (!own || /\/resolve\//.test(url.pathname))
    const size = sizeOf(init.body)
    const fail = (attempts: number, problem: string, ambiguous: boolean): never => {
      throw new HubUnreachable({ request, attempts, problem: redact(problem, token), ambiguous })
    }

    for (let attempt = 1; ; attempt++) {
      const silence = new AbortController()
      const end = (reason: Error) => silence.abort(reason)
      const seconds = patience.timeoutSeconds + size / BYTES_A_SECOND
      const timer = setTimeout(() => end(new DOMException("", "TimeoutError")), Math.ceil(seconds * 1000))
      const outcome = await fetch(url, {
        ...init,
        ...(method === "PUT" && init.body instanceof SentFile && { body: init.body.going() }),
        ...(method === "PUT" && { redirect: "error", window: null }),
        headers,
        signal: init.signal ? AbortSignal.any([init.signal, silence.signal]) : silence.signal,
      })
        .then((response) =>
          streams && response.ok ? awaited(response, patience.timeoutSeconds, end) : whole(response),
        )
        .then(
          (response) => ({ response, problem: `the hub says ${response.status}` }),
          (cause: unknown) => ({ response: undefined, problem: problemOf(cause, url.host) }),
        )
      clearTimeout(timer)
      init.signal?.throwIfAborted()
      const { response, problem } = outcome
      if (response !== undefined && !TRANSIENT.has(response.status)) {
        // of a signed address it means that its time is over: a new one is to be had by asking again
        if (!own && response.status === 403)
          return fail(attempt, "the signed address is not taken any more (403)", true)
        if (response.ok && method === "PUT") watch.sent?.(size)
        return response
      }
      // a refusal for haste was no attempt to do anything; of everything else that changes the hub nobody knows
      const safe = repeatable || response?.status === 429
      const asked = response === undefined ? undefined : serverWait(response.headers, Date.now())
      await response?.body?.cancel()
      if (!safe) return fail(attempt, problem, true)
      if (attempt >= patience.attempts) return fail(attempt, problem, false)
      if (asked !== undefined && asked > patience.longestServerWaitSeconds)
        return fail(attempt, `${problem} and asks to wait for ${Math.ceil(asked)} s`, false)
      const most = Math.min(patience.longestWaitSeconds, patience.firstWaitSeconds * 2 ** (attempt - 1))
      const jitter = random.uniform(drawn++) * most
      const wait = asked === undefined ? jitter : asked + Math.min(1, jitter)
      watch.waiting?.(`${request}: ${redact(problem, token)}: again in ${wait.toFixed(1)} s`)
      await sleep(wait, init.signal ?? undefined)
    }
  }
}
