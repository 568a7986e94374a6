/**
 * A whole release, written into an empty folder (whoever calls makes it whole or absent). `Folder.ts` says what each file is.
 *
 * Order: what other steps wrote is copied, what follows from it is computed, then both are read back; reports and card are
 * rendered from the folder alone, and any two files that disagree stop it. Provenance and sums come last.
 *
 * Telemetry: lines of training up to the parent step, then all lines of the decay, each with its `phase`. Training that went on
 * past the parent is no part of this model, and how far it went is no part of the recipe.
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import * as Schema from "effect/Schema"
import { type Architecture, parameterCount, trainingFlopsPerToken } from "../model/Architecture.ts"
import { CheckpointState, type Optimizer } from "../model/Checkpoint.ts"
import { Inventory, TokensIndex } from "../model/Corpus.ts"
import { canonicalJson, sha256 } from "../model/Digest.ts"
import type { LrSchedule } from "../model/LrSchedule.ts"
import {
  BenchmarkMetrics,
  BenchmarkSourceLosses,
  Comparison,
  DecodingSummary,
  HoldoutReport,
  ProbeGeneration,
  Probes,
  Quantisation,
  StepMetrics,
  ValidationMetrics,
} from "../model/Report.ts"
import { renderCard, renderReports, type TemplateOptions, templatesDigest } from "./Card.ts"
import {
  generationConfig,
  kindOf,
  modelConfig,
  recommendedDecoding,
  recommendedJson,
  tokenizerConfig,
  torchCheckpoint,
} from "./Export.ts"
import {
  checkpointStem,
  fileNames,
  isPlainName,
  isWeights,
  type Phase,
  type ReleaseFacts,
  readJson,
  readLines,
  type TrainingConfig,
  torchName,
  weightsName,
} from "./Folder.ts"
import { type Json, prettyJson } from "./Json.ts"
import { checkLicensing, rightsOfWeights } from "./License.ts"
import { type Provenance, STATEMENT, secretIn, statementOf } from "./Provenance.ts"
import {
  type ReleaseError,
  ReleaseFileFailed,
  ReleaseInconsistent,
  ReleaseInputUnreadable,
  SecretInRelease,
  unreadable,
  unwritable,
} from "./ReleaseError.ts"
import { evaluationSummary, trainingData } from "./Summary.ts"
import { filesBelow, SUMS, sha256OfFile, writeSums } from "./Sums.ts"
import { writeTorchFile } from "./TorchFile.ts"
import { readWeightsHeader, writeTransformersWeights } from "./Weights.ts"

export interface ReleaseInput extends TemplateOptions {
  /** An empty folder that exists. */
  readonly out: string
  /** Letters, digits, `.`, `_`, `-`: part of file names. */
  readonly name: string
  /** SPDX identifier, such as `CC-BY-SA-4.0`. */
  readonly license: string
  /** Why the rules for the texts' licences do not hold here; printed wherever the licence is. */
  readonly licensing?: { readonly override: string }
  /** Who is to be cited. */
  readonly authors?: ReadonlyArray<string>
  /** Day of the release, as `2026-11-21`, where one is stated. */
  readonly date?: string
  /** Folder below `release-templates/` (or below `templates`, where given). */
  readonly template: string
  /** Names of published data sets the texts come from, for the card's metadata. */
  readonly datasets?: ReadonlyArray<string>
  /** Whether the checkpoint is written for `torch.load` too: as many bytes as the weights once more. Yes, unless `false`. */
  readonly torchCheckpoint?: boolean
  /** Folders of the artifacts. */
  readonly artifacts: {
    readonly corpus: string
    readonly tokenizer: string
    readonly tokens: string
    /** The winner's own checkpoint: `model.safetensors` and `state.json`. */
    readonly checkpoint: string
    /** `metrics.jsonl`, `eval_metrics.jsonl`, `probe_generations.jsonl` of the training. */
    readonly training: string
    /** The same of the decay; absent when a stable checkpoint is released. */
    readonly decay?: string
    /** The winner's benchmark. */
    readonly benchmark: string
    /** `comparison.json` and `holdout.json`. */
    readonly selection: string
    readonly sweep: string
    /** GGUF files with `quantisation.json` and a `Modelfile`, where the model was quantised. */
    readonly quantised?: string
  }
  /** What the experiment says: held against what the artifacts say. */
  readonly experiment: {
    readonly name: string
    /** Text of the experiment file, and of its plan. */
    readonly source: string
    readonly plan: string
    /** What was set with `--set`, where it differs from the experiment file. */
    readonly parameters: ReleaseFacts["parameters"]
    /** Step labels and their keys. */
    readonly keys: { readonly [step: string]: string }
    readonly parentStep: number
    /** Optimizer steps of the decay as planned; 0 when a stable checkpoint is released. */
    readonly decaySteps: number
    readonly releasedStep: number
    readonly schedule: LrSchedule
    readonly architecture: Architecture
    readonly seed: number
    readonly optimizer: Optimizer
    readonly rowsPerStep: number
    readonly base?: ReleaseFacts["base"]
  }
  readonly provenance: Provenance
}

