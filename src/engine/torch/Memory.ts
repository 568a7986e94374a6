/**
 * The memory of a training in the PyTorch worker, by component. N counts parameters, M the tokens of a micro-batch, s the bytes of a
 * number in the arithmetic (4, or 2 in half precision), d the width, f the gated layer's, k that of keys and values, V the vocabulary.
 *
 * | component   | bytes                                                                                                  |
 * |-------------|--------------------------------------------------------------------------------------------------------|
 * | weights     | 4N, and in half precision 2N: what products read; recomputed, of one layer and the head                |
 * | gradients   | 4N                                                                                                     |
 * | optimizer   | 8N; moments of 8 bits 2N and an fp32 scale for every 256 of each; 0 where they are kept on the host    |
 * | activations | M · layers · what a layer saves; recomputed: M · layers · ds and one layer's; and what is under way    |
 * | logits      | a piece of them with its gradient, never M × V; the head's gradient twice, that of hidden states       |
 * | runtime     | CUDA's context on a GPU; Python with PyTorch on the host                                               |
 *
 * What a layer saves for the way back, with fused attention (SDPA keeps queries, keys, values and its output, no scores): GPT-2
 * (2d in, d + 3d + d + d + 4d + 4d)s; LLaMA 2 · 4d, the exact input of its norms, and (2 · 2d + d + 2k + d + 4f)s. Compiled code keeps
 * less. How rows are cut is the worker's rule (`memory.py`): on the host by the request, on a GPU as many as fit.
 */
import { type Architecture, keyValueWidth, parameterCount } from "../../model/Architecture.ts"
import type { Components, MemoryQuestion, Remedy, TrainingMemory } from "../Memory.ts"
import { settingsOf } from "./Numerics.ts"

/** Of fp32 logits in a piece, and the fewest tokens in one. */
const PIECE = { host: 2 ** 23, gpu: 2 ** 28 }
const LEAST_TOKENS = 256
/** Python with PyTorch in it, and what the CUDA runtime takes of a GPU before there is a tensor. */
const PYTHON = 610e6
const CUDA_PYTHON = 1500e6
const CUDA_CONTEXT = 500e6
/** What glibc's heap holds for activations in use: 1.2 to 2 times as much was measured on three shapes. */
const HOST_HEAP = 1.5
/** Share of the memory that a guess of several rows may fill: an allocator cannot use every gap. One row is tried in any case. */
const SAFE = 0.94
/** Rows at once: on the host by tokens and bytes of activations, on a GPU by tokens, since more make no product faster. */
const HOST = { tokens: 4096, bytes: 2 ** 31, bytesPerElement: 136 }
const GPU_TOKENS = 2 ** 16
/** Fewer tokens leave a GPU idle: recomputing is cheaper. */
const ENOUGH_TOKENS = 2048

const bytesOfLayer = (architecture: Architecture, size: number, shared: boolean): number => {
  const { width } = architecture
  if (architecture.family === "gpt2") return 16 * width * size
  // where a kernel reads shared heads in place they are kept once, else repeated
  const keyValue = shared ? keyValueWidth(architecture) : width
  return 2 * 4 * width + (6 * width + 2 * keyValue + 4 * architecture.feedForwardWidth) * size
}

/** What of the way back through one layer is under way: the gradients of its widest tensors. */
const bytesUnderWay = (architecture: Architecture, size: number): number =>
  size *
  (architecture.family === "gpt2" ? 9 * architecture.width : 2 * architecture.width + 3 * architecture.feedForwardWidth)

interface Choice {
  readonly microBatchRows: number
  readonly recompute: boolean
  readonly offload: boolean
  /** Weights, gradients and moments shared out over the processes (FSDP). */
  readonly sharded: boolean
}

