/**
 * Speed of the PyTorch worker, beside a plain PyTorch loop and beside its own step without the worker around it, in one run and in turns.
 *
 *     EXP_PYTHON=… npx node bench/torch.ts [rounds] [shape]
 *
 * The CPU in fp32: shapes `small` and `big`. Where there is a GPU also, in bf16: 136 M parameters at context 2500 and 1.06 B at 2048, and twenty steps of
 * each of three models under the memory of a smaller card (its allocator is capped; the peak is the allocator's own). Medians; share of the peak is that of
 * the best square product of PyTorch's in the same run, on a GPU of the maker's figure.
 */
import { type ChildProcessWithoutNullStreams, spawn, spawnSync } from "node:child_process"
import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { fileURLToPath } from "node:url"
import { type Architecture, parameterCount, trainingFlopsPerToken } from "../src/model/Architecture.ts"
import { defaultOptimizer } from "../src/model/Checkpoint.ts"
import { stream } from "../src/model/Random.ts"

const rounds = Number(process.argv[2] ?? 7)
const only = process.argv[3]
const python = process.env["EXP_PYTHON"] ?? "python3"
const packageFolder = fileURLToPath(new URL("../engines/torch", import.meta.url))
const work = mkdtempSync(join(tmpdir(), "exp-bench-torch-"))
process.on("exit", () => rmSync(work, { recursive: true, force: true }))
const environment = {
  ...process.env,
  PYTHONPATH: packageFolder,
  // both sides: plain PyTorch gains as much by it
  MALLOC_MMAP_MAX_: "0",
  MALLOC_TRIM_THRESHOLD_: "100000000000",
  MALLOC_TOP_PAD_: "268435456",
  GOMP_SPINCOUNT: "2000",
}

type Settings = Readonly<Record<string, unknown>>
interface Shape {
  readonly name: string
  readonly architecture: Architecture
  readonly rowsPerStep: number
  readonly microBatchRows: number
  readonly device: "cpu" | "cuda"
  readonly settings: Settings
}

const gpt2 = (layers: number, width: number, heads: number, vocabulary: number, context: number): Architecture => ({
  family: "gpt2",
  ...{ layers, width, heads, vocabulary, context },
})
const apt: Architecture = {
  ...{ family: "llama", layers: 20, width: 2048, heads: 16, keyValueHeads: 16, feedForwardWidth: 5632, context: 2048 },
  ...{ vocabulary: 8000, ropeTheta: 10_000, normEpsilon: 1e-6, tiedHead: false },
}
const cpu = { device: "cpu", settings: {} } as const
const gpu = { device: "cuda", settings: { precision: "bf16" } } as const
const reference = { architecture: gpt2(12, 768, 12, 64_000, 2500), rowsPerStep: 24, microBatchRows: 6 }
const shapes: ReadonlyArray<Shape> = [
  { name: "small", architecture: gpt2(4, 256, 4, 4096, 256), rowsPerStep: 8, microBatchRows: 8, ...cpu },
  { name: "big", architecture: gpt2(12, 768, 12, 32_000, 512), rowsPerStep: 2, microBatchRows: 2, ...cpu },
  { name: "136 M, 2500", ...reference, ...gpu },
  { name: "1.06 B, 2048", architecture: apt, rowsPerStep: 16, microBatchRows: 4, ...gpu },
]
/** A card of so many GB runs them: twenty steps to the end, under a cap of the allocator. */
const capped: ReadonlyArray<Omit<Shape, "microBatchRows"> & { readonly gigabytes: number }> = [
  {
    name: "136 M, 6 × 2500",
    gigabytes: 16,
    ...reference,
    device: "cuda",
    settings: { precision: "bf16", microBatchRows: 6 },
  },
  {
    ...{ name: "1.06 B, capped", gigabytes: 24, architecture: apt, rowsPerStep: 16, device: "cuda" },
    settings: { precision: "bf16" },
  },
  {
    ...{
      name: "1.3 B, 1024",
      gigabytes: 12,
      architecture: gpt2(28, 1920, 16, 32_000, 1024),
      rowsPerStep: 16,
      device: "cuda",
    },
    settings: { precision: "bf16", optimizerState: "8bit" },
  },
]