/** Copied byte for byte: from which artifact, under which name there and here. */
const copies = (
  names: ReturnType<typeof fileNames>,
): ReadonlyArray<readonly [keyof ReleaseInput["artifacts"], string, string]> => [
  ["corpus", "inventory.json", names.inventory],
  ["tokens", "tokens.json", names.tokens],
  ["tokenizer", "tokenizer.json", "tokenizer.json"],
  ["checkpoint", "state.json", names.state],
  ["benchmark", "benchmark_metrics.json", names.benchmark],
  ["benchmark", "benchmark_source_losses.json", names.sourceLosses],
  ["benchmark", "benchmark_scores.json", names.scores],
  ["benchmark", "probes.json", names.probes],
  ["benchmark", "behaviour_generations.jsonl", "behaviour_generations.jsonl"],
  ["selection", "comparison.json", names.comparison],
  ["selection", "holdout.json", names.holdout],
  ["sweep", "decoding_summary.json", names.decoding],
  ["sweep", "prompts.json", names.prompts],
  ["sweep", "tuning_generations.jsonl", names.tuningGenerations],
  ["sweep", "holdout_generations.jsonl", names.holdoutGenerations],
  ["sweep", "tuning_leaderboard.csv", "tuning_leaderboard.csv"],
  ["sweep", "holdout_leaderboard.csv", "holdout_leaderboard.csv"],
]

const AddedTokens = Schema.Struct({
  added_tokens: Schema.Array(Schema.Struct({ id: Schema.Int, content: Schema.String, special: Schema.Boolean })),
})
const AnyObject = Schema.Record(Schema.String, Schema.Json)

const SCHEDULE_CONVENTION =
  "step s is 0-based; warm-up: peakLr*(s+1)/warmupSteps; decay: u=(s-startStep+1)/steps, so the last decay step is at finalLr"

