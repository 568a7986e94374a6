/**
 * The documents of a data set on disk: what `dataset` writes and `corpus` reads.
 *
 * | file             | what                                                                                                  |
 * |------------------|-------------------------------------------------------------------------------------------------------|
 * | `<source>.jsonl` | a document a line, in the order of the files they came in: `id`, where the data set has one, and `text` |
 * | `dataset.json`   | `DatasetIndex`: which bytes of which repository they are, and what may be done with them                |
 *
 * What is the same for all documents (language, licence, attribution, terms) is said once, in the index.
 */
import * as Schema from "effect/Schema"
import { SourceRights } from "./Corpus.ts"

const Natural = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))
const Sha256 = Schema.String.check(Schema.isPattern(/^[0-9a-f]{64}$/))

/** How texts are marked up, where they are: `wiki40b` has titles and paragraphs after lines such as `_START_ARTICLE_`. */
export const Markup = Schema.Literals(["wiki40b"])
export type Markup = typeof Markup.Type

export const DatasetFile = Schema.Struct({
  /** In the repository. */
  path: Schema.String,
  bytes: Natural,
  sha256: Sha256,
  /** Taken, and bytes of their texts in UTF-8. */
  documents: Natural,
  textBytes: Natural,
  /** Rows without a text, or with a blank one. */
  skipped: Natural,
})
export type DatasetFile = typeof DatasetFile.Type

export const DatasetIndex = Schema.Struct({
  source: Schema.String,
  /** As the experiment says; a corpus that names the source under another language is refused. */
  language: Schema.optionalKey(Schema.String),
  /** `org/name`. */
  repository: Schema.String,
  commit: Schema.String.check(Schema.isPattern(/^[0-9a-f]{40}$/)),
  /** Columns, or fields, that texts and ids were taken from. */
  text: Schema.String,
  id: Schema.optionalKey(Schema.String),
  markup: Schema.optionalKey(Markup),
  rights: SourceRights,
  files: Schema.Array(DatasetFile),
  documents: Natural,
  textBytes: Natural,
  /** Whether the bound was reached: there is more where this came from. */
  bounded: Schema.Boolean,
})
export type DatasetIndex = typeof DatasetIndex.Type
