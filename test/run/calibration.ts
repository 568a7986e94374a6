/** A calibration as one was measured; a step of 16 rows takes 0.1 s by it: 0.02 for the update and 0.005 a row. */
import type { Architecture } from "../../src/model/Architecture.ts"
import type { Calibration } from "../../src/run/forecast/Calibration.ts"

export const calibrationOf = (architecture: Architecture): Calibration => ({
  format: 1,
  engine: { name: "tfjs", numerics: 1, precision: "fp32" },
  device: "a processor, 2 workers",
  architecture,
  measuredAt: "2026-11-22T10:00:00.000Z",
  seconds: 7,
  matmulGflops: 100,
  perStep: 0.02,
  perRow: 0.005,
  measuredTokensPerSecond: 50_000,
  drawnTokensPerSecond: 4000,
  writtenBytesPerSecond: 1e8,
})
