/**
 * Which block type each tensor of a file gets. The rules are those of llama.cpp's `llama-quantize` (v0.5.0), so that a `Q4_K_M` of
 * ours is what people mean by the name:
 *
 * - vectors, norms and learned positions stay F32;
 * - the head (the embedding, where it is tied) gets Q6_K, whatever the file is called, but Q8_0 in a file of that type;
 * - values of attention (`attn_v`, `attn_qkv`), `ffn_down` and `attn_output` get more bits, some in chosen layers only;
 * - rows that are no multiple of 256 cannot be K-quants: they fall back to a type of blocks of 32, rows that are no multiple of
 *   those either to F16.
 */
import { type BlockName, type FileType, fileTypes } from "../../model/GgufType.ts"
import { type BlockType, blockTypes } from "./BlockTypes.ts"

/** What of a model the rules ask for. */
export interface MixtureModel {
  readonly layers: number
  /** Query heads that share a key and value head. */
  readonly sharing: number
  readonly tiedHead: boolean
}

const fallbacks: Partial<Record<BlockName, BlockName>> = {
  Q2_K: "Q4_0",
  Q3_K: "Q4_0",
  Q4_K: "Q5_0",
  Q5_K: "Q5_1",
  Q6_K: "Q8_0",
}

const fits = (name: BlockName, columns: number): boolean => columns % blockTypes[name].numbers === 0

/** The first and the last eighth of the layers, and every third between. */
const moreBits = (layer: number, layers: number): boolean => {
  const eighth = Math.floor(layers / 8)
  return layer < eighth || layer >= Math.floor((7 * layers) / 8) || (layer - eighth) % 3 === 2
}

const wanted = (
  file: FileType,
  name: string,
  columns: number,
  { layers, sharing, tiedHead }: MixtureModel,
  weighed: boolean,
): BlockName => {
  const base = fileTypes[file].block
  if (name === "output.weight" || (tiedHead && name === "token_embd.weight"))
    return file === "Q8_0" || !fits(base, columns) ? "Q8_0" : "Q6_K"
  const [, number, part] = /^blk\.(\d+)\.(\w+)\.weight$/.exec(name) ?? []
  const layer = Number(number)
  if (part === "attn_v" || part === "attn_qkv") {
    if (file === "Q2_K") return sharing >= 4 ? "Q4_K" : "Q3_K"
    if (file === "Q3_K_M") return layer < 2 ? "Q5_K" : "Q4_K"
    if ((file === "Q4_K_M" || file === "Q5_K_M") && moreBits(layer, layers)) return "Q6_K"
  }
  if (part === "ffn_down") {
    if (file === "Q2_K") return "Q3_K"
    if (file === "Q3_K_M") return layer < Math.floor(layers / 16) ? "Q5_K" : "Q4_K"
    if ((file === "Q4_K_M" || file === "Q5_K_M") && moreBits(layer, layers)) return "Q6_K"
    if (file === "Q4_0" && weighed && layer < Math.floor(layers / 8)) return "Q4_1"
  }
  if (part === "attn_output") {
    if (file === "Q2_K") return "Q3_K"
    if (file === "Q3_K_M") return "Q4_K"
  }
  return base
}

/** Whether a tensor is quantised at all. */
export const isQuantised = (name: string, shape: ReadonlyArray<number>): boolean =>
  shape.length > 1 && name.endsWith(".weight") && !name.endsWith("_norm.weight") && name !== "position_embd.weight"

/** `weighed`: the file is made with an importance matrix. */
export const blockTypeOf = (
  file: FileType,
  name: string,
  shape: ReadonlyArray<number>,
  model: MixtureModel,
  weighed: boolean,
): BlockType => {
  if (!isQuantised(name, shape)) return blockTypes.F32
  const columns = shape.at(-1)!
  const block = fileTypes[file].block
  if (blockTypes[block].numbers === 1) return blockTypes[block]
  const first = wanted(file, name, columns, model, weighed)
  const chosen = fits(first, columns) ? first : (fallbacks[first] ?? "F16")
  return blockTypes[fits(chosen, columns) ? chosen : "F16"]
}
