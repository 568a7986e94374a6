/**
 * The store: finished work, by what it was made from.
 *
 *     <root>/<kind>-<key16>/          an artifact: its files and `manifest.json`; whole or absent
 *     <root>/.tmp/<kind>-<key16>/     `out/` while it is made, `scratch/` with resume points, `draft.json`: what it will be
 *     <root>/.tmp/.spare-<pid>-…/     an empty workplace that waits for the next step of that process
 *     <root>/.lock/<kind>-<key16>     see Lock.ts
 *     <root>/.stat/<kind>-<key16>.json  size, times and inode of each file as seen when its bytes were last hashed
 *     <root>/.damaged/                what was found damaged, moved out of the way
 *
 * An artifact is renamed into place when all its files, its folders and its manifest are on disk, unless it was made in an instant:
 * such ones are written out together, when a second of work is in them (`Unsynced.ts`). Once it is in place, it counts: a note that
 * cannot be written or a workplace that cannot be cleaned takes nothing from it. What is only handed on is compared with the noted
 * stat, and nothing is noted before it is on disk; before a step reads an input, the input's bytes are hashed, so no step runs on
 * rot. The manifest answers for the files and its own digest for the manifest, so there is no byte that nothing vouches for.
 *
 * Looking never moves anything: what is damaged counts as absent, its noted stat is forgotten so that the next look hashes again,
 * and only its maker, alone under the lock, moves it aside.
 */
import * as fs from "node:fs"
import { basename, dirname, join } from "node:path"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import { canonicalJson } from "../model/Digest.ts"
import { isPlatform, refused, StoreFailed } from "./Failed.ts"
import { failpoint, operation } from "./Failpoint.ts"
import { hashFile, makeFolder, remove, rename, replace, sync, write } from "./Files.ts"
import { withLock } from "./Lock.ts"
import { artifactName, type FileRecord, type Manifest, seal, unseal } from "./Manifest.ts"
import { type Stat, Unsynced } from "./Unsynced.ts"

export { StoreFailed }

export class ArtifactDamaged extends Schema.TaggedError<ArtifactDamaged>()("ArtifactDamaged", {
  artifact: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `artifact ${this.artifact} is damaged: ${this.problem}\n  hint: \`exp run\` the experiment that made it: it is moved aside and made anew`
  }
}

/** Where an artifact is being made. */
export interface Workplace {
  readonly out: string
  readonly scratch: string
}

export type ManifestDraft = Omit<Manifest, "files" | "format" | "chosen">

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

/** The folders that a path lies in, below the one that it is relative to. */
const foldersOf = (path: string): ReadonlyArray<string> =>
  path
    .split("/")
    .slice(0, -1)
    .map((_, index, parts) => parts.slice(0, index + 1).join("/"))

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

/** What took this long is on disk before it is in place; what did not is sooner made again than waited for. */
const DEAR_SECONDS = 0.5

/** Turns failures of the file system into typed errors, and leaves everything else as it is. */
const guarded = <A, E, R>(path: string, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E | StoreFailed, R> =>
  Effect.catchDefect(effect, (cause) =>
    isPlatform(cause)
      ? Effect.fail(refused(path, cause))
      : cause instanceof StoreFailed
        ? Effect.fail(cause)
        : Effect.die(cause),
  )

const textOf = (path: string): string | undefined => (fs.existsSync(path) ? fs.readFileSync(path, "utf8") : undefined)

/** What is only there to be quicker or tidier: when the system refuses it, nothing is lost. */
const helpful = (use: () => void): void => {
  try {
    use()
  } catch (cause) {
    if (!isPlatform(cause)) throw cause
  }
}

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
    /** Has on disk all that was made here, and noted that it is. */
    readonly settle: Effect.Effect<void, StoreFailed>
  }
>()("exp/store/Store") {
  static readonly layer = (root: string) =>
    Layer.effect(
      Store,
      Effect.map(
        Effect.acquireRelease(
          Effect.sync(() => make(root)),
          ({ settle, tidy }) => Effect.andThen(Effect.ignore(settle), Effect.sync(tidy)),
        ),
        ({ tidy: _, ...store }) => store,
      ),
    )
}

