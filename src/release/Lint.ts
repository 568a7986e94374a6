/**
 * Whether a card lies. Takes a release folder as it is, such as a downloaded copy whose `README.md` somebody edited, and names each
 * place where a text of it says what its files do not: not only that something is otherwise, but what it says and what is true.
 *
 * Every text is filled again from the files beside it and held against the one that is there, line by line. A line that both have is
 * vouched for figure by figure (`Citation.ts`). Of one that reads otherwise, each figure is held against the place it was taken from.
 * A line that no template makes may say what it likes in words, but no number: nothing would keep it true. Nor may it hold markup that
 * hides what others say. The other texts have to be, to the byte, what their files make: there the words are the terms.
 *
 * | problem                                  | found by                                                                     |
 * |------------------------------------------|------------------------------------------------------------------------------|
 * | a number in prose that no file backs     | lines no template makes; digits a template has of its own                    |
 * | a figure that is not its file's          | the line it belongs to, and the citation at that place                       |
 * | a sentence turned, a limitation left out | the line it belongs to                                                        |
 * | card against configuration               | front matter, and names of licences and architectures in added lines         |
 * | metadata no file vouches for             | front matter: keys beside those the files make, `model-index` as a whole      |
 * | a section hidden, an image from elsewhere | HTML, fences, images and link definitions in added lines; fences taken out   |
 * | licence, notice or a report reworded     | any byte that is not what its files make                                      |
 * | an interval missing beside a rate        | figures whose file has a `ci95`: both its ends in the same row or paragraph  |
 * | files that disagree                      | `Consistency.ts`                                                              |
 *
 * With other templates than those the release was filled with (`templates_sha256`), lines cannot be paired: then every number of every
 * line must be a figure that some file has.
 */
import * as Effect from "effect/Effect"
import * as FileSystem from "effect/FileSystem"
import { canonicalJson } from "../model/Digest.ts"
import { licenseOf } from "../model/License.ts"
import { frontMatterData, type Rendered, renderAll, type TemplateOptions, templatesDigest } from "./Card.ts"
import { type Citation, numbersIn, partsOf, unmark } from "./Citation.ts"
import { disagreements, quantisedDisagreements } from "./Consistency.ts"
import { fileNames, type ReleaseFiles, readFolder } from "./Folder.ts"
import { type ReleaseError, unreadable } from "./ReleaseError.ts"

export interface LintFinding {
  readonly file: string
  /** From 1; null where the finding is about the file as a whole. */
  readonly line: number | null
  /** What stands there, cut at 200 characters; of what is missing, what should. */
  readonly text: string
  readonly problem: string
}

const CARD = "README.md"

/** All that the texts of a folder say without cover. Fails only where the files themselves cannot be read. */
export const lintCard = Effect.fn("Lint.card")(function* (
  folder: string,
  options: TemplateOptions = {},
): Effect.fn.Return<ReadonlyArray<LintFinding>, ReleaseError, FileSystem.FileSystem> {
  const fs = yield* FileSystem.FileSystem
  const files = yield* readFolder(folder)
  const rendered = yield* renderAll(folder, files, options)
  const sameWords = (yield* templatesDigest(files.release.template, options)) === files.release.templates_sha256
  const disagreeing = [...disagreements(files), ...(yield* quantisedDisagreements(folder, files))]
  const findings: Array<LintFinding> = disagreeing.map(({ first, second, problem }) => ({
    file: first,
    line: null,
    text: short(problem),
    problem: `\`${first}\` and \`${second}\` disagree: ${problem}`,
  }))
  const figures = figuresOf(Object.values(rendered))
  for (const [file, expected] of Object.entries(rendered)) {
    findings.push(...lintTemplate(file, expected, files))
    const path = `${folder}/${file}`
    if (!(yield* fs.exists(path).pipe(unreadable(path)))) {
      findings.push({ file, line: null, text: "", problem: "it is missing" })
      continue
    }
    const there = yield* fs.readFileString(path).pipe(unreadable(path))
    const text = there.replaceAll("\r\n", "\n")
    if (text !== there) findings.push({ file, line: null, text: "", problem: "its line ends are CRLF" })
    if (text === unmark(expected.marked)) continue
    const [matter, body] = file === CARD ? cut(text) : ["", text]
    if (file === CARD) findings.push(...(yield* Effect.promise(() => lintFrontMatter(matter, files))))
    const page: Page = { file, first: matter.split("\n").length, lines: body.split("\n") }
    const marked = file === CARD ? cut(expected.marked)[1] : expected.marked
    // Licence, notice and citation are filled into no template: whatever the templates say, they read one way only.
    const paired = sameWords || expected.citations.length === 0
    const found = paired ? lintLines(page, { ...expected, marked }, figures, files) : lintFigures(page, figures)
    findings.push(...found, ...(paired && file !== CARD && found.length === 0 ? [firstDifference(page, marked)] : []))
  }
  return findings
})

