/**
 * A forecast as text: a line a step with what it takes, the memory of the largest training by component, and what all of it comes to,
 * what is not known included.
 */
import { type Components, components, totalOf } from "../engine/Components.ts"
import { ageInWords } from "../run/forecast/Calibration.ts"
import type { PlanForecast } from "../run/forecast/PlanForecast.ts"
import type { StepForecast } from "../run/forecast/StepForecast.ts"
import { type Align, bytes, count, duration, operations, table } from "./Table.ts"

/** The ratio of tokens to parameters that spends operations best: Hoffmann et al. 2022, arXiv 2203.15556. */
const CHINCHILLA = 20

const figure = (value: number): string => (value >= 100 ? count(Math.round(value)) : value.toPrecision(3))
const money = (value: number): string => (value >= 10 ? value.toFixed(2) : value.toPrecision(2))

const aligned: ReadonlyArray<Align> = ["left", "left", "right", "right", "right", "right", "right", "right"]

const stepRow = (step: StepForecast): ReadonlyArray<string> => [
  step.done ? "done" : "",
  `${step.label}${step.times > 1 ? ` ×≤${step.times}` : ""}`,
  step.parameters === undefined ? "" : count(step.parameters),
  step.tokens === undefined ? "" : count(step.tokens),
  step.flops === undefined ? "" : operations(step.flops),
  step.seconds === undefined ? "" : `${step.partly === undefined ? "" : "over "}${duration(step.seconds)}`,
  step.memory === undefined ? "" : `${bytes(step.memory.bytes)}${step.memory.lacks === undefined ? "" : " !"}`,
  step.diskBytes === undefined ? "" : bytes(Math.round(step.diskBytes)),
]

/** The benchmarks of one tail as one line: they differ in nothing but the checkpoint. */
const folded = (steps: ReadonlyArray<StepForecast>): ReadonlyArray<StepForecast> => {
  const rows: Array<StepForecast> = []
  for (const step of steps) {
    const last = rows.at(-1)
    const same = last?.done === step.done && last.times === step.times && last.partly === step.partly
    if (step.kind === "benchmark" && last?.kind === "benchmark" && same) {
      const label = `${last.label.split(" … ")[0]} … ${step.label.replace("benchmark ", "")}`
      rows[rows.length - 1] = { ...last, label, ...added(last, step) }
    } else rows.push(step)
  }
  return rows
}

/** What both take; absent where neither says it. */
const added = (a: StepForecast, b: StepForecast): Partial<StepForecast> =>
  Object.fromEntries(
    (["tokens", "flops", "seconds", "diskBytes"] as const).flatMap((name) =>
      a[name] === undefined && b[name] === undefined ? [] : [[name, (a[name] ?? 0) + (b[name] ?? 0)]],
    ),
  )

/** `timed`: of some step it is known how long it takes. */
const sumRow = (
  name: string,
  sum: PlanForecast["total"],
  parameters: number,
  timed: boolean,
): ReadonlyArray<string> => [
  "",
  name,
  parameters === 0 ? "" : count(parameters),
  count(sum.tokens),
  operations(sum.flops),
  timed ? duration(sum.seconds) : "",
  "",
  bytes(Math.round(sum.diskBytes)),
]

export const largestTraining = (forecast: PlanForecast): StepForecast | undefined =>
  forecast.steps.filter(({ memory }) => memory !== undefined).toSorted((a, b) => b.memory!.bytes - a.memory!.bytes)[0]

const partsText = (parts: Components): string =>
  table(
    ["", ""],
    [
      ...components.filter((name) => parts[name] > 0).map((name) => [`  ${name}`, bytes(Math.round(parts[name]))]),
      ["  in sum", bytes(Math.round(totalOf(parts)))],
    ],
    ["left", "right"],
  )
    .split("\n")
    .slice(1)
    .join("\n")

const memoryText = (forecast: PlanForecast): ReadonlyArray<string> => {
  const step = largestTraining(forecast)
  if (step?.memory === undefined) return []
  const { parts, host, how, lacks, remedy } = step.memory
  return [
    "",
    `memory of ${step.label}, of ${bytes(forecast.memoryBytes)} there are: ${how.join(", ")}`,
    partsText(parts),
    ...(host ? ["and of the machine's own", partsText(host)] : []),
    ...(lacks === undefined ? [] : [`it does not fit: ${lacks}`]),
    ...(remedy === undefined ? [] : [`  hint: ${remedy}`]),
  ]
}

