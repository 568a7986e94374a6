/**
 * Every byte of every file, against `SHA256SUMS` and against the statement; nothing is missing, nothing was added.
 *
 * The two lists are made apart: whoever changes a file must change both, and the statement may be signed. `SHA256SUMS` itself is known
 * by its content: there is one way to write it.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { decodeStatement, STATEMENT } from "../release/Provenance.ts"
import { parseSums, SUMS, sha256OfFile, unsummed } from "../release/Sums.ts"
import { judged } from "./Fault.ts"
import { type Finding, within } from "./Finding.ts"
import type { Listing } from "./Listing.ts"
import { LONGEST_TEXT } from "./Release.ts"

const { ok, wrong, skipped } = within("hashes")

/** What a list says beside what is there. */
const compare = (
  list: string,
  said: ReadonlyMap<string, string>,
  there: ReadonlyMap<string, string>,
  leftOut: (path: string) => boolean,
): ReadonlyArray<Finding> => {
  const found: Array<Finding> = []
  for (const [path, sum] of said) {
    const actual = there.get(path)
    if (leftOut(path)) found.push(wrong(path, `${list} has a sum of it, which cannot be`))
    else if (actual === undefined) found.push(wrong(path, `is missing: ${list} names it`))
    else if (actual !== sum) found.push(wrong(path, `has other bytes than ${list} says`))
  }
  for (const path of there.keys())
    if (!said.has(path) && !leftOut(path)) found.push(wrong(path, `was added: ${list} does not name it`))
  return found.length > 0
    ? found
    : [ok(list, `${said.size} files, each with the bytes it names; none is missing, none was added`)]
}

/** `sumOf`: where the sha256 of a file is from, for who knows which of them stayed as they were. */
export const checkHashes = Effect.fn("verification.checkHashes")(function* (
  listing: Listing,
  sumOf: typeof sha256OfFile = sha256OfFile,
) {
  const findings: Array<Finding> = []
  const there = new Map<string, string>()
  for (const { path } of listing.files) {
    const sum = yield* judged(sumOf(join(listing.folder, path)))
    if (sum._tag === "Success") there.set(path, sum.success)
    else findings.push(wrong(path, sum.failure.problem))
  }
  for (const { path, what } of listing.strange) findings.push(wrong(path, `is ${what}, which no release has`))

  const read = (path: string): Buffer | undefined => {
    const entry = listing.files.find((file) => file.path === path)
    return entry !== undefined && there.has(path) && entry.bytes <= LONGEST_TEXT
      ? readFileSync(join(listing.folder, path))
      : undefined
  }
  const bytes = read(SUMS)
  if (bytes === undefined) findings.push(wrong(SUMS, "is missing, or too long to be one"))
  else {
    const text = bytes.toString("utf8")
    const { sums, problems } = parseSums(text)
    for (const problem of problems) findings.push(wrong(SUMS, problem))
    if (!Buffer.from(text, "utf8").equals(bytes)) findings.push(wrong(SUMS, "is not UTF-8"))
    findings.push(...compare(SUMS, sums, there, (path) => unsummed.has(path)))
  }

  const statement = read(STATEMENT)
  if (statement === undefined) findings.push(wrong(STATEMENT, "is missing, or too long to be one"))
  else {
    const decoded = yield* Effect.result(decodeStatement(statement.toString("utf8")))
    if (decoded._tag === "Failure")
      findings.push(wrong(STATEMENT, `is no in-toto statement with SLSA provenance: ${decoded.failure.message}`))
    else {
      const { subject, predicate } = decoded.success
      const named = new Map(subject.map(({ name, digest }) => [name, digest.sha256]))
      findings.push(...compare(STATEMENT, named, there, (path) => path === STATEMENT || unsummed.has(path)))
      const { file, sha256 } = predicate.buildDefinition.externalParameters
      if (typeof file !== "string" || named.get(file) !== sha256)
        findings.push(wrong(STATEMENT, "says of another experiment that it was run"))
    }
  }
  for (const path of listing.added)
    findings.push(skipped(path, "added on the way here (Hub, cache or git): no part of the release"))
  return findings
})
