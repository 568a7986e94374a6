/**
 * Probes: a prompt, and the word that should follow (`docs/metrics.md`). Two of each language, one factual and one
 * procedural; English and Italian are those of the 1gpu-llm Small EN/IT release, so that figures can be laid side by side.
 */
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

/** Tokens that telemetry draws after each probe, greedily, whenever it is validated. */
export const SAMPLE_TOKENS = 32
