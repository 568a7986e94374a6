/**
 * What of a folder is published: a list made here, file by file, and never "the folder". The client would take `.env`, `.git` and
 * what a symbolic link points to.
 *
 * Each file is read once: for its sha256, for the name git gives its content (what the hub tells of a small file), and for secrets.
 */
import { createHash, type KeyObject } from "node:crypto"
import * as fs from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Redacted from "effect/Redacted"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { digest } from "../model/Digest.ts"
import { STATEMENT, secretIn } from "../release/Provenance.ts"
import { ENVELOPE } from "../release/Signature.ts"
import { signedEnvelope } from "../release/Signing.ts"
import { BUNDLE } from "../release/Sigstore.ts"
import { SUMS, unsummed } from "../release/Sums.ts"
import { bundleProblems, envelopeProblems } from "./Envelope.ts"
import { cardProblems, evaluationProblems } from "./FrontMatter.ts"
import { ReleaseUnfit } from "./HubError.ts"
import { pathProblems } from "./Paths.ts"

export interface ReleaseFile {
  /** In the repository, `/` between names. */
  readonly path: string
  /** A file of this disk, or a text made for the publication. */
  readonly content: { readonly full: string } | { readonly text: string }
  readonly bytes: number
  readonly sha256: string
  /** sha1 of `blob <bytes>\0` and the content. */
  readonly blob: string
}

export interface ReleaseContent {
  readonly name: string
  readonly folder: string
  /** Sorted by path. */
  readonly files: ReadonlyArray<ReleaseFile>
  readonly bytes: number
  /** sha256 over all paths and sums: what is published is known by it. */
  readonly digest: string
}

/** A file made for the publication, such as a signature over what the folder holds. It stands in no `SHA256SUMS`. */
export interface ExtraFile {
  readonly path: string
  readonly text: string
}

const CHUNK = 1 << 20
/** No form of a secret that is looked for is longer, but for keys, which are known by their first line. */
const OVERLAP = 512

/** Numbers, where a text has letters. The hub takes such files by name for large ones. */
export const isWeights = (path: string): boolean => /\.(?:safetensors|gguf|pt|bin|parquet)$/.test(path)

/** Tells of each piece of a file whether it holds a secret; what lies across two pieces is seen too. */
const secretScan = (path: string, token: Redacted.Redacted<string>) => {
  let tail = Buffer.alloc(0)
  const own = Redacted.value(token)
  return (chunk: Buffer): string | undefined => {
    const piece = Buffer.concat([tail, chunk])
    tail = Buffer.from(piece.subarray(Math.max(0, piece.length - OVERLAP)))
    if (piece.includes(own)) return "the very token it would be published with"
    // numbers look like anything: in weights only the hub's own tokens are unmistakable
    if (isWeights(path)) {
      for (let at = piece.indexOf("hf_"); at !== -1; at = piece.indexOf("hf_", at + 1))
        if (/^hf_[A-Za-z0-9]{30,}/.test(piece.toString("latin1", at, at + 64))) return "a Hugging Face token"
      return undefined
    }
    return secretIn(piece.toString("latin1")) ?? undefined
  }
}

interface Read {
  readonly file: ReleaseFile
  readonly secret: string | undefined
}

const readFile = (path: string, full: string, token: Redacted.Redacted<string>, read: (bytes: number) => void) =>
  Effect.acquireUseRelease(
    Effect.sync(() => fs.openSync(full, fs.constants.O_RDONLY | (fs.constants.O_NOFOLLOW ?? 0))),
    (descriptor) =>
      Effect.gen(function* () {
        const bytes = fs.fstatSync(descriptor).size
        const sha256 = createHash("sha256")
        const blob = createHash("sha1").update(`blob ${bytes}\0`)
        const scan = secretScan(path, token)
        const buffer = Buffer.allocUnsafe(CHUNK)
        let secret: string | undefined
        for (let chunks = 1; ; chunks++) {
          const length = fs.readSync(descriptor, buffer)
          if (length === 0) break
          const chunk = buffer.subarray(0, length)
          sha256.update(chunk)
          blob.update(chunk)
          secret ??= scan(chunk)
          read(length)
          if (chunks % 8 === 0) yield* Effect.yieldNow
        }
        return {
          file: { path, content: { full }, bytes, sha256: sha256.digest("hex"), blob: blob.digest("hex") },
          secret,
        } as Read
      }),
    (descriptor) => Effect.sync(() => fs.closeSync(descriptor)),
  )

const fileOf = ({ path, text }: ExtraFile): ReleaseFile => {
  const content = Buffer.from(text)
  return {
    path,
    content: { text },
    bytes: content.length,
    sha256: createHash("sha256").update(content).digest("hex"),
    blob: createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex"),
  }
}

