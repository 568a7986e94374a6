/**
 * `release`: the winner packed with everything that says what it is and how it came to be: weights, tokenizer and configuration for
 * `transformers`, telemetry, benchmark and decoding bundles, card, provenance and sums.
 *
 * The artifact holds the publishable folder in `release/`, and beside it `logits_check.json`: what the engine itself answers on real
 * text, for a check of the exported model in another implementation.
 */
import { mkdirSync, writeFileSync } from "node:fs"
import { join, posix, win32 } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { RightsAhead } from "../data/Rights.ts"
import { checkpointBytes } from "../model/Architecture.ts"
import { architectureOf, Decoding, Quantised, Release, Selected } from "../model/Artifact.ts"
import { greedy } from "../model/Decoding.ts"
import { licenseProblem, objections } from "../model/License.ts"
import * as Step from "../plan/Step.ts"
import type { ReleaseFacts } from "../release/Folder.ts"

/** Long enough to be a reason. */
const Sentence = Schema.String.check(Schema.isPattern(/\S(?:.*\S)?/), Schema.isMinLength(20))

interface ReleaseParams {
  readonly name: string
  readonly license: string
  readonly licensing?: { readonly override: string }
  readonly authors?: ReadonlyArray<string>
  readonly datasets?: ReadonlyArray<string>
  readonly date?: string
  readonly template: string
  readonly torchCheckpoint: boolean
}

/** What of a corpus says under which licences its texts are. */
type CorpusParams = Omit<RightsAhead, "texts">

const CHECKED_TEXTS = 8
const CHECKED_GREEDY_TOKENS = 24