/** Writes the release. What it needs of the machine is in `provenance`; it reads no clock and no environment. */
export const assembleRelease = Effect.fn("Bundle.assembleRelease")(function* (
  input: ReleaseInput,
): Effect.fn.Return<void, ReleaseError, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const { out, artifacts, experiment } = input
  if (!isPlainName(input.name) || !isPlainName(input.template))
    return yield* new ReleaseInputUnreadable({
      path: isPlainName(input.name) ? input.template : input.name,
      problem: "a release and its template are named with letters, digits, `.`, `_` and `-` only",
    })
  const there = yield* fs.readDirectory(out).pipe(unwritable(out))
  if (there.length > 0)
    return yield* new ReleaseFileFailed({ path: out, problem: `it is not empty: ${there.slice(0, 3).join(", ")}` })

  const licensing = { license: input.license, override: input.licensing?.override }
  const { sources } = yield* readJson(Inventory, `${artifacts.corpus}/inventory.json`)
  const { base } = experiment
  // weights are what they were made from, as much as texts are
  yield* checkLicensing(licensing, base === undefined ? sources : [...sources, rightsOfWeights(base)])

  const facts: ReleaseFacts = {
    format: 1,
    name: input.name,
    license: input.license,
    license_override: licensing.override ?? null,
    authors: input.authors ?? [],
    date: input.date ?? null,
    template: input.template,
    templates_sha256: yield* templatesDigest(input.template, input),
    experiment: experiment.name,
    parameters: experiment.parameters,
    keys: experiment.keys,
    released_step: experiment.releasedStep,
    parent_step: experiment.parentStep,
    ...(input.torchCheckpoint !== false && { torch_checkpoint: true }),
    ...(base !== undefined && { base }),
    datasets: [...new Set([...(input.datasets ?? []), ...sources.flatMap(({ dataset }) => dataset?.repository ?? [])])],
  }
  const names = fileNames(facts)
  const write = (file: string, text: string) =>
    fs.writeFileString(`${out}/${file}`, text).pipe(unwritable(`${out}/${file}`))
  const writeJson = (file: string, value: Json) => write(file, prettyJson(value))
  // Data that came through a schema is JSON; the types of schemas do not say so.
  const json = (value: unknown): Json => value as Json

  for (const [artifact, from, to] of copies(names)) {
    const path = `${artifacts[artifact]}/${from}`
    yield* fs.stat(path).pipe(unreadable(path))
    yield* fs.copyFile(path, `${out}/${to}`).pipe(unwritable(`${out}/${to}`))
  }

  if (artifacts.quantised !== undefined) yield* copyQuantised(artifacts.quantised, out)

  const state = yield* readJson(CheckpointState, `${out}/${names.state}`)
  for (const [what, said, found] of [
    ["architecture", experiment.architecture, state.architecture],
    ["schedule", experiment.schedule, state.schedule],
    ["optimizer", experiment.optimizer, state.optimizer],
    ["seed", experiment.seed, state.seed],
    ["rows per step", experiment.rowsPerStep, state.rowsPerStep],
    ["released step", experiment.releasedStep, state.step],
  ] as const) {
    if (canonicalJson(said) !== canonicalJson(found))
      return yield* new ReleaseInconsistent({ first: "the experiment", second: names.state, problem: what })
  }
  const tokens = yield* readJson(TokensIndex, `${out}/${names.tokens}`)

  const weightsFile = `${artifacts.checkpoint}/model.safetensors`
  const header = yield* readWeightsHeader(weightsFile, state.architecture)
  yield* fs.copyFile(weightsFile, `${out}/${weightsName(facts)}`).pipe(unwritable(`${out}/${weightsName(facts)}`))
  yield* writeTransformersWeights(weightsFile, `${out}/model.safetensors`, header)
  if (facts.torch_checkpoint === true) {
    const value = torchCheckpoint({ release: facts, state, tokens }, header)
    yield* writeTorchFile({ weights: weightsFile, stem: checkpointStem(facts), value }, `${out}/${torchName(facts)}`)
  }

  yield* writeJson(names.release, json(facts))
  const tokensPerStep = state.rowsPerStep * state.architecture.context
  const training: TrainingConfig = {
    architecture: state.architecture,
    parameters: parameterCount(state.architecture),
    ...kindOf(state.architecture),
    schedule: state.schedule,
    schedule_convention: SCHEDULE_CONVENTION,
    optimizer: state.optimizer,
    seed: state.seed,
    engine: state.engine,
    rows_per_step: state.rowsPerStep,
    tokens_per_step: tokensPerStep,
    parent_step: experiment.parentStep,
    decay_steps: experiment.decaySteps,
    released_step: state.step,
    tokens_seen: state.step * tokensPerStep,
    tokens_stable: experiment.parentStep * tokensPerStep,
    tokens_decay: (state.step - experiment.parentStep) * tokensPerStep,
    training_flops: trainingFlopsPerToken(state.architecture) * state.step * tokensPerStep,
    data: trainingData(tokens, state.step * tokensPerStep),
  }
  yield* writeJson(names.training, json(training))

  // For transformers.
  yield* writeJson(names.config, modelConfig(state.architecture, tokens))
  const decoding = yield* readJson(DecodingSummary, `${out}/${names.decoding}`)
  const recommended = recommendedDecoding(decoding.recommended, decoding.max_new_tokens)
  yield* writeJson(names.recommended, recommendedJson(recommended))
  yield* writeJson(names.generation, generationConfig(recommended, tokens))
  yield* writeTokenizer(input, tokens)

  yield* writeTelemetry(input, names)

  const summary = evaluationSummary({
    benchmark: yield* readJson(BenchmarkMetrics, `${out}/${names.benchmark}`),
    sourceLosses: yield* readJson(BenchmarkSourceLosses, `${out}/${names.sourceLosses}`),
    comparison: yield* readJson(Comparison, `${out}/${names.comparison}`),
    holdout: yield* readJson(HoldoutReport, `${out}/${names.holdout}`),
    decoding,
    probes: yield* readJson(Probes, `${out}/${names.probes}`),
  })
  yield* writeJson(names.evaluation, json(summary))

  yield* write("experiment.ts", experiment.source)
  yield* write("plan.txt", experiment.plan)
  for (const [file, { text }] of Object.entries(yield* renderReports(out, input))) yield* write(file, text)
  yield* write("README.md", (yield* renderCard(out, input)).text)

  yield* writeProvenance(input)
  yield* refuseSecrets(out)
  yield* writeSums(out)
})

