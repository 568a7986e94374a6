/**
 * What of this engine bears identity, known without loading any of it. Raise `numerics` when the same request would now give other
 * bits: the cut of a step into lanes, the order of a sum, a polynomial.
 */
import { createRequire } from "node:module"
import { availableParallelism } from "node:os"
import type { Numerics } from "../Engine.ts"
import type { Backend } from "./Jobs.ts"

/** A native tfjs where the user has installed one, else our own kernels on tfjs-wasm. */
export const backend: Backend = (() => {
  const { resolve } = createRequire(import.meta.url)
  for (const name of ["@tensorflow/tfjs-node-gpu", "@tensorflow/tfjs-node"] as const) {
    try {
      resolve(name)
      return name
    } catch {
      // not installed
    }
  }
  return "wasm"
})()

export const numericsOf = (backend: Backend): Numerics => {
  const names = { wasm: "tfjs", plain: "tfjs-plain" } as const
  const name = backend === "wasm" || backend === "plain" ? names[backend] : backend.slice("@tensorflow/".length)
  return { name, numerics: 1, precision: "fp32" }
}

export const numerics: Numerics = numericsOf(backend)

/** Threads: those asked for, else `EXP_WORKERS`, else as many as the machine runs in parallel. They change no result. */
const workersWanted = (given?: number): number => {
  const asked = given ?? Number(process.env["EXP_WORKERS"] ?? Number.NaN)
  return Number.isInteger(asked) && asked > 0 ? asked : Math.min(availableParallelism(), 8)
}

/** A native backend uses all cores, or the GPU, by itself. */
export const workersOf = (backend: Backend, given?: number): number =>
  backend === "wasm" || backend === "plain" ? workersWanted(given) : 1
