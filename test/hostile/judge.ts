/**
 * What hostile input may do: be accepted with sane output, or be refused by a typed error that names the file and says what to do
 * next. It may not crash, hang, make a defect, or leave behind what looks whole. No test library here: it also runs in a child.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { basename, join } from "node:path"
import { Cause, Effect, Exit, Schema } from "effect"
import { buildCorpus, forEachDocument, readInventory } from "../../src/data/Corpus.ts"
import { packTokens, readTokens } from "../../src/data/Pack.ts"
import { loadTokenizer } from "../../src/data/Tokenizer.ts"
import { read as readSafetensors } from "../../src/engine/Safetensors.ts"
import { Document } from "../../src/model/Corpus.ts"

/** `accepted`, or the tag of the error. */
export type Outcome = string

export const SECONDS = 5

const insist: (fact: boolean, otherwise: string) => asserts fact = (fact, otherwise) => {
  if (!fact) throw new Error(otherwise)
}

const probe = "The river — è così, 漢字 😀\n\tit's <|eos|> 42."

const decodeDocument = Schema.decodeUnknownSync(Schema.fromJsonString(Document))

/** Reads what lies at a path as the product does; dies when the result is not sane. */
export type Reader = (path: string, scratch: string) => Effect.Effect<void, unknown>

/** A source file through the whole of `buildCorpus`; `from` is the file's folder, or the file itself. */
const corpusOf =
  (whole: boolean): Reader =>
  (path, scratch) =>
    Effect.gen(function* () {
      const out = join(scratch, "out")
      mkdirSync(out, { recursive: true })
      const source = basename(path).replace(/\..*/, "")
      const split = { validation: 0, holdout: 0, minimumDocuments: 0 }
      const from = whole ? path : join(path, "..")
      const exit = yield* Effect.exit(buildCorpus({ from, train: { en: [source] }, split, out }))
      if (Exit.isFailure(exit)) {
        insist(!existsSync(join(out, "inventory.json")), "a refused source left an inventory")
        return yield* exit
      }
      const inventory = yield* readInventory(out)
      const lines = readFileSync(join(out, "documents", `${source}.jsonl`), "utf8")
        .trimEnd()
        .split("\n")
      insist(lines.length === inventory.sources[0]!.parts.train.documents, "the inventory counts other documents")
      const ids = new Set<string>()
      for (const line of lines) {
        const document = decodeDocument(line)
        insist(document.text.trim() !== "" && document.text.isWellFormed(), "a document without text")
        insist(document.id.startsWith(`${source}:`), `the id ${document.id} does not say its source`)
        ids.add(document.id)
      }
      insist(ids.size === lines.length, "two documents have one id")
    })

const tokenizer: Reader = (folder) =>
  Effect.gen(function* () {
    const tokenizer = yield* loadTokenizer(folder)
    const { vocabularySize, bosId, eosId, padId } = tokenizer
    insist(vocabularySize > 0 && vocabularySize <= 2 ** 21, `a vocabulary of ${vocabularySize}`)
    for (const id of [bosId, eosId, padId])
      insist(id === null || (Number.isInteger(id) && id >= 0 && id < vocabularySize), `special id ${id}`)
    const ids = tokenizer.encode(probe)
    insist(
      ids.every((id) => id < vocabularySize),
      "an id out of range",
    )
    tokenizer.decode(ids)
  })

const safetensors: Reader = (path) =>
  Effect.gen(function* () {
    for (const [name, tensor] of yield* readSafetensors(path)) {
      insist(tensor.name === name, "a tensor under another name")
      insist(tensor.data.length === tensor.shape.reduce((a, b) => a * b, 1), "a tensor of another size")
    }
  })

const corpusArtifact: Reader = (folder) =>
  Effect.gen(function* () {
    const inventory = yield* readInventory(folder)
    for (const { source } of inventory.sources) yield* forEachDocument(folder, source, () => {})
  })

const packed: Reader = (folder, scratch) =>
  Effect.gen(function* () {
    const out = join(scratch, "out")
    mkdirSync(out, { recursive: true })
    const [corpusFolder, tokenizerFolder] = [join(folder, "corpus"), join(folder, "tokenizer")]
    const exit = yield* Effect.exit(
      packTokens({ corpusFolder, tokenizerFolder, context: 8, mix: "source_balanced", out }),
    )
    if (Exit.isSuccess(exit)) return
    insist(!existsSync(join(out, "tokens.json")), "a refused packing left an index")
    return yield* exit
  })

const tokens: Reader = (folder) =>
  Effect.scoped(
    Effect.gen(function* () {
      const { documents, index, row, tokensOf } = yield* readTokens(folder)
      for (const document of documents.slice(0, 20)) {
        const ids = yield* tokensOf(document)
        insist(ids.length === document.length, "a document of another length")
      }
      const rows = index.sources.reduce((sum, source) => sum + source.rows, 0)
      if (rows > 0) insist((yield* row(0)).length === index.context + 1, "a row of another length")
    }),
  )

export const readers = {
  source: corpusOf(false),
  file: corpusOf(true),
  tokenizer,
  safetensors,
  corpus: corpusArtifact,
  packed,
  tokens,
} satisfies Record<string, Reader>
export type ReaderName = keyof typeof readers

/** Files by path below a folder; a function makes one that is too large to be held. */
export interface Files {
  readonly [path: string]: string | Uint8Array | ((path: string) => void)
}

/** Puts files into a folder of their own, reads one of them (or the folder) and judges what happened. Throws when it may not happen. */
export const judge = async (reader: ReaderName, files: Files, target: string): Promise<Outcome> => {
  const root = mkdtempSync(join(tmpdir(), "exp-hostile-"))
  try {
    const given = join(root, "given")
    for (const [name, content] of Object.entries(files)) {
      const path = join(given, name)
      mkdirSync(join(path, ".."), { recursive: true })
      if (typeof content === "function") content(path)
      else writeFileSync(path, content)
    }
    const start = performance.now()
    const exit = await Effect.runPromiseExit(readers[reader](join(given, target), root))
    const seconds = (performance.now() - start) / 1000
    insist(seconds < SECONDS, `it took ${seconds.toFixed(1)} s`)
    if (Exit.isSuccess(exit)) return "accepted"
    const [reason, ...more] = exit.cause.reasons
    insist(
      reason !== undefined && more.length === 0 && reason._tag === "Fail",
      `no typed error: ${Cause.pretty(exit.cause).slice(0, 2000)}`,
    )
    const error = reason.error
    insist(error instanceof Error && "_tag" in error, `no tagged error: ${String(error)}`)
    const tag = String(error._tag)
    insist(/\n {2}hint: \S/.test(error.message), `${tag} has no hint: ${error.message}`)
    insist(error.message.length < 2000, `${tag} has a message of ${error.message.length} characters`)
    const named = target === "" ? given : basename(target)
    insist(
      error.message.includes(named) || error.message.includes(`"${named.replace(/\..*/, "")}"`),
      `${tag} does not name ${named}: ${error.message}`,
    )
    return tag
  } finally {
    rmSync(root, { recursive: true, force: true })
  }
}

export const tally = (outcomes: ReadonlyArray<Outcome>): string => {
  const counts = new Map<Outcome, number>()
  for (const outcome of outcomes) counts.set(outcome, (counts.get(outcome) ?? 0) + 1)
  return [...counts]
    .sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1))
    .map(([outcome, count]) => `${count} ${outcome}`)
    .join(", ")
}