const median = (values: ReadonlyArray<number>): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!
const line = (name: string, figure: number, unit: string, note = "") =>
  console.log(`${name.padEnd(42)}${figure.toFixed(figure < 100 ? 1 : 0).padStart(10)} ${unit.padEnd(9)}${note}`)

/** A process that answers every line by a line. */
class Asked {
  readonly #child: ChildProcessWithoutNullStreams
  readonly #lines: AsyncIterator<string>

  constructor(args: ReadonlyArray<string>) {
    this.#child = spawn(python, args, { env: environment, stdio: ["pipe", "pipe", "inherit"] }) as never
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]()
  }
  write(message: unknown): void {
    this.#child.stdin.write(`${JSON.stringify(message)}\n`)
  }
  async next(): Promise<any> {
    const { value, done } = await this.#lines.next()
    if (done) throw new Error("it ended")
    return JSON.parse(value)
  }
  async ask(message: unknown): Promise<any> {
    this.write(message)
    return this.next()
  }
  close(): void {
    this.#child.stdin.end()
  }
}

/** Tokens of a corpus and the order of its rows, enough for a hundred steps. */
const corpus = (shape: Omit<Shape, "microBatchRows">) => {
  const { context, vocabulary } = shape.architecture
  const rows = shape.rowsPerStep
  const random = stream(1, "bench")
  const folder = mkdtempSync(join(work, "tokens-"))
  const tokens = Uint16Array.from({ length: rows * context + 1 }, (_, i) => random.word(i) % vocabulary)
  writeFileSync(join(folder, "train-00000.bin"), tokens)
  const source = {
    source: "bench",
    language: "en",
    role: "train",
    startToken: 0,
    droppedTokens: 0,
    firstRow: 0,
    weight: 1,
  }
  const index = {
    ...{ context, vocabulary, dtype: "uint16", bosId: 0, eosId: 1, padId: 2, mix: "proportional", languages: ["en"] },
    sources: [{ ...source, rawTokens: tokens.length, packedTokens: tokens.length, rows }],
    shards: [{ file: "train-00000.bin", part: "train", tokens: tokens.length }],
  }
  writeFileSync(join(folder, "tokens.json"), JSON.stringify(index))
  const order = join(folder, "order.bin")
  writeFileSync(
    order,
    Uint32Array.from({ length: 100 * rows }, (_, i) => i % rows),
  )
  return { tokens: folder, order }
}

const requestOf = (shape: Omit<Shape, "microBatchRows">, files: ReturnType<typeof corpus>, steps: number) => ({
  ...{ architecture: shape.architecture, from: { _tag: "Fresh" }, seed: 1, ...files, rowsPerStep: shape.rowsPerStep },
  ...{ startStep: 0, endStep: steps, schedule: { peakLr: 1e-4, warmupSteps: 0 }, optimizer: defaultOptimizer },
  checkpoints: { folder: join(work, "checkpoints"), at: [], moments: false },
  resume: { folder: join(work, "resume"), everySeconds: 1e9 },
})

