import { it as effectIt } from "@effect/vitest"
import { Effect, Schema } from "effect"
import {
  benchmark,
  corpus,
  decay,
  each,
  experiment,
  pack,
  quantise,
  release,
  select,
  sweep,
  tokenizer,
  train,
} from "exp"
import { assert, describe, expect, it } from "vitest"
import { planText } from "../../src/cli/PlanText.ts"
import { forecastOf } from "../../src/plan/Forecast.ts"
import { type Experiment, plan } from "../../src/plan/Plan.ts"

const planned = (program: Experiment, given: Readonly<Record<string, string>> = {}) =>
  Effect.runSync(plan(program, given)).nodes

const errorOf = (program: Experiment, given: Readonly<Record<string, string>> = {}): string =>
  Effect.runSync(Effect.flip(plan(program, given))).message

const model = { layers: 2, width: 64, heads: 2 }
const recipe = { model, rowsPerStep: 4, peakLr: 1e-3, warmupSteps: 10, seed: 1, keepEvery: 100 }
const sources = { train: { en: ["web_en"], it: ["web_it"] }, evaluate: { en: ["books_en"] } }

const packed = Effect.fnUntraced(function* () {
  const texts = yield* corpus({ from: "texts", ...sources })
  return yield* pack({ corpus: texts, tokenizer: yield* tokenizer({ corpus: texts, vocabulary: 512 }), context: 64 })
})
const trained = Effect.fnUntraced(function* () {
  return yield* train({ tokens: yield* packed(), ...recipe, steps: 300 })
})
const scored = Effect.fnUntraced(function* () {
  const tail = yield* decay({ from: (yield* trained()).stableAt(300), steps: 50, finalLr: 0, every: 25 })
  return yield* benchmark({ model: tail.last })
})

