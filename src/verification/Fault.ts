/**
 * Whose fault it is that a check cannot be done: the release's, or that of the machine that checks it. Nothing that fails here speaks
 * against a release, and nothing of a release may pass for a failure of ours.
 *
 * | ours                                                                       | known by                                        |
 * |----------------------------------------------------------------------------|-------------------------------------------------|
 * | a full disk, no memory, no more open files, no permission, a disk that fails | the code that the operating system gave        |
 * | a file that was listed and is gone, a folder of temporary files that is      | the same, and the path                         |
 * | a module that is missing or broken                                          | `BrokenInstall`, the code of Node's loader      |
 * | an engine that is not there, died, hung, or has no memory                   | `EngineFailed`, if it was asked what it can do  |
 *
 * All else that is thrown at a file is the file's. Words are never looked at: they may be a stranger's.
 */
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { EngineFailed } from "../engine/Engine.ts"
import { because } from "../model/Because.ts"

/** A part of `exp` itself does not load. */
export class BrokenInstall extends Schema.TaggedError<BrokenInstall>()("BrokenInstall", {
  problem: Schema.String,
}) {
  override get message() {
    return `a part of exp does not load: ${this.problem}\n  hint: ${INSTALL}`
  }
}

const INSTALL = "run `npm ci` again"

const wordsOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))

/** A module of ours: where it does not load, the installation is broken, and not the release. */
export const load = <A>(module: () => Promise<A>): Effect.Effect<A, BrokenInstall> =>
  Effect.tryPromise({
    try: module,
    catch: (cause) => because(new BrokenInstall({ problem: wordsOf(cause).split("\n")[0]! }), cause),
  })

const TEMPORARY = "see that the folder for temporary files (`TMPDIR`) is there and has room, then verify again"
const READABLE = "see that you may read the release and write to the folder for temporary files (`TMPDIR`)"
const MEMORY = "close other programs or take a machine with more memory, then verify again"
const FILES = "raise the limit of open files (`ulimit -n`), then verify again"
const DISK = "look at the disk: the operating system could not read or write it"

const HINTS: Readonly<Record<string, string>> = {
  ENOSPC: TEMPORARY,
  EDQUOT: TEMPORARY,
  EFBIG: TEMPORARY,
  EROFS: TEMPORARY,
  EACCES: READABLE,
  EPERM: READABLE,
  EMFILE: FILES,
  ENFILE: FILES,
  ENOMEM: MEMORY,
  EAGAIN: MEMORY,
  ERR_MEMORY_ALLOCATION_FAILED: MEMORY,
  ERR_WORKER_OUT_OF_MEMORY: MEMORY,
  ERR_WORKER_INIT_FAILED: MEMORY,
}

/** What a file that is not as it should be gives; ours only where it is none of the release. */
const OF_A_PATH = new Set(["ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG"])

const LOADER =
  /^(?:MODULE_NOT_FOUND|ERR_(?:MODULE_NOT_FOUND|DLOPEN_\w+|PACKAGE_\w+|INVALID_PACKAGE_\w+|INVALID_MODULE_\w+|UNKNOWN_FILE_EXTENSION|UNSUPPORTED_(?:DIR_IMPORT|TYPESCRIPT_SYNTAX|NODE_MODULES_TYPE_STRIPPING)|REQUIRE_\w+|UNKNOWN_BUILTIN_MODULE))$/

/** What V8 says, word by word, when it has no memory to give. */
const NO_MEMORY = ["Array buffer allocation failed", "WebAssembly.Memory(): could not allocate memory"]

export interface Folder {
  /** Where the files of the release are read. */
  readonly folder: string
  /** Whether it was there when the release was listed. */
  readonly has: (path: string) => boolean
}

/** From the thing thrown to what it came of. */
const chainOf = (cause: unknown): ReadonlyArray<object> => {
  const chain: Array<object> = []
  for (
    let at = cause;
    typeof at === "object" && at !== null && chain.length < 10;
    at = (at as { cause?: unknown }).cause
  )
    chain.push(at)
  return chain
}

/** A module that does not compile is named before the words of its error. */
const isOfAModule = (cause: object): boolean =>
  cause instanceof SyntaxError && /^(?:file|node):/.test(cause.stack ?? "")

const hintOf = (cause: object, { folder, has }: Folder): string | undefined => {
  if (cause instanceof BrokenInstall) return INSTALL
  if (cause instanceof EngineFailed) return cause.kind === "refused" ? undefined : cause.hint
  const { code, syscall, path } = cause as Readonly<Record<string, unknown>>
  if (typeof code === "string") {
    if (LOADER.test(code)) return INSTALL
    if (Object.hasOwn(HINTS, code)) return HINTS[code]
    if (OF_A_PATH.has(code)) {
      if (typeof path !== "string") return undefined
      const isInside = path === folder || path.startsWith(`${folder}/`)
      return isInside && !has(path.slice(folder.length + 1)) ? undefined : TEMPORARY
    }
    return /^E[A-Z0-9]+$/.test(code) && typeof syscall === "string" ? DISK : undefined
  }
  if (cause instanceof RangeError && NO_MEMORY.includes(cause.message)) return MEMORY
  return isOfAModule(cause) ? INSTALL : undefined
}

const nowhere: Folder = { folder: "/dev/null", has: () => false }

/** What to do about it, where it is ours; undefined where it is the release's. */
export const remedyOf = (cause: unknown, folder: Folder): string | undefined => {
  for (const one of chainOf(cause)) {
    const hint = hintOf(one, folder)
    if (hint !== undefined) return hint
  }
  return undefined
}

/** A missing file of the release counts as the release's, wherever it lies. */
const isOurs = (cause: unknown): boolean =>
  chainOf(cause).some(
    (one) => !OF_A_PATH.has(String((one as { code?: unknown }).code)) && hintOf(one, nowhere) !== undefined,
  )

/**
 * What came of looking at a file of the release: what failed there, if that is the file's. What is ours goes on as the failure it is, so
 * that nobody takes it for a finding.
 */
export const judged = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Result.Result<A, E>, E, R> =>
  Effect.flatMap(Effect.result(effect), (result) =>
    Result.isFailure(result) && isOurs(result.failure) ? Effect.fail(result.failure) : Effect.succeed(result),
  )

/** The same for what may throw too: a parser at a stranger's file. */
export const caught = <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<Result.Result<A, unknown>, unknown, R> =>
  judged(Effect.catchDefect(effect as Effect.Effect<A, unknown, R>, (defect) => Effect.fail(defect)))
