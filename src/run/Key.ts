/**
 * What an artifact is known by: the sha256 of what it is made from. Names, comments, order, paths, machine and resources stay out.
 */
import type { Numerics } from "../engine/Engine.ts"
import { digest } from "../model/Digest.ts"
import type { Node } from "../plan/Plan.ts"
import type { MadeWith } from "../plan/Step.ts"
import { artifactName, type InputRecord, type Manifest } from "../store/Manifest.ts"

export interface Keyed {
  readonly key: string
  readonly identity: string
  readonly artifact: string
}

/** Key and identity of a node whose inputs are known. `outside`: digests of what its parameters name in the world. */
export const keyOf = (
  node: Node,
  inputs: Readonly<Record<string, ReadonlyArray<InputRecord>>>,
  manifests: (artifact: string) => Manifest,
  outside: unknown,
  numerics: Numerics,
): Keyed => {
  const { definition } = node
  const identities = Object.fromEntries(
    Object.entries(inputs).map(([name, records]) => [
      name,
      records.map((record) => identityOf(record, definition.wholeSelection?.includes(name) ?? false, manifests)),
    ]),
  )
  const of = (params: Readonly<Record<string, unknown>>) =>
    digest({
      kind: definition.kind,
      version: definition.version,
      params: outside === undefined ? params : { ...params, ...(outside as object) },
      inputs: identities,
      engine: definition.computes ? numerics : undefined,
    })
  const rigid = Object.fromEntries(Object.entries(node.params).filter(([name]) => !definition.elastic.includes(name)))
  const key = of(node.params)
  return {
    key,
    identity: definition.elastic.length === 0 ? key : of(rigid),
    artifact: artifactName(definition.kind, key),
  }
}

/** By input, the parameters of the steps it came from: what some keys need to know of the world hangs on them. */
export const madeWith = (
  inputs: Readonly<Record<string, ReadonlyArray<InputRecord>>>,
  manifests: (artifact: string) => Manifest,
): MadeWith =>
  Object.fromEntries(
    Object.entries(inputs).map(([name, records]) => [name, records.map(({ artifact }) => manifests(artifact).params)]),
  )

/** A selection counts as what it chose, unless the whole of it is asked for. */
const identityOf = (record: InputRecord, whole: boolean, manifests: (artifact: string) => Manifest): string => {
  const chosen = manifests(record.artifact).chosen
  return chosen !== undefined && !whole ? identityOf(chosen, false, manifests) : record.identity
}
