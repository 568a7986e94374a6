/** The worker measures and draws: the tokens of the embedded engine, the numbers of `transformers`, whatever stands beside a text. */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import { afterAll, assert, beforeAll, describe, it, vi } from "vitest"
import { type DocumentLoss, Engine, type Generation, type ProbeResult } from "../../src/engine/Engine.ts"
import { makeSampler } from "../../src/engine/LogitsProcessors.ts"
import { layerWith } from "../../src/engine/tfjs/TfjsEngine.ts"
import type { DecodingPreset } from "../../src/model/Decoding.ts"
import { greedy, gridPresets, standardPresets } from "../../src/model/Decoding.ts"
import { stream } from "../../src/model/Random.ts"
import { type GoldenModel, gpt2, llama, writeStart } from "../engine/golden.ts"
import { suiteFolder } from "../temporary.ts"
import { library, peer, titledBeside } from "./peer.ts"
import { near, runnable, titled, Worker } from "./worker.ts"

// each starts PyTorch, some more than once
vi.setConfig({ testTimeout: 240_000 })

const neutral: DecodingPreset = { ...greedy, name: "neutral", doSample: true }
const presets: ReadonlyArray<DecodingPreset> = [
  ...standardPresets,
  ...standardPresets.map((preset) => ({ ...preset, name: `${preset.name}+ngram`, noRepeatNgramSize: 3 })),
  ...gridPresets({ temperature: [0.7, 1.3], topP: [0.5, 0.9, 1], repetitionPenalty: [1, 1.2] }),
  { ...neutral, name: "few", topK: 3 },
  { ...neutral, name: "many", topK: 400, topP: 0.999, temperature: 2 },
  { ...neutral, name: "one", topP: 0 },
]

/** Random rows with what was said before each: some of it over and over, so that penalties and n-grams find something. */
const rowsOf = (rows: number, vocabulary: number, deviation: number) => {
  const random = stream(7, `rows:${vocabulary}`)
  const logits = Float32Array.from({ length: rows * vocabulary }, (_, i) => deviation * random.normal(i))
  // every third row in steps of an eighth: many ties
  for (let i = 0; i < logits.length; i++)
    if (Math.floor(i / vocabulary) % 3 === 0) logits[i] = Math.round(8 * logits[i]!) / 8
  const previous = Array.from({ length: rows }, (_, row) =>
    Array.from({ length: 2 + (row % 40) }, (_, i) => random.word(1e8 + 64 * row + i) % 12),
  )
  const uniforms = Array.from({ length: rows }, (_, row) => random.uniform(2e8 + row))
  return { logits, previous, uniforms }
}

interface ProcessorsAnswer {
  readonly presets: ReadonlyArray<{
    readonly drawn: ReadonlyArray<number>
    readonly scores: number
    readonly differently: number
    readonly near: number
  }>
}

