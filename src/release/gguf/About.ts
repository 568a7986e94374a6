/**
 * What a GGUF file says of itself beside the model: name, licence, languages, sources, how to sample from it, what it was made from.
 *
 * The sampling keys are read by llama.cpp where the user gives no flags. All are written, because its own defaults (`top_k` 40,
 * `min_p` 0.05, a penalty over 64 tokens) are somebody else's preset; and the order too, because it cuts the tail of the
 * distribution before it applies the temperature where `transformers` does so after.
 */
import { createHash } from "node:crypto"
import type { CheckpointState } from "../../model/Checkpoint.ts"
import type { SourceInventory } from "../../model/Corpus.ts"
import type { DecodingPreset } from "../../model/Decoding.ts"
import { f32, i32, type Metadata, text, texts, u32 } from "./Gguf.ts"

export interface About {
  readonly name: string
  /** SPDX. */
  readonly license: string
  readonly languages: ReadonlyArray<string>
  readonly sources: ReadonlyArray<{ readonly source: string; readonly licenses: ReadonlyArray<string> }>
  readonly preset?: DecodingPreset
  /** Facts by key: written as `exp.<key>`. */
  readonly provenance: Readonly<Record<string, string | number>>
}

export const samplingKeys = (preset: DecodingPreset): Metadata => [
  ["general.sampling.sequence", text("penalties;temperature;top_k;top_p")],
  // 0 is the whole vocabulary; greedy is a temperature of 0
  ["general.sampling.top_k", i32(preset.doSample ? preset.topK : 0)],
  ["general.sampling.top_p", f32(preset.doSample ? preset.topP : 1)],
  ["general.sampling.min_p", f32(0)],
  ["general.sampling.temp", f32(preset.doSample ? preset.temperature : 0)],
  // the whole text, as transformers counts it
  ["general.sampling.penalty_last_n", i32(-1)],
  ["general.sampling.penalty_repeat", f32(preset.repetitionPenalty)],
]

/** Keys that stand between the architecture's and the tokenizer's. */
export const aboutKeys = (about: About): Metadata => [
  ["general.type", text("model")],
  ["general.name", text(about.name)],
  ["general.license", text(about.license)],
  ...(about.languages.length === 0 ? [] : ([["general.languages", texts(about.languages)]] satisfies Metadata)),
  ...(about.sources.length === 0 ? [] : ([["general.dataset.count", u32(about.sources.length)]] satisfies Metadata)),
  ...about.sources.flatMap(
    ({ source, licenses }, i): Metadata => [
      [`general.dataset.${i}.name`, text(source)],
      [`general.dataset.${i}.license`, text(licenses.join(", "))],
    ],
  ),
  ...(about.preset === undefined ? [] : samplingKeys(about.preset)),
  ...Object.entries(about.provenance).map(
    ([key, value]) => [`exp.${key}`, typeof value === "number" ? u32(value) : text(value)] as const,
  ),
]

/** What a file of a release says, by what the release is made of. */
export const aboutOf = (of: {
  readonly name: string
  readonly license: string
  readonly languages: ReadonlyArray<string>
  readonly inventory: { readonly sources: ReadonlyArray<Pick<SourceInventory, "source" | "role" | "licenses">> }
  readonly preset: DecodingPreset
  readonly model: { readonly candidate: string; readonly step: number }
  readonly modelIdentity: string
  readonly decodingIdentity: string
  /** `tokenizer.json`, as text. */
  readonly tokenizer: string
  readonly state: Pick<CheckpointState, "modelSha256" | "engine">
}): About => ({
  name: of.name,
  license: of.license,
  languages: of.languages,
  sources: of.inventory.sources
    .filter(({ role }) => role === "train")
    .map(({ source, licenses }) => ({ source, licenses: Object.keys(licenses).toSorted() })),
  preset: of.preset,
  provenance: {
    candidate: of.model.candidate,
    step: of.model.step,
    preset: of.preset.name,
    "model.identity": of.modelIdentity,
    "model.sha256": of.state.modelSha256,
    "tokenizer.sha256": createHash("sha256").update(of.tokenizer).digest("hex"),
    "decoding.identity": of.decodingIdentity,
    engine: `${of.state.engine.name} ${of.state.engine.numerics} ${of.state.engine.precision}`,
  },
})

const flagged = (preset: DecodingPreset): ReadonlyArray<readonly [flag: string, value: number]> => [
  ["--temp", preset.doSample ? preset.temperature : 0],
  ["--top-k", preset.doSample ? preset.topK : 0],
  ["--top-p", preset.doSample ? preset.topP : 1],
  ["--min-p", 0],
  ["--repeat-last-n", -1],
  ["--repeat-penalty", preset.repetitionPenalty],
]

/** How a file is to be run. */
export interface Usage {
  readonly file: string
  readonly preset: DecodingPreset
  readonly context: number
  /** As the preset was measured. Without a limit both go on until the model ends its text, which a small one may never do. */
  readonly maxNewTokens: number
}

/** A line for a shell. The preset is in the file; it is written out for who changes one part of it. */
export const llamaCommand = ({ file, preset, context, maxNewTokens }: Usage, prompt: string): string =>
  [
    `llama-completion -m ${file} -no-cnv -c ${context} -n ${maxNewTokens}`,
    "--samplers 'penalties;temperature;top_k;top_p'",
    ...flagged(preset).map(([flag, value]) => `${flag} ${value}`),
    `-p '${prompt.replaceAll("'", "'\\''")}'`,
  ].join(" ")

/** For `ollama create`. No chat template: the model completes texts. */
export const modelfile = ({ file, preset, context, maxNewTokens }: Usage, eos: string, license: string): string =>
  [
    `FROM ./${file}`,
    "TEMPLATE {{ .Prompt }}",
    `PARAMETER num_ctx ${context}`,
    `PARAMETER num_predict ${maxNewTokens}`,
    `PARAMETER temperature ${preset.doSample ? preset.temperature : 0}`,
    `PARAMETER top_k ${preset.doSample ? preset.topK : 0}`,
    `PARAMETER top_p ${preset.doSample ? preset.topP : 1}`,
    "PARAMETER min_p 0",
    "PARAMETER repeat_last_n -1",
    `PARAMETER repeat_penalty ${preset.repetitionPenalty}`,
    `PARAMETER stop ${JSON.stringify(eos)}`,
    `LICENSE ${JSON.stringify(license)}`,
    "",
  ].join("\n")
