/**
 * Measures an engine on this machine for some seconds: optimizer steps of the shape that is asked about, on tokens drawn at random,
 * then measuring and drawing with the checkpoint they leave. It asks for nothing that a run would not ask for, so any engine can be
 * measured; what it writes lies on the disk of the runs, whose pace it is to tell, and goes.
 */
import { mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs"
import { loadavg } from "node:os"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Stream from "effect/Stream"
import { Engine, type TrainEvent } from "../../engine/Engine.ts"
import { type DeviceReading, Telemetry } from "../../engine/Telemetry.ts"
import { type Architecture, parameterCount, trainingFlopsPerToken } from "../../model/Architecture.ts"
import { defaultOptimizer } from "../../model/Checkpoint.ts"
import type { TokensIndex } from "../../model/Corpus.ts"
import { standardPresets } from "../../model/Decoding.ts"
import { stream } from "../../model/Random.ts"
import { requireDisk } from "../../store/Disk.ts"
import { energyMeter } from "../Power.ts"
import type { Calibration } from "./Calibration.ts"

export interface CalibrateRequest {
  readonly architecture: Architecture
  readonly rowsPerStep: number
  readonly device: string
  /** Texts drawn at once, as the plan's largest step has them. */
  readonly texts: number
  /** Folder on the disk that runs write to; what is left there is nothing. */
  readonly scratch: string
  readonly note: (text: string) => void
}

/** Seconds that the training of a calibration may take; about as many go to the rest. */
const BUDGET = 5
/** Of the matmul figure, what training may be taken to reach before it is measured. */
const SHARE = 0.5
/** Steps whose times are not counted: threads start, code is compiled. */
const WARM = 2
/** A row that would take longer than this is measured with fewer layers. */
const LONGEST_ROW = 2
const NEW_TOKENS = 24

const balanced = standardPresets.find(({ name }) => name === "balanced")!

export const calibrate = Effect.fn("calibrate")(function* (request: CalibrateRequest) {
  const { architecture, device, note } = request
  const engine = yield* Engine
  const began = performance.now()
  const otherLoad = loadavg()[0]!
  const { matmulGflops } = yield* engine.inspect
  const rowSeconds = (layers: number): number =>
    (trainingFlopsPerToken({ ...architecture, layers }) * architecture.context) / (SHARE * matmulGflops * 1e9)
  let layers = architecture.layers
  while (layers > 1 && rowSeconds(layers) > LONGEST_ROW) layers = Math.ceil(layers / 2)
  const shape = { ...architecture, layers }
  if (layers < architecture.layers)
    note(`${layers} of ${architecture.layers} layers are measured: all of them would take minutes`)
  // a checkpoint, and a resume point beside it with moments
  yield* requireDisk(request.scratch, 4 * 4 * parameterCount(shape))
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => {
      mkdirSync(request.scratch, { recursive: true })
      return mkdtempSync(join(request.scratch, "calibration-"))
    }),
    (folder) => Effect.sync(() => rmSync(folder, { recursive: true, force: true })),
  )
  const spells = spellsFor(request.rowsPerStep, rowSeconds(layers))
  writeTokens(folder, shape, Math.max(...spells))
  const readings: Array<DeviceReading> = []
  const meter = energyMeter()
  const times: Array<{ readonly rows: number; readonly seconds: number }> = []
  let written = { bytes: 0, seconds: 0 }
  let steps = WARM + within(4, 30, 0.5 / (spells[0]! * rowSeconds(layers)))
  for (const [n, rows] of spells.entries()) {
    note(`${steps} steps of ${rows} ${rows === 1 ? "row" : "rows"}`)
    const last = n === spells.length - 1
    const { seconds, writing } = yield* trainSome(folder, shape, rows, steps, last).pipe(
      Effect.provideService(Telemetry, (reading) => void readings.push(reading)),
    )
    times.push({ rows, seconds })
    if (last) written = { bytes: bytesOf(join(folder, "checkpoints", `step_${steps}`)), seconds: writing }
    else steps = WARM + within(2, 60, ((BUDGET / 2) * rows) / (seconds * spells[n + 1]!))
  }
  const watts = meter() ?? average(readings.flatMap((one) => (one.watts === undefined ? [] : [one.watts])))
  const checkpoint = join(folder, "checkpoints", `step_${steps}`)
  const { perStep, perRow } = line(times)
  note("measuring documents, drawing texts")
  const measured = yield* measuring(checkpoint, shape, perRow / 3)
  const drawn = yield* drawing(checkpoint, shape, request.texts, perRow / shape.context)
  const scale = trainingFlopsPerToken(architecture) / trainingFlopsPerToken(shape)
  return {
    format: 1,
    engine: engine.numerics,
    device,
    architecture,
    measuredAt: new Date().toISOString(),
    seconds: Math.round((performance.now() - began) / 100) / 10,
    matmulGflops,
    perStep: perStep * (architecture.layers / layers),
    perRow: perRow * scale,
    ...(layers < architecture.layers && { measuredLayers: layers }),
    measuredTokensPerSecond: measured / scale,
    drawnTokensPerSecond: drawn / scale,
    writtenBytesPerSecond: written.bytes / Math.max(written.seconds, 1e-3),
    ...(watts !== undefined && { watts }),
    ...(otherLoad >= 0.5 && { otherLoad: Math.round(otherLoad * 10) / 10 }),
  } satisfies Calibration
}, Effect.scoped)

