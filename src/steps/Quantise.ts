/**
 * `quantise`: the model as GGUF files for llama.cpp and Ollama, in several types, with and without an importance matrix. Every file
 * is read back, and the engine measures what is really in it against the weights it was made from, on validation documents; a rule the
 * experiment states picks one.
 *
 * The artifact holds `<name>-<type>.gguf` and `<name>-imatrix-<type>.gguf`, `quantisation.json`, a `Modelfile` for Ollama, and in
 * `<name>-imatrix.gguf` the importance matrix, with which anybody can make the same files again.
 *
 * What is measured is the quantised weights in exact arithmetic. llama.cpp rounds activations to 8 bits too where weights are
 * quantised, which costs a little more on some processors.
 */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { type Architecture, checkpointBytes, tensors } from "../model/Architecture.ts"
import { architectureOf, Decoding, Quantised, Scored } from "../model/Artifact.ts"
import { SourceInventory, type TokenDocument } from "../model/Corpus.ts"
import { type FileType, fileTypes, isWeighed } from "../model/GgufType.ts"
import { licenseProblem } from "../model/License.ts"
import { DecodingSummary, PickRule, PromptSets, type Quantisation } from "../model/Report.ts"
import * as Step from "../plan/Step.ts"
import type { Importance } from "../release/gguf/Importance.ts"
import type { Behind } from "./Measuring.ts"

const Positive = Schema.Int.check(Schema.isGreaterThan(0))
const FileTypes = Schema.Literals(Object.keys(fileTypes) as [FileType, ...Array<FileType>])

const standardTypes: ReadonlyArray<FileType> = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]

/** Which file is recommended: the smallest one whose figure, its interval included, is at most this in every language. */
const Pick = Schema.Struct({ by: PickRule.fields.by, atMost: Schema.Finite.check(Schema.isGreaterThan(0)) })

/** Bytes of the base's logits that wait on disk at most. */
const HELD_BYTES = 1 << 30

