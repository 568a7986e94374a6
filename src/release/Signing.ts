/**
 * Signing a release folder: the bytes of `provenance.dsse.json`, for whoever writes them (`exp sign` into a copy, `exp publish` beside
 * what it sends). Nothing is signed that is not so: the statement's files are hashed first, for `provenance.sigstore.json` too.
 */
import type { KeyObject } from "node:crypto"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { decodeStatement, STATEMENT } from "./Provenance.ts"
import { type ReleaseInputUnreadable, unreadable } from "./ReleaseError.ts"
import { ENVELOPE, envelopeText, readEnvelope, sign } from "./Signature.ts"
import { filesBelow, sha256OfFile, unsummed } from "./Sums.ts"

export class NotSignable extends Schema.TaggedError<NotSignable>()("NotSignable", {
  folder: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `${this.folder} is not signed: ${this.problem}\n  hint: ${this.hint}`
  }
}

/** By the Hub, its tools and git, where they keep a copy: `exp verify` names these, and counts them for nothing. */
const isAdded = (path: string): boolean =>
  /^(?:\.gitattributes$|\.gitignore$|\.cache\/huggingface\/|\.huggingface\/|\.git\/)/.test(path)

/**
 * The bytes that are signed, once every file is seen to be as they say.
 *
 * @param known sha256 of every file of the folder, from whoever has just read them all; otherwise they are read here
 */
export const signableStatement = Effect.fn("Signing.signableStatement")(function* (
  folder: string,
  known?: ReadonlyMap<string, string>,
): Effect.fn.Return<Buffer, NotSignable | ReleaseInputUnreadable, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const refuse = (problem: string) =>
    new NotSignable({ folder, problem, hint: `\`exp verify ${folder}\` says all that is wrong with it` })
  const path = `${folder}/${STATEMENT}`
  const bytes = Buffer.from(yield* fs.readFile(path).pipe(unreadable(path)))
  const statement = yield* decodeStatement(bytes.toString("utf8")).pipe(
    Effect.mapError((error) => refuse(`${STATEMENT}: ${error.message}`)),
  )
  const named = new Map(statement.subject.map(({ name, digest }) => [name, digest.sha256]))
  const there = (known === undefined ? yield* filesBelow(folder) : [...known.keys()]).filter(
    (file) => file !== STATEMENT && !unsummed.has(file) && !isAdded(file),
  )
  for (const file of there) {
    const sum = named.get(file)
    if (sum === undefined) return yield* refuse(`${STATEMENT} does not name ${file}`)
    if ((known?.get(file) ?? (yield* sha256OfFile(`${folder}/${file}`))) !== sum)
      return yield* refuse(`${file} has other bytes`)
  }
  const missing = [...named.keys()].find((name) => !there.includes(name))
  if (missing !== undefined) return yield* refuse(`${missing} is missing`)
  return bytes
})

/** Text of the envelope with this key's signature, and with those of others that were there. `known` as above. */
export const signedEnvelope = Effect.fn("Signing.signedEnvelope")(function* (
  folder: string,
  key: Redacted.Redacted<KeyObject>,
  known?: ReadonlyMap<string, string>,
): Effect.fn.Return<string, NotSignable | ReleaseInputUnreadable, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const bytes = yield* signableStatement(folder, known)
  const before = yield* fs.readFileString(`${folder}/${ENVELOPE}`).pipe(
    Effect.map((text) => Result.getOrElse(readEnvelope(text), () => undefined)),
    Effect.orElseSucceed(() => undefined),
  )
  const same = before?.payload === bytes.toString("base64") ? before : undefined
  return envelopeText(sign(bytes, Redacted.value(key), same))
})
