/**
 * Two runs side by side: what went into each, and what came out.
 *
 * Steps are paired by what they made, then by label, then by kind in the order of the plan; what is left over is in one run alone.
 */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { sha256 } from "../model/Digest.ts"
import type { BenchmarkMetrics, Comparison, HoldoutReport, Measured } from "../model/Report.ts"
import type { Manifest } from "../store/Manifest.ts"
import { Store } from "../store/Store.ts"
import { type Field, leaves, ownFields } from "./Fields.ts"
import type { Run } from "./Tags.ts"

export interface StepPair {
  readonly label: string
  readonly a: string | undefined
  readonly b: string | undefined
  /** `equal bytes`: made of other inputs, or by other code, and the same in every file. */
  readonly verdict: "same" | "equal bytes" | "differs" | "in A alone" | "in B alone" | "not there"
  /** What differs in the step itself, not in what it was given. */
  readonly fields: ReadonlyArray<Field>
  readonly code: readonly [a: string, b: string] | undefined
}

export interface MetricPair {
  readonly of: string
  readonly name: string
  readonly a: Measured | undefined
  readonly b: Measured | undefined
  readonly difference: number | undefined
}

export interface ReleasePair {
  readonly label: string
  readonly files: number
  readonly differ: ReadonlyArray<string>
}

export interface Difference {
  readonly a: string
  readonly b: string
  readonly parameters: ReadonlyArray<{ readonly path: string; readonly a: unknown; readonly b: unknown }>
  readonly experimentFile: "same" | "differs"
  readonly sources: ReadonlyArray<{ readonly source: string; readonly a: unknown; readonly b: unknown }>
  readonly steps: ReadonlyArray<StepPair>
  readonly winners: ReadonlyArray<{
    readonly of: string
    readonly a: string | undefined
    readonly b: string | undefined
  }>
  /** Of the winners, and of them on the holdout; without a selection, of each benchmark. */
  readonly metrics: ReadonlyArray<MetricPair>
  readonly releases: ReadonlyArray<ReleasePair>
}

type Step = Run["record"]["steps"][number]
type Pair = readonly [a: Step | undefined, b: Step | undefined]

const kindOf = (artifact: string): string => artifact.slice(0, artifact.lastIndexOf("-"))

const pairUp = (a: ReadonlyArray<Step>, b: ReadonlyArray<Step>): ReadonlyArray<Pair> => {
  const partner = new Map<Step, Step>()
  const taken = new Set<Step>()
  for (const same of [
    (x: Step, y: Step) => x.artifact === y.artifact,
    (x: Step, y: Step) => x.label === y.label && kindOf(x.artifact) === kindOf(y.artifact),
    (x: Step, y: Step) => kindOf(x.artifact) === kindOf(y.artifact),
  ])
    for (const x of a) {
      if (partner.has(x)) continue
      const y = b.find((one) => !taken.has(one) && same(x, one))
      if (y === undefined) continue
      partner.set(x, y)
      taken.add(y)
    }
  return [
    ...a.map((x): Pair => [x, partner.get(x)]),
    ...b.filter((y) => !taken.has(y)).map((y): Pair => [undefined, y]),
  ]
}

const json = <A>(...path: ReadonlyArray<string>): A | undefined => {
  const file = join(...path)
  return existsSync(file) ? JSON.parse(readFileSync(file, "utf8")) : undefined
}

/** What a release says of the clock, the machine and git: no part of what came out. */
const volatile = (path: string): boolean => /(^|\/)(provenance\.json|SHA256SUMS)$/.test(path)

