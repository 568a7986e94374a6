/**
 * A release folder: which files it has, and how they are read back. The card and the reports are made from this alone.
 *
 * Beside the files that other steps wrote (`src/model/Report.ts`, `src/model/Corpus.ts`), copied as they are, a release has:
 *
 * | file                                | what                                                                                    |
 * |-------------------------------------|-----------------------------------------------------------------------------------------|
 * | `release.json`                      | `ReleaseFacts`: name, licence, template, experiment, keys; where every reader starts     |
 * | `<name>-step_<n>.safetensors`       | the checkpoint's weights, byte for byte                                                 |
 * | `<name>-step_<n>.json`              | its `CheckpointState`, byte for byte                                                    |
 * | `model.safetensors`                 | the same tensors with the header `transformers` asks for                                |
 * | `<name>-step_<n>.pt`                | the same for `torch.load` (`TorchFile.ts`), unless the experiment leaves it out           |
 * | `config.json`, `generation_config.json`, tokenizer files | for `transformers`                                                 |
 * | `recommended_decoding_params.json`  | the sweep's winner, as `generate()` takes it                                            |
 * | `training_config.json`              | `TrainingConfig`: architecture, schedule, optimizer, data, and the arithmetic of tokens  |
 * | `eval_summary.json`                 | `EvalSummary`: validation beside holdout, the tie set, shares as counts                  |
 * | `probe_step<n>_summary.json`        | `Probes`                                                                                |
 * | `corpus_inventory.json`, `tokens.json` | `Inventory` and `TokensIndex`                                                        |
 * | `metrics.jsonl`, `eval_metrics.jsonl`, `probe_generations.jsonl` | the model's own history: training up to the parent step, then its decay; each line says its `phase` |
 * | `best_validation.json`              | the line of `eval_metrics.jsonl` with the lowest `val_loss_mixed`                       |
 * | `benchmark_report.md`, `decoding_report.md`, `release_note.md`, `README.md` | rendered from the files above                   |
 * | `experiment.ts`, `plan.txt`         | the recipe, and the plan it makes                                                       |
 * | `LICENSE`, `NOTICE`                 | licence; sources with their licences, attributions and terms                            |
 * | `CITATION.cff`                      | how to cite it (citation-file-format 1.2.0)                                             |
 * | `training_content_summary.md`       | public summary of the training content, by the sections of the European template        |
 * | `quantisation.json`, `*.gguf`, `Modelfile` | where the release was quantised: `Quantisation`, the files, and one for Ollama   |
 * | `provenance.json`                   | in-toto statement: clock, machine, git. The only volatile file, with `SHA256SUMS`        |
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Schema from "effect/Schema"
import { Architecture } from "../model/Architecture.ts"
import { CheckpointState, checkpointName, Optimizer } from "../model/Checkpoint.ts"
import { Inventory, Mix, TokensIndex } from "../model/Corpus.ts"
import { LrSchedule } from "../model/LrSchedule.ts"
import {
  BenchmarkMetrics,
  BenchmarkScores,
  BenchmarkSourceLosses,
  Comparison,
  DecodingSummary,
  GenerationRecord,
  HoldoutReport,
  Measured,
  ModelIdentity,
  ProbeGeneration,
  Probes,
  PromptSets,
  Quantisation,
  StepMetrics,
  ValidationMetrics,
} from "../model/Report.ts"
import { ReleaseInputUnreadable, unreadable } from "./ReleaseError.ts"

const Natural = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

export const ReleaseFacts = Schema.Struct({
  format: Schema.Literal(1),
  name: Schema.String,
  license: Schema.String,
  /** Why this licence, where the cautious reading of its texts' licences stands against it. */
  license_override: Schema.NullOr(Schema.String),
  authors: Schema.Array(Schema.String),
  /** Day of the release, where the experiment states one: `2026-11-21`. */
  date: Schema.NullOr(Schema.String),
  template: Schema.String,
  /** sha256 over the templates: with others the card has other words. */
  templates_sha256: Schema.String,
  experiment: Schema.String,
  /**
   * Parameters of the experiment that were set otherwise than `experiment.ts` has them: with `--set name=value` for each it makes this
   * release again. Paths from the root of the maker's machine are left out: they say nothing to anybody.
   */
  parameters: Schema.Record(Schema.String, Schema.Union([Schema.String, Schema.Finite, Schema.Boolean])),
  /** Keys of the steps that made it: what `exp` looks artifacts up by. */
  keys: Schema.Record(Schema.String, Schema.String),
  released_step: Natural,
  parent_step: Natural,
  /** Whether the checkpoint is there in PyTorch's own format too. */
  torch_checkpoint: Schema.optionalKey(Schema.Literal(true)),
  /** Names of published data sets, for the card's metadata. */
  datasets: Schema.Array(Schema.String),
  /** The published weights that training began with; absent: it began from nothing. `revision`: a commit of the hub. */
  base: Schema.optionalKey(
    Schema.Struct({ name: Schema.String, license: Schema.String, revision: Schema.optionalKey(Schema.String) }),
  ),
})
export type ReleaseFacts = typeof ReleaseFacts.Type

