/**
 * What a release may consist of. Sums name whatever lies in a folder, and `transformers` runs or unpickles some names without being
 * asked: so the names are a closed set, and the settings that `transformers` reads are made again from the facts and compared whole.
 */
import { readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { specialTokensMap, tokenizerJson, tokenizerConfig as trainedTokenizerConfig } from "../data/Tokenizer.ts"
import { canonicalJson } from "../model/Digest.ts"
import {
  generationConfig,
  modelConfig,
  plain,
  recommendedDecoding,
  recommendedJson,
  tokenizerConfig,
} from "../release/Export.ts"
import { fileNames, isPlainName, type ReleaseFiles, readJson, torchName, weightsName } from "../release/Folder.ts"
import type { Json } from "../release/Json.ts"
import { decodeStatement, STATEMENT, statementOf } from "../release/Provenance.ts"
import { ENVELOPE } from "../release/Signature.ts"
import { BUNDLE } from "../release/Sigstore.ts"
import { SUMS, sha256OfFile } from "../release/Sums.ts"
import { judged } from "./Fault.ts"
import { type Finding, within } from "./Finding.ts"
import type { Release } from "./Release.ts"

const { ok, wrong, skipped } = within("consistency")

/** Beside those that `fileNames` has. */
const FIXED = [
  "model.safetensors",
  "tokenizer.json",
  "special_tokens_map.json",
  "behaviour_generations.jsonl",
  "tuning_leaderboard.csv",
  "holdout_leaderboard.csv",
  "experiment.ts",
  "plan.txt",
  "README.md",
  "benchmark_report.md",
  "decoding_report.md",
  "release_note.md",
  "training_content_summary.md",
  "LICENSE",
  "NOTICE",
  "CITATION.cff",
]
/** Made last, over the others. */
const OVER = [STATEMENT, SUMS, ENVELOPE, BUNDLE]

const isPlainGguf = (file: string): boolean => isPlainName(file) && file.endsWith(".gguf")

/** Names of all files that this release may have. */
export const namesOf = ({ release, quantisation }: ReleaseFiles): ReadonlySet<string> => {
  const { files = [], importance } = quantisation ?? {}
  const quantised = [...files.map(({ file }) => file), ...(importance === undefined ? [] : [importance.file])]
  const { quantisation: index, ...names } = fileNames(release)
  return new Set([
    ...Object.values(names),
    weightsName(release),
    ...(release.torch_checkpoint === true ? [torchName(release)] : []),
    ...FIXED,
    ...OVER,
    ...(quantisation === undefined ? [] : [index, "Modelfile", ...quantised.filter(isPlainGguf)]),
  ])
}

const AnyObject = Schema.Record(Schema.String, Schema.Json)

interface Special {
  readonly bos: string
  readonly eos: string
  readonly pad: string
}

const trained: Special = {
  bos: specialTokensMap.bos_token!,
  eos: specialTokensMap.eos_token!,
  pad: specialTokensMap.pad_token!,
}

/** Special tokens of a tokenizer that came with published weights, by their ids. */
const specialIn = (view: string, { bosId, eosId, padId }: ReleaseFiles["tokens"]) =>
  Effect.map(readJson(AddedTokens, join(view, "tokenizer.json")), ({ added_tokens: added }): Special => {
    const contentOf = (id: number): string => added.find((token) => token.id === id)?.content ?? ""
    return { bos: contentOf(bosId), eos: contentOf(eosId), pad: contentOf(padId) }
  })

const TrainedTokenizer = Schema.Struct({
  model: Schema.Struct({ vocab: Schema.Record(Schema.String, Schema.Int), merges: Schema.Array(Schema.String) }),
})

/**
 * A tokenizer of ours is its vocabulary and its merges: all else in the file is said one way. What turns texts into something else
 * before they are cut (a normaliser, a length, another token) is nothing that the model was measured with.
 */
const checkTokenizer = Effect.fnUntraced(function* (view: string, { release }: ReleaseFiles) {
  const file = "tokenizer.json"
  if (release.base !== undefined)
    return [skipped(file, `it came with the weights of ${release.base.name}: only what it does was measured`)]
  const read = yield* judged(readJson(TrainedTokenizer, join(view, file)))
  if (read._tag === "Failure") return [wrong(file, read.failure.problem)]
  const { vocab, merges } = read.success.model
  const tokens = Object.entries(vocab)
    .toSorted(([, a], [, b]) => a - b)
    .map(([token]) => token)
  return tokenizerJson({ tokens, merges }) === readFileSync(join(view, file), "utf8")
    ? [ok(file, `${tokens.length} tokens and ${merges.length} merges, and nothing else that changes a text`)]
    : [wrong(file, "it is not what its tokens and merges make: something in it changes texts")]
})

const AddedTokens = Schema.Struct({
  added_tokens: Schema.Array(Schema.Struct({ id: Schema.Int, content: Schema.String })),
})

const expectedSettings = (
  { release, training, tokens, decoding }: ReleaseFiles,
  special: Special,
): Readonly<Record<string, unknown>> => {
  const { bos, eos, pad } = special
  const recommended = recommendedDecoding(decoding.recommended, decoding.max_new_tokens)
  const given = (release.base === undefined ? trainedTokenizerConfig() : {}) as { readonly [key: string]: Json }
  return {
    "config.json": plain(modelConfig(training.architecture, tokens)),
    "generation_config.json": plain(generationConfig(recommended, tokens)),
    "recommended_decoding_params.json": plain(recommendedJson(recommended)),
    "tokenizer_config.json": plain(tokenizerConfig(given, special, tokens.context)),
    "special_tokens_map.json": { bos_token: bos, eos_token: eos, pad_token: pad },
  }
}

const firstDifference = (said: Readonly<Record<string, unknown>>, made: Readonly<Record<string, unknown>>): string => {
  const spelled = (value: unknown) => (value === undefined ? "nothing" : canonicalJson(value as never).slice(0, 200))
  const key = [...Object.keys(said), ...Object.keys(made)].find((key) => spelled(said[key]) !== spelled(made[key]))
  return `\`${key}\` is ${spelled(said[key!])}, and follows as ${spelled(made[key!])}`
}

/** The statement made again from the release: only what is of one run is taken from itself. */
const checkStatement = Effect.fnUntraced(function* (view: string, files: ReleaseFiles) {
  const text = readFileSync(join(view, STATEMENT), "utf8")
  const said = yield* decodeStatement(text)
  const { exp_run: provenance } = said.predicate
  const { release, inventory, training } = files
  const made = statementOf({
    subjects: said.subject.map(({ name, digest }) => ({ name, sha256: digest.sha256 })),
    experiment: release.experiment,
    experimentSha256: yield* sha256OfFile(join(view, "experiment.ts")),
    parameters: release.parameters,
    keys: release.keys,
    texts: inventory.sources,
    provenance,
  })
  const { name, numerics, precision } = training.engine
  const engine = { name, numerics, precision }
  const ran = provenance.engine
  if (canonicalJson({ name: ran.name, numerics: ran.numerics, precision: ran.precision }) !== canonicalJson(engine))
    return [wrong(STATEMENT, `it was run by engine ${ran.name}, training_config.json says otherwise`)]
  for (const part of ["buildDefinition", "runDetails"] as const)
    if (canonicalJson(said.predicate[part]) !== canonicalJson(made.predicate[part]))
      return [wrong(STATEMENT, `its ${part} is not the one that follows from the release`)]
  return [ok(STATEMENT, "made again from the release: experiment, parameters, keys, texts and engine are the same")]
})

export const checkContents = Effect.fn("verification.checkContents")(function* (
  { listing, view }: Release,
  files: ReleaseFiles,
) {
  const findings: Array<Finding> = []
  const names = namesOf(files)
  const strangers = listing.files.filter(({ path }) => !names.has(path))
  for (const { path } of strangers) findings.push(wrong(path, "no release of `exp` has a file of this name"))
  if (strangers.length === 0)
    findings.push(ok("names", `${listing.files.length} files, each of a name that such a release has`))
  const special = files.release.base === undefined ? trained : yield* specialIn(view, files.tokens)
  for (const [file, made] of Object.entries(expectedSettings(files, special))) {
    const said = yield* judged(readJson(AnyObject, join(view, file)))
    if (said._tag === "Failure") findings.push(wrong(file, said.failure.problem))
    else if (canonicalJson(said.success as never) !== canonicalJson(made as never))
      findings.push(wrong(file, firstDifference(said.success, made as Readonly<Record<string, unknown>>)))
    else findings.push(ok(file, "made again from the facts beside it, the same in every setting"))
  }
  findings.push(...(yield* checkTokenizer(view, files)))
  const statement = yield* judged(checkStatement(view, files))
  findings.push(...(statement._tag === "Success" ? statement.success : [wrong(STATEMENT, statement.failure.message)]))
  return findings
})
