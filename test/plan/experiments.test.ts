/** The experiments that stand beside the hero: what they would do, at full size and at the size that is tried on two cores. */
import { Effect } from "effect"
import { assert, describe, expect, it } from "vitest"
import oneGpu from "../../experiments/1gpu-small-en-it.ts"
import apt from "../../experiments/apt-1b-pl.ts"
import polish from "../../experiments/polish-1b3-12gb.ts"
import { forecastOf } from "../../src/plan/Forecast.ts"
import { type Experiment, type Node, plan } from "../../src/plan/Plan.ts"

const planOf = (experiment: Experiment, scale: "full" | "smoke") => Effect.runSync(plan(experiment, { scale }))

/** A line a step; the benchmarks of one tail as one. */
const outline = (nodes: ReadonlyArray<Node>): string => {
  const lines: Array<string> = []
  for (const { label, definition, forecast } of nodes) {
    const steps = forecast.optimizerSteps === undefined ? "" : `  ${forecast.tokens} tokens`
    const last = lines.at(-1)
    if (definition.kind === "benchmark" && last?.startsWith("benchmark"))
      lines[lines.length - 1] = `${last.split(" … ")[0]} … ${label.replace("benchmark ", "")}`
    else lines.push(`${label}${steps}`)
  }
  return lines.join("\n")
}

const kinds = (experiment: Experiment, scale: "full" | "smoke"): ReadonlySet<string> =>
  new Set(planOf(experiment, scale).nodes.map(({ definition }) => definition.kind))

describe("experiments/1gpu-small-en-it.ts", () => {
  it("is the reference release in full: its parameters, its tokens a step, its two tails", () => {
    const { nodes, engine } = planOf(oneGpu, "full")
    assert.deepStrictEqual(engine, { engine: "torch", precision: "bf16" })
    assert.strictEqual(forecastOf(nodes).parameters, 136_128_000)
    const train = nodes.find(({ definition }) => definition.kind === "train")!
    assert.strictEqual(train.forecast.tokens! / train.forecast.optimizerSteps!, 240_000)
    // the released step of the reference, 8,600, is one of the candidates, and had seen so many tokens
    assert.isTrue(nodes.some(({ label }) => label === "benchmark step_8600"))
    assert.strictEqual(8600 * 240_000, 2_064_000_000)
    expect(outline(nodes)).toMatchInlineSnapshot(`
      "dataset web_en
      dataset web_it
      dataset wiki_en
      dataset wiki_it
      corpus
      tokenizer
      pack
      train 0→8000  1920000000 tokens
      decay 7000→7800  192000000 tokens
      benchmark step_7050 … step_7800
      decay 8000→8800  192000000 tokens
      benchmark step_8050 … step_8800
      select by val_loss_mixed
      sweep decoding
      release 1gpu-small-en-it"
    `)
  })
})

describe("experiments/apt-1b-pl.ts", () => {
  it("has the parameters of its model, its tokens a step, and twenty tokens a parameter", () => {
    const { nodes, engine } = planOf(apt, "full")
    assert.deepStrictEqual(engine, { engine: "torch", precision: "bf16" })
    assert.strictEqual(forecastOf(nodes).parameters, 1_060_456_448)
    const trainings = nodes.filter(({ forecast }) => forecast.optimizerSteps !== undefined)
    const [train, ...tails] = trainings
    assert.strictEqual(train!.forecast.tokens! / train!.forecast.optimizerSteps!, 540_672)
    const seen = train!.forecast.tokens! + tails.at(-1)!.forecast.tokens!
    assert.approximately(seen / 1_060_456_448, 20, 0.05)
    expect(outline(nodes)).toMatchInlineSnapshot(`
      "dataset web_pl
      dataset wiki_pl
      corpus
      tokenizer
      pack
      train 0→35200  19031654400 tokens
      decay 25600→29600  2162688000 tokens
      benchmark step_26100 … step_29600
      decay 35200→39200  2162688000 tokens
      benchmark step_35700 … step_39200
      select by val_loss_mixed
      sweep decoding
      quantise BF16 Q8_0 Q4_K_M
      release apt-1b-pl"
    `)
  })
})

describe("experiments/polish-1b3-12gb.ts", () => {
  it("keeps the count of 1.3 billion parameters, and asks for what a card of 12 GB needs", () => {
    const { nodes, engine } = planOf(polish, "full")
    assert.deepStrictEqual(engine, { engine: "torch", precision: "fp16+adam8bit" })
    assert.approximately(forecastOf(nodes).parameters / 1e9, 1.3, 0.005)
    expect(outline(nodes)).toMatchInlineSnapshot(`
      "dataset wiki_pl
      corpus
      tokenizer
      pack
      train 0→30000  7864320000 tokens
      decay 30000→34000  1048576000 tokens
      benchmark step_31000 … step_34000
      select by val_loss_mixed
      sweep decoding
      quantise F16 Q8_0 Q6_K Q5_K_M Q4_K_M Q4_0 Q3_K_M Q2_K
      release polish-1b3-12gb"
    `)
  })
})

describe.each([
  ["1gpu-small-en-it", oneGpu],
  ["apt-1b-pl", apt],
  ["polish-1b3-12gb", polish],
] as const)("experiments/%s.ts with scale=smoke", (_, experiment) => {
  it("is the same graph but for where its texts come from, on whatever engine there is", () => {
    const full = new Set(kinds(experiment, "full"))
    full.delete("dataset")
    assert.deepStrictEqual([...kinds(experiment, "smoke")], [...full])
    assert.deepStrictEqual(planOf(experiment, "smoke").engine, { engine: "auto" })
  })

  it("is small enough for two cores", () => {
    const { parameters, tokens } = forecastOf(planOf(experiment, "smoke").nodes)
    assert.isBelow(parameters, 500_000)
    assert.isBelow(tokens, 150_000)
  })
})