class WorkerAsked extends Asked {
  #id = 0
  constructor() {
    super(["-m", "exp_torch"])
  }
  /** Seconds from one step's event to the next, all that the worker does between them included. */
  async steps(request: unknown, settings: Settings, skip: number, see: (line: any) => void = () => {}) {
    if (this.#id === 0) await this.next()
    this.write({ id: ++this.#id, kind: "train", request, settings })
    const at: Array<number> = []
    for (;;) {
      const said = await this.next()
      see(said)
      if (said.event?._tag === "Step") at.push(performance.now())
      if ("error" in said) throw new Error(JSON.stringify(said.error))
      if ("result" in said) return at.slice(1 + skip).map((then, i) => (then - at[i + skip]!) / 1000)
    }
  }
}

const compare = async (shape: Shape): Promise<void> => {
  const path = join(work, "shape.json")
  writeFileSync(path, JSON.stringify({ ...shape, context: shape.architecture.context }))
  const script = fileURLToPath(new URL("torch_peer.py", import.meta.url))
  const peer = new Asked([script, "peer", path])
  const bare = new Asked([script, "bare", path])
  const worker = new WorkerAsked()
  const files = corpus(shape)
  const settings = { ...shape.settings, device: shape.device, microBatchRows: shape.microBatchRows }
  const seconds = { peer: [] as Array<number>, bare: [] as Array<number>, worker: [] as Array<number> }
  const products: Array<number> = []
  try {
    for (const one of [peer, bare]) await one.ask({ steps: 3 })
    // about two seconds a turn
    const { seconds: once } = await peer.ask({ steps: 2 })
    const steps = Math.max(2, Math.min(20, Math.round(2 / once[1])))
    for (let round = 0; round < rounds; round++) {
      products.push((await peer.ask({ matmul: shape.device === "cpu" ? 2048 : 8192 })).gflops)
      seconds.peer.push(...(await peer.ask({ steps })).seconds)
      seconds.bare.push(...(await bare.ask({ steps })).seconds)
      seconds.worker.push(...(await worker.steps(requestOf(shape, files, steps + 3), settings, 2)))
    }
  } finally {
    for (const one of [peer, bare, worker]) one.close()
  }
  const tokens = shape.rowsPerStep * shape.architecture.context
  const flops = tokens * trainingFlopsPerToken(shape.architecture)
  const peak = median(products) * 1e9
  line(`${shape.name}: square products`, peak / 1e9, "GFLOP/s")
  const [plain, own, whole] = [median(seconds.peer), median(seconds.bare), median(seconds.worker)]
  const share = (took: number) => `${((100 * flops) / took / peak).toFixed(0)} % of that`
  line(`${shape.name}: plain loop`, tokens / plain, "tokens/s", share(plain))
  line(`${shape.name}: the worker's step alone`, tokens / own, "tokens/s", share(own))
  line(
    `${shape.name}: the worker`,
    tokens / whole,
    "tokens/s",
    `${share(whole)}; ${(plain / whole).toFixed(2)}× the plain loop; ${(100 * (whole / own - 1)).toFixed(1)} % around its step`,
  )
}

const gpuBytes = Number(
  spawnSync(
    python,
    ["-c", "import torch; print(torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else 0)"],
    { encoding: "utf8" },
  ).stdout,
)

for (const shape of shapes) {
  if (only !== undefined && shape.name !== only) continue
  if (shape.device === "cuda" && gpuBytes === 0) console.log(`${shape.name}: skipped: PyTorch sees no CUDA device here`)
  else await compare(shape)
}
for (const { name, gigabytes, ...shape } of capped) {
  if (only !== undefined && name !== only) continue
  const title = `${name} on ${gigabytes} GB (${(parameterCount(shape.architecture) / 1e6).toFixed(0)} M parameters)`
  if (gpuBytes < gigabytes * 1e9) {
    console.log(`${title}: skipped: ${gpuBytes === 0 ? "PyTorch sees no CUDA device here" : "the GPU has less"}`)
    continue
  }
  const worker = new WorkerAsked()
  let peak = 0
  const settings = { ...shape.settings, device: "cuda", memoryFraction: Math.min(1, (gigabytes * 1e9) / gpuBytes) }
  const seconds = await worker.steps(
    requestOf({ name, ...shape }, corpus({ name, ...shape }), 20),
    settings,
    3,
    (said) => {
      if (said.note !== undefined) console.log(`  ${said.note}`)
      peak = Math.max(peak, said.device?.peakMemoryBytes ?? 0)
    },
  )
  worker.close()
  const tokens = shape.rowsPerStep * shape.architecture.context
  line(title, tokens / median(seconds), "tokens/s", `twenty steps to the end, peak ${(peak / 1e9).toFixed(1)} GB`)
}
