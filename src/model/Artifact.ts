/**
 * What steps hand to one another. An artifact is a *handle*: it says which bytes are meant, it does not hold them.
 *
 * The tag makes wrong wiring a type error: a `Corpus` is not a `Model`, whatever else they have in common. What the plan already
 * knows about the bytes to come (`known`) travels with the handle, for checks and forecasts; it is not part of any identity.
 */
import { type Architecture, complete, type Shape } from "./Architecture.ts"

/** Where an artifact comes from: a step of this plan or a named part of its output, or the item of a fan-out not yet known. */
export type Ref =
  | { readonly _tag: "Output"; readonly step: string; readonly part?: string }
  | { readonly _tag: "Item"; readonly of: string; readonly part?: string }

export const partOf = (ref: Ref, part: string): Ref => ({ ...ref, part })

/** A mistake that only shows when the handle is used, such as a checkpoint that will not exist. */
export interface Problem {
  readonly problem: string
  readonly hint: string
}

abstract class Handle<Tag extends string> {
  abstract readonly _tag: Tag
  readonly ref: Ref
  readonly problem: Problem | undefined
  constructor(ref: Ref, problem?: Problem) {
    this.ref = ref
    this.problem = problem
  }
}

/** Which languages a corpus holds, and which of its sources are trained on or only measured. */
export interface KnownTexts {
  readonly languages: ReadonlyArray<string>
  readonly trainSources: ReadonlyArray<string>
  readonly evaluateSources: ReadonlyArray<string>
}

/** The documents of one source, brought from a data set of the hub. */
export class Dataset extends Handle<"Dataset"> {
  readonly _tag = "Dataset"
  readonly known: { readonly source: string; readonly language: string | undefined }
  constructor(ref: Ref, known: Dataset["known"]) {
    super(ref)
    this.known = known
  }
}

/** Documents by source, split into train, validation and holdout. */
export class Corpus extends Handle<"Corpus"> {
  readonly _tag = "Corpus"
  readonly known: KnownTexts
  constructor(ref: Ref, known: KnownTexts) {
    super(ref)
    this.known = known
  }
}

/** A byte-level BPE vocabulary with its merges. */
export class Tokenizer extends Handle<"Tokenizer"> {
  readonly _tag = "Tokenizer"
  /** Asked for; a small corpus may yield fewer entries. */
  readonly vocabulary: number
  constructor(ref: Ref, vocabulary: number) {
    super(ref)
    this.vocabulary = vocabulary
  }
}

/** What a release says of weights that somebody else published. */
export interface Base {
  readonly name: string
  /** SPDX identifier; without one nothing that comes of them is released. */
  readonly license?: string | undefined
}

/** A published model to go on from, with its tokenizer. */
export class Pretrained extends Handle<"Pretrained"> {
  readonly _tag = "Pretrained"
  readonly known: Base & { readonly shape: Shape; readonly vocabulary: number }
  constructor(ref: Ref, known: Pretrained["known"]) {
    super(ref)
    this.known = known
  }
  get tokenizer(): Tokenizer {
    return new Tokenizer(this.ref, this.known.vocabulary)
  }
}

export interface KnownTokens extends KnownTexts {
  readonly context: number
  readonly vocabulary: number
}

/** A corpus encoded, packed to a context and mixed. */
export class Tokens extends Handle<"Tokens"> {
  readonly _tag = "Tokens"
  readonly known: KnownTokens
  constructor(ref: Ref, known: KnownTokens) {
    super(ref)
    this.known = known
  }
}

export interface KnownTraining extends KnownTokens {
  readonly shape: Shape
  readonly rowsPerStep: number
  /** It began with weights that somebody published. */
  readonly base?: Base
}
export const architectureOf = ({
  shape,
  context,
  vocabulary,
}: Pick<KnownTraining, "shape" | "context" | "vocabulary">): Architecture => complete(shape, context, vocabulary)

/** A point on the stable part of a WSD run: weights *and* optimizer state, so that training can go on from it. */
export class StableCheckpoint extends Handle<"StableCheckpoint"> {
  readonly _tag = "StableCheckpoint"
  readonly known: KnownTraining
  /** Optimizer steps taken; undefined for an item of a fan-out over checkpoints yet to come. Optional, so that the compiler
   * complains of the tag first. */
  readonly step?: number | undefined
  constructor(ref: Ref, known: KnownTraining, step: number | undefined, problem?: Problem) {
    super(ref, problem)
    this.known = known
    this.step = step
  }
}

/** Weights at a step of a decay: can be measured, sampled and shipped, but not continued. */
export class Model extends Handle<"Model"> {
  readonly _tag = "Model"
  readonly known: KnownTraining
  constructor(ref: Ref, known: KnownTraining, problem?: Problem) {
    super(ref, problem)
    this.known = known
  }
}

/** A fan-out whose length is known only when its source has run. */
export class Many<out A> {
  readonly _tag = "Many"
  readonly ref: Ref
  readonly problem: Problem | undefined
  /** The handle of one item. */
  readonly item: (ref: Ref) => A
  constructor(ref: Ref, item: (ref: Ref) => A) {
    this.ref = ref
    this.problem = undefined
    this.item = item
  }
}

