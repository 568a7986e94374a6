/**
 * The card's metadata, held against what the Hub documents, without asking the Hub: it refuses a push whose card it cannot read, and
 * that would be found last.
 *
 * Checked are the fields that the Hub documents for models (`license`, `language`, `datasets`, `library_name`, `pipeline_tag`,
 * `base_model`, `new_version`, `model-index`), and that every metric of `benchmark_metrics.json` and `holdout.json` stands in the
 * `model-index` with its value.
 *
 * `.eval_results/*.yaml` (documented since 2026, still "in progress" there) is for scores on data sets that are registered on the Hub
 * as benchmarks. What a release measures is the held-out part of its own texts, so none is written; one that is there is checked.
 */
import { isDeepStrictEqual } from "node:util"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { didYouMean } from "../model/DidYouMean.ts"
import { isRepository } from "../model/Repository.ts"
import { hubLicense } from "../release/License.ts"

/** Identifiers beside those of SPDX that the Hub lists. */
const OTHER_LICENSES: ReadonlySet<string> = new Set(
  `openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m openrail++ c-uda etalab-2.0
  h-research intel-research ms-pl lgpl-lr deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2
  llama3.3 llama4 grok2-community gemma unknown other`.split(/\s+/),
)

/** What a language model of ours may be said to do. */
export const PIPELINE_TAGS: ReadonlyArray<string> =
  `text-generation fill-mask text-classification token-classification question-answering summarization translation feature-extraction
  sentence-similarity zero-shot-classification table-question-answering text-ranking image-text-to-text any-to-any`.split(
    /\s+/,
  )

/** What can load a release of ours, or say what it is. */
export const LIBRARIES: ReadonlyArray<string> =
  "transformers transformers.js peft llama-cpp-python keras tf-keras mlx sentence-transformers".split(" ")

/** ISO 639-1 and 639-3 with an optional script or region, `code` and `multilingual`: what the Hub takes for a language. */
const LANGUAGE = /^(?:[a-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*|code|multilingual)$/

const known = new Intl.DisplayNames(["en"], { type: "language", fallback: "none" })
const isLanguage = (code: string): boolean => {
  if (!LANGUAGE.test(code)) return false
  if (code === "code" || code === "multilingual") return true
  const base = code.split(/[-_]/)[0]!
  // three letters name thousands of languages, of which this list has some hundreds
  return base.length === 3 || known.of(base) !== undefined
}

const Text = Schema.String.check(Schema.isPattern(/\S/))
const Several = Schema.Union([Text, Schema.Array(Text)])

const ModelIndex = Schema.Array(
  Schema.Struct({
    name: Text,
    results: Schema.Array(
      Schema.Struct({
        task: Schema.Struct({ type: Text, name: Schema.optionalKey(Text) }),
        dataset: Schema.Struct({ type: Text, name: Text }),
        metrics: Schema.Array(Schema.Struct({ type: Text, name: Schema.optionalKey(Text), value: Schema.Finite })),
      }),
    ),
  }),
)

const Matter = Schema.Struct({
  license: Text,
  license_name: Schema.optionalKey(Text),
  license_link: Schema.optionalKey(Text),
  language: Several,
  library_name: Text,
  pipeline_tag: Text,
  tags: Schema.optionalKey(Schema.Array(Text)),
  datasets: Schema.optionalKey(Several),
  base_model: Schema.optionalKey(Several),
  new_version: Schema.optionalKey(Text),
  "model-index": ModelIndex,
})

const Evaluations = Schema.Array(
  Schema.Struct({
    dataset: Schema.Struct({ id: Text, task_id: Text, revision: Schema.optionalKey(Text) }),
    value: Schema.Finite,
    verifyToken: Schema.optionalKey(Text),
    date: Schema.optionalKey(
      Schema.String.check(Schema.isPattern(/^\d{4}-\d\d-\d\d(?:T[\d:.]+(?:Z|[+-]\d\d:\d\d))?$/)),
    ),
    source: Schema.optionalKey(
      Schema.Struct({
        url: Schema.String.check(Schema.isPattern(/^https:\/\/\S+$/)),
        name: Schema.optionalKey(Text),
        user: Schema.optionalKey(Text),
        org: Schema.optionalKey(Text),
      }),
    ),
    evaluation_framework: Schema.optionalKey(Text),
    notes: Schema.optionalKey(Text),
  }),
)

/** A schema's complaints, each on a line after the place it is about. */
const complaints = (error: { readonly message: string }): ReadonlyArray<string> => {
  const found: Array<string> = []
  for (const line of error.message.split("\n")) {
    const at = /^\s*at ((?:\[[^\]]*\])+)$/.exec(line)?.[1]
    if (at === undefined) found.push(line.trim())
    else found.push(`${at.slice(1, -1).replaceAll("][", ".").replaceAll('"', "")}: ${found.pop()}`)
  }
  return found.filter((line) => line !== "")
}

