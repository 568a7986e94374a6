/**
 * What code made a result: a digest of the source tree and the lock file. It is recorded beside results and never compared for
 * reuse: that is what a step's version is for.
 */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { digest, sha256 } from "../model/Digest.ts"
import { listFiles } from "../store/Store.ts"

/** The folder that `package.json` lies in. */
export const packageRoot: string = fileURLToPath(new URL("../..", import.meta.url)).replace(/\/$/, "")

let remembered: string | undefined

export const codeDigest = (): string => {
  if (remembered !== undefined) return remembered
  const source = join(packageRoot, "src")
  const files = listFiles(source).map((path) => [path, sha256(readFileSync(join(source, path)))])
  const lock = join(packageRoot, "package-lock.json")
  remembered = digest({ files, lock: existsSync(lock) ? sha256(readFileSync(lock)) : null })
  return remembered
}