describe("a fan-out", () => {
  it("over a list plans every item", () => {
    const nodes = planned(
      experiment("list", function* () {
        const base = yield* trained()
        return yield* each([100, 300], function* (step) {
          return yield* decay({ from: base.stableAt(step), steps: 10, finalLr: 0, every: 10 })
        })
      }),
    )
    expect(planText(nodes)).toMatchInlineSnapshot(`
      "corpus-1a9b6c3ba309  corpus
      tokenizer-92d2aa2be905  tokenizer  corpus=corpus-1a9b6c3ba309
      pack-3f492a4674d3  pack  corpus=corpus-1a9b6c3ba309  tokenizer=tokenizer-92d2aa2be905
      train-4d3b5bb2a245  train 0→300  tokens=pack-3f492a4674d3
      decay-c67ad69776e0  decay 100→110  from=train-4d3b5bb2a245#step_100
      decay-b451d3a07f87  decay 300→310  from=train-4d3b5bb2a245#step_300"
    `)
  })

  it("over lists in lists gives lists of lists, which a selection takes as they are", () => {
    const nodes = planned(
      experiment("nested", function* () {
        const base = yield* trained()
        const among = yield* each([100, 200], function* (step) {
          const tail = yield* decay({ from: base.stableAt(step), steps: 50, finalLr: 0, every: 25 })
          return yield* each(tail.checkpoints, function* (model) {
            return yield* benchmark({ model })
          })
        })
        return yield* select({ among, by: "val_loss_mixed" })
      }),
    )
    expect(planText(nodes)).toMatchInlineSnapshot(`
      "corpus-1a9b6c3ba309  corpus
      tokenizer-92d2aa2be905  tokenizer  corpus=corpus-1a9b6c3ba309
      pack-3f492a4674d3  pack  corpus=corpus-1a9b6c3ba309  tokenizer=tokenizer-92d2aa2be905
      train-4d3b5bb2a245  train 0→300  tokens=pack-3f492a4674d3
      decay-1b34d339c5e7  decay 100→150  from=train-4d3b5bb2a245#step_100
      benchmark-52559c378ae5  benchmark step_125  model=decay-1b34d339c5e7#step_125
      benchmark-f0197e1b6948  benchmark step_150  model=decay-1b34d339c5e7#step_150
      decay-d7ae459c829a  decay 200→250  from=train-4d3b5bb2a245#step_200
      benchmark-f9abd22a9991  benchmark step_225  model=decay-d7ae459c829a#step_225
      benchmark-7f2367beb087  benchmark step_250  model=decay-d7ae459c829a#step_250
      select-29ef7b04845a  select by val_loss_mixed  among=benchmark-52559c378ae5,benchmark-f0197e1b6948,benchmark-f9abd22a9991,benchmark-7f2367beb087"
    `)
  })

  it("over checkpoints yet to come plans its body once, and forecasts its bound", () => {
    const nodes = planned(
      experiment("many", function* () {
        const base = yield* trained()
        const among = yield* each(
          base.stable,
          function* (from) {
            const tail = yield* decay({ from, steps: 50, finalLr: 0, every: 25 })
            return yield* each(tail.checkpoints, function* (model) {
              return yield* benchmark({ model })
            })
          },
          { atMost: 10 },
        )
        return yield* sweep({ model: yield* select({ among, by: "val_loss_mixed" }) })
      }),
    )
    expect(planText(nodes)).toMatchInlineSnapshot(`
      "corpus-1a9b6c3ba309  corpus
      tokenizer-92d2aa2be905  tokenizer  corpus=corpus-1a9b6c3ba309
      pack-3f492a4674d3  pack  corpus=corpus-1a9b6c3ba309  tokenizer=tokenizer-92d2aa2be905
      train-4d3b5bb2a245  train 0→300  tokens=pack-3f492a4674d3
      each-3c7ece5789b3  each ×≤10  of=train-4d3b5bb2a245#*
        decay-1bfe6fdbc667  decay +50  from=item
        benchmark-872c53002d04  benchmark +25  model=decay-1bfe6fdbc667#+25
        benchmark-35deed19b327  benchmark +50  model=decay-1bfe6fdbc667#+50
      select-2902a406f6cc  select by val_loss_mixed  among=each-3c7ece5789b3
      sweep-d0bd9f14552d  sweep decoding  model=select-2902a406f6cc"
    `)
    expect(forecastOf(nodes)).toMatchInlineSnapshot(`
      {
        "diskBytes": 15887360,
        "exact": false,
        "flops": 181193932800,
        "optimizerSteps": 800,
        "parameters": 136960,
        "steps": 36,
        "tokens": 204800,
      }
    `)
  })

  it.each([0, -1, 1.5, Number.NaN])("does not take %s for a bound", (atMost) => {
    const message = errorOf(
      experiment("bound", function* () {
        return yield* each(
          (yield* trained()).stable,
          function* (from) {
            return yield* decay({ from, steps: 1, finalLr: 0, every: 1 })
          },
          { atMost },
        )
      }),
    )
    assert.strictEqual(
      message,
      `each: \`atMost\` is ${atMost}, not a whole number above 0\n  hint: say how many items the fan-out may grow to`,
    )
  })

  it("must return an artifact", () => {
    const message = errorOf(
      experiment("nothing", function* () {
        return yield* each(
          (yield* trained()).stable,
          function* () {
            return []
          },
          { atMost: 2 },
        )
      }),
    )
    expect(message).toMatchInlineSnapshot(`
      "each: its body returns no artifact
        hint: \`return yield*\` what the last step gives"
    `)
  })
})

/** Calls a step as code that was not type-checked would. */
const unchecked = <A, B, E, R>(step: (args: A) => Effect.Effect<B, E, R>, args: object) => step(args as A)

