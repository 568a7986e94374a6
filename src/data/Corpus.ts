/**
 * Named sources become a corpus: documents with a part each, and an inventory (formats in `src/model/Corpus.ts`).
 *
 * The split is by document, inside each training source: documents are ranked by the sha256 of their text; the first
 * ceil(share·n) ranks are validation, the next ceil(share·n) holdout, the rest train. So a document keeps its place in the ranking
 * whatever stands around it, and equal texts, which share a rank, always share a part (a part may grow by them).
 * Sources for evaluation alone are validation as a whole.
 *
 * A source is read twice, once to rank and once to write: memory holds some 40 bytes a document, never its text.
 */
import { createReadStream } from "node:fs"
import { mkdir, open, readFile, writeFile } from "node:fs/promises"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { byCodeUnit } from "../model/ByCodeUnit.ts"
import {
  type Document,
  defaultSplit,
  Inventory,
  Part,
  type Role,
  type SourceInventory,
  type SourceOrigin,
  type SourceRights,
  type Split,
} from "../model/Corpus.ts"
import { DatasetIndex } from "../model/Dataset.ts"
import type { Progress } from "./BpeTrainer.ts"
import {
  batchesOf,
  find,
  fingerprint,
  forEachBatch,
  isSourceError,
  type LocatedSource,
  list,
  noLicense,
  type SourceDocument,
  type SourceError,
  SourceNameUnusable,
  SourceUnknown,
  SourceUnreadable,
  sha256OfFile,
} from "./Source.ts"
import { countCharacters, countWords } from "./Words.ts"
import { keepSmall } from "./YoungSpace.ts"

export class SourceNamedTwice extends Schema.TaggedError<SourceNamedTwice>()("SourceNamedTwice", {
  source: Schema.String,
}) {
  override get message() {
    return `source "${this.source}" is named twice\n  hint: a source has one language and is either trained on or evaluated on (its own validation part is evaluated anyway)`
  }
}

export class PartTooSmall extends Schema.TaggedError<PartTooSmall>()("PartTooSmall", {
  source: Schema.String,
  /** Those that are too small. */
  parts: Schema.Array(Schema.Struct({ part: Part, documents: Schema.Int })),
  minimum: Schema.Int,
  total: Schema.Int,
}) {
  override get message() {
    const { parts, minimum, total } = this
    const found = parts.map(({ part, documents }) => `${documents} for ${part}`).join(" and ")
    const left = `source "${this.source}" has ${total} documents, of which ${found}`
    if (parts[0]?.part === "train") return `${left}\n  hint: lower the split's shares or add documents`
    // documents fall by hash: a share that is enough on average would often be too small
    const share = Math.ceil((125 * minimum) / total) / 100
    const shares = parts.map(({ part }) => `${part}: ${share}`).join(", ")
    const raised = share > 0.3 ? "" : `\`split: { ${shares} }\` is about enough; or `
    const least = Math.min(...parts.map(({ documents }) => documents))
    const lowered = least === 0 ? "lower `minimumDocuments`" : `write \`minimumDocuments: ${least}\``
    return `${left}; ${minimum} are needed\n  hint: ${raised}${lowered} in \`split\` and measure less surely, or add documents`
  }
}

export class SourceEmpty extends Schema.TaggedError<SourceEmpty>()("SourceEmpty", {
  source: Schema.String,
  file: Schema.String,
}) {
  override get message() {
    return `source "${this.source}": ${this.file} holds no documents\n  hint: take the source out or fill the file`
  }
}

export class CorpusUnreadable extends Schema.TaggedError<CorpusUnreadable>()("CorpusUnreadable", {
  path: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `corpus ${this.path}: ${this.problem}\n  hint: run \`exp check --repair\``
  }
}

export class CorpusUnwritable extends Schema.TaggedError<CorpusUnwritable>()("CorpusUnwritable", {
  path: Schema.String,
  problem: Schema.String,
}) {
  override get message() {
    return `${this.path} cannot be written: ${this.problem}\n  hint: see that the disk has room and the folder may be written`
  }
}

