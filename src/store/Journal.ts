/**
 * An append-only NDJSON file. Each line is written with one call; a last line that was torn by a crash is dropped when read, and cut
 * off before the next one is written.
 */
import * as fs from "node:fs"
import { isPlatform, refused } from "./Failed.ts"
import { failpoint, operation } from "./Failpoint.ts"

/** Throws a `StoreFailed` when the system refuses. */
export const append = (path: string, event: unknown): void => {
  try {
    appendLine(path, `${JSON.stringify(event)}\n`)
  } catch (cause) {
    throw isPlatform(cause) ? refused(path, cause) : cause
  }
}

const appendLine = (path: string, line: string): void => {
  failpoint("journal.before-append")
  const descriptor = fs.openSync(path, "a+")
  try {
    const { size } = fs.fstatSync(descriptor)
    const last = Buffer.alloc(1)
    if (size > 0 && fs.readSync(descriptor, last, 0, 1, size - 1) === 1 && last.toString() !== "\n")
      fs.ftruncateSync(descriptor, fs.readFileSync(path).lastIndexOf("\n") + 1)
    operation("write", () => fs.writeSync(descriptor, line.slice(0, line.length / 2)))
    // not `writeSync`: on a disk that is nearly full it writes a part and says nothing
    fs.writeFileSync(descriptor, line)
  } finally {
    fs.closeSync(descriptor)
  }
}

export const read = (path: string): ReadonlyArray<unknown> => {
  if (!fs.existsSync(path)) return []
  const text = fs.readFileSync(path, "utf8")
  const whole = text.slice(0, text.lastIndexOf("\n") + 1)
  return whole
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line))
}
