/**
 * `quantise`: the model as GGUF files for llama.cpp and Ollama, in several types, with and without an importance matrix. Every file
 * is read back, and the engine measures what is really in it against the weights it was made from, on validation documents; a rule the
 * experiment states picks one.
 *
 * The artifact holds `<name>-<type>.gguf` and `<name>-imatrix-<type>.gguf`, `quantisation.json` and a `Modelfile` for Ollama.
 *
 * What is measured is the quantised weights in exact arithmetic. llama.cpp rounds activations to 8 bits too where weights are
 * quantised, which costs a little more on some processors.
 */
import { createHash } from "node:crypto"
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { TokenDivergence } from "../evaluation/Divergence.ts"
import { checkpointBytes, tensors } from "../model/Architecture.ts"
import { architectureOf, Decoding, Quantised, Scored } from "../model/Artifact.ts"
import { SourceInventory, type TokenDocument } from "../model/Corpus.ts"
import { type FileType, fileTypes, isWeighed } from "../model/GgufType.ts"
import { DecodingSummary, PromptSets, type Quantisation, type QuantisationLoss } from "../model/Report.ts"
import * as Step from "../plan/Step.ts"
import type { Importance } from "../release/gguf/Importance.ts"
import type { Behind } from "./Measuring.ts"

const Positive = Schema.Int.check(Schema.isGreaterThan(0))
const FileTypes = Schema.Literals(Object.keys(fileTypes) as [FileType, ...Array<FileType>])

const standardTypes: ReadonlyArray<FileType> = ["F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"]

/** Which file is recommended: the smallest one whose figure, its interval included, is at most this in every language. */
const Pick = Schema.Struct({
  by: Schema.Literals(["kld", "delta_ppl", "rms_delta_p"]),
  atMost: Schema.Finite.check(Schema.isGreaterThan(0)),
})
type Pick = typeof Pick.Type

/** Logits that are held at a time. */
const HELD_BYTES = 128 << 20
const SAME_SIZE = 1.01