export const release = Step.make("release", {
  version: 5,
  computes: true,
  wholeSelection: ["model"],
  params: {
    /** Part of file names: letters, digits, `.`, `_`, `-`. */
    name: Schema.String.check(Schema.isPattern(/^[A-Za-z0-9][A-Za-z0-9._-]*$/)),
    /** SPDX identifier of the released weights. Which are possible follows from those of the texts (`src/model/License.ts`). */
    license: Schema.String,
    /** Why the cautious reading of the texts' licences does not hold here: a sentence that LICENSE, NOTICE and card print. */
    licensing: Schema.optionalKey(Schema.Struct({ override: Sentence })),
    /** Who is to be cited: people or groups. */
    authors: Schema.optionalKey(Schema.Array(Schema.String.check(Schema.isPattern(/\S/)))),
    /** Published data sets that the texts come from, as the Hub names them: `google/wiki40b`. */
    datasets: Schema.optionalKey(Schema.Array(Schema.String.check(Schema.isPattern(/\S/)))),
    /** Day of the release, for citations: `2026-11-21`. Nothing reads a clock. */
    date: Schema.optionalKey(Schema.String.check(Schema.isPattern(/^\d{4}-\d{2}-\d{2}$/))),
    /** A folder of `release-templates/`. */
    template: Schema.String.pipe(Schema.withConstructorDefault(Effect.succeed("small-lm"))),
    /** Whether the checkpoint is there for `torch.load` too, as large as the weights once more. */
    torchCheckpoint: Schema.Boolean.pipe(Schema.withConstructorDefault(Effect.succeed(true))),
  },
  inputs: { model: Selected, decoding: Decoding, quantised: Step.optional(Quantised) },
  output: (ref) => new Release(ref),
  label: ({ name }) => `release ${name}`,
  check: ({ name, license, licensing }, { model, quantised }) => {
    const { base } = model.known
    if (base !== undefined && base.license === undefined)
      return {
        problem: `nothing says what the weights of ${base.name} were published under`,
        hint: "say it where they are taken: `pretrained({ license: … })`, an SPDX identifier",
      }
    const said = quantised?.known
    if (said !== undefined && (said.name !== name || said.license !== license))
      return {
        problem: `its quantised files say \`${said.name}\` under ${said.license}, it is \`${name}\` under ${license}`,
        hint: "give `quantise` and `release` the same `name` and `license`",
      }
    const unnamed = licenseProblem(license)
    if (unnamed !== undefined || base?.license === undefined || licensing !== undefined) return unnamed
    const [opposed] = objections(license, [
      { source: base.name, role: "train", licenses: { [base.license]: 1 }, attributions: [base.name], terms: [] },
    ])
    return (
      opposed && {
        problem: `${license} is not possible for what comes of the weights of ${base.name}: ${opposed.license}, ${opposed.rule}: ${opposed.reason}`,
        hint: "take a licence that theirs allows, or write why the rule does not hold: `licensing: { override: … }`",
      }
    )
  },
  foresees: {
    into: "pack",
    input: "corpus",
    check: ({ license, licensing }: ReleaseParams, corpus) =>
      Effect.gen(function* () {
        const { checkCorpus } = yield* Effect.promise(() => import("../release/License.ts"))
        return yield* checkCorpus({ license, override: licensing?.override }, corpus)
      }),
    planned: ({ license, licensing }: ReleaseParams, corpus: CorpusParams, { texts = [] }) =>
      Effect.gen(function* () {
        const { rightsAhead } = yield* Effect.promise(() => import("../data/Rights.ts"))
        const { checkPlanned } = yield* Effect.promise(() => import("../release/License.ts"))
        const rights = yield* rightsAhead({ ...corpus, texts: texts as RightsAhead["texts"] })
        return yield* checkPlanned({ license, override: licensing?.override }, rights)
      }),
  },
  // the checkpoint's own weights, those for `transformers`, and those for PyTorch
  forecast: ({ torchCheckpoint }, { model }) => ({
    diskBytes: (torchCheckpoint ? 3 : 2) * checkpointBytes(architectureOf(model.known), false),
  }),
  run: (work) =>
    Effect.gen(function* () {
      const { Engine } = yield* Effect.promise(() => import("../engine/Engine.ts"))
      const { assembleRelease } = yield* Effect.promise(() => import("../release/Bundle.ts"))
      const { gatherProvenance } = yield* Effect.promise(() => import("../release/Provenance.ts"))
      const { behind } = yield* Effect.promise(() => import("./Measuring.ts"))
      const engine = yield* Engine
      const params = work.params as unknown as ReleaseParams
      const selection = yield* work.lineage(work.inputs["model"]![0]!.artifact)
      const chosen = selection.chosen!
      const scored = yield* work.lineage(chosen.artifact)
      const sweep = work.inputs["decoding"]![0]!
      const quantised = work.inputs["quantised"]?.[0]
      const of = yield* behind(work, scored.inputs["model"]![0]!)
      const { state, identity, training, decay, packing, corpus, vocabulary } = of
      const report = yield* engine.inspect
      const begun = training.inputs["from"]?.[0]
      const out = join(work.out, "release")
      mkdirSync(out)
      yield* assembleRelease({
        ...params,
        out,
        artifacts: {
          corpus: corpus.path,
          tokenizer: vocabulary.path,
          tokens: packing.path,
          checkpoint: of.model.path,
          training: training.path,
          decay: decay.path,
          benchmark: scored.path,
          selection: selection.path,
          sweep: sweep.path,
          ...(quantised !== undefined && { quantised: quantised.path }),
        },
        experiment: {
          name: work.run.experiment,
          source: work.run.experimentSource,
          plan: `${work.run.planText}\n`,
          parameters: tellable(work.run.parameters),
          keys: Object.fromEntries(
            [
              ...[corpus, vocabulary, packing, training, decay, scored, selection],
              yield* work.lineage(sweep.artifact),
              ...(quantised === undefined ? [] : [yield* work.lineage(quantised.artifact)]),
            ].map(({ kind, identity }) => [kind, identity]),
          ),
          parentStep: identity.parent_step,
          decaySteps: state.schedule.decay?.steps ?? 0,
          releasedStep: state.step,
          schedule: state.schedule,
          architecture: state.architecture,
          seed: state.seed,
          optimizer: state.optimizer,
          rowsPerStep: state.rowsPerStep,
          ...(begun !== undefined && { base: yield* baseOf(begun.path) }),
        },
        provenance: yield* gatherProvenance({
          repository: work.run.repository,
          started: work.run.startedAt,
          finished: new Date().toISOString(),
          engine: { ...engine.numerics, ...report },
        }),
      })

      const documents = of.tokens.documents.filter(({ part }) => part === "validation").slice(0, CHECKED_TEXTS)
      const texts = yield* Effect.forEach(documents, (document) =>
        Effect.gen(function* () {
          const ids = Array.from(yield* of.tokens.tokensOf(document)).slice(
            0,
            Math.min(state.architecture.context - CHECKED_GREEDY_TOKENS, document.length - 1),
          )
          const logits = yield* engine.logits({ checkpoint: of.model.path, ids })
          const [generation] = yield* engine.generate({
            checkpoint: of.model.path,
            prompts: [{ id: document.id, ids }],
            preset: greedy,
            maxNewTokens: CHECKED_GREEDY_TOKENS,
            eosId: of.index.eosId,
            seed: 0,
          })
          const text = of.tokenizer.decode(ids, { skipSpecial: true })
          return {
            text,
            text_ids: Array.from(of.tokenizer.encode(text)),
            ids,
            logits_last: Array.from(logits.at(-1)!),
            greedy: [...generation!.tokens],
          }
        }),
      )
      writeFileSync(join(work.out, "logits_check.json"), `${JSON.stringify({ texts })}\n`)
      return undefined
    }),
})

/** Parameters that another machine can be given. A path from the root of this one names its user, and makes equal runs unlike. */
const tellable = (parameters: Readonly<Record<string, unknown>>): ReleaseFacts["parameters"] =>
  Object.fromEntries(
    Object.entries(parameters as ReleaseFacts["parameters"]).filter(
      ([, value]) => typeof value !== "string" || !(posix.isAbsolute(value) || win32.isAbsolute(value)),
    ),
  )

/** What the weights were that training began with. That they have a licence was seen in the plan. */
const baseOf = Effect.fnUntraced(function* (folder: string) {
  const { Pretrained } = yield* Effect.promise(() => import("../hub/Pretrained.ts"))
  const { readJson } = yield* Effect.promise(() => import("../release/Folder.ts"))
  const { name, license, revision } = yield* readJson(Pretrained, join(folder, "pretrained.json"))
  return { name, license: license!, ...(revision !== undefined && { revision }) }
})
