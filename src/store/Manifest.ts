/**
 * `manifest.json`: what an artifact is, written last, so that an artifact with a manifest is whole.
 *
 * | field      | what                                                                                             |
 * |------------|--------------------------------------------------------------------------------------------------|
 * | `artifact` | name of its folder: `<kind>-<first 16 hex digits of key>`                                         |
 * | `key`      | sha256 of what it was made from, elastic parameters included                                     |
 * | `identity` | the same without elastic parameters: what later steps are keyed by                               |
 * | `params`   | encoded parameters                                                                               |
 * | `outside`  | what of the world its parameters name entered the key: the sha256 of source files                |
 * | `inputs`   | by name, what the inputs turned out to be                                                        |
 * | `chosen`   | of a selection: the input it is                                                                  |
 * | `code`     | digest of the source tree and the lock file that made it: recorded, never compared for reuse     |
 * | `files`    | every file, sorted by path, with size and sha256                                                 |
 * | `digest`   | sha256 of the canonical JSON of all the fields above                                             |
 *
 * The file is canonical JSON and one line feed, nothing else, and it says its own digest: the sha256 of the file itself without
 * `,"digest":"…"` and the line feed. A manifest with any byte changed either cannot be read or does not have the digest it says.
 */
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { canonicalJson, digest, sha256 } from "../model/Digest.ts"

const Natural = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

export const InputRecord = Schema.Struct({
  identity: Schema.String,
  artifact: Schema.String,
  part: Schema.optionalKey(Schema.String),
})
export type InputRecord = typeof InputRecord.Type

export const FileRecord = Schema.Struct({ path: Schema.String, bytes: Natural, sha256: Schema.String })
export type FileRecord = typeof FileRecord.Type

export const Manifest = Schema.Struct({
  format: Schema.Literal(1),
  artifact: Schema.String,
  kind: Schema.String,
  version: Natural,
  key: Schema.String,
  identity: Schema.String,
  params: Schema.Record(Schema.String, Schema.Unknown),
  outside: Schema.optionalKey(Schema.Record(Schema.String, Schema.Unknown)),
  inputs: Schema.Record(Schema.String, Schema.Array(InputRecord)),
  chosen: Schema.optionalKey(InputRecord),
  engine: Schema.optionalKey(Schema.Struct({ name: Schema.String, numerics: Natural, precision: Schema.String })),
  code: Schema.String,
  files: Schema.Array(FileRecord),
})
export type Manifest = typeof Manifest.Type

const Sealed = Schema.Struct({ ...Manifest.fields, digest: Schema.String })
const decodeSealed = Schema.decodeUnknownResult(Schema.fromJsonString(Sealed), { onExcessProperty: "error" })

/** The text of `manifest.json`. */
export const seal = (manifest: Manifest): string => `${canonicalJson({ ...manifest, digest: digest(manifest) })}\n`

/** The manifest a text holds, or what is wrong with it. */
export const unseal = (text: string): Result.Result<Manifest, string> => {
  const decoded = decodeSealed(text)
  if (Result.isFailure(decoded)) return Result.fail("`manifest.json` cannot be read")
  const { digest: said, ...manifest } = decoded.success
  // what was hashed is the text without what it says of itself: no need to spell it again
  const hashed = text.replace(`,"digest":"${said}"`, "")
  if (!hashed.endsWith("}\n") || sha256(hashed.slice(0, -1)) !== said) return Result.fail("`manifest.json` was changed")
  return Result.succeed(manifest)
}

export const artifactName = (kind: string, key: string): string => `${kind}-${key.slice(0, 16)}`
