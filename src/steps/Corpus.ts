/**
 * `corpus`: text sources read, checked and split by document into train, validation and holdout.
 *
 * Sources are named by language. Those in `train` are learned from; those in `evaluate` are only measured: no training token,
 * weight 0 in every mix, all their documents evaluated. A source is one that `texts` brought, else a file of `from`, whose content bears
 * identity and whose path does not.
 */
import { readdirSync, statSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { Prints } from "../data/Corpus.ts"
import { Corpus, Dataset, type Problem } from "../model/Artifact.ts"
import { defaultSplit, SourceRights, Split } from "../model/Corpus.ts"
import { suggestion } from "../model/DidYouMean.ts"
import * as Step from "../plan/Step.ts"
import type { Source, Texts } from "../plan/Texts.ts"

/** Where a source in the language `code` is found that `from` does not have: code to be measured on comes with the project. */
const embedded = fileURLToPath(new URL("../../experiments/corpus", import.meta.url))

const ByLanguage = Schema.Record(Schema.String, Schema.Array(Schema.String))

const sourcesOf = (byLanguage: typeof ByLanguage.Type): ReadonlyArray<string> => Object.values(byLanguage).flat()

interface CorpusParams {
  readonly from?: string
  readonly train: typeof ByLanguage.Type
  readonly evaluate: typeof ByLanguage.Type
  readonly split: Split
  readonly rights?: { readonly [source: string]: SourceRights }
}

/** Text that is compressed unfolds to some five times as much. */
const textBytes = (path: string): number =>
  (statSync(path, { throwIfNoEntry: false })?.size ?? 0) * (/\.(gz|parquet)$/.test(path) ? 5 : 1)

/** Of the files that would be read, by their names; 0 where there is none: that is for reading to complain of. */
const textBytesOf = ({ from, train, evaluate }: CorpusParams): number => {
  if (from === undefined) return 0
  const sources = [...sourcesOf(train), ...sourcesOf(evaluate)]
  const below = (folder: string) =>
    readdirSync(folder)
      .filter((name) => sources.some((source) => name.startsWith(`${source}.`)))
      .reduce((sum, name) => sum + textBytes(join(folder, name)), 0)
  const there = statSync(from, { throwIfNoEntry: false })
  return there === undefined ? 0 : there.isDirectory() ? below(from) : textBytes(from)
}

/** Of what a source takes on disk, the text itself. */
const TEXT_SHARE = 0.78

/** By the size of the files that will be read, where the plan can see them, and by the bounds of data sets to be brought. */
const textsOf = (params: CorpusParams, brought: ReadonlyArray<Source> = []): Texts | undefined => {
  const sizes = brought.map(({ texts }) => texts?.bytes)
  // one without a bound may be of any size
  if (!sizes.every((size) => size !== undefined)) return undefined
  const bytes = TEXT_SHARE * sizes.reduce((sum, size) => sum + size, textBytesOf(params))
  if (bytes === 0) return undefined
  const { train, evaluate, split } = params
  const trained = (bytes * sourcesOf(train).length) / (sourcesOf(train).length + sourcesOf(evaluate).length)
  return {
    bytes,
    split: {
      train: trained * (1 - split.validation - split.holdout),
      validation: trained * split.validation + (bytes - trained),
      trainedValidation: trained * split.validation,
      holdout: trained * split.holdout,
    },
    counted: false,
  }
}

/** Handles of a list, which may be nested and may hold items of a fan-out: of those nothing is known yet. */
const broughtIn = (texts: unknown): ReadonlyArray<Dataset> =>
  [texts].flat(Number.POSITIVE_INFINITY).filter((one): one is Dataset => one instanceof Dataset)

/** What can be said of data sets before any of them is brought. */
const problemOfTexts = (
  brought: ReadonlyArray<Dataset>,
  from: string | undefined,
  wanted: ReadonlyArray<typeof ByLanguage.Type>,
): Problem | undefined => {
  const names = brought.map(({ known }) => known.source)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice !== undefined)
    return { problem: `\`texts\` has \`${twice}\` twice`, hint: "give each source of the hub a name of its own" }
  for (const [language, sources] of wanted.flatMap((byLanguage) => Object.entries(byLanguage)))
    for (const source of sources) {
      const there = brought.find(({ known }) => known.source === source)
      if (there === undefined && from === undefined && language !== "code")
        return { problem: `\`${source}\` is not in \`texts\``, hint: suggestion(source, names) }
      if (there?.known.language !== undefined && there.known.language !== language)
        return {
          problem: `\`${source}\` is named under \`${language}\`, its data set is \`${there.known.language}\``,
          hint: "list the source under its own language",
        }
    }
  return undefined
}

