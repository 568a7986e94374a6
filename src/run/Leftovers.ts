/**
 * What is in the store's `.tmp` and `.damaged`: work in progress, work that was interrupted, and what was set aside.
 */
import { existsSync, lstatSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import { withLock } from "../store/Lock.ts"
import type { ManifestDraft } from "../store/Store.ts"

/** Does `use` under an artifact's lock, unless somebody holds it. */
export const ifFree = <A, E, R>(
  root: string,
  artifact: string,
  use: Effect.Effect<A, E, R>,
): Effect.Effect<Option.Option<A>, E, R> =>
  Effect.gen(function* () {
    const busy = yield* Deferred.make<Option.Option<A>>()
    const onWait = () => Deferred.doneUnsafe(busy, Effect.succeed(Option.none()))
    return yield* Effect.raceFirst(
      withLock(join(root, ".lock", artifact), onWait, Effect.asSome(use)),
      Deferred.await(busy),
    )
  })

const isBusy = (root: string, artifact: string): Effect.Effect<boolean> =>
  existsSync(join(root, ".lock", artifact))
    ? Effect.map(ifFree(root, artifact, Effect.void), Option.isNone)
    : Effect.succeed(false)

export const bytesBelow = (path: string): number => {
  const stat = lstatSync(path, { throwIfNoEntry: false })
  if (stat === undefined) return 0
  if (!stat.isDirectory()) return stat.size
  return readdirSync(path).reduce((sum, name) => sum + bytesBelow(join(path, name)), 0)
}

export const isArtifactName = (name: string): boolean => /^[^.].*-[0-9a-f]{16}$/.test(name)

export type LeftoverState =
  /** A process is at it. */
  | "being made"
  /** The next run goes on from it. */
  | "resumable"
  /** Its artifact is in the store. */
  | "finished"
  | "not resumable"
  /** What it was made from is not in the store. */
  | "inputs gone"

export interface Leftover {
  readonly name: string
  readonly path: string
  readonly bytes: number
  readonly state: LeftoverState
  readonly draft: Draft | undefined
}

type Draft = ManifestDraft & { readonly resumable: boolean }

const readDraft = (path: string): Draft | undefined => {
  try {
    return JSON.parse(readFileSync(join(path, "draft.json"), "utf8"))
  } catch {
    return undefined // torn: nothing but the folder was made
  }
}

const inputsOf = (draft: Draft): ReadonlyArray<string> =>
  Object.values(draft.inputs).flatMap((records) => records.map(({ artifact }) => artifact))

/** `present`: whether an artifact is in the store and will stay there. */
const stateOf = (root: string, name: string, present: (artifact: string) => boolean) =>
  Effect.gen(function* () {
    const draft = readDraft(join(root, ".tmp", name))
    const state: LeftoverState = (yield* isBusy(root, name))
      ? "being made"
      : existsSync(join(root, name, "manifest.json"))
        ? "finished"
        : draft === undefined || !draft.resumable
          ? "not resumable"
          : inputsOf(draft).every(present)
            ? "resumable"
            : "inputs gone"
    return { draft, state }
  })

export const unfinished = Effect.fn("Leftovers.unfinished")(function* (
  root: string,
  present: (artifact: string) => boolean = (artifact) => existsSync(join(root, artifact, "manifest.json")),
) {
  const folder = join(root, ".tmp")
  const found: Array<Leftover> = []
  for (const name of existsSync(folder) ? readdirSync(folder).sort() : []) {
    const path = join(folder, name)
    found.push({ name, path, bytes: bytesBelow(path), ...(yield* stateOf(root, name, present)) })
  }
  return found
})

export const setAside = (root: string): ReadonlyArray<Pick<Leftover, "name" | "path" | "bytes">> => {
  const folder = join(root, ".damaged")
  return (existsSync(folder) ? readdirSync(folder).sort() : []).map((name) => {
    const path = join(folder, name)
    return { name, path, bytes: bytesBelow(path) }
  })
}
