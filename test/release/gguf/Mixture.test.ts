import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"
import type { FileType } from "../../../src/model/GgufType.ts"
import { blockTypeOf } from "../../../src/release/gguf/Mixture.ts"

interface Case {
  readonly family: string
  readonly layers: number
  readonly width: number
  readonly tiedHead: boolean
  readonly sharing: number
  readonly tensors: Readonly<Record<string, ReadonlyArray<number>>>
  /** Tensors by block type, by file type. */
  readonly types: Readonly<Record<string, Readonly<Record<string, ReadonlyArray<string>>>>>
}
const { cases } = JSON.parse(readFileSync(new URL("../../golden/gguf_mixture.json", import.meta.url), "utf8")) as {
  readonly cases: ReadonlyArray<Case>
}

describe("the mixture", () => {
  for (const { family, layers, width, tiedHead, sharing, tensors, types } of cases)
    it(`gives every tensor of a ${family} of ${layers} layers and width ${width} the type that llama.cpp gives it`, () => {
      for (const [file, theirs] of Object.entries(types)) {
        const ours: Record<string, Array<string>> = {}
        for (const [name, shape] of Object.entries(tensors)) {
          const block = blockTypeOf(file as FileType, name, shape, { layers, sharing, tiedHead }, false).name
          ours[block] = [...(ours[block] ?? []), name]
        }
        const sorted = (groups: Readonly<Record<string, ReadonlyArray<string>>>) =>
          Object.fromEntries(Object.entries(groups).map(([block, names]) => [block, names.toSorted()]))
        expect([file, sorted(ours)]).toEqual([file, sorted(theirs)])
      }
    })

  it("keeps rows that fit no block of 32 as halves", () => {
    const model = { layers: 2, sharing: 1, tiedHead: true }
    expect(blockTypeOf("Q4_K_M", "blk.0.ffn_up.weight", [80, 20], model, false).name).toBe("F16")
    expect(blockTypeOf("Q8_0", "token_embd.weight", [80, 20], model, false).name).toBe("F16")
  })

  it("gives the first `ffn_down` of a weighed Q4_0 an offset, as llama.cpp does", () => {
    const model = { layers: 8, sharing: 1, tiedHead: true }
    const of = (layer: number, weighed: boolean) =>
      blockTypeOf("Q4_0", `blk.${layer}.ffn_down.weight`, [256, 1024], model, weighed).name
    expect([of(0, true), of(1, true), of(0, false)]).toEqual(["Q4_1", "Q4_0", "Q4_0"])
  })
})