const mistakes: Readonly<Record<string, readonly [Experiment, Readonly<Record<string, string>>?]>> = {
  "a checkpoint that will not be kept": [
    experiment("e", function* () {
      return yield* decay({ from: (yield* trained()).stableAt(250), steps: 10, finalLr: 0, every: 10 })
    }),
  ],
  "a tail checkpoint that will not exist": [
    experiment("e", function* () {
      const tail = yield* decay({ from: (yield* trained()).stableAt(300), steps: 50, finalLr: 0, every: 25 })
      return yield* benchmark({ model: tail.at(330) })
    }),
  ],
  "a tail checkpoint by its step in a fan-out that does not know steps": [
    experiment("e", function* () {
      return yield* each(
        (yield* trained()).stable,
        function* (from) {
          const tail = yield* decay({ from, steps: 50, finalLr: 0, every: 25 })
          return yield* benchmark({ model: tail.at(350) })
        },
        { atMost: 3 },
      )
    }),
  ],
  "a metric of a language the corpus does not have": [
    experiment("e", function* () {
      return yield* select({ among: [yield* scored()], by: "val_loss_pl" })
    }),
  ],
  "nothing to choose among": [
    experiment("e", function* () {
      return yield* select({ among: [], by: "val_loss_mixed" })
    }),
  ],
  "a misspelt --set": [experiment("e", { seed: 1, corpus: "a" }, function* () {}), { sede: "2" }],
  "a --set of an experiment without parameters": [experiment("e", function* () {}), { seed: "2" }],
  "a --set of something every object has": [experiment("e", { seed: 1 }, function* () {}), { constructor: "2" }],
  "a --set of the wrong type": [experiment("e", { seed: 1 }, function* () {}), { seed: "one" }],
  "a --set that is no truth value": [experiment("e", { fast: true }, function* () {}), { fast: "yes" }],
  "an empty --set for a number": [experiment("e", { seed: 1 }, function* () {}), { seed: " " }],
  "a parameter there is not": [
    experiment("e", function* () {
      return yield* unchecked(tokenizer, { corpus: yield* corpus({ from: "a", ...sources }), vocabulary: 512, size: 3 })
    }),
  ],
  "a parameter that is missing, and one of the wrong type": [
    experiment("e", function* () {
      return yield* unchecked(train, { tokens: yield* packed(), ...recipe, steps: "300", peakLr: undefined })
    }),
  ],
  "a setting there is not inside a parameter": [
    experiment("e", function* () {
      const split = { validation: 0.1, holdout: 0.1, minimumDocuments: 1, holdot: 0.2 }
      return yield* corpus({ from: "texts", ...sources, split })
    }),
  ],
  "a number JSON cannot say": [
    experiment("e", function* () {
      return yield* train({ tokens: yield* packed(), ...recipe, steps: 300, peakLr: Number.NaN })
    }),
  ],
  "an input that is missing": [
    experiment("e", function* () {
      return yield* unchecked(tokenizer, { vocabulary: 512 })
    }),
  ],
  "an input without `yield*`": [
    experiment("e", function* () {
      return yield* unchecked(tokenizer, { corpus: corpus({ from: "a", ...sources }), vocabulary: 512 })
    }),
  ],
  "a warm-up longer than the run": [
    experiment("e", function* () {
      return yield* train({ tokens: yield* packed(), ...recipe, steps: 9 })
    }),
  ],
  "heads that do not divide the width": [
    experiment("e", function* () {
      return yield* train({ tokens: yield* packed(), ...recipe, model: { layers: 1, width: 64, heads: 3 }, steps: 300 })
    }),
  ],
  "a source in the mix that is not in the corpus": [
    experiment("e", function* () {
      const texts = yield* corpus({ from: "texts", ...sources })
      const words = yield* tokenizer({ corpus: texts, vocabulary: 512 })
      return yield* pack({ corpus: texts, tokenizer: words, context: 64, mix: { web_en: 1, web_itt: 2 } })
    }),
  ],
  "a source in the mix that is only measured": [
    experiment("e", function* () {
      const texts = yield* corpus({ from: "texts", ...sources })
      const words = yield* tokenizer({ corpus: texts, vocabulary: 512 })
      return yield* pack({ corpus: texts, tokenizer: words, context: 64, mix: { books_en: 1 } })
    }),
  ],
  "a source named twice": [
    experiment("e", function* () {
      return yield* corpus({ from: "texts", train: { en: ["web"], it: ["web"] } })
    }),
  ],
  "quantised files that say another licence": [
    experiment("e", function* () {
      const model = yield* scored()
      const decoding = yield* sweep({ model })
      const quantised = yield* quantise({ model, decoding, name: "e", license: "MIT" })
      const best = yield* select({ among: [model], by: "val_loss_mixed" })
      return yield* release({ model: best, decoding, quantised, name: "e", license: "CC0-1.0" })
    }),
  ],
  "a name that is no folder": [experiment("../e", function* () {})],
}