export const TrainingConfig = Schema.Struct({
  architecture: Architecture,
  parameters: Natural,
  block_type: Schema.Literals(["gpt2_prelayernorm", "llama", "mistral"]),
  tied_head: Schema.Boolean,
  schedule: LrSchedule,
  schedule_convention: Schema.String,
  optimizer: Optimizer,
  seed: Schema.Int,
  engine: CheckpointState.fields.engine,
  rows_per_step: Natural,
  tokens_per_step: Natural,
  parent_step: Natural,
  /** Steps the decay was planned to take; 0: the model is a stable checkpoint. */
  decay_steps: Natural,
  released_step: Natural,
  /** released_step × tokens_per_step, and its two parts. */
  tokens_seen: Natural,
  tokens_stable: Natural,
  tokens_decay: Natural,
  /** Floating-point operations of the matrix products of training: an estimate by `trainingFlopsPerToken`. */
  training_flops: Schema.Finite,
  data: Schema.Struct({
    mix: Mix,
    weights: Schema.Record(Schema.String, Schema.Finite),
    /** Training tokens of all training sources, and by language: before packing, in rows, and the remainder. */
    raw_tokens: Natural,
    packed_tokens: Natural,
    dropped_tokens: Natural,
    raw_tokens_by_language: Schema.Record(Schema.String, Natural),
    /** tokens_seen / packed_tokens. */
    epochs: Schema.Finite,
  }),
})
export type TrainingConfig = typeof TrainingConfig.Type

export const EvalSummary = Schema.Struct({
  model: ModelIdentity,
  by: Schema.String,
  direction: Schema.Literals(["lowest", "highest"]),
  candidates: Natural,
  winner: Schema.String,
  tied: Schema.Array(Schema.String),
  mix: BenchmarkMetrics.fields.mix,
  documents: Natural,
  tokens: Natural,
  /** Metrics that both parts have: choices were made on the first, the second was read once. */
  validation_beside_holdout: Schema.Record(
    Schema.String,
    Schema.Struct({ validation: Measured, holdout: Measured, difference: Schema.Finite }),
  ),
  /** Shares of samples as what they are: how many of how many. */
  counts: Schema.Record(Schema.String, Schema.Struct({ count: Natural, of: Natural })),
  decoding_counts: Schema.Record(Schema.String, Schema.Struct({ count: Natural, of: Natural })),
  probes: Schema.Struct({ first: Natural, of: Natural }),
})
export type EvalSummary = typeof EvalSummary.Type

export const RecommendedDecoding = Schema.Struct({
  preset: Schema.String,
  do_sample: Schema.Boolean,
  temperature: Schema.optionalKey(Schema.Finite),
  top_k: Schema.optionalKey(Natural),
  top_p: Schema.optionalKey(Schema.Finite),
  repetition_penalty: Schema.Finite,
  no_repeat_ngram_size: Natural,
  max_new_tokens: Natural,
})
export type RecommendedDecoding = typeof RecommendedDecoding.Type

export const Phase = Schema.Literals(["train", "decay"])
export type Phase = typeof Phase.Type
export const PhasedStep = Schema.Struct({ phase: Phase, ...StepMetrics.fields })
export const PhasedValidation = Schema.Struct({ phase: Phase, ...ValidationMetrics.fields })
export const PhasedGeneration = Schema.Struct({ phase: Phase, ...ProbeGeneration.fields })

const AnyObject = Schema.Record(Schema.String, Schema.Json)

type Named = Pick<ReleaseFacts, "name" | "released_step">

/** The checkpoint's files, without their suffixes. */
export const checkpointStem = (facts: Named): string => `${facts.name}-${checkpointName(facts.released_step)}`

/** Names depend on the release only where the name or the step is in them. */
export const fileNames = (facts: Named) => ({
  release: "release.json",
  training: "training_config.json",
  state: `${checkpointStem(facts)}.json`,
  config: "config.json",
  generation: "generation_config.json",
  recommended: "recommended_decoding_params.json",
  tokenizerConfig: "tokenizer_config.json",
  inventory: "corpus_inventory.json",
  tokens: "tokens.json",
  benchmark: "benchmark_metrics.json",
  sourceLosses: "benchmark_source_losses.json",
  scores: "benchmark_scores.json",
  probes: `probe_step${facts.released_step}_summary.json`,
  comparison: "comparison.json",
  holdout: "holdout.json",
  evaluation: "eval_summary.json",
  decoding: "decoding_summary.json",
  prompts: "prompts.json",
  tuningGenerations: "tuning_generations.jsonl",
  holdoutGenerations: "holdout_generations.jsonl",
  steps: "metrics.jsonl",
  validations: "eval_metrics.jsonl",
  best: "best_validation.json",
  samples: "probe_generations.jsonl",
  quantisation: "quantisation.json",
})
export type FileKey = keyof ReturnType<typeof fileNames>

