/**
 * The GGUF files of a release, made again from the weights, the tokenizer and the facts beside them, and compared byte for byte. How
 * a file is made is a function of these and of the importance matrix, which is a file of the release too; it computes with nothing that
 * differs between machines. So every header, every block and every padding must be the same to the last bit.
 *
 * A file that another version of the search for scales made (`encoding` of `quantisation.json`) cannot be made again here. Then its
 * keys and types are compared, and its numbers as far as every search keeps them: the scale that was chosen leaves at most the error
 * that no scale at all leaves, which is that of zeros, weighed as the file was weighed.
 *
 * The figures of `quantisation.json` and the sums of the importance matrix need texts: `Quantised.ts` measures them again.
 */
import { readFileSync } from "node:fs"
import { type FileHandle, open } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import { checkpointName } from "../model/Checkpoint.ts"
import { digest } from "../model/Digest.ts"
import { type FileType, fileTypes } from "../model/GgufType.ts"
import type { Quantisation, QuantisedFile } from "../model/Report.ts"
import { modelConfig, plain } from "../release/Export.ts"
import type { ReleaseFiles } from "../release/Folder.ts"
import { aboutOf } from "../release/gguf/About.ts"
import { ENCODING } from "../release/gguf/BlockTypes.ts"
import { decodeHeader, type Header, type Plain } from "../release/gguf/Gguf.ts"
import type { Importance } from "../release/gguf/Importance.ts"
import { readImportance, readSums } from "../release/gguf/ImportanceFile.ts"
import { type GgufFile, openGguf } from "../release/gguf/Reader.ts"
import { shapeOf } from "../release/gguf/Shape.ts"
import { Weights } from "../release/gguf/Source.ts"
import { type Made, type Making, make, nextPiece } from "../release/gguf/Writer.ts"
import { caught, judged } from "./Fault.ts"
import { type Finding, within } from "./Finding.ts"
import { LONGEST_TEXT, type Release } from "./Release.ts"

const { ok, wrong, skipped } = within("weights")

/** What a file is made of, by the release around it. */
const makingOf = (
  view: string,
  files: ReleaseFiles,
  tokenizer: string,
  { type, importance_matrix: weighed }: QuantisedFile,
  importance: Importance | undefined,
): Making => {
  const { release, inventory, decoding, state, tokens, benchmark } = files
  return {
    weights: join(view, "model.safetensors"),
    config: plain(modelConfig(files.training.architecture, tokens)) as Readonly<Record<string, unknown>>,
    tokenizer: JSON.parse(tokenizer),
    ids: tokens,
    about: aboutOf({
      name: release.name,
      license: release.license,
      languages: tokens.languages,
      inventory,
      preset: decoding.recommended,
      model: benchmark.model,
      modelIdentity: digest({ of: release.keys["decay"] ?? "", part: checkpointName(release.released_step) }),
      decodingIdentity: release.keys["sweep"] ?? "",
      tokenizer,
      state,
    }),
    type: type as FileType,
    ...(weighed && importance !== undefined && { importance }),
  }
}

const shown = (value: Plain | undefined): string => String(JSON.stringify(value)).slice(0, 100)

/** Keys that are said otherwise than they follow; the order of keys is looked at with the bytes. */
const compareKeys = (said: Header["metadata"], made: Header["metadata"]): ReadonlyArray<string> => {
  const off = [...made].filter(([key, value]) => JSON.stringify(said.get(key)) !== JSON.stringify(value))
  const strange = [...said.keys()].filter((key) => !made.has(key))
  return [
    ...off.map(([key, value]) => `\`${key}\` is ${shown(said.get(key))}, and follows as ${shown(value)}`),
    ...strange.map((key) => `it has the key \`${key}\`, which such a file has not`),
  ]
}

const headerProblems = (there: Buffer, made: Buffer): ReadonlyArray<string> => {
  const other = "its header is not the one that follows from the release"
  try {
    const said = decodeHeader(there)
    const keys = said === undefined ? [] : compareKeys(said.metadata, decodeHeader(made)!.metadata)
    return keys.length > 0 ? keys : [other]
  } catch (cause) {
    return [`${other}: ${cause instanceof Error ? cause.message : cause}`]
  }
}

