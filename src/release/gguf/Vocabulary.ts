/**
 * The tokenizer as llama.cpp reads it. Its BPE merges as ours does; what differs between models is how text is cut into words
 * before, and llama.cpp knows these cuts by name (`tokenizer.ggml.pre`). The name is derived from what `tokenizer.json` says, never
 * guessed from the model, and a tokenizer whose cut has no name here is refused: under a wrong one a file loads and is another model.
 *
 * | `pre`     | words are cut by                                                       |
 * |-----------|------------------------------------------------------------------------|
 * | gpt-2     | `ByteLevel`: the pattern of `src/data/Words.ts`                        |
 * | smollm    | each digit alone, then as gpt-2                                        |
 * | llama-bpe | LLaMA 3's pattern; words that are tokens are not merged                |
 * | qwen2     | Qwen 2's pattern, where no normaliser is asked for                     |
 */
import { bool, i32s, type Metadata, text, texts, u32 } from "./Gguf.ts"

type Json = { readonly [key: string]: unknown }
const isObject = (value: unknown): value is Json => typeof value === "object" && value !== null && !Array.isArray(value)

const NORMAL = 1
const CONTROL = 3
const USER_DEFINED = 4
const UNUSED = 5

const patterns: Readonly<Record<string, string>> = {
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+":
    "llama-bpe",
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+":
    "qwen2",
}

const cutOf = (json: Json): string | undefined => {
  const cut = json["pre_tokenizer"]
  if (!isObject(cut)) return undefined
  const steps = cut["type"] === "Sequence" && Array.isArray(cut["pretokenizers"]) ? cut["pretokenizers"] : [cut]
  if (!steps.every(isObject) || steps.length > 2) return undefined
  const last = steps.at(-1)!
  if (last["type"] !== "ByteLevel" || last["add_prefix_space"] !== false) return undefined
  const cuts = last["use_regex"] !== false
  const [first] = steps as [Json]
  if (first === last) return cuts ? "gpt-2" : undefined
  if (first["type"] === "Digits") return cuts && first["individual_digits"] === true ? "smollm" : undefined
  if (first["type"] !== "Split" || first["behavior"] !== "Isolated" || first["invert"] === true || cuts)
    return undefined
  const pattern = isObject(first["pattern"]) ? first["pattern"]["Regex"] : undefined
  const name = typeof pattern === "string" ? patterns[pattern] : undefined
  const whole = isObject(json["model"]) && json["model"]["ignore_merges"] === true
  return (name === "llama-bpe") === whole ? name : undefined
}

/** Whether BOS is put in front of every text. */
const addsBos = (json: Json, bos: string | undefined): boolean => {
  const processors = (value: unknown): ReadonlyArray<Json> =>
    !isObject(value)
      ? []
      : value["type"] === "Sequence" && Array.isArray(value["processors"])
        ? value["processors"].flatMap(processors)
        : [value]
  return processors(json["post_processor"]).some(({ type, single }) => {
    const [first] = type === "TemplateProcessing" && Array.isArray(single) ? (single as Array<unknown>) : []
    return isObject(first) && isObject(first["SpecialToken"]) && first["SpecialToken"]["id"] === bos
  })
}

export interface SpecialIds {
  readonly bosId: number | null
  readonly eosId: number | null
  readonly padId: number | null
}

/**
 * The keys of a `tokenizer.json`. `rows` of the embedding may be more than there are tokens; those are marked unused. Throws an Error
 * that says what llama.cpp has no name for.
 */
export const vocabularyKeys = (json: unknown, ids: SpecialIds, rows: number): Metadata => {
  if (!isObject(json) || !isObject(json["model"]) || json["model"]["type"] !== "BPE")
    throw new Error("the tokenizer is not byte-level BPE")
  if (json["normalizer"] !== null && json["normalizer"] !== undefined)
    throw new Error("the tokenizer normalises its texts, which llama.cpp would not")
  const pre = cutOf(json)
  if (pre === undefined) throw new Error("the way the tokenizer cuts words has no name in llama.cpp")
  const { vocab, merges } = json["model"]
  if (!isObject(vocab) || !Array.isArray(merges)) throw new Error("the tokenizer has no vocabulary or no merges")
  const tokens: Array<string | undefined> = Array.from({ length: rows }, () => undefined)
  const kinds = new Array<number>(rows).fill(UNUSED)
  const put = (id: unknown, token: string, kind: number): void => {
    if (!Number.isSafeInteger(id) || (id as number) < 0 || (id as number) >= rows)
      throw new Error(`token \`${token.slice(0, 60)}\` has the id ${String(id)}, the embedding has ${rows} rows`)
    tokens[id as number] = token
    kinds[id as number] = kind
  }
  for (const [token, id] of Object.entries(vocab)) put(id, token, NORMAL)
  const added = Array.isArray(json["added_tokens"]) ? json["added_tokens"] : []
  for (const token of added)
    if (isObject(token) && typeof token["content"] === "string")
      put(token["id"], token["content"], token["special"] === true ? CONTROL : USER_DEFINED)
  const bos = ids.bosId === null ? undefined : tokens[ids.bosId]
  const id = (key: string, value: number | null): Metadata =>
    value === null ? [] : [[`tokenizer.ggml.${key}_token_id`, u32(value)]]
  return [
    ["tokenizer.ggml.model", text("gpt2")],
    ["tokenizer.ggml.pre", text(pre)],
    ["tokenizer.ggml.tokens", texts(tokens.map((token, i) => token ?? `[PAD${i}]`))],
    ["tokenizer.ggml.token_type", i32s(kinds)],
    ["tokenizer.ggml.merges", texts(merges.map((merge) => (Array.isArray(merge) ? merge.join(" ") : String(merge))))],
    ...id("bos", ids.bosId),
    ...id("eos", ids.eosId),
    ...id("padding", ids.padId),
    ["tokenizer.ggml.add_bos_token", bool(bos !== undefined && addsBos(json, bos))],
    ["tokenizer.ggml.add_eos_token", bool(false)],
  ]
}
