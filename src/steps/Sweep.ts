/**
 * `sweep`: which decoding settings write most like real text. Presets are judged on tuning prompts, the tuning winner is
 * recommended, and holdout prompts say whether that is confirmed; they never change the choice.
 */
import { appendFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { architectureOf, Decoding, Scored } from "../model/Artifact.ts"
import { gridPresets, standardPresets } from "../model/Decoding.ts"
import type { PromptSets } from "../model/Report.ts"
import * as Step from "../plan/Step.ts"

const Positive = Schema.Int.check(Schema.isGreaterThan(0))
const Above0 = Schema.Finite.check(Schema.isGreaterThan(0))
const Share = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))

export const sweep = Step.make("sweep", {
  version: 1,
  computes: true,
  params: {
    /** A grid judged beside the standard presets; empty for these alone. */
    temperature: Schema.Array(Above0).pipe(Schema.withConstructorDefault(Effect.succeed([]))),
    topP: Schema.Array(Share).pipe(Schema.withConstructorDefault(Effect.succeed([1]))),
    repetitionPenalty: Schema.Array(Above0).pipe(Schema.withConstructorDefault(Effect.succeed([1]))),
    /** Prompts per language, openings of held-out documents. */
    tuningPrompts: Positive.pipe(Schema.withConstructorDefault(Effect.succeed(40))),
    holdoutPrompts: Positive.pipe(Schema.withConstructorDefault(Effect.succeed(40))),
    behaviourPrompts: Positive.pipe(Schema.withConstructorDefault(Effect.succeed(20))),
    maxNewTokens: Schema.Int.check(Schema.isGreaterThan(15)).pipe(Schema.withConstructorDefault(Effect.succeed(48))),
    seed: Schema.Int.pipe(Schema.withConstructorDefault(Effect.succeed(0))),
  },
  inputs: { model: Scored },
  output: (ref) => new Decoding(ref),
  label: () => "sweep decoding",
  forecast: ({ temperature, topP, repetitionPenalty, tuningPrompts, holdoutPrompts, maxNewTokens }, { model }) => {
    const presets = standardPresets.length + temperature.length * topP.length * repetitionPenalty.length
    const languages = model.known.languages.length
    return {
      compute: {
        architecture: architectureOf(model.known),
        drawn: {
          texts: presets * (tuningPrompts + holdoutPrompts) * languages,
          newTokens: maxNewTokens,
          atOnce: languages * Math.max(tuningPrompts, holdoutPrompts),
        },
      },
    }
  },
  run: (work) =>
    Effect.gen(function* () {
      const { behind } = yield* Effect.promise(() => import("./Measuring.ts"))
      const { generateSamples, promptsFor, realSamples } = yield* Effect.promise(() => import("./Sampling.ts"))
      const { confirm, leaderboard, leaderboardCsv, winnerOf } = yield* Effect.promise(
        () => import("../decoding/Score.ts"),
      )
      const params = work.params as unknown as SweepParams
      const { maxNewTokens, seed } = params
      const scored = yield* work.lineage(work.inputs["model"]![0]!.artifact)
      const of = yield* behind(work, scored.inputs["model"]![0]!)
      const presets = [...standardPresets, ...gridPresets(params)]
      const needs = { tuning: params.tuningPrompts, holdout: params.holdoutPrompts, behaviour: params.behaviourPrompts }
      const sets = yield* promptsFor(of, needs, maxNewTokens, seed)
      let done = 0
      const judge = Effect.fnUntraced(function* (set: "tuning" | "holdout") {
        const real = yield* realSamples(of, sets[set])
        const judged = yield* Effect.forEach(presets, (preset) =>
          Effect.map(generateSamples(of, sets[set], preset, maxNewTokens, seed), ({ samples, records }) => {
            for (const record of records)
              appendFileSync(join(work.out, `${set}_generations.jsonl`), `${JSON.stringify(record)}\n`)
            work.progress({ done: ++done, total: 2 * presets.length, unit: "presets", detail: `${set} ${preset.name}` })
            return { preset, samples }
          }),
        )
        const board = leaderboard("decoding_score", judged, real, { seed })
        writeFileSync(join(work.out, `${set}_leaderboard.csv`), leaderboardCsv(board.rows, presets))
        return board
      })
      const tuning = yield* judge("tuning")
      const { preset: winner } = winnerOf(tuning)
      const holdout = yield* judge("holdout")
      const { confirmed, words } = confirm(tuning, holdout)
      const write = (name: string, value: unknown): void =>
        writeFileSync(join(work.out, name), `${JSON.stringify(value, null, 2)}\n`)
      write("decoding_summary.json", {
        objective: "decoding_score",
        presets,
        recommended: presets.find(({ name }) => name === winner)!,
        max_new_tokens: maxNewTokens,
        seed,
        prompts: { tuning: sets.tuning.length, holdout: sets.holdout.length },
        reference: tuning.reference,
        tuning: tuning.rows,
        holdout: holdout.rows,
        confirmed,
        words,
      })
      const bare = ({ id, language, source, document, text, continuation }: PromptSets["tuning"][number]) => ({
        id,
        language,
        source,
        document,
        text,
        continuation,
      })
      write("prompts.json", {
        tuning: sets.tuning.map(bare),
        holdout: sets.holdout.map(bare),
        behaviour: sets.behaviour.map(bare),
      } satisfies PromptSets)
      return undefined
    }),
})

interface SweepParams {
  readonly temperature: ReadonlyArray<number>
  readonly topP: ReadonlyArray<number>
  readonly repetitionPenalty: ReadonlyArray<number>
  readonly tuningPrompts: number
  readonly holdoutPrompts: number
  readonly behaviourPrompts: number
  readonly maxNewTokens: number
  readonly seed: number
}
