/**
 * `SHA256SUMS`: one line a file, `<64 hex digits>  <path>`, sorted by path, the file itself left out; `sha256sum --check` reads it.
 */
import { createHash } from "node:crypto"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Stream from "effect/Stream"
import {
  type ReleaseFileFailed,
  type ReleaseInputUnreadable,
  SumsMismatch,
  unreadable,
  unwritable,
} from "./ReleaseError.ts"

export const SUMS = "SHA256SUMS"

/** Of a file of any size: weights do not fit in one string. */
export const sha256OfFile = Effect.fnUntraced(function* (path: string) {
  const fs = yield* FileSystem.FileSystem
  const hash = createHash("sha256")
  yield* fs.stream(path, { chunkSize: 1 << 20 }).pipe(
    Stream.runForEach((chunk) => Effect.sync(() => hash.update(chunk))),
    unreadable(path),
  )
  return hash.digest("hex")
})

/** Paths of all files below a folder, `/` between names, sorted by UTF-16 code unit so that every machine agrees. */
export const filesBelow = Effect.fnUntraced(function* (folder: string) {
  const fs = yield* FileSystem.FileSystem
  const names = yield* fs.readDirectory(folder, { recursive: true }).pipe(unreadable(folder))
  const files: Array<string> = []
  for (const name of names) {
    const info = yield* fs.stat(`${folder}/${name}`).pipe(unreadable(`${folder}/${name}`))
    if (info.type === "File") files.push(name.replaceAll("\\", "/"))
  }
  return files.sort((a, b) => (a < b ? -1 : a > b ? 1 : 0))
})

export const writeSums = Effect.fn("Sums.write")(function* (
  folder: string,
): Effect.fn.Return<void, ReleaseInputUnreadable | ReleaseFileFailed, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const lines: Array<string> = []
  for (const file of yield* filesBelow(folder)) {
    if (file !== SUMS) lines.push(`${yield* sha256OfFile(`${folder}/${file}`)}  ${file}\n`)
  }
  yield* fs.writeFileString(`${folder}/${SUMS}`, lines.join("")).pipe(unwritable(`${folder}/${SUMS}`))
})

/** Fails naming every file that is changed, missing, or there without a line. */
export const checkSums = Effect.fn("Sums.check")(function* (
  folder: string,
): Effect.fn.Return<void, SumsMismatch | ReleaseInputUnreadable, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const text = yield* fs.readFileString(`${folder}/${SUMS}`).pipe(unreadable(`${folder}/${SUMS}`))
  const problems: Array<string> = []
  const expected = new Map<string, string>()
  for (const line of text.split("\n")) {
    if (line === "") continue
    const match = /^([0-9a-f]{64}) [ *](.+)$/.exec(line)
    if (match === null) problems.push(`${SUMS}: not a line of it: ${JSON.stringify(line.slice(0, 80))}`)
    else expected.set(match[2]!, match[1]!)
  }
  const there = new Set(yield* filesBelow(folder))
  for (const [file, sum] of expected) {
    if (!there.has(file)) problems.push(`${file} is missing`)
    else if ((yield* sha256OfFile(`${folder}/${file}`)) !== sum) problems.push(`${file} has other bytes`)
  }
  for (const file of there) {
    if (file !== SUMS && !expected.has(file)) problems.push(`${file} has no line in ${SUMS}`)
  }
  if (problems.length > 0) return yield* new SumsMismatch({ folder, problems })
})