describe.skipIf(!library)(titledBeside("the worker's logits processors"), () => {
  const folder = suiteFolder()

  it.each([
    [1024, 600],
    // whole blocks of neighbours, so that the largest are looked for in blocks first
    [16_384, 40],
    // no whole number of blocks
    [5003, 60],
  ])("leave and draw what `transformers` and the embedded engine do, vocabulary %i", (vocabulary, rows) => {
    const { logits, previous, uniforms } = rowsOf(rows, vocabulary, 3)
    const path = join(folder, "logits.f32")
    writeFileSync(path, logits)
    const answer = peer<ProcessorsAnswer>({ task: "processors", logits: path, vocabulary, previous, uniforms, presets })
    let drawnOtherwise = 0
    for (const [p, preset] of presets.entries()) {
      const { drawn, scores, differently, near: distance } = answer.presets[p]!
      assert.strictEqual(scores, 0, `scores of ${preset.name}`)
      // a running sum so near to 1 − p falls either way in the library, by the order in which it adds
      assert.isAtMost(distance, 1e-6, `${preset.name}: ${differently} rows keep other tokens`)
      assert.isAtMost(differently, rows / 50, preset.name)
      const sampler = makeSampler(preset)
      for (let row = 0; row < rows; row++) {
        const own = logits.subarray(row * vocabulary, (row + 1) * vocabulary)
        if (sampler(own, previous[row]!, uniforms[row]!) !== drawn[row]) drawnOtherwise++
      }
    }
    assert.strictEqual(drawnOtherwise, 0)
  })

  it("keep the golden numbers", () => {
    const golden = JSON.parse(readFileSync(new URL("../golden/logits_processors.json", import.meta.url), "utf8"))
    const chain: ReadonlyArray<readonly [string, Partial<DecodingPreset>]> = [
      ["repetition_penalty_1.1", { repetitionPenalty: 1.1 }],
      ["then_no_repeat_ngram_2", { noRepeatNgramSize: 2 }],
      ["then_temperature_0.8", { temperature: 0.8 }],
      ["then_top_k_6", { topK: 6 }],
      ["then_top_p_0.9", { topP: 0.9 }],
    ]
    let preset = neutral
    const cases = chain.map(([name, setting]) => {
      preset = { ...preset, ...setting }
      return { name, preset, scores: golden.scores, previous: golden.input_ids, expected: golden.chain[name] }
    })
    const one = (name: string, setting: Partial<DecodingPreset>, scores: ReadonlyArray<number>) => ({
      name,
      preset: { ...neutral, ...setting },
      scores,
      previous: [0],
      expected: golden[name],
    })
    cases.push(one("top_k_2_with_ties", { topK: 2 }, [1, 1, 1, 0]))
    cases.push(one("top_p_0.5_equal", { topP: 0.5 }, [0, 0, 0, 0]))
    cases.push(one("top_p_0.1_one_token", { topP: 0.1 }, [3, 2, 1, 0]))
    const { scores } = peer<{ scores: ReadonlyArray<ReadonlyArray<number | null>> }>({ task: "scores", cases })
    cases.forEach(({ name, expected }, i) => {
      assert.strictEqual(scores[i]!.length, expected.length)
      scores[i]!.forEach((score, id) => {
        if (expected[id] === null || score === null) assert.strictEqual(score, expected[id], `${name}, token ${id}`)
        else near(score, expected[id], 2e-6, `${name}, token ${id}`)
      })
    })
  })
})

const document = (id: string, length: number, seed: number) => ({
  id,
  ids: Array.from({ length }, (_, i) =>
    i === 0 ? 0 : i === length - 1 ? 1 : 3 + (((i + seed) * (i + 7 * seed + 3)) % 250),
  ),
})
/** Lengths of every kind: shorter and longer than a piece, than a cache block, than the context. */
const documents = [40, 2, 65, 200, 17, 16, 64, 129, 3, 40].map((length, i) => document(`d${i}`, length, i))
/** Three families of prompts that begin alike, two that are the same, one as long as the context, one longer. */
const prompts = [
  ...Array.from({ length: 9 }, (_, i) => ({
    id: `p${i}`,
    ids: [...document("", 30, i % 3).ids.slice(0, 20 + i), 5 + i],
  })),
  { id: "twin", ids: document("", 33, 4).ids.slice(0, 33) },
  { id: "other twin", ids: document("", 33, 4).ids.slice(0, 33) },
  { id: "short", ids: [0] },
  { id: "full", ids: document("", 64, 5).ids },
  { id: "too long", ids: document("", 70, 5).ids },
]

