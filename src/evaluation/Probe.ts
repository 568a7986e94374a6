/**
 * Probes: a prompt, the word that should follow, and how likely the model finds it (F5 of the metric definitions). Two of each
 * language, one factual and one procedural; English and Italian are those of the 1gpu-llm Small EN/IT release, so that figures
 * can be laid side by side.
 */
import type { ProbeResult } from "../engine/Engine.ts"
import type { ProbeReport } from "../model/Report.ts"

export interface Probe {
  readonly language: string
  readonly kind: "factual" | "procedural"
  readonly prompt: string
  readonly expected: string
}

const probes: ReadonlyArray<Probe> = [
  { language: "en", kind: "factual", prompt: "The capital of Italy is", expected: "Rome" },
  { language: "en", kind: "procedural", prompt: "A small language model should", expected: "be" },
  { language: "it", kind: "factual", prompt: "La capitale d'Italia è", expected: "Roma" },
  { language: "it", kind: "procedural", prompt: "Un piccolo modello linguistico dovrebbe", expected: "essere" },
  { language: "pl", kind: "factual", prompt: "Stolicą Włoch jest", expected: "Rzym" },
  { language: "pl", kind: "procedural", prompt: "Mały model językowy powinien", expected: "być" },
]

/** Probes of these languages, in the order of the languages; a language without any has none. */
export const probesOf = (languages: ReadonlyArray<string>): ReadonlyArray<Probe> =>
  languages.flatMap((language) => probes.filter((probe) => probe.language === language))

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
