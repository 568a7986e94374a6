/**
 * The memory that all workers of one training share, and who may do what in it.
 *
 * The rows of a step are cut into lanes. A lane's gradient is the work of one worker, whichever comes first, and lanes are added in
 * lane order, so the sum is the same bits for any number of workers. For that, how rows are cut must depend on nothing but the
 * request: see `laneCount`. Afterwards the flat parameter vector is cut into pieces that anybody may reduce and update.
 *
 * An update goes from one generation of weights and moments to the other, so the one before is whole until the next step: a resume
 * point can be of a step whose telemetry is known to have been received.
 *
 * | offset   | what                                                                       |
 * |----------|----------------------------------------------------------------------------|
 * | 0        | int32 × 16: claims and barriers of a step (`Control`)                      |
 * | 64       | float64 × lanes: Σ −log p of each lane                                     |
 * |          | float64 × pieces: Σ g² of each piece                                       |
 * |          | float32 × N × 6: weights, first and second moments, in two generations     |
 * |          | float32 × N × lanes: gradients; lane 0 becomes their sum                   |
 */
import { type Architecture, type TensorSpec, tensors } from "../../model/Architecture.ts"

/** Tokens that keep a worker busy long enough to be worth a gradient of its own. */
const LANE_TOKENS = 128
const MAX_LANES = 8

/** Lanes of a step: a rule on the request alone, never on the machine. Changing it changes bits: raise `numerics`. */
export const laneCount = (rowsPerStep: number, context: number): number =>
  Math.max(1, Math.min(rowsPerStep, MAX_LANES, Math.floor((rowsPerStep * context) / LANE_TOKENS)))

/** Rows [first, last) of a lane. */
export const laneRows = (lane: number, lanes: number, rowsPerStep: number): readonly [number, number] => [
  Math.floor((lane * rowsPerStep) / lanes),
  Math.floor(((lane + 1) * rowsPerStep) / lanes),
]

/** Rows whose activations are in memory at once. Also a rule on the request alone: gradients of groups are added in fp32. */
export const rowsAtOnce = (context: number): number => Math.max(1, Math.floor(1024 / context))

export const Control = {
  laneClaim: 0,
  lanesDone: 1,
  reduceClaim: 2,
  reduceDone: 3,
  updateClaim: 4,
  abort: 5,
} as const

interface Piece {
  readonly first: number
  readonly size: number
  readonly decayed: boolean
}

const PIECE = 1 << 15

const align = (bytes: number): number => Math.ceil(bytes / 64) * 64

const sizeOf = (tensor: TensorSpec): number => tensor.shape.reduce((a, b) => a * b, 1)

/** Where each tensor lies in a flat vector of parameters. */
export const flatLayout = (
  architecture: Architecture,
): ReadonlyArray<{ readonly spec: TensorSpec; readonly first: number; readonly size: number }> => {
  let first = 0
  return tensors(architecture).map((spec) => {
    const placed = { spec, first, size: sizeOf(spec) }
    first += placed.size
    return placed
  })
}

export interface Generation {
  readonly weights: Float32Array<SharedArrayBuffer>
  readonly moments: readonly [Float32Array<SharedArrayBuffer>, Float32Array<SharedArrayBuffer>]
}

export interface TrainMemory {
  readonly memory: WebAssembly.Memory
  readonly lanes: number
  readonly parameters: number
  readonly control: Int32Array<SharedArrayBuffer>
  readonly laneLosses: Float64Array<SharedArrayBuffer>
  readonly squares: Float64Array<SharedArrayBuffer>
  readonly generations: readonly [Generation, Generation]
  readonly gradients: ReadonlyArray<Float32Array<SharedArrayBuffer>>
  readonly pieces: ReadonlyArray<Piece>
}

/** Offsets in bytes, by arithmetic alone: a plan asks this also of models that have a billion pieces. */
const measure = (architecture: Architecture, lanes: number) => {
  const layout = flatLayout(architecture)
  const parameters = layout.reduce((sum, { size }) => sum + size, 0)
  const count = layout.reduce((sum, { size }) => sum + Math.ceil(size / PIECE), 0)
  const losses = 64
  const squares = losses + 8 * lanes
  const weights = align(squares + 8 * count)
  const stride = align(4 * parameters)
  return { parameters, losses, squares, weights, stride, bytes: weights + stride * (6 + lanes) }
}

const piecesOf = (architecture: Architecture): ReadonlyArray<Piece> => {
  const pieces: Array<Piece> = []
  for (const { spec, first, size } of flatLayout(architecture))
    for (let at = 0; at < size; at += PIECE)
      pieces.push({ first: first + at, size: Math.min(PIECE, size - at), decayed: spec.decayed })
  return pieces
}

export const trainMemoryBytes = (architecture: Architecture, lanes: number): number =>
  measure(architecture, lanes).bytes

export const allocate = (architecture: Architecture, lanes: number): WebAssembly.Memory => {
  const pages = Math.ceil(measure(architecture, lanes).bytes / 65536)
  return new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true })
}

/** The same views for every thread that holds the memory. */
export const trainMemory = (memory: WebAssembly.Memory, architecture: Architecture, lanes: number): TrainMemory => {
  const { parameters, losses, squares, weights, stride } = measure(architecture, lanes)
  const pieces = piecesOf(architecture)
  const buffer = memory.buffer as SharedArrayBuffer
  const vector = (n: number) => new Float32Array(buffer, weights + n * stride, parameters)
  return {
    memory,
    lanes,
    parameters,
    control: new Int32Array(buffer, 0, 16),
    laneLosses: new Float64Array(buffer, losses, lanes),
    squares: new Float64Array(buffer, squares, pieces.length),
    generations: [
      { weights: vector(0), moments: [vector(1), vector(2)] },
      { weights: vector(3), moments: [vector(4), vector(5)] },
    ],
    gradients: Array.from({ length: lanes }, (_, lane) => vector(6 + lane)),
    pieces,
  }
}
