/**
 * The memory of a training in the PyTorch worker, by component. N counts parameters, B those of the layers' matrices, M the tokens of a
 * micro-batch, s the bytes of a number in the arithmetic (4, or 2 in half precision), d the width, f the gated layer's, k that of keys
 * and values, V the vocabulary.
 *
 * | component   | bytes                                                                                                     |
 * |-------------|-----------------------------------------------------------------------------------------------------------|
 * | weights     | 4N, and in half precision what products read, rounded: 2B (recomputed, of one layer), and the head's 2Vd; |
 * |             | with moments on the host 4(N − B) + 2B and the head's: the fp32 of B is there too                         |
 * | gradients   | 4N                                                                                                        |
 * | optimizer   | 8N; moments of 8 bits 2N and an fp32 scale for every 256 of each; on the host: two stages to pass through |
 * | activations | M · layers · what a layer saves; recomputed: M · layers · ds and one layer's; and what is under way:      |
 * |             | a layer's widest gradients, and those of its weights before they are added                                |
 * | logits      | a piece of them with its gradient, never M × V; the head's gradient, that of hidden states                |
 * | runtime     | CUDA's context on a GPU; Python with PyTorch on the host                                                  |
 *
 * What a layer saves for the way back, with fused attention (SDPA keeps queries, keys, values and its output, no scores): GPT-2
 * (2d in, d + 3d + d + d + 4d + 4d)s, compiled or not. LLaMA as it is written 2 · 4d, the exact input of its norms, and
 * (2 · 2d + d + 2k + d + 4f)s; compiled, norms and the gate's activation are computed again: (2 · 2d + d + 2k + d + 3f)s. Counted on
 * the tensors that one layer gives its backward pass. How rows are cut is the worker's rule (`memory.py`): on the host by the request,
 * on a GPU as many as fit. Peaks of processes on the host are within a fifth of this (`test/torch/Memory.test.ts`). What PyTorch's
 * allocator reserves of a card whose kernels do nothing is at most what is reckoned here (`test/torch/Card.test.ts`); on one that
 * computes nobody has measured yet.
 */
import { type Architecture, keyValueWidth, parameterCount } from "../../model/Architecture.ts"
import { size as amount } from "../../store/Disk.ts"
import { type Components, nothing, totalOf } from "../Components.ts"
import type { MemoryQuestion, Remedy, TrainingMemory } from "../Memory.ts"
import { settingsOf } from "./Numerics.ts"

/** Of logits in a piece: compiled half precision, which holds a third of what the other ways do, takes twice as many. */
const PIECE = { host: 2 ** 21, gpu: 2 ** 26 }
const LEAST_TOKENS = 256
/** Of parameters whose moments pass through a stage at once. */
const STAGE = { host: 2 ** 19, gpu: 2 ** 23 }
/** Python with PyTorch in it, what a first step loads, and what recomputing imports; the CUDA runtime's part of a GPU. */
const PYTHON = 670e6
const RECOMPUTING = 120e6
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

/** How a layer is computed. */
interface Arithmetic {
  /** Bytes of a number. */
  readonly size: number
  readonly onGpu: boolean
  readonly compiled: boolean
}

const bytesOfLayer = (architecture: Architecture, { size, onGpu, compiled }: Arithmetic): number => {
  const { width } = architecture
  if (architecture.family === "gpt2") return 16 * width * size
  const inner = architecture.feedForwardWidth
  // where a kernel reads shared heads in place they are kept once, else repeated
  const keyValue = onGpu ? keyValueWidth(architecture) : width
  const saved = (6 * width + 2 * keyValue) * size
  return compiled ? saved + 3 * inner * size : 2 * 4 * width + saved + 4 * inner * size
}

/** What of the way back through one layer is under way: the gradients of its widest tensors. */
const bytesUnderWay = (architecture: Architecture, size: number): number =>
  size *
  (architecture.family === "gpt2" ? 9 * architecture.width : 2 * architecture.width + 3 * architecture.feedForwardWidth)

/** Parameters of the matrices of all layers: what is read in the arithmetic's precision alone. */
const matrixParameters = (architecture: Architecture): number => {
  const { layers, width } = architecture
  if (architecture.family === "gpt2") return layers * 12 * width * width
  return layers * width * (2 * width + 2 * keyValueWidth(architecture) + 3 * architecture.feedForwardWidth)
}

/** Elements of the largest one: pieces for a stage are cut from tensors, none reaches beyond its own. */
const largestTensor = (architecture: Architecture): number => {
  const { vocabulary, width } = architecture
  return width * Math.max(vocabulary, architecture.family === "gpt2" ? 4 * width : architecture.feedForwardWidth)
}

interface Choice {
  readonly microBatchRows: number
  readonly recompute: boolean
  readonly offload: boolean
  /** Weights, gradients and moments shared out over the processes (FSDP). */
  readonly sharded: boolean
}

/** Whether the fp32 of the layers' matrices goes to the host with the moments: where one process computes in half precision. */
const movesMasters = ({ numerics, settings }: MemoryQuestion, { offload, sharded }: Choice): boolean =>
  offload && !sharded && (settings?.processes ?? 1) === 1 && settingsOf(numerics.precision).precision !== "fp32"

