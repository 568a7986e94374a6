/**
 * How a step is done: what it is given, and what it may ask for.
 */
import type * as Effect from "effect/Effect"

/** An input as it lies in the store: whole, verified, and by name. */
export interface Input {
  /** What bears identity: a digest of everything that made it. */
  readonly identity: string
  /** `<kind>-<key16>` of the artifact it is, or is a part of. */
  readonly artifact: string
  readonly part?: string
  /** Folder of the artifact or of the part. */
  readonly path: string
}

export interface Progress {
  readonly done: number
  readonly total: number
  /** Of `done`, what was there before this run began: none of its time went into that. */
  readonly before?: number
  readonly unit: string
  /** Short facts for people: `loss 4.213`. */
  readonly detail?: string
  readonly tokensPerSecond?: number
}

export interface Work {
  readonly label: string
  readonly key: string
  readonly identity: string
  readonly params: Readonly<Record<string, unknown>>
  /** What of the world its key was made with: a branch may be elsewhere by now. */
  readonly outside?: unknown
  readonly inputs: Readonly<Record<string, ReadonlyArray<Input>>>
  /** Where the result is written. */
  readonly out: string
  /** Where a resumable step keeps what it may go on from; gone once the step is committed. */
  readonly scratch: string
  readonly progress: (progress: Progress) => void
  readonly note: (text: string) => void
  /** Provenance of an artifact: its manifest, by name, for steps that look further back than their inputs. */
  readonly lineage: (artifact: string) => Effect.Effect<Lineage, Error>
  /** Whole artifacts of the same identity that an earlier run of another length left. */
  readonly kin: Effect.Effect<
    ReadonlyArray<{ readonly path: string; readonly params: Readonly<Record<string, unknown>> }>,
    Error
  >
  /** Facts of the run that are no part of identity: experiment source, plan text, run folder. */
  readonly run: RunFacts
}

export interface Lineage {
  readonly artifact: string
  readonly path: string
  readonly kind: string
  readonly key: string
  readonly identity: string
  /** Of a selection: the input it is. */
  readonly chosen?: Input
  readonly params: Readonly<Record<string, unknown>>
  readonly inputs: Readonly<Record<string, ReadonlyArray<Input>>>
}

export interface RunFacts {
  readonly experiment: string
  readonly experimentFile: string
  readonly experimentSource: string
  readonly planText: string
  /** Values that were set otherwise than the experiment file has them. */
  readonly parameters: Readonly<Record<string, unknown>>
  readonly startedAt: string
  readonly repository: string
}

/** A transparent step also says which of its inputs it is. */
export interface Outcome {
  readonly chosen?: Input
}

/** What a doing may ask for is fixed where layers are chosen; here it stays open, so that planning knows no engine. */
export type Doing = (work: Work) => Effect.Effect<Outcome | undefined, any, any>
