/**
 * Conversion of a large safetensors file to GGUF: speed and peak memory, beside llama.cpp's converter on the same file in the same run.
 *
 *     npx node bench/gguf.ts [gigabytes] [type …]
 *
 * Makes a GPT-2 of random weights (4 GB unless told; width 1,600, as many layers as it takes) with a tokenizer of the embedded corpus,
 * and converts it to each type (F16 and Q8_0 unless told). Each conversion is a process of its own; peak memory is VmHWM (Linux), of
 * which pages of a mapped file are a part. CPU seconds say more than seconds on a machine that does other things too. The converter is measured when `$EXP_LLAMA_CONVERTER` names a `convert_hf_to_gguf.py` that
 * `$EXP_PYTHON` (default `python3`) can run. It knows tokenizers by a list of hashes, so it is told that ours is cut as GPT-2's is.
 * Prints JSON.
 */
import { spawnSync } from "node:child_process"
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync, statSync, writeFileSync, writeSync } from "node:fs"
import { tmpdir } from "node:os"
import { dirname, join } from "node:path"
import { fileURLToPath } from "node:url"
import { Effect } from "effect"
import { BpeTrainer } from "../src/data/BpeTrainer.ts"
import { specialTokens, writeTokenizer } from "../src/data/Tokenizer.ts"
import { type Architecture, parameterCount, tensors } from "../src/model/Architecture.ts"
import { type FileType, fileTypes } from "../src/model/GgufType.ts"
import { stream } from "../src/model/Random.ts"
import { modelConfig } from "../src/release/Export.ts"
import { convert } from "../src/release/gguf/Writer.ts"
import { prettyJson } from "../src/release/Json.ts"

const ids = { bosId: 0, eosId: 1, padId: 2 }

const peakBytes = (): number => {
  const line = /VmHWM:\s+(\d+) kB/.exec(readFileSync("/proc/self/status", "utf8"))
  return Number(line?.[1]) * 1024
}

const makeModel = Effect.fnUntraced(function* (folder: string, bytes: number) {
  const trainer = new BpeTrainer()
  for (const source of ["wiki_en", "wiki_it"])
    for (const line of readFileSync(new URL(`../experiments/corpus/${source}.jsonl`, import.meta.url), "utf8").split(
      "\n",
    ))
      if (line !== "") trainer.add((JSON.parse(line) as { readonly text: string }).text)
  const vocabulary = yield* trainer.train({ vocabulary: 4096, specialTokens: [...specialTokens] })
  yield* Effect.promise(() => writeTokenizer(folder, vocabulary))
  const shape = (layers: number): Architecture => ({
    family: "gpt2",
    layers,
    width: 1600,
    heads: 25,
    context: 1024,
    vocabulary: vocabulary.tokens.length,
  })
  let layers = 1
  while (4 * parameterCount(shape(layers)) < bytes) layers++
  const architecture = shape(layers)
  writeFileSync(join(folder, "config.json"), prettyJson(modelConfig(architecture, ids)))
  const random = stream(1, "bench:gguf")
  const block = Float32Array.from({ length: 1 << 20 }, (_, i) => 0.02 * random.normal(i))
  const entries: Record<string, unknown> = { __metadata__: { format: "pt" } }
  let offset = 0
  for (const { name, shape } of tensors(architecture)) {
    const size = 4 * shape.reduce((a, b) => a * b, 1)
    entries[name] = { dtype: "F32", shape, data_offsets: [offset, offset + size] }
    offset += size
  }
  const json = Buffer.from(JSON.stringify(entries))
  const head = Buffer.alloc(8 + Math.ceil(json.length / 8) * 8, " ")
  head.writeBigUInt64LE(BigInt(head.length - 8))
  json.copy(head, 8)
  const file = openSync(join(folder, "model.safetensors"), "w")
  writeSync(file, head)
  const bits = new Uint8Array(block.buffer)
  for (let left = offset; left > 0; ) left -= writeSync(file, bits, 0, Math.min(left, bits.length))
  closeSync(file)
  return architecture
})