describe("a mistake is an error of the plan, with what to do about it", () => {
  it("for all of these", () => {
    const messages = Object.entries(mistakes).map(
      ([mistake, [program, given]]) => `${mistake}\n${errorOf(program, given)}`,
    )
    expect(`\n${messages.join("\n\n")}\n`).toMatchInlineSnapshot(`
      "
      a checkpoint that will not be kept
      decay: stable checkpoint 250 will not be kept
        hint: checkpoints are kept at 100, 200, 300; use one of these or change \`keepEvery\`

      a tail checkpoint that will not exist
      benchmark: tail checkpoint 330 will not exist
        hint: checkpoints are made at 325, 350

      a tail checkpoint by its step in a fan-out that does not know steps
      benchmark: tail checkpoint 350 will not exist
        hint: inside a fan-out over stable checkpoints use \`checkpoints\` or \`last\`

      a metric of a language the corpus does not have
      select: no benchmark of this corpus reports \`val_loss_pl\`
        hint: did you mean \`val_loss_en\`?

      nothing to choose among
      select: there is nothing to choose from
        hint: give \`among\` at least one benchmarked model

      a misspelt --set
      e: no parameter is called \`sede\`
        hint: did you mean \`seed\`?

      a --set of an experiment without parameters
      e: no parameter is called \`seed\`
        hint: this experiment has no parameters

      a --set of something every object has
      e: no parameter is called \`constructor\`
        hint: there are \`seed\`

      a --set of the wrong type
      e: \`--set seed=one\` is not a number
        hint: its default is 1

      a --set that is no truth value
      e: \`--set fast=yes\` is not a boolean
        hint: its default is true

      an empty --set for a number
      e: \`--set seed= \` is not a number
        hint: its default is 1

      a parameter there is not
      tokenizer: there is no parameter \`size\`
        hint: there are \`vocabulary\`, \`corpus\`

      a parameter that is missing, and one of the wrong type
      train: \`steps\`: expected number; \`peakLr\`: missing key
        hint: \`train\` takes \`model\`, \`steps\`, \`rowsPerStep\`, \`peakLr\`, \`warmupSteps\`, \`keepEvery\`, \`validateEvery\`, \`optimizer\`, \`seed\`

      a setting there is not inside a parameter
      corpus: \`split.holdot\`: expected no excess property
        hint: \`corpus\` takes \`from\`, \`train\`, \`evaluate\`, \`split\`, \`rights\`

      a number JSON cannot say
      train: \`peakLr\`: expected a finite number; \`peakLr\`: expected a value greater than 0
        hint: \`train\` takes \`model\`, \`steps\`, \`rowsPerStep\`, \`peakLr\`, \`warmupSteps\`, \`keepEvery\`, \`validateEvery\`, \`optimizer\`, \`seed\`

      an input that is missing
      tokenizer: input \`corpus\` is not a \`Corpus\`
        hint: pass what another step returned, after \`yield*\`

      an input without \`yield*\`
      tokenizer: input \`corpus\` is not a \`Corpus\`
        hint: pass what another step returned, after \`yield*\`

      a warm-up longer than the run
      train: warm-up of 10 steps is longer than the run of 9
        hint: lower \`warmupSteps\`

      heads that do not divide the width
      train: width 64 does not divide into 3 heads
        hint: choose heads that divide the width, 64 wide each is usual

      a source in the mix that is not in the corpus
      pack: \`mix\` weighs \`web_itt\`, which is not trained on
        hint: did you mean \`web_it\`?

      a source in the mix that is only measured
      pack: \`mix\` weighs \`books_en\`, which is not trained on
        hint: there are \`web_en\`, \`web_it\`

      a source named twice
      corpus: source \`web\` is named twice
        hint: name each source once

      quantised files that say another licence
      release: its quantised files say \`e\` under MIT, it is \`e\` under CC0-1.0
        hint: give \`quantise\` and \`release\` the same \`name\` and \`license\`

      a name that is no folder
      experiment: \`../e\` cannot name a folder
        hint: letters, digits, \`.\`, \`_\` and \`-\` make a name
      "
    `)
  })
})

