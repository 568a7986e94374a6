/**
 * How much each column of a matrix matters: the mean square of what it is multiplied with, over some real text. An error in a column
 * whose input is always near zero costs nothing, so Σ importance·(x − x̂)² is, to first order, the error that a layer's output makes;
 * it is what llama.cpp calls an importance matrix.
 */
export interface Importance {
  /** By GGUF name: a value a column. */
  readonly columns: ReadonlyMap<string, Float32Array>
  /** Where the text is from, in words. */
  readonly dataset: string
  /** Rows of text, each a context long. */
  readonly rows: number
}

/** A column that was hardly ever used still has a place to be kept: no weight falls below this share of the mean. */
const FLOOR = 1e-4

/** From sums of squares: scaled to a mean of 1, for only proportions matter. All equal where nothing was seen. */
export const importanceOf = (sums: Float32Array | Float64Array): Float32Array => {
  let total = 0
  for (const sum of sums) total += sum
  const mean = total / sums.length
  if (!(mean > 0) || !Number.isFinite(mean)) return new Float32Array(sums.length).fill(1)
  return new Float32Array(sums).map((sum) => Math.max(sum / mean, FLOOR))
}
