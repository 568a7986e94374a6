/** Reads a GGUF file back: its keys, and its tensors as numbers, whatever blocks they are kept in. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs"
import * as Effect from "effect/Effect"
import { because } from "../../model/Because.ts"
import { type BlockType, blockTypeById, bytesOf } from "./BlockTypes.ts"
import { decodeHeader, GgufFailed, type Header, MAX_HEADER_BYTES, type Plain } from "./Gguf.ts"
import { type Shape, shapeOf } from "./Shape.ts"

export interface GgufTensor {
  readonly name: string
  readonly shape: ReadonlyArray<number>
  readonly type: BlockType
  readonly bytes: number
}

export interface GgufFile {
  readonly metadata: ReadonlyMap<string, Plain>
  readonly tensors: ReadonlyArray<GgufTensor>
  /** The numbers of a tensor, row after row. */
  readonly numbers: (name: string) => Effect.Effect<Float32Array, GgufFailed>
}

const HINT = "the file is damaged or no GGUF of version 3; make or download it again"
const FIRST_BYTES = 1 << 20

const exactly = (file: number, target: Uint8Array, position: number): void => {
  for (let done = 0; done < target.length; ) {
    const read = readSync(file, target, done, target.length - done, position + done)
    if (read === 0) throw new Error(`the file ends at byte ${position + done}`)
    done += read
  }
}

const headerOf = (file: number, size: number): Header => {
  for (let length = FIRST_BYTES; ; length *= 4) {
    const bytes = Buffer.alloc(Math.min(length, size))
    exactly(file, bytes, 0)
    const header = decodeHeader(bytes)
    if (header !== undefined) return header
    if (bytes.length === size || length >= MAX_HEADER_BYTES) throw new Error("the header goes on beyond the file")
  }
}

/** Open while the scope is. */
export const openGguf = Effect.fn("gguf.open")(function* (path: string) {
  const attempt = <A>(run: () => A) =>
    Effect.try({
      try: run,
      catch: (error) =>
        because(
          new GgufFailed({ path, problem: error instanceof Error ? error.message : String(error), hint: HINT }),
          error,
        ),
    })
  const file = yield* Effect.acquireRelease(
    attempt(() => openSync(path, "r")),
    (file) => Effect.sync(() => closeSync(file)),
  )
  const { size } = yield* attempt(() => fstatSync(file))
  const header = yield* attempt(() => headerOf(file, size))
  const tensors = yield* attempt(() =>
    header.tensors.map(({ name, shape, type: id, offset }) => {
      const type = blockTypeById(id)
      if (type === undefined) throw new Error(`\`${name}\` is kept in blocks of type ${id}, which are not known`)
      if ((shape.at(-1) ?? 1) % type.numbers !== 0)
        throw new Error(`the rows of \`${name}\` are no multiple of ${type.numbers}`)
      const bytes = bytesOf(
        type,
        shape.reduce((a, b) => a * b, 1),
      )
      if (!(header.dataStart + offset + bytes <= size)) throw new Error(`\`${name}\` goes on beyond the file`)
      return { name, shape, type, bytes, at: header.dataStart + offset }
    }),
  )
  const numbers = (name: string) =>
    attempt(() => {
      const found = tensors.find((tensor) => tensor.name === name)
      if (found === undefined) throw new Error(`there is no tensor \`${name}\``)
      const bytes = new Uint8Array(found.bytes)
      exactly(file, bytes, found.at)
      const to = new Float32Array((found.bytes / found.type.bytes) * found.type.numbers)
      found.type.decode(bytes, to)
      return to
    })
  return { metadata: header.metadata, tensors, numbers } satisfies GgufFile
})

/**
 * The tensors as `transformers` and our engine have them: what is really in the file, so that a measurement of it is one of what people
 * will run.
 */
export const readTensors = Effect.fn("gguf.readTensors")(function* (
  file: GgufFile,
  config: Readonly<Record<string, unknown>>,
  names: ReadonlySet<string>,
) {
  const shape: Shape = shapeOf(config, names)
  return yield* Effect.forEach(shape.tensors, ({ from, name, layout }) =>
    Effect.gen(function* () {
      const numbers = yield* file.numbers(name)
      const { shape } = file.tensors.find((tensor) => tensor.name === name)!
      if (layout._tag === "Rows") return { name: from, shape, data: numbers }
      const [rows, columns] = shape as [number, number]
      if (layout._tag === "Paired")
        return { name: from, shape, data: unpaired(numbers, rows, columns, rows / layout.heads) }
      const data = new Float32Array(numbers.length)
      for (let r = 0; r < rows; r++) for (let c = 0; c < columns; c++) data[c * rows + r] = numbers[r * columns + c]!
      return { name: from, shape: [columns, rows], data }
    }),
  )
})

/** Rows of heads `size` high, where llama.cpp has pairs side by side, as `transformers` has them: half a head apart. */
const unpaired = (numbers: Float32Array, rows: number, columns: number, size: number): Float32Array => {
  const data = new Float32Array(numbers.length)
  for (let r = 0; r < rows; r++) {
    const within = r % size
    const to = r - within + (within % 2) * (size / 2) + (within >> 1)
    data.set(numbers.subarray(r * columns, (r + 1) * columns), to * columns)
  }
  return data
}
