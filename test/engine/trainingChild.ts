/**
 * A whole training in a process of its own, which says what it held at most (`VmHWM`, Linux), in bytes. Arguments: a folder, and the
 * training as JSON.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import { Effect, Stream } from "effect"
import { Engine } from "../../src/engine/Engine.ts"
import { layerWith } from "../../src/engine/tfjs/TfjsEngine.ts"
import type { Architecture } from "../../src/model/Architecture.ts"
import { defaultOptimizer } from "../../src/model/Checkpoint.ts"
import { writeTokens } from "./golden.ts"

export interface Training {
  readonly architecture: Architecture
  readonly rowsPerStep: number
  readonly steps: number
  readonly workers: number
}

const [folder, training] = process.argv.slice(2)
const { architecture, rowsPerStep, steps, workers }: Training = JSON.parse(training!)
const length = architecture.context + 1
const rows = Int32Array.from({ length: steps * rowsPerStep * length }, (_, i) => 3 + ((i * 7919) % 500))
// enough to measure that no worker is left out
const documents = Array.from({ length: Math.ceil(10_000 / length) }, (_, i) => ({
  id: `${i}`,
  ids: rows.subarray(i, i + length),
}))

await Effect.gen(function* () {
  const engine = yield* Engine
  yield* Stream.runDrain(
    engine.train({
      architecture,
      from: { _tag: "Fresh" },
      seed: 1,
      ...writeTokens(folder!, rows, length, architecture.vocabulary),
      rowsPerStep,
      startStep: 0,
      endStep: steps,
      schedule: { peakLr: 1e-3, warmupSteps: 2 },
      optimizer: defaultOptimizer,
      checkpoints: { folder: join(folder!, "checkpoints"), at: [steps / 2, steps], moments: true },
      resume: { folder: join(folder!, "resume"), everySeconds: 3600 },
      validation: { everySteps: steps / 2, documents },
      samples: {
        everySteps: steps / 2,
        prompts: documents.slice(0, 4).map(({ ids }) => [...ids.subarray(0, 8)]),
        maxNewTokens: 16,
      },
    }),
  )
}).pipe(Effect.provide(layerWith({ workers, backend: "wasm" })), Effect.runPromise)

console.log(1024 * Number(/VmHWM:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))![1]))
