/** The candidate a mistyped name most likely meant: few edits away, swapped neighbours counting as one; `undefined` when none is near. */
export const didYouMean = (name: string, candidates: Iterable<string>): string | undefined => {
  let best: string | undefined
  // a third of the name may be wrong; beyond that a suggestion is noise
  let least = Math.max(1, Math.floor(name.length / 3)) + 1
  for (const candidate of candidates) {
    const edits = editDistance(name.toLowerCase(), candidate.toLowerCase())
    if (edits < least) {
      best = candidate
      least = edits
    }
  }
  return best
}

/** Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours, in UTF-16 code units. */
const editDistance = (a: string, b: string): number => {
  let beforeLast: Array<number> = []
  let last = Array.from({ length: b.length + 1 }, (_, j) => j)
  for (let i = 1; i <= a.length; i++) {
    const row = [i]
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1]
      let edits = Math.min(last[j]! + 1, row[j - 1]! + 1, last[j - 1]! + (same ? 0 : 1))
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1])
        edits = Math.min(edits, beforeLast[j - 2]! + 1)
      row.push(edits)
    }
    beforeLast = last
    last = row
  }
  return last[b.length]!
}

/** A hint for a name that is not among those there are: the nearest one, or all of them. */
export const suggestion = (name: string, candidates: Iterable<string>): string => {
  const all = [...candidates]
  const nearest = didYouMean(name, all)
  return nearest === undefined
    ? `there are ${all.map((one) => `\`${one}\``).join(", ")}`
    : `did you mean \`${nearest}\`?`
}
