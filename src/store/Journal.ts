/**
 * An append-only NDJSON file. Each line is written with one call; a last line that was torn by a crash is dropped when read, and cut
 * off before the next one is written.
 *
 * Each line says its own CRC-32 in a last field: what nobody looks at for months is what rots unseen, and `exp gc` trusts it.
 */
import * as fs from "node:fs"
import { crc32 } from "node:zlib"
import { isPlatform, refused } from "./Failed.ts"
import { failpoint, operation } from "./Failpoint.ts"

/** Throws a `StoreFailed` when the system refuses. */
export const append = (path: string, event: { readonly [field: string]: unknown }): void => {
  try {
    appendLine(path, `${summed(JSON.stringify(event))}\n`)
  } catch (cause) {
    throw isPlatform(cause) ? refused(path, cause) : cause
  }
}

const sumOf = (text: string): string => crc32(text).toString(16).padStart(8, "0")

const summed = (object: string): string =>
  `${object.slice(0, -1)}${object === "{}" ? "" : ","}"crc32":"${sumOf(object)}"}`

const SUMMED = /^(\{.*?),?"crc32":"([0-9a-f]{8})"\}$/s

/** The event of a whole line, its sum taken off. */
const eventOf = (line: string): unknown => {
  const [, opening, sum] = SUMMED.exec(line) ?? []
  const object = `${opening}}`
  return sum === undefined || sumOf(object) !== sum ? undefined : JSON.parse(object)
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

/** Has on disk what was appended. Lines are not synced one by one: a crash of the machine takes the last ones, and no result. */
export const settle = (path: string): void => {
  if (!fs.existsSync(path)) return
  const descriptor = fs.openSync(path, "r+")
  try {
    operation("fsync")
    fs.fsyncSync(descriptor)
  } finally {
    fs.closeSync(descriptor)
  }
}

/** Throws when a line does not have the bytes it was written with; a last one that a crash tore is no such line. */
export const read = (path: string): ReadonlyArray<unknown> => {
  if (!fs.existsSync(path)) return []
  const lines = fs.readFileSync(path, "utf8").split("\n")
  const tail = lines.pop()!
  const events = lines.map((line, index) => damaged(index + 1, eventOf(line)))
  // a whole line and one character more: it was the line feed that rotted
  if (eventOf(tail.slice(0, -1)) !== undefined) damaged(lines.length + 1, undefined)
  return events
}

const damaged = (line: number, event: unknown): unknown => {
  if (event === undefined) throw new Error(`line ${line} does not have the bytes it was written with`)
  return event
}
