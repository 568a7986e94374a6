/**
 * Files of a repository that are not of the release: which stay beside it, and which must not.
 *
 * A release is what its sums list, but whoever loads a repository goes by names: an `adapter_config.json` beside the weights is
 * applied to them, weights of another format or a tokenizer's file are taken before or beside ours, and Python is run. With such a
 * file there, what people load is not what was measured, and `exp verify` would say so only later. There is no flag to publish all
 * the same: the file can be deleted there, or another repository taken.
 */
import type { ReleaseContent } from "./ReleaseFiles.ts"

/** The hub's own: which files it keeps as large ones. */
export const ATTRIBUTES = ".gitattributes"

const WEIGHTS = /\.(?:safetensors|gguf|bin|pt|pth|pkl|pickle|ckpt|h5|msgpack|onnx|onnx_data|mlmodel|tflite)$/i
const CODE = /\.(?:py|so|dll|dylib)$/i

/** What `transformers` and its kin look for by name, wherever it comes from. */
const LOADED: ReadonlySet<string> = new Set(
  `adapter_config.json config.json generation_config.json tokenizer.json tokenizer_config.json tokenizer.model
  special_tokens_map.json added_tokens.json vocab.json vocab.txt merges.txt spiece.model sentencepiece.bpe.model chat_template.json
  chat_template.jinja preprocessor_config.json processor_config.json quantize_config.json modules.json`.split(/\s+/),
)

/** Whether a file, by its name, changes what is loaded from a repository. */
export const isLoaded = (path: string): boolean =>
  WEIGHTS.test(path) ||
  CODE.test(path) ||
  /\.index\.json$/.test(path) ||
  /(?:^|\/)additional_chat_templates\//.test(path) ||
  LOADED.has(path.slice(path.lastIndexOf("/") + 1))

/** Paths that a release neither has nor removes. */
export const foreignFiles = (
  there: ReadonlyArray<string>,
  changes: ReadonlyArray<{ readonly path: string }>,
): ReadonlyArray<string> => {
  const ours = new Set(changes.map(({ path }) => path))
  return there.filter((path) => path !== ATTRIBUTES && !ours.has(path)).sort()
}

export const staying = (foreign: ReadonlyArray<string>): string =>
  `not of the release, and ${foreign.length === 1 ? "stays" : "stay"}: ${foreign.join(", ")}`

/**
 * Whether `.gitattributes` differs only as the hub changes it by itself when a large file is committed whose name it did not know:
 * a line at the end for each. Any other line could have other files kept, or merged, in another way.
 */
export const isHubsOwnChange = (before: string, after: string, { files }: Pick<ReleaseContent, "files">): boolean => {
  const lines = (text: string) => text.split(/\r?\n/).filter((line) => line !== "")
  const [old, now] = [lines(before), lines(after)]
  if (old.some((line, index) => line !== now[index])) return false
  const names = new Set(files.map(({ path }) => path))
  return now.slice(old.length).every((line) => {
    const path = /^(\S+) filter=lfs diff=lfs merge=lfs -text$/.exec(line)?.[1]
    return path !== undefined && names.has(path.replaceAll("[[:space:]]", " "))
  })
}
