/** Files for llama.cpp held against the weights they were made from. `EXP_FAULT_BYTES=1000` flips some thousand bits in each. */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { table } from "../../src/cli/Table.ts"
import { type FileType, fileTypes, isWeighed } from "../../src/model/GgufType.ts"
import { stream } from "../../src/model/Random.ts"
import { decodeHeader } from "../../src/release/gguf/Gguf.ts"
import { readImportance, readSums, type Sums, writeSums } from "../../src/release/gguf/ImportanceFile.ts"
import { convert, type Making } from "../../src/release/gguf/Writer.ts"
import { fileProblems } from "../../src/verification/Ggufs.ts"
import { about, randomModel } from "../release/gguf/model.ts"
import { temporaryFolder } from "../temporary.ts"

const ASKED = process.env["EXP_FAULT_BYTES"]
const ROUNDS = ASKED === undefined ? 1 : Math.ceil((ASKED === "all" ? 1000 : Number(ASKED)) / 16)

const shape = { layers: 1, width: 256, heads: 4, context: 16 }

/** Positive, of very different sizes, and one column that was never used. */
const sumsOf = (matrices: ReadonlyMap<string, number>): Sums => ({
  columns: new Map(
    [...matrices].map(([name, columns]) => {
      const random = stream(1, name)
      return [name, Float32Array.from({ length: columns }, (_, i) => (i === 3 ? 0 : Math.exp(3 * random.normal(i))))]
    }),
  ),
  dataset: "training rows of random",
  rows: 8,
  length: 16,
})

const ends = (starts: ReadonlyArray<{ readonly name: string; readonly from: number }>, length: number) =>
  starts.map((start, i) => ({ ...start, to: starts[i + 1]?.from ?? length }))

const matrices = new Map([
  ["token_embd.weight", 256],
  ["blk.0.attn_qkv.weight", 256],
  ["blk.0.attn_output.weight", 256],
  ["blk.0.ffn_up.weight", 256],
  ["blk.0.ffn_down.weight", 1024],
])

describe("a file for llama.cpp", () => {
  it.effect(
    "is found to be other than the weights make it by one flipped bit in header, block or padding, of whatever type it is",
    () =>
      Effect.gen(function* () {
        const folder = temporaryFolder()
        const { request } = yield* randomModel(folder, shape)
        const importanceFile = join(folder, "imatrix.gguf")
        yield* writeSums(importanceFile, sumsOf(matrices))
        const importance = yield* readImportance(importanceFile)
        const random = stream(20_261_122, "flips in gguf")
        let drawn = 0
        const rows: Array<ReadonlyArray<string>> = []
        for (const type of Object.keys(fileTypes) as ReadonlyArray<FileType>)
          for (const weighed of isWeighed(type) ? [false, true] : [false]) {
            const to = join(folder, `${type}.gguf`)
            const making: Making = { ...request, about, type, ...(weighed && { importance }) }
            const { bytes: length } = yield* convert({ ...making, to })
            assert.deepStrictEqual(yield* fileProblems(to, making), [], `${type} as it was made`)
            const bytes = readFileSync(to)
            const header = decodeHeader(bytes)!
            const starts = header.tensors.map(({ name, offset }) => ({ name, from: header.dataStart + offset }))
            let flipped = 0
            for (let round = 0; round < ROUNDS; round++) {
              // one bit of the header and one of each tensor (the zeros behind it are its own), all at once
              const parts = [{ name: "header", from: 0, to: header.dataStart }, ...ends(starts, length)]
              const changed = Buffer.from(bytes)
              for (const { from, to } of parts) {
                const at = from + Math.floor(random.uniform(drawn++) * (to - from))
                changed[at]! ^= 1 << (random.word(drawn++) % 8)
              }
              writeFileSync(to, changed)
              const found = yield* fileProblems(to, making)
              const tensors = starts.map(({ name }) => `\`${name}\` is not what the weights give`)
              const named = tensors.filter((tensor) => found.some((one) => one.startsWith(tensor)))
              assert.deepStrictEqual(named, tensors, `${type}, round ${round}`)
              assert.isAbove(found.length, tensors.length, `${type}, header in round ${round}`)
              flipped += parts.length
            }
            rows.push([type, weighed ? "weighed" : "", String(length), String(flipped)])
          }
        if (ASKED !== undefined)
          console.log(table(["type", "", "bytes", "flipped and found"], rows, ["left", "left", "right", "right"]))
      }).pipe(Effect.scoped),
    600_000,
  )

  it.effect(
    "weighed by an importance matrix is another file than one that was not, and than one weighed otherwise",
    () =>
      Effect.gen(function* () {
        const folder = temporaryFolder()
        const { request } = yield* randomModel(folder, shape)
        const to = join(folder, "weighed.gguf")
        const file = join(folder, "imatrix.gguf")
        const sums = sumsOf(matrices)
        yield* writeSums(file, sums)
        const making: Making = { ...request, about, type: "Q4_K_M", importance: yield* readImportance(file) }
        yield* convert({ ...making, to })
        const { importance: _, ...unweighed } = making
        assert.isNotEmpty(yield* fileProblems(to, unweighed))
        sums.columns.get("blk.0.ffn_up.weight")![17]! *= 3
        yield* writeSums(file, sums)
        assert.deepStrictEqual(
          (yield* fileProblems(to, { ...making, importance: yield* readImportance(file) })).map(
            (one) => one.split(",")[0],
          ),
          ["`blk.0.ffn_up.weight` is not what the weights give"],
        )
      }).pipe(Effect.scoped),
  )
})

describe("an importance matrix", () => {
  it.effect("comes back from its file, and says how much each column matters, the never used one least", () =>
    Effect.gen(function* () {
      const file = join(temporaryFolder(), "imatrix.gguf")
      const sums = sumsOf(matrices)
      yield* writeSums(file, sums)
      assert.deepStrictEqual(yield* readSums(file), sums)
      const { columns, rows, dataset } = yield* readImportance(file)
      assert.deepStrictEqual([rows, dataset], [8, "training rows of random"])
      const weights = columns.get("blk.0.ffn_down.weight")!
      assert.closeTo(weights.reduce((total, weight) => total + weight, 0) / weights.length, 1, 1e-3)
      assert.strictEqual(weights[3], Math.fround(1e-4))
    }).pipe(Effect.scoped),
  )

  it.effect("is refused with sums that are none, with another count, or where it is a model", () =>
    Effect.gen(function* () {
      const folder = temporaryFolder()
      const file = join(folder, "imatrix.gguf")
      const refused = (columns: ReadonlyMap<string, Float32Array>) =>
        Effect.andThen(
          writeSums(file, { ...sumsOf(matrices), columns }),
          Effect.map(Effect.flip(readSums(file)), ({ problem }) => problem),
        )
      assert.match(
        yield* refused(new Map([["a.weight", Float32Array.of(1, -1)]])),
        /`a\.weight\.in_sum2` has what is no sum/,
      )
      assert.match(yield* refused(new Map([["a.weight", Float32Array.of(1, Number.NaN)]])), /has what is no sum/)
      const { request } = yield* randomModel(folder, { ...shape, width: 32 })
      const model = join(folder, "model.gguf")
      yield* convert({ ...request, type: "F16", to: model })
      assert.strictEqual((yield* Effect.flip(readSums(model))).problem, "it is no importance matrix")
    }).pipe(Effect.scoped),
  )
})
