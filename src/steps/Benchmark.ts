/**
 * `benchmark`: what a model can do, measured on validation documents and on prompts it never saw: the mixed loss with its weights
 * and interval, losses by language and source, bits per byte, probes, and the behaviour of sampled text.
 */
import { appendFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { architectureOf, Model, Scored } from "../model/Artifact.ts"
import { DecodingPreset, standardPresets } from "../model/Decoding.ts"
import { probesOf } from "../model/Probe.ts"
import * as Step from "../plan/Step.ts"

const balanced = standardPresets.find(({ name }) => name === "balanced")!

export const benchmark = Step.make("benchmark", {
  version: 1,
  computes: true,
  params: {
    /** Behaviour prompts per language, openings of validation documents. */
    prompts: Schema.Int.check(Schema.isGreaterThan(0)).pipe(Schema.withConstructorDefault(Effect.succeed(20))),
    /** How the behaviour samples are drawn. */
    preset: DecodingPreset.pipe(Schema.withConstructorDefault(Effect.succeed(balanced))),
    maxNewTokens: Schema.Int.check(Schema.isGreaterThan(15)).pipe(Schema.withConstructorDefault(Effect.succeed(48))),
    seed: Schema.Int.pipe(Schema.withConstructorDefault(Effect.succeed(0))),
  },
  inputs: { model: Model },
  output: (ref, _, { model }) => new Scored(ref, model.known),
  label: (_, { model }) => `benchmark ${model.ref.part ?? ""}`.trim(),
  forecast: ({ prompts, maxNewTokens }, { model }) => {
    const texts = prompts * model.known.languages.length
    return {
      compute: {
        architecture: architectureOf(model.known),
        passes: { validation: 1 },
        drawn: { texts, newTokens: maxNewTokens, atOnce: texts },
      },
    }
  },
  run: (work) =>
    Effect.gen(function* () {
      const { Engine } = yield* Effect.promise(() => import("../engine/Engine.ts"))
      const { behind, measure, mixWeighting, sourceNames, sourceRoles } = yield* Effect.promise(
        () => import("./Measuring.ts"),
      )
      const { generateSamples, promptsFor } = yield* Effect.promise(() => import("./Sampling.ts"))
      const { summariseLosses } = yield* Effect.promise(() => import("../evaluation/Losses.ts"))
      const { summariseBehaviour } = yield* Effect.promise(() => import("../evaluation/Behaviour.ts"))
      const { probeReport, probeRequest } = yield* Effect.promise(() => import("../evaluation/Probe.ts"))
      const { prompts, preset, maxNewTokens, seed } = work.params as unknown as BenchmarkParams
      const engine = yield* Engine
      const of = yield* behind(work, work.inputs["model"]![0]!)
      const { identity: model, index, tokenizer } = of
      const write = (name: string, value: unknown): void =>
        writeFileSync(join(work.out, name), `${JSON.stringify(value, null, 2)}\n`)
      const stage = (done: number) => work.progress({ done, total: 3, unit: "parts" })

      stage(0)
      const scores = yield* measure(of, "validation", sourceNames(index))
      const losses = yield* Effect.fromResult(
        summariseLosses(scores, sourceRoles(index), { weighting: mixWeighting(index), seed }),
      )
      write("benchmark_source_losses.json", { model, sources: losses.sources })
      write("benchmark_scores.json", { model, documents: scores })

      stage(1)
      const encode = (text: string) => Array.from(tokenizer.encode(text))
      const probes = probesOf(index.languages)
      const answers = yield* engine.probe({
        checkpoint: of.model.path,
        probes: probes.map((probe) => probeRequest(probe, encode, index.bosId)),
      })
      write("probes.json", {
        model,
        probes: probes.map((probe, position) => probeReport(probe, answers[position]!, (id) => tokenizer.decode([id]))),
      })

      stage(2)
      const sets = yield* promptsFor(of, { tuning: 0, holdout: 0, behaviour: prompts }, maxNewTokens, seed)
      const sampled = yield* generateSamples(of, sets.behaviour, preset, maxNewTokens, seed)
      for (const record of sampled.records)
        appendFileSync(join(work.out, "behaviour_generations.jsonl"), `${JSON.stringify(record)}\n`)
      write("behaviour_samples.json", sampled.samples)
      write("benchmark_metrics.json", {
        model,
        metrics: { ...losses.metrics, ...summariseBehaviour(sampled.samples, { seed }) },
        mix: losses.mix,
        behaviour: { preset, prompts_per_language: prompts, max_new_tokens: maxNewTokens, seed },
      })
      stage(3)
      return undefined
    }),
})

interface BenchmarkParams {
  readonly prompts: number
  readonly preset: DecodingPreset
  readonly maxNewTokens: number
  readonly seed: number
}
