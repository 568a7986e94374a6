/**
 * What a plan will take on this machine: per step and in sum, time, memory, disk, energy, cost. The plan says how much work there is
 * (`plan/Forecast.ts`), a calibration how fast it goes, earlier runs what steps do beside an engine, the store how long the texts are.
 * What none of them knows is left out and named; nothing is guessed in silence.
 *
 * Tokens a parameter are held against the 20 of Hoffmann et al. 2022 (arXiv 2203.15556), the ratio that spends a budget of operations
 * best; utilisation is PaLM's (arXiv 2204.02311): the operations that training needs, as a share of the device's peak.
 */
import { existsSync, readFileSync } from "node:fs"
import { join } from "node:path"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { totalOf } from "../engine/Components.ts"
import type { Numerics } from "../engine/Engine.ts"
import { type MemoryQuestion, type Room, remedyFor, trainingMemory } from "../engine/Memory.ts"
import type { MachineSettings } from "../engine/torch/Settings.ts"
import { checkpointBytes } from "../model/Architecture.ts"
import { RESUME_SECONDS } from "../model/Checkpoint.ts"
import type { Node } from "../plan/Plan.ts"
import { type Calibration, type Pace, paceOf } from "./Calibration.ts"
import { producersOf } from "./FanOut.ts"
import type { Paces } from "./Paces.ts"
import type { Survey } from "./Peek.ts"
import type { Rates } from "./Rates.ts"

/** Everything outside the plan that a forecast depends on. */
export interface Circumstances {
  readonly numerics: Numerics
  readonly device: string
  readonly room: Room
  readonly workers: number
  readonly settings?: MachineSettings
  readonly calibrations: ReadonlyArray<Calibration>
  readonly paces: Paces
  readonly rates: Rates
  /** Folder of an artifact in the store. */
  readonly pathOf: (artifact: string) => string
}

const Bytes = Schema.Finite
const Components = Schema.Struct({
  weights: Bytes,
  gradients: Bytes,
  optimizer: Bytes,
  activations: Bytes,
  logits: Bytes,
  runtime: Bytes,
})
const StepMemory = Schema.Struct({
  parts: Components,
  /** Beside a GPU, in the machine's memory. */
  host: Schema.optionalKey(Components),
  bytes: Bytes,
  how: Schema.Array(Schema.String),
  /** Why it does not fit, and the least change after which it does. */
  lacks: Schema.optionalKey(Schema.String),
  remedy: Schema.optionalKey(Schema.String),
})
export const StepForecast = Schema.Struct({
  step: Schema.String,
  label: Schema.String,
  kind: Schema.String,
  done: Schema.Boolean,
  /** Above 1: a step of a fan-out that may grow to so many. */
  times: Schema.Int,
  parameters: Schema.optionalKey(Schema.Finite),
  optimizerSteps: Schema.optionalKey(Schema.Finite),
  tokens: Schema.optionalKey(Schema.Finite),
  flops: Schema.optionalKey(Schema.Finite),
  diskBytes: Schema.optionalKey(Bytes),
  /** Of one of `times`. `partly`: what of its work no figure covers. */
  seconds: Schema.optionalKey(Schema.Finite),
  partly: Schema.optionalKey(Schema.String),
  memory: Schema.optionalKey(StepMemory),
  tokensPerSecond: Schema.optionalKey(Schema.Finite),
  mfu: Schema.optionalKey(Schema.Finite),
  /** At its end, the steps before it included. */
  tokensSeen: Schema.optionalKey(Schema.Finite),
  tokensPerParameter: Schema.optionalKey(Schema.Finite),
  epochs: Schema.optionalKey(Schema.Finite),
})
export type StepForecast = typeof StepForecast.Type