/** For a text whose every byte counts, where nothing in particular can be said against what differs. */
const firstDifference = ({ file, first, lines }: Page, marked: string): LintFinding => {
  const made = unmark(marked).split("\n")
  const line = lines.findIndex((each, index) => each !== made[index])
  const at = line < 0 ? lines.length - 1 : line
  return { file, line: first + at, text: short(lines[at]!), problem: "it is not, to the byte, what its files make" }
}

interface Page {
  readonly file: string
  /** Number of its first line in the file. */
  readonly first: number
  readonly lines: ReadonlyArray<string>
}

const short = (text: string): string => (text.length > 200 ? `${text.slice(0, 200)}…` : text)

/** Front matter with its fences, and what follows. */
const cut = (text: string): readonly [matter: string, body: string] => {
  const end = /^---\n[\s\S]*?\n---\n/.exec(text)?.[0].length ?? 0
  return [text.slice(0, end), text.slice(end)]
}

const placeOf = ({ file, path }: Citation): string =>
  path.length === 0 || path[0]!.startsWith("(") ? `\`${file}\`` : `\`${file}\` (${path.join(".")})`

/** Every number that some file has, as texts print it. */
const figuresOf = (texts: ReadonlyArray<Rendered>): ReadonlyMap<string, Citation> => {
  const figures = new Map<string, Citation>()
  for (const { citations } of texts)
    for (const citation of citations)
      for (const number of numbersIn(citation.text)) if (!figures.has(number)) figures.set(number, citation)
  return figures
}

// What a template itself does wrong.

/** Figures that have an interval in their file, by the name they have there. */
const RATES = new Set(["value", "loss", "val_loss_mixed", "count"])

const at = (files: ReleaseFiles, { file, path }: Citation): unknown => {
  const names: Readonly<Record<string, string>> = fileNames(files.release)
  const key = Object.keys(names).find((each) => names[each] === file)
  let value: unknown = key === undefined ? undefined : (files as unknown as Record<string, unknown>)[key]
  for (const step of path) value = (value as Readonly<Record<string, unknown>> | null | undefined)?.[step]
  return value
}

/** The interval that belongs beside a figure, as the two texts it is printed as; `undefined`: there is none. */
const intervalBeside = (
  citation: Citation,
  citations: ReadonlyArray<Citation>,
  files: ReleaseFiles,
): ReadonlyArray<Citation> | undefined => {
  const { path } = citation
  if (!RATES.has(path.at(-1) ?? "")) return undefined
  const isCount = path.at(-1) === "count"
  const parent = { ...citation, path: path.slice(0, -1) }
  // A share as "21 of 40" has its interval where the rate itself is reported.
  const name = path.at(-2)
  const ends = citations.filter((other) => {
    const [owner, last] = [other.path.slice(0, -2), other.path.slice(-2)]
    if (last[0] !== "ci95") return false
    return isCount
      ? owner.at(-1) === name && other.file !== citation.file
      : other.file === citation.file && owner.join("\0") === parent.path.join("\0")
  })
  if (isCount) return ends.length === 0 ? undefined : ends
  const measured = at(files, parent) as { readonly ci95?: unknown } | undefined
  return measured?.ci95 === undefined ? undefined : ends
}