const readText = (extra: ExtraFile, token: Redacted.Redacted<string>): Read => ({
  file: fileOf(extra),
  secret: secretScan(extra.path, token)(Buffer.from(extra.text)),
})

/** Regular files below a folder; whatever else lies there is a problem. */
const walk = (folder: string, problems: Array<string>, below = ""): ReadonlyArray<string> =>
  fs
    .readdirSync(join(folder, below), { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = below === "" ? entry.name : `${below}/${entry.name}`
      if (entry.isDirectory()) return walk(folder, problems, path)
      if (entry.isFile()) return [path]
      problems.push(`${path} is ${entry.isSymbolicLink() ? "a symbolic link" : "no regular file"}`)
      return []
    })

/** `SHA256SUMS` as a table, with the lines that are none of it. */
export const parseSums = (text: string): { readonly sums: ReadonlyMap<string, string>; readonly strange: number } => {
  const sums = new Map<string, string>()
  let strange = 0
  for (const line of text.split("\n")) {
    const match = /^([0-9a-f]{64}) [ *](.+)$/.exec(line)
    if (match !== null) sums.set(match[2]!, match[1]!)
    else if (line !== "") strange++
  }
  return { sums, strange }
}

const sumProblems = (text: string, files: ReadonlyArray<ReleaseFile>, extra: ReadonlySet<string>) => {
  const { sums, strange } = parseSums(text)
  const there = new Map(files.map((file) => [file.path, file]))
  const problems = strange === 0 ? [] : [`${SUMS} has ${strange} lines that are none of it`]
  for (const [path, sum] of sums) {
    const file = there.get(path)
    if (file === undefined) problems.push(`${path} is missing`)
    else if (file.sha256 !== sum) problems.push(`${path} has other bytes than ${SUMS} says`)
  }
  for (const { path } of files)
    if (!unsummed.has(path) && !sums.has(path) && !extra.has(path)) problems.push(`${path} has no line in ${SUMS}`)
  return problems
}

/** All that must be known of a release to publish it, so that one made by an earlier version can be published too. */
const Facts = Schema.Struct({ name: Schema.String })
const Figures = Schema.Struct({ metrics: Schema.Record(Schema.String, Schema.Struct({ value: Schema.Finite })) })

const factsOf = <S extends Schema.Top & { readonly DecodingServices: never }>(
  folder: string,
  file: string,
  schema: S,
): Result.Result<S["Type"], string> =>
  fs.existsSync(join(folder, file))
    ? Result.mapError(
        Schema.decodeUnknownResult(Schema.fromJsonString(schema))(fs.readFileSync(join(folder, file), "utf8")),
        (error) => `${file}: ${error.message.replaceAll(/\s*\n\s*/g, " ")}`,
      )
    : Result.fail(`there is no ${file}`)

const unfit = (folder: string, problems: ReadonlyArray<string>, hint: string) =>
  problems.length === 0 ? Effect.void : Effect.fail(new ReleaseUnfit({ folder, problems, hint }))

const isPlatform = (cause: unknown): cause is NodeJS.ErrnoException => cause instanceof Error && "syscall" in cause

const contentOf = (name: string, folder: string, files: ReadonlyArray<ReleaseFile>): ReleaseContent => ({
  name,
  folder,
  files,
  bytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
  digest: digest(files.map(({ path, sha256 }) => [path, sha256])),
})

/** The same release with a file that was made after it was read, in place of one of that name. */
export const withFile = ({ name, folder, files }: ReleaseContent, extra: ExtraFile): ReleaseContent => {
  const others = files.filter(({ path }) => path !== extra.path)
  const all = [...others, fileOf(extra)].sort((a, b) => (a.path < b.path ? -1 : 1))
  return contentOf(name, folder, all)
}

const LOOK = "`exp verify` says all that is wrong with it"

export interface ReadOptions {
  /** Signs what is read: with the sums that are made anyway, for a release may be large. */
  readonly key?: Redacted.Redacted<KeyObject> | undefined
  /** A keyless signature will be made, or was asked for: one that lies in the folder and is not of this release is left out. */
  readonly keyless?: boolean
  /** Files made for this publication, published beside those of the folder or in their place. */
  readonly extraFiles?: ReadonlyArray<ExtraFile>
  /** Told of bytes as they are read. */
  readonly told?: (bytes: number) => void
}

/**
 * Reads a release folder and says all that speaks against publishing it. Nothing is sent.
 */