const make = (root: string): Store["Service"] & { readonly tidy: () => void } => {
  const verified = new Set<string>()
  const pathOf = (artifact: string) => join(root, artifact)
  const unsynced = new Unsynced(root)

  /** Manifests as they were read or written here, and the stat they had: one object for everybody who asks. */
  const seen = new Map<string, { readonly manifest: Manifest; readonly stat: string }>()

  /** In one string: there may be a hundred thousand of them. */
  const manifestStat = (path: string): string | undefined => {
    const stat = fs.statSync(path, { bigint: true, throwIfNoEntry: false })
    return stat && `${stat.size} ${stat.mtimeNs} ${stat.ctimeNs} ${stat.ino}`
  }

  const readManifest = (artifact: string): Result.Result<Manifest, string> | undefined => {
    const path = join(pathOf(artifact), "manifest.json")
    const stat = manifestStat(path)
    if (stat === undefined)
      return fs.existsSync(pathOf(artifact)) ? Result.fail("`manifest.json` is missing") : undefined
    const before = seen.get(artifact)
    if (before?.stat === stat) return Result.succeed(before.manifest)
    const text = fs.readFileSync(path, "utf8")
    return Result.flatMap(unseal(text), (manifest) => {
      if (manifest.artifact !== artifact || artifact !== artifactName(manifest.kind, manifest.key))
        return Result.fail("`manifest.json` belongs to another artifact")
      seen.set(artifact, { manifest, stat })
      return Result.succeed(manifest)
    })
  }

  const statsOf = (artifact: string, files: ReadonlyArray<string>): Readonly<Record<string, Stat>> =>
    Object.fromEntries(["manifest.json", ...files].map((path) => [path, statOf(join(pathOf(artifact), path))]))

  const same = (a: Stat | undefined, b: Stat): boolean =>
    a !== undefined && a.bytes === b.bytes && a.mtime === b.mtime && a.ctime === b.ctime && a.inode === b.inode

  /** The first thing wrong with an artifact's files, or nothing. `trustStat`: an unchanged stat stands for unchanged bytes. */
  const inspect = (manifest: Manifest, trustStat: boolean): Effect.Effect<string | undefined> =>
    Effect.gen(function* () {
      const { artifact } = manifest
      const folder = pathOf(artifact)
      const noted = unsynced.statsOf(artifact)
      const found = filesOf(folder)
      if (Result.isFailure(found)) return found.failure
      const present = found.success.filter((path) => path !== "manifest.json")
      const listed = manifest.files.map((file) => file.path)
      const missing = listed.find((path) => !present.includes(path))
      if (missing !== undefined) return `\`${missing}\` is missing`
      const extra = present.find((path) => !listed.includes(path))
      if (extra !== undefined) return `\`${extra}\` does not belong to it`
      const stats = statsOf(artifact, listed)
      const asNoted = ["manifest.json", ...listed].every((path) => same(noted[path], stats[path]!))
      for (const file of manifest.files) {
        const { bytes } = stats[file.path]!
        if (bytes !== file.bytes) return `\`${file.path}\` has ${bytes} bytes, not ${file.bytes}`
        if (
          trustStat &&
          same(noted["manifest.json"], stats["manifest.json"]!) &&
          same(noted[file.path], stats[file.path]!)
        )
          continue
        if ((yield* hashFile(join(folder, file.path))).sha256 !== file.sha256)
          return `\`${file.path}\` does not have the bytes it was stored with`
      }
      // hashed as they were when the stat was taken: a file that is written to from now on has another
      if (!asNoted) unsynced.add(artifact, stats, 0)
      return undefined
    })

  /** Forgets that its bytes were ever seen whole. */
  const distrust = (artifact: string): void => {
    verified.delete(artifact)
    seen.delete(artifact)
    unsynced.forget(artifact)
  }

  const setAside = (artifact: string): void => {
    const grave = join(root, ".damaged")
    makeFolder(grave)
    for (let n = 1; ; n++) {
      const target = join(grave, `${artifact}.${n}`)
      if (fs.existsSync(target)) continue
      rename(pathOf(artifact), target)
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
        verified.add(artifact)
        return read.success
      }),
    )

  /** Renames that are on their way share one sync: who comes while one is under way waits for the next. */
  const rootTurn = Semaphore.makeUnsafe(1)
  let renames = 0
  let synced = 0
  const syncRoot = Effect.suspend(() => {
    const mine = ++renames
    return rootTurn.withPermit(
      Effect.suspend(() => {
        if (synced >= mine) return Effect.void
        const now = renames
        // the first time, the root itself may be new
        return Effect.map(sync([], synced === 0 ? [root, dirname(root)] : [root]), () => {
          synced = now
        })
      }),
    )
  })

  const commit = (
    draft: ManifestDraft,
    out: string,
    extra: Pick<Manifest, "chosen">,
    cost: { readonly seconds: number; readonly dear: boolean },
  ) =>
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
        files.push({ path, ...(yield* hashFile(join(out, path))) })
        failpoint("commit.file-hashed")
      }
      const manifest: Manifest = { format: 1, ...draft, ...extra, files }
      write(join(out, "manifest.json"), seal(manifest))
      failpoint("commit.manifest-written")
      const folders = [...new Set(paths.flatMap(foldersOf)), "."]
      const inOut = (path: string) => join(out, path)
      if (cost.dear) yield* sync([...paths, "manifest.json"].map(inOut), folders.map(inOut))
      failpoint("commit.before-rename")
      rename(out, pathOf(draft.artifact))
      failpoint("commit.renamed")
      const path = join(pathOf(draft.artifact), "manifest.json")
      const stat = manifestStat(path)
      if (stat !== undefined) seen.set(draft.artifact, { manifest, stat })
      unsynced.add(draft.artifact, statsOf(draft.artifact, paths), cost.seconds)
      failpoint("commit.before-note")
      if (cost.dear) {
        yield* syncRoot
        unsynced.note(draft.artifact)
      } else if (unsynced.due) yield* unsynced.settle
      failpoint("commit.noted")
      return manifest
    })

  /**
   * Drops a workplace in one step, so that there is never half of one. Its files may still be written to by a worker that has not
   * noticed yet that its owner died.
   */
  const drop = (place: string): void => {
    if (!fs.existsSync(place)) return
    const away = join(root, ".tmp", `.removed-${basename(place)}-${process.pid}-${process.hrtime.bigint()}`)
    rename(place, away)
    helpful(() => remove(away))
  }

  /**
   * Workplaces that were left empty, for steps that come: thousands of inodes given back and asked for again within seconds are what
   * some file systems are slowest at. Only what cannot be resumed gets one, so nothing of one step ever meets another.
   */
  const spares: Array<string> = []

  /** Takes a spare one, its draft in it before it has the name, if there is one and nobody cleaned it away. */
  const reuse = (place: string, draft: string): boolean => {
    const spare = spares.pop()
    if (spare === undefined) return false
    try {
      write(join(spare, "draft.json"), draft)
      operation("mkdir")
      fs.mkdirSync(join(spare, "out")) // not its parents: a spare that somebody cleaned away is none
      rename(spare, place)
      return true
    } catch (cause) {
      if (isPlatform(cause) && cause.code === "ENOENT") return false
      helpful(() => remove(spare))
      throw cause
    }
  }

  const spare = (place: string): void => {
    const empty = fs.readdirSync(place).length === 2 && fs.readdirSync(join(place, "scratch")).length === 0
    if (!empty) remove(place)
    else {
      const away = join(root, ".tmp", `.spare-${process.pid}-${process.hrtime.bigint()}`)
      rename(place, away)
      spares.push(away)
    }
  }

  const tidy = (): void => {
    for (const path of spares.splice(0)) helpful(() => remove(path))
  }

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
          failpoint("make.locked")
          const before = yield* find(name)
          if (before !== undefined) return { manifest: before, made: false }
          if (fs.existsSync(pathOf(name))) setAside(name)
          // without `out` it is what a commit left: resume points of work whose results are no longer beside them
          if (!options.resumable || !fs.existsSync(workplace.out)) drop(place)
          const text = canonicalJson({ ...draft, resumable: options.resumable })
          const reused = !options.resumable && reuse(place, text)
          if (!reused) {
            makeFolder(workplace.out)
            makeFolder(workplace.scratch)
          }
          failpoint("make.place-made")
          // what is resumed is known by its draft: it is never without one, nor with half of one
          if (!reused && textOf(join(place, "draft.json")) !== text)
            if (options.resumable) replace(join(place, "draft.json"), text)
            else write(join(place, "draft.json"), text)
          failpoint("make.draft-written")
          if (options.resumable) remove(join(workplace.out, "manifest.json"))
          const began = performance.now()
          const extra = yield* body(workplace)
          const seconds = (performance.now() - began) / 1000
          failpoint("make.body-done")
          const cost = { seconds, dear: options.resumable || seconds >= DEAR_SECONDS }
          const manifest = yield* Effect.uninterruptible(commit(draft, workplace.out, extra, cost))
          failpoint("make.before-clean")
          helpful(() => (options.resumable ? remove(place) : spare(place)))
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

  const settle = guarded(root, Effect.uninterruptible(unsynced.settle))

  return { root, pathOf, find, verify, make: makeArtifact, list, settle, tidy }
}
