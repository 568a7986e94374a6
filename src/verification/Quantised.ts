/**
 * What quantising costs, and the importance matrix, measured again on the texts they were measured on. Which texts these are follows from
 * the release: of each training source the first validation documents, as many as `quantisation.json` says and as one share of tokens
 * would take; and the first rows of the order in which training read.
 *
 * On the same engine and kind of processor everything comes out to the last bit. Elsewhere logits differ by what rounding moves:
 *
 * | what                                   | tolerance                                                                       |
 * |----------------------------------------|---------------------------------------------------------------------------------|
 * | perplexity                             | 1e-4 of its size; its change 2e-4 of the perplexity                             |
 * | mean divergence                        | 1e-2 of its size, and 1e-8 nats                                                 |
 * | median, 99% and largest divergence     | 1e-2 of their size, and 1e-7 nats                                               |
 * | change of probability: mean, RMS       | 1e-2 of their size, and 1e-6                                                    |
 * | same first choice                      | 2 tokens, and 1 of 1,000                                                        |
 * | ends of intervals                      | ten times that of what they are about                                           |
 * | sums of squares                        | 1e-3 of their size, and 1e-6 of the largest of their matrix                     |
 */
import { rmSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import { rowOrder } from "../data/RowOrder.ts"
import { Activations } from "../engine/Activations.ts"
import { Engine } from "../engine/Engine.ts"
import { tensors } from "../model/Architecture.ts"
import type { Measured, Quantisation, QuantisationLoss } from "../model/Report.ts"
import { modelConfig, plain } from "../release/Export.ts"
import type { ReleaseFiles } from "../release/Folder.ts"
import { compare } from "../release/gguf/Compare.ts"
import { readSums } from "../release/gguf/ImportanceFile.ts"
import { lossesOf, unpack, windowsOf } from "../release/gguf/Measure.ts"
import { pickFile } from "../release/gguf/Pick.ts"
import { shapeOf } from "../release/gguf/Shape.ts"
import { judged } from "./Fault.ts"
import { type Finding, within } from "./Finding.ts"
import { type Release, temporary } from "./Release.ts"
import { OtherTokens, type Texts } from "./Texts.ts"

const { ok, wrong, skipped } = within("measurements")

const COSTS = "what quantising costs"
const SUMS = "importance matrix"
/** Bytes of the base's logits that wait on disk at most. */
const HELD_BYTES = 1 << 30
/** One wrong figure makes others wrong: so many are told of a file. */
const MOST = 3

type Quantised = ReleaseFiles & { readonly quantisation: Quantisation }

export const hasQuantised = (files: ReleaseFiles): files is Quantised => files.quantisation !== undefined

export const unmeasured = (why: string): ReadonlyArray<Finding> => [skipped(COSTS, why), skipped(SUMS, why)]

interface Chosen {
  readonly source: string
  readonly language: string
  /** Of each document that it has for validation, in their order, the token ids. */
  readonly all: ReadonlyArray<ArrayLike<number>>
  readonly count: number
}

/** Whether one share of tokens, the same for all sources, takes exactly so many documents of each. */
const isOneShare = (chosen: ReadonlyArray<Chosen>): boolean => {
  const bounds = chosen.map(({ all, count }) => {
    const tokens = (documents: number) => all.slice(0, documents).reduce((sum, ids) => sum + ids.length, 0)
    return {
      above: count === 0 ? 0 : tokens(count - 1),
      upTo: count === all.length ? Number.POSITIVE_INFINITY : tokens(count),
    }
  })
  return Math.max(...bounds.map(({ above }) => above)) < Math.min(...bounds.map(({ upTo }) => upTo))
}

/** The documents that were measured; undefined where they cannot be told from here. */
const chosenIn = Effect.fnUntraced(function* ({ quantisation, tokens }: Quantised, texts: Texts) {
  const found = yield* texts.documents("validation")
  if (found === undefined) return undefined
  const ids = new Map(found.sequences.map(({ id, ids }) => [id, ids]))
  return tokens.sources
    .filter(({ role }) => role === "train")
    .map(
      ({ source, language }): Chosen => ({
        source,
        language,
        all: found.documents.filter((document) => document.source === source).map(({ id }) => ids.get(id)!),
        count: quantisation.sources[source] ?? 0,
      }),
    )
})

const problemOfChoice = ({ sources, documents }: Quantisation, chosen: ReadonlyArray<Chosen>): string | undefined => {
  const stranger = Object.keys(sources).find((name) => !chosen.some(({ source }) => source === name))
  if (stranger !== undefined) return `${stranger} is no source of the training`
  const short = chosen.find(({ all, count }) => all.length < count)
  if (short !== undefined) return `${short.source} has ${short.all.length} validation documents, not ${short.count}`
  const sum = chosen.reduce((total, { count }) => total + count, 0)
  if (sum !== documents) return `${sum} documents by their sources, not ${documents}`
  return isOneShare(chosen) ? undefined : "no share of tokens takes so many documents of each source"
}

interface Apart {
  readonly figure: string
  readonly said: number
  readonly again: number
  readonly allowed: number
}

/** Every figure of one loss beside the one measured now. */
const figuresOf = (said: QuantisationLoss, again: QuantisationLoss): ReadonlyArray<Apart> => {
  const size = (a: number, b: number) => Math.max(Math.abs(a), Math.abs(b))
  const share = (least: number) => (a: number, b: number) => least + 1e-2 * size(a, b)
  const tokens = again.ppl.n ?? 1
  const allowed: { readonly [figure: string]: (a: number, b: number) => number } = {
    ppl: (a, b) => 1e-4 * size(a, b),
    delta_ppl: () => 2e-4 * again.ppl.value,
    kld: share(1e-8),
    mean_delta_p: share(1e-6),
    rms_delta_p: share(1e-6),
    same_top_p: () => 1e-3 + 2 / tokens,
  }
  const one = (figure: string, a: number, b: number, times = 1): Apart => ({
    figure,
    said: a,
    again: b,
    allowed: times * (allowed[figure] ?? share(1e-7))(a, b),
  })
  const measured = ["ppl", "delta_ppl", "kld", "mean_delta_p", "rms_delta_p", "same_top_p"] as const
  const ends = (figure: string, { ci95: a }: Measured, { ci95: b }: Measured): ReadonlyArray<Apart> =>
    [0, 1].map((end) => {
      const apart = one(figure, a?.[end] ?? Number.NaN, b?.[end] ?? Number.NaN, 10)
      return { ...apart, figure: `${end === 0 ? "lower" : "upper"} end of ${figure}` }
    })
  return [
    ...measured.flatMap((name) => [
      one(name, said[name].value, again[name].value),
      ...ends(name, said[name], again[name]),
      { figure: `n of ${name}`, said: said[name].n ?? 0, again: again[name].n ?? 0, allowed: 0 },
    ]),
    ...(["kld_median", "kld_p99", "kld_max"] as const).map((name) => one(name, said[name], again[name])),
  ]
}

/** Each file's table, all languages, beside what is measured now. */
const compareFile = (
  said: Quantisation["files"][number],
  again: Readonly<Record<string, QuantisationLoss>>,
): { readonly problems: ReadonlyArray<string>; readonly figures: number; readonly most: number } => {
  const names = [...new Set([...Object.keys(said.losses), ...Object.keys(again)])]
  const problems: Array<string> = []
  let [figures, most] = [0, 0]
  for (const name of names) {
    const [a, b] = [said.losses[name], again[name]]
    if (a === undefined || b === undefined) {
      problems.push(`${name}: ${a === undefined ? "it is missing" : "no such texts were measured"}`)
      continue
    }
    for (const { figure, said, again, allowed } of figuresOf(a, b)) {
      figures++
      if (said === again) continue
      if (!(Math.abs(said - again) <= allowed)) problems.push(`${name}, ${figure}: ${said}, measured again ${again}`)
      else most = Math.max(most, Math.abs(said - again) / Math.max(Math.abs(said), Math.abs(again)))
    }
  }
  return { problems, figures, most }
}

const howNear = (most: number): string =>
  most === 0 ? "to the last bit" : `within tolerance, at most ${most.toExponential(1)} of their size apart`

const costs = Effect.fnUntraced(function* (
  { view }: Release,
  checkpoint: string,
  files: Quantised,
  texts: Texts,
  say: (text: string) => void,
) {
  const { quantisation, state, tokens, training } = files
  const { numerics } = yield* Engine
  if (numerics.precision !== training.engine.precision)
    return [
      skipped(COSTS, `it was measured in ${training.engine.precision}, this engine computes in ${numerics.precision}`),
    ]
  const chosen = yield* chosenIn(files, texts)
  if (chosen === undefined) return [skipped(COSTS, `which documents were measured cannot be told from ${texts.from}`)]
  const problem = problemOfChoice(quantisation, chosen)
  if (problem !== undefined) return [wrong(COSTS, problem)]

  const { architecture } = state
  const config = plain(modelConfig(architecture, tokens)) as Readonly<Record<string, unknown>>
  const names = new Set(tensors(architecture).map(({ name }) => name))
  const scratch = yield* temporary
  const windows = windowsOf(
    chosen.flatMap(({ language, all, count }) => all.slice(0, count).map((ids) => ({ language, ids }))),
    architecture.context,
  )
  // one after the other: a file unpacked is as large as the weights
  const again: Array<Quantisation["files"][number]> = []
  const found: Array<Finding> = []
  for (const entry of quantisation.files) {
    say(`measuring ${entry.file} again`)
    const unpacked = join(scratch, entry.file)
    yield* unpack(join(view, entry.file), unpacked, state, config, names)
    const [targets] = yield* compare({
      base: checkpoint,
      checkpoints: [unpacked],
      windows: windows.map(({ ids }) => ids),
      vocabulary: architecture.vocabulary,
      scratch,
      heldBytes: HELD_BYTES,
      begin: () => {},
    })
    rmSync(unpacked, { recursive: true })
    const losses = lossesOf(targets!, windows)
    const { problems, figures, most } = compareFile(entry, losses)
    again.push({ ...entry, losses })
    found.push(
      ...problems.slice(0, MOST).map((one) => wrong(entry.file, one)),
      ...(problems.length > MOST ? [wrong(entry.file, `and ${problems.length - MOST} other figures`)] : []),
      ...(problems.length === 0
        ? [ok(entry.file, `${figures} figures on ${quantisation.tokens} tokens of ${texts.from}: ${howNear(most)}`)]
        : []),
    )
  }
  const { file, kept } = pickFile(again, quantisation.pick)
  const same = file === quantisation.picked && kept === quantisation.rule_kept
  return [
    ...found,
    same
      ? ok("the file recommended", `by the rule and the figures measured now it is ${file} too`)
      : wrong(
          "the file recommended",
          `it is ${quantisation.picked}; by the rule and the figures measured now, ${file}`,
        ),
  ]
}, Effect.scoped)

const sumsProblem = (
  said: ReadonlyMap<string, Float32Array>,
  again: ReadonlyMap<string, Float32Array>,
): { readonly problem: string | undefined; readonly most: number } => {
  let most = 0
  for (const name of new Set([...said.keys(), ...again.keys()])) {
    const [a, b] = [said.get(name), again.get(name)]
    if (a === undefined || b === undefined || a.length !== b.length)
      return { problem: `\`${name}\` has ${a?.length ?? "no"} columns, and follows with ${b?.length ?? "none"}`, most }
    const largest = b.reduce((top, sum) => Math.max(top, sum), 0)
    for (let column = 0; column < a.length; column++) {
      const [one, other] = [a[column]!, b[column]!]
      if (one === other) continue
      const allowed = 1e-3 * Math.max(one, other) + 1e-6 * largest
      if (!(Math.abs(one - other) <= allowed))
        return { problem: `\`${name}\`, column ${column}: ${one}, summed again ${other}`, most }
      most = Math.max(most, Math.abs(one - other) / Math.max(one, other))
    }
  }
  return { problem: undefined, most }
}

const importance = Effect.fnUntraced(function* ({ view }: Release, checkpoint: string, files: Quantised, texts: Texts) {
  const { quantisation, state, tokens } = files
  if (quantisation.importance === undefined) return []
  const { architecture } = state
  const said = yield* readSums(join(view, quantisation.importance.file))
  const order = rowOrder(tokens, state.seed)
  const drawn = Array.from({ length: said.rows }, () => order.next().value as number)
  const rows = yield* judged(texts.rows(drawn))
  if (rows._tag === "Failure") {
    const { failure } = rows
    if (failure instanceof OtherTokens) return [wrong(SUMS, failure.problem)]
    return [skipped(SUMS, failure.message)]
  }
  const sums = yield* (yield* Activations)({ checkpoint, architecture, rows: rows.success })
  const config = plain(modelConfig(architecture, tokens)) as Readonly<Record<string, unknown>>
  const names = new Set(tensors(architecture).map(({ name }) => name))
  const again = new Map(
    shapeOf(config, names).tensors.flatMap(({ from, name }) => {
      const sum = sums.get(from)
      return sum === undefined ? [] : [[name, new Float32Array(sum)] as const]
    }),
  )
  const { problem, most } = sumsProblem(said.columns, again)
  return [
    problem === undefined
      ? ok(SUMS, `summed again over ${said.rows} training rows of ${texts.from}: ${howNear(most)}`)
      : wrong(SUMS, problem),
  ]
})

export const measureQuantised = Effect.fn("verification.measureQuantised")(function* (
  release: Release,
  checkpoint: string,
  files: Quantised,
  texts: Texts,
  say: (text: string) => void,
) {
  const found = yield* costs(release, checkpoint, files, texts, say)
  if (files.quantisation.importance !== undefined) say("summing activations again")
  return [...found, ...(yield* importance(release, checkpoint, files, texts))]
})