/**
 * As many rows as the step has, where it takes no second, and half as many before, from which the update's share is told; else two
 * smaller numbers. Eight rows and their multiples keep all lanes of the in-process engine equally busy.
 */
const spellsFor = (rowsPerStep: number, rowSeconds: number): ReadonlyArray<number> => {
  const most = Math.max(2, Math.floor(1 / rowSeconds))
  const lanes = most >= 16 ? 8 : 1
  const rows = rowsPerStep <= most ? rowsPerStep : lanes * Math.floor(most / lanes)
  const few = Math.max(1, Math.floor(rows / 2))
  return few === rows ? [rows] : [few, rows]
}

const within = (least: number, most: number, value: number): number =>
  Math.max(least, Math.min(most, Math.round(value)))

/** The line through two points; a slope that noise made too flat or too steep is none, and all of the time is the rows'. */
const line = (
  times: ReadonlyArray<{ readonly rows: number; readonly seconds: number }>,
): { readonly perStep: number; readonly perRow: number } => {
  const [few, many = few] = times as [(typeof times)[number], (typeof times)[number] | undefined]
  const perRow = few === many ? many.seconds / many.rows : (many.seconds - few.seconds) / (many.rows - few.rows)
  const perStep = many.seconds - perRow * many.rows
  return perRow > 0 && perStep >= 0 ? { perStep, perRow } : { perStep: 0, perRow: many.seconds / many.rows }
}

/** Random tokens enough for one step's rows, in the format of a packed corpus. */
const writeTokens = (folder: string, { context, vocabulary }: Architecture, rows: number): void => {
  const tokens = rows * context + 1
  const wide = vocabulary > 65_536
  const random = stream(1, "calibration")
  const ids = wide ? new Uint32Array(tokens) : new Uint16Array(tokens)
  for (let i = 0; i < tokens; i++) ids[i] = random.word(i) % vocabulary
  const index: TokensIndex = {
    context,
    vocabulary,
    dtype: wide ? "uint32" : "uint16",
    bosId: 0,
    eosId: 1,
    padId: 2,
    mix: "proportional",
    languages: ["en"],
    sources: [
      {
        source: "random",
        language: "en",
        role: "train",
        startToken: 0,
        rawTokens: tokens,
        packedTokens: rows * context,
        droppedTokens: 1,
        firstRow: 0,
        rows,
        weight: 1,
      },
    ],
    shards: [{ file: "tokens-00000.bin", part: "train", tokens }],
  }
  writeFileSync(join(folder, "tokens-00000.bin"), ids)
  writeFileSync(join(folder, "tokens.json"), `${JSON.stringify(index)}\n`)
}