const Sum = Schema.Struct({
  steps: Schema.Finite,
  optimizerSteps: Schema.Finite,
  tokens: Schema.Finite,
  flops: Schema.Finite,
  diskBytes: Bytes,
  /** Of those steps whose time is known. */
  seconds: Schema.Finite,
  kilowattHours: Schema.optionalKey(Schema.Finite),
  cost: Schema.optionalKey(Schema.Finite),
  gramsCo2: Schema.optionalKey(Schema.Finite),
})
export const PlanForecast = Schema.Struct({
  engine: Schema.Struct({ name: Schema.String, numerics: Schema.Int, precision: Schema.String }),
  device: Schema.String,
  /** What there is to train in. */
  memoryBytes: Bytes,
  steps: Schema.Array(StepForecast),
  /** Of the whole plan, and of what is not done yet. */
  total: Sum,
  left: Sum,
  parameters: Schema.Finite,
  /** Tokens to train on: `exact` once they are packed. */
  corpus: Schema.optionalKey(Schema.Struct({ tokens: Schema.Finite, exact: Schema.Boolean })),
  calibration: Schema.optionalKey(
    Schema.Struct({
      measuredAt: Schema.String,
      matmulGflops: Schema.Finite,
      /** False where the figures are those of another shape, scaled by operations. */
      ofThisShape: Schema.Boolean,
      otherLoad: Schema.optionalKey(Schema.Finite),
    }),
  ),
  watts: Schema.optionalKey(Schema.Finite),
  currency: Schema.optionalKey(Schema.String),
  /** True when a fan-out is counted at its bound. */
  atMost: Schema.Boolean,
  /** What is left out, in words. */
  unknown: Schema.Array(Schema.String),
})
export type PlanForecast = typeof PlanForecast.Type

/** Tokens by what is done with them. */
interface Texts {
  readonly exact: boolean
  readonly bytes: number
  readonly train: number
  /** Of all sources, and of those trained on: a benchmark measures the former, training the latter. */
  readonly validation: number
  readonly trainedValidation: number
  readonly holdout: number
}

/** Of `inventory.json`, what both a corpus and its packed tokens say; the latter count tokens too. */
const Inventory = Schema.fromJsonString(
  Schema.Struct({
    sources: Schema.Array(
      Schema.Struct({
        role: Schema.Literals(["train", "evaluate"]),
        parts: Schema.Record(
          Schema.String,
          Schema.Struct({ tokens: Schema.optionalKey(Schema.Finite), bytes: Schema.Finite }),
        ),
      }),
    ),
  }),
)
const readInventory = Schema.decodeUnknownOption(Inventory)

/** Bytes of text that a token stands for, by the size of its vocabulary: 3.0 at 2,048 entries, a third of a byte more for each doubling. */
const bytesPerToken = (vocabulary: number): number => Math.max(1, 3 + 0.33 * (Math.log2(vocabulary) - 11))
/** Of what a corpus takes on disk, the text itself. */
const TEXT_SHARE = 0.65

const fromInventory = (path: string, vocabulary: number): Texts | undefined => {
  const file = join(path, "inventory.json")
  const inventory = Option.getOrUndefined(existsSync(file) ? readInventory(readFileSync(file, "utf8")) : Option.none())
  if (inventory === undefined) return undefined
  const { sources } = inventory
  const exact = sources.some(({ parts }) => parts["train"]?.tokens !== undefined)
  const sum = (part: string, of: (role: "train" | "evaluate") => boolean = () => true): number =>
    sources.reduce((sum, { role, parts }) => {
      const { tokens, bytes } = parts[part] ?? { bytes: 0 }
      return of(role) ? sum + (tokens ?? bytes / bytesPerToken(vocabulary)) : sum
    }, 0)
  const trained = (role: string): boolean => role === "train"
  return {
    exact,
    bytes: sources.reduce((sum, { parts }) => sum + Object.values(parts).reduce((all, { bytes }) => all + bytes, 0), 0),
    train: sum("train"),
    validation: sum("validation"),
    trainedValidation: sum("validation", trained),
    holdout: sum("holdout", trained),
  }
}

/** By the size of the files that will be read, where the plan can see them, and by the bounds of data sets to be brought. */
const fromFiles = (corpus: Node, vocabulary: number, dataSets: ReadonlyArray<Node>): Texts | undefined => {
  const brought = dataSets.map(({ definition, params }) => definition.writes?.(params, {}))
  // one without a bound may be of any size
  if (!brought.every((bytes) => bytes !== undefined)) return undefined
  const texts = brought.reduce((sum, bytes) => sum + bytes, 0)
  const bytes = TEXT_SHARE * (corpus.definition.writes?.(corpus.params, { texts }) ?? 0)
  const { train, evaluate, split } = corpus.params as {
    readonly train?: Readonly<Record<string, ReadonlyArray<string>>>
    readonly evaluate?: Readonly<Record<string, ReadonlyArray<string>>>
    readonly split?: { readonly validation: number; readonly holdout: number }
  }
  if (bytes === 0 || train === undefined || split === undefined) return undefined
  const count = (sources: typeof train = {}): number => Object.values(sources).flat().length
  const trained = (bytes * count(train)) / (count(train) + count(evaluate)) / bytesPerToken(vocabulary)
  const measured = bytes / bytesPerToken(vocabulary) - trained
  return {
    exact: false,
    bytes,
    train: trained * (1 - split.validation - split.holdout),
    validation: trained * split.validation + measured,
    trainedValidation: trained * split.validation,
    holdout: trained * split.holdout,
  }
}