export const corpus = Step.make("corpus", {
  version: 3,
  params: {
    /**
     * A folder of `<source>.jsonl`, `.jsonl.gz`, `.parquet` or `.txt`, or one file whose records name their source. What `texts` has is
     * not looked for there.
     */
    from: Schema.optionalKey(Schema.String),
    train: ByLanguage,
    evaluate: ByLanguage.pipe(Schema.withConstructorDefault(Effect.succeed({}))),
    split: Split.pipe(Schema.withConstructorDefault(Effect.succeed(defaultSplit))),
    /** By source: licence (SPDX), attribution and terms of use where its records name none, as in a `.txt`. */
    rights: Schema.optionalKey(Schema.Record(Schema.String, SourceRights)),
  },
  /** Data sets that were brought here, each a source. */
  inputs: { texts: Step.optional([Dataset]) },
  output: (ref, { train, evaluate }) =>
    new Corpus(ref, {
      languages: Object.keys(train),
      trainSources: sourcesOf(train),
      evaluateSources: sourcesOf(evaluate),
    }),
  check: ({ from, train, evaluate, rights = {} }, { texts }) => {
    const brought = broughtIn(texts)
    const all = [...sourcesOf(train), ...sourcesOf(evaluate)]
    const twice = all.find((source, index) => all.indexOf(source) !== index)
    if (sourcesOf(train).length === 0)
      return { problem: "no source to train on", hint: 'name at least one: `train: { en: ["web_en"] }`' }
    const stranger = Object.keys(rights).find((source) => !all.includes(source))
    if (stranger !== undefined)
      return {
        problem: `\`rights\` speaks of \`${stranger}\`, which is no source here`,
        hint: suggestion(stranger, all),
      }
    if (twice !== undefined) return { problem: `source \`${twice}\` is named twice`, hint: "name each source once" }
    if (from === undefined && brought.length === 0)
      return {
        problem: "nothing says where its texts are",
        hint: "name a folder with `from`, or give what `dataset` returns as `texts`",
      }
    return problemOfTexts(brought, from, [train, evaluate])
  },
  // the text, and beside it in every record what it is and where it came from
  writes: (params: CorpusParams, { texts = 0 }) => 1.2 * (textBytesOf(params) + texts),
  texts: (params: CorpusParams, { texts }) => textsOf(params, texts),
  readsTexts: true,
  outside: ({ from, train, evaluate }: CorpusParams, { texts = [] }) =>
    Effect.gen(function* () {
      const { fingerprints } = yield* Effect.promise(() => import("../data/Corpus.ts"))
      const brought = new Set(texts.map(({ source }) => source))
      const outside = (byLanguage: typeof ByLanguage.Type) =>
        Object.fromEntries(
          Object.entries(byLanguage).map(([language, sources]) => [
            language,
            sources.filter((source) => !brought.has(source)),
          ]),
        )
      const prints = yield* fingerprints({
        from,
        fallback: embedded,
        train: outside(train),
        evaluate: outside(evaluate),
      })
      return from === undefined && Object.keys(prints).length === 0 ? undefined : { from: prints }
    }),
  run: (work) =>
    Effect.gen(function* () {
      const { buildCorpus } = yield* Effect.promise(() => import("../data/Corpus.ts"))
      const params = work.params as unknown as CorpusParams
      const { leftAlone } = yield* buildCorpus({
        ...params,
        texts: work.inputs["texts"]?.map(({ path }) => path),
        fallback: embedded,
        out: work.out,
        planned: (work.outside as { readonly from: Prints } | undefined)?.from,
        progress: (done, total) => work.progress({ done, total, unit: "documents read" }),
      })
      if (leftAlone.length > 0) work.note(`left alone: ${leftAlone.join(", ")}`)
      return undefined
    }),
})
