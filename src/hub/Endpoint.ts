/**
 * Which hub: what was asked for, else `HF_ENDPOINT`, else the public one.
 */
import * as Config from "effect/Config"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { withoutQuery } from "./Redact.ts"

const PUBLIC = "https://huggingface.co"

export class EndpointUnfit extends Schema.TaggedError<EndpointUnfit>()("EndpointUnfit", {
  endpoint: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `endpoint ${this.endpoint}: ${this.problem}\n  hint: an endpoint is an address such as ${PUBLIC}`
  }
}

const isLoopback = (host: string): boolean => /^(localhost|127(\.\d+){3}|\[::1\])$/.test(host)

/** The address as requests begin with it, without a slash at the end. A token goes over plain HTTP to this machine alone. */
export const endpointOf = (text: string): Effect.Effect<string, EndpointUnfit> => {
  const url = URL.canParse(text) ? new URL(text) : undefined
  const problem =
    url === undefined || !/^https?:$/.test(url.protocol)
      ? "it is no HTTP address"
      : url.username !== "" || url.password !== "" || url.search !== "" || url.hash !== ""
        ? "it has a user, a password, a query or a fragment in it"
        : url.protocol === "http:" && !isLoopback(url.hostname)
          ? "the token would go over the net unencrypted"
          : undefined
  if (problem === undefined) return Effect.succeed(text.replace(/\/+$/, ""))
  const shown = withoutQuery(text).replace(/\/\/[^/@]*@/, "//<left out>@")
  return Effect.fail(new EndpointUnfit({ endpoint: shown, problem }))
}

export const endpointSetting = (asked: string | undefined): Effect.Effect<string, EndpointUnfit> =>
  Effect.gen(function* () {
    const set = Option.getOrUndefined(yield* Effect.option(Config.String("HF_ENDPOINT")))
    return yield* endpointOf(asked ?? (set || PUBLIC))
  })
