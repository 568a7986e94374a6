/** A release and a hub to publish it to. */
import * as NodeServices from "@effect/platform-node/NodeServices"
import { ConfigProvider, Effect, type FileSystem, Layer, Redacted } from "effect"
import { onTestFinished } from "vitest"
import type { Hub } from "../../src/hub/Hub.ts"
import { layer } from "../../src/hub/HuggingFace.ts"
import { type PublishOptions, publish } from "../../src/hub/Publication.ts"
import { type ExtraFile, type ReleaseContent, readRelease } from "../../src/hub/ReleaseFiles.ts"
import type { Patience, Watch } from "../../src/hub/Requests.ts"
import { compare } from "../../src/hub/Standing.ts"
import { type Account, HubServer, type HubSettings } from "./HubServer.ts"

export const CANARY = "hf_canaryCanaryCanary0123456789abcdef"
export const owner: Account = { name: "ada", orgs: [{ name: "our-org", roleInOrg: "write" }], role: "write" }

export const startHub = async (settings: Partial<HubSettings> = {}): Promise<HubServer> => {
  const server = await HubServer.start({ accounts: { [CANARY]: owner }, pageSize: 16, ...settings })
  onTestFinished(() => server.stop())
  return server
}

/** Somebody with this token in the environment, and no other. */
export const userWith = (token: string) =>
  Layer.merge(
    NodeServices.layer,
    ConfigProvider.layer(ConfigProvider.fromEnv({ env: { HF_TOKEN: token, HF_HOME: "/nowhere" } })),
  )

/** Waits of milliseconds, so that a test of a thousand failures is short. */
export const hasty: Partial<Patience> = { firstWaitSeconds: 0.002, longestWaitSeconds: 0.01, timeoutSeconds: 20 }

export interface With {
  readonly token?: string
  readonly patience?: Partial<Patience>
  readonly watch?: Watch
}

const hubOf = (server: HubServer, { token = CANARY, patience = hasty, watch = {} }: With) =>
  layer({ endpoint: server.endpoint, token: Redacted.make(token), patience, watch })

export const run = <A, E>(
  server: HubServer,
  effect: Effect.Effect<A, E, Hub | FileSystem.FileSystem>,
  settings: With = {},
): Promise<A> =>
  Effect.runPromise(effect.pipe(Effect.provide(hubOf(server, settings)), Effect.provide(NodeServices.layer)))

/** What is refused, as people read it. */
export const refusalOf = <A, E extends { readonly message: string }>(
  server: HubServer,
  effect: Effect.Effect<A, E, Hub | FileSystem.FileSystem>,
  settings: With = {},
): Promise<string> =>
  run(
    server,
    Effect.match(effect, { onFailure: ({ message }) => message, onSuccess: () => "nothing was refused" }),
    settings,
  )

export const contentOf = (folder: string, extra: ReadonlyArray<ExtraFile> = [], token = CANARY) =>
  readRelease(folder, Redacted.make(token), { extraFiles: extra })

export const target: PublishOptions = { to: "our-org/tiny", private: false }

export const publishing = (folder: string, options: Partial<PublishOptions> = {}) =>
  Effect.flatMap(contentOf(folder), (content) => publish(content, { ...target, ...options }))

export const comparing = (folder: string, options: Partial<PublishOptions> = {}) =>
  Effect.flatMap(contentOf(folder), (content) => compare(content, { ...target, ...options }))

/** What the hub must have when a release is published: its files and the hub's own. */
export const expected = (content: ReleaseContent): Readonly<Record<string, string>> =>
  Object.fromEntries(content.files.map(({ path, sha256 }) => [path, sha256]))