/** Paragraphs, list items and table rows of a marked text, each with the number of its first line, from 0. */
const blocksOf = (marked: string): ReadonlyArray<{ readonly line: number; readonly marked: string }> => {
  const blocks: Array<{ line: number; marked: string }> = []
  let open = false
  for (const [line, text] of marked.split("\n").entries()) {
    const alone = /^\s*(?:[|#-]|```)/.test(text)
    if (text.trim() === "") open = false
    else if (open && !alone) blocks.at(-1)!.marked += `\n${text}`
    else blocks.push({ line, marked: text })
    if (text.trim() !== "") open = !/^\s*[|#]/.test(text)
  }
  return blocks
}

const citationsIn = (marked: string, all: ReadonlyArray<Citation>): ReadonlyArray<Citation> =>
  partsOf(marked).flatMap(({ citation }) => (citation === undefined ? [] : all[citation]!))

/** Rates without their interval, and numbers that the template made up. */
const lintTemplate = (file: string, { marked, citations, untraced }: Rendered, files: ReleaseFiles) => {
  const findings: Array<LintFinding> = untraced.map((number) => ({
    file,
    line: null,
    text: number,
    problem: `the template says ${number}, which it takes from no file`,
  }))
  for (const block of blocksOf(marked)) {
    const there = citationsIn(block.marked, citations)
    const paths = new Set(there.map(({ file, path }) => `${file}\0${path.join("\0")}`))
    for (const citation of there) {
      const ends = intervalBeside(citation, citations, files)
      if (ends === undefined) continue
      const isCount = citation.path.at(-1) === "count"
      const beside = ends.filter((end) => paths.has(`${end.file}\0${end.path.join("\0")}`))
      if (isCount ? beside.length > 0 : beside.length > 1) continue
      findings.push({
        file,
        line: block.line + 1,
        text: short(unmark(block.marked)),
        problem: `${citation.text} stands without the interval that ${placeOf(citation)} has`,
      })
    }
  }
  return findings
}

// Front matter.

const said = (value: unknown): string => (value === undefined ? "nothing" : short(JSON.stringify(value)))

/**
 * What may stand in the metadata beside what the files make: the release that came after, which this one could not know of, and
 * whether the Hub offers to run it. Everything else there makes a claim (`co2_eq_emissions`, `metrics`) that no file backs.
 */
const ADDED_KEYS: { readonly [key: string]: (value: unknown) => boolean } = {
  new_version: (value) => typeof value === "string" && /^[\w.-]+\/[\w.-]+$/.test(value),
  inference: (value) => typeof value === "boolean",
}

const lintFrontMatter = async (matter: string, files: ReleaseFiles): Promise<ReadonlyArray<LintFinding>> => {
  const { parse } = await import("yaml")
  const lines = matter.split("\n")
  const finding = (key: string, text: string, problem: string): LintFinding => {
    const line = lines.findIndex((each) => each.startsWith(`${key}:`))
    return { file: CARD, line: line < 0 ? null : line + 1, text: short(text), problem }
  }
  let data: unknown
  try {
    data = parse(matter.replace(/^---\n/, "").replace(/\n---\n$/, ""), { version: "1.1" })
  } catch (cause) {
    return [
      finding("", "", `its front matter is no YAML: ${cause instanceof Error ? cause.message.split("\n")[0] : cause}`),
    ]
  }
  if (typeof data !== "object" || data === null || Array.isArray(data))
    return [finding("", said(data), "it has no front matter")]
  const given = data as Readonly<Record<string, unknown>>
  const findings: Array<LintFinding> = []
  const { "model-index": index, ...rest } = frontMatterData(files)
  for (const [key, expected] of Object.entries(rest)) {
    const value = Object.hasOwn(given, key) ? given[key] : undefined
    if (canonical(value) !== canonical(expected))
      findings.push(finding(key, said(value), `\`${key}\` is ${said(value)}; the files make it ${said(expected)}`))
  }
  if (Object.hasOwn(given, "base_model"))
    findings.push(
      finding("base_model", said(given["base_model"]), "`base_model` names a parent; `training_config.json` has none"),
    )
  for (const [key, value] of Object.entries(given)) {
    if (Object.hasOwn(rest, key) || key === "model-index" || key === "base_model") continue
    if (Object.hasOwn(ADDED_KEYS, key) && ADDED_KEYS[key]!(value)) continue
    findings.push(finding(key, said(value), `\`${key}\` is ${said(value)}, which no file has`))
  }
  const before = findings.length
  const [published, made] = [metricsOf(given["model-index"]), metricsOf(index)]
  for (const [name, value] of made)
    if (published.get(name) !== value)
      findings.push(
        finding(
          "model-index",
          `${name}: ${said(published.get(name))}`,
          `\`model-index\` says ${name} is ${said(published.get(name))}; the files have ${said(value)}`,
        ),
      )
  for (const [name, value] of published)
    if (!made.has(name))
      findings.push(finding("model-index", `${name}: ${said(value)}`, `\`model-index\` has ${name}, which no file has`))
  // Kinds, data sets, a second entry of the same name, a mark of verification: whatever is not a value by its name.
  if (findings.length === before && canonical(given["model-index"]) !== canonical(index))
    findings.push(
      finding("model-index", said(given["model-index"]), "`model-index` reads otherwise than its files make it"),
    )
  return findings
}

const canonical = (value: unknown): string => {
  try {
    return value === undefined ? "" : canonicalJson(value)
  } catch {
    return String(value)
  }
}

/** `<data set>: <metric>` to value, of whatever stands there. */
const metricsOf = (index: unknown): ReadonlyMap<string, unknown> => {
  const list = (value: unknown, key: string): ReadonlyArray<any> => {
    const of = (value as Readonly<Record<string, unknown>> | null | undefined)?.[key]
    return Array.isArray(of) ? of : []
  }
  const found = new Map<string, unknown>()
  for (const model of Array.isArray(index) ? index : [])
    for (const result of list(model, "results"))
      for (const metric of list(result, "metrics"))
        found.set(`${result?.dataset?.name}: ${metric?.name}`, metric?.value)
  return found
}

// Lines.

/** With other templates: every number is a figure of some file, or nobody vouches for it. */
const lintFigures = (
  { file, first, lines }: Page,
  figures: ReadonlyMap<string, Citation>,
): ReadonlyArray<LintFinding> => {
  let fenced = false
  return lines.flatMap((line, index) => {
    if (FENCE.test(line)) fenced = !fenced
    return [
      ...(fenced || !HTML.test(line) ? [] : [`has HTML, which may hide what stands in it or after it`]),
      ...[...new Set(numbersIn(line))]
        .filter((number) => !figures.has(number))
        .map((number) => `says ${number}, which no file of the folder has`),
    ].map((problem) => ({ file, line: first + index, text: short(line), problem }))
  })
}

const lintLines = (page: Page, expected: Rendered, figures: ReadonlyMap<string, Citation>, files: ReleaseFiles) => {
  const marked = expected.marked.split("\n")
  const made = marked.map(unmark)
  const findings: Array<LintFinding> = []
  for (const { gone, come } of hunks(made, page.lines)) {
    const left = new Set(gone)
    for (const index of come) {
      const line = page.lines[index]!
      const place = { file: page.file, line: page.first + index, text: short(line) }
      const meant = nearest(line, left, made)
      if (meant === undefined) {
        findings.push(...added(line, figures, files).map((problem) => ({ ...place, problem })))
        continue
      }
      left.delete(meant)
      findings.push(...changed(line, marked[meant]!, expected, files).map((problem) => ({ ...place, problem })))
    }
    const here = come[0] ?? page.lines.length - 1
    for (const index of left) {
      if (!/[\p{L}\d]/u.test(made[index]!) && !FENCE.test(made[index]!)) continue
      const problem = "the files make this line, and it is left out"
      findings.push({ file: page.file, line: page.first + here, text: short(made[index]!), problem })
    }
  }
  return findings
}

/** A sum is one word, whatever it has of digits. */
const SUM = /`[0-9a-f]{16,64}`/g

/** What a line says that should say something else. */
const changed = (line: string, marked: string, { citations }: Rendered, files: ReleaseFiles): ReadonlyArray<string> => {
  const wordsIn = (text: string) => [...(text.match(SUM) ?? []), ...numbersIn(text.replace(SUM, ""))]
  const parts = partsOf(marked).flatMap(({ text, citation }) =>
    wordsIn(text).map((number) => ({ number, citation: citation === undefined ? undefined : citations[citation] })),
  )
  // as in the line, where sums come before numbers
  const wanted = parts.toSorted((a, b) => Number(b.number.startsWith("`")) - Number(a.number.startsWith("`")))
  const numbers = wordsIn(line)
  const there = citationsIn(marked, citations)
  const bare = there.filter((citation) => {
    const ends = intervalBeside(citation, there, files)
    return ends !== undefined && ends.length > 0 && !ends.every((end) => line.includes(end.text))
  })
  const missing = numbers.length < wanted.length ? bare : []
  if (missing.length > 0)
    return missing.map(
      (rate) => `${rate.text} stands without the interval that ${placeOf(rate)} has: \`${short(unmark(marked))}\``,
    )
  if (numbers.length === wanted.length) {
    const wrong = wanted.flatMap(({ number, citation }, index) =>
      numbers[index] === number
        ? []
        : [`says ${numbers[index]}; ${citation === undefined ? "the template" : placeOf(citation)} has ${number}`],
    )
    if (wrong.length > 0) return wrong
  }
  return [`reads otherwise than its files make it: \`${short(unmark(marked))}\``]
}

/** Numbers somebody may write out, where no template does; "one", "first" and "second" have other uses. */
const WORDS = new RegExp(
  `\\b(?:${[
    "zero(?:e?s)?|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve",
    "(?:thir|four|fif|six|seven|eigh|nine)teen(?:s|th)?",
    "(?:twen|thir|for|fif|six|seven|eigh|nine)(?:ty|ties|tieth)",
    "(?:tens|dozen|hundred|thousand|million|billion|trillion|quadrillion)(?:s|ths?)?",
    "(?:third|quarter|fourth|fifth|sixth|seventh|eighth|ninth|tenth|twelfth)s?",
    "(?:two|three|four|five|ten|hundred|thousand)fold",
    "percent|per cent|percentage points?|twice|thrice|half|halves|halved|doubled?|tripled?|quadrupled?",
  ].join("|")})\\b`,
  "gi",
)
/** ½, ②, ٤٢. */
const OTHER_DIGITS = /(?:(?!\d)\p{N})+/gu
const FAMILIES = /\b(?:llama|mistral|mixtral|qwen|gemma|phi|bert|t5|mamba|gpt-?[234](?:\.\d)?|gpt-?4o?)\b/gi

const FENCE = /^\s*(?:`{3}|~{3})/
const HTML = /<[a-z!/?]/i

/** What can hide the lines after it, or bring in what is no part of the release. */
const MARKUP: ReadonlyArray<readonly [pattern: RegExp, problem: string]> = [
  [HTML, "has HTML, which may hide what stands in it or after it"],
  [FENCE, "begins or ends a block of code that no template makes"],
  [/!\[/, "shows an image, which is no part of the release"],
  [/^\s*(?:[>*+-]\s*)*\[[^\]]*\]:/, "defines a link, whose title may hide the lines after it"],
  [/\$\$/, "begins or ends a formula, which may hide the lines after it"],
]

/** What a line that no template makes says without cover. */
const added = (line: string, figures: ReadonlyMap<string, Citation>, files: ReleaseFiles): ReadonlyArray<string> => {
  const { license } = files.release
  const family = String(files.config["model_type"]).replaceAll("-", "").toLowerCase()
  const named = (line.match(/[A-Za-z0-9][A-Za-z0-9.+-]+/g) ?? [])
    .map((word) => word.replace(/[.,]+$/, ""))
    .filter((word) => licenseOf(word).rule !== "unknown" && licenseOf(word).id === word)
  // MIT is a place as well: a licence is what something is under.
  const claimed = /\blicen[cs](?:e[sd]?|ing)\b|\bunder\b/i.test(line) ? named : []
  const families = line.match(FAMILIES) ?? []
  // What a name has of digits is no number.
  const rest = [...named, ...families].reduce((left, name) => left.replaceAll(name, ""), line)
  // Emphasis and what has no width may stand within a word.
  const plain = rest.replace(/[\p{Cf}*\\]/gu, "")
  return [
    ...MARKUP.flatMap(([pattern, problem]) => (pattern.test(line) ? [problem] : [])),
    ...claimed
      .filter((id) => licenseOf(id).id !== licenseOf(license).id)
      .map((id) => `names the licence ${id}; \`release.json\` (license) has ${license}`),
    ...families
      .filter((name) => name.replaceAll("-", "").toLowerCase() !== family)
      .map((name) => `names ${name}; \`config.json\` (model_type) has ${family}`),
    ...[...new Set([...(plain.match(WORDS) ?? []), ...(rest.match(OTHER_DIGITS) ?? [])])].map(
      (word) => `says “${word}”, a number that no template takes from a file`,
    ),
    ...[...new Set(numbersIn(rest))].map((number) => {
      const citation = figures.get(number)
      return citation === undefined
        ? `says ${number}, which no file of the folder has`
        : `says ${number}, and no template makes this line: that ${placeOf(citation)} has the same number does not keep it true`
    }),
  ]
}

// Pairing of lines.

/** Runs of lines that only one of two texts has: indices into the old text (`gone`) and the new one (`come`). */
const hunks = (old: ReadonlyArray<string>, now: ReadonlyArray<string>) => {
  let start = 0
  while (start < old.length && start < now.length && old[start] === now[start]) start++
  let [oldEnd, nowEnd] = [old.length, now.length]
  while (oldEnd > start && nowEnd > start && old[oldEnd - 1] === now[nowEnd - 1]) {
    oldEnd--
    nowEnd--
  }
  const kept = commonLines(old.slice(start, oldEnd), now.slice(start, nowEnd))
  const found: Array<{ readonly gone: ReadonlyArray<number>; readonly come: ReadonlyArray<number> }> = []
  const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)
  let [i, j] = [start, start]
  for (const [a, b] of [...kept.map(([a, b]) => [a + start, b + start] as const), [oldEnd, nowEnd] as const]) {
    if (a > i || b > j) found.push({ gone: range(i, a), come: range(j, b) })
    ;[i, j] = [a + 1, b + 1]
  }
  return found
}