const compareTypes = (said: QuantisedFile, made: Made): ReadonlyArray<string> =>
  Object.entries(made.types).flatMap(([name, type]) => {
    const kept = said.matrices[name] ?? "F32"
    return kept === type ? [] : [`quantisation.json says that \`${name}\` is kept as ${kept}, it follows as ${type}`]
  })

const exactly = async (file: FileHandle, length: number, position: number): Promise<Buffer> => {
  const bytes = Buffer.alloc(length)
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(bytes, done, length - done, position + done)
    if (bytesRead === 0) return bytes.subarray(0, done)
    done += bytesRead
  }
  return bytes
}

/** The file beside what it should be; each tensor that differs is named once, with where it does. */
const compareBytes = Effect.fnUntraced(function* (path: string, making: Making, made: Made) {
  const file = yield* Effect.acquireRelease(
    Effect.promise(() => open(path, "r")),
    (file) => Effect.promise(() => file.close()),
  )
  const problems = new Map<string, string>()
  let at = 0
  for (let piece = yield* nextPiece(making, made); piece; piece = yield* nextPiece(making, made)) {
    const { of, bytes } = piece
    const there = yield* Effect.promise(() => exactly(file, bytes.length, at))
    if (of === "header" && !there.equals(bytes))
      for (const problem of headerProblems(there, Buffer.from(bytes))) problems.set(problem, problem)
    else if (!there.equals(bytes) && !problems.has(of)) {
      const first = there.findIndex((byte, i) => byte !== bytes[i])
      const place = at + (first < 0 ? there.length : first)
      problems.set(of, `\`${of}\` is not what the weights give, first at byte ${place} of the file`)
    }
    at += bytes.length
    yield* Effect.yieldNow
  }
  return [...problems.values()]
}, Effect.scoped)

/** What of a file is not as it is made. */
export const fileProblems = Effect.fn("verification.fileProblems")(function* (path: string, making: Making) {
  return yield* compareBytes(path, making, yield* make(making))
}, Effect.scoped)

/** Σ w·(x − x̂)² as a share of Σ w·x². */
const shareOfError = (numbers: Float32Array, weights: Float32Array, importance: Float32Array | undefined): number => {
  let [error, size] = [0, 0]
  for (let i = 0; i < weights.length; i++) {
    const weight = importance === undefined ? 1 : importance[i % importance.length]!
    error += weight * (numbers[i]! - weights[i]!) ** 2
    size += weight * weights[i]! ** 2
  }
  return error === 0 ? 0 : error / size
}

/** What any search leaves true, of a file that another one made. */
const compareLoosely = Effect.fnUntraced(function* (file: GgufFile, making: Making, made: Made) {
  const problems: Array<string> = []
  const header = yield* nextPiece(making, made)
  if (header !== undefined) {
    const follows = decodeHeader(Buffer.from(header.bytes))!
    problems.push(...compareKeys(file.metadata, follows.metadata))
  }
  const weights = yield* Effect.acquireRelease(
    Effect.sync(() => new Weights(making.weights)),
    (weights) => Effect.sync(() => weights.close()),
  )
  for (const { from, name, layout } of shapeOf(making.config, new Set(weights.tensors.keys())).tensors) {
    const there = file.tensors.find((tensor) => tensor.name === name)
    if (there?.type.name !== made.types[name]) {
      problems.push(`\`${name}\` is kept as ${there?.type.name ?? "nothing"}, and follows as ${made.types[name]}`)
      continue
    }
    const matrix = weights.matrix(from, name, layout)
    const numbers = new Float32Array(matrix.shape.reduce((a, b) => a * b, 1))
    matrix.read(0, numbers)
    const share = shareOfError(yield* file.numbers(name), numbers, making.importance?.columns.get(name))
    if (!(share <= 1)) problems.push(`\`${name}\` is further from the weights than nothing at all`)
  }
  return problems
})

