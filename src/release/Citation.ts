/**
 * Figures and words of a card, each taken from one place in one file of the release.
 *
 * A citation is made with an accessor (`(file) => file.metrics.loop_rate.value`): the type checker checks it against the file's
 * schema, a recorder turns it into a path, and the value is read at that path. Its text goes into the template between two
 * private-use marks, so that afterwards it can be told what in a rendered card came from a file and what from the template:
 * a digit outside of the marks is a number nobody vouches for.
 */
import type { Measured } from "../model/Report.ts"
import { type FileKey, fileNames, type ReleaseFiles } from "./Folder.ts"
import { BREAK, CLOSE, inline, OPEN } from "./Markdown.ts"

export interface Citation {
  readonly file: string
  readonly path: ReadonlyArray<string>
  readonly text: string
}

export class MissingFigure extends Error {
  override readonly name = "MissingFigure"
  readonly file: string
  constructor(file: string, path: ReadonlyArray<string>, wanted: string) {
    super(`${path.join(".") || "it"} is not ${wanted}`)
    this.file = file
  }
}

const pathOf = (accessor: (value: never) => unknown): ReadonlyArray<string> => {
  const path: Array<string> = []
  const recorder: object = new Proxy(
    {},
    {
      get: (_, key) => {
        path.push(String(key))
        return recorder
      },
    },
  )
  accessor(recorder as never)
  return path
}

const walk = (value: unknown, path: ReadonlyArray<string>): unknown => {
  let at = value
  for (const key of path) {
    if (at === null || typeof at !== "object" || !Object.hasOwn(at, key)) return undefined
    at = (at as { readonly [key: string]: unknown })[key]
  }
  return at
}

/** 1234567 as 1,234,567: the same on every machine, whatever its locale. */
export const integer = (value: number): string => String(Math.round(value)).replace(/\B(?=(\d{3})+(?!\d))/g, ",")
/** Four decimals, or four digits where those would be nothing but zeros. */
export const decimal = (value: number): string =>
  value !== 0 && Math.abs(value) < 0.001 ? value.toPrecision(4) : value.toFixed(4)
/** A share of one, in hundredths. */
export const percent = (value: number): string => `${decimal(100 * value)}%`
/** 2.3e+12, for what nobody counts on fingers. */
export const scientific = (value: number): string => value.toExponential(2)
/** As JavaScript writes it: settings such as 2e-4 or 0.95. */
export const exact = (value: number): string => String(value)

export type Format = (value: number) => string

export interface MeasuredText {
  readonly value: string
  /** "0.4100 – 0.6300", or a dash. */
  readonly interval: string
  /** "40 samples", or a dash. */
  readonly over: string
}

type Accessor<K extends keyof ReleaseFiles, A> = (file: ReleaseFiles[K]) => A

export class Citations {
  readonly all: Array<Citation> = []
  readonly files: ReleaseFiles
  private readonly names: Record<FileKey, string>
  constructor(files: ReleaseFiles) {
    this.files = files
    this.names = fileNames(files.release)
  }

  /** Anything already safe to print that stands for a file as a whole, such as its size. */
  of(file: string, path: ReadonlyArray<string>, text: string): string {
    this.all.push({ file, path, text })
    return `${OPEN}${this.all.length - 1}${BREAK}${text}${CLOSE}`
  }

  number<K extends keyof ReleaseFiles>(
    file: K,
    accessor: Accessor<K, number | undefined>,
    format: Format = decimal,
  ): string {
    const path = pathOf(accessor)
    const value = walk(this.files[file], path)
    if (typeof value !== "number") throw new MissingFigure(this.names[file], path, "a number")
    return this.of(this.names[file], path, format(value))
  }

  text<K extends keyof ReleaseFiles>(
    file: K,
    accessor: Accessor<K, string | null | undefined>,
    format: (text: string) => string = inline,
  ): string {
    const path = pathOf(accessor)
    const value = walk(this.files[file], path)
    if (typeof value !== "string") throw new MissingFigure(this.names[file], path, "a text")
    return this.of(this.names[file], path, format(value))
  }