export class SourceTooVaried extends Schema.TaggedError<SourceTooVaried>()("SourceTooVaried", {
  source: Schema.String,
  field: Schema.Literals(["license", "attribution", "terms"]),
  different: Schema.Int,
}) {
  override get message() {
    return `source "${this.source}" has more than ${this.different} different values of \`${this.field}\`\n  hint: a release lists each of them; say what differs from document to document in another field`
  }
}

export const problemOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))

/** By source, the file it is read from and that file's sha256: what of a corpus' outside bears identity. */
export type Prints = Readonly<Record<string, { readonly file: string; readonly sha256: string }>>

export interface CorpusRequest {
  /** Folder of `<source>.<ext>`, or one file, for what is not in `texts`. */
  readonly from?: string | undefined
  /** Folders of data sets that were brought here (`src/model/Dataset.ts`). */
  readonly texts?: ReadonlyArray<string> | undefined
  /** Where a source in the language `code` is looked for that `from` does not have: people bring texts, hardly ever code. */
  readonly fallback?: string | undefined
  /** Sources by language. */
  readonly train: { readonly [language: string]: ReadonlyArray<string> }
  readonly evaluate?: { readonly [language: string]: ReadonlyArray<string> } | undefined
  readonly split?: Split | undefined
  /** By source: licence, attribution and terms where its records name none. */
  readonly rights?: { readonly [source: string]: SourceRights } | undefined
  /** What its sources were when it was planned with: another file is not read under their name. */
  readonly planned?: Prints | undefined
  /** An empty folder. */
  readonly out: string
  /** Documents read and, of them all, how many there will be (twice each: ranking, writing). */
  readonly progress?: Progress | undefined
}

/** What code is declared as where other sources have a language. */
const CODE = "code"

interface Wanted {
  readonly source: string
  readonly language: string
  readonly role: Role
}

/** Languages sorted, sources as listed: the order may not hang on the spelling of an object. */
const wantedOf = ({ train, evaluate }: Pick<CorpusRequest, "train" | "evaluate">): ReadonlyArray<Wanted> =>
  (["train", "evaluate"] as const).flatMap((role) =>
    Object.entries((role === "train" ? train : evaluate) ?? {})
      .sort(([a], [b]) => byCodeUnit(a, b))
      .flatMap(([language, sources]) => sources.map((source) => ({ source, language, role }))),
  )

/** The part of a document by its fingerprint, given the fingerprints of all documents of its source. */
export const split = (
  fingerprints: BigUint64Array,
  { validation, holdout }: Pick<Split, "validation" | "holdout">,
): ((fingerprint: bigint) => Part) => {
  const ranked = fingerprints.toSorted()
  // 0.07 · 100 is 7.000000000000001: not 8 documents
  const share = (part: number) => Math.ceil(part * ranked.length - 1e-9)
  /** The rank from which on another part begins: equal texts after the last that fits are still in it. */
  const end = (from: number, size: number): number => {
    let to = Math.min(from + size, ranked.length)
    while (to > from && to < ranked.length && ranked[to] === ranked[to - 1]) to++
    return to
  }
  const validated = end(0, share(validation))
  const held = end(validated, share(holdout))
  const lastOf = (to: number) => (to === 0 ? -1n : ranked[to - 1]!)
  const [lastValidated, lastHeld] = [lastOf(validated), lastOf(held)]
  return (print) => (print <= lastValidated ? "validation" : print <= lastHeld ? "holdout" : "train")
}

/** What differs is held in memory and listed in every release. */
const MAX_LICENSES = 10_000
const MAX_ATTRIBUTIONS = 100_000

const none = () => ({ documents: 0, bytes: 0, characters: 0, words: 0 })

type Places = Pick<CorpusRequest, "from" | "texts" | "fallback" | "train" | "evaluate">

const nowhere = { sources: new Map<string, ReadonlyArray<LocatedSource>>(), others: [], shared: false }

