/**
 * What of this engine bears identity. Raise `numerics` when the same request would now give other bits.
 */
import type { Numerics } from "../Engine.ts"

export const numerics: Numerics = { name: "tfjs", numerics: 1, precision: "fp32" }
