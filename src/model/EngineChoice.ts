/**
 * Which engine computes, as an experiment or a command line asks for it. What of it bears identity is in a key as its name, a version
 * of its numerics, and its precision in one spelling.
 */

/** `auto` is asked for only: it is resolved before any key is made. */
export const engineNames = ["tfjs", "torch", "auto"] as const
export type EngineName = (typeof engineNames)[number]

/**
 * Of the arithmetic: `fp32`, `bf16` or `fp16` (both over fp32 master weights, the latter with a gradient scaler). `+adam8bit`: moments
 * of 8 bits. `+deterministic`: the same bits again on the same device, where PyTorch would otherwise take what is fastest.
 */
export type Precision = `${"fp32" | "bf16" | "fp16"}${"" | "+adam8bit"}${"" | "+deterministic"}`

export interface EngineChoice {
  readonly engine: EngineName
  readonly precision?: Precision
}

/** Parts in their order, without doubles; undefined when it is no precision. */
export const parsePrecision = (text: string): Precision | undefined => {
  const [arithmetic, ...more] = text.split("+")
  if (arithmetic !== "fp32" && arithmetic !== "bf16" && arithmetic !== "fp16") return undefined
  if (more.some((part) => part !== "adam8bit" && part !== "deterministic")) return undefined
  if (new Set(more).size !== more.length) return undefined
  return `${arithmetic}${more.includes("adam8bit") ? "+adam8bit" : ""}${more.includes("deterministic") ? "+deterministic" : ""}`
}