export const quantise = Step.make("quantise", {
  version: 3,
  computes: true,
  params: {
    /** Part of file names: letters, digits, `.`, `_`, `-`. */
    name: Schema.String.check(Schema.isPattern(/^[A-Za-z0-9][A-Za-z0-9._-]*$/)),
    /** SPDX identifier, written into the files. */
    license: Schema.String,
    types: Schema.Array(FileTypes).pipe(Schema.withConstructorDefault(Effect.succeed(standardTypes))),
    /** Whether columns are weighed by the activations of training rows; `both` makes each file twice and shows the difference. */
    importance: Schema.Literals(["both", "with", "without"]).pipe(
      Schema.withConstructorDefault(Effect.succeed("both" as const)),
    ),
    /** Tokens of training rows that the importance is taken from. */
    calibrationTokens: Positive.pipe(Schema.withConstructorDefault(Effect.succeed(32_768))),
    /** Tokens of validation documents that are measured, about the same number from every training source. */
    measuredTokens: Positive.pipe(Schema.withConstructorDefault(Effect.succeed(24_576))),
    pick: Pick.pipe(Schema.withConstructorDefault(Effect.succeed({ by: "kld" as const, atMost: 0.01 }))),
  },
  inputs: { model: Scored, decoding: Decoding },
  output: (ref, { name, license }) => new Quantised(ref, { name, license }),
  label: ({ types }) => `quantise ${types.join(" ")}`,
  check: ({ types, license }, { model }) =>
    types.length === 0 || new Set(types).size < types.length
      ? { problem: "`types` is empty or has one twice", hint: `there are ${Object.keys(fileTypes).join(", ")}` }
      : (windowProblem(architectureOf(model.known)) ?? licenseProblem(license)),
  forecast: ({ types, importance, measuredTokens }, { model }) => {
    const architecture = architectureOf(model.known)
    const files = filesAsked(types, importance).length
    const bytes = checkpointBytes(architecture, false)
    const logits = Math.min(HELD_BYTES, 4 * measuredTokens * architecture.vocabulary)
    return { diskBytes: files * bytes, scratchBytes: files * bytes + logits }
  },
  run: (work) =>
    Effect.gen(function* () {
      const { Activations } = yield* Effect.promise(() => import("../engine/Activations.ts"))
      const { modelConfig, plain } = yield* Effect.promise(() => import("../release/Export.ts"))
      const { readJson } = yield* Effect.promise(() => import("../release/Folder.ts"))
      const { aboutOf, llamaCommand, modelfile } = yield* Effect.promise(() => import("../release/gguf/About.ts"))
      const { ENCODING } = yield* Effect.promise(() => import("../release/gguf/BlockTypes.ts"))
      const { compare } = yield* Effect.promise(() => import("../release/gguf/Compare.ts"))
      const { attempt, NO_ROOM } = yield* Effect.promise(() => import("../release/gguf/Gguf.ts"))
      const { readImportance, writeSums } = yield* Effect.promise(() => import("../release/gguf/ImportanceFile.ts"))
      const { lossesOf, unpack, windowsOf } = yield* Effect.promise(() => import("../release/gguf/Measure.ts"))
      const { pickFile } = yield* Effect.promise(() => import("../release/gguf/Pick.ts"))
      const { convert } = yield* Effect.promise(() => import("../release/gguf/Writer.ts"))
      const { shapeOf } = yield* Effect.promise(() => import("../release/gguf/Shape.ts"))
      const { rowOrder } = yield* Effect.promise(() => import("../data/RowOrder.ts"))
      const { behind } = yield* Effect.promise(() => import("./Measuring.ts"))
      const params = work.params as unknown as QuantiseParams
      const scored = yield* work.lineage(work.inputs["model"]![0]!.artifact)
      const sweep = work.inputs["decoding"]![0]!
      const of = yield* behind(work, scored.inputs["model"]![0]!)
      const { identity, index, state, tokens } = of
      const { architecture } = state
      const { recommended, max_new_tokens: maxNewTokens } = yield* readJson(
        DecodingSummary,
        join(sweep.path, "decoding_summary.json"),
      )
      const prompts = yield* readJson(PromptSets, join(sweep.path, "prompts.json"))
      const inventory = yield* readJson(Licenses, join(of.corpus.path, "inventory.json"))
      const vocabularyFile = join(of.vocabulary.path, "tokenizer.json")
      const [tokenizer, tokenizerJson] = yield* attempt(vocabularyFile, "run `exp check --repair`", () => {
        const text = readFileSync(vocabularyFile, "utf8")
        return [text, JSON.parse(text)] as const
      })
      const config = plain(modelConfig(architecture, index)) as Readonly<Record<string, unknown>>
      const names = new Set(tensors(architecture).map(({ name }) => name))
      const asked = filesAsked(params.types, params.importance)
      const total = 2 * asked.length + 1
      let done = 0
      const report = (detail: string) => work.progress({ done: done++, total, unit: "parts", detail })

      const importanceFile = `${params.name}-imatrix.gguf`
      let importance: Importance | undefined
      if (asked.some(({ weighed }) => weighed)) {
        report("activations")
        const count = Math.ceil(params.calibrationTokens / index.context)
        const order = rowOrder(index, state.seed)
        const drawn = Array.from({ length: count }, () => order.next().value as number)
        const rows = yield* Effect.forEach(drawn, (row) =>
          Effect.map(tokens.row(row), (ids) => ids.subarray(0, index.context)),
        )
        const sums = yield* (yield* Activations)({ checkpoint: of.model.path, architecture, rows })
        const columns = shapeOf(config, names).tensors.flatMap(({ from, name }) => {
          const sum = sums.get(from)
          return sum === undefined ? [] : [[name, new Float32Array(sum)] as const]
        })
        yield* writeSums(join(work.out, importanceFile), {
          columns: new Map(columns),
          dataset: `training rows of ${params.name}`,
          rows: rows.length,
          length: index.context,
        })
        // as the file has it, so that whoever has the file has the same
        importance = yield* readImportance(join(work.out, importanceFile))
      }

      const files = yield* Effect.forEach(asked, ({ type, weighed }) =>
        Effect.gen(function* () {
          const file = `${params.name}-${weighed ? "imatrix-" : ""}${type}.gguf`
          report(file)
          const written = yield* convert({
            weights: join(of.model.path, "model.safetensors"),
            config,
            tokenizer: tokenizerJson,
            ids: index,
            about: aboutOf({
              name: params.name,
              license: params.license,
              languages: index.languages,
              inventory,
              preset: recommended,
              model: identity,
              modelIdentity: of.model.identity,
              decodingIdentity: sweep.identity,
              tokenizer,
              state,
            }),
            type,
            ...(weighed && importance !== undefined ? { importance } : {}),
            to: join(work.out, file),
          })
          const checkpoint = join(work.scratch, file)
          yield* unpack(join(work.out, file), checkpoint, state, config, names)
          return { file, type, weighed, written, checkpoint }
        }),
      )

      const documents = chooseDocuments(of, params.measuredTokens)
      const texts = yield* Effect.forEach(documents, (document) =>
        Effect.map(tokens.tokensOf(document), (ids) => ({ language: document.language, ids })),
      )
      const windows = windowsOf(texts, architecture.context)
      const targets = yield* compare({
        base: of.model.path,
        checkpoints: files.map(({ checkpoint }) => checkpoint),
        windows: windows.map(({ ids }) => ids),
        vocabulary: architecture.vocabulary,
        scratch: work.scratch,
        heldBytes: HELD_BYTES,
        begin: (file) => report(`measuring ${files[file]!.file}`),
      })
      const measured = files
        .map(({ file, type, weighed, written }, i) => ({
          file,
          type,
          importance_matrix: weighed,
          bytes: written.bytes,
          bits_per_weight: (8 * written.bytes) / written.parameters,
          matrices: Object.fromEntries(Object.entries(written.types).filter(([, block]) => block !== "F32")),
          types: counted(Object.values(written.types)),
          losses: lossesOf(targets[i]!, windows),
        }))
        .toSorted((a, b) => b.bytes - a.bytes)
      const pick: PickRule = { by: params.pick.by, at_most: params.pick.atMost }
      const choice = pickFile(measured, pick)
      const usage = { file: choice.file, preset: recommended, context: index.context, maxNewTokens }
      const opening = (prompts.behaviour[0] ?? prompts.tuning[0])?.text ?? ""
      const bundle: Quantisation = {
        model: identity,
        reference: "model.safetensors",
        documents: documents.length,
        tokens: measured[0]!.losses["all"]!.ppl.n!,
        files: measured,
        sources: counted(documents.map(({ source }) => source)),
        encoding: ENCODING,
        ...(importance === undefined
          ? {}
          : {
              importance: {
                file: importanceFile,
                rows: importance.rows,
                tokens: importance.rows * index.context,
                dataset: importance.dataset,
              },
            }),
        picked: choice.file,
        pick,
        rule: choice.words,
        rule_kept: choice.kept,
        preset: recommended,
        commands: {
          llama_cpp: llamaCommand(usage, opening),
          ollama: `ollama create ${params.name.toLowerCase()} -f Modelfile && ollama run ${params.name.toLowerCase()}`,
        },
      }
      const eos = of.tokenizer.decode([index.eosId])
      for (const [name, text] of [
        ["quantisation.json", `${JSON.stringify(bundle, null, 2)}\n`],
        ["Modelfile", modelfile(usage, eos, params.license)],
      ] as const)
        yield* attempt(join(work.out, name), NO_ROOM, () => writeFileSync(join(work.out, name), text))
      return undefined
    }),
})

