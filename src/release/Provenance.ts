/**
 * Where, when and by what code a release was made. All of it is volatile: it goes into `provenance.json` and nowhere else, so
 * that every other file of two runs of one experiment is byte-equal. Environment variables are never read here; what git
 * hands over (addresses, differences, names) passes through `redact` first.
 *
 * `provenance.json` is an in-toto Statement v1 (github.com/in-toto/attestation, spec/v1) with the SLSA provenance v1 predicate
 * (slsa.dev/spec/v1.0/provenance): its subjects are all other files but `SHA256SUMS` and the signature over the statement itself.
 * What those have no field for is in the extension field `exp_run`. Readers of the standards skip what they do not know; we wrote
 * this file, so here a field that is not of it is a mistake.
 */
import { createHash } from "node:crypto"
import { cpus, totalmem } from "node:os"
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Schema from "effect/Schema"
import type { SourceInventory } from "../model/Corpus.ts"

export const GitState = Schema.Struct({
  commit: Schema.String,
  branch: Schema.NullOr(Schema.String),
  /** By remote name; credentials taken out. */
  remotes: Schema.Record(Schema.String, Schema.String),
  dirty: Schema.Boolean,
  /** What the working tree has beside the commit; secrets redacted; cut at `DIFF_CHARACTERS`. */
  diff: Schema.String,
  /** Names only, never contents. */
  untracked: Schema.Array(Schema.String),
})
export type GitState = typeof GitState.Type

export const Provenance = Schema.Struct({
  volatile: Schema.Literal(true),
  started: Schema.String,
  finished: Schema.String,
  git: Schema.NullOr(GitState),
  /** Why `git` is null. */
  gitAbsent: Schema.NullOr(Schema.String),
  packageLockSha256: Schema.NullOr(Schema.String),
  node: Schema.String,
  platform: Schema.String,
  cpu: Schema.String,
  cores: Schema.Int,
  memoryBytes: Schema.Int,
  engine: Schema.Struct({
    name: Schema.String,
    numerics: Schema.Int,
    precision: Schema.String,
    version: Schema.String,
    backend: Schema.String,
    /** Threads, and speed in matrix products, as measured where it was made. */
    workers: Schema.optionalKey(Schema.Int),
    matmulGflops: Schema.optionalKey(Schema.Finite),
  }),
})
export type Provenance = typeof Provenance.Type

export const STATEMENT = "provenance.json"
export const BUILD_TYPE = "urn:exp:release:1"

/** A URI as RFC 3986 begins one: a scheme, and something after it. */
const Uri = Schema.String.check(
  Schema.isPattern(/^[A-Za-z][A-Za-z0-9+.-]*:[^\s<>"{}|\\^`]+$/, { message: "expected a URI" }),
)
/** RFC 3339, in UTC. */
const Timestamp = Schema.String.check(
  Schema.isPattern(/^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(?:\.\d+)?Z$/, {
    message: "expected a time such as 2026-11-21T10:00:00Z",
  }),
)
const Hex = Schema.String.check(Schema.isPattern(/^(?:[0-9a-f]{2})+$/, { message: "expected lower-case hex digits" }))
const Sha256 = Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/, { message: "expected 64 hex digits" }))
const Name = Schema.String.check(Schema.isMinLength(1))

/** What the standard says that one thing is described by; `uri`, `digest` or `content` must be there. */
export const ResourceDescriptor = Schema.Struct({
  name: Schema.optionalKey(Name),
  uri: Schema.optionalKey(Uri),
  digest: Schema.optionalKey(Schema.Record(Name, Hex)),
  content: Schema.optionalKey(Schema.String),
  downloadLocation: Schema.optionalKey(Uri),
  mediaType: Schema.optionalKey(Schema.String),
  annotations: Schema.optionalKey(Schema.Record(Schema.String, Schema.Json)),
}).check(
  Schema.makeFilter(({ uri, digest, content }) =>
    uri === undefined && content === undefined && Object.keys(digest ?? {}).length === 0
      ? "expected `uri`, `digest` or `content`"
      : undefined,
  ),
)

