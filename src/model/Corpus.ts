/**
 * Texts and tokens on disk: the formats that `corpus` and `pack` write and every later step reads.
 *
 * A **corpus** artifact:
 *
 * | file                       | what                                                                                        |
 * |----------------------------|---------------------------------------------------------------------------------------------|
 * | `documents/<source>.jsonl` | one `Document` a line, in the order of the source file                                      |
 * | `inventory.json`           | `Inventory`: documents, bytes, characters, words by source and part; licences        |
 *
 * An id is unique in its corpus: `<source>:` and what the source's record says (else the record's number); one that says
 * `<source>:…` itself stays as it is. No source has a colon in its name.
 *
 * A **tokens** artifact:
 *
 * | file                   | what                                                                                             |
 * |------------------------|--------------------------------------------------------------------------------------------------|
 * | `<part>-NNNNN.bin`     | token ids, uint16 (uint32 above 65,536 entries), little endian; each document is BOS, text, EOS   |
 * | `documents.parquet`    | one row a document: id, source, language, license, part, shard, offset, length (tokens), bytes    |
 * | `tokens.json`          | `TokensIndex`: context, vocabulary, special ids, and for each source where its training rows lie  |
 * | `inventory.json`       | raw, packed and dropped tokens by source and language                                            |
 *
 * Training row r of a source is tokens[rT … rT+T]: T inputs, targets shifted by one, the last token shared with the next row.
 * The training tokens of one source are contiguous; its remainder is dropped and counted.
 */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

const Natural = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

/** A source becomes a file name, so it must not climb out of its folder or hide. */
export const SourceName = Schema.String.check(
  Schema.isMaxLength(60),
  Schema.isPattern(/^[\p{L}\p{N}_][\p{L}\p{N}_.-]*$/u, { message: "expected letters, digits, `_`, `-` and `.`" }),
)

/** `train`: chosen from, learned from. `validation`: every choice is made on it. `holdout`: read once, for the winner alone. */
export const Part = Schema.Literals(["train", "validation", "holdout"])
export type Part = typeof Part.Type

export const Role = Schema.Literals(["train", "evaluate"])
export type Role = typeof Role.Type

export const Document = Schema.Struct({
  id: Schema.String,
  text: Schema.String,
  source: Schema.String,
  language: Schema.String,
  license: Schema.String,
  part: Part,
})
export type Document = typeof Document.Type

const ShareOfDocuments = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 0.9 }))

/** Whatever of it an experiment leaves out is as in `defaultSplit`. */
export const Split = Schema.Struct({
  /** Shares of a source's documents, by document hash. */
  validation: ShareOfDocuments.pipe(Schema.withConstructorDefault(Effect.succeed(0.05))),
  holdout: ShareOfDocuments.pipe(Schema.withConstructorDefault(Effect.succeed(0.05))),
  /** Fewer validation or holdout documents than this in any training source is an error. */
  minimumDocuments: Natural.pipe(Schema.withConstructorDefault(Effect.succeed(20))),
})
export type Split = typeof Split.Type
export const defaultSplit: Split = Split.make({})

const Counts = Schema.Struct({ documents: Natural, bytes: Natural, characters: Natural, words: Natural })

/** Where the documents of a source were brought from: which bytes of which data set of the hub. */
export const SourceOrigin = Schema.Struct({
  repository: Schema.String,
  commit: Schema.String,
  files: Schema.Array(Schema.Struct({ path: Schema.String, bytes: Natural, sha256: Schema.String })),
})
export type SourceOrigin = typeof SourceOrigin.Type

export const SourceInventory = Schema.Struct({
  source: Schema.String,
  language: Schema.String,
  role: Role,
  /** sha256 of the file the documents were read from. */
  file: Schema.String,
  sha256: Schema.String,
  dataset: Schema.optionalKey(SourceOrigin),
  licenses: Schema.Record(Schema.String, Natural),
  /** Attribution sentences found in the records (`attribution` or `origin` field), each once, sorted. */
  attributions: Schema.Array(Schema.String),
  /** Terms of use beside the licence (`terms` field), each once, sorted. */
  terms: Schema.Array(Schema.String),
  parts: Schema.Record(Part, Counts),
})
export type SourceInventory = typeof SourceInventory.Type

/** What an experiment says of a source where its records say nothing. */
export const SourceRights = Schema.Struct({
  /** SPDX expression. */
  license: Schema.optionalKey(Schema.String),
  attribution: Schema.optionalKey(Schema.String),
  /** Terms of use: a sentence or an address. */
  terms: Schema.optionalKey(Schema.String),
})
export type SourceRights = typeof SourceRights.Type

export const Inventory = Schema.Struct({
  sources: Schema.Array(SourceInventory),
})
export type Inventory = typeof Inventory.Type

/** `source_balanced`: each training source equally; `proportional`: as many rows as each has; or weights of one's own, by source. */
export const Mix = Schema.Union([
  Schema.Literals(["source_balanced", "proportional"]),
  Schema.Record(Schema.String, Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0))),
])
export type Mix = typeof Mix.Type

export const SourceRows = Schema.Struct({
  source: Schema.String,
  language: Schema.String,
  role: Role,
  /** Position of the source's first training token in the concatenated `train` shards. */
  startToken: Natural,
  rawTokens: Natural,
  packedTokens: Natural,
  droppedTokens: Natural,
  /** Global number of the source's first training row, and how many there are. */
  firstRow: Natural,
  rows: Natural,
  /** Share of the training mix; all weights sum to 1; 0 for evaluation-only sources. */
  weight: Schema.Finite,
})
export type SourceRows = typeof SourceRows.Type

export const Shard = Schema.Struct({ file: Schema.String, part: Part, tokens: Natural })

export const TokensIndex = Schema.Struct({
  context: Schema.Int.check(Schema.isGreaterThan(0)),
  vocabulary: Schema.Int.check(Schema.isGreaterThan(0)),
  dtype: Schema.Literals(["uint16", "uint32"]),
  bosId: Natural,
  eosId: Natural,
  padId: Natural,
  mix: Mix,
  languages: Schema.Array(Schema.String),
  sources: Schema.Array(SourceRows),
  shards: Schema.Array(Shard),
})
export type TokensIndex = typeof TokensIndex.Type

/** A row of `documents.parquet`. `offset` and `length` count tokens in `shard`, BOS and EOS included; `bytes` is UTF-8 of the text. */
export interface TokenDocument {
  readonly id: string
  readonly source: string
  readonly language: string
  readonly license: string
  readonly part: Part
  readonly shard: string
  readonly offset: number
  readonly length: number
  readonly bytes: number
}
