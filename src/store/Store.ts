/**
 * The store: finished work, by what it was made from.
 *
 *     <root>/<kind>-<key16>/          an artifact: its files and `manifest.json`; whole or absent
 *     <root>/.tmp/<kind>-<key16>/     `out/` while it is made, `scratch/` with resume points, `draft.json`: what it will be
 *     <root>/.lock/<kind>-<key16>     see Lock.ts
 *     <root>/.stat/<kind>-<key16>.json  size, times and inode of each file as seen when its bytes were last hashed
 *     <root>/.damaged/                what was found damaged, moved out of the way
 *
 * An artifact is renamed into place when all its files are on disk and its manifest is written. What is only handed on is compared
 * with the noted stat; before a step reads an input, the input's bytes are hashed, so no step runs on rot. The manifest answers for
 * the files and its own digest for the manifest, so there is no byte that nothing vouches for.
 *
 * Looking never moves anything: what is damaged counts as absent, its noted stat is forgotten so that the next look hashes again,
 * and only its maker, alone under the lock, moves it aside.
 */
import { createHash } from "node:crypto"
import * as fs from "node:fs"
import { join } from "node:path"
import { Context, Effect, Layer, Result, Schema } from "effect"
import { canonicalJson } from "../model/Digest.ts"
import { withLock } from "./Lock.ts"
import { artifactName, type FileRecord, type Manifest, seal, unseal } from "./Manifest.ts"

export class StoreFailed extends Schema.TaggedError<StoreFailed>()("StoreFailed", {
  path: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `store, ${this.path}: ${this.problem}\n  hint: ${this.hint}`
  }
}

export class ArtifactDamaged extends Schema.TaggedError<ArtifactDamaged>()("ArtifactDamaged", {
  artifact: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `artifact ${this.artifact} is damaged: ${this.problem}\n  hint: \`exp run\` the experiment that made it: it is moved aside and made anew`
  }
}

interface Stat {
  readonly bytes: number
  readonly mtime: string
  readonly ctime: string
  readonly inode: string
}

/** Where an artifact is being made. */
export interface Workplace {
  readonly out: string
  readonly scratch: string
}

export type ManifestDraft = Omit<Manifest, "files" | "format" | "chosen">

const CHUNK = 1 << 20

const hashFile = (path: string): Effect.Effect<string> =>
  Effect.gen(function* () {
    const hash = createHash("sha256")
    const descriptor = fs.openSync(path, "r")
    try {
      const buffer = Buffer.allocUnsafe(CHUNK)
      for (let chunks = 1; ; chunks++) {
        const read = fs.readSync(descriptor, buffer)
        if (read === 0) break
        hash.update(buffer.subarray(0, read))
        if (chunks % 32 === 0) yield* Effect.yieldNow
      }
    } finally {
      fs.closeSync(descriptor)
    }
    return hash.digest("hex")
  })

/** Paths below a folder, sorted, `/`-separated; anything that is not a plain file or folder is refused. */
export const listFiles = (folder: string, below = ""): ReadonlyArray<string> =>
  fs
    .readdirSync(join(folder, below), { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = below === "" ? entry.name : `${below}/${entry.name}`
      if (entry.isDirectory()) return listFiles(folder, path)
      if (!entry.isFile()) throw new Error(`${path} is neither a file nor a folder`)
      return [path]
    })

const filesOf = (folder: string): Result.Result<ReadonlyArray<string>, string> =>
  Result.try({
    try: () => listFiles(folder),
    catch: (cause) => {
      if (isPlatform(cause)) throw cause
      return cause instanceof Error ? cause.message : String(cause)
    },
  })

const statOf = (path: string): Stat => {
  const stat = fs.statSync(path, { bigint: true })
  return { bytes: Number(stat.size), mtime: `${stat.mtimeNs}`, ctime: `${stat.ctimeNs}`, inode: `${stat.ino}` }
}

const sync = (path: string): void => {
  const descriptor = fs.openSync(path, "r")
  try {
    fs.fsyncSync(descriptor)
  } finally {
    fs.closeSync(descriptor)
  }
}

/** A failure of the system, not of the code: Node's own complaints have a code too, but no system call. */
const isPlatform = (cause: unknown): cause is NodeJS.ErrnoException =>
  cause instanceof Error && "code" in cause && ("syscall" in cause || cause.code === "ERR_SQLITE_ERROR")

const hintFor = (code: string | undefined): string => {
  switch (code) {
    case "ENOSPC":
      return "the disk is full: free some room and run again, nothing is lost"
    case "EACCES":
    case "EPERM":
    case "EROFS":
      return "make the runs folder writable, or choose another with `--runs`"
    case "EMFILE":
      return "too many files are open: raise `ulimit -n`"
    default:
      return "look at the path, then run again: nothing half-made was kept"
  }
}

