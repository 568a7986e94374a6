import { readFileSync } from "node:fs"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { Measured } from "../../src/model/Report.ts"
import { Citations, unmark } from "../../src/release/Citation.ts"
import { type ReleaseFiles, readFolder } from "../../src/release/Folder.ts"
import { lintCard } from "../../src/release/Lint.ts"
import { differences, limitations, noise, strengths } from "../../src/release/Quality.ts"
import { assembled } from "./assembled.ts"

const about = (value: number, half: number): Measured => ({ value, ci95: [value - half, value + half], n: 10 })

/** What the sentences say where the files have these shares of the benchmark's samples. */
const sharing = (files: ReleaseFiles, counts: Readonly<Record<string, readonly [count: number, of: number]>>) =>
  new Citations({
    ...files,
    benchmark: {
      ...files.benchmark,
      metrics: Object.fromEntries(Object.entries(counts).map(([name, [count, of]]) => [name, about(count / of, 0.1)])),
    },
    evaluation: {
      ...files.evaluation,
      counts: Object.fromEntries(Object.entries(counts).map(([name, [count, of]]) => [name, { count, of }])),
      decoding_counts: {},
    },
  })

const told = (sentences: ReadonlyArray<string>): string => sentences.map(unmark).join("\n")

describe("what a card says in plain words", () => {
  it.effect(
    "calls a difference one where its own interval leaves out none, not where one figure leaves the other's",
    () =>
      Effect.gen(function* () {
        const files = yield* readFolder(yield* assembled())
        const beside = (validation: Measured, holdout: Measured) =>
          new Citations({
            ...files,
            evaluation: {
              ...files.evaluation,
              validation_beside_holdout: {
                loss: { validation, holdout, difference: holdout.value - validation.value },
              },
            },
          })
        const within = beside(about(3, 0.1), about(3.13, 0.1))
        assert.match(told(noise(within)), /a difference that its 95% interval does not tell from none: `loss`/)
        assert.deepStrictEqual(differences(within), [])
        const apart = beside(about(3, 0.1), about(3.15, 0.1))
        assert.notInclude(told(noise(apart)), "`loss`")
        assert.match(told(differences(apart)), /a difference whose 95% interval leaves out none at all: `loss`/)
        const unknown = beside(about(3, 0.1), { value: 9 })
        assert.notInclude(told([...noise(unknown), ...differences(unknown)]), "`loss`")
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect(
    "counts languages over the samples whose language could be told, and praises none where most could not",
    () =>
      Effect.gen(function* () {
        const files = yield* readFolder(yield* assembled())
        const both = { language_consistency_en: [20, 20], language_consistency_it: [16, 16] } as const
        const clear = sharing(files, { ...both, undetermined_rate: [4, 40] })
        assert.match(
          told(strengths(clear)),
          /prompt \(en\): 20 of 20 samples of the benchmark whose language could be told \(95% interval .*\) stayed in it/,
        )
        const unclear = sharing(files, { ...both, undetermined_rate: [36, 40] })
        assert.notInclude(told(strengths(unclear)), "language")
        assert.match(
          told(limitations(unclear)),
          /Of most of what it writes the language cannot be told: 36 of 40 samples/,
        )
        const left = sharing(files, { language_consistency_en: [3, 4], undetermined_rate: [2, 40] })
        assert.match(
          told(limitations(left)),
          /It may leave .* \(en\): 3 of 4 samples of the benchmark whose language could be told \(/,
        )
        const mostly = sharing(files, { language_consistency_en: [1, 4], undetermined_rate: [2, 40] })
        assert.match(told(limitations(mostly)), /It mostly leaves the language of the prompt \(en\): 1 of 4 samples/)
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("praises no model of one language for keeping to it, since no other could have been told", () =>
    Effect.gen(function* () {
      const files = yield* readFolder(yield* assembled())
      assert.notInclude(told(strengths(sharing(files, { language_consistency_pl: [20, 20] }))), "language")
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect(
    "calls a preset confirmed where it is the best on the holdout prompts too, and not where others are ahead",
    () =>
      Effect.gen(function* () {
        const files = yield* readFolder(yield* assembled())
        const { decoding } = files
        const own = decoding.holdout.filter(({ preset }) => preset === decoding.recommended.name)
        const others = decoding.holdout.filter(({ preset }) => preset !== decoding.recommended.name)
        const ranked = (holdout: typeof decoding.holdout) =>
          told(strengths(new Citations({ ...files, decoding: { ...decoding, confirmed: true, holdout } })))
        assert.include(ranked([...own, ...others]), "confirm the recommended preset: it is the best there too")
        const behind = ranked([...others.map((row) => ({ ...row, ruled_out: false })), ...own])
        assert.include(behind, "do not speak against the recommended preset: what is ahead of it there")
        assert.notInclude(behind, "confirm")
        // what is ruled out is ahead of nothing
        assert.include(ranked([...others.map((row) => ({ ...row, ruled_out: true })), ...own]), "confirm")
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("says that a model rarely knows when to stop only where most samples are cut off", () =>
    Effect.gen(function* () {
      const files = yield* readFolder(yield* assembled())
      assert.include(told(limitations(sharing(files, { eos_rate: [3, 40] }))), "It rarely knows when to stop: 3 of 40")
      const mostly = told(limitations(sharing(files, { eos_rate: [39, 40] })))
      assert.match(mostly, /^39 of 40 samples of the benchmark \(95% interval .*\) end by themselves/m)
      assert.notInclude(mostly, "knows when to stop")
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect(
    "claims no repetition of texts seen once, no public origin of files, and no holdout read by one reader",
    () =>
      Effect.gen(function* () {
        const out = yield* assembled()
        const summary = readFileSync(`${out}/training_content_summary.md`, "utf8")
        assert.include(summary, "of which the model saw 11,520.\n")
        assert.include(summary, "### Files of unknown origin")
        assert.notInclude(summary, "### Publicly available datasets")
        assert.match(summary, /### Other sources\n\nNot recorded\.\n/)
        const named = yield* assembled({}, (input) => ({ ...input, datasets: ["our-org/texts"] }))
        const public_ = readFileSync(`${named}/training_content_summary.md`, "utf8")
        assert.include(public_, "### Publicly available datasets\n\nThe experiment names: our-org/texts.")
        const card = readFileSync(`${out}/README.md`, "utf8")
        assert.notMatch(card, /holdout was read once|third was read once/)
        assert.match(card, /The holdout\nprompts of the decoding sweep are openings of holdout documents too/)
        assert.include(card, "a range made so that 95% of such ranges contain the true figure")
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("prints what the run set otherwise than its file, as a shell takes it", () =>
    Effect.gen(function* () {
      const out = yield* assembled({}, (input) => ({
        ...input,
        experiment: { ...input.experiment, parameters: { tokens: 5000, title: "it's `ours` $(id)", small: true } },
      }))
      const card = readFileSync(`${out}/README.md`, "utf8")
      assert.include(
        card,
        "npx exp run experiment.ts --set 'tokens=5000' --set 'title=it'\\''s `ours` $(id)' --set 'small=true'\n",
      )
      assert.include(card, "what `--set` names was set otherwise than the file has it")
      assert.deepStrictEqual(yield* lintCard(out), [])
      assert.notInclude(readFileSync(`${yield* assembled()}/README.md`, "utf8"), "--set")
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect(
    "prints the engine that a run has to ask for, with what its bits depend on, and not the one that a run takes by itself",
    () =>
      Effect.gen(function* () {
        const out = yield* assembled({ engine: { name: "torch", precision: "bf16+adam8bit" } })
        const card = readFileSync(`${out}/README.md`, "utf8")
        assert.include(card, "npx exp run experiment.ts --engine torch --precision bf16+adam8bit\n")
        // its bits depend on threads and micro-batches, which no key has
        assert.include(card, "run again on\nthis engine, on the same device and with the same `--engine-set`.\n")
        assert.include(
          card,
          "On the same engine and device, with the same `--engine-set`, the files come out byte for byte;",
        )
        assert.deepStrictEqual(yield* lintCard(out), [])
        const ordinary = readFileSync(`${yield* assembled()}/README.md`, "utf8")
        assert.notInclude(ordinary, "--engine")
        assert.include(ordinary, "run again on\nthis engine.\n")
      }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )
})
