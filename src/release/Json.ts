/**
 * JSON as readers in other languages want it. JavaScript writes the number 1 for 1.0, and Python then reads an `int`, which
 * `transformers` refuses where it asks for a `float` (`repetition_penalty`, `temperature`). So a number that is a float by type
 * is wrapped and always gets a point or an exponent.
 */
export class Float {
  readonly value: number
  constructor(value: number) {
    this.value = value
  }
}
export const float = (value: number): Float => new Float(value)

export type Json =
  | null
  | boolean
  | number
  | string
  | Float
  | ReadonlyArray<Json>
  | { readonly [key: string]: Json | undefined }

const floatText = (value: number): string => {
  const text = JSON.stringify(value)
  return /[.e]/.test(text) ? text : `${text}.0`
}

/** Indented by two, a newline at the end, keys in the order given. */
export const prettyJson = (value: Json): string => `${write(value, "")}\n`

const write = (value: Json, indent: string): string => {
  if (value instanceof Float) return floatText(value.value)
  if (value === null || typeof value !== "object") return JSON.stringify(value)
  const inner = `${indent}  `
  if (Array.isArray(value)) {
    const items = (value as ReadonlyArray<Json>).map((item) => inner + write(item, inner))
    return items.length === 0 ? "[]" : `[\n${items.join(",\n")}\n${indent}]`
  }
  const members = Object.entries(value as { readonly [key: string]: Json | undefined })
    .filter((entry): entry is [string, Json] => entry[1] !== undefined)
    .map(([key, member]) => `${inner}${JSON.stringify(key)}: ${write(member, inner)}`)
  return members.length === 0 ? "{}" : `{\n${members.join(",\n")}\n${indent}}`
}