export const Statement = Schema.Struct({
  _type: Schema.Literal("https://in-toto.io/Statement/v1"),
  subject: Schema.NonEmptyArray(Schema.Struct({ name: Name, digest: Schema.Struct({ sha256: Sha256 }) })).check(
    Schema.makeFilter((subjects) => {
      const seen = new Set<string>()
      const twice = subjects.find(({ name }) => seen.size === seen.add(name).size)
      return twice === undefined ? undefined : `${JSON.stringify(twice.name)} is named twice`
    }),
  ),
  predicateType: Schema.Literal("https://slsa.dev/provenance/v1"),
  predicate: Schema.Struct({
    buildDefinition: Schema.Struct({
      buildType: Uri,
      externalParameters: Schema.Record(Schema.String, Schema.Json),
      internalParameters: Schema.optionalKey(Schema.Record(Schema.String, Schema.Json)),
      resolvedDependencies: Schema.optionalKey(Schema.Array(ResourceDescriptor)),
    }),
    runDetails: Schema.Struct({
      builder: Schema.Struct({
        id: Uri,
        version: Schema.optionalKey(Schema.Record(Schema.String, Schema.String)),
        builderDependencies: Schema.optionalKey(Schema.Array(ResourceDescriptor)),
      }),
      metadata: Schema.optionalKey(
        Schema.Struct({
          invocationId: Schema.optionalKey(Schema.String),
          startedOn: Schema.optionalKey(Timestamp),
          finishedOn: Schema.optionalKey(Timestamp),
        }),
      ),
      byproducts: Schema.optionalKey(Schema.Array(ResourceDescriptor)),
    }),
    exp_run: Provenance,
  }),
})
export type Statement = typeof Statement.Type

/** Fails on anything the schema does not name. */
export const decodeStatement = Schema.decodeUnknownEffect(Schema.fromJsonString(Statement), {
  errors: "all",
  onExcessProperty: "error",
})

export interface StatementParts {
  /** Name and sha256 of every file the statement answers for. */
  readonly subjects: ReadonlyArray<{ readonly name: string; readonly sha256: string }>
  readonly experiment: string
  /** sha256 of `experiment.ts`. */
  readonly experimentSha256: string
  /** As `release.json` has them. */
  readonly parameters: { readonly [name: string]: string | number | boolean }
  readonly keys: { readonly [step: string]: string }
  /** Files that texts were read from, and the data sets that those came from. */
  readonly texts: ReadonlyArray<Pick<SourceInventory, "source" | "sha256" | "dataset">>
  readonly provenance: Provenance
}

