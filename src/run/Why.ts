/**
 * Why a step will run, or will not: what makes its key differ from that of the nearest stored artifact of its kind.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Engine } from "../engine/Engine.ts"
import type { Ref } from "../model/Artifact.ts"
import { suggestion } from "../model/DidYouMean.ts"
import type { Node } from "../plan/Plan.ts"
import type { Manifest } from "../store/Manifest.ts"
import { Store } from "../store/Store.ts"
import { codeDigest } from "./Code.ts"
import { withoutCopy } from "./FanOut.ts"
import { type Field, fields, type Making } from "./Fields.ts"
import { oneByOne, survey } from "./Survey.ts"

interface Named {
  readonly step: string
  readonly label: string
  readonly kind: string
}

export type Reason = Named &
  (
    | { readonly _tag: "Cached"; readonly artifact: string; readonly otherCode: boolean }
    /** Its artifact is there and cannot be trusted. */
    | { readonly _tag: "Damaged"; readonly artifact: string; readonly problem: string }
    /** Nothing of its kind was ever stored. */
    | { readonly _tag: "First"; readonly artifact: string }
    | {
        readonly _tag: "WillRun"
        readonly artifact: string
        readonly nearest: string
        readonly fields: ReadonlyArray<Field>
        /** Parameters that say how far or how often, not what: the run goes on from the nearest. */
        readonly elastic: boolean
      }
    /** Its inputs are not known; `for` is the first step before it that will run. */
    | { readonly _tag: "Waits"; readonly for: string }
    /** It is, or reads, what comes out of a fan-out that has more items than the plan allows. */
    | { readonly _tag: "FansOut"; readonly of: string }
    /** What it is, or waits for, is made of something in the world that cannot be looked at now. */
    | { readonly _tag: "Unseen"; readonly of: string; readonly lacks: string }
  )

/** Steps that a word means: an id, a label or a kind. */
const named = (steps: ReadonlyArray<Node>, word: string): ReadonlyArray<Node> => {
  for (const is of [
    (node: Node) => node.id === word || withoutCopy(node.id) === word,
    (node: Node) => node.label === word,
    (node: Node) => node.definition.kind === word,
  ]) {
    const found = steps.filter(is)
    if (found.length > 0) return found
  }
  return []
}

export class NoSuchStep extends Schema.TaggedError<NoSuchStep>()("NoSuchStep", {
  word: Schema.String,
  names: Schema.Array(Schema.String),
}) {
  override get message() {
    return `no step of the plan is a \`${this.word}\`\n  hint: ${suggestion(this.word, this.names)}`
  }
}

/** Reasons for the steps that a word means, and after them for those that they wait for. */
export const why = Effect.fn("Why.why")(function* (nodes: ReadonlyArray<Node>, word: string) {
  const store = yield* Store
  const { numerics } = yield* Engine
  const { standing, copies, outside, inputs } = yield* survey(nodes)
  const all = oneByOne(nodes, copies)
  // a fan-out whose items are known is its copies
  const unfolded = (node: Node): ReadonlyArray<Node> => copies.get(node.id)?.flatMap(unfolded) ?? [node]
  const asked = named(all, word).flatMap(unfolded)
  if (asked.length === 0)
    return yield* new NoSuchStep({
      word,
      names: [...new Set(all.flatMap((node) => [node.definition.kind, node.label]))],
    })
  const manifests = new Map((yield* store.list()).map((manifest) => [manifest.artifact, manifest]))
  const byId = new Map(all.map((node) => [node.id, node]))
  const fanOutOf = new Map(all.flatMap((node) => (node.body === undefined ? [] : [[node.body.item, node] as const])))

  /** An item of a fan-out, `each-…[0]`, comes from what the fan-out is over. */
  const sourceOf = (ref: Ref): Node | undefined =>
    ref._tag === "Item" ? fanOutOf.get(ref.of) : (byId.get(ref.step) ?? byId.get(ref.step.replace(/\[\d+\]$/, "")))
  /** Everything a step comes from, itself left out. What comes out of a fan-out comes from its copies. */
  const before = (node: Node, seen = new Set<Node>()): ReadonlySet<Node> => {
    const sources = [
      ...Object.values(node.inputs).flat().map(sourceOf),
      ...(seen.has(node) ? (copies.get(node.id) ?? []) : []),
    ]
    for (const source of sources) {
      if (source === undefined || seen.has(source)) continue
      seen.add(source)
      before(source, seen)
    }
    return seen
  }

  const makingOf = (node: Node): Making => {
    const { definition } = node
    const world = outside.get(node.id)
    return {
      kind: definition.kind,
      version: definition.version,
      params: node.params,
      inputs: inputs.get(node.id)!,
      ...(world !== undefined && { outside: world }),
      ...(definition.computes && { engine: numerics }),
    }
  }

  const reasonFor = (node: Node) =>
    Effect.gen(function* () {
      const { definition } = node
      const own: Named = { step: node.id, label: node.label, kind: definition.kind }
      const here = standing.get(node.id)
      if (here?._tag === "Cached")
        return {
          ...own,
          _tag: "Cached",
          artifact: here.artifact,
          otherCode: here.code !== codeDigest(),
        } satisfies Reason
      if (here?._tag !== "WillRun") {
        const sources = before(node)
        const first = all.find((one) => sources.has(one) && standing.get(one.id)?._tag === "WillRun")
        if (first !== undefined) return { ...own, _tag: "Waits", for: first.id } satisfies Reason
        for (const one of [node, ...sources]) {
          const there = standing.get(one.id)
          if (there?._tag === "NotKnownYet" && there.lacks !== undefined)
            return { ...own, _tag: "Unseen", of: one.label, lacks: there.lacks } satisfies Reason
        }
        const fanOut = node.body === undefined ? [...sources].find((one) => one.body !== undefined) : node
        return { ...own, _tag: "FansOut", of: (fanOut ?? node).label } satisfies Reason
      }
      const { artifact } = here
      let problem: string | undefined
      yield* store.find(artifact, (said) => {
        problem = said
      })
      if (problem !== undefined) return { ...own, _tag: "Damaged", artifact, problem } satisfies Reason
      const making = makingOf(node)
      const nearest = [...manifests.values()]
        .filter(({ kind }) => kind === definition.kind)
        .map((manifest) => ({ manifest, fields: fields(manifest, making, manifests, definition.wholeSelection ?? []) }))
        .reduce<{ readonly manifest: Manifest; readonly fields: ReadonlyArray<Field> } | undefined>(
          (best, one) => (best === undefined || one.fields.length < best.fields.length ? one : best),
          undefined,
        )
      if (nearest === undefined) return { ...own, _tag: "First", artifact } satisfies Reason
      return {
        ...own,
        _tag: "WillRun",
        artifact,
        nearest: nearest.manifest.artifact,
        fields: nearest.fields,
        elastic:
          definition.resumable === true &&
          nearest.fields.every(
            ({ what, name, through }) =>
              through.length === 0 && what === "parameter" && definition.elastic.includes(name),
          ),
      } satisfies Reason
    })

  const reasons = new Map<string, Reason>()
  const open = [...asked]
  for (let node = open.shift(); node !== undefined; node = open.shift()) {
    if (reasons.has(node.id)) continue
    const reason: Reason = yield* reasonFor(node)
    reasons.set(node.id, reason)
    if (reason._tag === "Waits") open.push(byId.get(reason.for)!)
  }
  return [...reasons.values()]
})
