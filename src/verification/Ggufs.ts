/**
 * The GGUF files of a release: each is read as llama.cpp would read it, its keys are made again, and its numbers are held against the
 * weights they were made from.
 *
 * | kept as           | compared                                                                                        |
 * |-------------------|-------------------------------------------------------------------------------------------------|
 * | `F32`             | number by number                                                                                |
 * | `F16`, `BF16`     | number by number, with the weight rounded to it                                                 |
 * | blocks of integers | by tensor: root of the mean squared error, as a share of the root of the mean squared weight    |
 *
 * The share is at most a few steps of the integers; which columns an importance matrix favoured cannot be told from here. A tensor of
 * zeros is at 1, one of other weights above that. The figures of `quantisation.json` need texts and are not measured again.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { type BlockName, fileTypes } from "../model/GgufType.ts"
import type { QuantisedFile } from "../model/Report.ts"
import { modelConfig, plain } from "../release/Export.ts"
import type { ReleaseFiles } from "../release/Folder.ts"
import { aboutKeys } from "../release/gguf/About.ts"
import { blockTypes } from "../release/gguf/BlockTypes.ts"
import type { Metadata } from "../release/gguf/Gguf.ts"
import { type GgufFile, openGguf } from "../release/gguf/Reader.ts"
import { type Shape, shapeOf, type TensorPlan } from "../release/gguf/Shape.ts"
import { Weights } from "../release/gguf/Source.ts"
import { vocabularyKeys } from "../release/gguf/Vocabulary.ts"
import { type Finding, within } from "./Finding.ts"
import type { Release } from "./Release.ts"

const { ok, wrong, skipped } = within("weights")

/** Largest share of error by kind of block; `undefined`: none. */
const SHARE: Readonly<Record<BlockName, number | undefined>> = {
  F32: undefined,
  F16: undefined,
  BF16: undefined,
  Q8_0: 0.02,
  Q6_K: 0.08,
  Q5_0: 0.15,
  Q5_1: 0.15,
  Q5_K: 0.15,
  Q4_0: 0.3,
  Q4_1: 0.3,
  Q4_K: 0.3,
  Q3_K: 0.5,
  Q2_K: 0.75,
}

/** Said of one file, and following from none other: who made it, and what columns were weighed by. */
const isOfItsMaking = (key: string): boolean => key.startsWith("exp.") || key.startsWith("quantize.imatrix.")

const expectedKeys = (files: ReleaseFiles, { type }: QuantisedFile, shape: Shape, tokenizer: unknown): Metadata => [
  ...shape.metadata,
  ...aboutKeys({
    name: files.release.name,
    license: files.release.license,
    languages: files.tokens.languages,
    sources: files.inventory.sources
      .filter(({ role }) => role === "train")
      .map(({ source, licenses }) => ({ source, licenses: Object.keys(licenses).toSorted() })),
    preset: files.decoding.recommended,
    provenance: { "model.sha256": files.state.modelSha256 },
  }),
  ["general.quantization_version", { kind: "u32", value: 2 }],
  ["general.file_type", { kind: "u32", value: fileTypes[type as keyof typeof fileTypes].id }],
  ...vocabularyKeys(tokenizer, files.tokens, shape.vocabulary),
]

const compareKeys = (said: GgufFile["metadata"], expected: Metadata): string | undefined => {
  const made = new Map(expected)
  for (const [key, { kind, value }] of made) {
    const rounded = kind === "f32" ? Math.fround(value) : value
    if (JSON.stringify(said.get(key)) !== JSON.stringify(rounded))
      return `\`${key}\` is ${String(JSON.stringify(said.get(key))).slice(0, 100)}, and follows as ${JSON.stringify(rounded).slice(0, 100)}`
  }
  const strange = [...said.keys()].find((key) => !made.has(key) && !isOfItsMaking(key))
  return strange === undefined ? undefined : `it has the key \`${strange}\`, which no file of \`exp\` has`
}

/** The numbers of a tensor, in the order that the file has them. */
const inOrder = (weights: Weights, { from, name, layout }: TensorPlan): Float32Array => {
  const matrix = weights.matrix(from, name, layout)
  const numbers = new Float32Array(matrix.shape.reduce((a, b) => a * b, 1))
  matrix.read(0, numbers)
  return numbers
}

/** What the nearest numbers of a type without blocks are. */
const rounded = (numbers: Float32Array, name: BlockName): Float32Array => {
  const type = blockTypes[name]
  const bytes = new Uint8Array(numbers.length * type.bytes)
  const back = new Float32Array(numbers.length)
  type.encode(numbers, 1, new Float32Array(1), bytes)
  type.decode(bytes, back)
  return back
}