const partsOf = (question: MemoryQuestion, { microBatchRows, recompute, offload, sharded }: Choice): Components => {
  const { architecture, length, numerics, room, settings } = question
  const { layers, width, vocabulary } = architecture
  const { precision, optimizerState } = settingsOf(numerics.precision)
  const share = sharded ? 1 / (settings?.processes ?? 1) : 1
  const onGpu = room.device === "gpu"
  const half = precision !== "fp32"
  const size = half ? 2 : 4
  const parameters = parameterCount(architecture)
  const tokens = microBatchRows * length
  const layer = bytesOfLayer(architecture, size, onGpu && half)
  const kept = recompute ? layers * size * width + layer : layers * layer
  const piece = Math.min(tokens, Math.max(LEAST_TOKENS, Math.floor(PIECE[room.device] / (4 * vocabulary))))
  const table = 4 * vocabulary * width
  const copies = recompute || sharded ? parameters / layers + vocabulary * width : parameters
  return {
    weights: 4 * parameters * share + (half ? 2 * copies : 0),
    gradients: 4 * parameters * share,
    optimizer: offload ? 0 : momentBytes(parameters, optimizerState) * share,
    activations: (onGpu ? 1 : HOST_HEAP) * tokens * (kept + 2 * size * width + bytesUnderWay(architecture, size)),
    // pieces on the way forward, a second copy of the head's gradient on the way back
    logits: Math.max((half ? 12 : 8) * piece * vocabulary, table) + table + tokens * width * size,
    runtime: onGpu ? CUDA_CONTEXT : PYTHON,
  }
}

const momentBytes = (parameters: number, state: string): number =>
  state === "8bit" ? 2 * (1 + 4 / 256) * parameters : 8 * parameters

/** At most `most`, so that `rows` fall into as few parts as with `most`, of sizes as equal as can be. */
const even = (most: number, rows: number): number => Math.ceil(rows / Math.ceil(rows / most))

const rowsOfProcess = ({ rowsPerStep, settings }: MemoryQuestion): number =>
  Math.ceil(rowsPerStep / (settings?.processes ?? 1))

/** Numbers of rows that may be taken at once, the largest first. */
const microBatches = (question: MemoryQuestion): ReadonlyArray<number> => {
  const { architecture, length, room } = question
  const rowsPerStep = rowsOfProcess(question)
  const rowBytes = length * architecture.layers * architecture.width * HOST.bytesPerElement
  const most =
    room.device === "gpu"
      ? Math.floor(GPU_TOKENS / length)
      : Math.min(Math.floor(HOST.tokens / length), Math.floor(HOST.bytes / rowBytes))
  const first = Math.max(1, Math.min(rowsPerStep, most))
  if (room.device === "host") return [even(first, rowsPerStep)]
  return [...new Set(Array.from({ length: first }, (_, i) => even(first - i, rowsPerStep)))]
}

const sum = (parts: Components): number => Object.values(parts).reduce((a, b) => a + b, 0)

