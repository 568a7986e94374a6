/**
 * A forecast as text: a line a step with what it takes, the memory of the largest training by component, and what all of it comes to,
 * what is not known included; and a run's forecast beside what happened.
 */
import { type Components, components, totalOf } from "../engine/Memory.ts"
import type { Plan } from "../plan/Plan.ts"
import { ageInWords } from "../run/Calibration.ts"
import type { PlanForecast, StepForecast } from "../run/Forecast.ts"
import type { Reckoning } from "../run/Reckoning.ts"
import { type Align, bytes, count, duration, operations, table } from "./Table.ts"

/** The ratio of tokens to parameters that spends operations best: Hoffmann et al. 2022, arXiv 2203.15556. */
export const CHINCHILLA = 20

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

const sumRow = (name: string, sum: PlanForecast["total"], parameters: number): ReadonlyArray<string> => [
  "",
  name,
  parameters === 0 ? "" : count(parameters),
  count(sum.tokens),
  operations(sum.flops),
  duration(sum.seconds),
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

export const energyText = ({ left, watts, currency }: PlanForecast): ReadonlyArray<string> => {
  const parts = [
    left.kilowattHours !== undefined && `${figure(left.kilowattHours)} kWh at ${figure(watts!)} W`,
    left.cost !== undefined && `${money(left.cost)}${currency === undefined ? "" : ` ${currency}`}`,
    left.gramsCo2 !== undefined && `${figure(left.gramsCo2)} g of carbon dioxide`,
  ].filter((part) => part !== false)
  return parts.length === 0 ? [] : [`what is left takes ${parts.join(", ")}`]
}

/** The experiment with its parameters: what heads a plan and a forecast. */
export const titleOf = ({ experiment, parameters }: Plan): string => {
  const given = Object.entries(parameters).map(([name, value]) => `${name}=${value}`)
  return `${experiment}${given.length > 0 ? `  (${given.join(", ")})` : ""}`
}

export const renderForecast = (name: string, forecast: PlanForecast, now: number): string => {
  const { engine, device, memoryBytes, steps, total, left, parameters, atMost } = forecast
  const upTo = atMost ? "at most, in sum" : "in sum"
  return [
    name,
    `${engine.name} ${engine.precision} on ${device}, ${bytes(memoryBytes)} of memory`,
    "",
    table(
      ["", "step", "parameters", "tokens", "operations", "time", "memory", "disk"],
      [
        ...steps.map(stepRow),
        sumRow(upTo, total, parameters),
        ...(steps.some(({ done }) => done) ? [sumRow("not done yet", left, parameters)] : []),
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

const pairOf = (
  { forecast, outcome }: { readonly forecast?: number; readonly outcome?: number },
  show: (value: number) => string,
): readonly [string, string] => [
  forecast === undefined ? "" : show(forecast),
  outcome === undefined ? "" : show(outcome),
]

const whole = (value: number): string => bytes(Math.round(value))

/** Forecast and outcome, a line a step that was made; empty where nothing was foretold. */
export const renderReckoning = ({ steps, seconds }: Reckoning): string => {
  const rows = steps.map((step) => [
    step.label,
    ...pairOf(step.seconds, duration),
    ...pairOf(step.memoryBytes, whole),
    ...pairOf(step.diskBytes, whole),
  ])
  const off = seconds.forecast > 0 ? (100 * (seconds.outcome - seconds.forecast)) / seconds.forecast : undefined
  const sum =
    off === undefined
      ? []
      : [
          `${seconds.steps === 1 ? "1 step was" : `${count(seconds.steps)} steps were`} to take ${duration(seconds.forecast)} and took ${duration(seconds.outcome)}: ${Math.abs(off).toFixed(0)}% ${off < 0 ? "less" : "more"}`,
        ]
  return [
    "forecast and outcome",
    table(["step", "time", "took", "memory", "held", "disk", "wrote"], rows, [
      "left",
      ...Array.from({ length: 6 }, () => "right" as const),
    ]),
    ...sum,
  ].join("\n")
}
