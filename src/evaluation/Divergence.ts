/**
 * How far a changed model is from what it was made from, token by token, as llama.cpp's `perplexity
 * --kl-divergence` prints it, over every target of whole documents where that tool takes the second halves of chunks of 512.
 *
 * Numbers in fp64 from fp32 logits; there is no base file, so none of the floor of 16 bits that such a file has.
 */
import type { Measured, QuantisationLoss } from "../model/Report.ts"

/** llama.cpp leaves out tokens that the base gives less than e^−16. */
const LOWEST = -16

/** What is kept of one target. */
export interface TokenDivergence {
  /** −log of what the changed model, and what the base, gives the target. */
  readonly nll: number
  readonly baseNll: number
  readonly kld: number
  /** q − p of the target. */
  readonly deltaP: number
  readonly sameTop: boolean
}

const logSumExp = (logits: Float32Array): { readonly log: number; readonly top: number } => {
  let top = 0
  for (let v = 1; v < logits.length; v++) if (logits[v]! > logits[top]!) top = v
  const largest = logits[top]!
  let sum = 0
  for (let v = 0; v < logits.length; v++) sum += Math.exp(logits[v]! - largest)
  return { log: largest + Math.log(sum), top }
}

/** `base` and `changed` are logits over the vocabulary at the position before `target`. */
export const tokenDivergence = (base: Float32Array, changed: Float32Array, target: number): TokenDivergence => {
  const p = logSumExp(base)
  const q = logSumExp(changed)
  let kld = 0
  for (let v = 0; v < base.length; v++) {
    const logP = base[v]! - p.log
    if (logP > LOWEST) kld += Math.exp(logP) * (logP - (changed[v]! - q.log))
  }
  const baseNll = p.log - base[target]!
  const nll = q.log - changed[target]!
  return { nll, baseNll, kld, deltaP: Math.exp(-nll) - Math.exp(-baseNll), sameTop: p.top === q.top }
}

const mean = (values: ReadonlyArray<number>): number => values.reduce((sum, value) => sum + value, 0) / values.length

/** Of two means: (E[ab] − E[a]·E[b]) / (n − 1). */
const covariance = (a: ReadonlyArray<number>, b: ReadonlyArray<number>): number => {
  if (a.length < 2) return 0
  const meanA = mean(a)
  const meanB = mean(b)
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += (a[i]! - meanA) * (b[i]! - meanB)
  return sum / a.length / (a.length - 1)
}
const uncertainty = (values: ReadonlyArray<number>): number => Math.sqrt(Math.max(0, covariance(values, values)))

/** Linear interpolation between the two neighbours. */
const quantile = (sorted: ReadonlyArray<number>, share: number): number => {
  const at = share * (sorted.length - 1)
  const below = Math.floor(at)
  const rest = at - below
  return sorted[below]! * (1 - rest) + sorted[Math.min(below + 1, sorted.length - 1)]! * rest
}

const Z = 1.959964

/** At least one token. */
export const summariseDivergence = (tokens: ReadonlyArray<TokenDivergence>): QuantisationLoss => {
  const n = tokens.length
  const measured = (value: number, deviation: number): Measured => ({
    value,
    ci95: [value - Z * deviation, value + Z * deviation],
    n,
  })
  const nll = tokens.map((token) => token.nll)
  const baseNll = tokens.map((token) => token.baseNll)
  const kld = tokens.map((token) => token.kld)
  const sorted = kld.toSorted((a, b) => a - b)
  const deltaP = tokens.map((token) => token.deltaP)
  const squares = deltaP.map((delta) => delta * delta)
  const perplexity = Math.exp(mean(nll))
  const basePerplexity = Math.exp(mean(baseNll))
  const own = perplexity * uncertainty(nll)
  const base = basePerplexity * uncertainty(baseNll)
  const shared = perplexity * basePerplexity * covariance(nll, baseNll)
  const rms = Math.sqrt(mean(squares))
  const same = tokens.filter((token) => token.sameTop).length / n
  return {
    ppl: measured(perplexity, own),
    delta_ppl: measured(perplexity - basePerplexity, Math.sqrt(Math.max(0, own * own + base * base - 2 * shared))),
    kld: measured(mean(kld), uncertainty(kld)),
    kld_median: quantile(sorted, 0.5),
    kld_p99: quantile(sorted, 0.99),
    kld_max: sorted.at(-1)!,
    mean_delta_p: measured(mean(deltaP), uncertainty(deltaP)),
    rms_delta_p: measured(rms, rms === 0 ? 0 : (0.5 / rms) * uncertainty(squares)),
    same_top_p: measured(same, n < 2 ? 0 : Math.sqrt((same * (1 - same)) / (n - 1))),
  }
}
