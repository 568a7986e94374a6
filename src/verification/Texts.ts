/**
 * The texts that a release was measured on, which it does not hold: from the local store, by the identity its tokens had, or from a
 * folder of sources (`--corpus`), by the ids of the documents that have a score.
 */
import { existsSync } from "node:fs"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { readTokens } from "../data/Pack.ts"
import * as Source from "../data/Source.ts"
import type { Tokenizer } from "../data/Tokenizer.ts"
import type { TokenSequence } from "../engine/Engine.ts"
import type { Part } from "../model/Corpus.ts"
import type { ReleaseFiles } from "../release/Folder.ts"
import type { Manifest } from "../store/Manifest.ts"
import { Store, type StoreFailed } from "../store/Store.ts"

/** The training tokens of a source are counted otherwise than the release says, though its bytes are those that it names. */
export class OtherTokens extends Schema.TaggedError<OtherTokens>()("OtherTokens", {
  source: Schema.String,
  tokens: Schema.Int,
  said: Schema.Int,
}) {
  get problem() {
    return `${this.source} has ${this.tokens} training tokens, tokens.json says ${this.said}`
  }
  override get message() {
    return `${this.problem}\n  hint: these texts and \`tokens.json\` are not of one corpus; ask whoever released it`
  }
}

/** Nothing that is measured on other texts speaks for or against a release. */
export class OtherTexts extends Schema.TaggedError<OtherTexts>()("OtherTexts", {
  file: Schema.String,
  sha256: Schema.String,
  said: Schema.String,
}) {
  override get message() {
    return `${this.file} is not the file that the release was made from: its sha256 is ${this.sha256}, not ${this.said}\n  hint: \`corpus_inventory.json\` names the files`
  }
}

export interface MeasuredDocument {
  readonly id: string
  readonly source: string
  readonly bytes: number
}

export interface Texts {
  /** Where they come from, in words. */
  readonly from: string
  /** Documents of a part; undefined where that part cannot be told from here. */
  readonly documents: (
    part: Part,
  ) => Effect.Effect<
    | { readonly documents: ReadonlyArray<MeasuredDocument>; readonly sequences: ReadonlyArray<TokenSequence> }
    | undefined,
    Error
  >
  /** Token ids of training rows, by number, each a context long. */
  readonly rows: (numbers: ReadonlyArray<number>) => Effect.Effect<ReadonlyArray<ArrayLike<number>>, Error>
}

interface Stored {
  readonly manifest: Manifest
  readonly path: string
}

/** A stored artifact by what it was made from, every byte of it hashed: the first that is whole, of those that will do. */
export const stored = Effect.fn("verification.stored")(function* (
  root: string,
  kind: string,
  identity: string | undefined,
  willDo: (path: string) => boolean = () => true,
): Effect.fn.Return<Stored | undefined, StoreFailed> {
  if (identity === undefined || !existsSync(root)) return undefined
  return yield* Effect.gen(function* () {
    const store = yield* Store
    for (const manifest of yield* store.list(kind)) {
      const path = store.pathOf(manifest.artifact)
      if (manifest.identity !== identity || !willDo(path)) continue
      const whole = yield* Effect.option(store.verify(manifest.artifact))
      if (whole._tag === "Some") return { manifest, path }
    }
    return undefined
  }).pipe(Effect.provide(Store.layer(root)))
})

export const textsFromStore = Effect.fn("verification.textsFromStore")(function* (root: string, files: ReleaseFiles) {
  const packed = yield* stored(root, "pack", files.release.keys["pack"])
  if (packed === undefined) return undefined
  const tokens = yield* readTokens(packed.path)
  const texts: Texts = {
    from: `the store, ${packed.manifest.artifact}`,
    documents: Effect.fnUntraced(function* (part: Part) {
      const documents = tokens.documents.filter((document) => document.part === part)
      const sequences = yield* Effect.forEach(documents, (document) =>
        Effect.map(tokens.tokensOf(document), (ids) => ({ id: document.id, ids })),
      )
      return { documents, sequences }
    }),
    rows: (numbers) =>
      Effect.forEach(numbers, (row) => Effect.map(tokens.row(row), (ids) => ids.subarray(0, tokens.index.context))),
  }
  return texts
})

