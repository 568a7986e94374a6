/**
 * An append-only NDJSON file. Each line is written with one call; a last line that was torn by a crash is dropped when read.
 */
import { appendFileSync, existsSync, readFileSync } from "node:fs"

export const append = (path: string, event: unknown): void => appendFileSync(path, `${JSON.stringify(event)}\n`)

export const read = (path: string): ReadonlyArray<unknown> => {
  if (!existsSync(path)) return []
  const text = readFileSync(path, "utf8")
  const whole = text.slice(0, text.lastIndexOf("\n") + 1)
  return whole
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line))
}