/** The steps of a plan one by one, a fan-out of unknown length as its body, with how many times there may be of each. */
const counted = (
  nodes: ReadonlyArray<Node>,
  copies: Survey["copies"],
  times = 1,
): ReadonlyArray<{ readonly node: Node; readonly times: number }> =>
  nodes.flatMap((node) => {
    if (node.body === undefined) return [{ node, times }]
    const known = copies.get(node.id)
    return known === undefined
      ? counted(node.body.nodes, copies, times * node.body.atMost)
      : counted(known, copies, times)
  })

/** Finds the nearest step of a kind among those that a step is made from. */
const upstream = (nodes: ReadonlyArray<Node>, copies: Survey["copies"]) => {
  const producers = producersOf(nodes, copies)
  const found = new Map<string, Node | undefined>()
  const of = (node: Node, kind: string): Node | undefined => {
    const asked = `${kind} ${node.id}`
    if (found.has(asked)) return found.get(asked)
    found.set(asked, undefined)
    const parents = producers(Object.values(node.inputs).flat())
    const answer =
      parents.find(({ definition }) => definition.kind === kind) ??
      parents.reduce<Node | undefined>((answer, parent) => answer ?? of(parent, kind), undefined)
    found.set(asked, answer)
    return answer
  }
  return of
}

const pathIn = (seen: Survey, { pathOf }: Circumstances, node: Node): string | undefined => {
  const standing = seen.standing.get(node.id)
  return standing?._tag === "Cached" ? pathOf(standing.artifact) : undefined
}

const textsFor = (nodes: ReadonlyArray<Node>, seen: Survey, circumstances: Circumstances) => {
  const of = upstream(nodes, seen.copies)
  const read = new Map<string, Texts | undefined>()
  const once = (key: string, make: () => Texts | undefined): Texts | undefined => {
    if (!read.has(key)) read.set(key, make())
    return read.get(key)
  }
  const vocabularyOf = (node: Node | undefined): number =>
    (node && (of(node, "tokenizer")?.params["vocabulary"] as number | undefined)) ?? 16_384
  return (node: Node): Texts | undefined => {
    const pack = node.definition.kind === "pack" ? node : of(node, "pack")
    const corpus = node.definition.kind === "corpus" ? node : of(pack ?? node, "corpus")
    const packed = pack && pathIn(seen, circumstances, pack)
    const fromPack = packed && once(packed, () => fromInventory(packed, 0))
    if (fromPack) return fromPack
    if (corpus === undefined) return undefined
    const vocabulary = vocabularyOf(pack)
    const path = pathIn(seen, circumstances, corpus)
    return once(`${corpus.id} ${vocabulary}`, () =>
      path === undefined
        ? fromFiles(
            corpus,
            vocabulary,
            nodes.filter(({ id }) => corpus.inputs["texts"]?.some((ref) => ref._tag === "Output" && ref.step === id)),
          )
        : fromInventory(path, vocabulary),
    )
  }
}

interface Duration {
  readonly seconds: number
  /** What is not in it. */
  readonly without?: string
}

const trainingSeconds = (node: Node, pace: Pace, texts: Texts | undefined): number => {
  const { optimizerSteps = 0, diskBytes = 0, compute } = node.forecast
  const { rowsPerStep, validations, samples } = compute!.training!
  const steps = optimizerSteps * (pace.perStep + pace.perRow * rowsPerStep)
  const drawn = (samples.texts * samples.newTokens) / pace.drawnTokensPerSecond
  const measured = (texts?.trainedValidation ?? 0) / pace.measuredTokensPerSecond
  const resumed = (steps / RESUME_SECONDS) * checkpointBytes(compute!.architecture, true)
  return steps + validations * (measured + drawn) + (diskBytes + resumed) / pace.writtenBytesPerSecond
}