/** Data sets that were brought here, by the source each of them is. */
const broughtIn = Effect.fnUntraced(function* (folders: ReadonlyArray<string>) {
  const brought = new Map<string, { readonly index: DatasetIndex; readonly file: LocatedSource }>()
  for (const folder of folders) {
    const index = yield* readDatasetIndex(folder)
    const file = `${index.source}.jsonl`
    if (brought.has(index.source)) return yield* new SourceNamedTwice({ source: index.source })
    brought.set(index.source, {
      index,
      file: { source: index.source, path: join(folder, file), file, format: "jsonl", shared: false },
    })
  }
  return brought
})

const located = Effect.fnUntraced(function* (request: Places) {
  const { from, texts = [], fallback } = request
  const wanted = wantedOf(request)
  for (const [index, { source }] of wanted.entries()) {
    if (wanted.findIndex((other) => other.source === source) !== index) return yield* new SourceNamedTwice({ source })
    // a name becomes a file name: it may not climb out of the folder
    if (/[/\\\0]/.test(source) || source.startsWith("."))
      return yield* new SourceNameUnusable({ source, file: "experiment" })
  }
  const brought = yield* broughtIn(texts)
  const listing = from === undefined ? nowhere : yield* list(from)
  const place = from ?? "texts"
  const fallbackListing = fallback === undefined ? undefined : yield* Effect.option(list(fallback))
  const files: Array<Wanted & { readonly file: LocatedSource; readonly index?: DatasetIndex }> = []
  for (const each of wanted) {
    const there = brought.get(each.source)
    if (there !== undefined) {
      files.push({ ...each, ...there })
      continue
    }
    const file = yield* find(place, listing, each.source).pipe(
      Effect.catchTag("SourceUnknown", (unknown) =>
        each.language !== CODE ||
        fallback === undefined ||
        fallbackListing === undefined ||
        fallbackListing._tag === "None"
          ? Effect.fail(unknown)
          : find(fallback, fallbackListing.value, each.source).pipe(
              // the folder the user named is the one to talk about
              Effect.catchTag("SourceUnknown", (elsewhere) =>
                Effect.fail(
                  new SourceUnknown({
                    source: unknown.source,
                    path: unknown.path,
                    available: [...new Set([...unknown.available, ...elsewhere.available])].sort(byCodeUnit),
                  }),
                ),
              ),
            ),
      ),
    )
    files.push({ ...each, file })
  }
  const unused = [...brought.keys()].filter((source) => !files.some((each) => each.source === source))
  return { listing, files, unused }
})

export const fingerprints = Effect.fn("data.fingerprints")(function* (request: Places) {
  const { files } = yield* located(request)
  const sums = new Map<string, string>()
  const prints: Array<readonly [string, Prints[string]]> = []
  for (const { source, file } of files) {
    const sha256 = sums.get(file.path) ?? (yield* sha256OfFile(file.path))
    sums.set(file.path, sha256)
    prints.push([source, { file: file.file, sha256 }])
  }
  return Object.fromEntries(prints) as Prints
})

const originOf = ({ repository, commit, files }: DatasetIndex): SourceOrigin => ({
  repository,
  commit,
  files: files.map(({ path, bytes, sha256 }) => ({ path, bytes, sha256 })),
})