/** Finds the files that a release was measured on, each with the bytes that its inventory names: before any of them is read. */
export const findTexts = Effect.fn("verification.findTexts")(function* (folder: string, files: ReleaseFiles) {
  const listing = yield* Source.list(folder)
  return yield* Effect.forEach(files.inventory.sources, ({ source, sha256: said }) =>
    Effect.gen(function* () {
      const located = yield* Source.find(folder, listing, source)
      const sha256 = yield* Source.sha256OfFile(located.path)
      if (sha256 !== said) return yield* new OtherTexts({ file: located.path, sha256, said })
      return { source, located }
    }),
  )
})

export const textsFromFolder = Effect.fn("verification.textsFromFolder")(function* (
  folder: string,
  files: ReleaseFiles,
  tokenizer: Tokenizer,
) {
  const parts = { validation: files.scores.documents, holdout: files.holdout.documents } as const
  const partOf = new Map(
    (["validation", "holdout"] as const).flatMap((part) => parts[part].map(({ id }) => [id, part] as const)),
  )
  const found = {
    validation: { documents: [] as Array<MeasuredDocument>, sequences: [] as Array<TokenSequence> },
    holdout: { documents: [] as Array<MeasuredDocument>, sequences: [] as Array<TokenSequence> },
  }
  const measured = new Set([...files.sourceLosses.sources, ...files.holdout.sources].map(({ source }) => source))
  for (const { source, located } of yield* findTexts(folder, files)) {
    if (!measured.has(source)) continue
    yield* Source.forEachBatch(located, undefined, (batch) => {
      for (const { id, text } of batch) {
        const part = partOf.get(id)
        if (part === undefined) continue
        found[part].documents.push({ id, source, bytes: Buffer.byteLength(text) })
        found[part].sequences.push({
          id,
          ids: [files.tokens.bosId, ...tokenizer.encode(text), files.tokens.eosId],
        })
      }
    })
  }
  const texts: Texts = {
    from: folder,
    documents: (part) => Effect.succeed(part === "train" ? undefined : found[part]),
    rows: (numbers) => rowsFromFolder(folder, files, tokenizer, numbers, (id) => !partOf.has(id)),
  }
  return texts
})

/**
 * Rows of the training tokens, which lie one document after another as they are read: of each source those of its documents that are
 * in no other part. All of a source is read, and only what is asked for is held.
 */
const rowsFromFolder = Effect.fnUntraced(function* (
  folder: string,
  files: ReleaseFiles,
  tokenizer: Tokenizer,
  numbers: ReadonlyArray<number>,
  isTrained: (id: string) => boolean,
) {
  const { context, bosId, eosId, sources } = files.tokens
  const rows = new Map(numbers.map((row) => [row, new Uint32Array(context)]))
  for (const { source, located } of yield* findTexts(folder, files)) {
    const own = sources.find((one) => one.source === source)
    const wanted = [...rows]
      .filter(([row]) => own !== undefined && row >= own.firstRow && row < own.firstRow + own.rows)
      .map(([row, ids]) => ({ ids, from: (row - own!.firstRow) * context }))
      .toSorted((a, b) => a.from - b.from)
    if (own === undefined || wanted.length === 0) continue
    let [at, next] = [0, 0]
    yield* Source.forEachBatch(located, undefined, (batch) => {
      for (const { id, text } of batch) {
        if (!isTrained(id)) continue
        const encoded = tokenizer.encode(text)
        const end = at + encoded.length + 2
        const idAt = (place: number) => (place === at ? bosId : place === end - 1 ? eosId : encoded[place - at - 1]!)
        while (next < wanted.length && wanted[next]!.from + context <= at) next++
        for (let each = next; each < wanted.length && wanted[each]!.from < end; each++) {
          const { ids, from } = wanted[each]!
          for (let place = Math.max(from, at); place < Math.min(from + context, end); place++)
            ids[place - from] = idAt(place)
        }
        at = end
      }
    })
    if (at !== own.rawTokens) return yield* new OtherTokens({ source, tokens: at, said: own.rawTokens })
  }
  return numbers.map((row) => rows.get(row)!)
})