export const weightsName = (facts: Named): string => `${checkpointStem(facts)}.safetensors`

export const torchName = (facts: Named): string => `${checkpointStem(facts)}.pt`

/** Whether a file holds numbers where others have text. */
export const isWeights = (path: string): boolean => /\.(?:safetensors|gguf|pt)$/.test(path)

const schemas = {
  release: ReleaseFacts,
  training: TrainingConfig,
  state: CheckpointState,
  config: AnyObject,
  generation: AnyObject,
  recommended: RecommendedDecoding,
  tokenizerConfig: AnyObject,
  inventory: Inventory,
  tokens: TokensIndex,
  benchmark: BenchmarkMetrics,
  sourceLosses: BenchmarkSourceLosses,
  scores: BenchmarkScores,
  probes: Probes,
  comparison: Comparison,
  holdout: HoldoutReport,
  evaluation: EvalSummary,
  decoding: DecodingSummary,
  prompts: PromptSets,
  best: PhasedValidation,
} satisfies Partial<Record<FileKey, Schema.Top>>

const lineSchemas = {
  tuningGenerations: GenerationRecord,
  holdoutGenerations: GenerationRecord,
  steps: PhasedStep,
  validations: PhasedValidation,
  samples: PhasedGeneration,
} satisfies Partial<Record<FileKey, Schema.Top>>

/** Not every release has these. */
const optionalSchemas = { quantisation: Quantisation } satisfies Partial<Record<FileKey, Schema.Top>>

export type ReleaseFiles = { readonly [K in keyof typeof schemas]: (typeof schemas)[K]["Type"] } & {
  readonly [K in keyof typeof lineSchemas]: ReadonlyArray<(typeof lineSchemas)[K]["Type"]>
} & { readonly [K in keyof typeof optionalSchemas]: (typeof optionalSchemas)[K]["Type"] | undefined }

const decode = <S extends Schema.Top & { readonly DecodingServices: never }>(schema: S, text: string, path: string) =>
  Effect.try({
    try: (): unknown => JSON.parse(text),
    catch: () => new ReleaseInputUnreadable({ path, problem: "it is not JSON" }),
  }).pipe(
    Effect.flatMap((value) =>
      Schema.decodeUnknownEffect(schema)(value, { errors: "all" }).pipe(
        Effect.mapError((error) => new ReleaseInputUnreadable({ path, problem: error.message })),
      ),
    ),
  )

export const readJson = Effect.fnUntraced(function* <S extends Schema.Top & { readonly DecodingServices: never }>(
  schema: S,
  path: string,
) {
  const fs = yield* FileSystem.FileSystem
  return yield* decode(schema, yield* fs.readFileString(path).pipe(unreadable(path)), path)
})

export const readLines = Effect.fnUntraced(function* <S extends Schema.Top & { readonly DecodingServices: never }>(
  schema: S,
  path: string,
) {
  const fs = yield* FileSystem.FileSystem
  const text = yield* fs.readFileString(path).pipe(unreadable(path))
  const lines: Array<S["Type"]> = []
  for (const [index, line] of text.split("\n").entries()) {
    if (line !== "") lines.push(yield* decode(schema, line, `${path}:${index + 1}`))
  }
  return lines as ReadonlyArray<S["Type"]>
})

/** A file name of ours must be a plain name: it becomes part of paths, and of a shell line in the card. */
export const isPlainName = (name: string): boolean =>
  /^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$/.test(name) && !name.includes("..")

/** Reads and decodes everything the card and the reports are made of. */
export const readFolder = Effect.fn("Folder.read")(function* (
  folder: string,
): Effect.fn.Return<ReleaseFiles, ReleaseInputUnreadable, FileSystem.FileSystem> {
  const facts = yield* readJson(ReleaseFacts, `${folder}/release.json`)
  if (!isPlainName(facts.name) || !isPlainName(facts.template))
    return yield* new ReleaseInputUnreadable({
      path: `${folder}/release.json`,
      problem: "name and template may have letters, digits, `.`, `_` and `-` only",
    })
  const names = fileNames(facts)
  const files: Record<string, unknown> = {}
  for (const [key, schema] of Object.entries(schemas))
    files[key] = yield* readJson(schema, `${folder}/${names[key as FileKey]}`)
  for (const [key, schema] of Object.entries(lineSchemas))
    files[key] = yield* readLines(schema, `${folder}/${names[key as FileKey]}`)
  for (const [key, schema] of Object.entries(optionalSchemas)) {
    const path = `${folder}/${names[key as FileKey]}`
    const fs = yield* FileSystem.FileSystem
    files[key] = (yield* fs.exists(path).pipe(unreadable(path))) ? yield* readJson(schema, path) : undefined
  }
  // The three loops fill exactly the keys of the three tables the type is made from.
  return files as unknown as ReleaseFiles
})
