/**
 * Columns for people: text to the left, numbers to the right, nothing wider than it must be.
 */
export type Align = "left" | "right"

export const table = (
  header: ReadonlyArray<string>,
  rows: ReadonlyArray<ReadonlyArray<string>>,
  align: ReadonlyArray<Align> = [],
): string => {
  const all = header.length === 0 ? rows : [header, ...rows]
  const widths = header.map((_, column) => Math.max(...all.map((row) => [...(row[column] ?? "")].length)))
  return all
    .map((row) =>
      row
        .map((cell, column) => {
          const padding = " ".repeat(Math.max(0, (widths[column] ?? 0) - [...cell].length))
          return align[column] === "right" ? padding + cell : cell + padding
        })
        .join("  ")
        .trimEnd(),
    )
    .join("\n")
}

export const count = (value: number): string => value.toString().replace(/\B(?=(\d{3})+$)/g, ",")

const THOUSANDS = ["", "k", "M", "G", "T", "P", "E", "Z", "Y"]

/** Three figures and a unit of 10³: `4.59 TFLOP`. What three figures would round to a thousand is one of the next unit. */
const scaled = (value: number, of: string): string => {
  let size = value
  let unit = 0
  while (size >= 999.5 && unit < THOUSANDS.length - 1) {
    size /= 1000
    unit++
  }
  return `${size.toPrecision(3)} ${THOUSANDS[unit]}${of}`
}

export const bytes = (value: number): string => (value < 1000 ? `${value} B` : scaled(value, "B"))

/** Additions and multiplications. */
export const operations = (count: number): string => (count === 0 ? "0 FLOP" : scaled(count, "FLOP"))

export const duration = (seconds: number): string => {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`
  if (seconds < 60) return `${seconds.toFixed(1)} s`
  const whole = Math.round(seconds)
  const hours = Math.floor(whole / 3600)
  const minutes = Math.floor((whole % 3600) / 60)
  return hours > 0
    ? `${hours} h ${String(minutes).padStart(2, "0")} min`
    : `${minutes} min ${String(whole % 60).padStart(2, "0")} s`
}
