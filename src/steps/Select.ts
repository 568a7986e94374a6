/**
 * `select`: the best of several scored models, the rivals that cannot be told apart from it, and, once, for the winner alone, what
 * the holdout says. The output *is* the winner: what depends on it stays cached when a new candidate loses.
 */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { architectureOf, Scored, Selected } from "../model/Artifact.ts"
import { suggestion } from "../model/DidYouMean.ts"
import { type MetricName, metricsOf } from "../model/Metric.ts"
import type { BenchmarkMetrics, BenchmarkScores, ModelIdentity } from "../model/Report.ts"
import * as Step from "../plan/Step.ts"

/** Which metrics there are is the corpus's to say; which spellings there can be is the compiler's. */
const MetricSchema = Schema.String as unknown as Schema.Codec<MetricName>

/** The same contenders with names of their own: `stable 300 → step 400 #2`. */
const distinct = <A extends { readonly model: ModelIdentity }>(
  contenders: ReadonlyArray<A>,
  winner: number,
): Array<A> => {
  const taken = new Set([contenders[winner]!.model.candidate])
  return contenders.map((one, place) => {
    if (place === winner) return one
    let candidate = one.model.candidate
    for (let n = 2; taken.has(candidate); n++) candidate = `${one.model.candidate} #${n}`
    taken.add(candidate)
    return { ...one, model: { ...one.model, candidate } }
  })
}

const firstOf = (among: unknown): Scored | undefined => {
  const first = Array.isArray(among) ? among.flat(Number.POSITIVE_INFINITY)[0] : among
  if (first !== null && typeof first === "object" && "item" in first)
    return (first as { item: (ref: unknown) => Scored }).item({})
  return first as Scored | undefined
}

export const select = Step.make("select", {
  version: 2,
  computes: true,
  transparent: true,
  params: {
    by: MetricSchema,
    /** Of the bootstrap. */
    seed: Schema.Int.pipe(Schema.withConstructorDefault(Effect.succeed(0))),
  },
  inputs: { among: [Scored] },
  output: (ref, _, { among }) => new Selected(ref, firstOf(among)!.known),
  label: ({ by }) => `select by ${by}`,
  forecast: (_, { among }) => ({
    compute: { architecture: architectureOf(firstOf(among)!.known), passes: { holdout: 1 } },
  }),
  check: ({ by }, { among }) => {
    const first = firstOf(among)
    if (first === undefined)
      return { problem: "there is nothing to choose from", hint: "give `among` at least one benchmarked model" }
    const { languages, trainSources, evaluateSources } = first.known
    const metrics = metricsOf({ languages, sources: [...trainSources, ...evaluateSources] })
    if ((metrics as ReadonlyArray<string>).includes(by)) return undefined
    return { problem: `no benchmark of this corpus reports \`${by}\``, hint: suggestion(by, metrics) }
  },
  run: (work) =>
    Effect.gen(function* () {
      const { behind, measure, mixWeighting, sourceNames, sourceRoles } = yield* Effect.promise(
        () => import("./Measuring.ts"),
      )
      const { besideInWords } = yield* Effect.promise(() => import("../evaluation/Beside.ts"))
      const { compare } = yield* Effect.promise(() => import("../evaluation/Comparison.ts"))
      const { summariseLosses } = yield* Effect.promise(() => import("../evaluation/Losses.ts"))
      const by = work.params["by"] as MetricName
      const seed = work.params["seed"] as number
      const candidates = work.inputs["among"]!
      const read = (path: string, name: string) => JSON.parse(readFileSync(join(path, name), "utf8"))
      const measured = candidates.map(({ path }) => {
        const { model, metrics } = read(path, "benchmark_metrics.json") as BenchmarkMetrics
        const { documents } = read(path, "benchmark_scores.json") as typeof BenchmarkScores.Type
        return { model, metrics, scores: documents, samples: read(path, "behaviour_samples.json") }
      })
      const first = (read(candidates[0]!.path, "benchmark_metrics.json") as BenchmarkMetrics).mix
      const modelOf = (input: (typeof candidates)[number]) =>
        Effect.map(work.lineage(input.artifact), (scored) => scored.inputs["model"]![0]!)
      const some = yield* behind(work, yield* modelOf(candidates[0]!))
      const judge = (contenders: typeof measured) =>
        Effect.fromResult(compare({ by, contenders, sources: sourceRoles(some.index), weights: first.weights, seed }))
      const byPlace = yield* judge(
        measured.map((one, place) => ({ ...one, model: { ...one.model, candidate: `${place}` } })),
      )
      const position = Number(byPlace.candidates[0]!.candidate)
      // two runs may have come to the same step: of equal names the winner keeps its own
      const comparison = yield* judge(distinct(measured, position))
      const chosen = candidates[position]!

      // The holdout is read here and nowhere else, after the choice and for the winner alone: the guard against the winner's curse.
      const of = yield* behind(work, yield* modelOf(chosen))
      const scores = yield* measure(of, "holdout", sourceNames(of.index, "train"))
      const trained = sourceRoles(of.index).filter(({ role }) => role === "train")
      const holdout = yield* Effect.fromResult(
        summariseLosses(scores, trained, { weighting: mixWeighting(of.index), seed }),
      )
      const before = measured[position]!.metrics["val_loss_mixed"]!
      const after = holdout.metrics["val_loss_mixed"]!
      const words = besideInWords(scores.length, { validation: before, holdout: after })
      const write = (name: string, value: unknown): void =>
        writeFileSync(join(work.out, name), `${JSON.stringify(value, null, 2)}\n`)
      write("comparison.json", comparison)
      write("holdout.json", {
        model: measured[position]!.model,
        metrics: holdout.metrics,
        sources: holdout.sources,
        documents: scores,
        words,
      })
      return { chosen }
    }),
})
