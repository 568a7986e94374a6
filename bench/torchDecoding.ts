/**
 * Speed of the worker's decoding beside `transformers`' `generate` on the same weights and machine, in turns.
 *
 *     EXP_PYTHON=… npx node bench/torchDecoding.ts [rounds]
 *
 * Shape `small`, 16 tokens of prompt, 64 new ones, no end of text. Tokens/s of the worker at 1, 16, 40 and 200 texts; of `generate` called prompt by prompt
 * (what a sweep would do with it) and with all prompts in one call. Medians of the rounds; the first round warms up and is left out.
 */
import { spawn } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import * as Safetensors from "../src/engine/Safetensors.ts"
import { type Architecture, tensors } from "../src/model/Architecture.ts"
import { type CheckpointState, defaultOptimizer } from "../src/model/Checkpoint.ts"
import { type DecodingPreset, greedy, standardPresets } from "../src/model/Decoding.ts"
import { canonicalJson } from "../src/model/Digest.ts"
import { stream } from "../src/model/Random.ts"

const rounds = Number(process.argv[2] ?? 5)
const python = process.env["EXP_PYTHON"] ?? "python3"
const PROMPT = 16
const NEW = 64
const architecture: Architecture = { family: "gpt2", layers: 4, width: 256, heads: 4, context: 256, vocabulary: 4096 }

const checkpoint = mkdtempSync(join(tmpdir(), "exp-bench-decoding-"))
process.on("exit", () => rmSync(checkpoint, { recursive: true, force: true }))
const weights = tensors(architecture).map(({ name, shape, init }) => {
  const random = stream(1, `weights:${name}`)
  const size = shape.reduce((a, b) => a * b, 1)
  // tenfold: a distribution that is neither flat nor a single token
  const value = (i: number) => ("constant" in init ? init.constant : 10 * init.normal * random.normal(i))
  return { name, shape, data: Float32Array.from({ length: size }, (_, i) => value(i)) }
})
const { sha256 } = await Effect.runPromise(Safetensors.write(join(checkpoint, "model.safetensors"), weights))
const state: CheckpointState = {
  ...{ step: 0, tokensSeen: 0, rowCursor: 0, architecture, schedule: { peakLr: 1e-3, warmupSteps: 0 } },
  ...{ optimizer: defaultOptimizer, rowsPerStep: 1, seed: 1, modelSha256: sha256 },
  engine: { name: "bench", numerics: 1, precision: "fp32" },
}
writeFileSync(join(checkpoint, "state.json"), canonicalJson(state))

/** A process that answers a line with a line; lines without an answer in them are passed over. */
const conversation = (args: ReadonlyArray<string>) => {
  const child = spawn(python, args, {
    stdio: ["pipe", "pipe", "inherit"],
    env: {
      ...process.env,
      PYTHONPATH: fileURLToPath(new URL("../engines/torch", import.meta.url)),
      // both sides: what was given back to the system would be asked for again at every token
      ...{
        MALLOC_MMAP_MAX_: "0",
        MALLOC_TRIM_THRESHOLD_: "100000000000",
        MALLOC_TOP_PAD_: "268435456",
        GOMP_SPINCOUNT: "2000",
      },
    },
  })
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]()
  return {
    ask: async (line: unknown): Promise<Record<string, unknown>> => {
      child.stdin.write(`${JSON.stringify(line)}\n`)
      for (;;) {
        const { value, done } = await lines.next()
        if (done === true) throw new Error(`${args.join(" ")} ended`)
        const answer = JSON.parse(value) as Record<string, unknown>
        if ("error" in answer) throw new Error(JSON.stringify(answer["error"]))
        if ("result" in answer || "seconds" in answer) return answer
      }
    },
    end: () => child.stdin.end(),
  }
}

const worker = conversation(["-m", "exp_torch"])
const peer = conversation([fileURLToPath(new URL("torchDecoding_peer.py", import.meta.url)), checkpoint])

const random = stream(2, "prompts")
const promptsOf = (count: number) =>
  Array.from({ length: count }, (_, p) => Array.from({ length: PROMPT }, (_, i) => random.word(1000 * p + i) % 4096))

let requests = 0
const ours = async (preset: DecodingPreset, count: number): Promise<number> => {
  const prompts = promptsOf(count).map((ids, i) => ({ id: `${i}`, ids }))
  const request = { checkpoint, prompts, preset, maxNewTokens: NEW, eosId: architecture.vocabulary, seed: 1 }
  const began = performance.now()
  const { result } = await worker.ask({ id: ++requests, kind: "generate", request })
  const seconds = (performance.now() - began) / 1000
  return (
    (result as ReadonlyArray<{ tokens: ReadonlyArray<number> }>).reduce((n, { tokens }) => n + tokens.length, 0) /
    seconds
  )
}
const theirs = async (preset: DecodingPreset, count: number, batch: number): Promise<number> => {
  const { seconds, tokens } = await peer.ask({ prompts: promptsOf(count), batch, preset, maxNewTokens: NEW })
  return (tokens as number) / (seconds as number)
}

const median = (values: ReadonlyArray<number>): number => [...values].sort((a, b) => a - b)[values.length >> 1]!
const balanced = standardPresets.find(({ name }) => name === "balanced")!
const SIZES = [1, 16, 40, 200]
for (const preset of [greedy, balanced]) {
  const alone: Array<number> = []
  const together = SIZES.map(() => [] as Array<number>)
  const mine = SIZES.map(() => [] as Array<number>)
  for (let round = 0; round <= rounds; round++) {
    const oneByOne = await theirs(preset, 3, 1)
    if (round > 0) alone.push(oneByOne)
    for (const [i, size] of SIZES.entries()) {
      const own = await ours(preset, size)
      const other = await theirs(preset, size, size)
      if (round === 0) continue
      mine[i]!.push(own)
      together[i]!.push(other)
    }
  }
  console.log(`${preset.name}: generate prompt by prompt ${median(alone).toFixed(0)} tokens/s`)
  for (const [i, size] of SIZES.entries()) {
    const [own, other] = [median(mine[i]!), median(together[i]!)]
    const times = `${(own / median(alone)).toFixed(1)} times prompt by prompt, ${(own / other).toFixed(2)} times one call`
    console.log(
      `  ${String(size).padStart(3)} texts: ${own.toFixed(0).padStart(6)} tokens/s, generate in one call ${other.toFixed(0).padStart(6)}; ${times}`,
    )
  }
}
worker.end()
peer.end()
