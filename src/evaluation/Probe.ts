/**
 * How likely a model finds the word that should follow a probe's prompt (`docs/metrics.md`).
 */
import type { ProbeResult } from "../engine/Engine.ts"
import type { Probe } from "../model/Probe.ts"
import type { ProbeReport } from "../model/Report.ts"

/** `encode` without special tokens. */
export type Encode = (text: string) => ReadonlyArray<number>

/**
 * Ids of a context and of what follows it, by lm-evaluation-harness's `_encode_pair`: white space at the end of the context goes to
 * the continuation; both are encoded as one text, and the continuation is what lies beyond the length of the context's own ids.
 * (Encoding the two apart would give other tokens where a merge spans the border.)
 */
export const encodePair = (
  encode: Encode,
  context: string,
  continuation: string,
): { readonly context: ReadonlyArray<number>; readonly continuation: ReadonlyArray<number> } => {
  const kept = context.trimEnd()
  const whole = encode(kept + context.slice(kept.length) + continuation)
  const before = encode(kept)
  return { context: before, continuation: whole.slice(before.length) }
}

/** What the engine is asked: BOS and prompt, then the tokens of a blank and the expected word. */
export const probeRequest = (
  probe: Probe,
  encode: Encode,
  bosId: number,
): { readonly context: ReadonlyArray<number>; readonly target: ReadonlyArray<number> } => {
  const pair = encodePair(encode, probe.prompt, ` ${probe.expected}`)
  return { context: [bosId, ...pair.context], target: pair.continuation }
}

/** `decode` gives the text of one token. Perplexity is exp(−mean log p) over the target, so 1/p for a target of one token. */
export const probeReport = (probe: Probe, result: ProbeResult, decode: (id: number) => string): ProbeReport => {
  const { rank, ties, probability, logProbabilities, top } = result
  const mean = logProbabilities.reduce((sum, value) => sum + value, 0) / logProbabilities.length
  return {
    language: probe.language,
    kind: probe.kind,
    prompt: probe.prompt,
    expected: probe.expected,
    correct_token_rank: rank,
    rank_ties: ties,
    correct_token_probability: probability,
    perplexity_on_target_sequence: Math.exp(-mean),
    target_tokens: logProbabilities.length,
    top: top.map(({ id, probability }) => ({ token: decode(id), probability })),
  }
}