/** Steps at which checkpoints are kept: every multiple of `every` after `start`, and the last step. */
export const keptSteps = (start: number, steps: number, every: number): ReadonlyArray<number> => {
  const kept: Array<number> = []
  for (let step = every; step < steps; step += every) kept.push(start + step)
  return [...kept, start + steps]
}

const listed = (steps: ReadonlyArray<number>): string =>
  steps.length <= 8 ? steps.join(", ") : `${steps.slice(0, 3).join(", ")}, … ${steps.at(-1)}`

/** A fresh WSD run in its stable phase. */
export class Trained extends Handle<"Trained"> {
  readonly _tag = "Trained"
  readonly known: KnownTraining
  readonly kept: ReadonlyArray<number>
  constructor(ref: Ref, known: KnownTraining, kept: ReadonlyArray<number>) {
    super(ref)
    this.known = known
    this.kept = kept
  }
  /** The stable checkpoint after `step` optimizer steps. One that is not kept is an error of the plan. */
  stableAt = (step: number): StableCheckpoint =>
    new StableCheckpoint(
      partOf(this.ref, `step_${step}`),
      this.known,
      step,
      this.kept.includes(step)
        ? undefined
        : {
            problem: `stable checkpoint ${step} will not be kept`,
            hint: `checkpoints are kept at ${listed(this.kept)}; use one of these or change \`keepEvery\``,
          },
    )
  /** Every stable checkpoint that was kept. How many is known when the run ends. */
  get stable(): Many<StableCheckpoint> {
    return new Many(partOf(this.ref, "*"), (ref) => new StableCheckpoint(ref, this.known, undefined))
  }
}

/** A decay-only continuation: its checkpoints are known when the plan is made, for it is as long as it says. */
export class Tail extends Handle<"Tail"> {
  readonly _tag = "Tail"
  readonly known: KnownTraining
  /** Steps of its checkpoints after the parent's. */
  readonly kept: ReadonlyArray<number>
  readonly #from: number | undefined
  constructor(ref: Ref, known: KnownTraining, from: number | undefined, kept: ReadonlyArray<number>) {
    super(ref)
    this.known = known
    this.kept = kept
    this.#from = from
  }
  /** Named by its step; by its distance from the parent where the parent's step is not known yet. */
  #model = (offset: number): Model =>
    new Model(partOf(this.ref, this.#from === undefined ? `+${offset}` : `step_${this.#from + offset}`), this.known)
  get checkpoints(): ReadonlyArray<Model> {
    return this.kept.map(this.#model)
  }
  get last(): Model {
    return this.#model(this.kept.at(-1)!)
  }
  /** The checkpoint after `step` optimizer steps, counted from the beginning of the fresh run. */
  at = (step: number): Model => {
    const offset = this.#from === undefined ? undefined : step - this.#from
    if (offset !== undefined && this.kept.includes(offset)) return this.#model(offset)
    return new Model(this.ref, this.known, {
      problem: `tail checkpoint ${step} will not exist`,
      hint:
        this.#from === undefined
          ? "inside a fan-out over stable checkpoints use `checkpoints` or `last`"
          : `checkpoints are made at ${listed(this.kept.map((kept) => kept + (this.#from ?? 0)))}`,
    })
  }
}

/** A model together with what was measured of it. Only a benchmark makes one, so nothing unmeasured can be chosen. */
export class Scored extends Handle<"Scored"> {
  readonly _tag = "Scored"
  readonly known: KnownTraining
  constructor(ref: Ref, known: KnownTraining) {
    super(ref)
    this.known = known
  }
}

/**
 * The chosen one of several scored models. As a `Scored` it *is* the one that won, so a losing new candidate leaves what depends on
 * the winner cached; a step that asks for a `Selected` gets the comparison too.
 */
export class Selected extends Scored {
  readonly selected = true
}

/** The best decoding settings found, with the table they were found in. */
export class Decoding extends Handle<"Decoding"> {
  readonly _tag = "Decoding"
}

/** A model as GGUF files of several types, each measured against the model itself. */
export class Quantised extends Handle<"Quantised"> {
  readonly _tag = "Quantised"
  /** What the files say of themselves. */
  readonly known: { readonly name: string; readonly license: string }
  constructor(ref: Ref, known: Quantised["known"]) {
    super(ref)
    this.known = known
  }
}

/** A folder that could be published as it is. */
export class Release extends Handle<"Release"> {
  readonly _tag = "Release"
}

/** A release that was published: the receipt that says which revision of which repository is which bytes. */
export class Published extends Handle<"Published"> {
  readonly _tag = "Published"
}

export type Any =
  | Dataset
  | Corpus
  | Tokenizer
  | Pretrained
  | Tokens
  | Trained
  | StableCheckpoint
  | Tail
  | Model
  | Scored
  | Decoding
  | Quantised
  | Release
  | Published
