/**
 * `SHA256SUMS`: one line a file, `<64 hex digits>  <path>`, sorted by path; `sha256sum --check` reads it. The file itself is left
 * out, and the signature, which may be added later and answers for its own bytes.
 *
 * A file is hashed once in a process while it stays the same: the card's table, the statement, the sums and the checks all ask, and a
 * file of weights is gigabytes. It counts as the same while device, inode, size and both times are. A change in the same tick of the
 * file system's clock would not show in these, so what was touched a moment before it was hashed is not remembered.
 */
import { createHash } from "node:crypto"
import { type FileHandle, open } from "node:fs/promises"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import { type ReleaseFileFailed, ReleaseInputUnreadable, SumsMismatch, unreadable, unwritable } from "./ReleaseError.ts"
import { ENVELOPE } from "./Signature.ts"

export const SUMS = "SHA256SUMS"

/** Files without a line. */
export const unsummed: ReadonlySet<string> = new Set([SUMS, ENVELOPE])

const CHUNK = 1 << 20
/** Longer than the tick of any file system's clock but FAT's, whose two seconds no release is written on. */
const TICK_MS = 50
/** From this size waiting a tick is cheaper than reading again. */
const LARGE = 1 << 26
const REMEMBERED = 10_000

const remembered = new Map<string, string>()

const stateOf = async (file: FileHandle) => {
  const { dev, ino, size, mtimeNs, ctimeNs } = await file.stat({ bigint: true })
  const changed = Number((mtimeNs > ctimeNs ? mtimeNs : ctimeNs) / 1_000_000n)
  return { name: `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs}`, size, changed }
}

/** Reads ahead while it hashes: disk and processor work at once, in two buffers whatever the size. */
const hashOpen = async (file: FileHandle): Promise<string> => {
  const hash = createHash("sha256")
  let [reading, hashing] = [Buffer.allocUnsafe(CHUNK), Buffer.allocUnsafe(CHUNK)]
  let next = file.read(reading, 0, CHUNK, null)
  for (;;) {
    const { bytesRead } = await next
    if (bytesRead === 0) return hash.digest("hex")
    ;[reading, hashing] = [hashing, reading]
    next = file.read(reading, 0, CHUNK, null)
    hash.update(hashing.subarray(0, bytesRead))
  }
}

const hashFile = async (path: string): Promise<string> => {
  const file = await open(path, "r")
  try {
    const { size, changed } = await stateOf(file)
    if (size >= LARGE && Date.now() <= changed + TICK_MS) await new Promise((wake) => setTimeout(wake, TICK_MS))
    const before = await stateOf(file)
    const settled = Date.now() > before.changed + TICK_MS
    const known = remembered.get(before.name)
    if (known !== undefined && settled) return known
    const sum = await hashOpen(file)
    if (settled && (await stateOf(file)).name === before.name) {
      if (remembered.size >= REMEMBERED) remembered.clear()
      remembered.set(before.name, sum)
    }
    return sum
  } finally {
    await file.close()
  }
}

/** Of a file of any size: weights do not fit in one string. */
export const sha256OfFile = (path: string): Effect.Effect<string, ReleaseInputUnreadable> =>
  Effect.tryPromise({
    try: () => hashFile(path),
    catch: (cause) => {
      const { code, message } = cause as NodeJS.ErrnoException
      return new ReleaseInputUnreadable({ path, problem: code === "ENOENT" ? "there is no such file" : message })
    },
  })

export const byCodeUnit = (a: string, b: string): number => (a < b ? -1 : a > b ? 1 : 0)

/** Paths of all files below a folder, `/` between names, sorted by UTF-16 code unit so that every machine agrees. */
export const filesBelow = Effect.fnUntraced(function* (folder: string) {
  const fs = yield* FileSystem.FileSystem
  const names = yield* fs.readDirectory(folder, { recursive: true }).pipe(unreadable(folder))
  const files: Array<string> = []
  for (const name of names) {
    const info = yield* fs.stat(`${folder}/${name}`).pipe(unreadable(`${folder}/${name}`))
    if (info.type === "File") files.push(name.replaceAll("\\", "/"))
  }
  return files.sort(byCodeUnit)
})

/** The text of `SHA256SUMS` for these sums by path. */
export const sumsText = (sums: Iterable<readonly [path: string, sha256: string]>): string =>
  [...sums]
    .filter(([path]) => !unsummed.has(path))
    .sort(([a], [b]) => byCodeUnit(a, b))
    .map(([path, sum]) => `${sum}  ${path}\n`)
    .join("")

export interface Sums {
  readonly sums: ReadonlyMap<string, string>
  /** What is not as `sumsText` writes it: a doubled line, an order of its own, another line end. */
  readonly problems: ReadonlyArray<string>
}

export const parseSums = (text: string): Sums => {
  const sums = new Map<string, string>()
  const problems: Array<string> = []
  for (const line of text.split("\n")) {
    if (line === "") continue
    const [, sum, path] = /^([0-9a-f]{64}) {2}(.+)$/.exec(line) ?? []
    if (sum === undefined || path === undefined) problems.push(`not a line of it: ${JSON.stringify(line.slice(0, 80))}`)
    else if (sums.has(path)) problems.push(`${path} has two lines`)
    else sums.set(path, sum)
  }
  if (problems.length === 0 && sumsText(sums) !== text)
    problems.push("its lines are not in order, or not ended as they should be")
  return { sums, problems }
}

export const writeSums = Effect.fn("Sums.write")(function* (
  folder: string,
): Effect.fn.Return<void, ReleaseInputUnreadable | ReleaseFileFailed, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const sums: Array<readonly [string, string]> = []
  for (const file of yield* filesBelow(folder)) {
    if (!unsummed.has(file)) sums.push([file, yield* sha256OfFile(`${folder}/${file}`)])
  }
  yield* fs.writeFileString(`${folder}/${SUMS}`, sumsText(sums)).pipe(unwritable(`${folder}/${SUMS}`))
})

/** Fails naming every file that is changed, missing, or there without a line. */
export const checkSums = Effect.fn("Sums.check")(function* (
  folder: string,
): Effect.fn.Return<void, SumsMismatch | ReleaseInputUnreadable, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const text = yield* fs.readFileString(`${folder}/${SUMS}`).pipe(unreadable(`${folder}/${SUMS}`))
  const { sums: expected, problems: malformed } = parseSums(text)
  const problems = malformed.map((problem) => `${SUMS}: ${problem}`)
  const there = new Set(yield* filesBelow(folder))
  for (const [file, sum] of expected) {
    if (!there.has(file)) problems.push(`${file} is missing`)
    else if ((yield* sha256OfFile(`${folder}/${file}`)) !== sum) problems.push(`${file} has other bytes`)
  }
  for (const file of there) {
    if (!unsummed.has(file) && !expected.has(file)) problems.push(`${file} has no line in ${SUMS}`)
  }
  if (problems.length > 0) return yield* new SumsMismatch({ folder, problems })
})