export const buildCorpus = Effect.fn("data.buildCorpus")(function* (request: CorpusRequest) {
  const { out, progress, split: shares = defaultSplit, rights = {}, planned } = request
  const { listing, files, unused } = yield* located(request)
  const writing = (path: string) => (cause: unknown) => new CorpusUnwritable({ path, problem: problemOf(cause) })
  yield* Effect.tryPromise({ try: () => mkdir(join(out, "documents"), { recursive: true }), catch: writing(out) })

  const sources: Array<SourceInventory> = []
  let read = 0
  let expected = 0
  for (const { source, language, role, file, index: brought } of files) {
    let held = new BigUint64Array(1 << 10)
    let total = 0
    yield* forEachBatch(file, language, (documents) => {
      if (total + documents.length > held.length) {
        const longer = new BigUint64Array(Math.max(total + documents.length, held.length * 2))
        longer.set(held)
        held = longer
      }
      for (const { text } of documents) held[total++] = fingerprint(text)
      read += documents.length
      progress?.(read, expected + total * 2)
    })
    expected += total * 2
    if (total === 0) return yield* new SourceEmpty({ source, file: file.file })
    const fingerprints = held.subarray(0, total)
    // after the first reading: a file that is refused need not be read to its end
    const sha256 = yield* sha256OfFile(file.path, true)
    if (sha256 !== (planned?.[source]?.sha256 ?? sha256))
      return yield* new SourceUnreadable({ file: file.file, problem: "it was changed since it was planned with" })
    const partOf = role === "evaluate" ? (): Part => "validation" : split(fingerprints, shares)
    if (role === "train") {
      const sizes = { train: 0, validation: 0, holdout: 0 }
      for (const print of fingerprints) sizes[partOf(print)]++
      const minimum = shares.minimumDocuments
      const small: Array<Part> = (["validation", "holdout"] as const).filter(
        (part) => shares[part] > 0 && sizes[part] < minimum,
      )
      if (small.length === 0 && sizes.train === 0) small.push("train")
      if (small.length > 0) {
        const parts = small.map((part) => ({ part, documents: sizes[part] }))
        return yield* new PartTooSmall({ source, parts, minimum, total })
      }
    }

    const licenses = new Map<string, number>()
    const attributions = new Set<string>()
    const terms = new Set<string>()
    const said: SourceRights = { ...brought?.rights, ...(Object.hasOwn(rights, source) && rights[source]) }
    const counts = { train: none(), validation: none(), holdout: none() }
    const path = join(out, "documents", `${source}.jsonl`)
    let index = 0
    let changed = false
    const collect = (field: "attribution" | "terms", into: Set<string>, value: string | undefined) => {
      if (value !== undefined) into.add(value)
      if (into.size > MAX_ATTRIBUTIONS) throw new SourceTooVaried({ source, field, different: MAX_ATTRIBUTIONS })
    }
    const lineOf = (given: SourceDocument): string => {
      const { id, text } = given
      const license = given.license === noLicense ? (said.license ?? noLicense) : given.license
      const print = fingerprints[index++]!
      changed ||= print !== fingerprint(text)
      const part = partOf(print)
      const count = counts[part]
      count.documents++
      count.bytes += Buffer.byteLength(text)
      count.characters += countCharacters(text)
      count.words += countWords(text)
      licenses.set(license, (licenses.get(license) ?? 0) + 1)
      if (licenses.size > MAX_LICENSES) throw new SourceTooVaried({ source, field: "license", different: MAX_LICENSES })
      collect("attribution", attributions, given.attribution ?? said.attribution)
      collect("terms", terms, given.terms ?? said.terms)
      const document: Document = { id, text, source, language, license, part }
      return `${JSON.stringify(document)}\n`
    }
    yield* Effect.tryPromise({
      try: async (signal) => {
        const handle = await open(path, "w")
        try {
          for await (const documents of batchesOf(file, language)) {
            if (signal.aborted) return
            if (index + documents.length > total) break
            await handle.writeFile(documents.map(lineOf).join(""))
            read += documents.length
            progress?.(read, expected)
          }
        } finally {
          await handle.close()
        }
      },
      catch: (cause) => (isSourceError(cause) || cause instanceof SourceTooVaried ? cause : writing(path)(cause)),
    })
    if (changed || index !== total || sha256 !== (yield* sha256OfFile(file.path)))
      return yield* new SourceUnreadable({ file: file.file, problem: "it was changed while it was read" })
    sources.push({
      source,
      language,
      role,
      file: file.file,
      sha256,
      ...(brought !== undefined && { dataset: originOf(brought) }),
      licenses: Object.fromEntries([...licenses].sort(([a], [b]) => byCodeUnit(a, b))),
      attributions: [...attributions].sort(byCodeUnit),
      terms: [...terms].sort(byCodeUnit),
      parts: counts,
    })
  }

  const named = new Set(files.map(({ file }) => `${file.path}\n${file.source}`))
  const leftAlone = [
    ...unused,
    ...listing.others,
    ...[...listing.sources.values()]
      .flat()
      .filter((file) => !named.has(`${file.path}\n${file.source}`))
      .map((file) => (file.shared ? `${file.file}#${file.source}` : file.file)),
  ].sort(byCodeUnit)
  const inventory: Inventory = { sources }
  yield* Effect.tryPromise({
    try: () => writeFile(join(out, "inventory.json"), `${JSON.stringify(inventory, null, 2)}\n`),
    catch: writing(out),
  })
  // What lies beside the sources is worth saying, and no part of the corpus: it must change no byte of it.
  return { ...inventory, leftAlone }
}, keepSmall)

