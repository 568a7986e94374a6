/**
 * What of the torch engine bears identity, known without starting Python. Raise `NUMERICS` when the same request would now give other
 * results beyond the tolerance of the contract suite; `engines/torch` says the same number in its hello, and is refused when it differs.
 *
 * Device, micro-batch and number of processes are recorded, not identity: bits are promised for the same ones, the tolerance for all.
 */
import { type Precision, parsePrecision } from "../../model/EngineChoice.ts"
import type { Numerics } from "../Engine.ts"

export const NUMERICS = 1

export const numericsOf = (precision: Precision = "fp32"): Numerics => ({
  name: "torch",
  numerics: NUMERICS,
  precision,
})

/** A precision as the worker's settings have it. */
export const settingsOf = (precision: string) => {
  const [arithmetic, ...more] = (parsePrecision(precision) ?? "fp32").split("+")
  return {
    precision: arithmetic!,
    optimizerState: more.includes("adam8bit") ? "8bit" : "fp32",
    deterministic: more.includes("deterministic"),
  }
}