const list = (value: string | ReadonlyArray<string> | undefined): ReadonlyArray<string> =>
  value === undefined ? [] : typeof value === "string" ? [value] : value

const near = (name: string, candidates: ReadonlyArray<string>): string => {
  const nearest = didYouMean(name, candidates)
  return nearest === undefined ? "" : `; did you mean ${nearest}?`
}

export interface Published {
  /** By file, the metrics that must stand in the card with their values. */
  readonly metrics: ReadonlyMap<string, Readonly<Record<string, { readonly value: number }>>>
  /** Names of the files that are published. */
  readonly files: ReadonlySet<string>
}

/** YAML between two lines of `---` at the very beginning. */
export const matterOf = (card: string): string | undefined => /^---\n([\s\S]*?\n)---(?:\n|$)/.exec(card)?.[1]

/** What a YAML 1.1 reader makes of a text, or what is wrong with it. Aliases are refused: a short text can stand for gigabytes. */
const parse = async (text: string): Promise<Result.Result<unknown, string>> => {
  const { parseDocument } = await import("yaml")
  const document = parseDocument(text, { version: "1.1", uniqueKeys: true })
  const problem = document.errors[0] ?? document.warnings[0]
  if (problem !== undefined) return Result.fail(problem.message.split("\n")[0]!)
  return Result.try({
    try: (): unknown => document.toJS({ maxAliasCount: 0 }),
    catch: (cause) => (cause instanceof Error ? cause.message : String(cause)),
  })
}