export const quantise = Step.make("quantise", {
  version: 1,
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
  check: ({ types }) =>
    types.length === 0 || new Set(types).size < types.length
      ? { problem: "`types` is empty or has one twice", hint: `there are ${Object.keys(fileTypes).join(", ")}` }
      : undefined,
  forecast: ({ types, importance }, { model }) => {
    const files = filesAsked(types, importance).length
    const bytes = checkpointBytes(architectureOf(model.known), false)
    return { diskBytes: files * bytes, scratchBytes: files * bytes }
  },
  run: (work) =>
    Effect.gen(function* () {
      const { Activations } = yield* Effect.promise(() => import("../engine/Activations.ts"))
      const { summariseDivergence } = yield* Effect.promise(() => import("../evaluation/Divergence.ts"))
      const { modelConfig, plain } = yield* Effect.promise(() => import("../release/Export.ts"))
      const { llamaCommand, modelfile } = yield* Effect.promise(() => import("../release/gguf/About.ts"))
      const { importanceOf } = yield* Effect.promise(() => import("../release/gguf/Importance.ts"))
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
      const { recommended } = yield* readJson(DecodingSummary, join(sweep.path, "decoding_summary.json"))
      const prompts = yield* readJson(PromptSets, join(sweep.path, "prompts.json"))
      const inventory = yield* readJson(Licenses, join(of.corpus.path, "inventory.json"))
      const tokenizer = readFileSync(join(of.vocabulary.path, "tokenizer.json"), "utf8")
      const config = plain(modelConfig(architecture, index)) as Readonly<Record<string, unknown>>
      const names = new Set(tensors(architecture).map(({ name }) => name))
      const asked = filesAsked(params.types, params.importance)
      const total = 2 * asked.length + 1
      let done = 0
      const report = (detail: string) => work.progress({ done: done++, total, unit: "parts", detail })

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
        importance = {
          columns: new Map(
            shapeOf(config, names).tensors.flatMap(({ from, name }) => {
              const sum = sums.get(from)
              return sum === undefined ? [] : [[name, importanceOf(sum)] as const]
            }),
          ),
          dataset: `training rows of ${params.name}`,
          rows: rows.length,
        }
      }

      const files = yield* Effect.forEach(asked, ({ type, weighed }) =>
        Effect.gen(function* () {
          const file = `${params.name}-${weighed ? "imatrix-" : ""}${type}.gguf`
          report(file)
          const written = yield* convert({
            weights: join(of.model.path, "model.safetensors"),
            config,
            tokenizer: JSON.parse(tokenizer),
            ids: index,
            about: {
              name: params.name,
              license: params.license,
              languages: index.languages,
              sources: inventory.sources
                .filter(({ role }) => role === "train")
                .map(({ source, licenses }) => ({ source, licenses: Object.keys(licenses).toSorted() })),
              preset: recommended,
              provenance: {
                candidate: identity.candidate,
                step: identity.step,
                preset: recommended.name,
                "model.identity": of.model.identity,
                "model.sha256": state.modelSha256,
                "tokenizer.sha256": createHash("sha256").update(tokenizer).digest("hex"),
                "decoding.identity": sweep.identity,
                engine: `${state.engine.name} ${state.engine.numerics} ${state.engine.precision}`,
              },
            },
            type,
            ...(weighed && importance !== undefined ? { importance } : {}),
            to: join(work.out, file),
          })
          const checkpoint = join(work.scratch, file)
          yield* unpack(join(work.out, file), checkpoint, of, config, names)
          return { file, type, weighed, written, checkpoint }
        }),
      )

      const documents = chooseDocuments(of, params.measuredTokens)
      const compared = yield* compare(
        of,
        files.map(({ checkpoint }) => checkpoint),
        documents,
        (file) => report(`measuring ${files[file]!.file}`),
      )
      const measured = files
        .map(({ file, type, weighed, written }, i) => ({
          file,
          type,
          importance_matrix: weighed,
          bytes: written.bytes,
          bits_per_weight: (8 * written.bytes) / written.parameters,
          matrices: Object.fromEntries(Object.entries(written.types).filter(([, block]) => block !== "F32")),
          types: counted(Object.values(written.types)),
          losses: {
            all: summariseDivergence(compared[i]!.flatMap(({ tokens }) => tokens)),
            ...Object.fromEntries(
              [...new Set(documents.map(({ language }) => language))]
                .toSorted()
                .map((language) => [
                  language,
                  summariseDivergence(
                    compared[i]!.filter((document) => document.language === language).flatMap(({ tokens }) => tokens),
                  ),
                ]),
            ),
          } as Readonly<Record<string, QuantisationLoss>>,
        }))
        .toSorted((a, b) => b.bytes - a.bytes)
      const choice = pickFile(measured, params.pick)
      const opening = (prompts.behaviour[0] ?? prompts.tuning[0])?.text ?? ""
      const bundle: Quantisation = {
        model: identity,
        reference: "model.safetensors",
        documents: documents.length,
        tokens: measured[0]!.losses["all"]!.ppl.n!,
        files: measured,
        sources: counted(documents.map(({ source }) => source)),
        ...(importance === undefined
          ? {}
          : {
              importance: {
                rows: importance.rows,
                tokens: importance.rows * index.context,
                dataset: importance.dataset,
              },
            }),
        picked: choice.file,
        rule: choice.words,
        rule_kept: choice.kept,
        preset: recommended,
        commands: {
          llama_cpp: llamaCommand(choice.file, recommended, index.context, opening),
          ollama: `ollama create ${params.name.toLowerCase()} -f Modelfile && ollama run ${params.name.toLowerCase()}`,
        },
      }
      writeFileSync(join(work.out, "quantisation.json"), `${JSON.stringify(bundle, null, 2)}\n`)
      const eos = of.tokenizer.decode([index.eosId])
      writeFileSync(
        join(work.out, "Modelfile"),
        modelfile(choice.file, recommended, index.context, eos, params.license),
      )
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
  readonly pick: Pick
}

const Licenses = Schema.Struct({
  sources: Schema.Array(
    Schema.Struct({
      source: SourceInventory.fields.source,
      role: SourceInventory.fields.role,
      licenses: SourceInventory.fields.licenses,
    }),
  ),
})

const readJson = <S extends Schema.Top & { readonly DecodingServices: never }>(schema: S, path: string) =>
  Effect.suspend(() => Schema.decodeUnknownEffect(Schema.fromJsonString(schema))(readFileSync(path, "utf8")))

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

/** What is in a GGUF file, as a checkpoint that engines read. */
const unpack = Effect.fn("quantise.unpack")(function* (
  path: string,
  checkpoint: string,
  { state }: Behind,
  config: Readonly<Record<string, unknown>>,
  names: ReadonlySet<string>,
) {
  const Safetensors = yield* Effect.promise(() => import("../engine/Safetensors.ts"))
  const { openGguf, readGpt2 } = yield* Effect.promise(() => import("../release/gguf/Reader.ts"))
  const read = yield* Effect.scoped(Effect.flatMap(openGguf(path), (file) => readGpt2(file, config, names)))
  mkdirSync(checkpoint, { recursive: true })
  const { sha256 } = yield* Safetensors.write(join(checkpoint, "model.safetensors"), read)
  const { optimizerSha256: _, ...rest } = state
  writeFileSync(join(checkpoint, "state.json"), `${JSON.stringify({ ...rest, modelSha256: sha256 })}\n`)
})

interface ComparedDocument {
  readonly language: string
  readonly tokens: Array<TokenDivergence>
}

/** Every target of every document, by checkpoint: F1's windows, each computed by the model itself and by every changed one. */
const compare = Effect.fn("quantise.compare")(function* (
  { model, state, tokens }: Behind,
  checkpoints: ReadonlyArray<string>,
  documents: ReadonlyArray<TokenDocument>,
  begin: (checkpoint: number) => void,
) {
  const { Engine } = yield* Effect.promise(() => import("../engine/Engine.ts"))
  const { tokenDivergence } = yield* Effect.promise(() => import("../evaluation/Divergence.ts"))
  const engine = yield* Engine
  const { context, vocabulary } = state.architecture
  const windows: Array<{ readonly document: number; readonly ids: ReadonlyArray<number> }> = []
  for (const [document, each] of documents.entries()) {
    const ids = Array.from(yield* tokens.tokensOf(each))
    for (let first = 0; first + 1 < ids.length; first += context)
      windows.push({ document, ids: ids.slice(first, first + context + 1) })
  }
  const compared: ReadonlyArray<ReadonlyArray<ComparedDocument>> = checkpoints.map(() =>
    documents.map(({ language }) => ({ language, tokens: [] })),
  )
  const atOnce = Math.max(1, Math.floor(HELD_BYTES / (4 * context * vocabulary)))
  for (let first = 0; first < windows.length; first += atOnce) {
    const portion = windows.slice(first, first + atOnce)
    const base = yield* Effect.forEach(portion, ({ ids }) =>
      engine.logits({ checkpoint: model.path, ids: ids.slice(0, -1) }),
    )
    for (const [i, checkpoint] of checkpoints.entries()) {
      if (first === 0) begin(i)
      for (const [w, { document, ids }] of portion.entries()) {
        const changed = yield* engine.logits({ checkpoint, ids: ids.slice(0, -1) })
        changed.forEach((logits, at) => {
          compared[i]![document]!.tokens.push(tokenDivergence(base[w]![at]!, logits, ids[at + 1]!))
        })
      }
    }
  }
  return compared
})

/** By the upper end of the interval, in the language where it is highest. */
export const pickFile = (files: Quantisation["files"], { by, atMost }: Pick) => {
  const worst = files.map(({ file, bytes, losses }) => ({
    file,
    bytes,
    figure: Math.max(...Object.values(losses).map((loss) => loss[by].ci95![1])),
  }))
  const keeping = worst.filter(({ figure }) => figure <= atMost)
  const kept = keeping.length > 0
  const smallest = Math.min(...keeping.map(({ bytes }) => bytes))
  // a matrix of importance adds some bytes of keys: files as good as equally large are told apart by what they cost
  const [chosen] = (kept ? keeping.filter(({ bytes }) => bytes <= SAME_SIZE * smallest) : worst).toSorted(
    (a, b) => a.figure - b.figure || a.bytes - b.bytes,
  )
  const asked = `the smallest file whose ${ruleNames[by]} is at most ${atMost} in every language, its 95% interval included`
  return { file: chosen!.file, kept, words: kept ? asked : `${asked}; none is, so the one that comes nearest` }
}

const ruleNames = {
  kld: "mean KL divergence to the model itself, in nats,",
  delta_ppl: "rise in perplexity",
  rms_delta_p: "root mean square change of the right token's probability",
} as const satisfies Record<Pick["by"], string>
