/**
 * Compiles the kernels: `npx node src/engine/tfjs/kernels/build.ts`. The results are committed, so that running needs no compiler;
 * a test compiles again and compares the bytes.
 */
import { readFileSync, writeFileSync } from "node:fs"
import { fileURLToPath } from "node:url"

const folder = new URL("./assembly/", import.meta.url)

const common = [
  "-O3",
  "--noAssert",
  "--runtime",
  "stub",
  "--importMemory",
  // no `abort`: it would need texts in static memory, and that memory is tfjs's
  "--use",
  "abort=",
  "--enable",
  "simd",
  "--enable",
  "relaxed-simd",
]

const modules = {
  "kernels.wasm": ["index.ts", ...common],
  "optimizer.wasm": [
    "optimizer.ts",
    ...common,
    ...["--enable", "threads", "--sharedMemory", "--initialMemory", "1", "--maximumMemory", "65536"],
  ],
}

/** Compiled modules by file name. Throws with the compiler's words. */
export const compile = async (): Promise<ReadonlyMap<string, Uint8Array>> => {
  const { default: asc } = await import("assemblyscript/asc")
  const compiled = new Map<string, Uint8Array>()
  for (const [file, options] of Object.entries(modules)) {
    const { error, stderr } = await asc.main([...options, "--outFile", file], {
      writeFile: (name, contents) => {
        if (name === file) compiled.set(file, contents as Uint8Array)
      },
      listFiles: () => [],
      readFile: (name) => {
        // the compiler tries several names for an import
        try {
          return readFileSync(new URL(name, folder), "utf8")
        } catch {
          return null
        }
      },
    })
    if (error !== null) throw new Error(stderr.toString())
  }
  return compiled
}

if (process.argv[1] === fileURLToPath(import.meta.url))
  for (const [file, bytes] of await compile()) writeFileSync(new URL(file, import.meta.url), bytes)