/** Cells of the table below, at most: two texts of two thousand lines that have nothing in common. */
const MAX_CELLS = 4_000_000

/** The longest common subsequence, as pairs of indices; none of texts too long for it, which then are one hunk. */
const commonLines = (a: ReadonlyArray<string>, b: ReadonlyArray<string>): ReadonlyArray<readonly [number, number]> => {
  if (a.length * b.length > MAX_CELLS) return []
  const width = b.length + 1
  const lengths = new Uint32Array((a.length + 1) * width)
  for (let i = a.length - 1; i >= 0; i--)
    for (let j = b.length - 1; j >= 0; j--)
      lengths[i * width + j] =
        a[i] === b[j]
          ? lengths[(i + 1) * width + j + 1]! + 1
          : Math.max(lengths[(i + 1) * width + j]!, lengths[i * width + j + 1]!)
  const pairs: Array<readonly [number, number]> = []
  for (let i = 0, j = 0; i < a.length && j < b.length; ) {
    if (a[i] === b[j]) pairs.push([i++, j++])
    else if (lengths[(i + 1) * width + j]! >= lengths[i * width + j + 1]!) i++
    else j++
  }
  return pairs
}

const wordsOf = (line: string): ReadonlySet<string> => new Set(line.match(/[\p{L}\p{N}_]+/gu) ?? [])

/** Which of some lines another was made of: the one that shares most words with it, and enough of them. */
const nearest = (line: string, among: ReadonlySet<number>, lines: ReadonlyArray<string>): number | undefined => {
  const words = wordsOf(line)
  let best: number | undefined
  let most = 0.4
  for (const index of among) {
    const other = wordsOf(lines[index]!)
    const shared = [...words].filter((word) => other.has(word)).length
    const share = (2 * shared) / Math.max(1, words.size + other.size)
    if (share <= most) continue
    best = index
    most = share
  }
  return best
}