/** Kinds that read texts: what they take grows with these. */
const READING = new Set(["corpus", "tokenizer", "pack"])

const amountOf = ({ definition }: Node, texts: Texts | undefined): number | undefined =>
  READING.has(definition.kind) ? texts?.bytes : 1

/** What the engine is asked for, in seconds; undefined where nobody knows its pace. */
const engineSeconds = (node: Node, pace: Pace | undefined, texts: Texts | undefined): number | undefined => {
  const { compute } = node.forecast
  if (compute === undefined) return 0
  if (pace === undefined) return undefined
  if (compute.training !== undefined) return trainingSeconds(node, pace, texts)
  const { validation = 0, holdout = 0 } = compute.passes ?? {}
  const measured = validation * (texts?.validation ?? 0) + holdout * (texts?.holdout ?? 0)
  const { texts: drawn = 0, newTokens = 0 } = compute.drawn ?? {}
  return measured / pace.measuredTokensPerSecond + (drawn * newTokens) / pace.drawnTokensPerSecond
}

const durationOf = (
  node: Node,
  pace: Pace | undefined,
  texts: Texts | undefined,
  paces: Paces,
): Duration | undefined => {
  const engine = engineSeconds(node, pace, texts)
  const { compute } = node.forecast
  if (compute?.training !== undefined) return engine === undefined ? undefined : { seconds: engine }
  const own = paces[node.definition.kind]
  const amount = amountOf(node, texts)
  const beside = own && amount !== undefined ? (own.seconds / own.amount) * amount : undefined
  if (compute === undefined) return beside === undefined ? undefined : { seconds: beside }
  if (engine === undefined) return undefined
  const lacking = texts === undefined && compute.passes !== undefined ? "documents, not packed yet" : undefined
  const without = beside === undefined ? "what it does beside the engine" : lacking
  return { seconds: engine + (beside ?? 0), ...(without !== undefined && { without }) }
}

/** The question of how a step of training fits, where it is one. */
export const memoryQuestion = (
  node: Node,
  { numerics, room, workers, settings }: Pick<Circumstances, "numerics" | "room" | "workers" | "settings">,
): MemoryQuestion | undefined => {
  const { compute } = node.forecast
  if (compute?.training === undefined) return undefined
  const { architecture, training } = compute
  return {
    numerics,
    architecture,
    rowsPerStep: training.rowsPerStep,
    length: architecture.context,
    room,
    workers,
    ...(settings && { settings }),
  }
}

const memoryOf = (node: Node, circumstances: Circumstances): Pick<StepForecast, "memory"> => {
  const question = memoryQuestion(node, circumstances)
  if (question === undefined) return {}
  const { parts, host, how, lacks } = trainingMemory(question)
  const remedy = lacks === undefined ? undefined : remedyFor(question)?.change
  return {
    memory: {
      parts,
      ...(host && { host }),
      bytes: totalOf(parts),
      how,
      ...(lacks !== undefined && { lacks }),
      ...(remedy !== undefined && { remedy }),
    },
  }
}

/** Bytes that steps leave, by id: as they say, or from what their inputs weigh. What rests on texts of unknown size is not in it. */
const bytesLeft = (nodes: ReadonlyArray<Node>): ReadonlyMap<string, number> => {
  const left = new Map<string, number>()
  const unknown = new Set<string>()
  for (const { id, definition, params, inputs, forecast } of nodes) {
    const given = Object.entries(inputs).map(
      ([name, refs]) => [name, refs.flatMap((ref) => ("step" in ref ? [ref.step] : []))] as const,
    )
    const weigh = (ids: ReadonlyArray<string>): number => ids.reduce((sum, one) => sum + (left.get(one) ?? 0), 0)
    const bytes = definition.writes
      ? given.some(([, ids]) => ids.some((one) => unknown.has(one)))
        ? undefined
        : definition.writes(params, Object.fromEntries(given.map(([name, ids]) => [name, weigh(ids)])))
      : forecast.diskBytes
    if (bytes) left.set(id, bytes)
    else if (definition.writes) unknown.add(id)
  }
  return left
}

