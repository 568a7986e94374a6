export { attendCached, attention, attentionGradient, attentionScratchBytes, fillCache } from "./attention"
export { gemm, gemmScratchBytes, gemmPacked, pack, packedBytes } from "./gemm"
export {
  add,
  addBias,
  columnSums,
  crossEntropyGradient,
  embedding,
  embeddingGradient,
  gelu,
  geluGradient,
  layerNorm,
  layerNormGradient,
  logSumExp,
  lookup,
  lookupGradient,
  rmsNorm,
  rmsNormGradient,
  rotate,
  swiglu,
  swigluGradient,
} from "./layers"
