/**
 * Which of several files is recommended: the smallest one whose figure, its interval included, is at most so much in every language.
 * `quantisation.json` has the rule beside the figures, so that whoever reads it can pick again.
 */
import type { PickRule, Quantisation } from "../../model/Report.ts"

/** A matrix of importance adds some bytes of keys: files as good as equally large are told apart by what they cost. */
const SAME_SIZE = 1.01

export interface Choice {
  readonly file: string
  /** Whether it keeps the rule; otherwise it is the one that comes nearest. */
  readonly kept: boolean
  /** The rule in words. */
  readonly words: string
}

/** By the upper end of the interval, in the language where it is highest. There is at least one file. */
export const pickFile = (files: Quantisation["files"], { by, at_most: atMost }: PickRule): Choice => {
  const worst = files.map(({ file, bytes, losses }) => ({
    file,
    bytes,
    figure: Math.max(...Object.values(losses).map((loss) => loss[by].ci95?.[1] ?? loss[by].value)),
  }))
  const keeping = worst.filter(({ figure }) => figure <= atMost)
  const kept = keeping.length > 0
  const smallest = Math.min(...keeping.map(({ bytes }) => bytes))
  const [chosen] = (kept ? keeping.filter(({ bytes }) => bytes <= SAME_SIZE * smallest) : worst).toSorted(
    (a, b) => a.figure - b.figure || a.bytes - b.bytes,
  )
  const asked = `whose ${ruleNames[by]} is at most ${atMost} in every language, its 95% interval included`
  const words = kept
    ? `of the files within 1% of the smallest ${asked}, the closest to the model`
    : `the smallest file ${asked}; none is, so the one that comes nearest`
  return { file: chosen!.file, kept, words }
}

const ruleNames = {
  kld: "mean KL divergence to the model itself, in nats,",
  delta_ppl: "rise in perplexity",
  rms_delta_p: "root mean square change of the right token's probability",
} as const satisfies Record<PickRule["by"], string>
