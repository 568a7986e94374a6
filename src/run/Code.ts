/**
 * What code made a result: a digest of the source tree and the lock file. It is recorded beside results and never compared for
 * reuse: that is what a step's version is for.
 */
import { createHash } from "node:crypto"
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { listFiles } from "../store/Store.ts"

/** The folder that `package.json` lies in. */
export const packageRoot: string = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "")

let remembered: string | undefined

/** Of every file its path, its length and its bytes: no two trees are spelled alike. */
export const codeDigest = (): string => {
  if (remembered !== undefined) return remembered
  const sum = createHash("sha256")
  const add = (path: string): void => {
    const bytes = readFileSync(join(packageRoot, path))
    sum.update(`${path} ${bytes.length}\n`).update(bytes)
  }
  for (const path of listFiles(join(packageRoot, "src"))) add(`src/${path}`)
  if (existsSync(join(packageRoot, "package-lock.json"))) add("package-lock.json")
  remembered = sum.digest("hex")
  return remembered
}
