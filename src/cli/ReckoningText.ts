/** A run's forecast as text, beside what happened. */
import type { Reckoning } from "../run/forecast/Reckoning.ts"
import { bytes, count, duration, table } from "./Table.ts"

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
