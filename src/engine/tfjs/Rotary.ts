/**
 * How far each pair of columns of a head is turned at each position (Su et al., arXiv 2104.09864).
 *
 * Angles are made in fp32, step by step as `transformers` makes them: at position 8000 the rounding of an angle is 5e-4, and what a
 * checkpoint has learned is that rounding too.
 */

/** For each position the cosines of all pairs, then their sines: [length][headWidth]. */
export const turns = (length: number, headWidth: number, theta: number): Float32Array => {
  const half = headWidth / 2
  const all = new Float32Array(length * headWidth)
  const frequencies = Array.from({ length: half }, (_, pair) =>
    Math.fround(1 / Math.fround(theta ** Math.fround((2 * pair) / headWidth))),
  )
  for (let position = 0; position < length; position++)
    frequencies.forEach((frequency, pair) => {
      const angle = Math.fround(position * frequency)
      all[position * headWidth + pair] = Math.cos(angle)
      all[position * headWidth + half + pair] = Math.sin(angle)
    })
  return all
}