/** `git@host:path` is a short form of `ssh://git@host/path`; a path of this machine says nothing to anybody. */
const gitUri = (remote: string): string | undefined => {
  if (/^(?:https?|ssh|git):\/\//i.test(remote)) return `git+${remote}`
  const [, host, path] = /^([A-Za-z0-9.-]+\.[A-Za-z0-9-]+):(?!\/\/)\/?(\S+)$/.exec(remote) ?? []
  return host === undefined ? undefined : `git+ssh://git@${host}/${path}`
}

/** The statement over a release: made of the same parts, it has the same bytes. */
export const statementOf = (parts: StatementParts): Statement => {
  const { provenance } = parts
  const { git, engine } = provenance
  const remote = git === null ? undefined : (git.remotes["origin"] ?? Object.values(git.remotes)[0])
  const uri = remote === undefined ? undefined : gitUri(remote)
  return {
    _type: "https://in-toto.io/Statement/v1",
    subject: parts.subjects.map(({ name, sha256 }) => ({
      name,
      digest: { sha256 },
    })) as unknown as Statement["subject"],
    predicateType: "https://slsa.dev/provenance/v1",
    predicate: {
      buildDefinition: {
        buildType: BUILD_TYPE,
        externalParameters: {
          experiment: parts.experiment,
          file: "experiment.ts",
          sha256: parts.experimentSha256,
          parameters: parts.parameters,
        },
        internalParameters: { keys: parts.keys },
        resolvedDependencies: [
          ...(git === null
            ? []
            : [{ name: "code", ...(uri !== undefined && { uri }), digest: { gitCommit: git.commit } }]),
          ...(provenance.packageLockSha256 === null
            ? []
            : [{ name: "package-lock.json", digest: { sha256: provenance.packageLockSha256 } }]),
          ...parts.texts.map(({ source, sha256 }) => ({ name: `texts/${source}`, digest: { sha256 } })),
          ...parts.texts.flatMap(({ source, dataset }) =>
            dataset === undefined
              ? []
              : [
                  {
                    name: `datasets/${source}`,
                    uri: `git+https://huggingface.co/datasets/${dataset.repository}`,
                    digest: { gitCommit: dataset.commit },
                  },
                ],
          ),
        ],
      },
      runDetails: {
        builder: { id: `urn:exp:engine:${engine.name}`, version: { exp: engine.version } },
        metadata: { startedOn: provenance.started, finishedOn: provenance.finished },
      },
      exp_run: provenance,
    },
  }
}

const DIFF_CHARACTERS = 400_000

const SECRETS: ReadonlyArray<readonly [what: string, pattern: RegExp]> = [
  ["a Hugging Face token", /\b(?:hf|api_org)_[A-Za-z0-9]{16,}/g],
  ["a GitHub token", /\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{20,})/g],
  ["a GitLab token", /\bglpat-[A-Za-z0-9_-]{16,}/g],
  ["an npm token", /\bnpm_[A-Za-z0-9]{30,}/g],
  ["an AWS key", /\b(?:AKIA|ASIA)[A-Z0-9]{16}\b/g],
  ["a Slack token", /\bxox[abeprs]-[A-Za-z0-9-]{10,}/g],
  ["an API key", /\bsk-[A-Za-z0-9_-]{20,}/g],
  ["a JSON web token", /\beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]*/g],
  ["a private key", /-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)/g],
]

/** What kind of secret a text holds, by the unmistakable forms alone; null when none. */
export const secretIn = (text: string): string | null =>
  SECRETS.find(([, pattern]) => new RegExp(pattern.source, pattern.flags).test(text))?.[0] ?? null

/** Letters of both cases and digits in one long word: a token of a kind nobody told us of. Digests are of one case. */
const looksRandom = (word: string): boolean =>
  /[a-z]/.test(word) && /[A-Z]/.test(word) && (word.match(/\d/g)?.length ?? 0) >= 3

/** Takes out tokens of an unmistakable form and credentials in addresses, and nothing else. */
export const withoutTokens = (text: string): string => {
  let clean = text.replace(/([a-z][a-z0-9+.-]*:\/\/)[^\s/@]+@/gi, "$1<redacted>@")
  for (const [, pattern] of SECRETS) clean = clean.replace(pattern, "<redacted>")
  return clean
}

/** Takes everything that may be a secret out of a text, rather too much than too little. */
export const redact = (text: string): string =>
  withoutTokens(text)
    .replace(/\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}/gi, "$1 <redacted>")
    .replace(
      /([A-Za-z0-9_.-]*(?:token|secret|passw(?:or)?d|api[_-]?key|access[_-]?key|credential)[A-Za-z0-9_.-]*["']?\s*[:=]\s*)(["']?)[^\s"',;]{6,}\2/gi,
      "$1$2<redacted>$2",
    )
    .replace(/[A-Za-z0-9_+/=-]{32,}/g, (word) => (looksRandom(word) ? "<redacted>" : word))

/** Files that exist to hold secrets: their differences are left out whole. */
const SECRET_FILE =
  /(?:^|\/)(?:\.env[^/]*|\.npmrc|\.netrc|id_[a-z0-9]+|[^/]*\.(?:pem|key|p12|pfx|keystore)|[^/]*(?:credential|secret|token)[^/]*)$/i

/** `git diff` text without the secret files, and with the rest redacted. */
export const redactDiff = (diff: string): string => {
  const parts = diff.split(/^(?=diff --git )/m).map((part) => {
    const names = /^diff --git "?a\/(.*?)"? "?b\/(.*?)"?$/m.exec(part)
    return names !== null && (SECRET_FILE.test(names[1]!) || SECRET_FILE.test(names[2]!))
      ? `diff --git a/${names[1]} b/${names[2]}\n<left out: a file of this name may hold secrets>\n`
      : part
  })
  const clean = redact(parts.join(""))
  return clean.length > DIFF_CHARACTERS
    ? `${clean.slice(0, DIFF_CHARACTERS)}\n<${clean.length - DIFF_CHARACTERS} more characters left out>\n`
    : clean
}

/** A remote's address without user, password, query and fragment; `git@host:path` keeps its meaning. */
export const redactRemote = (address: string): string => {
  const trimmed = address.trim()
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(trimmed) && URL.canParse(trimmed)) {
    const url = new URL(trimmed)
    url.username = ""
    url.password = ""
    url.search = ""
    url.hash = ""
    return redact(url.href)
  }
  return redact(trimmed.replace(/^[^@/]*@/, ""))
}

