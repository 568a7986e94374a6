/**
 * How much text the steps of a plan read: as those that hold it say by the plan (`plan/Texts.ts`), and where their artifact is there, as
 * its `inventory.json` counts it. A corpus has one, and its packed tokens (`model/Corpus.ts`).
 */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { Role } from "../../model/Corpus.ts"
import type { Node } from "../../plan/Plan.ts"
import type { HeldTexts, Parts, Texts } from "../../plan/Texts.ts"
import { producersOf } from "../FanOut.ts"
import type { Survey } from "../Survey.ts"

/** Of an inventory, what both say; tokens are counted once they are packed. */
const Counts = Schema.Struct({ tokens: Schema.optionalKey(Schema.Finite), bytes: Schema.Finite })
const Source = Schema.Struct({ role: Role, parts: Schema.Record(Schema.String, Counts) })
const decode = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Struct({ sources: Schema.Array(Source) })))

type Counted = (counts: typeof Counts.Type) => number

const partsOf = (sources: ReadonlyArray<typeof Source.Type>, counted: Counted): Parts => {
  const sum = (part: string, of = sources): number =>
    of.reduce((sum, { parts }) => sum + (parts[part] ? counted(parts[part]) : 0), 0)
  const trained = sources.filter(({ role }) => role === "train")
  return {
    train: sum("train"),
    validation: sum("validation"),
    trainedValidation: sum("validation", trained),
    holdout: sum("holdout", trained),
  }
}

/** Undefined where there is no inventory that can be read. */
const textsIn = (folder: string): Texts | undefined => {
  const path = join(folder, "inventory.json")
  const inventory = Option.getOrUndefined(existsSync(path) ? decode(readFileSync(path, "utf8")) : Option.none())
  if (inventory === undefined) return undefined
  const { sources } = inventory
  const all = sources.flatMap(({ parts }) => Object.values(parts))
  const packed = all.some(({ tokens }) => tokens !== undefined)
  return {
    bytes: all.reduce((sum, { bytes }) => sum + bytes, 0),
    split: partsOf(sources, ({ bytes }) => bytes),
    ...(packed && { tokens: partsOf(sources, ({ tokens = 0 }) => tokens) }),
    counted: true,
  }
}

/** Gives the texts of a step: those it holds, else those of the nearest steps before it that hold any. */
export const textsFor = (
  nodes: ReadonlyArray<Node>,
  { standing, copies }: Pick<Survey, "standing" | "copies">,
  pathOf: (artifact: string) => string,
) => {
  const producers = producersOf(nodes, copies)
  const known = new Map<string, Texts | undefined>()
  const held = (node: Node, texts: HeldTexts): Texts | undefined => {
    const here = standing.get(node.id)
    const counted = here?._tag === "Cached" ? textsIn(pathOf(here.artifact)) : undefined
    if (counted !== undefined) return counted
    const given = Object.entries(node.inputs).map(([name, refs]) => [
      name,
      producers(refs).map((maker) => ({ params: maker.params, texts: of(maker) })),
    ])
    return texts(node.params, Object.fromEntries(given))
  }
  const read = (node: Node): Texts | undefined => {
    const makers = producers(Object.values(node.inputs).flat())
    const holder = makers.find(({ definition }) => definition.texts !== undefined)
    if (holder !== undefined) return of(holder)
    return makers.reduce<Texts | undefined>((found, maker) => found ?? of(maker), undefined)
  }
  const of = (node: Node): Texts | undefined => {
    const { texts } = node.definition
    if (!known.has(node.id)) known.set(node.id, texts === undefined ? read(node) : held(node, texts))
    return known.get(node.id)
  }
  return of
}