export const compare = Effect.fn("Difference.compare")(function* (a: Run, b: Run) {
  const store = yield* Store
  const manifests = new Map((yield* store.list()).map((manifest) => [manifest.artifact, manifest]))
  const manifestOf = (step: Step | undefined): Manifest | undefined =>
    step === undefined ? undefined : manifests.get(step.artifact)
  const pairs = pairUp(a.record.steps, b.record.steps)

  const steps = pairs.map(([x, y]): StepPair => {
    const label =
      x === undefined ? y!.label : y === undefined || x.label === y.label ? x.label : `${x.label} | ${y.label}`
    const given = { label, a: x?.artifact, b: y?.artifact, fields: [], code: undefined }
    if (x === undefined || y === undefined) return { ...given, verdict: y === undefined ? "in A alone" : "in B alone" }
    if (x.artifact === y.artifact) return { ...given, verdict: "same" }
    const [made, other] = [manifestOf(x), manifestOf(y)]
    if (made === undefined || other === undefined) return { ...given, verdict: "not there" }
    const alike = JSON.stringify(made.files) === JSON.stringify(other.files)
    return {
      ...given,
      verdict: alike ? "equal bytes" : "differs",
      fields: ownFields(made, other),
      code: made.code === other.code ? undefined : [made.code, other.code],
    }
  })

  const ofKind = (kind: string) => pairs.filter((pair) => pair.some((step) => step && kindOf(step.artifact) === kind))
  const read = <A>(step: Step | undefined, ...name: ReadonlyArray<string>): A | undefined =>
    step === undefined ? undefined : json<A>(store.pathOf(step.artifact), ...name)
  const labelOf = ([x, y]: Pair): string => (x ?? y)!.label

  type Inventory = { readonly sources: ReadonlyArray<{ readonly source: string; readonly sha256: string }> }
  const sources = ofKind("corpus").flatMap(([x, y]) => {
    const sums = (step: Step | undefined) =>
      Object.fromEntries(
        (read<Inventory>(step, "inventory.json")?.sources ?? []).map((one) => [one.source, one.sha256]),
      )
    return leaves(sums(x), sums(y)).map(({ path, ...rest }) => ({ source: path, ...rest }))
  })

  const metricPairs = (
    of: string,
    left: Readonly<Record<string, Measured>> | undefined,
    right: Readonly<Record<string, Measured>> | undefined,
  ): ReadonlyArray<MetricPair> =>
    [...new Set([...Object.keys(left ?? {}), ...Object.keys(right ?? {})])].map((name) => {
      const [x, y] = [left?.[name], right?.[name]]
      return { of, name, a: x, b: y, difference: x === undefined || y === undefined ? undefined : y.value - x.value }
    })
  const winnerOf = (step: Step | undefined) =>
    read<Comparison>(step, "comparison.json")?.candidates.find(({ winner }) => winner)
  const selections = ofKind("select")
  const metrics =
    selections.length > 0
      ? selections.flatMap(([x, y]) => [
          ...metricPairs("winner", winnerOf(x)?.metrics, winnerOf(y)?.metrics),
          ...metricPairs(
            "winner on the holdout",
            read<HoldoutReport>(x, "holdout.json")?.metrics,
            read<HoldoutReport>(y, "holdout.json")?.metrics,
          ),
        ])
      : ofKind("benchmark").flatMap((pair) =>
          metricPairs(
            labelOf(pair),
            read<BenchmarkMetrics>(pair[0], "benchmark_metrics.json")?.metrics,
            read<BenchmarkMetrics>(pair[1], "benchmark_metrics.json")?.metrics,
          ),
        )

  const releases = ofKind("release").flatMap((pair) => {
    const [x, y] = pair.map(manifestOf)
    if (x === undefined || y === undefined) return []
    const sums = ({ files }: Manifest) =>
      Object.fromEntries(files.filter(({ path }) => !volatile(path)).map(({ path, sha256 }) => [path, sha256]))
    const [left, right] = [sums(x), sums(y)]
    const paths = [...new Set([...Object.keys(left), ...Object.keys(right)])].sort()
    return [
      { label: labelOf(pair), files: paths.length, differ: paths.filter((path) => left[path] !== right[path]) },
    ] satisfies ReadonlyArray<ReleasePair>
  })

  const source = ({ folder }: Run): string | undefined => {
    const file = join(folder, "experiment.ts")
    return existsSync(file) ? sha256(readFileSync(file)) : undefined
  }
  return {
    a: a.name,
    b: b.name,
    parameters: leaves(
      { experiment: a.record.experiment, ...a.record.parameters },
      { experiment: b.record.experiment, ...b.record.parameters },
    ),
    experimentFile: source(a) === source(b) ? "same" : "differs",
    sources,
    steps,
    winners: selections.map((pair) => ({
      of: labelOf(pair),
      a: winnerOf(pair[0])?.candidate,
      b: winnerOf(pair[1])?.candidate,
    })),
    metrics,
    releases,
  } satisfies Difference
})
