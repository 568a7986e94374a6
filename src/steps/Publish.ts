/**
 * `publish`: a release goes to the hub.
 *
 * It is the one step whose work is not in the store but in the world, so what it leaves is a receipt: which repository at which
 * revision is which bytes. It is done once for a release, a repository and a hub: their identities are its key, and the hub's address
 * enters from outside the plan. The key knows nothing of what has become of the repository since; `exp publish` looks, and does again
 * what is missing.
 */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Published, Release } from "../model/Artifact.ts"
import { Repository } from "../model/Repository.ts"
import * as Step from "../plan/Step.ts"

interface PublishParams {
  readonly to: string
  readonly private: boolean
  readonly tag?: string
  readonly collection?: string
  readonly supersedes?: string
  readonly keyless?: boolean
}

/** A hub that does not answer within these does not keep a run from beginning. */
const BEFOREHAND_SECONDS = 10

export const publish = Step.make("publish", {
  version: 1,
  params: {
    to: Repository,
    /** Makes a new repository private, and refuses one that is public. */
    private: Schema.Boolean.pipe(Schema.withConstructorDefault(Effect.succeed(false))),
    tag: Schema.optionalKey(Schema.String),
    /** A collection's slug. */
    collection: Schema.optionalKey(Schema.String),
    /** The model whose card is to name this one as its new version. */
    supersedes: Schema.optionalKey(Repository),
    /** Signs with Sigstore, by the identity of the environment's token; nobody is asked in the middle of a run. */
    keyless: Schema.optionalKey(Schema.Boolean),
  },
  inputs: { release: Release },
  output: (ref) => new Published(ref),
  label: ({ to }) => `publish ${to}`,
  outside: () =>
    Effect.gen(function* () {
      const { endpointSetting } = yield* Effect.promise(() => import("../hub/Endpoint.ts"))
      return { endpoint: yield* endpointSetting(undefined) }
    }),
  beforehand: (params: PublishParams) =>
    Effect.gen(function* () {
      const { endpointSetting } = yield* Effect.promise(() => import("../hub/Endpoint.ts"))
      const { layer } = yield* Effect.promise(() => import("../hub/HuggingFace.ts"))
      const { mayPublish } = yield* Effect.promise(() => import("../hub/Standing.ts"))
      const { findToken } = yield* Effect.promise(() => import("../hub/Token.ts"))
      const { keyFor } = yield* Effect.promise(() => import("../hub/Envelope.ts"))
      const endpoint = yield* endpointSetting(undefined)
      const token = yield* findToken
      yield* keyFor(undefined)
      if (params.keyless === true) {
        const { mayKeyless } = yield* Effect.promise(() => import("../hub/Keyless.ts"))
        yield* mayKeyless(false)
      }
      const later = `${endpoint} does not answer now: whether it may be published to is looked at when it is`
      return yield* mayPublish(params).pipe(
        Effect.as(undefined),
        Effect.provide(layer({ endpoint, token, patience: { attempts: 2, timeoutSeconds: BEFOREHAND_SECONDS } })),
        Effect.catchTag("HubUnreachable", () => Effect.succeed(later)),
        Effect.timeoutOrElse({ duration: `${BEFOREHAND_SECONDS} seconds`, orElse: () => Effect.succeed(later) }),
      )
    }),
  run: (work) =>
    Effect.gen(function* () {
      const { endpointSetting } = yield* Effect.promise(() => import("../hub/Endpoint.ts"))
      const { keyFor } = yield* Effect.promise(() => import("../hub/Envelope.ts"))
      const { layer } = yield* Effect.promise(() => import("../hub/HuggingFace.ts"))
      const { counting } = yield* Effect.promise(() => import("../hub/Progress.ts"))
      const { publish } = yield* Effect.promise(() => import("../hub/Publication.ts"))
      const { readRelease } = yield* Effect.promise(() => import("../hub/ReleaseFiles.ts"))
      const { findToken } = yield* Effect.promise(() => import("../hub/Token.ts"))
      const { withKeyless } = yield* Effect.promise(() => import("../hub/Keyless.ts"))
      const { ENVELOPE } = yield* Effect.promise(() => import("../release/Signature.ts"))
      const { BUNDLE } = yield* Effect.promise(() => import("../release/Sigstore.ts"))
      const params = work.params as unknown as PublishParams
      const folder = join(work.inputs["release"]![0]!.path, "release")
      const endpoint = yield* endpointSetting(undefined)
      const token = yield* findToken
      const { keyless = false } = params
      const hub = layer({ endpoint, token, watch: { waiting: work.note } })
      const unsigned = yield* readRelease(folder, token, { key: yield* keyFor(undefined), keyless })
      const content = keyless
        ? yield* Effect.provide(withKeyless(unsigned, params, { terminal: false, say: work.note }), hub)
        : unsigned
      const signatures = [ENVELOPE, BUNDLE].filter((name) => content.files.some(({ path }) => path === name))
      const signed = signatures.join(", ")
      work.note(signed === "" ? "unsigned: `exp keys new` makes a key to sign with" : `signed: ${signed}`)
      const count = counting()
      const { receipt } = yield* publish(content, {
        ...params,
        report: (event) => {
          if (event._tag === "Did") return work.note(event.text)
          const standing = count(event)
          if (standing === undefined) return
          const { doing, bytes: done, of, path } = standing
          work.progress({ done, total: of.bytes, unit: `bytes ${doing}`, detail: path })
        },
      }).pipe(Effect.provide(hub))
      work.note(`${receipt.url} at ${receipt.revision.slice(0, 12)}`)
      writeFileSync(join(work.out, "receipt.json"), `${JSON.stringify(receipt, null, 2)}\n`)
      return undefined
    }),
})
