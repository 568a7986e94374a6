/**
 * A fan-out whose length only the run finds out: what its items turned out to be, and its body copied for each of them.
 */
import type { Ref } from "../model/Artifact.ts"
import { digest } from "../model/Digest.ts"
import type { Node } from "../plan/Plan.ts"
import type { InputRecord, Manifest } from "../store/Manifest.ts"

/** Parts of an artifact that a `*` reference stands for: the folders in `checkpoints/`, by step. */
const partsOf = (manifest: Manifest): ReadonlyArray<string> => {
  const names = new Set(manifest.files.flatMap(({ path }) => /^checkpoints\/([^/]+)\//.exec(path)?.[1] ?? []))
  return [...names].sort((a, b) => Number(a.split("_")[1]) - Number(b.split("_")[1]))
}

/** `+75` counts from the checkpoint that the artifact went on from: `step_400` makes it `step_475`. */
const absolutePart = (manifest: Manifest, part: string): string => {
  if (!part.startsWith("+")) return part
  const parent = manifest.inputs["from"]?.[0]?.part ?? "step_0"
  return `step_${Number(parent.split("_")[1]) + Number(part)}`
}

/** What a reference into an artifact means: a part of it, or for `*` all of its parts. */
export const within = (
  { artifact, identity }: InputRecord,
  part: string,
  manifest: Manifest,
): ReadonlyArray<InputRecord> =>
  (part === "*" ? partsOf(manifest) : [part]).map((name) => {
    const absolute = absolutePart(manifest, name)
    return { artifact, part: absolute, identity: digest({ of: identity, part: absolute }) }
  })

/** The step of the plan that a copy in a fan-out (`pack-…[2]`) is a copy of; any other is itself. */
export const withoutCopy = (id: string): string => id.replaceAll(/\[\d+\]/g, "")

export const withBodies = (nodes: ReadonlyArray<Node>): ReadonlyArray<Node> =>
  nodes.flatMap((node) => [node, ...withBodies(node.body?.nodes ?? [])])

/** Which steps make what references mean: an item is made where its fan-out's are, what comes out of a fan-out in its body. */
export const producersOf = (
  nodes: ReadonlyArray<Node>,
  copies: ReadonlyMap<string, ReadonlyArray<Node>> = new Map(),
) => {
  const byId = new Map<string, Node>()
  const items = new Map<string, ReadonlyArray<Ref>>()
  const add = (all: ReadonlyArray<Node>): void => {
    for (const node of all) {
      byId.set(node.id, node)
      if (node.body === undefined) continue
      items.set(node.body.item, node.inputs["of"] ?? [])
      add(node.body.nodes)
      add(copies.get(node.id) ?? [])
    }
  }
  add(nodes)
  const producers = (refs: ReadonlyArray<Ref>): ReadonlyArray<Node> =>
    refs.flatMap((ref) => {
      if (ref._tag === "Item") return producers(items.get(ref.of) ?? items.get(withoutCopy(ref.of)) ?? [])
      const node = byId.get(ref.step) ?? byId.get(withoutCopy(ref.step))
      return node === undefined ? [] : node.body === undefined ? [node] : producers(node.body.yields)
    })
  return producers
}

/** A copy of a node of a body, and of the bodies in it, under names of its own. */
const copyOf = (node: Node, suffix: string, swap: (ref: Ref) => Ref): Node => ({
  ...node,
  id: `${node.id}${suffix}`,
  inputs: Object.fromEntries(Object.entries(node.inputs).map(([name, refs]) => [name, refs.map(swap)])),
  ...(node.body && {
    body: {
      ...node.body,
      nodes: node.body.nodes.map((inner) => copyOf(inner, suffix, swap)),
      yields: node.body.yields.map(swap),
    },
  }),
})

export interface Turn {
  /** By this name the copies know their item. */
  readonly itemId: string
  readonly item: InputRecord
  readonly nodes: ReadonlyArray<Node>
  readonly yields: ReadonlyArray<Ref>
}

/** The body, once for each thing there turned out to be. */
export const turns = (
  { id }: Node,
  body: NonNullable<Node["body"]>,
  items: ReadonlyArray<InputRecord>,
): ReadonlyArray<Turn> => {
  const inner = new Set(withBodies(body.nodes).map((one) => one.id))
  return items.map((item, index) => {
    const suffix = `[${index}]`
    const itemId = `${id}${suffix}`
    const swap = (ref: Ref): Ref => {
      if (ref._tag === "Item")
        return ref.of === body.item
          ? { _tag: "Output", step: itemId, ...(ref.part !== undefined && { part: ref.part }) }
          : ref
      return inner.has(ref.step) ? { ...ref, step: `${ref.step}${suffix}` } : ref
    }
    const nodes = body.nodes.map((one) => {
      const copy = copyOf(one, suffix, swap)
      return { ...copy, label: `${copy.label} ${item.part ?? suffix}` }
    })
    return { itemId, item, nodes, yields: body.yields.map(swap) }
  })
}
