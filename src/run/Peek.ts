/**
 * What of a plan is already done: walks it as a run would, but only looks.
 */
import * as Effect from "effect/Effect"
import { Engine } from "../engine/Engine.ts"
import type { Ref } from "../model/Artifact.ts"
import { digest } from "../model/Digest.ts"
import type { Node } from "../plan/Plan.ts"
import type { InputRecord, Manifest } from "../store/Manifest.ts"
import { Store } from "../store/Store.ts"
import { keyOf } from "./Run.ts"

export type Standing =
  | { readonly _tag: "Cached"; readonly artifact: string; readonly code: string }
  | { readonly _tag: "WillRun"; readonly artifact: string }
  /** Its inputs are not there yet, so neither is its key. */
  | { readonly _tag: "NotKnownYet" }

export const standings = Effect.fn("standings")(function* (nodes: ReadonlyArray<Node>) {
  const store = yield* Store
  const { numerics } = yield* Engine
  const standing = new Map<string, Standing>()
  const known = new Map<string, InputRecord>()
  const manifests = new Map<string, Manifest>()
  const resolve = (ref: Ref): InputRecord | undefined => {
    if (ref._tag === "Item" || ref.part === "*") return undefined
    const record = known.get(ref.step)
    if (record === undefined || ref.part === undefined) return record
    return { artifact: record.artifact, part: ref.part, identity: digest({ of: record.identity, part: ref.part }) }
  }
  const remember = (manifest: Manifest): Effect.Effect<void, unknown> =>
    Effect.gen(function* () {
      manifests.set(manifest.artifact, manifest)
      if (manifest.chosen === undefined || manifests.has(manifest.chosen.artifact)) return
      const chosen = yield* store.find(manifest.chosen.artifact)
      if (chosen !== undefined) yield* remember(chosen)
    })
  for (const node of nodes) {
    standing.set(node.id, { _tag: "NotKnownYet" })
    if (node.body !== undefined) continue
    const inputs: Record<string, ReadonlyArray<InputRecord>> = {}
    let complete = true
    for (const [name, refs] of Object.entries(node.inputs)) {
      const records = refs.map(resolve)
      if (records.some((record) => record === undefined || !manifests.has(record.artifact))) complete = false
      else inputs[name] = records as ReadonlyArray<InputRecord>
    }
    if (!complete) continue
    const outside =
      node.definition.outside === undefined
        ? undefined
        : yield* node.definition.outside(node.params) as Effect.Effect<unknown, unknown>
    const keyed = keyOf(node, inputs, (artifact) => manifests.get(artifact)!, outside, numerics)
    const manifest = yield* store.find(keyed.artifact)
    if (manifest === undefined) {
      standing.set(node.id, { _tag: "WillRun", artifact: keyed.artifact })
      continue
    }
    yield* remember(manifest)
    known.set(node.id, { identity: keyed.identity, artifact: keyed.artifact })
    standing.set(node.id, { _tag: "Cached", artifact: keyed.artifact, code: manifest.code })
  }
  return standing as ReadonlyMap<string, Standing>
})