interface QuantiseParams {
  readonly name: string
  readonly license: string
  readonly types: ReadonlyArray<FileType>
  readonly importance: "both" | "with" | "without"
  readonly calibrationTokens: number
  readonly measuredTokens: number
  readonly pick: typeof Pick.Type
}

/** llama.cpp's LLaMA sees all that is before a position. */
const windowProblem = (architecture: Architecture) =>
  architecture.family === "llama" && (architecture.slidingWindow ?? architecture.context) < architecture.context
    ? {
        problem: `attention sees a window of ${architecture.slidingWindow} tokens; llama.cpp would let it see all ${architecture.context}`,
        hint: "leave `quantise` out, or train without `slidingWindow`",
      }
    : undefined

const Licenses = Schema.Struct({
  sources: Schema.Array(
    Schema.Struct({
      source: SourceInventory.fields.source,
      role: SourceInventory.fields.role,
      licenses: SourceInventory.fields.licenses,
    }),
  ),
})

const counted = (names: ReadonlyArray<string>): Readonly<Record<string, number>> => {
  const counts: Record<string, number> = {}
  for (const name of names.toSorted()) counts[name] = (counts[name] ?? 0) + 1
  return counts
}

/** Types that importance does not change are made once. */
const filesAsked = (
  types: ReadonlyArray<FileType>,
  importance: QuantiseParams["importance"],
): ReadonlyArray<{ readonly type: FileType; readonly weighed: boolean }> =>
  types.flatMap((type) =>
    [false, true]
      .filter((weighed) =>
        isWeighed(type) ? importance === "both" || weighed === (importance === "with") : weighed === false,
      )
      .map((weighed) => ({ type, weighed })),
  )

/** Whole validation documents of the training sources, in the order they have, until each source has given its share of tokens. */
const chooseDocuments = ({ index, tokens }: Behind, atMost: number): ReadonlyArray<TokenDocument> => {
  const sources = index.sources.filter(({ role }) => role === "train")
  return sources.flatMap(({ source }) => {
    let left = atMost / sources.length
    return tokens.documents.filter((document) => {
      if (document.part !== "validation" || document.source !== source || left <= 0) return false
      left -= document.length
      return true
    })
  })
}
