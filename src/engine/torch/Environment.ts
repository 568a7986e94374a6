/**
 * Which Python the worker runs in, told without starting it: `EXP_TORCH_PYTHON`, else the environment that `exp setup torch` made.
 *
 * | in the environment's folder | what                                                                          |
 * |-----------------------------|-------------------------------------------------------------------------------|
 * | `venv/`                     | PyTorch and what else `engines/torch/pyproject.toml` asks for                 |
 * | `ready.json`                | written last: for what requirements it was made, and what it answered in there |
 *
 * The folder is the user's, since PyTorch has gigabytes and every clone can share it. `exp_torch` itself is not installed: the worker
 * is read from this clone, so that both sides are of one version.
 */
import { existsSync, readFileSync } from "node:fs"
import { homedir } from "node:os"
import { isAbsolute, join } from "node:path"
import { fileURLToPath } from "node:url"
import { sha256 } from "../../model/Digest.ts"

/** Folder that holds the Python package `exp_torch`. */
export const packageFolder = fileURLToPath(new URL("../../../engines/torch", import.meta.url))

export interface Ready {
  readonly requirements: string
  readonly torch: string
  readonly python: string
  /** Whether it does without CUDA, or was asked to. */
  readonly cpu: boolean
}

/** `$XDG_DATA_HOME/exp/torch`, else `~/.local/share/exp/torch`; on Windows below `%LOCALAPPDATA%`. */
export const environmentFolder = (environment: NodeJS.ProcessEnv = process.env): string => {
  const { XDG_DATA_HOME: xdg, LOCALAPPDATA: local } = environment
  if (xdg !== undefined && isAbsolute(xdg)) return join(xdg, "exp", "torch")
  if (process.platform === "win32" && local) return join(local, "exp", "torch")
  return join(environment["HOME"] || homedir(), ".local", "share", "exp", "torch")
}

export const pythonIn = (folder: string): string =>
  process.platform === "win32" ? join(folder, "venv", "Scripts", "python.exe") : join(folder, "venv", "bin", "python")

/** What an environment has to hold: one of other requirements is no environment of this clone. */
export const requirementsDigest = (): string => sha256(readFileSync(join(packageFolder, "pyproject.toml"))).slice(0, 16)

export const readReady = (folder: string): Ready | undefined => {
  try {
    const read = JSON.parse(readFileSync(join(folder, "ready.json"), "utf8")) as Ready | null
    return typeof read?.requirements === "string" ? read : undefined
  } catch {
    return undefined
  }
}

export type Found =
  | { readonly _tag: "Python"; readonly program: string; readonly from: "EXP_TORCH_PYTHON" | "exp setup torch" }
  | { readonly _tag: "Absent"; readonly problem: string; readonly hint: string }

const absent = (problem: string, hint: string): Found => ({ _tag: "Absent", problem, hint })

export const findPython = (environment: NodeJS.ProcessEnv = process.env): Found => {
  const named = environment["EXP_TORCH_PYTHON"]
  if (named) {
    // a bare name is looked up by whoever starts it
    if (!isAbsolute(named) || existsSync(named)) return { _tag: "Python", program: named, from: "EXP_TORCH_PYTHON" }
    return absent(`EXP_TORCH_PYTHON names ${named}, which is not there`, "name a Python that has PyTorch, or unset it")
  }
  const folder = environmentFolder(environment)
  const ready = readReady(folder)
  const begun = existsSync(join(folder, "venv"))
  if (ready === undefined && begun)
    return absent("making its Python environment was broken off, or goes on", "`exp setup torch` makes it whole")
  if (ready === undefined)
    return absent(
      "no Python environment was made for it",
      "`exp setup torch` makes one, or name a Python that has PyTorch in EXP_TORCH_PYTHON",
    )
  if (!existsSync(pythonIn(folder)))
    return absent("the Python that its environment was made with is gone", "`exp setup torch` makes it anew")
  if (ready.requirements !== requirementsDigest())
    return absent("its environment was made for other requirements", "`exp setup torch` brings it up to date")
  return { _tag: "Python", program: pythonIn(folder), from: "exp setup torch" }
}