const copyQuantised = Effect.fnUntraced(function* (from: string, out: string) {
  const fs = yield* FileSystem.FileSystem
  const { files, importance } = yield* readJson(Quantisation, `${from}/quantisation.json`)
  const weighing = importance === undefined ? [] : [importance.file]
  for (const file of ["quantisation.json", "Modelfile", ...files.map(({ file }) => file), ...weighing]) {
    if (!isPlainName(file))
      return yield* new ReleaseInputUnreadable({
        path: `${from}/quantisation.json`,
        problem: `${JSON.stringify(file)} is no name for a file of a release`,
      })
    yield* fs.stat(`${from}/${file}`).pipe(unreadable(`${from}/${file}`))
    yield* fs.copyFile(`${from}/${file}`, `${out}/${file}`).pipe(unwritable(`${out}/${file}`))
  }
})

/** `tokenizer.json` is copied as it is; what lies beside it says which of its tokens are special, and how long a text may be. */
const writeTokenizer = Effect.fnUntraced(function* (input: ReleaseInput, tokens: TokensIndex) {
  const fs = yield* FileSystem.FileSystem
  const path = `${input.artifacts.tokenizer}/tokenizer.json`
  const { added_tokens } = yield* readJson(AddedTokens, path)
  const special = new Map(added_tokens.filter((token) => token.special).map((token) => [token.id, token.content]))
  const contents: Array<string> = []
  for (const [role, id] of [
    ["BOS", tokens.bosId],
    ["EOS", tokens.eosId],
    ["padding", tokens.padId],
  ] as const) {
    const content = special.get(id)
    if (content === undefined)
      return yield* new ReleaseInputUnreadable({
        path,
        problem: `${role} is token ${id}, which is no special token of it`,
      })
    contents.push(content)
  }
  const [bos, eos, pad] = contents as [string, string, string]
  const given = (file: string) =>
    Effect.gen(function* () {
      const there = yield* fs.exists(`${input.artifacts.tokenizer}/${file}`).pipe(unreadable(file))
      return there ? yield* readJson(AnyObject, `${input.artifacts.tokenizer}/${file}`) : {}
    })
  const config = (yield* given("tokenizer_config.json")) as { readonly [key: string]: Json }
  const map = (yield* given("special_tokens_map.json")) as { readonly [key: string]: Json }
  for (const [file, value] of [
    ["tokenizer_config.json", tokenizerConfig(config, { bos, eos, pad }, tokens.context)],
    ["special_tokens_map.json", { ...map, bos_token: bos, eos_token: eos, pad_token: pad }],
  ] as const)
    yield* fs.writeFileString(`${input.out}/${file}`, prettyJson(value)).pipe(unwritable(`${input.out}/${file}`))
})