/** All that is wrong with the front matter of a card. */
export const cardProblems = async (card: string, published: Published): Promise<ReadonlyArray<string>> => {
  const text = matterOf(card)
  if (text === undefined) return ["README.md has no front matter between two lines of `---`"]
  const parsed = await parse(text)
  if (Result.isFailure(parsed)) return [`front matter: ${parsed.failure}`]
  const decoded = Schema.decodeUnknownResult(Matter, { errors: "all" })(parsed.success)
  if (Result.isFailure(decoded)) return complaints(decoded.failure).map((line) => `front matter: ${line}`)
  const matter = decoded.success
  const problems: Array<string> = []
  const say = (problem: string): void => void problems.push(`front matter: ${problem}`)

  const { license } = matter
  if (hubLicense(license)["license"] !== license && !OTHER_LICENSES.has(license))
    say(`license: the Hub has no \`${license}\` in its list; use \`other\` with license_name and license_link`)
  if (license === "other" && matter.license_name === undefined) say("license: `other` needs a license_name")
  if (license === "other" && matter.license_link === undefined) say("license: `other` needs a license_link")
  const link = matter.license_link
  if (link !== undefined && !/^https:\/\//.test(link) && !published.files.has(link))
    say(`license_link: there is no file \`${link}\``)
  for (const language of list(matter.language))
    if (!isLanguage(language)) say(`language: \`${language}\` is no language code (ISO 639)`)
  if (list(matter.language).length === 0) say("language: there is none")
  if (!PIPELINE_TAGS.includes(matter.pipeline_tag))
    say(`pipeline_tag: the Hub has no \`${matter.pipeline_tag}\` for texts${near(matter.pipeline_tag, PIPELINE_TAGS)}`)
  if (!LIBRARIES.includes(matter.library_name))
    say(`library_name: \`${matter.library_name}\` loads no release of ours${near(matter.library_name, LIBRARIES)}`)
  for (const dataset of list(matter.datasets))
    if (!isRepository(dataset) && !/^[a-z0-9_.-]{1,96}$/i.test(dataset))
      say(`datasets: \`${dataset}\` names no data set`)
  for (const base of [...list(matter.base_model), ...list(matter.new_version)])
    if (!isRepository(base)) say(`base_model or new_version: \`${base}\` is not of the form org/name`)

  const results = matter["model-index"].flatMap((model) => model.results)
  for (const [file, metrics] of published.metrics)
    for (const [name, { value }] of Object.entries(metrics)) {
      const said = results.flatMap((result) => result.metrics.filter((metric) => metric.type === name))
      if (said.length === 0) say(`model-index: \`${name}\` of ${file} is not there`)
      else if (!said.some((metric) => metric.value === value))
        say(`model-index: \`${name}\` is ${said[0]!.value}, in ${file} it is ${value}`)
    }
  return problems
}

/** All that is wrong with a file of `.eval_results/`. */
export const evaluationProblems = async (path: string, text: string): Promise<ReadonlyArray<string>> => {
  const parsed = await parse(text)
  if (Result.isFailure(parsed)) return [`${path}: ${parsed.failure}`]
  const decoded = Schema.decodeUnknownResult(Evaluations, { errors: "all" })(parsed.success)
  if (Result.isFailure(decoded)) return complaints(decoded.failure).map((line) => `${path}: ${line}`)
  return decoded.success.flatMap(({ dataset }) =>
    isRepository(dataset.id) ? [] : [`${path}: \`${dataset.id}\` is not a data set of the form org/name`],
  )
}

/** The first line of `---`, what stands between, and the second, with whatever ends their lines. */
const FRONT = /^(\uFEFF?---[ \t]*\r?\n)((?:[\s\S]*?\r?\n)??)(---[ \t]*(?:\r?\n|$))/

/** Every other field says in the edited text what it said before. */
const isSameBut = (field: string, value: string, before: unknown, after: unknown): boolean => {
  const isTable = (one: unknown): one is Record<string, unknown> =>
    typeof one === "object" && one !== null && !Array.isArray(one)
  if (!isTable(after) || after[field] !== value || !(before === null || isTable(before))) return false
  const { [field]: _, ...rest } = after
  const { [field]: __, ...old } = before ?? {}
  return isDeepStrictEqual(rest, old)
}

/**
 * A card with `new_version` set, every other character of it as it was. Fails when its front matter cannot be read, or is of a form
 * in which that cannot be done.
 */
export const withNewVersion = async (card: string, version: string): Promise<Result.Result<string, string>> => {
  const { isMap, isScalar, parseDocument } = await import("yaml")
  const end = /\r?\n/.exec(card)?.[0] ?? "\n"
  const line = `new_version: ${JSON.stringify(version)}`
  const front = FRONT.exec(card)
  if (front === null)
    return /^\uFEFF?---[ \t]*(?:\r?\n|$)/.test(card)
      ? Result.fail("it begins with a line of `---`, and no second one ends it")
      : Result.succeed(`---${end}${line}${end}---${end}${end}${card}`)
  const [whole, first, text, last] = front as unknown as [string, string, string, string]
  const before = await parse(text)
  if (Result.isFailure(before)) return Result.fail(before.failure)
  // only where the field stands is taken from the parsed document: written anew, other people's quotes and line breaks would change
  const { contents } = parseDocument(text, { version: "1.1" })
  const pair = isMap(contents)
    ? contents.items.find(({ key }) => isScalar(key) && key.value === "new_version")
    : undefined
  if (isScalar(pair?.value) && pair.value.value === version) return Result.succeed(card)
  const from = isScalar(pair?.key) ? pair.key.range?.[0] : undefined
  const to = isScalar(pair?.value) ? pair.value.range?.[1] : undefined
  if (pair !== undefined && (from === undefined || to === undefined)) return Result.fail("`new_version` is no text")
  // a block of text ends with the line break after it
  const gap = /\r?\n$/.exec(text.slice(from, to))?.[0] ?? ""
  const edited = pair === undefined ? `${text}${line}${end}` : `${text.slice(0, from)}${line}${gap}${text.slice(to)}`
  const after = await parse(edited)
  if (Result.isFailure(after) || !isSameBut("new_version", version, before.success, after.success))
    return Result.fail("no line can be added or changed without changing what other lines say")
  return Result.succeed(`${first}${edited}${last}${card.slice(whole.length)}`)
}
