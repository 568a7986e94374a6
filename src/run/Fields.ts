/**
 * Field by field, what makes two results different: parameters, files outside, version, engine, and through inputs the same of what
 * they were made from.
 */
import { canonicalJson } from "../model/Digest.ts"
import type { InputRecord, Manifest } from "../store/Manifest.ts"

/** What a key is made of, of a stored artifact or of a step yet to run. */
export type Making = Pick<Manifest, "kind" | "version" | "params" | "inputs" | "outside" | "engine">

export interface Field {
  /** Names of inputs and kinds on the way: `[["from", "train"]]` for what differs in the training that `from` is. */
  readonly through: ReadonlyArray<{ readonly input: string; readonly kind: string }>
  readonly what: "parameter" | "file" | "version" | "engine" | "input"
  readonly name: string
  /** `undefined`: absent on this side. */
  readonly a: unknown
  readonly b: unknown
}

const isRecord = (value: unknown): value is Readonly<Record<string, unknown>> =>
  typeof value === "object" && value !== null && !Array.isArray(value)

const same = (a: unknown, b: unknown): boolean =>
  a === undefined || b === undefined ? a === b : canonicalJson(a) === canonicalJson(b)

/** Not what every object inherits: a parameter may be called `toString`. */
const own = (record: Readonly<Record<string, unknown>>, key: string): unknown =>
  Object.hasOwn(record, key) ? record[key] : undefined

/** Leaves that differ, by path; a list is one leaf. */
export const leaves = (
  a: unknown,
  b: unknown,
  path = "",
): ReadonlyArray<{ readonly path: string; readonly a: unknown; readonly b: unknown }> => {
  if (same(a, b)) return []
  if (isRecord(a) && isRecord(b))
    return [...new Set([...Object.keys(a), ...Object.keys(b)])]
      .sort()
      .flatMap((key) => leaves(own(a, key), own(b, key), path === "" ? key : `${path}.${key}`))
  return [{ path, a, b }]
}

/** Parameters that bear identity themselves: one that names a file counts as the file's content. */
const bearing = ({ params }: Making, outside: ReadonlyArray<string>): Readonly<Record<string, unknown>> =>
  Object.fromEntries(Object.entries(params).filter(([name]) => !outside.includes(name)))

export const ownFields = (a: Making, b: Making, through: Field["through"] = []): ReadonlyArray<Field> => {
  const outside = [...Object.keys(a.outside ?? {}), ...Object.keys(b.outside ?? {})]
  const named = (what: Field["what"]) => (leaf: ReturnType<typeof leaves>[number]) => ({
    through,
    what,
    name: leaf.path,
    a: leaf.a,
    b: leaf.b,
  })
  return [
    ...(a.version === b.version
      ? []
      : [{ through, what: "version" as const, name: a.kind, a: a.version, b: b.version }]),
    ...leaves(a.engine ?? {}, b.engine ?? {}).map(named("engine")),
    ...leaves(bearing(a, outside), bearing(b, outside)).map(named("parameter")),
    ...leaves(a.outside ?? {}, b.outside ?? {}).map(named("file")),
  ]
}

type Manifests = ReadonlyMap<string, Manifest>

/** A selection is what it chose, unless the whole of it is asked for. */
const settled = (record: InputRecord, whole: boolean, manifests: Manifests): InputRecord => {
  const chosen = manifests.get(record.artifact)?.chosen
  return chosen === undefined || whole ? record : settled(chosen, false, manifests)
}

const spelled = ({ artifact, part }: InputRecord): string => (part === undefined ? artifact : `${artifact}#${part}`)

/** All fields that differ, inputs followed to where they differ themselves. `whole`: inputs whose comparison counts too. */
export const fields = (
  a: Making,
  b: Making,
  manifests: Manifests,
  whole: ReadonlyArray<string> = [],
  through: Field["through"] = [],
  seen: Set<string> = new Set(),
): ReadonlyArray<Field> => {
  const inputFields = (name: string): ReadonlyArray<Field> => {
    const of = (making: Making) =>
      (making.inputs[name] ?? []).map((record) => settled(record, whole.includes(name), manifests))
    const [left, right] = unmatched(of(a), of(b))
    const pairs = Math.max(left.length, right.length)
    return Array.from({ length: pairs }, (_, index) => pairFields(name, left[index], right[index])).flat()
  }
  const pairFields = (name: string, x: InputRecord | undefined, y: InputRecord | undefined): ReadonlyArray<Field> => {
    const bare: Field = { through, what: "input", name, a: x && spelled(x), b: y && spelled(y) }
    if (x === undefined || y === undefined) return [bare]
    const [made, makes] = [manifests.get(x.artifact), manifests.get(y.artifact)]
    if (made === undefined || makes === undefined || made.kind !== makes.kind) return [bare]
    const parts: ReadonlyArray<Field> =
      x.part === y.part ? [] : [{ through, what: "input", name, a: x.part, b: y.part }]
    // an artifact of the same identity is the same thing made longer or kept oftener
    if (made.identity === makes.identity) return parts.length > 0 ? parts : [bare]
    const pair = `${x.artifact} ${y.artifact}`
    if (seen.has(pair)) return parts
    seen.add(pair)
    const deeper = [...through, { input: name, kind: made.kind }]
    const found = [...parts, ...fields(made, makes, manifests, [], deeper, seen)]
    return found.length > 0 ? found : [bare]
  }
  const names = [...new Set([...Object.keys(a.inputs), ...Object.keys(b.inputs)])].sort()
  return [...ownFields(a, b, through), ...names.flatMap(inputFields)]
}

/** What of two lists is not in the other, in order; of equal lists in another order, all. */
const unmatched = (
  a: ReadonlyArray<InputRecord>,
  b: ReadonlyArray<InputRecord>,
): readonly [ReadonlyArray<InputRecord>, ReadonlyArray<InputRecord>] => {
  const without = (from: ReadonlyArray<InputRecord>, taken: ReadonlyArray<InputRecord>) => {
    const left = taken.map(({ identity }) => identity)
    return from.filter(({ identity }) => {
      const at = left.indexOf(identity)
      if (at >= 0) left.splice(at, 1)
      return at < 0
    })
  }
  const [left, right] = [without(a, b), without(b, a)]
  if (left.length > 0 || right.length > 0) return [left, right]
  const moved = a.flatMap((record, index) => (record.identity === b[index]?.identity ? [] : [index]))
  return [moved.map((index) => a[index]!), moved.map((index) => b[index]!)]
}
