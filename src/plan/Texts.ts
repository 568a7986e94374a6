/**
 * How much text passes through a plan: what takes longest to read, and what a training goes through once or many times. Steps that hold
 * texts say how much: a data set its bytes, a corpus what it splits them into, packing how many tokens that is.
 */

/** By what is done with them. */
export interface Parts {
  readonly train: number
  /** Of all sources, and of those trained on: a benchmark measures the former, training the latter. */
  readonly validation: number
  readonly trainedValidation: number
  readonly holdout: number
}

export interface Texts {
  /** In UTF-8, all of them. */
  readonly bytes: number
  readonly split?: Parts
  readonly tokens?: Parts
  /** Counted, and not reckoned from sizes of files and bounds. */
  readonly counted: boolean
}

/** What makes an input of a step: its parameters, and the texts it holds as far as that can be told. */
export interface Source {
  readonly params: any
  readonly texts: Texts | undefined
}

/**
 * How much text the artifact of a kind will hold: given its parameters, and by input what makes it. Undefined where nobody can tell.
 * Once the artifact is there, its `inventory.json` is believed.
 */
export type HeldTexts = (params: any, given: Readonly<Record<string, ReadonlyArray<Source>>>) => Texts | undefined