export const readRelease = Effect.fn("ReleaseFiles.read")(function* (
  folder: string,
  token: Redacted.Redacted<string>,
  { key, keyless = false, extraFiles = [], told = () => {} }: ReadOptions = {},
): Effect.fn.Return<ReleaseContent, ReleaseUnfit, FileSystem.FileSystem> {
  return yield* Effect.gen(function* () {
    if (!fs.existsSync(join(folder, SUMS)))
      yield* unfit(folder, [`there is no ${SUMS}`], "name a run, or the release folder that `exp run` printed")
    const strange: Array<string> = []
    const made = new Set([...extraFiles.map(({ path }) => path), ...(key === undefined ? [] : [ENVELOPE])])
    const own = walk(folder, strange).filter((path) => !made.has(path))
    yield* unfit(
      folder,
      [...strange, ...pathProblems([...own, ...made])],
      "take out or rename what does not belong there",
    )
    const read = yield* Effect.forEach(own, (path) => readFile(path, join(folder, path), token, told))
    const extras = extraFiles.map((one) => readText(one, token))
    const secrets = [...read, ...extras].flatMap(({ file, secret }) =>
      secret === undefined ? [] : [`${file.path} contains what looks like ${secret}`],
    )
    yield* unfit(folder, secrets, "revoke it, take it out of where it came from, and make the release again")
    const text = (path: string) => fs.readFileSync(join(folder, path), "utf8")
    const beside = [...read, ...extras].map(({ file }) => file)
    yield* unfit(folder, sumProblems(text(SUMS), beside, made), "make the release again: `exp check`, then `exp run`")

    const signed =
      key === undefined
        ? undefined
        : yield* Effect.mapError(
            signedEnvelope(folder, key, new Map(read.map(({ file }) => [file.path, file.sha256]))),
            ({ problem }) => new ReleaseUnfit({ folder, problems: [`it cannot be signed: ${problem}`], hint: LOOK }),
          )
    const envelope =
      signed ??
      extraFiles.find(({ path }) => path === ENVELOPE)?.text ??
      (own.includes(ENVELOPE) ? text(ENVELOPE) : undefined)
    const files = [...beside, ...(signed === undefined ? [] : [readText({ path: ENVELOPE, text: signed }, token).file])]
    files.sort((a, b) => (a.path < b.path ? -1 : 1))
    const statement = own.includes(STATEMENT) ? fs.readFileSync(join(folder, STATEMENT)) : undefined
    const sums = new Map(files.map((file) => [file.path, file.sha256]))
    if (envelope !== undefined)
      yield* unfit(
        folder,
        yield* envelopeProblems(envelope, statement, sums),
        `\`exp verify\` says more; without ${ENVELOPE}, \`exp publish --key\` signs it anew`,
      )
    const bundle = files.find(({ path }) => path === BUNDLE)?.content
    if (bundle !== undefined) {
      const bytes = "text" in bundle ? Buffer.from(bundle.text) : fs.readFileSync(bundle.full)
      const found = yield* bundleProblems(bytes, statement, sums)
      if (keyless && found.length > 0)
        files.splice(
          files.findIndex(({ path }) => path === BUNDLE),
          1,
        )
      else yield* unfit(folder, found, `\`exp verify\` says more; \`exp publish --keyless\` signs it anew`)
    }

    const facts = factsOf(folder, "release.json", Facts)
    const benchmark = factsOf(folder, "benchmark_metrics.json", Figures)
    const holdout = factsOf(folder, "holdout.json", Figures)
    if (Result.isFailure(facts) || Result.isFailure(benchmark) || Result.isFailure(holdout)) {
      const figures: ReadonlyArray<Result.Result<unknown, string>> = [facts, benchmark, holdout]
      const problems = figures.flatMap((one) => (Result.isFailure(one) ? [one.failure] : []))
      return yield* new ReleaseUnfit({ folder, problems, hint: "make the release again with `exp run`" })
    }
    const published = {
      metrics: new Map([
        ["benchmark_metrics.json", benchmark.success.metrics],
        ["holdout.json", holdout.success.metrics],
      ]),
      files: new Set(files.map(({ path }) => path)),
    }
    const evaluations = files.filter(({ path }) => path.startsWith(".eval_results/"))
    const problems = yield* Effect.promise(async () => [
      ...(await cardProblems(text("README.md"), published)),
      ...(await Promise.all(evaluations.map(({ path }) => evaluationProblems(path, text(path))))).flat(),
    ])
    yield* unfit(folder, problems, "the card is made from the experiment's parameters: change them and run again")
    return contentOf(facts.success.name, folder, files)
  }).pipe(
    Effect.catchDefect((cause) =>
      isPlatform(cause)
        ? Effect.fail(new ReleaseUnfit({ folder, problems: [cause.message], hint: "see that the folder can be read" }))
        : Effect.die(cause),
    ),
  )
})
