/**
 * The sha256 of a file, worked out once while the file stays the same: of a release the card's table, the statement, the sums and the
 * checks all ask, of a corpus every plan does, and these are gigabytes.
 *
 * A file counts as the same while device, inode, size and both times are. A change in the same tick of the file system's clock would
 * not show in these, so what was touched a moment before it was hashed is not remembered.
 *
 * Sums of large files may be kept from one process to the next, a line each: `<state> <sum> <check>`. The check is over the other two,
 * so that a line that has rotted is none.
 */
import { createHash, hash } from "node:crypto"
import { appendFileSync, mkdirSync, readFileSync } from "node:fs"
import { type FileHandle, open } from "node:fs/promises"
import { dirname } from "node:path"
import * as Context from "effect/Context"

/** Where sums are kept; undefined: for as long as the process. */
export const KeptSums = Context.Reference<string | undefined>("exp/data/KeptSums", { defaultValue: () => undefined })

const CHUNK = 1 << 20
/** Longer than the tick of any file system's clock but FAT's, whose two seconds nothing of this is written on. */
const TICK_MS = 50
/** From this size waiting a tick is cheaper than reading again, and a line is cheaper than hashing. */
const LARGE = 1 << 26
const REMEMBERED = 10_000

const remembered = new Map<string, string>()
/** Files of kept sums that were read. */
const read = new Set<string>()

const remember = (state: string, sum: string): void => {
  if (remembered.size >= REMEMBERED) remembered.clear()
  remembered.set(state, sum)
}

const checkOf = (state: string, sum: string): string => hash("sha256", `${state} ${sum}`, "hex").slice(0, 16)

const readKept = (kept: string): void => {
  if (read.has(kept)) return
  read.add(kept)
  let text: string
  try {
    text = readFileSync(kept, "utf8")
  } catch {
    return
  }
  for (const line of text.split("\n")) {
    const [, state, sum, check] = /^(\d+(?::\d+){4}) ([0-9a-f]{64}) ([0-9a-f]{16})$/.exec(line) ?? []
    if (state !== undefined && sum !== undefined && check === checkOf(state, sum)) remember(state, sum)
  }
}

/** What cannot be kept is worked out again another time. */
const keep = (kept: string, state: string, sum: string): void => {
  try {
    mkdirSync(dirname(kept), { recursive: true })
    appendFileSync(kept, `${state} ${sum} ${checkOf(state, sum)}\n`)
  } catch {}
}

const stateOf = async (file: FileHandle) => {
  const { dev, ino, size, mtimeNs, ctimeNs } = await file.stat({ bigint: true })
  const changed = Number((mtimeNs > ctimeNs ? mtimeNs : ctimeNs) / 1_000_000n)
  return { name: `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs}`, size, changed }
}

/** Reads ahead while it hashes: disk and processor work at once, in two buffers whatever the size. */
const hashOpen = async (file: FileHandle): Promise<string> => {
  const sum = createHash("sha256")
  let [reading, hashing] = [Buffer.allocUnsafe(CHUNK), Buffer.allocUnsafe(CHUNK)]
  let next = file.read(reading, 0, CHUNK, null)
  for (;;) {
    const { bytesRead } = await next
    if (bytesRead === 0) return sum.digest("hex")
    ;[reading, hashing] = [hashing, reading]
    next = file.read(reading, 0, CHUNK, null)
    sum.update(hashing.subarray(0, bytesRead))
  }
}

export interface Asking {
  /** File that sums of large files are kept in. */
  readonly kept?: string | undefined
  /** Every byte is read, whatever is remembered. */
  readonly fresh?: boolean
}

/** As 64 hex digits. Rejects as reading does. */
export const fileSum = async (path: string, { kept, fresh = false }: Asking = {}): Promise<string> => {
  const file = await open(path, "r")
  try {
    const { size, changed } = await stateOf(file)
    const large = size >= LARGE
    if (large && Date.now() <= changed + TICK_MS) await new Promise((wake) => setTimeout(wake, TICK_MS))
    const before = await stateOf(file)
    const settled = Date.now() > before.changed + TICK_MS
    if (large && kept !== undefined) readKept(kept)
    const known = remembered.get(before.name)
    if (known !== undefined && settled && !fresh) return known
    const sum = await hashOpen(file)
    if (settled && (await stateOf(file)).name === before.name) {
      remember(before.name, sum)
      if (large && kept !== undefined && sum !== known) keep(kept, before.name, sum)
    }
    return sum
  } finally {
    await file.close()
  }
}
