/**
 * What differs, in words: "input `from`: train's `peakLr`".
 */
import type { Field } from "../run/Fields.ts"

export const fieldName = ({ through, what, name }: Field): string => {
  const last = through.at(-1)
  const way = through.map(({ input }, index) =>
    index === 0 ? `input \`${input}\`: ` : `${through[index - 1]!.kind}'s \`${input}\`: `,
  )
  const owner = last === undefined ? "" : `${last.kind}'s `
  const spelled = {
    parameter: last === undefined ? `parameter \`${name}\`` : `\`${name}\``,
    file: `file \`${name}\``,
    version: last === undefined ? `version of \`${name}\`` : "version",
    engine: `engine \`${name}\``,
    input: last === undefined ? `input \`${name}\`` : `\`${name}\``,
  }[what]
  return `${way.join("")}${owner}${spelled}`
}

/** A value on one line; digests are cut. */
export const valueText = (value: unknown): string => {
  if (value === undefined) return "–"
  const text = typeof value === "string" ? value : JSON.stringify(value)
  if (/^[0-9a-f]{64}$/.test(text)) return `${text.slice(0, 16)}…`
  return [...text].length > 60 ? `${[...text].slice(0, 59).join("")}…` : text
}