const checkFile = Effect.fnUntraced(function* (
  path: string,
  entry: QuantisedFile,
  making: Making,
  bytes: number,
  isOurs: boolean,
) {
  if (!Object.hasOwn(fileTypes, entry.type)) return [`\`${entry.type}\` is no type of file`]
  if (entry.importance_matrix && making.importance === undefined) return ["the matrix that weighed it is missing"]
  const made = yield* make(making)
  const problems = [...compareTypes(entry, made)]
  if (bytes !== entry.bytes) problems.push(`it has ${bytes} bytes, not ${entry.bytes}`)
  if (isOurs && bytes !== made.bytes) problems.push(`it has ${bytes} bytes, and follows with ${made.bytes}`)
  const found = isOurs
    ? yield* compareBytes(path, making, made)
    : yield* compareLoosely(yield* openGguf(path), making, made)
  return [...problems, ...found]
}, Effect.scoped)

/** The importance matrix itself, as far as it can be known without the texts. */
const importanceProblems = Effect.fnUntraced(function* (
  path: string,
  { rows, tokens, dataset }: NonNullable<Quantisation["importance"]>,
  matrices: ReadonlySet<string>,
) {
  const sums = yield* readSums(path)
  const strange = [...sums.columns.keys()].find((name) => !matrices.has(name))
  return [
    ...(strange === undefined ? [] : [`\`${strange}\` is no matrix of the model`]),
    ...(sums.rows === rows && sums.rows * sums.length === tokens && sums.dataset === dataset
      ? []
      : [`it is over ${sums.rows} rows of ${sums.dataset}, quantisation.json says otherwise`]),
  ]
})

const problemOf = (failure: unknown): ReadonlyArray<string> => {
  if (!(failure instanceof Error)) return [String(failure)]
  return ["problem" in failure ? String(failure.problem) : failure.message]
}

/** What a check finds, or why it could not be done: what throws here is a file that is not what it should be. */
const orProblem = <E, R>(check: Effect.Effect<ReadonlyArray<string>, E, R>) =>
  Effect.map(caught(check), (result) => (Result.isSuccess(result) ? result.success : problemOf(result.failure)))

export const checkGgufs = Effect.fn("verification.checkGgufs")(function* (
  { view, listing }: Release,
  files: ReleaseFiles,
) {
  const { quantisation } = files
  if (quantisation === undefined) return []
  const findings: Array<Finding> = []
  const sizes = new Map(listing.files.map(({ path, bytes }) => [path, bytes]))
  const isOurs = quantisation.encoding === ENCODING
  const tell = (file: string, problems: ReadonlyArray<string>, fine: string) => {
    findings.push(
      ...problems.slice(0, 5).map((problem) => wrong(file, problem)),
      ...(problems.length > 5 ? [wrong(file, `and ${problems.length - 5} others`)] : []),
      ...(problems.length === 0 ? [ok(file, fine)] : []),
    )
  }
  const missing = (file: string) => findings.push(wrong(file, "is missing: quantisation.json names it"))

  let importance: Importance | undefined
  const said = quantisation.importance
  if (said !== undefined && !sizes.has(said.file)) missing(said.file)
  else if (said !== undefined && sizes.get(said.file)! > LONGEST_TEXT)
    findings.push(wrong(said.file, "is too long to be one number for each column"))
  else if (said !== undefined) {
    const path = join(view, said.file)
    const matrices = new Set(quantisation.files.flatMap(({ matrices }) => Object.keys(matrices)))
    tell(
      said.file,
      yield* orProblem(importanceProblems(path, said, matrices)),
      "sums of squares for columns of the model, over as many rows as quantisation.json says",
    )
    importance = Result.getOrUndefined(yield* judged(readImportance(path)))
  }
  const tokenizer = readFileSync(join(view, "tokenizer.json"), "utf8")
  for (const entry of quantisation.files) {
    const bytes = sizes.get(entry.file)
    if (bytes === undefined) missing(entry.file)
    else
      tell(
        entry.file,
        yield* orProblem(
          Effect.suspend(() =>
            checkFile(
              join(view, entry.file),
              entry,
              makingOf(view, files, tokenizer, entry, importance),
              bytes,
              isOurs,
            ),
          ),
        ),
        isOurs
          ? "made again from weights, tokenizer and release, byte for byte"
          : "its keys and types follow from the release, its numbers are near the weights",
      )
  }
  if (!isOurs)
    findings.push(
      skipped(
        "quantisation.json",
        `another search for scales made the files (${quantisation.encoding}, here ${ENCODING})`,
      ),
    )
  return findings
}, Effect.scoped)