  /** The name of a member: metrics, sources and keys are records by name. */
  key<K extends keyof ReleaseFiles>(
    file: K,
    accessor: Accessor<K, { readonly [key: string]: unknown }>,
    key: string,
    format: (text: string) => string = inline,
  ): string {
    const path = pathOf(accessor)
    const record = walk(this.files[file], path)
    if (record === null || typeof record !== "object" || !Object.hasOwn(record, key))
      throw new MissingFigure(this.names[file], [...path, key], "there")
    return this.of(this.names[file], [...path, key], format(key))
  }

  interval<K extends keyof ReleaseFiles>(
    file: K,
    accessor: Accessor<K, readonly [number, number] | undefined>,
    format: Format = decimal,
  ): string {
    const path = pathOf(accessor)
    const value = walk(this.files[file], path)
    if (value === undefined) return "–"
    if (!Array.isArray(value)) throw new MissingFigure(this.names[file], path, "an interval")
    const [low, high] = value as [number, number]
    return `${this.of(this.names[file], [...path, "0"], format(low))} – ${this.of(this.names[file], [...path, "1"], format(high))}`
  }

  measured<K extends keyof ReleaseFiles>(
    file: K,
    accessor: Accessor<K, Measured | undefined>,
    format: Format = decimal,
  ): MeasuredText {
    const path = pathOf(accessor)
    const value = walk(this.files[file], path) as Measured | undefined
    if (value === undefined) throw new MissingFigure(this.names[file], path, "there")
    // `accessor` gives a Measured wherever the walk found one.
    const at = (file: ReleaseFiles[K]): Measured => accessor(file) as Measured
    return {
      value: this.number(file, (file) => at(file).value, format),
      interval: this.interval(file, (file) => at(file).ci95, format),
      over:
        value.n === undefined ? "–" : `${this.number(file, (file) => at(file).n, integer)} ${value.unit ?? ""}`.trim(),
    }
  }
}

/** Words of templates that have digits in them and are no figures. */
const VOCABULARY =
  /\bGPT-2\b|(?<![\d.,])95%|\bp < 0\.05\b|\bSHA256SUMS\b|\bsha256(?:sum)?\b|\bsafetensors\b|\bCO2\b|\bArticle 53\(1\)\(d\) of Regulation \(EU\) 2024\/1689/g

/** Numbers of a text, words of the vocabulary left out: a minus belongs to a number where it is no hyphen. */
export const numbersIn = (text: string): ReadonlyArray<string> =>
  Array.from(text.replace(VOCABULARY, "").matchAll(/(?<![\p{L}\d_-])-\d[\d.,]*|\d[\d.,]*/gu), ([number]) =>
    number.replace(/[.,]+$/, ""),
  )

const CITED = new RegExp(`${OPEN}(\\d+)${BREAK}([^${CLOSE}]*)${CLOSE}`, "gu")

/** Numbers of a rendered text (front matter left out) that no citation vouches for. */
export const untracedNumbers = (marked: string): ReadonlyArray<string> => numbersIn(marked.replace(CITED, ""))

export const unmark = (marked: string): string => marked.replace(CITED, "$2")

/** A marked text in its parts: what stands there, and by which citation; by none, where it is the template's. */
export const partsOf = (marked: string): ReadonlyArray<{ readonly text: string; readonly citation?: number }> => {
  const parts: Array<{ readonly text: string; readonly citation?: number }> = []
  let end = 0
  for (const match of marked.matchAll(CITED)) {
    if (match.index > end) parts.push({ text: marked.slice(end, match.index) })
    parts.push({ text: match[2]!, citation: Number(match[1]) })
    end = match.index + match[0].length
  }
  if (end < marked.length) parts.push({ text: marked.slice(end) })
  return parts
}