const shareOfError = (numbers: Float32Array, weights: Float32Array): number => {
  let [error, size] = [0, 0]
  for (let i = 0; i < weights.length; i++) {
    error += (numbers[i]! - weights[i]!) ** 2
    size += weights[i]! ** 2
  }
  return error === 0 ? 0 : Math.sqrt(error / size)
}

const compareTensor = (numbers: Float32Array, weights: Float32Array, kept: BlockName): string | undefined => {
  if (numbers.length !== weights.length) return `has ${numbers.length} numbers, not ${weights.length}`
  const most = SHARE[kept]
  if (most === undefined) {
    const expected = rounded(weights, kept)
    const at = numbers.findIndex((number, i) => number !== expected[i])
    return at < 0 ? undefined : `has ${numbers[at]} for the weight ${weights[at]}`
  }
  const share = shareOfError(numbers, weights)
  return share <= most
    ? undefined
    : `is ${share.toFixed(2)} of its size away from the weights; ${kept} is at most ${most}`
}

const checkFile = Effect.fnUntraced(function* (
  path: string,
  entry: QuantisedFile,
  files: ReleaseFiles,
  weights: Weights,
  tokenizer: unknown,
  bytes: number,
) {
  const config = plain(modelConfig(files.training.architecture, files.tokens)) as Readonly<Record<string, unknown>>
  const shape = shapeOf(config, new Set(weights.tensors.keys()))
  const file = yield* openGguf(path)
  const problems: Array<string> = []
  if (!Object.hasOwn(fileTypes, entry.type)) return [`\`${entry.type}\` is no type of file`]
  if (bytes !== entry.bytes) problems.push(`it has ${bytes} bytes, not ${entry.bytes}`)
  const keys = compareKeys(file.metadata, expectedKeys(files, entry, shape, tokenizer))
  if (keys !== undefined) problems.push(keys)
  const planned = new Map(shape.tensors.map((tensor) => [tensor.name, tensor]))
  const missing = [...planned.keys()].find((name) => !file.tensors.some((tensor) => tensor.name === name))
  if (missing !== undefined) problems.push(`it has no tensor \`${missing}\``)
  if (file.tensors.length !== planned.size) problems.push(`it has ${file.tensors.length} tensors, not ${planned.size}`)
  for (const { name, type } of file.tensors) {
    const plan = planned.get(name)
    if (plan === undefined) continue
    const said = entry.matrices[name] ?? "F32"
    if (type.name !== said) problems.push(`\`${name}\` is kept as ${type.name}, not as ${said}`)
    const problem = compareTensor(yield* file.numbers(name), inOrder(weights, plan), type.name)
    if (problem !== undefined) problems.push(`\`${name}\` ${problem}`)
  }
  return problems
}, Effect.scoped)

export const checkGgufs = Effect.fn("verification.checkGgufs")(function* (
  { view, listing }: Release,
  files: ReleaseFiles,
) {
  const { quantisation } = files
  if (quantisation === undefined) return []
  const findings: Array<Finding> = []
  const weights = yield* Effect.acquireRelease(
    Effect.sync(() => new Weights(join(view, "model.safetensors"))),
    (weights) => Effect.sync(() => weights.close()),
  )
  const tokenizer: unknown = JSON.parse(readFileSync(join(view, "tokenizer.json"), "utf8"))
  for (const entry of quantisation.files) {
    const { file } = entry
    const bytes = listing.files.find(({ path }) => path === file)?.bytes
    if (bytes === undefined) {
      findings.push(wrong(file, "is missing: quantisation.json names it"))
      continue
    }
    const checked = yield* Effect.result(
      checkFile(join(view, file), entry, files, weights, tokenizer, bytes).pipe(
        Effect.catchDefect((cause) => Effect.fail(cause instanceof Error ? cause : new Error(String(cause)))),
      ),
    )
    const problems =
      checked._tag === "Success"
        ? checked.success
        : ["problem" in checked.failure ? checked.failure.problem : checked.failure.message]
    findings.push(
      ...problems.slice(0, 5).map((problem) => wrong(file, problem)),
      ...(problems.length > 5 ? [wrong(file, `and ${problems.length - 5} others`)] : []),
      ...(problems.length === 0
        ? [ok(file, "its keys follow from the release, and its numbers from the weights")]
        : []),
    )
  }
  findings.push(
    skipped("quantisation.json", "what each file costs in quality was measured on texts, and is not measured again"),
  )
  return findings
}, Effect.scoped)