/** Turns failures of the file system into typed errors, and leaves everything else as it is. */
const guarded = <A, E, R>(path: string, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | StoreFailed, R> =>
  Effect.catchDefect(effect, (cause) =>
    isPlatform(cause)
      ? Effect.fail(new StoreFailed({ path, problem: cause.message, hint: hintFor(cause.code) }))
      : Effect.die(cause),
  )

export class Store extends Context.Service<
  Store,
  {
    readonly root: string
    readonly pathOf: (artifact: string) => string
    /** A stored artifact, checked by stat; one that is damaged counts as absent. */
    readonly find: (
      artifact: string,
      onDamage?: (problem: string) => void,
    ) => Effect.Effect<Manifest | undefined, StoreFailed>
    /** Hashes every byte of an artifact, once per process unless a file changed since. */
    readonly verify: (artifact: string) => Effect.Effect<Manifest, StoreFailed | ArtifactDamaged>
    /** Makes an artifact, alone: `body` fills `out`; then it is committed whole. Another process's result is taken as it is. */
    readonly make: <E, R>(
      draft: ManifestDraft,
      options: { readonly resumable: boolean; readonly onWait: () => void },
      body: (workplace: Workplace) => Effect.Effect<Pick<Manifest, "chosen">, E, R>,
    ) => Effect.Effect<{ readonly manifest: Manifest; readonly made: boolean }, E | StoreFailed, R>
    /** Manifests of all artifacts of a kind, by name. */
    readonly list: (kind?: string) => Effect.Effect<ReadonlyArray<Manifest>, StoreFailed>
  }
>()("exp/store/Store") {
  static readonly layer = (root: string) => Layer.succeed(Store, make(root))
}

const make = (root: string): Store["Service"] => {
  const verified = new Set<string>()
  const pathOf = (artifact: string) => join(root, artifact)
  const statPath = (artifact: string) => join(root, ".stat", `${artifact}.json`)

  const readManifest = (artifact: string): Result.Result<Manifest, string> | undefined => {
    let text: string
    try {
      text = fs.readFileSync(join(pathOf(artifact), "manifest.json"), "utf8")
    } catch (cause) {
      if (isPlatform(cause) && cause.code === "ENOENT")
        return fs.existsSync(pathOf(artifact)) ? Result.fail("`manifest.json` is missing") : undefined
      throw cause
    }
    return Result.flatMap(unseal(text), (manifest) =>
      manifest.artifact === artifact && artifact === artifactName(manifest.kind, manifest.key)
        ? Result.succeed(manifest)
        : Result.fail("`manifest.json` belongs to another artifact"),
    )
  }

  const readStats = (artifact: string): Readonly<Record<string, Stat>> => {
    try {
      return JSON.parse(fs.readFileSync(statPath(artifact), "utf8"))
    } catch {
      return {} // absent or torn: the bytes are hashed instead
    }
  }

  const noteStats = (artifact: string, files: ReadonlyArray<string>): void => {
    const stats = Object.fromEntries(
      ["manifest.json", ...files].map((path) => [path, statOf(join(pathOf(artifact), path))]),
    )
    fs.mkdirSync(join(root, ".stat"), { recursive: true })
    const temporary = `${statPath(artifact)}.${process.pid}`
    fs.writeFileSync(temporary, JSON.stringify(stats))
    fs.renameSync(temporary, statPath(artifact))
  }

  const same = (a: Stat | undefined, b: Stat): boolean =>
    a !== undefined && a.bytes === b.bytes && a.mtime === b.mtime && a.ctime === b.ctime && a.inode === b.inode

  /** The first thing wrong with an artifact's files, or nothing. `trustStat`: an unchanged stat stands for unchanged bytes. */
  const inspect = (manifest: Manifest, trustStat: boolean): Effect.Effect<string | undefined> =>
    Effect.gen(function* () {
      const folder = pathOf(manifest.artifact)
      const stats = readStats(manifest.artifact)
      const found = filesOf(folder)
      if (Result.isFailure(found)) return found.failure
      const present = found.success.filter((path) => path !== "manifest.json")
      const listed = manifest.files.map((file) => file.path)
      const missing = listed.find((path) => !present.includes(path))
      if (missing !== undefined) return `\`${missing}\` is missing`
      const extra = present.find((path) => !listed.includes(path))
      if (extra !== undefined) return `\`${extra}\` does not belong to it`
      if (!same(stats["manifest.json"], statOf(join(folder, "manifest.json")))) trustStat = false
      for (const file of manifest.files) {
        const path = join(folder, file.path)
        const stat = statOf(path)
        if (stat.bytes !== file.bytes) return `\`${file.path}\` has ${stat.bytes} bytes, not ${file.bytes}`
        if (trustStat && same(stats[file.path], stat)) continue
        if ((yield* hashFile(path)) !== file.sha256)
          return `\`${file.path}\` does not have the bytes it was stored with`
      }
      return undefined
    })

  /** Forgets that its bytes were ever seen whole. */
  const distrust = (artifact: string): void => {
    verified.delete(artifact)
    fs.rmSync(statPath(artifact), { force: true })
  }

  const setAside = (artifact: string): void => {
    const grave = join(root, ".damaged")
    fs.mkdirSync(grave, { recursive: true })
    for (let n = 1; ; n++) {
      const target = join(grave, `${artifact}.${n}`)
      if (fs.existsSync(target)) continue
      fs.renameSync(pathOf(artifact), target)
      return
    }
  }

  const find: Store["Service"]["find"] = (artifact, onDamage) =>
    guarded(
      pathOf(artifact),
      Effect.gen(function* () {
        const read = readManifest(artifact)
        if (read === undefined) return undefined
        const problem = Result.isFailure(read) ? read.failure : yield* inspect(read.success, true)
        if (problem === undefined && Result.isSuccess(read)) return read.success
        onDamage?.(problem!)
        distrust(artifact)
        return undefined
      }),
    )

  const verify: Store["Service"]["verify"] = (artifact) =>
    guarded(
      pathOf(artifact),
      Effect.gen(function* () {
        const read = readManifest(artifact)
        if (read === undefined) return yield* new ArtifactDamaged({ artifact, problem: "it is not in the store" })
        if (Result.isFailure(read)) {
          distrust(artifact)
          return yield* new ArtifactDamaged({ artifact, problem: read.failure })
        }
        const trustStat = verified.has(artifact)
        const problem = yield* inspect(read.success, trustStat)
        if (problem !== undefined) {
          distrust(artifact)
          return yield* new ArtifactDamaged({ artifact, problem })
        }
        if (!trustStat) {
          noteStats(
            artifact,
            read.success.files.map((file) => file.path),
          )
          verified.add(artifact)
        }
        return read.success
      }),
    )

  const commit = (draft: ManifestDraft, out: string, extra: Pick<Manifest, "chosen">) =>
    Effect.gen(function* () {
      const found = filesOf(out)
      if (Result.isFailure(found))
        return yield* new StoreFailed({
          path: out,
          problem: found.failure,
          hint: "an artifact holds plain files and folders alone: the step that made it is at fault",
        })
      const paths = found.success
      const files: Array<FileRecord> = []
      for (const path of paths) {
        const full = join(out, path)
        files.push({ path, bytes: fs.statSync(full).size, sha256: yield* hashFile(full) })
        sync(full)
      }
      const manifest: Manifest = { format: 1, ...draft, ...extra, files }
      fs.writeFileSync(join(out, "manifest.json"), seal(manifest), { flush: true })
      fs.renameSync(out, pathOf(draft.artifact))
      sync(root)
      noteStats(draft.artifact, paths)
      return manifest
    })

  const makeArtifact: Store["Service"]["make"] = (draft, options, body) => {
    const name = draft.artifact
    const place = join(root, ".tmp", name)
    const workplace: Workplace = { out: join(place, "out"), scratch: join(place, "scratch") }
    return guarded(
      pathOf(name),
      withLock(
        join(root, ".lock", name),
        options.onWait,
        Effect.gen(function* () {
          const before = yield* find(name)
          if (before !== undefined) return { manifest: before, made: false }
          if (fs.existsSync(pathOf(name))) setAside(name)
          if (!options.resumable) fs.rmSync(place, { recursive: true, force: true })
          fs.mkdirSync(workplace.out, { recursive: true })
          fs.mkdirSync(workplace.scratch, { recursive: true })
          fs.writeFileSync(join(place, "draft.json"), canonicalJson({ ...draft, resumable: options.resumable }))
          fs.rmSync(join(workplace.out, "manifest.json"), { force: true })
          const extra = yield* body(workplace)
          const manifest = yield* Effect.uninterruptible(commit(draft, workplace.out, extra))
          fs.rmSync(place, { recursive: true, force: true })
          return { manifest, made: true }
        }),
      ),
    )
  }

  const list: Store["Service"]["list"] = (kind) =>
    guarded(
      root,
      Effect.sync(() => {
        if (!fs.existsSync(root)) return []
        return fs
          .readdirSync(root, { withFileTypes: true })
          .flatMap((entry) => (entry.isDirectory() ? [entry.name] : []))
          .filter((name) => !name.startsWith(".") && (kind === undefined || name.startsWith(`${kind}-`)))
          .sort()
          .flatMap((name) => {
            const read = readManifest(name)
            return read !== undefined && Result.isSuccess(read) ? [read.success] : []
          })
      }),
    )

  return { root, pathOf, find, verify, make: makeArtifact, list }
}