const stepOf = (
  { node, times }: { readonly node: Node; readonly times: number },
  seen: Survey,
  texts: Texts | undefined,
  diskBytes: number | undefined,
  circumstances: Circumstances,
): StepForecast => {
  const { parameters, optimizerSteps, tokens, flops, compute } = node.forecast
  const pace = compute && paceOf(circumstances.calibrations, compute.architecture)
  const took = durationOf(node, pace, texts, circumstances.paces)
  const training = compute?.training
  const stepSeconds = training && pace && pace.perStep + pace.perRow * training.rowsPerStep
  const tokensSeen =
    training?.startStep === undefined || tokens === undefined || !optimizerSteps
      ? undefined
      : (tokens / optimizerSteps) * (training.startStep + optimizerSteps)
  return {
    step: node.id,
    label: node.label,
    kind: node.definition.kind,
    done: seen.standing.get(node.id)?._tag === "Cached",
    times,
    ...(parameters !== undefined && { parameters }),
    ...(optimizerSteps !== undefined && { optimizerSteps }),
    ...(tokens !== undefined && { tokens }),
    ...(flops !== undefined && { flops }),
    ...(diskBytes !== undefined && { diskBytes }),
    ...(took && { seconds: took.seconds, ...(took.without !== undefined && { partly: took.without }) }),
    ...memoryOf(node, circumstances),
    ...(stepSeconds !== undefined &&
      optimizerSteps && {
        tokensPerSecond: tokens! / optimizerSteps / stepSeconds,
        mfu: flops! / optimizerSteps / stepSeconds / (pace!.calibration.matmulGflops * 1e9),
      }),
    ...(tokensSeen !== undefined && {
      tokensSeen,
      tokensPerParameter: tokensSeen / parameters!,
      ...(texts && texts.train > 0 && { epochs: tokensSeen / texts.train }),
    }),
  }
}

const sumOf = (steps: ReadonlyArray<StepForecast>, watts: number | undefined, rates: Rates): typeof Sum.Type => {
  const sum = (of: (step: StepForecast) => number | undefined): number =>
    steps.reduce((all, step) => all + step.times * (of(step) ?? 0), 0)
  const seconds = sum((step) => step.seconds)
  const kilowattHours = watts === undefined ? undefined : (watts * seconds) / 3.6e6
  const { pricePerKwh, pricePerHour, gramsCo2PerKwh } = rates
  const forEnergy = kilowattHours === undefined || pricePerKwh === undefined ? undefined : kilowattHours * pricePerKwh
  const forTime = pricePerHour === undefined ? undefined : (pricePerHour * seconds) / 3600
  return {
    steps: sum(() => 1),
    optimizerSteps: sum((step) => step.optimizerSteps),
    tokens: sum((step) => step.tokens),
    flops: sum((step) => step.flops),
    diskBytes: sum((step) => step.diskBytes),
    seconds,
    ...(kilowattHours !== undefined && { kilowattHours }),
    ...((forEnergy !== undefined || forTime !== undefined) && { cost: (forEnergy ?? 0) + (forTime ?? 0) }),
    ...(kilowattHours !== undefined && gramsCo2PerKwh !== undefined && { gramsCo2: kilowattHours * gramsCo2PerKwh }),
  }
}

const listed = (labels: ReadonlyArray<string>): string => {
  const kinds = [...new Set(labels)]
  return kinds.length <= 4 ? kinds.join(", ") : `${kinds.slice(0, 3).join(", ")} and ${kinds.length - 3} more`
}

/** What they write is as large as their texts. */
const OF_TEXTS: ReadonlySet<string> = new Set(["dataset", "corpus", "pack"])

