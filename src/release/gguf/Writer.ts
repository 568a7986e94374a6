/**
 * Writes a model as GGUF, a few rows at a time: a safetensors file of any size costs two pieces of memory and is read once. The same
 * model, type and importance are the same bytes, on every machine: so whoever has them can hold a file against what it should be.
 */
import { closeSync, openSync, writeSync } from "node:fs"
import * as Effect from "effect/Effect"
import { type BlockName, type FileType, fileTypes, isWeighed } from "../../model/GgufType.ts"
import { type About, aboutKeys } from "./About.ts"
import { type BlockType, bytesOf } from "./BlockTypes.ts"
import { aligned, attempt, encodeHeader, type GgufFailed, type Metadata, NO_ROOM, text, u32 } from "./Gguf.ts"
import type { Importance } from "./Importance.ts"
import { blockTypeOf } from "./Mixture.ts"
import { type Shape, shapeOf } from "./Shape.ts"
import { type Matrix, Weights } from "./Source.ts"
import { type SpecialIds, vocabularyKeys } from "./Vocabulary.ts"

/** What a file is made of. */
export interface Making {
  /** safetensors under the names of `transformers`, in one file. */
  readonly weights: string
  /** `config.json`, parsed. */
  readonly config: Readonly<Record<string, unknown>>
  /** `tokenizer.json`, parsed. */
  readonly tokenizer: unknown
  readonly ids: SpecialIds
  readonly about: About
  readonly type: FileType
  readonly importance?: Importance
}

export interface ConvertRequest extends Making {
  readonly to: string
  /** Called with the bytes written so far and in all. */
  readonly progress?: (done: number, total: number) => void
}

export interface Written {
  readonly bytes: number
  /** Of quantised tensors and all others. */
  readonly types: Readonly<Record<string, BlockName>>
  readonly parameters: number
}

/** A stretch of a file: its header, or rows of a tensor, or the zeros behind it. */
export interface Piece {
  /** Name of the tensor, or `header`. */
  readonly of: string
  /** Good until the next piece is asked for. */
  readonly bytes: Uint8Array
}

export interface Made extends Written {
  readonly pieces: Iterator<Piece, undefined>
}

/** Numbers of a piece: what bounds memory. */
const PIECE = 1 << 22
const QUANTISATION_VERSION = 2

interface Planned {
  readonly matrix: Matrix
  readonly type: BlockType
  readonly importance: Float32Array
  readonly offset: number
  readonly bytes: number
}

const plan = (
  weights: Weights,
  shape: Shape,
  type: FileType,
  importance: Importance | undefined,
): ReadonlyArray<Planned> => {
  let offset = 0
  return shape.tensors.map(({ from, name, layout }) => {
    const matrix = weights.matrix(from, name, layout)
    const columns = matrix.shape.at(-1)!
    const block = blockTypeOf(type, name, matrix.shape, shape.mixture, importance !== undefined)
    const found = importance?.columns.get(name)
    if (found !== undefined && found.length !== columns)
      throw new Error(`the importance of \`${name}\` is that of ${found.length} columns, it has ${columns}`)
    const bytes = bytesOf(
      block,
      matrix.shape.reduce((a, b) => a * b, 1),
    )
    const planned = {
      matrix,
      type: block,
      importance: found ?? new Float32Array(columns).fill(1),
      offset,
      bytes,
    }
    offset += aligned(bytes)
    return planned
  })
}

