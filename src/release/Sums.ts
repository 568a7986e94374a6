/**
 * `SHA256SUMS`: one line a file, `<64 hex digits>  <path>`, sorted by path; `sha256sum --check` reads it. The file itself is left
 * out, and the signatures, which may be added later and answer for their own bytes.
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import { fileSum } from "../data/FileSum.ts"
import { because } from "../model/Because.ts"
import { byCodeUnit } from "../model/ByCodeUnit.ts"
import { type ReleaseFileFailed, ReleaseInputUnreadable, SumsMismatch, unreadable, unwritable } from "./ReleaseError.ts"
import { ENVELOPE } from "./Signature.ts"
import { BUNDLE } from "./Sigstore.ts"

export const SUMS = "SHA256SUMS"

/** Files without a line. */
export const unsummed: ReadonlySet<string> = new Set([SUMS, ENVELOPE, BUNDLE])

/** Of a file of any size: weights do not fit in one string. */
export const sha256OfFile = (path: string): Effect.Effect<string, ReleaseInputUnreadable> =>
  Effect.tryPromise({
    try: () => fileSum(path),
    catch: (cause) => {
      const { code, message } = cause as NodeJS.ErrnoException
      const problem = code === "ENOENT" ? "there is no such file" : message
      return because(new ReleaseInputUnreadable({ path, problem }), cause)
    },
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
