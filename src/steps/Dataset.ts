/**
 * `dataset`: documents of data sets of the Hugging Face Hub, each as a source that `corpus` reads.
 *
 * Every source is a step of its own, so that another bound for one of them brings no other anew. A revision of 40 hex digits pins what
 * is brought, and the parameters alone are its key. A branch or a tag is asked for when a run begins, and the commit it stands for
 * then is what enters the key: the same as if the experiment had named that commit.
 *
 * The token (`HF_TOKEN`, or the hub's own file) is sent where a data set is not served without. `HF_ENDPOINT` names another hub.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { Dataset } from "../model/Artifact.ts"
import { byCodeUnit } from "../model/ByCodeUnit.ts"
import { SourceName } from "../model/Corpus.ts"
import { Markup } from "../model/Dataset.ts"
import { Repository } from "../model/Repository.ts"
import * as Plan from "../plan/Plan.ts"
import * as Step from "../plan/Step.ts"

const COMMIT = /^[0-9a-f]{40}$/

const Positive = Schema.Finite.check(Schema.isGreaterThan(0))
const Word = Schema.String.check(Schema.isPattern(/\S/))

const params = {
  /** What the corpus calls it. */
  source: SourceName,
  repository: Repository,
  /** A commit of 40 hex digits, a branch or a tag. */
  revision: Word,
  /** Paths in the repository: `*` and `?` stand for what is within a name, `**` for folders. Taken in the order of the paths. */
  files: Schema.Union([Word, Schema.Array(Word).check(Schema.isMinLength(1))]),
  /** Column, or field, of the texts; and of ids, without which records are numbered. */
  text: Word.pipe(Schema.withConstructorDefault(Effect.succeed("text"))),
  id: Schema.optionalKey(Word),
  /** Of texts that are not plain: `wiki40b` takes its markers out and keeps titles and paragraphs. */
  markup: Schema.optionalKey(Markup),
  language: Schema.optionalKey(Word),
  /** SPDX expression; without one the texts can be trained on, and what comes of it not be released. */
  license: Schema.optionalKey(Word),
  attribution: Schema.optionalKey(Word),
  /** Terms of use beside the licence: a sentence or an address. */
  terms: Schema.optionalKey(Word),
  /** Documents are taken as long as they fit: megabytes (a million bytes) of text in UTF-8, or a number of documents. */
  most: Schema.optionalKey(
    Schema.Struct({
      megabytes: Schema.optionalKey(Positive),
      documents: Schema.optionalKey(Schema.Int.check(Schema.isGreaterThan(0))),
    }),
  ),
}

type DatasetParams = Schema.Struct<typeof params>["Type"]

/** Bytes of a document of the web, for a bound in documents alone. */
const DOCUMENT_BYTES = 5_000

/** Somebody waits for a plan. */
const LOOKING_SECONDS = 8

/** Bytes that are brought at most; undefined where there is no bound. */
const bytesAtMost = ({ most }: DatasetParams): number | undefined => {
  const { megabytes = Number.POSITIVE_INFINITY, documents = Number.POSITIVE_INFINITY } = most ?? {}
  const text = Math.min(megabytes * 1e6, documents * DOCUMENT_BYTES)
  // ids and quotation marks beside the text
  return text === Number.POSITIVE_INFINITY ? undefined : 1.1 * text
}

const commitOf = ({ repository, revision }: DatasetParams) =>
  Effect.gen(function* () {
    const { openFiles } = yield* Effect.promise(() => import("../hub/Files.ts"))
    const looking = yield* Step.Looking
    const patience = looking ? { attempts: 2, timeoutSeconds: LOOKING_SECONDS } : {}
    const unseen = (problem: string) =>
      new Step.OutsideUnknown({
        lacks: "needs the network",
        problem: `which commit \`${revision}\` of ${repository} is cannot be told: ${problem}`,
        hint: "run again when the hub answers, or name a commit as `revision`: then nothing is asked",
      })
    const hub = yield* openFiles({
      kind: "datasets",
      repository,
      endpoint: undefined,
      say: () => {},
      patience,
    })
    const asked = hub.commitOf(revision).pipe(Effect.catchTag("HubUnreachable", ({ problem }) => unseen(problem)))
    return yield* looking
      ? Effect.timeoutOrElse(asked, {
          duration: `${LOOKING_SECONDS} seconds`,
          orElse: () => unseen("no answer in time"),
        })
      : asked
  })

const step = Step.make("dataset", {
  version: 1,
  params,
  inputs: {},
  output: (ref, { source, language }) => new Dataset(ref, { source, language }),
  label: ({ source }) => `dataset ${source}`,
  resumable: true,
  writes: bytesAtMost,
  texts: (params: DatasetParams) => {
    const bytes = bytesAtMost(params)
    return bytes === undefined ? undefined : { bytes, counted: false }
  },
  outside: (params: DatasetParams) =>
    COMMIT.test(params.revision)
      ? Effect.succeed(undefined)
      : Effect.map(commitOf(params), (commit) => ({ revision: commit })),
  run: (work) =>
    Effect.gen(function* () {
      const { bringDataset } = yield* Effect.promise(() => import("../hub/Dataset.ts"))
      const given = work.params as DatasetParams
      const { revision: commit } = { ...given, ...(work.outside as Pick<DatasetParams, "revision"> | undefined) }
      if (commit !== given.revision) work.note(`\`${given.revision}\` of ${given.repository} is ${commit}`)
      const { license, attribution, terms, files, most = {} } = given
      yield* bringDataset({
        ...given,
        commit,
        files: typeof files === "string" ? [files] : files,
        rights: {
          ...(license !== undefined && { license }),
          ...(attribution !== undefined && { attribution }),
          ...(terms !== undefined && { terms }),
        },
        most,
        endpoint: undefined,
        out: work.out,
        scratch: work.scratch,
        say: work.note,
        progress: work.progress,
      })
      return undefined
    }),
})

type Source = Omit<Parameters<typeof step>[0], "source">

/** One step for each source, in the order of their names. */
const sourcesOf = Effect.fnUntraced(function* ({
  sources,
}: {
  readonly sources: { readonly [source: string]: Source }
}) {
  const named = Object.entries(sources ?? {}).sort(([a], [b]) => byCodeUnit(a, b))
  if (named.length === 0)
    return yield* new Plan.PlanError({
      step: "dataset",
      problem: "it names no source",
      hint: 'name at least one: `sources: { web_en: { repository: "org/name", … } }`',
    })
  return yield* Effect.forEach(named, ([source, given]) =>
    Effect.mapError(
      step({ ...given, source }),
      ({ problem, hint }) => new Plan.PlanError({ step: `dataset ${source}`, problem, hint }),
    ),
  )
})

export const dataset = Object.assign(sourcesOf, { definition: step.definition })
