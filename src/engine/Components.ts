/** What memory is taken by while a model is trained. */
/** In bytes. */
export interface Components {
  readonly weights: number
  readonly gradients: number
  /** AdamW's moments. */
  readonly optimizer: number
  /** What the backward pass reads of the forward pass, and what both have under way. */
  readonly activations: number
  readonly logits: number
  /** Of what computes, before there is a model: interpreter, libraries, a GPU's context. */
  readonly runtime: number
}

export const components = ["weights", "gradients", "optimizer", "activations", "logits", "runtime"] as const

export const totalOf = (parts: Components): number => components.reduce((sum, name) => sum + parts[name], 0)

export const nothing: Components = { weights: 0, gradients: 0, optimizer: 0, activations: 0, logits: 0, runtime: 0 }
