/**
 * `exp diff`: what went into two runs, and what came out.
 */
import { dirname, resolve } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import { figure } from "../evaluation/Comparison.ts"
import type { Measured } from "../model/Report.ts"
import { compare, type Difference } from "../run/Difference.ts"
import { resolveRun } from "../run/Tags.ts"
import { fieldName, valueText } from "./FieldText.ts"
import { services } from "./Project.ts"
import { count, table } from "./Table.ts"

export interface DiffSettings {
  readonly a: string
  readonly b: string
  readonly runs: string
  readonly json: boolean
}

const SHOWN = 8

const measured = (one: Measured | undefined): string =>
  one === undefined
    ? "–"
    : `${figure(one.value)}${one.ci95 === undefined ? "" : ` [${figure(one.ci95[0])}, ${figure(one.ci95[1])}]`}`

const plural = (n: number, noun: string): string => `${count(n)} ${noun}${n === 1 ? "" : "s"}`

const inputs = (found: Difference): ReadonlyArray<string> => {
  const rows = [
    ...found.parameters.map(({ path, a, b }) => [`parameter \`${path}\``, valueText(a), valueText(b)]),
    ...found.sources.map(({ source, a, b }) => [`sha256 of \`${source}\``, valueText(a), valueText(b)]),
    // a file's content was said as its source
    ...found.steps.flatMap(({ label, fields }) =>
      fields
        .filter(({ what }) => what !== "file")
        .map((field) => [`${label}: ${fieldName(field)}`, valueText(field.a), valueText(field.b)]),
    ),
  ]
  const codes = new Set(found.steps.flatMap(({ code }) => (code === undefined ? [] : [code.join(" ")])))
  for (const pair of codes) {
    const [a, b] = pair.split(" ")
    rows.push(["code", valueText(a), valueText(b)])
  }
  if (rows.length === 0)
    return [found.experimentFile === "same" ? "the same went in" : "the same went in; the experiment's text differs"]
  const note = found.experimentFile === "differs" ? ["the experiment's text differs"] : []
  return ["what went in", table(["", "A", "B"], rows), ...note]
}

const outputs = (found: Difference): ReadonlyArray<string> => {
  const same = found.steps.filter(({ verdict }) => verdict === "same").length
  const rows = found.steps
    .filter(({ verdict }) => verdict !== "same")
    .map(({ verdict, label, a, b }) => [verdict, label, a ?? "–", b ?? "–"])
  return [
    "what came out",
    ...(rows.length > 0 ? [table(["", "step", "A", "B"], rows)] : []),
    ...(same > 0 ? [`${plural(same, "step")} ${same === 1 ? "is" : "are"} the same artifact in both`] : []),
  ]
}

const metrics = (found: Difference): ReadonlyArray<string> => {
  const of = [...new Set(found.metrics.map((one) => one.of))]
  return of.flatMap((subject) => {
    const all = found.metrics.filter((one) => one.of === subject)
    const differing = all.filter(({ a, b }) => JSON.stringify(a) !== JSON.stringify(b))
    const equal = all.length - differing.length
    const rows = differing.map(({ name, a, b, difference }) => [
      name,
      measured(a),
      measured(b),
      difference === undefined ? "–" : `${difference >= 0 ? "+" : ""}${figure(difference)}`,
    ])
    return [
      "",
      ...(rows.length > 0 ? [table([subject, "A", "B", "B − A"], rows, ["left", "right", "right", "right"])] : []),
      ...(equal > 0 ? [`${subject}: ${plural(equal, "metric")} ${equal === 1 ? "is" : "are"} equal`] : []),
    ]
  })
}

const releases = (found: Difference): ReadonlyArray<string> =>
  found.releases.flatMap(({ label, files, differ }) => [
    "",
    differ.length === 0
      ? `${label}: all ${count(files)} files are byte-equal, but for clock, machine and git in provenance.json`
      : `${label}: ${count(differ.length)} of ${count(files)} files differ: ${differ.slice(0, SHOWN).join(", ")}${
          differ.length > SHOWN ? ` and ${differ.length - SHOWN} more` : ""
        }`,
  ])

const winners = (found: Difference): ReadonlyArray<string> =>
  found.winners.map(({ of, a, b }) =>
    a === b ? `${of}: \`${a ?? "–"}\` won in both` : `${of}: \`${a ?? "–"}\` won in A, \`${b ?? "–"}\` in B`,
  )

const text = (found: Difference): string =>
  [
    `A  ${found.a}`,
    `B  ${found.b}`,
    "",
    ...inputs(found),
    "",
    ...outputs(found),
    ...(found.winners.length > 0 ? ["", ...winners(found)] : []),
    ...metrics(found),
    ...releases(found),
  ].join("\n")

export const diff = Effect.fn("exp diff")(function* (settings: DiffSettings) {
  const runs = resolve(settings.runs)
  const a = yield* resolveRun(runs, settings.a)
  const b = yield* resolveRun(runs, settings.b)
  // a run that is named by its folder may be of other runs than these
  const found = yield* compare(a, b).pipe(Effect.provide(services(dirname(a.folder))))
  yield* Console.log(settings.json ? JSON.stringify(found) : text(found))
})
