/**
 * `pretrained`: a published GPT-2, LLaMA or Mistral with its tokenizer, as the start of continued pre-training:
 *
 *     const base = yield* pretrained({ repository: "org/name", revision: "<commit>", model: { … }, vocabulary: 32_000 })
 *     const tokens = yield* pack({ corpus: texts, tokenizer: base.tokenizer, context: 1024 })
 *     const run = yield* train({ tokens, from: base, … })
 *
 * The experiment says what the model is, so that a plan knows what it costs; where it is another, the step says what to write. A
 * repository is named with a commit, which is its key; of a folder the content of what is read is.
 */
import { basename } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { complete, parameterCount, Shape, shapeProblem } from "../model/Architecture.ts"
import { Pretrained } from "../model/Artifact.ts"
import { Repository } from "../model/Repository.ts"
import * as Step from "../plan/Step.ts"

const params = {
  /** A folder as `save_pretrained` of transformers writes it. */
  from: Schema.optionalKey(Schema.String.check(Schema.isPattern(/\S/))),
  /** Or `org/name` on the hub, at a commit. */
  repository: Schema.optionalKey(Repository),
  revision: Schema.optionalKey(
    Schema.String.check(Schema.isPattern(/^[0-9a-f]{40}$/, { message: "expected a commit: 40 hex digits" })),
  ),
  /** SPDX identifier that its weights were published under; without one nothing that comes of them is released. */
  license: Schema.optionalKey(Schema.String.check(Schema.isPattern(/\S/))),
  model: Shape,
  /** Rows of its embedding table. */
  vocabulary: Schema.Int.check(Schema.isGreaterThan(0)),
}
/** How a release names it. */
const nameOf = ({ from, repository }: Pick<PretrainedParams, "from" | "repository">): string =>
  repository ?? basename(from ?? "")

type PretrainedParams = Schema.Struct<typeof params>["Type"]

/** Of its weights in fp32; positions, which only tokens tell, are few beside them. */
const bytesOf = ({ model, vocabulary }: Pick<PretrainedParams, "model" | "vocabulary">): number =>
  4 * parameterCount(complete(model, 1, vocabulary))

export const pretrained = Step.make("pretrained", {
  version: 1,
  params,
  inputs: {},
  resumable: true,
  output: (ref, params) =>
    new Pretrained(ref, {
      shape: params.model,
      vocabulary: params.vocabulary,
      name: nameOf(params),
      license: params.license,
    }),
  label: ({ from, repository }) => `pretrained ${repository ?? from}`,
  check: ({ from, repository, revision, model }) => {
    if ((from === undefined) === (repository === undefined))
      return {
        problem: from === undefined ? "nothing says where the model is" : "it is told of a folder and of a repository",
        hint: "give a folder as `from`, or `repository` and `revision`",
      }
    if ((repository === undefined) !== (revision === undefined))
      return {
        problem: repository === undefined ? "a folder has no `revision`" : `no commit of ${repository} is named`,
        hint: "a repository has a `revision` of 40 hex digits: its page of commits shows them",
      }
    return shapeProblem(model)
  },
  forecast: ({ model, vocabulary, repository }) => ({
    diskBytes: bytesOf({ model, vocabulary }),
    ...(repository !== undefined && { scratchBytes: bytesOf({ model, vocabulary }) }),
  }),
  outside: ({ from }: PretrainedParams) =>
    from === undefined
      ? Effect.succeed(undefined)
      : Effect.gen(function* () {
          const { fingerprints } = yield* Effect.promise(() => import("../hub/Pretrained.ts"))
          return { from: yield* fingerprints(from) }
        }),
  run: (work) =>
    Effect.gen(function* () {
      const { bringPublished, takePublished } = yield* Effect.promise(() => import("../hub/Pretrained.ts"))
      const { from, repository, revision, license, model, vocabulary } = work.params as unknown as PretrainedParams
      if (repository !== undefined && revision !== undefined)
        yield* bringPublished({
          repository,
          commit: revision,
          model,
          vocabulary,
          to: work.scratch,
          say: work.note,
          progress: (done, total, detail) => work.progress({ done, total, unit: "MB", detail }),
        })
      yield* takePublished({
        folder: from ?? work.scratch,
        about: {
          name: nameOf(work.params as unknown as PretrainedParams),
          ...(revision !== undefined && { revision }),
          ...(license !== undefined && { license }),
        },
        model,
        vocabulary,
        out: work.out,
      })
      return undefined
    }),
})
