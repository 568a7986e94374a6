/**
 * What lies in a release folder, looked at without following a link: files, what is no plain file, and what is no part of a release
 * but of the way it came here.
 *
 * | added                       | by                                                                       |
 * |-----------------------------|--------------------------------------------------------------------------|
 * | `.gitattributes`            | the Hub, in every repository                                              |
 * | `.gitignore`                | whoever keeps the repository, or git tools                                |
 * | `.cache/huggingface/…`      | `hf download --local-dir` and `snapshot_download(local_dir=…)`            |
 * | `.huggingface/…`            | older versions of the same                                                |
 * | `.git/…`                    | `git clone`                                                               |
 *
 * In the Hub's own cache (`models--…/snapshots/<revision>`) every file is a link to `../../blobs/<digest>`; these links are read as
 * the files they stand for, and no other link is.
 */
import { lstatSync, readdirSync, realpathSync, statSync } from "node:fs"
import { basename, dirname, join, relative } from "node:path"
import { byCodeUnit } from "../model/ByCodeUnit.ts"

export interface Entry {
  readonly path: string
  readonly bytes: number
}

export interface Listing {
  readonly folder: string
  /** Sorted by path, `/` between names. */
  readonly files: ReadonlyArray<Entry>
  /** Neither files nor folders, with what they are. */
  readonly strange: ReadonlyArray<{ readonly path: string; readonly what: string }>
  /** Files that the way here added, as they are named to people: whole folders by one name. */
  readonly added: ReadonlyArray<string>
}

const ADDED = [".gitattributes", ".gitignore", ".cache/huggingface", ".huggingface", ".git"]

const addedAs = (path: string): string | undefined => ADDED.find((name) => path === name || path.startsWith(`${name}/`))

/** Deeper than this is no release. */
const DEEPEST = 16

/** The folder that links of the Hub's cache may lead into, if the folder is one of its snapshots. */
const blobsOf = (folder: string): string | undefined => {
  const real = realpathSync(folder)
  const snapshots = dirname(real)
  const repository = dirname(snapshots)
  return basename(snapshots) === "snapshots" && /^models--/.test(basename(repository))
    ? join(repository, "blobs")
    : undefined
}

/** Throws what the file system throws. */
export const listRelease = (folder: string): Listing => {
  const files: Array<Entry> = []
  const strange: Array<{ path: string; what: string }> = []
  const added = new Set<string>()
  const blobs = blobsOf(folder)
  const isBlob = (full: string): boolean => {
    if (blobs === undefined) return false
    try {
      const inside = relative(blobs, realpathSync(full))
      return /^[0-9a-f]{40,64}$/.test(inside) && statSync(full).isFile()
    } catch {
      return false
    }
  }
  const walk = (below: string, depth: number): void => {
    for (const entry of readdirSync(join(folder, below), { withFileTypes: true })) {
      const path = below === "" ? entry.name : `${below}/${entry.name}`
      const full = join(folder, path)
      const name = addedAs(path)
      if (name !== undefined && !entry.isSymbolicLink()) added.add(name)
      else if (entry.isDirectory()) {
        if (depth >= DEEPEST) strange.push({ path, what: "a folder too deep for a release" })
        else if (!ADDED.some((one) => one.startsWith(`${path}/`)) && readdirSync(full).length === 0)
          strange.push({ path, what: "an empty folder" })
        else walk(path, depth + 1)
      } else if (entry.isFile()) files.push({ path, bytes: lstatSync(full).size })
      else if (entry.isSymbolicLink() && isBlob(full)) files.push({ path, bytes: statSync(full).size })
      else strange.push({ path, what: entry.isSymbolicLink() ? "a symbolic link" : "no plain file" })
    }
  }
  walk("", 0)
  files.sort((a, b) => byCodeUnit(a.path, b.path))
  strange.sort((a, b) => byCodeUnit(a.path, b.path))
  return { folder, files, strange, added: [...added].sort() }
}