describe.skipIf(!runnable).each([
  [titled("the worker on the golden GPT-2"), gpt2],
  [titled("the worker on the golden LLaMA"), llama],
  [
    titled("the worker on the golden LLaMA with a window of 11"),
    { ...llama, architecture: { ...llama.architecture, slidingWindow: 11 } } as GoldenModel,
  ],
])("%s", (_, model) => {
  const folder = suiteFolder()
  let worker: Worker
  let checkpoint: string
  beforeAll(async () => {
    worker = new Worker()
    checkpoint = await Effect.runPromise(writeStart(folder, model))
  })
  afterAll(async () => {
    await worker.close()
  })
  const ask = async <A>(kind: string, request: object): Promise<A> => {
    const { result, error } = await worker.ask(kind, { checkpoint, ...request }, { device: "cpu" })
    assert.isUndefined(error, JSON.stringify(error))
    return result as A
  }
  const generate = (some: typeof prompts, preset: DecodingPreset, eosId = 256) =>
    ask<ReadonlyArray<Generation>>("generate", { prompts: some, preset, maxNewTokens: 25, eosId, seed: 3 })
  const embedded = <A>(work: (engine: Engine["Service"]) => Effect.Effect<A, unknown>): Promise<A> =>
    Effect.runPromise(Effect.flatMap(Engine, work).pipe(Effect.provide(layerWith({ backend: "wasm" })), Effect.orDie))

  it("draws the tokens that the embedded engine draws", async () => {
    for (const preset of [greedy, ...standardPresets.slice(1), presets[7]!, { ...neutral, temperature: 0.7 }]) {
      const request = { checkpoint, prompts, preset, maxNewTokens: 25, eosId: 44, seed: 3 }
      const expected = await embedded((engine) => engine.generate(request))
      const found = await generate(prompts, preset, 44)
      found.forEach(({ logProbability, ...generation }, i) => {
        const { logProbability: other, ...rest } = expected[i]!
        assert.deepStrictEqual(generation, rest, `${preset.name}, ${generation.id}`)
        near(logProbability, other, 1e-3, `log-probability of ${generation.id}`)
      })
    }
  })

  it("continues a prompt to the same bits alone, among others, and in a place that another text left", async () => {
    for (const preset of [greedy, standardPresets[2]!, presets[7]!]) {
      const together = await generate(prompts, preset, 44)
      const alone = []
      for (const prompt of prompts) alone.push(...(await generate([prompt], preset, 44)))
      assert.deepStrictEqual(alone, together)
      const backwards = await generate([...prompts].reverse(), preset, 44)
      assert.deepStrictEqual(backwards.toReversed(), together)
      // more texts than there are places for at once
      const many = Array.from({ length: 30 }, (_, copy) => prompts.map(({ id, ids }) => ({ id: `${id} ${copy}`, ids })))
      const crowd = await generate([...many.flat(), ...prompts], preset, 44)
      assert.deepStrictEqual(crowd.slice(-prompts.length), together)
    }
  })

  it("ends at EOS, at the wanted length and at the context", async () => {
    const found = await generate(prompts, greedy)
    found.forEach(({ finish, tokens }, i) => {
      assert.strictEqual(finish, "length")
      assert.strictEqual(tokens.length, Math.max(0, Math.min(25, 64 - prompts[i]!.ids.length)))
    })
    const stop = found[0]!.tokens[3]!
    const end = found[0]!.tokens.indexOf(stop)
    const [stopped] = await generate(prompts.slice(0, 1), greedy, stop)
    assert.strictEqual(stopped!.finish, "eos")
    assert.deepStrictEqual(stopped!.tokens, found[0]!.tokens.slice(0, end + 1))
  })

  it("measures documents as the embedded engine does, and to the same bits alone as among others", async () => {
    const found = await ask<ReadonlyArray<DocumentLoss>>("losses", { documents, specialIds: [0, 1, 7] })
    const expected = await embedded((engine) => engine.losses({ checkpoint, documents, specialIds: [0, 1, 7] }))
    expected.forEach(({ id, tokens, nll, textNll }, i) => {
      assert.strictEqual(found[i]!.id, id)
      assert.strictEqual(found[i]!.tokens, tokens)
      near(found[i]!.nll, nll, 2e-6 * tokens * 10, `nll of ${id}`)
      near(found[i]!.textNll, textNll, 2e-6 * tokens * 10, `nll of ${id} without specials`)
    })
    const alone = []
    for (const one of documents)
      alone.push(...(await ask<ReadonlyArray<DocumentLoss>>("losses", { documents: [one], specialIds: [0, 1, 7] })))
    assert.deepStrictEqual(alone, found)
  })

  it("probes as the embedded engine does", async () => {
    const probes = [
      { context: [0, 20, 30, 40], target: [50, 60] },
      { context: [0], target: [9] },
      { context: Array.from({ length: 100 }, (_, i) => 3 + (i % 200)), target: [9, 8, 7] },
      ...Array.from({ length: 20 }, (_, i) => ({ context: prompts[i % 9]!.ids, target: [100 + i] })),
    ]
    const found = await ask<ReadonlyArray<ProbeResult>>("probe", { probes })
    const expected = await embedded((engine) => engine.probe({ checkpoint, probes }))
    found.forEach((probe, i) => {
      const other = expected[i]!
      assert.strictEqual(probe.rank, other.rank)
      assert.strictEqual(probe.ties, other.ties)
      near(probe.probability, other.probability, 1e-6, `probability of probe ${i}`)
      probe.logProbabilities.forEach((value, j) => {
        near(value, other.logProbabilities[j]!, 2e-5, `target ${j} of probe ${i}`)
      })
      assert.deepStrictEqual(
        probe.top.map(({ id }) => id),
        other.top.map(({ id }) => id),
      )
    })
  })

  it.skipIf(!library)(titledBeside("continues greedily as `transformers` does, and gives its losses"), async () => {
    const some = prompts.filter(({ ids }) => ids.length < 40)
    for (const preset of [greedy, { ...greedy, repetitionPenalty: 1.3, noRepeatNgramSize: 2 }]) {
      const { tokens } = peer<{ tokens: ReadonlyArray<ReadonlyArray<number>> }>({
        ...{ task: "greedy", checkpoint, preset, maxNewTokens: 25, eosId: 44 },
        prompts: some.map(({ ids }) => ids),
      })
      const found = await generate(some, preset, 44)
      assert.deepStrictEqual(
        found.map(({ tokens }) => tokens),
        tokens,
      )
    }
    const { nlls } = peer<{ nlls: ReadonlyArray<number> }>({
      ...{ task: "losses", checkpoint },
      documents: documents.map(({ ids }) => ids),
    })
    const found = await ask<ReadonlyArray<DocumentLoss>>("losses", { documents })
    found.forEach(({ id, nll, tokens }, i) => {
      near(nll, nlls[i]!, 2e-5 * tokens, `nll of ${id}`)
    })
  })

  it("measures and draws in bf16 too, near to fp32", async () => {
    const half = { device: "cpu", precision: "bf16" }
    const exact = await ask<ReadonlyArray<DocumentLoss>>("losses", { documents })
    const rough = (await worker.ask("losses", { checkpoint, documents }, half)).result as ReadonlyArray<DocumentLoss>
    rough.forEach(({ id, nll, tokens }, i) => {
      near(nll, exact[i]!.nll, 0.1 * tokens, `nll of ${id}`)
    })
    assert.notDeepEqual(rough, exact)
    const request = { checkpoint, prompts, preset: presets[7], maxNewTokens: 25, eosId: 256, seed: 3 }
    const drawn = (await worker.ask("generate", request, half)).result as ReadonlyArray<Generation>
    drawn.forEach(({ tokens }, i) => {
      assert.strictEqual(tokens.length, Math.max(0, Math.min(25, 64 - prompts[i]!.ids.length)))
    })
  })

  it("refuses what it cannot do in the embedded engine's words", async () => {
    const refused = async (kind: string, request: object) =>
      (await worker.ask(kind, { checkpoint, ...request }, { device: "cpu" })).error
    const sampling = { preset: greedy, maxNewTokens: 3, eosId: 1, seed: 1 }
    const failures = [
      await refused("generate", { ...sampling, prompts: [{ id: "a", ids: [] }] }),
      await refused("generate", { ...sampling, prompts: [{ id: "a", ids: [0, 256] }] }),
      await refused("losses", { documents: [{ id: "a", ids: [0, -1] }] }),
      await refused("probe", { probes: [{ context: [], target: [1] }] }),
      await refused("logits", { ids: Array.from({ length: 65 }, () => 0) }),
    ]
    assert.deepStrictEqual(
      failures.map((error) => `${error?.["doing"]}: ${error?.["problem"]}`),
      [
        "generating: prompt a is empty",
        "generating: token 256 of prompt a is not in the vocabulary of 256",
        "measuring losses: token -1 of document a is not in the vocabulary of 256",
        "probing: probe 0 has an empty context or target",
        "computing logits: 65 tokens do not fit 1 to 64",
      ],
    )
  })
})