/** Of the training that sees the most: how often it reads its texts, and how much for its size. */
export const tokensText = (forecast: PlanForecast): ReadonlyArray<string> => {
  const most = forecast.steps
    .filter(({ tokensSeen }) => tokensSeen !== undefined)
    .toSorted((a, b) => b.tokensSeen! - a.tokensSeen!)[0]
  if (most === undefined) return []
  const { corpus } = forecast
  const epochs =
    corpus === undefined || most.epochs === undefined
      ? "how often the texts are read is known once they are there"
      : corpus.exact
        ? `${figure(most.epochs)} times the ${count(corpus.tokens)} there are`
        : `about ${figure(most.epochs)} times the ${count(Number(corpus.tokens.toPrecision(2)))} or so that there are`
  return [
    `${count(most.tokensSeen!)} tokens seen at the end of ${most.label}: ${epochs}; ${figure(most.tokensPerParameter!)} a parameter, where ${CHINCHILLA} spend operations best (Hoffmann et al. 2022)`,
  ]
}

export const timeText = (forecast: PlanForecast, now: number): ReadonlyArray<string> => {
  const { calibration } = forecast
  if (calibration === undefined) return []
  const mfu = forecast.steps.find((step) => step.mfu !== undefined)
  const speed =
    mfu === undefined
      ? ""
      : `; ${figure(mfu.tokensPerSecond!)} tokens/s, ${Math.round(100 * mfu.mfu!)}% of the ${figure(calibration.matmulGflops)} GFLOP/s of its matrix products`
  const shape = calibration.ofThisShape ? "" : ", of another shape or a part of this one, scaled by operations"
  const busy =
    calibration.otherLoad === undefined
      ? ""
      : `; the machine was busy then (load ${calibration.otherLoad}): \`--calibrate\` when it is not`
  return [`time as measured here ${ageInWords(calibration.measuredAt, now)}${shape}${speed}${busy}`]
}

/** Of the time that is known alone: where none is, nothing is said. */
export const energyText = ({
  left,
  steps,
  watts,
  currency = "in the currency of the price",
}: PlanForecast): ReadonlyArray<string> => {
  const toDo = steps.filter(({ done }) => !done)
  const all = toDo.every(({ seconds, partly }) => seconds !== undefined && partly === undefined)
  const parts = [
    left.kilowattHours !== undefined && `${figure(left.kilowattHours)} kWh at ${figure(watts!)} W`,
    left.cost !== undefined && `${money(left.cost)} ${currency}`,
    left.gramsCo2 !== undefined && `${figure(left.gramsCo2)} g of carbon dioxide`,
  ].filter((part) => part !== false)
  if (parts.length === 0 || !toDo.some(({ seconds }) => seconds !== undefined)) return []
  return [`what is left takes ${all ? "" : "over "}${parts.join(", ")}`]
}

export const renderForecast = (name: string, forecast: PlanForecast, now: number): string => {
  const { engine, device, memoryBytes, steps, total, left, parameters, atMost } = forecast
  const upTo = atMost ? "at most, in sum" : "in sum"
  const timed = steps.some(({ seconds }) => seconds !== undefined)
  return [
    name,
    `${engine.name} ${engine.precision} on ${device}, ${bytes(memoryBytes)} of memory`,
    "",
    table(
      ["", "step", "parameters", "tokens", "operations", "time", "memory", "disk"],
      [
        ...folded(steps).map(stepRow),
        sumRow(upTo, total, parameters, timed),
        ...(steps.some(({ done }) => done) ? [sumRow("not done yet", left, parameters, timed)] : []),
      ],
      aligned,
    ),
    ...memoryText(forecast),
    "",
    ...tokensText(forecast),
    ...timeText(forecast, now),
    ...energyText(forecast),
    ...forecast.unknown.map((what) => `not known: ${what}`),
  ].join("\n")
}
