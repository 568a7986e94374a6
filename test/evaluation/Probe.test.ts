import { assert, describe, it } from "@effect/vitest"
import { Schema } from "effect"
import { encodePair, probeReport, probeRequest } from "../../src/evaluation/Probe.ts"
import { probesOf } from "../../src/model/Probe.ts"
import { ProbeReport } from "../../src/model/Report.ts"

/** Words with their blank are one token each, as a byte-level BPE makes them. */
const vocabulary: Array<string> = []
const encode = (text: string) =>
  (text.match(/\s?\S+|\s+$/g) ?? []).map((piece) => {
    if (!vocabulary.includes(piece)) vocabulary.push(piece)
    return vocabulary.indexOf(piece)
  })
const decode = (id: number) => vocabulary[id]!

describe("probes", () => {
  it("ask two questions of each language, one factual and one procedural", () => {
    assert.deepStrictEqual(
      probesOf(["pl", "en", "xx"]).map(({ prompt, expected }) => `${prompt} ${expected}`),
      [
        "Stolicą Włoch jest Rzym",
        "Mały model językowy powinien być",
        "The capital of Italy is Rome",
        "A small language model should be",
      ],
    )
    for (const language of ["en", "it", "pl"])
      assert.deepStrictEqual(
        probesOf([language]).map(({ kind }) => kind),
        ["factual", "procedural"],
      )
  })

  it("put BOS first and the expected word with its blank last", () => {
    const { context, target } = probeRequest(probesOf(["it"])[0]!, encode, 999)
    assert.strictEqual(context[0], 999)
    assert.strictEqual(context.slice(1).map(decode).join(""), "La capitale d'Italia è")
    assert.deepStrictEqual(target.map(decode), [" Roma"])
  })

  it("move white space at the end of a context into the continuation, as lm-evaluation-harness does", () => {
    const pair = encodePair(encode, "A small  ", "model")
    assert.strictEqual(pair.context.map(decode).join(""), "A small")
    assert.deepStrictEqual(encodePair(encode, "A small", " model"), encodePair(encode, "A small ", "model"))
  })

  it("report rank, probability and perplexity; of a single token the perplexity is 1/p", () => {
    const [probe] = probesOf(["en"])
    const single = probeReport(
      probe!,
      { rank: 3, ties: 1, probability: 0.125, logProbabilities: [Math.log(0.125)], top: [{ id: 0, probability: 0.5 }] },
      decode,
    )
    Schema.encodeUnknownSync(ProbeReport)(single)
    assert.closeTo(single.perplexity_on_target_sequence, 8, 1e-12)
    assert.deepInclude(single, { correct_token_rank: 3, rank_ties: 1, target_tokens: 1 })
    const double = probeReport(
      probe!,
      { rank: 1, ties: 0, probability: 0.5, logProbabilities: [Math.log(0.5), Math.log(0.125)], top: [] },
      decode,
    )
    assert.closeTo(double.perplexity_on_target_sequence, 4, 1e-12)
  })
})
