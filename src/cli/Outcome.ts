/**
 * What a run ends with, in words: the winner and who ties with it, the recommended preset, and samples read honestly.
 */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import type { Comparison, DecodingSummary, GenerationRecord, HoldoutReport } from "../model/Report.ts"
import { table } from "./Table.ts"

const json = <A>(...path: ReadonlyArray<string>): A => JSON.parse(readFileSync(join(...path), "utf8"))

const fixed = (value: number | undefined, digits = 4): string => (value === undefined ? "–" : value.toFixed(digits))

const interval = (
  measured: { readonly value: number; readonly ci95?: readonly [number, number] } | undefined,
): string =>
  measured === undefined
    ? "–"
    : `${fixed(measured.value)}${measured.ci95 ? ` [${fixed(measured.ci95[0])}, ${fixed(measured.ci95[1])}]` : ""}`

const selection = (path: string): ReadonlyArray<string> => {
  const comparison = json<Comparison>(path, "comparison.json")
  const holdout = json<HoldoutReport>(path, "holdout.json")
  const shown = comparison.candidates.slice(0, 8)
  return [
    "",
    `selection by ${comparison.by}`,
    table(
      ["", "candidate", comparison.by, "difference", "p (Holm)"],
      shown.map((candidate) => [
        candidate.winner ? "won" : candidate.tied ? "tied" : "",
        candidate.candidate,
        interval(candidate.metrics[comparison.by]),
        candidate.difference === undefined ? "" : interval(candidate.difference),
        candidate.difference === undefined ? "" : candidate.difference.p_holm.toFixed(4),
      ]),
      ["left", "left", "right", "right", "right"],
    ),
    ...(comparison.candidates.length > shown.length
      ? [`… and ${comparison.candidates.length - shown.length} more`]
      : []),
    comparison.words,
    holdout.words,
  ]
}

const decoding = (path: string): ReadonlyArray<string> => {
  const summary = json<DecodingSummary>(path, "decoding_summary.json")
  const { name, doSample, temperature, topK, topP, repetitionPenalty } = summary.recommended
  const settings = doSample
    ? `temperature ${temperature}, top_k ${topK}, top_p ${topP}, repetition_penalty ${repetitionPenalty}`
    : "greedy"
  const generations = readFileSync(join(path, "holdout_generations.jsonl"), "utf8")
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => JSON.parse(line) as GenerationRecord)
    .filter((record) => record.preset === name)
  const languages = [...new Set(generations.map((record) => record.language))]
  const samples = [...languages, ...languages, ...languages]
    .slice(0, 3)
    .map(
      (language, index) =>
        generations.filter((record) => record.language === language)[Math.floor(index / languages.length)],
    )
    .filter((record) => record !== undefined)
  return [
    "",
    `recommended preset: ${name} (${settings})`,
    summary.words,
    "",
    "three samples, first holdout prompts, not chosen:",
    ...samples.map((record) => `  [${record.language}] ${record.prompt} ⟶${record.generated.replaceAll("\n", " ⏎ ")}`),
  ]
}

/** The card's own list of what the model cannot do, written from its numbers. */
const release = (path: string): ReadonlyArray<string> => {
  const card = readFileSync(join(path, "release", "README.md"), "utf8")
  const limitations = /\n## Limitations\n+([\s\S]*?)\n## /.exec(card)?.[1] ?? ""
  return ["", "honest reading, as the model card has it:", limitations.trimEnd()]
}

const kindOf = (artifact: string): string => artifact.slice(0, artifact.lastIndexOf("-"))

const published = (path: string): ReadonlyArray<string> => {
  const { url, revision, tag } = json<{ url: string; revision: string; tag: string }>(path, "receipt.json")
  return ["", `published ${url}`, `revision  ${revision}`, `tag       ${tag}`]
}

/** What the artifacts of a run have to say, in the order they were made. */
export const summary = (
  artifacts: ReadonlyArray<string>,
  pathOf: (artifact: string) => string,
): ReadonlyArray<string> =>
  artifacts.flatMap((artifact) => {
    const path = pathOf(artifact)
    if (!existsSync(path)) return []
    switch (kindOf(artifact)) {
      case "select":
        return selection(path)
      case "sweep":
        return decoding(path)
      case "release":
        return release(path)
      case "publish":
        return published(path)
      default:
        return []
    }
  })