const readGit = async (repository: string): Promise<GitState> => {
  const { simpleGit } = await import("simple-git")
  const git = simpleGit({ baseDir: repository, trimmed: true })
  const ask = (...command: ReadonlyArray<string>) => git.raw([...command])
  const commit = await ask("rev-parse", "HEAD")
  const branch = await ask("rev-parse", "--abbrev-ref", "HEAD")
  // Neither an external diff tool nor a text converter of the user's configuration may run on our behalf.
  const diff = await ask("diff", "--no-ext-diff", "--no-textconv", "--no-color", "HEAD")
  const untracked = (await ask("ls-files", "--others", "--exclude-standard", "-z"))
    .split("\0")
    .filter((name) => name !== "")
  const remotes: Record<string, string> = {}
  for (const { name, refs } of await git.getRemotes(true)) remotes[name] = redactRemote(refs.fetch || refs.push || "")
  return {
    commit,
    branch: branch === "HEAD" ? null : redact(branch),
    remotes,
    dirty: diff !== "" || untracked.length > 0,
    diff: redactDiff(diff),
    untracked: untracked.map(redact).sort(),
  }
}

export interface ProvenanceRequest {
  /** Folder of the repository the code and the experiment come from. */
  readonly repository: string
  /** ISO 8601, from the caller: this module reads no clock. */
  readonly started: string
  readonly finished: string
  readonly engine: Provenance["engine"]
}

/** Of an engine's own report only what the statement has a place for. */
const engineOf = ({
  name,
  numerics,
  precision,
  version,
  backend,
  workers,
  matmulGflops,
}: Provenance["engine"]): Provenance["engine"] => ({
  name,
  numerics,
  precision,
  version,
  backend,
  ...(workers !== undefined && { workers }),
  ...(matmulGflops !== undefined && { matmulGflops }),
})

/** Never fails: what cannot be told is null, with the reason beside it. */
export const gatherProvenance = Effect.fn("Provenance.gather")(function* (
  request: ProvenanceRequest,
): Effect.fn.Return<Provenance, never, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const git = yield* Effect.tryPromise({
    try: () => readGit(request.repository),
    catch: (error) =>
      redact(error instanceof Error ? error.message : String(error))
        .trim()
        .split("\n")[0]!,
  }).pipe(
    Effect.map((state) => ({ state, absent: null })),
    Effect.catch((absent) => Effect.succeed({ state: null, absent: absent || "git did not answer" })),
  )
  const lock = yield* fs.readFile(`${request.repository}/package-lock.json`).pipe(
    Effect.map((bytes) => createHash("sha256").update(bytes).digest("hex")),
    Effect.orElseSucceed(() => null),
  )
  const processors = cpus()
  return {
    volatile: true,
    started: request.started,
    finished: request.finished,
    git: git.state,
    gitAbsent: git.absent,
    packageLockSha256: lock,
    node: process.version,
    platform: `${process.platform}-${process.arch}`,
    cpu: processors[0]?.model.trim() ?? "unknown",
    cores: processors.length,
    memoryBytes: totalmem(),
    engine: engineOf(request.engine),
  }
})