const reading = <A>(file: string, schema: Schema.Codec<A, unknown>) =>
  Effect.fnUntraced(function* (folder: string) {
    const unreadable = (cause: unknown) => new CorpusUnreadable({ path: folder, problem: problemOf(cause) })
    const text = yield* Effect.tryPromise({ try: () => readFile(join(folder, file), "utf8"), catch: unreadable })
    return yield* Schema.decodeUnknownEffect(Schema.fromJsonString(schema))(text).pipe(Effect.mapError(unreadable))
  })

export const readInventory = reading("inventory.json", Inventory)
const readDatasetIndex = reading("dataset.json", DatasetIndex)

const isDocument = (value: unknown): value is Document => {
  if (typeof value !== "object" || value === null) return false
  const { id, text, source, language, license, part } = value as Record<string, unknown>
  const texts = [id, text, source, language, license]
  // by hand: a Schema would cost more than all the rest of reading
  return (
    texts.every((each) => typeof each === "string") && (part === "train" || part === "validation" || part === "holdout")
  )
}

const documentOf = (line: string): Document => {
  const value: unknown = JSON.parse(line)
  if (isDocument(value)) return value
  throw new Error(`a line is no document: ${line.slice(0, 100)}`)
}

/** The documents of one source of a corpus artifact, in batches. Throws plain errors: the callers here make `CorpusUnreadable` of them. */
export async function* corpusBatches(folder: string, source: string): AsyncGenerator<ReadonlyArray<Document>> {
  let held: Array<Buffer> = []
  // a line is cut at its byte 0x0A, so no character is ever cut in two
  for await (const chunk of createReadStream(join(folder, "documents", `${source}.jsonl`), {
    // what one chunk holds lives until the next: more of it makes the garbage collector's young space grow for nothing
    highWaterMark: 1 << 16,
  })) {
    const bytes = chunk as Buffer
    const end = bytes.lastIndexOf(10)
    if (end === -1) {
      held.push(bytes)
      continue
    }
    const lines = Buffer.concat([...held, bytes.subarray(0, end)]).toString("utf8")
    held = [bytes.subarray(end + 1)]
    yield lines.split("\n").map(documentOf)
  }
  if (held.some((bytes) => bytes.length > 0)) throw new Error(`documents/${source}.jsonl ends in the middle of a line`)
}

export const forEachDocument = (
  folder: string,
  source: string,
  f: (document: Document) => void,
): Effect.Effect<void, CorpusUnreadable> =>
  Effect.tryPromise({
    try: async (signal) => {
      for await (const documents of corpusBatches(folder, source)) {
        if (signal.aborted) return
        for (const document of documents) f(document)
      }
    },
    catch: (cause) => new CorpusUnreadable({ path: folder, problem: problemOf(cause) }),
  })

export type CorpusError =
  | SourceError
  | SourceNamedTwice
  | PartTooSmall
  | SourceTooVaried
  | SourceEmpty
  | CorpusUnwritable
