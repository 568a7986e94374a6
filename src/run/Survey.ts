/**
 * What of a plan is already done: walks it as a run would, but only looks.
 */
import * as Effect from "effect/Effect"
import { Engine } from "../engine/Engine.ts"
import type { Ref } from "../model/Artifact.ts"
import type { Node } from "../plan/Plan.ts"
import { Looking, type Outside, OutsideUnknown } from "../plan/Step.ts"
import type { InputRecord, Manifest } from "../store/Manifest.ts"
import { Store } from "../store/Store.ts"
import { turns, within } from "./FanOut.ts"
import { keyOf, madeWith } from "./Key.ts"

export type Standing =
  | { readonly _tag: "Cached"; readonly artifact: string; readonly code: string }
  | { readonly _tag: "WillRun"; readonly artifact: string }
  /** Its inputs are not there yet, so neither is its key; or what else it is made of cannot be looked at now. */
  | { readonly _tag: "NotKnownYet"; readonly lacks?: string }

export interface Survey {
  /** By step; copies of a fan-out's body have ids of their own. */
  readonly standing: ReadonlyMap<string, Standing>
  /** By fan-out, its body as copied for each item, where the store already knows the items. */
  readonly copies: ReadonlyMap<string, ReadonlyArray<Node>>
  /** By step, what of the world it is made of, where it is of any. */
  readonly outside: ReadonlyMap<string, Manifest["outside"]>
  /** By step, what its inputs turned out to be. */
  readonly inputs: ReadonlyMap<string, Readonly<Record<string, ReadonlyArray<InputRecord>>>>
}

export const survey = Effect.fn("survey")(function* (nodes: ReadonlyArray<Node>) {
  const store = yield* Store
  const { numerics } = yield* Engine
  const standing = new Map<string, Standing>()
  const copies = new Map<string, ReadonlyArray<Node>>()
  const given = new Map<string, Readonly<Record<string, ReadonlyArray<InputRecord>>>>()
  const world = new Map<string, Manifest["outside"]>()
  const known = new Map<string, ReadonlyArray<InputRecord>>()
  const manifests = new Map<string, Manifest>()

  /** Undefined when anything that it takes is not there. */
  const resolve = (refs: ReadonlyArray<Ref>): ReadonlyArray<InputRecord> | undefined => {
    const all: Array<InputRecord> = []
    for (const ref of refs) {
      const records = ref._tag === "Item" ? undefined : known.get(ref.step)
      if (records === undefined || records.some(({ artifact }) => !manifests.has(artifact))) return undefined
      const { part } = ref
      all.push(
        ...(part === undefined
          ? records
          : records.flatMap((record) => within(record, part, manifests.get(record.artifact)!))),
      )
    }
    return all
  }

  const remember = (manifest: Manifest): Effect.Effect<void, unknown> =>
    Effect.gen(function* () {
      manifests.set(manifest.artifact, manifest)
      if (manifest.chosen === undefined || manifests.has(manifest.chosen.artifact)) return
      const chosen = yield* store.find(manifest.chosen.artifact)
      if (chosen !== undefined) yield* remember(chosen)
    })

  const lookOutside = (node: Node, outside: Outside, inputs: Readonly<Record<string, ReadonlyArray<InputRecord>>>) =>
    (
      outside(
        node.params,
        madeWith(inputs, (name) => manifests.get(name)!),
      ) as Effect.Effect<unknown, unknown>
    ).pipe(
      Effect.provideService(Looking, true),
      Effect.catch((cause) => (cause instanceof OutsideUnknown ? Effect.succeed(cause) : Effect.fail(cause))),
    )

  const look = (node: Node): Effect.Effect<void, unknown> =>
    Effect.gen(function* () {
      standing.set(node.id, { _tag: "NotKnownYet" })
      const inputs: Record<string, ReadonlyArray<InputRecord>> = {}
      for (const [name, refs] of Object.entries(node.inputs)) {
        const records = resolve(refs)
        if (records === undefined) return
        inputs[name] = records
      }
      given.set(node.id, inputs)
      if (node.body !== undefined) return yield* unfold(node, node.body, inputs["of"]!)
      const outside =
        node.definition.outside === undefined ? undefined : yield* lookOutside(node, node.definition.outside, inputs)
      if (outside instanceof OutsideUnknown)
        return void standing.set(node.id, { _tag: "NotKnownYet", lacks: outside.lacks })
      world.set(node.id, outside as Manifest["outside"])
      const { artifact, identity } = keyOf(node, inputs, (name) => manifests.get(name)!, outside, numerics)
      const manifest = yield* store.find(artifact)
      if (manifest === undefined) return void standing.set(node.id, { _tag: "WillRun", artifact })
      yield* remember(manifest)
      known.set(node.id, [{ identity, artifact }])
      standing.set(node.id, { _tag: "Cached", artifact, code: manifest.code })
    })

  const unfold = (node: Node, body: NonNullable<Node["body"]>, items: ReadonlyArray<InputRecord>) =>
    Effect.gen(function* () {
      if (items.length > body.atMost) return
      const all = turns(node, body, items)
      copies.set(
        node.id,
        all.flatMap((turn) => turn.nodes),
      )
      for (const { itemId, item, nodes } of all) {
        known.set(itemId, [item])
        yield* Effect.forEach(nodes, look, { discard: true })
      }
      const yields = resolve(all.flatMap((turn) => turn.yields))
      if (yields !== undefined) known.set(node.id, yields)
    })

  yield* Effect.forEach(nodes, look, { discard: true })
  return { standing, copies, outside: world, inputs: given } satisfies Survey
})

/** For whoever may not need it, or shares it with others. */
export type Seen = ReturnType<typeof survey>

/** The steps that make something, with how many times there may be of each: what a fan-out of unknown length does counts at its bound. */
export const stepsWithTimes = (
  nodes: ReadonlyArray<Node>,
  copies: Survey["copies"],
  times = 1,
): ReadonlyArray<{ readonly node: Node; readonly times: number }> =>
  nodes.flatMap((node) => {
    if (node.body === undefined) return [{ node, times }]
    const known = copies.get(node.id)
    return known === undefined
      ? stepsWithTimes(node.body.nodes, copies, times * node.body.atMost)
      : stepsWithTimes(known, copies, times)
  })

/** The steps of a plan one by one: of a fan-out its copies, or its body where nobody knows for what it will be copied. */
export const oneByOne = (nodes: ReadonlyArray<Node>, copies: Survey["copies"]): ReadonlyArray<Node> =>
  nodes.flatMap((node) => [node, ...oneByOne(copies.get(node.id) ?? node.body?.nodes ?? [], copies)])
