/** A graphics card that is not there (`card/runtime.c`), built with the machine's C compiler against the headers that PyTorch for CUDA brings. */
import { execFileSync, spawnSync } from "node:child_process"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { python, runnable } from "./worker.ts"

const sources = fileURLToPath(new URL("card", import.meta.url))
const compiler = process.env["CC"] ?? "cc"

/** Folder of CUDA's headers beside the Python's PyTorch; empty where it is one without CUDA. */
const headers = (): string => {
  const code = [
    "import sysconfig, torch",
    "from pathlib import Path",
    "root = Path(sysconfig.get_path('purelib')) / 'nvidia'",
    "print(next((str(one.parent) for one in root.glob('*/include/cublasLt.h')), '') if torch.version.cuda else '')",
  ].join("\n")
  return execFileSync(python, ["-c", code], { encoding: "utf8" }).trim()
}

const include = runnable ? headers() : ""

const lacks = (): string | undefined => {
  if (process.platform !== "linux" || process.arch !== "x64") return "the card is built for Linux on x64"
  if (!runnable) return `\`${python}\` cannot import torch; set EXP_TORCH_PYTHON`
  if (include === "") return "this PyTorch was built without CUDA"
  if (spawnSync(compiler, ["--version"]).status !== 0) return `there is no C compiler \`${compiler}\``
  return undefined
}

const lacking = lacks()
export const buildable = lacking === undefined
export const titledOnCard = (title: string): string => (buildable ? title : `${title} (skipped: ${lacking})`)

/** Builds it into a folder; gives the environment of a process that finds a card of so many bytes. */
export const buildCard = (folder: string): ((bytes: number) => NodeJS.ProcessEnv) => {
  const build = (library: string, files: ReadonlyArray<string>): string => {
    const target = join(folder, library)
    const paths = [`-I${sources}`, `-I${include}`]
    const what = files.map((file) => join(sources, file))
    execFileSync(compiler, ["-O1", "-fPIC", "-shared", ...paths, `-Wl,-soname,${library}`, ...what, "-o", target])
    return target
  }
  const driver = build("libcuda.so.1", ["runtime.c", "products.c"])
  build("libnvidia-ml.so.1", ["management.c"])
  return (bytes) => ({
    CARD_BYTES: String(bytes),
    LD_PRELOAD: driver,
    LD_LIBRARY_PATH: folder,
    // Triton looks for the driver by itself, and keeps what it compiled
    TRITON_LIBCUDA_PATH: folder,
    TRITON_CACHE_DIR: join(folder, "triton"),
    TORCHINDUCTOR_CACHE_DIR: join(folder, "inductor"),
  })
}