describe("parameters of an experiment", () => {
  const seen: Array<unknown> = []
  const program = experiment("set", { seed: 1, corpus: "a", fast: false }, function* (set) {
    seen.push(set)
  })
  it("have their defaults, and the type of their defaults when set", () => {
    seen.length = 0
    planned(program)
    planned(program, { seed: "1_000", corpus: "", fast: "true" })
    planned(program, { seed: "-1e3" })
    assert.deepStrictEqual(seen, [
      { seed: 1, corpus: "a", fast: false },
      { seed: 1000, corpus: "", fast: true },
      { seed: -1000, corpus: "a", fast: false },
    ])
  })
})

const idsOf = (program: Experiment) => planned(program).map(({ id }) => id)

describe("the id of a step", () => {
  const inOneOrder = experiment("a", function* () {
    const texts = yield* corpus({ from: "texts", train: { en: ["web_en"], it: ["web_it"] } })
    const small = yield* tokenizer({ corpus: texts, vocabulary: 512 })
    const large = yield* tokenizer({ corpus: texts, vocabulary: 1024 })
    return [small, large]
  })

  it("does not change with order, names, spelled-out defaults or the order of keys", () => {
    const inAnother = experiment("another-name", { unused: 1 }, function* () {
      const source = yield* corpus({
        split: { minimumDocuments: 20, holdout: 0.05, validation: 0.05 },
        evaluate: {},
        train: { it: ["web_it"], en: ["web_en"] },
        from: "texts",
      })
      yield* tokenizer({ vocabulary: 1024, corpus: source })
      yield* tokenizer({ vocabulary: 512, corpus: source })
    })
    assert.deepStrictEqual([...idsOf(inAnother)].sort(), [...idsOf(inOneOrder)].sort())
    const splitBy = (split: { readonly validation?: number; readonly minimumDocuments?: number }) =>
      idsOf(
        experiment("split", function* () {
          return yield* corpus({ from: "texts", ...sources, split })
        }),
      )
    assert.deepStrictEqual(splitBy({}), splitBy({ validation: 0.05, minimumDocuments: 20 }))
    assert.notDeepEqual(splitBy({ validation: 0.2 }), splitBy({}))
  })

  it("is one for a step that is asked for twice", () => {
    const twice = experiment("twice", function* () {
      yield* packed()
      yield* packed()
    })
    assert.lengthOf(planned(twice), 3)
  })

  effectIt.effect.prop(
    "changes with every parameter, and with every step it depends on",
    [
      Schema.Struct({
        steps: Schema.Int.check(Schema.isBetween({ minimum: 100, maximum: 1000 })),
        rowsPerStep: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 64 })),
        peakLr: Schema.Finite.check(Schema.isBetween({ minimum: 1e-6, maximum: 1 })),
        warmupSteps: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 100 })),
        keepEvery: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 100 })),
        validateEvery: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 100 })),
        seed: Schema.Int,
      }),
      Schema.Literals(["steps", "rowsPerStep", "peakLr", "warmupSteps", "keepEvery", "validateEvery", "seed"]),
    ],
    ([parameters, changed]) =>
      Effect.sync(() => {
        const ids = (set: typeof parameters) =>
          idsOf(
            experiment("property", function* () {
              const base = yield* train({ tokens: yield* packed(), model, ...set })
              return yield* decay({ from: base.stableAt(set.steps), steps: 10, finalLr: 0, every: 10 })
            }),
          )
        const before = ids(parameters)
        const value = parameters[changed]
        const after = ids({ ...parameters, [changed]: changed === "peakLr" ? value * 1.5 : value + 1 })
        assert.deepStrictEqual(ids({ ...parameters }), before)
        assert.deepStrictEqual(after.slice(0, 3), before.slice(0, 3))
        assert.notStrictEqual(after[3], before[3])
        assert.notStrictEqual(after[4], before[4])
      }),
    { arbitrary: { runs: 60, seed: 7 } },
  )

  it("changes with any parameter of any kind of step, however deep", () => {
    const variants: Record<string, ReadonlyArray<Experiment>> = {
      corpus: [
        { from: "texts", ...sources },
        { from: "other", ...sources },
        { from: "texts", ...sources, train: { en: ["web_en"] } },
        { from: "texts", ...sources, train: { it: ["web_en"], en: ["web_it"] } },
        { from: "texts", ...sources, evaluate: {} },
        { from: "texts", ...sources, split: { validation: 0.1, holdout: 0.05, minimumDocuments: 20 } },
        { from: "texts", ...sources, split: { validation: 0.05, holdout: 0.1, minimumDocuments: 20 } },
        { from: "texts", ...sources, split: { validation: 0.05, holdout: 0.05, minimumDocuments: 21 } },
      ].map((parameters) =>
        experiment("v", function* () {
          return yield* corpus(parameters)
        }),
      ),
      pack: [{}, { context: 65 }, { mix: "proportional" as const }, { mix: { web_en: 1 } }, { mix: { web_en: 2 } }].map(
        (parameters) =>
          experiment("v", function* () {
            const texts = yield* corpus({ from: "texts", ...sources })
            const words = yield* tokenizer({ corpus: texts, vocabulary: 512 })
            return yield* pack({ corpus: texts, tokenizer: words, context: 64, ...parameters })
          }),
      ),
      train: [
        {},
        { model: { layers: 3, width: 64, heads: 2 } },
        { model: { layers: 2, width: 32, heads: 2 } },
        { model: { layers: 2, width: 64, heads: 4 } },
        ...["beta1", "beta2", "epsilon", "weightDecay", "clipNorm"].map((name) => ({
          optimizer: { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weightDecay: 0.1, clipNorm: 1, [name]: 0.5 },
        })),
      ].map((parameters) =>
        experiment("v", function* () {
          return yield* train({ tokens: yield* packed(), ...recipe, steps: 300, ...parameters })
        }),
      ),
      decay: [
        {},
        { steps: 11 },
        { finalLr: 1e-6 },
        { every: 5 },
        { shape: "cosine" as const },
        { validateEvery: 3 },
      ].map((parameters) =>
        experiment("v", function* () {
          const from = (yield* trained()).stableAt(300)
          return yield* decay({ from, steps: 10, finalLr: 0, every: 10, ...parameters })
        }),
      ),
      sweep: [
        {},
        { temperature: [1] },
        { temperature: [1, 2] },
        { temperature: [2, 1] },
        { topP: [0.5] },
        { repetitionPenalty: [1.1] },
        { tuningPrompts: 1 },
        { holdoutPrompts: 1 },
        { behaviourPrompts: 1 },
        { maxNewTokens: 20 },
        { seed: 1 },
      ].map((parameters) =>
        experiment("v", function* () {
          return yield* sweep({ model: yield* scored(), ...parameters })
        }),
      ),
    }
    for (const [kind, programs] of Object.entries(variants)) {
      const ids = programs.map((program) => idsOf(program).at(-1)!)
      assert.isTrue(ids.every((id) => id.startsWith(`${kind}-`)))
      assert.lengthOf([...new Set(ids)], ids.length, kind)
    }
  })
})