/** Median seconds of a step, and those that writing the checkpoint after the last one took. */
const trainSome = Effect.fnUntraced(function* (
  folder: string,
  architecture: Architecture,
  rows: number,
  steps: number,
  keep: boolean,
) {
  const engine = yield* Engine
  const order = join(folder, "order.bin")
  writeFileSync(
    order,
    Uint32Array.from({ length: steps * rows }, (_, i) => i % rows),
  )
  const checkpoints = join(folder, "checkpoints")
  mkdirSync(checkpoints, { recursive: true })
  const seconds: Array<number> = []
  let stepped = performance.now()
  let writing = 0
  const onEvent = (event: TrainEvent): void => {
    if (event._tag === "Step") seconds.push(event.seconds)
    if (event._tag === "Checkpoint") writing = (performance.now() - stepped) / 1000
    stepped = performance.now()
  }
  yield* engine
    .train({
      architecture,
      from: { _tag: "Fresh" },
      seed: 1,
      tokens: folder,
      order,
      rowsPerStep: rows,
      startStep: 0,
      endStep: steps,
      schedule: { peakLr: 1e-5, warmupSteps: steps },
      optimizer: defaultOptimizer,
      checkpoints: { folder: checkpoints, at: keep ? [steps] : [], moments: false },
      resume: { folder: join(folder, "resume"), everySeconds: 86_400 },
    })
    .pipe(Stream.runForEach((event) => Effect.sync(() => onEvent(event))))
  return { seconds: median(seconds.slice(WARM)), writing }
})

/** Tokens a second. The first call reads the weights, the second is timed. */
const measuring = Effect.fnUntraced(function* (checkpoint: string, architecture: Architecture, rowSeconds: number) {
  const engine = yield* Engine
  const windows = Math.max(2, Math.min(64, Math.floor(1 / rowSeconds)))
  const random = stream(2, "calibration")
  const documents = Array.from({ length: windows }, (_, n) => ({
    id: `${n}`,
    ids: Array.from(
      { length: architecture.context + 1 },
      (_, i) => random.word(n * (architecture.context + 1) + i) % architecture.vocabulary,
    ),
  }))
  yield* engine.losses({ checkpoint, documents: documents.slice(0, 1) })
  const began = performance.now()
  yield* engine.losses({ checkpoint, documents })
  return (windows * architecture.context * 1000) / (performance.now() - began)
})

const drawing = Effect.fnUntraced(function* (
  checkpoint: string,
  { context, vocabulary }: Architecture,
  texts: number,
  tokenSeconds: number,
) {
  const engine = yield* Engine
  const prompt = Math.min(16, Math.floor(context / 2))
  const newTokens = Math.max(1, Math.min(NEW_TOKENS, context - prompt, Math.floor(2 / (tokenSeconds * texts))))
  const random = stream(3, "calibration")
  const request = (count: number, maxNewTokens: number) => ({
    checkpoint,
    prompts: Array.from({ length: count }, (_, n) => ({
      id: `${n}`,
      ids: Array.from({ length: prompt }, (_, i) => random.word(n * prompt + i) % vocabulary),
    })),
    preset: balanced,
    maxNewTokens,
    // no text ends by itself: as many tokens as were asked for are drawn
    eosId: vocabulary,
    seed: 1,
  })
  yield* engine.generate(request(1, 1))
  const began = performance.now()
  const drawn = yield* engine.generate(request(texts, newTokens))
  const tokens = drawn.reduce((sum, { tokens }) => sum + tokens.length, 0)
  return (tokens * 1000) / (performance.now() - began)
})

const median = (values: ReadonlyArray<number>): number => values.toSorted((a, b) => a - b)[values.length >> 1]!

const average = (values: ReadonlyArray<number>): number | undefined =>
  values.length === 0 ? undefined : values.reduce((a, b) => a + b, 0) / values.length

const bytesOf = (checkpoint: string): number =>
  ["model.safetensors", "state.json"].reduce((sum, name) => sum + statSync(join(checkpoint, name)).size, 0)
