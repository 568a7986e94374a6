/**
 * Who computes. An engine trains, measures and samples models; it knows files and arithmetic, and nothing of plans, stores or
 * releases. Requests are plain JSON plus paths, so that the same request runs in-process, in a worker or on another machine.
 *
 * Every engine starts from the same initial weights, reads the same rows in the same order and writes the same checkpoints;
 * `test/engine/contract.ts` holds them to the same losses (2e-5 over 20 steps in fp32 on weights ×10).
 */
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import type { Architecture } from "../model/Architecture.ts"
import type { CheckpointState, Optimizer } from "../model/Checkpoint.ts"
import type { DecodingPreset } from "../model/Decoding.ts"
import type { LrSchedule } from "../model/LrSchedule.ts"

/** What of an engine bears identity: it enters the key of every step that computes. Workers and micro-batches do not. */
export interface Numerics {
  readonly name: string
  readonly numerics: number
  readonly precision: string
}

/** A document to be measured: token ids, BOS first and EOS last where the corpus has them. */
export interface TokenSequence {
  readonly id: string
  readonly ids: ArrayLike<number>
}

/** Losses that the next one is held against: a jump over their mean is a training that has gone wrong. */
export const SPIKE_WINDOW = 50

export interface TrainRequest {
  readonly architecture: Architecture
  /** Fresh weights drawn from `seed`, or a checkpoint folder with moments. */
  readonly from: { readonly _tag: "Fresh" } | { readonly _tag: "Checkpoint"; readonly path: string }
  readonly seed: number
  /** Folder of a tokens artifact (see `src/model/Corpus.ts`). */
  readonly tokens: string
  /** uint32 little-endian row numbers; step s reads rows [s·rowsPerStep, (s+1)·rowsPerStep). */
  readonly order: string
  readonly rowsPerStep: number
  /** Optimizer steps [startStep, endStep) are taken. */
  readonly startStep: number
  readonly endStep: number
  readonly schedule: LrSchedule
  readonly optimizer: Optimizer
  /** Losses of the steps before, oldest first, `SPIKE_WINDOW` of them at most: what a jump of the loss is told by, after an interruption as without one. */
  readonly recentLosses?: ReadonlyArray<number>
  /** After these many steps a checkpoint `step_<n>` is written below `checkpoints`, whole or absent. */
  readonly checkpoints: { readonly folder: string; readonly at: ReadonlyArray<number>; readonly moments: boolean }
  /** A checkpoint with moments kept for going on after an interruption; replaced whole. */
  readonly resume: { readonly folder: string; readonly everySeconds: number }
  /** After every `everySteps` steps, and after the last one, these documents are measured. */
  readonly validation?: { readonly everySteps: number; readonly documents: ReadonlyArray<TokenSequence> }
  /** At the same moments, greedy continuations of these prompts (token ids). */
  readonly samples?: {
    readonly everySteps: number
    readonly prompts: ReadonlyArray<ReadonlyArray<number>>
    readonly maxNewTokens: number
  }
}

export type TrainEvent =
  | {
      readonly _tag: "Step"
      /** Steps taken, this one included. */
      readonly step: number
      /** Mean NLL over the step's target tokens, nats. */
      readonly loss: number
      readonly lr: number
      /** Global gradient norm before clipping. */
      readonly gradNorm: number
      readonly tokensSeen: number
      /** Wall time of the step: for progress only, never stored in an artifact. */
      readonly seconds: number
    }
  | { readonly _tag: "Validation"; readonly step: number; readonly losses: ReadonlyArray<DocumentLoss> }
  | { readonly _tag: "Samples"; readonly step: number; readonly tokens: ReadonlyArray<ReadonlyArray<number>> }
  | { readonly _tag: "Checkpoint"; readonly step: number; readonly path: string; readonly state: CheckpointState }
  /** Telemetry up to this step belongs to the resume point, later lines are cut on resume. */
  | { readonly _tag: "ResumePoint"; readonly step: number; readonly path: string }

export interface DocumentLoss {
  readonly id: string
  /** Sum of −log p over all targets (every token but the first), nats. Documents longer than the context are cut into windows (`docs/metrics.md`). */
  readonly nll: number
  readonly tokens: number
  /** The same without special targets: what bits per byte are made of. */
  readonly textNll: number
}

export interface LossesRequest {
  readonly checkpoint: string
  readonly documents: ReadonlyArray<TokenSequence>
  /** Targets that `textNll` leaves out; by default 0, 1, 2 (`specialTokens` of `src/data/Tokenizer.ts`). Published tokenizers have others. */
  readonly specialIds?: ReadonlyArray<number>
}

