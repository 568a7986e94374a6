/**
 * The importance matrix as a file, in the form that llama.cpp's own tools write and read (`llama-quantize --imatrix`):
 *
 * | key or tensor             | what                                                                   |
 * |---------------------------|------------------------------------------------------------------------|
 * | `general.type`            | `imatrix`                                                              |
 * | `imatrix.datasets`        | where the text is from, one entry                                      |
 * | `imatrix.chunk_count`     | rows of text                                                           |
 * | `imatrix.chunk_size`      | tokens of a row                                                        |
 * | `<matrix>.in_sum2`        | F32 [1, columns]: sum of squares of what each column is multiplied with |
 * | `<matrix>.counts`         | F32 [1, 1]: how many tokens were summed                                |
 *
 * It goes with the files that were weighed by it, so that they can be made again from the weights, byte for byte.
 */
import { writeFileSync } from "node:fs"
import * as Effect from "effect/Effect"
import { blockTypes } from "./BlockTypes.ts"
import { aligned, attempt, encodeHeader, GgufFailed, type Metadata, NO_ROOM, text, texts, u32 } from "./Gguf.ts"
import { type Importance, importanceOf } from "./Importance.ts"
import { openGguf } from "./Reader.ts"

const [SUMS, COUNTS] = [".in_sum2", ".counts"] as const

export interface Sums {
  /** By GGUF name: a sum of squares a column. */
  readonly columns: ReadonlyMap<string, Float32Array>
  readonly dataset: string
  readonly rows: number
  /** Tokens of a row. */
  readonly length: number
}

export const writeSums = (path: string, { columns, dataset, rows, length }: Sums): Effect.Effect<void, GgufFailed> =>
  attempt(path, NO_ROOM, () => {
    const metadata: Metadata = [
      ["general.type", text("imatrix")],
      ["imatrix.datasets", texts([dataset])],
      ["imatrix.chunk_count", u32(rows)],
      ["imatrix.chunk_size", u32(length)],
    ]
    const tensors = [...columns].flatMap(([name, sums]) => [
      { name: name + SUMS, numbers: sums },
      { name: name + COUNTS, numbers: Float32Array.of(rows * length) },
    ])
    let end = 0
    const placed = tensors.map(({ name, numbers }) => {
      const offset = end
      end += aligned(numbers.byteLength)
      return { name, numbers, shape: [1, numbers.length], type: blockTypes.F32.id, offset }
    })
    const data = new Uint8Array(end)
    for (const { numbers, offset } of placed)
      data.set(new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength), offset)
    writeFileSync(path, Buffer.concat([encodeHeader(metadata, placed), data]))
  })

/** Columns that were summed over no token, or to no number, are refused: nothing can be weighed by them. */
export const readSums = Effect.fn("gguf.readSums")(function* (path: string) {
  const { metadata, tensors, numbers } = yield* openGguf(path)
  const refuse = (problem: string) =>
    new GgufFailed({ path, problem, hint: "it is no importance matrix as `quantise` makes them; make it again" })
  if (metadata.get("general.type") !== "imatrix") return yield* refuse("it is no importance matrix")
  const [datasets, rows, length] = ["datasets", "chunk_count", "chunk_size"].map((key) =>
    metadata.get(`imatrix.${key}`),
  )
  const dataset = Array.isArray(datasets) ? datasets[0] : undefined
  if (typeof dataset !== "string" || typeof rows !== "number" || typeof length !== "number")
    return yield* refuse("it does not say of which text it is")
  const columns = new Map<string, Float32Array>()
  for (const { name } of tensors) {
    const read = yield* numbers(name)
    if (name.endsWith(COUNTS)) {
      if (read.length !== 1 || read[0] !== rows * length)
        return yield* refuse(`\`${name}\` is not the number of its tokens, ${rows * length}`)
    } else if (name.endsWith(SUMS)) {
      if (!read.every((sum) => sum >= 0 && Number.isFinite(sum)))
        return yield* refuse(`\`${name}\` has what is no sum of squares`)
      columns.set(name.slice(0, -SUMS.length), read)
    } else return yield* refuse(`\`${name}\` is no part of one`)
  }
  return { columns, dataset, rows, length } satisfies Sums
}, Effect.scoped)

/** How much each column matters, as the file says. */
export const readImportance = (path: string): Effect.Effect<Importance, GgufFailed> =>
  Effect.map(readSums(path), ({ columns, dataset, rows }) => ({
    columns: new Map([...columns].map(([name, sums]) => [name, importanceOf(sums)])),
    dataset,
    rows,
  }))
