/**
 * Speed of the in-process engine, beside the machine's own matrix products in the same run.
 *
 *     npx node bench/engine.ts [seconds per figure]      EXP_WORKERS=1 npx node bench/engine.ts
 *
 * Tokens/s of training, share of the machine's matmul figure (training FLOPs by F15), tokens/s of decoding at batch 1, 40 and 128 (in turn),
 * and what a thousand tiny steps leave behind.
 */
import { availableParallelism } from "node:os"
import { Pool } from "../src/engine/tfjs/Pool.ts"
import { Trainer } from "../src/engine/tfjs/Trainer.ts"
import { type Architecture, complete, trainingFlopsPerToken } from "../src/model/Architecture.ts"
import { defaultOptimizer } from "../src/model/Checkpoint.ts"
import { type DecodingPreset, greedy, standardPresets } from "../src/model/Decoding.ts"
import { stream } from "../src/model/Random.ts"

const seconds = Number(process.argv[2] ?? 6)
const workers = Number(process.env["EXP_WORKERS"] ?? availableParallelism())
/** Texts decoded at once; 128 fill both of two workers. */
const BATCHES = [1, 40, 128]

const shapes: Readonly<Record<string, { readonly architecture: Architecture; readonly rows: number }>> = {
  tiny: { architecture: { family: "gpt2", layers: 2, width: 64, heads: 2, context: 64, vocabulary: 256 }, rows: 4 },
  small: { architecture: { family: "gpt2", layers: 4, width: 256, heads: 4, context: 256, vocabulary: 4096 }, rows: 8 },
  // about as many parameters and operations a token
  llama: {
    architecture: complete(
      {
        ...{ family: "llama", layers: 4, width: 256, heads: 4 },
        ...{ keyValueHeads: 2, feedForwardWidth: 768, tiedHead: true },
      },
      256,
      4096,
    ),
    rows: 8,
  },
}

const balanced = standardPresets.find(({ name }) => name === "balanced")!
const pool = new Pool(workers, { backend: "wasm" })
const matmul = async () => (await pool.all("matmul", () => ({ milliseconds: 500 }))).reduce((a, b) => a + b, 0)
const line = (name: string, figure: number, unit: string, note = "") =>
  console.log(`${name.padEnd(34)}${figure.toFixed(figure < 100 ? 1 : 0).padStart(10)} ${unit.padEnd(9)}${note}`)

line("matmul, 512³", await matmul(), "GFLOP/s", `${workers} workers, before`)
for (const [name, { architecture, rows }] of Object.entries(shapes)) {
  const { context, vocabulary } = architecture
  const random = stream(1, "bench")
  const data = Int32Array.from({ length: rows * (context + 1) }, (_, i) => random.word(i) % vocabulary)
  const trainer = await Trainer.open(pool, architecture, rows, context)
  await trainer.initialise(1)
  let taken = 0
  const step = () => trainer.step(data, taken++, 1e-4, defaultOptimizer)
  for (const warm = performance.now(); taken < 3 || performance.now() - warm < 1000; ) await step()

  // the best of three spells: others use this machine too
  let best = 0
  for (let spell = 0; spell < 3; spell++) {
    const before = taken
    const began = performance.now()
    while (taken - before < 2 || performance.now() - began < (seconds * 1000) / 3) await step()
    best = Math.max(best, ((taken - before) * rows * context * 1000) / (performance.now() - began))
  }
  const gflops = (best * trainingFlopsPerToken(architecture)) / 1e9
  line(`train ${name}`, best, "tokens/s", `${gflops.toFixed(0)} GFLOP/s`)

  if (name === "tiny") {
    // the compiler's and the collector's own growth is over after some thousand steps
    while (taken < 4000) await step()
    const usage = () => pool.all("usage", () => ({}))
    const before = await usage()
    const resident = process.memoryUsage.rss()
    for (let i = 0; i < 1000; i++) await step()
    const after = await usage()
    const grown = (what: "tensors" | "bytes") => after.reduce((sum, one, i) => sum + one[what] - before[i]![what], 0)
    line("1,000 tiny steps: tensors", grown("tensors"), "more")
    line("1,000 tiny steps: heap", grown("bytes") / 2 ** 20, "MiB more")
    line("1,000 tiny steps: process", (process.memoryUsage.rss() - resident) / 2 ** 20, "MiB more")
  }

  const newTokens = Math.min(128, context - 16)
  const decode = async (batch: number, preset: DecodingPreset) => {
    const share = Math.ceil(batch / workers)
    const portions = Array.from({ length: Math.ceil(batch / share) }, (_, w) => ({
      weights: trainer.weights,
      prompts: Array.from({ length: Math.min(share, batch - w * share) }, (_, i) => ({
        id: `${w * share + i}`,
        ids: Array.from(data.subarray(i, i + 16)),
      })),
      preset,
      maxNewTokens: newTokens,
      seed: 1,
    }))
    const began = performance.now()
    const used = process.cpuUsage()
    await pool.spread("generate", portions)
    const { user, system } = process.cpuUsage(used)
    const tokens = batch * newTokens
    return { wall: (tokens * 1000) / (performance.now() - began), cpu: (tokens * 1e6) / (user + system) }
  }
  for (const preset of [greedy, balanced]) {
    const best = { wall: BATCHES.map(() => 0), cpu: BATCHES.map(() => 0) }
    // in turn, so that a change of the machine's mind meets both; the first spell warms up
    for (let spell = 0; spell < 5; spell++)
      for (const [i, batch] of BATCHES.entries()) {
        const rate = await decode(batch, preset)
        if (spell === 0) continue
        best.wall[i] = Math.max(best.wall[i]!, rate.wall)
        best.cpu[i] = Math.max(best.cpu[i]!, rate.cpu)
      }
    for (const [i, batch] of BATCHES.entries()) {
      const times = i === 0 ? "" : `, ${(best.wall[i]! / best.wall[0]!).toFixed(2)} times batch 1`
      const note = `${best.cpu[i]!.toFixed(0)} a second of CPU${times}`
      line(`decode ${name}, ${preset.name}, batch ${batch}`, best.wall[i]!, "tokens/s", note)
    }
  }
  await trainer.close()
}
line("matmul, 512³", await matmul(), "GFLOP/s", "after")
await pool.close()