const words = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`

/** Ways to make it fit, from cheap to dear, as far as the settings leave a choice. */
const ladder = ({ room, settings = {} }: MemoryQuestion): ReadonlyArray<Omit<Choice, "microBatchRows">> => {
  const given = (setting: boolean | "auto" | undefined): ReadonlyArray<boolean> =>
    typeof setting === "boolean" ? [setting] : room.device === "gpu" ? [false, true] : [false]
  const { processes = 1, sharding = "auto" } = settings
  const shards = processes === 1 ? [false] : sharding === "auto" ? [false, true] : [sharding === "fsdp"]
  return shards.flatMap((sharded) =>
    given(settings.offloadOptimizer).flatMap((offload) =>
      given(settings.activationCheckpointing).map((recompute) => ({ recompute, offload, sharded })),
    ),
  )
}

const assessed = (question: MemoryQuestion, choice: Choice): TrainingMemory => {
  const { architecture, room, numerics, settings = {} } = question
  const onGpu = room.device === "gpu"
  const limit = onGpu ? (room.gpuBytes ?? 0) * (settings.memoryFraction ?? 1) : room.hostBytes
  const there = choice.microBatchRows === 1 || settings.microBatchRows !== undefined ? limit : SAFE * limit
  const parts = partsOf(question, choice)
  const parameters = parameterCount(architecture)
  const moments = momentBytes(parameters, settingsOf(numerics.precision).optimizerState)
  const host: Components | undefined = onGpu
    ? { ...none, runtime: CUDA_PYTHON, ...(choice.offload && { optimizer: moments }) }
    : undefined
  const rows = choice.microBatchRows
  const how = [
    `micro-batches of ${rows} ${rows === 1 ? "row" : "rows"}`,
    ...(choice.recompute ? ["activations computed twice"] : []),
    ...(choice.offload ? ["moments in the machine's memory"] : []),
    ...(choice.sharded ? [`weights and moments shared out over ${settings.processes} processes`] : []),
  ]
  const lacks =
    sum(parts) > there
      ? `it takes ${words(sum(parts))}, ${onGpu ? "the GPU" : "this machine"} has ${words(limit)}`
      : host !== undefined && sum(host) > room.hostBytes
        ? `beside the GPU it takes ${words(sum(host))} of memory, this machine has ${words(room.hostBytes)}`
        : undefined
  return { parts, how, ...(host && { host }), ...(lacks !== undefined && { lacks }) }
}

/** As the worker chooses: the cheapest way whose micro-batch keeps the device busy, else the one with the largest. */
export const torchMemory = (question: MemoryQuestion): TrainingMemory => {
  const { length, room, settings = {} } = question
  const rowsPerStep = rowsOfProcess(question)
  const asked = settings.microBatchRows
  const rows = asked === undefined ? microBatches(question) : [Math.min(asked, rowsPerStep)]
  const found = ladder(question).map((way) => {
    const tried = rows.map((microBatchRows) => ({
      microBatchRows,
      memory: assessed(question, { ...way, microBatchRows }),
    }))
    return tried.find(({ memory }) => memory.lacks === undefined) ?? tried.at(-1)!
  })
  const fits = found.filter(({ memory }) => memory.lacks === undefined)
  const busy = fits.find(
    ({ microBatchRows }) =>
      room.device === "host" || microBatchRows === rowsPerStep || microBatchRows * length >= ENOUGH_TOKENS,
  )
  const best = busy ?? fits.toSorted((a, b) => b.microBatchRows - a.microBatchRows)[0]
  return (best ?? found.at(-1)!).memory
}

const none: Components = { weights: 0, gradients: 0, optimizer: 0, activations: 0, logits: 0, runtime: 0 }

/** Fewer rows at once and recomputing change no result beyond rounding; moments of 8 bits change it, those on the host cost time. */
export const torchRemedies = (question: MemoryQuestion): ReadonlyArray<Remedy> => {
  const { settings = {}, numerics, room } = question
  const rowsPerStep = rowsOfProcess(question)
  const asked = settings.microBatchRows ?? 1
  const fewer = Array.from({ length: Math.min(asked, rowsPerStep) - 1 }, (_, i) => Math.min(asked, rowsPerStep) - 1 - i)
    .filter((rows) => even(rows, rowsPerStep) === rows)
    .map(
      (rows): Remedy => ({
        change: `take fewer rows at once: \`--engine-set microBatchRows=${rows}\``,
        question: { ...question, settings: { ...settings, microBatchRows: rows } },
      }),
    )
  const precision = withEightBits(numerics.precision)
  const recompute = "recompute activations: `--engine-set activationCheckpointing=true`"
  const eightBits = `keep moments of 8 bits: \`--precision ${precision}\``
  const onHost = "keep the moments in the machine's memory: `--engine-set offloadOptimizer=true`"
  const recomputed = { ...question, settings: { ...settings, activationCheckpointing: true } }
  const small = { ...question, numerics: { ...numerics, precision } }
  const moved = { ...question, settings: { ...settings, offloadOptimizer: true } }
  const both = { ...recomputed, settings: { ...recomputed.settings, offloadOptimizer: true } }
  return [
    ...fewer,
    { change: recompute, question: recomputed },
    { change: eightBits, question: small },
    { change: `${recompute}, and ${eightBits}`, question: { ...recomputed, numerics: small.numerics } },
    ...(room.device === "gpu"
      ? [
          { change: onHost, question: moved },
          { change: `${recompute}, and ${onHost}`, question: both },
        ]
      : []),
  ]
}

const withEightBits = (precision: string): string => {
  const [arithmetic, ...more] = precision.split("+").filter((part) => part !== "adam8bit")
  return [arithmetic, "adam8bit", ...more].join("+")
}
