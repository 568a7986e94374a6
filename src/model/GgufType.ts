/** Kinds of GGUF files by the names people know, llama.cpp's numbers for them, and the blocks most of their matrices are kept in. */

/** Blocks that rows of numbers are kept in, by ggml's names; `src/release/gguf/BlockTypes.ts` has how. */
export type BlockName =
  | "F32"
  | "F16"
  | "BF16"
  | "Q8_0"
  | "Q4_0"
  | "Q4_1"
  | "Q5_0"
  | "Q5_1"
  | "Q2_K"
  | "Q3_K"
  | "Q4_K"
  | "Q5_K"
  | "Q6_K"

export const fileTypes = {
  F32: { id: 0, block: "F32" },
  F16: { id: 1, block: "F16" },
  BF16: { id: 32, block: "BF16" },
  Q8_0: { id: 7, block: "Q8_0" },
  Q4_0: { id: 2, block: "Q4_0" },
  Q6_K: { id: 18, block: "Q6_K" },
  Q5_K_M: { id: 17, block: "Q5_K" },
  Q4_K_M: { id: 15, block: "Q4_K" },
  Q3_K_M: { id: 12, block: "Q3_K" },
  Q2_K: { id: 10, block: "Q2_K" },
} as const satisfies Readonly<Record<string, { readonly id: number; readonly block: BlockName }>>

export type FileType = keyof typeof fileTypes

/** Whether an importance matrix changes anything in a file of this type. */
export const isWeighed = (type: FileType): boolean => !["F32", "F16", "BF16", "Q8_0"].includes(type)