const writeTelemetry = Effect.fnUntraced(function* (input: ReleaseInput, names: ReturnType<typeof fileNames>) {
  const fs = yield* FileSystem.FileSystem
  const { artifacts, experiment, out } = input
  const phased = Effect.fnUntraced(function* <
    S extends Schema.Top & { readonly DecodingServices: never; readonly Type: { readonly step: number } },
  >(schema: S, file: string) {
    const lines: Array<{ readonly phase: Phase } & S["Type"]> = []
    const keep = (phase: Phase, from: ReadonlyArray<S["Type"]>) => {
      for (const line of from)
        if ((phase === "decay") === line.step > experiment.parentStep) lines.push({ phase, ...line })
    }
    keep("train", yield* readLines(schema, `${artifacts.training}/${file}`))
    if (artifacts.decay !== undefined) keep("decay", yield* readLines(schema, `${artifacts.decay}/${file}`))
    const text = lines.map((line) => `${JSON.stringify(line)}\n`).join("")
    yield* fs.writeFileString(`${out}/${file}`, text).pipe(unwritable(`${out}/${file}`))
    return lines
  })
  yield* phased(StepMetrics, names.steps)
  yield* phased(ProbeGeneration, names.samples)
  const validations = yield* phased(ValidationMetrics, names.validations)
  const best = validations.reduce<(typeof validations)[number] | undefined>(
    (lowest, line) => (lowest === undefined || line.val_loss_mixed < lowest.val_loss_mixed ? line : lowest),
    undefined,
  )
  if (best === undefined)
    return yield* new ReleaseInputUnreadable({
      path: `${artifacts.training}/${names.validations}`,
      problem: "no validation up to the parent step or in the decay",
    })
  yield* fs
    .writeFileString(`${out}/${names.best}`, prettyJson(best as unknown as Json))
    .pipe(unwritable(`${out}/${names.best}`))
})

/** The statement over all that is there, but for itself and the sums. */
const writeProvenance = Effect.fnUntraced(function* (input: ReleaseInput) {
  const fs = yield* FileSystem.FileSystem
  const { out, provenance, experiment } = input
  const subjects: Array<{ readonly name: string; readonly sha256: string }> = []
  for (const name of yield* filesBelow(out)) {
    if (name !== STATEMENT && name !== SUMS) subjects.push({ name, sha256: yield* sha256OfFile(`${out}/${name}`) })
  }
  const inventory = yield* readJson(Inventory, `${out}/corpus_inventory.json`)
  const statement = statementOf({
    subjects,
    experiment: experiment.name,
    experimentSha256: sha256(experiment.source),
    parameters: experiment.parameters,
    keys: experiment.keys,
    texts: inventory.sources,
    provenance,
  })
  yield* fs
    .writeFileString(`${out}/${STATEMENT}`, prettyJson(statement as unknown as Json))
    .pipe(unwritable(`${out}/${STATEMENT}`))
})

/** The last look before a release can be published: no file may hold what can only be a token or a key. */
const refuseSecrets = Effect.fnUntraced(function* (folder: string) {
  const fs = yield* FileSystem.FileSystem
  for (const file of yield* filesBelow(folder)) {
    if (isWeights(file)) continue
    const what = secretIn(yield* fs.readFileString(`${folder}/${file}`).pipe(unreadable(`${folder}/${file}`)))
    if (what !== null) return yield* new SecretInRelease({ file, what })
  }
})
