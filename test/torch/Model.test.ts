/** The worker's models beside those of `transformers`: the same weights must give the same logits and the same gradients. */
import { readFileSync } from "node:fs"
import { assert, describe, it, vi } from "vitest"
import { type Architecture, parameterCount, tensors } from "../../src/model/Architecture.ts"
import { library, peer, titledBeside } from "./peer.ts"
import { run, runnable, titled } from "./worker.ts"

// each starts PyTorch, some more than once
vi.setConfig({ testTimeout: 240_000 })

const llama = { family: "llama", layers: 2, width: 64, heads: 8, keyValueHeads: 2, feedForwardWidth: 96 } as const
const architectures: Readonly<Record<string, Architecture>> = {
  "GPT-2": { family: "gpt2", layers: 2, width: 48, heads: 3, context: 40, vocabulary: 130 },
  "LLaMA with shared key-value heads": {
    ...{ ...llama, ropeTheta: 10_000, normEpsilon: 1e-6, tiedHead: false },
    ...{ context: 48, vocabulary: 130 },
  },
  "LLaMA with a tied head, long wavelengths and a longer context": {
    ...{ ...llama, layers: 3, heads: 4, keyValueHeads: 4, ropeTheta: 500_000, normEpsilon: 1e-5, tiedHead: true },
    ...{ context: 300, vocabulary: 99 },
  },
  "Mistral with a window of 7": {
    ...{ ...llama, ropeTheta: 10_000, normEpsilon: 1e-5, tiedHead: false, slidingWindow: 7 },
    ...{ context: 50, vocabulary: 99 },
  },
}

interface Answer {
  readonly models: ReadonlyArray<{
    readonly tensors: ReadonlyArray<readonly [string, ReadonlyArray<number>]>
    readonly logits: number
    readonly gradients: number
    readonly recomputed: number
    readonly compiled: number
    readonly bf16: number
  }>
}

describe.skipIf(!library)(titledBeside("the worker's models beside the library's"), () => {
  let answers: Answer["models"] | undefined
  const answerOf = (name: string) => {
    answers ??= peer<Answer>({ task: "models", architectures: Object.values(architectures) }).models
    return answers[Object.keys(architectures).indexOf(name)]!
  }

  it.each(Object.keys(architectures))("%s: the same logits and gradients", (name) => {
    const { logits, gradients } = answerOf(name)
    // relative to the largest: fp32 sums in another order
    assert.isBelow(logits, 2e-6)
    assert.isBelow(gradients, 5e-6)
  })

  it.each(Object.keys(architectures))("%s: tensors have the canonical names, shapes and order", (name) => {
    assert.deepStrictEqual(
      answerOf(name).tensors,
      tensors(architectures[name]!).map(({ name, shape }) => [name, shape] as const),
    )
  })

  it.each(Object.keys(architectures))(
    "%s: compiles whole, recomputes activations to the same bits, runs in bf16",
    (name) => {
      const { compiled, recomputed, bf16 } = answerOf(name)
      assert.strictEqual(compiled, 0)
      assert.strictEqual(recomputed, 0)
      assert.isBelow(bf16, 0.1)
      assert.isAbove(bf16, 0)
    },
  )
})

describe.skipIf(!runnable)(titled("the worker's models"), () => {
  it("count parameters as published models do", () => {
    const shapes: Readonly<Record<string, Architecture>> = {
      "1gpu_llm_small": { family: "gpt2", layers: 12, width: 768, heads: 12, context: 2500, vocabulary: 64_000 },
      gpt2_124M: { family: "gpt2", layers: 12, width: 768, heads: 12, context: 1024, vocabulary: 50_257 },
      "APT-1B-Base": {
        ...{ family: "llama", layers: 20, width: 2048, heads: 16, keyValueHeads: 16, feedForwardWidth: 5632 },
        ...{ ropeTheta: 10_000, normEpsilon: 1e-6, tiedHead: false, context: 2048, vocabulary: 8000 },
      },
      "Bielik-7B/Mistral-7B": {
        ...{ family: "llama", layers: 32, width: 4096, heads: 32, keyValueHeads: 8, feedForwardWidth: 14_336 },
        ...{ ropeTheta: 10_000, normEpsilon: 1e-5, tiedHead: false, slidingWindow: 4096 },
        ...{ context: 8192, vocabulary: 32_000 },
      },
      "TinyLlama-1.1B": {
        ...{ family: "llama", layers: 22, width: 2048, heads: 32, keyValueHeads: 4, feedForwardWidth: 5632 },
        ...{ ropeTheta: 10_000, normEpsilon: 1e-5, tiedHead: false, context: 2048, vocabulary: 32_000 },
      },
    }
    const published = JSON.parse(readFileSync(new URL("../golden/param_counts.json", import.meta.url), "utf8"))
    const counted = JSON.parse(
      run(
        `import json\nfrom exp_torch.architecture import parameter_count\nprint(json.dumps([parameter_count(a) for a in json.loads(${JSON.stringify(JSON.stringify(Object.values(shapes)))})]))`,
      ),
    ) as ReadonlyArray<number>
    Object.entries(shapes).forEach(([name, architecture], i) => {
      const expected = published[name]
      assert.strictEqual(counted[i], expected.params ?? expected.untied ?? expected, name)
      assert.strictEqual(parameterCount(architecture), counted[i], name)
    })
  })
})
