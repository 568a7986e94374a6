import { assert, describe, it } from "vitest"
import { openHeap } from "../../src/engine/tfjs/Kernels.ts"
import { wasmModel } from "../../src/engine/tfjs/Model.ts"
import { flatLayout } from "../../src/engine/tfjs/TrainMemory.ts"

const architecture = { family: "gpt2" as const, layers: 2, width: 32, heads: 2, context: 48, vocabulary: 300 }

describe("a model that is asked", () => {
  it("answers the same when the memory had to grow in the middle of it", async () => {
    const heap = await openHeap()
    const model = wasmModel(heap, architecture)
    const last = flatLayout(architecture).at(-1)!
    model.load(
      Float32Array.from({ length: last.first + last.size }, (_, i) => ((i * 2_654_435_761) % 1000) / 5000 - 0.1),
    )
    const texts = [7, 11, 13].map((stride) =>
      Array.from({ length: architecture.context }, (_, i) => (i * stride) % architecture.vocabulary),
    )
    const wanted = texts.map((ids) => [...model.losses(ids)])

    const scratch = heap.scratch.bind(heap)
    let grown = 0
    heap.scratch = (bytes) => {
      const before = heap.bytes
      while (heap.bytes === before) heap.allocate(16 << 20)
      grown++
      return scratch(bytes)
    }
    // the order is another, so that nothing that was left over is right by chance
    for (const i of [1, 0, 2]) assert.deepStrictEqual([...model.losses(texts[i]!)], wanted[i])
    assert.isAtLeast(grown, 3)
  })
})
