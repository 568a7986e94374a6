import { Effect, Schema } from "effect"
import { assert, describe, it } from "vitest"
import { Corpus, Many, partOf, Release, Tokens } from "../../src/model/Artifact.ts"
import { each, experiment, plan } from "../../src/plan/Plan.ts"
import * as Step from "../../src/plan/Step.ts"
import { foreseen } from "../../src/run/Refusals.ts"

const known = { languages: [], trainSources: [], evaluateSources: [], context: 1, vocabulary: 1 }
const nothing = () => Effect.succeed(undefined)

const texts = Step.make("texts", {
  version: 1,
  params: { name: Schema.String },
  inputs: {},
  output: (ref) => new Corpus(ref, known),
  run: nothing,
})
const pack = Step.make("pack", {
  version: 1,
  params: {},
  inputs: { corpus: Corpus, other: Corpus },
  output: (ref) => new Tokens(ref, known),
  run: nothing,
})
const looked: Array<string> = []
const ship = Step.make("ship", {
  version: 1,
  params: { license: Schema.String },
  inputs: { tokens: [Tokens] },
  output: (ref) => new Release(ref),
  foresees: {
    into: "pack",
    input: "corpus",
    check: ({ license }, folder) => Effect.sync(() => looked.push(`${license} ${folder}`)),
  },
  run: nothing,
})

const nodesOf = (program: () => Generator<any, unknown, any>) =>
  Effect.runSync(plan(experiment("foresight", program as never))).nodes

/** Label of a maker, and the steps that look at what it makes. */
const lookedAt = (nodes: ReturnType<typeof nodesOf>): ReadonlyArray<string> => {
  const ahead = foreseen(nodes)
  return nodes.flatMap((node) =>
    ahead.after(node.id).map(({ later }) => `${node.params["name"]} ${later.params["license"]}`),
  )
}

describe("what can be told of early", () => {
  it("is looked at where it goes in, by every step that builds on it, and nowhere else", () => {
    const nodes = nodesOf(function* () {
      const [a, b, c] = [yield* texts({ name: "a" }), yield* texts({ name: "b" }), yield* texts({ name: "c" })]
      const one = yield* pack({ corpus: a, other: c })
      const two = yield* pack({ corpus: b, other: c })
      yield* ship({ tokens: [one, two], license: "both" })
      return yield* ship({ tokens: [two], license: "second" })
    })
    assert.deepStrictEqual(lookedAt(nodes), ["a both", "b both", "b second"])
    const [first] = foreseen(nodes).after(nodes[0]!.id)
    Effect.runSync(first!.check("/store/texts-1") as Effect.Effect<void>)
    assert.deepStrictEqual(looked, ["both /store/texts-1"])
  })

  it("is seen through a fan-out of unknown length, and in each of its copies", () => {
    const nodes = nodesOf(function* () {
      const a = yield* texts({ name: "a" })
      const many = new Many(partOf(a.ref, "*"), (ref) => new Corpus(ref, known))
      return yield* each(
        many,
        function* (item) {
          const tokens = yield* pack({ corpus: item, other: a })
          return yield* ship({ tokens: [tokens], license: "inner" })
        },
        { atMost: 3 },
      )
    })
    assert.deepStrictEqual(lookedAt(nodes), ["a inner"])
    assert.strictEqual(foreseen(nodes).after(`${nodes[0]!.id}[0][2]`).length, 1)
  })
})
