/**
 * `exp gc`: remove what no run and no tag leads to.
 */
import { resolve } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import { collect } from "../run/Garbage.ts"
import { services } from "./Project.ts"
import { bytes, count, table } from "./Table.ts"

export interface GarbageSettings {
  readonly runs: string
  readonly dryRun: boolean
  readonly json: boolean
}

export const gc = Effect.fn("exp gc")(function* (settings: GarbageSettings) {
  const { removed, kept, artifacts } = yield* collect(resolve(settings.runs), settings).pipe(
    Effect.provide(services(settings.runs)),
  )
  const freed = removed.reduce((sum, one) => sum + one.bytes, 0)
  if (settings.json)
    return yield* Console.log(JSON.stringify({ dryRun: settings.dryRun, freedBytes: freed, removed, kept, artifacts }))
  const verb = settings.dryRun ? "would go" : "removed"
  const rows = [
    ...removed.map(({ name, bytes: size, why }) => [verb, name, bytes(size), why]),
    ...kept.map(({ name, bytes: size, why }) => ["kept", name, bytes(size), why]),
  ]
  yield* Console.log(
    [
      ...(rows.length > 0 ? [table(["", "what", "size", "why"], rows, ["left", "left", "right"]), ""] : []),
      removed.length === 0
        ? `nothing to remove; ${count(artifacts.count)} artifacts (${bytes(artifacts.bytes)}) are in use`
        : `${settings.dryRun ? "would free" : "freed"} ${bytes(freed)}; ${count(artifacts.count)} artifacts (${bytes(artifacts.bytes)}) stay`,
    ].join("\n"),
  )
})