export interface ProbeRequest {
  readonly checkpoint: string
  readonly probes: ReadonlyArray<{ readonly context: ReadonlyArray<number>; readonly target: ReadonlyArray<number> }>
}
export interface ProbeResult {
  /** Of the first target token: 1 + number of strictly larger logits; `ties` counts other tokens with an equal logit. */
  readonly rank: number
  readonly ties: number
  readonly probability: number
  /** Log-probabilities of each target token. */
  readonly logProbabilities: ReadonlyArray<number>
  /** The likeliest first tokens, best first, at most five. */
  readonly top: ReadonlyArray<{ readonly id: number; readonly probability: number }>
}

export interface GenerateRequest {
  readonly checkpoint: string
  /** `position` names the prompt's random stream, so all presets draw with common random numbers. */
  readonly prompts: ReadonlyArray<{ readonly id: string; readonly ids: ReadonlyArray<number> }>
  readonly preset: DecodingPreset
  readonly maxNewTokens: number
  readonly eosId: number
  readonly seed: number
}
export interface Generation {
  readonly id: string
  /** Generated ids, prompt left out, EOS included when it was drawn. */
  readonly tokens: ReadonlyArray<number>
  readonly finish: "eos" | "length"
  /** Sum of log p of the generated tokens under the untempered model (raw logits). */
  readonly logProbability: number
}

export class TrainingDiverged extends Schema.TaggedError<TrainingDiverged>()("TrainingDiverged", {
  step: Schema.Int,
  what: Schema.String,
  /** Row numbers of the step, and the documents that have tokens in them. */
  rows: Schema.Array(Schema.Int),
  documents: Schema.Array(Schema.String),
}) {
  override get message() {
    const documents =
      this.documents.slice(0, 5).join(", ") +
      (this.documents.length > 5 ? ` and ${this.documents.length - 5} more` : "")
    return `training stopped at step ${this.step}: ${this.what}\n  rows ${this.rows.join(", ")} of documents ${documents}\n  hint: lower \`peakLr\`, raise \`warmupSteps\`, or look at these documents`
  }
}

export class CheckpointUnreadable extends Schema.TaggedError<CheckpointUnreadable>()("CheckpointUnreadable", {
  path: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `checkpoint ${this.path}: ${this.problem}\n  hint: run \`exp run\` again: what is damaged is made anew`
  }
}

export class EngineFailed extends Schema.TaggedError<EngineFailed>()("EngineFailed", {
  engine: Schema.String,
  doing: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
  /**
   * What became of a worker, for who wants to act on it: gone, silent, saying what is no answer, short of memory, of another version; or
   * `refused`: it is well, and was asked what cannot be done.
   */
  kind: Schema.optionalKey(Schema.Literals(["absent", "died", "hung", "rubbish", "memory", "version", "refused"])),
  /** What a worker last said to people. */
  lastLines: Schema.optionalKey(Schema.Array(Schema.String)),
}) {
  override get message() {
    const said = this.lastLines ?? []
    const last = said.length === 0 ? "" : `\n  its last words:\n${said.map((line) => `    ${line}`).join("\n")}`
    return `${this.engine} engine, ${this.doing}: ${this.problem}${last}\n  hint: ${this.hint}`
  }
}

export type EngineError = TrainingDiverged | CheckpointUnreadable | EngineFailed

export interface EngineReport {
  readonly engine: string
  readonly backend: string
  readonly version: string
  readonly workers: number
  readonly matmulGflops: number
}

export class Engine extends Context.Service<
  Engine,
  {
    readonly numerics: Numerics
    /** Interrupting the stream writes a resume point first; running the same request with `from` set to it goes on. */
    readonly train: (request: TrainRequest) => Stream.Stream<TrainEvent, EngineError>
    readonly losses: (request: LossesRequest) => Effect.Effect<ReadonlyArray<DocumentLoss>, EngineError>
    readonly probe: (request: ProbeRequest) => Effect.Effect<ReadonlyArray<ProbeResult>, EngineError>
    readonly generate: (request: GenerateRequest) => Effect.Effect<ReadonlyArray<Generation>, EngineError>
    /** Logits at every position of one sequence, [length][vocabulary]: what an exported model is compared with. */
    readonly logits: (request: {
      readonly checkpoint: string
      readonly ids: ReadonlyArray<number>
    }) => Effect.Effect<ReadonlyArray<Float32Array>, EngineError>
    readonly inspect: Effect.Effect<EngineReport, EngineError>
  }
>()("exp/engine/Engine") {}