const converter = `
import sys, time, runpy
sys.path.insert(0, sys.argv[1])
import convert_hf_to_gguf as converter
from pathlib import Path
for module in list(sys.modules.values()):
    for value in list(vars(module).values()) if module else []:
        if isinstance(value, type) and "get_vocab_base_pre" in vars(value):
            value.get_vocab_base_pre = lambda self, tokenizer: "gpt-2"
sys.argv = ["convert", sys.argv[2], "--outtype", sys.argv[4], "--outfile", sys.argv[3]]
start, cpu = time.perf_counter(), time.process_time()
converter.main()
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
peak = int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024
print("MEASURED", seconds, cpu, peak)
`

/** One conversion, in this process. */
const convertHere = async (folder: string, type: FileType, to: string): Promise<void> => {
  const read = (name: string) => JSON.parse(readFileSync(join(folder, name), "utf8"))
  const start = performance.now()
  const cpu = process.cpuUsage()
  await Effect.runPromise(
    convert({
      weights: join(folder, "model.safetensors"),
      config: read("config.json"),
      tokenizer: read("tokenizer.json"),
      ids,
      about: { name: "bench", license: "CC0-1.0", languages: [], sources: [], provenance: {} },
      type,
      to,
    }),
  )
  const { user, system } = process.cpuUsage(cpu)
  const seconds = (performance.now() - start) / 1000
  console.log(JSON.stringify({ seconds, cpuSeconds: (user + system) / 1e6, peak: peakBytes() }))
}

const measure = (folder: string, type: FileType, bytes: number) => {
  const to = join(folder, "out.gguf")
  const ours = spawnSync(process.execPath, [fileURLToPath(import.meta.url), "--convert", folder, type, to], {
    encoding: "utf8",
  })
  if (ours.status !== 0) throw new Error(ours.stderr)
  const { seconds, cpuSeconds, peak } = JSON.parse(ours.stdout) as Readonly<
    Record<"seconds" | "cpuSeconds" | "peak", number>
  >
  const figures = (seconds: number, cpuSeconds: number, peak: number) => ({
    seconds,
    cpuSeconds,
    megabytesPerSecond: bytes / 1e6 / seconds,
    peakMegabytes: peak / 1e6,
  })
  const measured = { type, bytes: statSync(to).size, ours: figures(seconds, cpuSeconds, peak) }
  const script = process.env["EXP_LLAMA_CONVERTER"]
  if (script === undefined) return { ...measured, converter: "skipped: EXP_LLAMA_CONVERTER is not set" }
  const run = spawnSync(
    process.env["EXP_PYTHON"] ?? "python3",
    ["-c", converter, dirname(script), folder, join(folder, "theirs.gguf"), type.toLowerCase()],
    { encoding: "utf8", maxBuffer: 1 << 28 },
  )
  const found = /MEASURED (\S+) (\S+) (\S+)/.exec(run.stdout)
  if (found === null) throw new Error(run.stderr.slice(-2000))
  const [theirSeconds, theirCpuSeconds, theirPeak] = found.slice(1).map(Number) as [number, number, number]
  rmSync(join(folder, "theirs.gguf"))
  return {
    ...measured,
    converter: figures(theirSeconds, theirCpuSeconds, theirPeak),
    timesAsFast: theirSeconds / seconds,
    timesAsFastByCpu: theirCpuSeconds / cpuSeconds,
  }
}

const main = async (): Promise<void> => {
  const folder = mkdtempSync(join(process.env["EXP_BENCH_FOLDER"] ?? tmpdir(), "exp-bench-gguf-"))
  try {
    const gigabytes = Number(process.argv[2] ?? 4)
    const types = (process.argv.length > 3 ? process.argv.slice(3) : ["F16", "Q8_0"]) as ReadonlyArray<FileType>
    const unknown = types.find((type) => !(type in fileTypes))
    if (unknown !== undefined) throw new Error(`there is no type ${unknown}`)
    const architecture = await Effect.runPromise(makeModel(folder, gigabytes * 1e9))
    const { size } = statSync(join(folder, "model.safetensors"))
    console.log(
      JSON.stringify(
        {
          parameters: parameterCount(architecture),
          bytes: size,
          types: types.map((type) => measure(folder, type, size)),
        },
        null,
        2,
      ),
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

if (process.argv[2] === "--convert") {
  const [folder, type, to] = process.argv.slice(3) as [string, FileType, string]
  await convertHere(folder, type, to)
} else await main()