const partsOf = (question: MemoryQuestion, choice: Choice): Components => {
  const { architecture, length, numerics, room, settings } = question
  const { microBatchRows, recompute, offload, sharded } = choice
  const { layers, width, vocabulary } = architecture
  const { precision, optimizerState } = settingsOf(numerics.precision)
  const processes = settings?.processes ?? 1
  const share = sharded ? 1 / processes : 1
  const onGpu = room.device === "gpu"
  const half = precision !== "fp32"
  const size = half ? 2 : 4
  const compile = settings?.compile ?? "auto"
  const compiled = compile === "auto" ? onGpu : compile
  const parameters = parameterCount(architecture)
  const matrices = matrixParameters(architecture)
  const masters = movesMasters(question, choice)
  const tokens = microBatchRows * length
  const table = 4 * vocabulary * width
  const layer = bytesOfLayer(architecture, { size, onGpu, compiled })
  const kept = recompute ? layers * size * width + layer : layers * layer
  const underWay = bytesUnderWay(architecture, size)
  const rounded = masters ? matrices : recompute || sharded ? matrices / layers : matrices
  const staged = 2 * Math.min(largestTensor(architecture), STAGE[room.device])
  const moments = momentBytes(parameters, optimizerState) * share
  const stages = offload ? momentBytes(staged, optimizerState) + (masters ? 4 * staged : 0) : 0
  const parts: Components = {
    weights:
      4 * (onGpu && masters ? parameters - matrices : parameters) * share +
      (half ? 2 * (rounded + vocabulary * width) : 0),
    gradients: 4 * parameters * share,
    // on the host they are where they were
    optimizer: onGpu && offload ? stages : moments + stages,
    activations:
      (onGpu ? 1 : HOST_HEAP) * tokens * (kept + 2 * size * width + underWay) + ((masters ? 2 : 4) * matrices) / layers,
    logits: onGpu
      ? table + tokens * width * size + Math.max(0, pieceBytes(question, tokens, compiled && half) - tokens * underWay)
      : (half ? 2.5 : 3) * table + tokens * width * size + pieceBytes(question, tokens, false),
    runtime: onGpu ? CUDA_CONTEXT : PYTHON + (recompute || compiled ? RECOMPUTING : 0),
  }
  // processes share the memory of the host, and have a GPU each
  return onGpu ? parts : scaled(parts, processes)
}

const scaled = (parts: Components, times: number): Components => ({
  weights: times * parts.weights,
  gradients: times * parts.gradients,
  optimizer: times * parts.optimizer,
  activations: times * parts.activations,
  logits: times * parts.logits,
  runtime: times * parts.runtime,
})

/** Of logits and what is computed from them. `lean`: in compiled half precision they and their gradient are all there is. */
const pieceBytes = ({ architecture, room }: MemoryQuestion, tokens: number, lean: boolean): number => {
  const { vocabulary } = architecture
  const elements = (lean ? 2 : 1) * PIECE[room.device]
  const piece = Math.min(tokens, Math.max(LEAST_TOKENS, Math.floor(elements / vocabulary)))
  return (lean ? 4 : 12) * piece * vocabulary
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

/** FSDP where asked for, or where one GPU would not hold weights, gradients and moments: decided before anything is tried. */
const isSharded = ({ architecture, numerics, room, settings = {} }: MemoryQuestion): boolean => {
  const { processes = 1, sharding = "auto", memoryFraction = 1 } = settings
  if (processes === 1 || sharding !== "auto") return processes > 1 && sharding === "fsdp"
  const held = (settingsOf(numerics.precision).optimizerState === "8bit" ? 10 : 16) * parameterCount(architecture)
  return room.device === "gpu" && held > 0.7 * (room.gpuBytes ?? 0) * memoryFraction
}

/** Ways to make it fit, from cheap to dear, as far as the settings leave a choice: those of the worker (`memory.py`). */
export const ladder = (question: MemoryQuestion): ReadonlyArray<Omit<Choice, "microBatchRows">> => {
  const { room, settings = {} } = question
  const given = (setting: boolean | "auto" | undefined): ReadonlyArray<boolean> =>
    typeof setting === "boolean" ? [setting] : room.device === "gpu" ? [false, true] : [false]
  const sharded = isSharded(question)
  const offloads = given(settings.offloadOptimizer)
  const recomputes = given(settings.activationCheckpointing)
  const free = offloads.length > 1 && recomputes.length > 1
  return offloads.flatMap((offload) =>
    recomputes
      .filter((recompute) => recompute || !(offload && free))
      .map((recompute) => ({ recompute, offload, sharded })),
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
  const masters = movesMasters(question, choice) ? 4 * matrixParameters(architecture) : 0
  const host: Components | undefined = onGpu
    ? { ...nothing, runtime: CUDA_PYTHON, ...(choice.offload && { weights: masters, optimizer: moments }) }
    : undefined
  const rows = choice.microBatchRows
  const how = [
    `micro-batches of ${rows} ${rows === 1 ? "row" : "rows"}`,
    ...(choice.recompute ? ["activations computed twice"] : []),
    ...(choice.offload ? ["moments in the machine's memory"] : []),
    ...(choice.sharded ? [`weights and moments shared out over ${settings.processes} processes`] : []),
  ]
  const lacks =
    totalOf(parts) > there
      ? `it takes ${amount(totalOf(parts))}, ${onGpu ? "the GPU" : "this machine"} has ${amount(limit)}`
      : host !== undefined && totalOf(host) > room.hostBytes
        ? `beside the GPU it takes ${amount(totalOf(host))} of memory, this machine has ${amount(room.hostBytes)}`
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