const header = (request: Making, shape: Shape, planned: ReadonlyArray<Planned>): Uint8Array => {
  const { about, importance, type } = request
  const metadata: Metadata = [
    ...shape.metadata.slice(0, 1),
    ...aboutKeys(about),
    ["general.quantization_version", u32(QUANTISATION_VERSION)],
    ["general.file_type", u32(fileTypes[type].id)],
    ...shape.metadata.slice(1),
    ...vocabularyKeys(request.tokenizer, request.ids, shape.vocabulary),
    ...(importance === undefined || !isWeighed(type)
      ? []
      : ([
          ["quantize.imatrix.dataset", text(importance.dataset)],
          ["quantize.imatrix.entries_count", u32(importance.columns.size)],
          ["quantize.imatrix.chunks_count", u32(importance.rows)],
        ] satisfies Metadata)),
  ]
  return encodeHeader(
    metadata,
    planned.map(({ matrix, type, offset }) => ({ name: matrix.name, shape: matrix.shape, type: type.id, offset })),
  )
}

function* piecesOf(head: Uint8Array, planned: ReadonlyArray<Planned>): Generator<Piece, undefined> {
  yield { of: "header", bytes: head }
  const piece = new Float32Array(Math.max(PIECE, ...planned.map(({ matrix }) => matrix.shape.at(-1)!)))
  const coded = new Uint8Array(4 * piece.length + 4)
  for (const { matrix, type, importance, bytes } of planned) {
    const of = matrix.name
    const columns = matrix.shape.length > 1 ? matrix.shape.at(-1)! : 1
    const rows = matrix.shape[0]!
    const atOnce = Math.max(1, Math.floor(piece.length / columns))
    for (let first = 0; first < rows; first += atOnce) {
      const numbers = piece.subarray(0, Math.min(atOnce, rows - first) * columns)
      const to = coded.subarray(0, bytesOf(type, numbers.length))
      matrix.read(first, numbers)
      type.encode(numbers, columns, importance, to)
      yield { of, bytes: to }
    }
    yield { of, bytes: new Uint8Array(aligned(bytes) - bytes) }
  }
}

const READABLE = "GGUF is written of GPT-2 and LLaMA shapes, from one whole safetensors file"

const reading = <A>({ weights }: Making, run: () => A) => attempt(weights, READABLE, run)

/** What a file is, piece by piece, while the scope is open. */
export const make = Effect.fn("gguf.make")(function* (request: Making) {
  const weights = yield* Effect.acquireRelease(
    reading(request, () => new Weights(request.weights)),
    (weights) => Effect.sync(() => weights.close()),
  )
  return yield* reading(request, (): Made => {
    const shape = shapeOf(request.config, new Set(weights.tensors.keys()))
    const planned = plan(weights, shape, request.type, request.importance)
    const head = header(request, shape, planned)
    const last = planned.at(-1)!
    return {
      bytes: head.length + last.offset + aligned(last.bytes),
      types: Object.fromEntries(planned.map(({ matrix, type }) => [matrix.name, type.name])),
      parameters: planned.reduce((sum, { matrix }) => sum + matrix.shape.reduce((a, b) => a * b, 1), 0),
      pieces: piecesOf(head, planned),
    }
  })
})

/** The next piece, as one that may fail: the weights may. */
export const nextPiece = (request: Making, { pieces }: Made) => reading(request, () => pieces.next().value)

export const convert = Effect.fn("gguf.convert")(function* (
  request: ConvertRequest,
): Effect.fn.Return<Written, GgufFailed> {
  return yield* Effect.scoped(
    Effect.gen(function* () {
      const made = yield* make(request)
      const { bytes: total, types, parameters } = made
      const file = yield* Effect.acquireRelease(
        attempt(request.to, NO_ROOM, () => openSync(request.to, "w")),
        (file) => Effect.sync(() => closeSync(file)),
      )
      let done = 0
      for (let piece = yield* nextPiece(request, made); piece; piece = yield* nextPiece(request, made)) {
        const { bytes } = piece
        yield* attempt(request.to, NO_ROOM, () => {
          for (let from = 0; from < bytes.length; ) from += writeSync(file, bytes, from)
          done += bytes.length
          request.progress?.(done, total)
        })
        yield* Effect.yieldNow
      }
      return { bytes: done, types, parameters }
    }),
  )
})