const unknownOf = (
  steps: ReadonlyArray<StepForecast>,
  watts: number | undefined,
  rates: Rates,
  calibrated: boolean,
): ReadonlyArray<string> => {
  const kindsOf = (some: (step: StepForecast) => boolean): string => listed(steps.filter(some).map(({ kind }) => kind))
  const noTime = kindsOf((step) => step.seconds === undefined && (calibrated || step.memory === undefined))
  const partly = kindsOf((step) => step.partly !== undefined)
  const noDisk = kindsOf((step) => step.diskBytes === undefined && !step.done && OF_TEXTS.has(step.kind))
  return [
    ...(calibrated ? [] : ["time of the engine: it was not measured here, `exp forecast FILE --calibrate` does"]),
    ...(noTime === "" ? [] : [`time of ${noTime}: no run here was timed yet`]),
    ...(partly === "" ? [] : [`what ${partly} do beside the engine: no run here was timed yet`]),
    ...(noDisk === "" ? [] : [`disk of ${noDisk}: it depends on the texts`]),
    ...(watts === undefined ? ["energy: no watts are measured or given (`--watts`)"] : []),
    ...(rates.pricePerKwh === undefined && rates.pricePerHour === undefined
      ? ["cost: no price is given (`--price-per-kwh`, `--price-per-hour`)"]
      : rates.pricePerKwh !== undefined && watts === undefined
        ? ["cost of energy: no watts are measured or given (`--watts`)"]
        : []),
    ...(rates.gramsCo2PerKwh === undefined ? ["carbon dioxide: no rate is given (`--grams-co2-per-kwh`)"] : []),
  ]
}

export const forecastOn = (nodes: ReadonlyArray<Node>, seen: Survey, circumstances: Circumstances): PlanForecast => {
  const { numerics, device, room, calibrations, rates } = circumstances
  const textsOf = textsFor(nodes, seen, circumstances)
  const all = counted(nodes, seen.copies)
  const left = bytesLeft(all.map(({ node }) => node))
  const steps = all.map((one) => stepOf(one, seen, textsOf(one.node), left.get(one.node.id), circumstances))
  const trainings = all.filter(({ node }) => node.forecast.compute !== undefined)
  const paces = trainings.flatMap(({ node }) => paceOf(calibrations, node.forecast.compute!.architecture) ?? [])
  const oldest = paces.toSorted((a, b) => a.calibration.measuredAt.localeCompare(b.calibration.measuredAt))[0]
  const watts = rates.watts ?? paces.find(({ calibration }) => calibration.watts !== undefined)?.calibration.watts
  const trained = all.find(({ node }) => node.forecast.compute?.training !== undefined)
  const texts = trained && textsOf(trained.node)
  const memoryBytes = room.device === "gpu" ? (room.gpuBytes ?? 0) : room.hostBytes
  return {
    engine: numerics,
    device,
    memoryBytes,
    steps,
    total: sumOf(steps, watts, rates),
    left: sumOf(
      steps.filter(({ done }) => !done),
      watts,
      rates,
    ),
    parameters: steps.reduce((most, { parameters = 0 }) => Math.max(most, parameters), 0),
    ...(texts && { corpus: { tokens: Math.round(texts.train), exact: texts.exact } }),
    ...(oldest && {
      calibration: {
        measuredAt: oldest.calibration.measuredAt,
        matmulGflops: oldest.calibration.matmulGflops,
        ofThisShape: paces.every(({ measured }) => measured),
        ...(oldest.calibration.otherLoad !== undefined && { otherLoad: oldest.calibration.otherLoad }),
      },
    }),
    ...(watts !== undefined && { watts }),
    ...(rates.currency !== undefined && { currency: rates.currency }),
    atMost: all.some(({ times }) => times > 1),
    unknown: unknownOf(steps, watts, rates, trainings.length === 0 || paces.length > 0),
  }
}

/** What steps did beside the engine in a run that is over: seconds by kind and amount, for the next forecast. */
export const besides = (
  nodes: ReadonlyArray<Node>,
  seen: Survey,
  circumstances: Circumstances,
  took: ReadonlyMap<string, number>,
): ReadonlyArray<{ readonly kind: string; readonly amount: number; readonly seconds: number }> => {
  const textsOf = textsFor(nodes, seen, circumstances)
  return counted(nodes, seen.copies).flatMap(({ node }) => {
    const seconds = took.get(node.id)
    const { compute } = node.forecast
    if (seconds === undefined || compute?.training !== undefined) return []
    const texts = textsOf(node)
    const engine = engineSeconds(node, compute && paceOf(circumstances.calibrations, compute.architecture), texts)
    const amount = amountOf(node, texts)
    return engine === undefined || amount === undefined || amount === 0
      ? []
      : [{ kind: node.definition.kind, amount, seconds: Math.max(0, seconds - engine) }]
  })
}
