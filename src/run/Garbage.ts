/**
 * What nobody counts on any more is removed: artifacts that no run and no tag leads to, through the inputs of what they name; work
 * that was interrupted and that no run can go on from; and what was found damaged and set aside.
 *
 * A run beside this one is not hurt. Its journal names an artifact before it is made and as soon as it is found; an artifact is
 * removed under its lock, after the journals have been looked at once more, and disappears by one rename. While a resumable step is
 * being made, artifacts of its kind stay: it may be taking over the checkpoints of a shorter one.
 */
import { existsSync, lstatSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type { Manifest } from "../store/Manifest.ts"
import { Store } from "../store/Store.ts"
import { bytesBelow, ifFree, isArtifactName, setAside, unfinished } from "./Leftovers.ts"
import { mentionsOf } from "./Mentions.ts"

export interface Removal {
  readonly what: "artifact" | "unfinished" | "damaged"
  readonly name: string
  readonly bytes: number
  readonly why: string
}

export interface Kept {
  readonly what: "artifact" | "unfinished"
  readonly name: string
  readonly bytes: number
  readonly why: string
}

export interface Collection {
  readonly removed: ReadonlyArray<Removal>
  /** What nothing leads to and yet stays, and work that was interrupted and can be gone on from. */
  readonly kept: ReadonlyArray<Kept>
  readonly artifacts: { readonly count: number; readonly bytes: number }
}

/** Everything that is named, and what it was made from, and so on. */
const closure = (roots: Iterable<string>, manifests: ReadonlyMap<string, Manifest>): ReadonlySet<string> => {
  const reached = new Set<string>()
  const open = [...roots]
  for (let artifact = open.pop(); artifact !== undefined; artifact = open.pop()) {
    if (reached.has(artifact)) continue
    reached.add(artifact)
    const manifest = manifests.get(artifact)
    if (manifest === undefined) continue
    for (const input of [...Object.values(manifest.inputs).flat(), ...(manifest.chosen ? [manifest.chosen] : [])])
      open.push(input.artifact)
  }
  return reached
}

export const collect = Effect.fn("Garbage.collect")(function* (runs: string, options: { readonly dryRun: boolean }) {
  const { root, list } = yield* Store
  const manifests = new Map((yield* list()).map((manifest) => [manifest.artifact, manifest]))
  const mentions = mentionsOf(runs)
  const names = (existsSync(root) ? readdirSync(root) : [])
    .filter((name) => isArtifactName(name) && lstatSync(join(root, name)).isDirectory())
    .sort()

  const underway = (yield* unfinished(root)).filter(({ state }) => state === "being made")
  const given = underway.flatMap(({ draft }) => Object.values(draft?.inputs ?? {}).flat())
  const growing = new Set(underway.flatMap(({ draft }) => (draft?.resumable ? [draft.kind] : [])))
  const reachable = Effect.map(mentions, (all) =>
    closure([...all.keys(), ...given.map(({ artifact }) => artifact)], manifests),
  )
  const marked = yield* reachable

  const removed: Array<Removal> = []
  const kept: Array<Kept> = []
  const artifacts = { count: 0, bytes: 0 }

  /** Out of sight by one rename, then gone. */
  const vanish = (path: string, name: string): void => {
    const away = join(root, ".tmp", `.removed-${name}-${process.pid}`)
    mkdirSync(join(root, ".tmp"), { recursive: true })
    renameSync(path, away)
    rmSync(away, { recursive: true, force: true })
  }

  const going = (name: string): boolean => {
    if (marked.has(name)) return false
    const kind = manifests.get(name)?.kind
    return kind === undefined || !growing.has(kind)
  }

  for (const name of names) {
    const path = join(root, name)
    const bytes = bytesBelow(path)
    if (!going(name)) {
      artifacts.count++
      artifacts.bytes += bytes
      if (!marked.has(name))
        kept.push({
          what: "artifact",
          name,
          bytes,
          why: `a ${manifests.get(name)?.kind} is being made and may go on from it`,
        })
      continue
    }
    const remove = Effect.gen(function* () {
      if ((yield* reachable).has(name)) return false
      vanish(path, name)
      rmSync(join(root, ".stat", `${name}.json`), { force: true })
      return true
    })
    const gone = options.dryRun ? Option.some(true) : yield* ifFree(root, name, remove)
    if (Option.getOrElse(gone, () => false))
      removed.push({ what: "artifact", name, bytes, why: "no run or tag leads to it" })
    else {
      artifacts.count++
      artifacts.bytes += bytes
      kept.push({ what: "artifact", name, bytes, why: "a run has just asked for it" })
    }
  }

  const staying = new Set(names.filter((name) => !going(name)))
  for (const { name, path, bytes, state } of yield* unfinished(root, (artifact) => staying.has(artifact))) {
    if (state === "being made" || state === "resumable") {
      kept.push({
        what: "unfinished",
        name,
        bytes,
        why: state === "resumable" ? "interrupted: `exp run` goes on from it" : "being made now",
      })
      continue
    }
    const why = {
      finished: "its artifact is in the store",
      "not resumable": "interrupted, and nothing can go on from it",
      "inputs gone": "interrupted, and what it was made from is not kept",
    }[state]
    const remove = Effect.sync(() => {
      try {
        vanish(path, name)
      } catch (cause) {
        if (existsSync(path)) throw cause // otherwise its owner was quicker
      }
    })
    // what an earlier collection did not finish removing has no lock
    const free = name.startsWith(".") ? Effect.asSome(remove) : ifFree(root, name, remove)
    const gone = options.dryRun ? Option.some(undefined) : yield* free
    if (Option.isSome(gone)) removed.push({ what: "unfinished", name, bytes, why })
    else kept.push({ what: "unfinished", name, bytes, why: "being made now" })
  }

  for (const { name, path, bytes } of setAside(root)) {
    if (!options.dryRun) rmSync(path, { recursive: true, force: true })
    removed.push({ what: "damaged", name, bytes, why: "was found damaged and set aside" })
  }
  return { removed, kept, artifacts } satisfies Collection
})
