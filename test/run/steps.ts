/**
 * Step kinds that are quick and only write files, shaped like the real ones: a corpus, a training with elastic length and
 * checkpoints, a decay with a score, a selection, and what is done with the winner, with and without the comparison.
 */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect, Schema } from "effect"
import {
  Corpus,
  Decoding,
  keptSteps,
  Release,
  Scored,
  Selected,
  StableCheckpoint,
  Trained,
} from "../../src/model/Artifact.ts"
import * as Step from "../../src/plan/Step.ts"
import type { Outcome, Work } from "../../src/plan/Work.ts"
import { known } from "./known.ts"

/** What a test wants to happen in the middle of a step, by kind: after its files are written, before it is committed. */
export const during = new Map<string, (work: Work) => Effect.Effect<void, Error>>()

const doing =
  (kind: string, write: (work: Work) => Outcome | undefined | Effect.Effect<Outcome | undefined, Error>) =>
  (work: Work) =>
    Effect.gen(function* () {
      const result = write(work)
      const outcome = Effect.isEffect(result) ? yield* result : result
      yield* during.get(kind)?.(work) ?? Effect.void
      return outcome
    })

const read = (work: Work, input: string, name: string): string =>
  readFileSync(join(work.inputs[input]![0]!.path, name), "utf8")

export const source = Step.make("source", {
  version: 1,
  params: { text: Schema.String, options: Schema.optionalKey(Schema.Record(Schema.String, Schema.Int)) },
  inputs: {},
  output: (ref) => new Corpus(ref, known),
  run: doing("source", (work) => {
    writeFileSync(join(work.out, "text.txt"), JSON.stringify([work.params["text"], work.params["options"]]))
    return undefined
  }),
})

export const grow = Step.make("grow", {
  version: 1,
  computes: true,
  elastic: ["steps", "keepEvery"],
  resumable: true,
  params: { steps: Schema.Int, keepEvery: Schema.Int, rate: Schema.Finite },
  inputs: { from: Corpus },
  output: (ref, { steps, keepEvery }) => new Trained(ref, known, keptSteps(0, steps, keepEvery)),
  label: ({ steps }) => `grow 0→${steps}`,
  run: doing("grow", (work) => {
    const text = read(work, "from", "text.txt")
    for (const step of keptSteps(0, work.params["steps"] as number, work.params["keepEvery"] as number)) {
      const folder = join(work.out, "checkpoints", `step_${step}`)
      mkdirSync(folder, { recursive: true })
      writeFileSync(join(folder, "weights.txt"), JSON.stringify({ step, text, rate: work.params["rate"] }))
    }
    return undefined
  }),
})

/** Scores best (lowest) at step 3. */
export const finish = Step.make("finish", {
  version: 1,
  params: { bonus: Schema.Finite.pipe(Schema.withConstructorDefault(Effect.succeed(0))) },
  inputs: { from: StableCheckpoint },
  output: (ref) => new Scored(ref, known),
  label: (_, { from }) => `finish ${from.step ?? ""}`.trim(),
  run: doing("finish", (work) => {
    const weights = JSON.parse(read(work, "from", "weights.txt"))
    const score = Math.abs(weights.step - 3) - (work.params["bonus"] as number)
    writeFileSync(join(work.out, "score.json"), JSON.stringify({ score, weights }))
    return undefined
  }),
})

export const pick = Step.make("pick", {
  version: 1,
  transparent: true,
  params: {},
  inputs: { among: [Scored] },
  output: (ref) => new Selected(ref, known),
  run: doing("pick", (work) => {
    const scores = work.inputs["among"]!.map((input) => ({
      input,
      score: JSON.parse(readFileSync(join(input.path, "score.json"), "utf8")).score as number,
    })).sort((a, b) => a.score - b.score)
    writeFileSync(join(work.out, "table.json"), JSON.stringify(scores.map(({ score }) => score)))
    return { chosen: scores[0]!.input }
  }),
})

export const polish = Step.make("polish", {
  version: 1,
  params: { shine: Schema.Int },
  inputs: { model: Scored },
  output: (ref) => new Decoding(ref),
  run: doing("polish", (work) => {
    writeFileSync(join(work.out, "polished.txt"), `${work.params["shine"]} ${read(work, "model", "score.json")}`)
    return undefined
  }),
})

/** Reads the comparison, and follows the lineage of the winner down to its corpus. */
export const report = Step.make("report", {
  version: 1,
  wholeSelection: ["model"],
  params: {},
  inputs: { model: Selected },
  output: (ref) => new Release(ref),
  run: doing("report", (work) =>
    Effect.gen(function* () {
      const selection = yield* work.lineage(work.inputs["model"]![0]!.artifact)
      const scored = yield* work.lineage(selection.chosen!.artifact)
      const grown = yield* work.lineage(scored.inputs["from"]![0]!.artifact)
      const text = readFileSync(join(grown.inputs["from"]![0]!.path, "text.txt"), "utf8")
      writeFileSync(join(work.out, "report.txt"), `${read(work, "model", "table.json")} from ${text}`)
      return undefined
    }),
  ),
})
