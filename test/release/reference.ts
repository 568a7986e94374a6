/**
 * GPT-2's forward pass in the plainest way there is, in fp64 on the fabricated weights: what `transformers` is compared with when
 * no engine of ours takes part in the test.
 */
import { LAYER_NORM_EPSILON } from "../../src/model/Architecture.ts"
import { architecture, byteSymbols, weights } from "./fixture.ts"

const { layers, width, heads, vocabulary } = architecture
const w = weights()
const tensor = (name: string): Float32Array => w.get(name)!

const norm = (x: ReadonlyArray<number>, name: string): Array<number> => {
  const mean = x.reduce((a, b) => a + b, 0) / width
  const variance = x.reduce((a, b) => a + (b - mean) ** 2, 0) / width
  const [scale, shift] = [tensor(`${name}.weight`), tensor(`${name}.bias`)]
  return x.map((value, i) => ((value - mean) / Math.sqrt(variance + LAYER_NORM_EPSILON)) * scale[i]! + shift[i]!)
}
/** Conv1D: [in, out]. */
const project = (x: ReadonlyArray<number>, name: string): Array<number> => {
  const [matrix, bias] = [tensor(`${name}.weight`), tensor(`${name}.bias`)]
  return Array.from(bias, (start, out) =>
    x.reduce((sum, value, i) => sum + value * matrix[i * bias.length + out]!, start),
  )
}
const gelu = (x: number): number => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3)))

/** Logits after the last of `ids`. */
export const lastLogits = (ids: ReadonlyArray<number>): Array<number> => {
  const [wte, wpe] = [tensor("transformer.wte.weight"), tensor("transformer.wpe.weight")]
  let states = ids.map((id, position) =>
    Array.from({ length: width }, (_, i) => wte[id * width + i]! + wpe[position * width + i]!),
  )
  const size = width / heads
  for (let layer = 0; layer < layers; layer++) {
    const prefix = `transformer.h.${layer}`
    const qkv = states.map((x) => project(norm(x, `${prefix}.ln_1`), `${prefix}.attn.c_attn`))
    states = states.map((x, t) => {
      const mixed = Array.from({ length: heads }, (_, head) => {
        const at = (row: ReadonlyArray<number>, which: number) =>
          row.slice(which * width + head * size, which * width + (head + 1) * size)
        const query = at(qkv[t]!, 0)
        const scores = qkv
          .slice(0, t + 1)
          .map((row) => at(row, 1).reduce((sum, k, i) => sum + k * query[i]!, 0) / Math.sqrt(size))
        const top = Math.max(...scores)
        const weight = scores.map((score) => Math.exp(score - top))
        const total = weight.reduce((a, b) => a + b, 0)
        return Array.from({ length: size }, (_, i) =>
          weight.reduce((sum, p, s) => sum + (p / total) * at(qkv[s]!, 2)[i]!, 0),
        )
      }).flat()
      const attended = project(mixed, `${prefix}.attn.c_proj`).map((value, i) => value + x[i]!)
      const inner = project(norm(attended, `${prefix}.ln_2`), `${prefix}.mlp.c_fc`).map(gelu)
      return project(inner, `${prefix}.mlp.c_proj`).map((value, i) => value + attended[i]!)
    })
  }
  const last = norm(states.at(-1)!, "transformer.ln_f")
  return Array.from({ length: vocabulary }, (_, id) =>
    last.reduce((sum, value, i) => sum + value * wte[id * width + i]!, 0),
  )
}

/** As the fabricated tokenizer has it: " t" is one token, any other byte is its own. */
export const encode = (text: string): Array<number> => {
  const ids: Array<number> = []
  for (const byte of Buffer.from(text)) {
    if (byte === 0x74 && ids.at(-1) === 3 + 32) ids[ids.length - 1] = 3 + byteSymbols().length
    else ids.push(3 + byte)
  }
  return ids
}

export const referenceTexts = () =>
  ["The capital of Italy is", "La capitale d'Italia è", "What the two of them said, in 1861: «no»"].map((text) => {
    const ids = [0, ...encode(text)]
    const greedy: Array<number> = []
    for (let n = 0; n < 12; n++) {
      const logits = lastLogits([...ids, ...greedy])
      greedy.push(logits.indexOf(Math.max(...logits)))
    }
    return { text, ids, logits_last: lastLogits(ids), greedy }
  })
