/** Every number in the data files of a release, and the same release with that one number changed. */
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"

export interface FigurePlace {
  readonly file: string
  /** Line of a `.jsonl` file, from 0. */
  readonly line: number | null
  readonly path: ReadonlyArray<string | number>
  readonly value: number
}

const leaves = (
  value: unknown,
  path: ReadonlyArray<string | number>,
): ReadonlyArray<[ReadonlyArray<string | number>, number]> => {
  if (typeof value === "number") return [[path, value]]
  if (Array.isArray(value)) return value.flatMap((item, i) => leaves(item, [...path, i]))
  if (value !== null && typeof value === "object")
    return Object.entries(value).flatMap(([key, member]) => leaves(member, [...path, key]))
  return []
}

export const figuresOf = (folder: string): ReadonlyArray<FigurePlace> =>
  readdirSync(folder)
    .sort()
    .filter((file) => /\.jsonl?$/.test(file) && file !== "provenance.json")
    .flatMap((file): ReadonlyArray<FigurePlace> => {
      const text = readFileSync(join(folder, file), "utf8")
      if (file.endsWith(".json"))
        return leaves(JSON.parse(text), []).map(([path, value]) => ({ file, line: null, path, value }))
      return text
        .split("\n")
        .filter((line) => line !== "")
        .flatMap((line, i) => leaves(JSON.parse(line), []).map(([path, value]) => ({ file, line: i, path, value })))
    })

const replaced = (value: unknown, path: ReadonlyArray<string | number>, to: number): unknown => {
  const [key, ...rest] = path
  if (key === undefined) return to
  if (Array.isArray(value)) return value.map((item, i) => (i === key ? replaced(item, rest, to) : item))
  const record = value as { readonly [key: string]: unknown }
  return { ...record, [key]: replaced(record[key], rest, to) }
}

/** Text of the file with that figure changed. */
export const changed = (folder: string, { file, line, path, value }: FigurePlace): string => {
  const to = Number.isInteger(value) ? value + 3 : value * 1.5 + 0.01
  const text = readFileSync(join(folder, file), "utf8")
  if (line === null) return JSON.stringify(replaced(JSON.parse(text), path, to))
  return text
    .split("\n")
    .map((each, i) => (i === line ? JSON.stringify(replaced(JSON.parse(each), path, to)) : each))
    .join("\n")
}
