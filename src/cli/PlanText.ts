/**
 * A plan as text: one line a step, indented under a fan-out; what is done, what will run, what is not known yet, and what it costs.
 */
import { components } from "../engine/Components.ts"
import { forecastOf } from "../plan/Forecast.ts"
import type { Node, Plan } from "../plan/Plan.ts"
import { ordinary } from "../plan/Resources.ts"
import type { PlanForecast } from "../run/forecast/PlanForecast.ts"
import { oneByOne, type Standing, type Survey } from "../run/Survey.ts"
import { energyText, largestTraining, timeText, tokensText } from "./ForecastText.ts"
import { bytes, count, duration, operations, table } from "./Table.ts"

/** The experiment with its parameters: what heads a plan and a forecast. */
export const titleOf = ({ experiment, parameters }: Plan): string => {
  const given = Object.entries(parameters).map(([name, value]) => `${name}=${value}`)
  return `${experiment}${given.length > 0 ? `  (${given.join(", ")})` : ""}`
}

const marks: Record<Standing["_tag"], string> = { Cached: "done", WillRun: "will run", NotKnownYet: "later" }

const facts = (node: Node, seconds: number | undefined): string => {
  const { parameters, optimizerSteps, tokens, diskBytes } = node.forecast
  const { cpus, memoryBytes, gpus } = node.resources ?? ordinary
  return [
    seconds !== undefined && `about ${duration(seconds)}`,
    parameters !== undefined && `${count(parameters)} parameters`,
    optimizerSteps !== undefined && `${count(optimizerSteps)} steps`,
    tokens !== undefined && `${count(tokens)} tokens`,
    diskBytes !== undefined && `${bytes(diskBytes)} on disk`,
    cpus === "all" ? "all cores" : cpus !== ordinary.cpus && `${cpus} cores`,
    memoryBytes > 0 && `${bytes(Math.round(memoryBytes))} of memory`,
    gpus > 0 && `${gpus} ${gpus === 1 ? "GPU" : "GPUs"}`,
  ]
    .filter(Boolean)
    .join(", ")
}

const notYet = ({ lacks }: { readonly lacks?: string }): string =>
  lacks === undefined ? "" : `not known yet: ${lacks}`

const rows = (
  nodes: ReadonlyArray<Node>,
  seen: Survey,
  code: string,
  seconds: ReadonlyMap<string, number>,
  indent = "",
): ReadonlyArray<ReadonlyArray<string>> =>
  nodes.flatMap((node) => {
    const here = seen.standing.get(node.id) ?? { _tag: "NotKnownYet" }
    const otherCode = here._tag === "Cached" && here.code !== code ? " (by other code)" : ""
    const own = [
      node.body === undefined ? marks[here._tag] + otherCode : "",
      indent + node.label,
      here._tag === "NotKnownYet" ? notYet(here) : here.artifact,
      facts(node, seconds.get(node.id)),
    ]
    return [own, ...rows(seen.copies.get(node.id) ?? node.body?.nodes ?? [], seen, code, seconds, `${indent}  `)]
  })

/** What training holds, tokens for the model's size, and how long what is left takes, where that was measured. */
const computing = (forecast: PlanForecast, now: number): ReadonlyArray<string> => {
  const step = largestTraining(forecast)
  if (step?.memory === undefined) return []
  const { parts, lacks, remedy, bytes: held } = step.memory
  const shares = components.filter((name) => parts[name] > 0).map((name) => `${name} ${bytes(Math.round(parts[name]))}`)
  return [
    `${step.label} holds ${bytes(Math.round(held))} of ${bytes(forecast.memoryBytes)}: ${shares.join(", ")}`,
    ...(lacks === undefined ? [] : [`it does not fit: ${lacks}${remedy === undefined ? "" : `\n  hint: ${remedy}`}`]),
    ...tokensText(forecast),
    ...(forecast.calibration === undefined
      ? ["how long it takes was not measured here: `exp forecast FILE --calibrate` does, in some seconds"]
      : [`about ${duration(forecast.left.seconds)} to go, ${timeText(forecast, now)}`]),
    ...energyText(forecast),
  ]
}

export const renderPlan = (plan: Plan, seen: Survey, code: string, forecast: PlanForecast, now: number): string => {
  const total = forecastOf(plan.nodes)
  const seconds = new Map(forecast.steps.flatMap((one) => (one.seconds === undefined ? [] : [[one.step, one.seconds]])))
  const steps = oneByOne(plan.nodes, seen.copies).filter(({ body }) => body === undefined)
  const tally = (tag: Standing["_tag"]) =>
    steps.filter(({ id }) => (seen.standing.get(id)?._tag ?? "NotKnownYet") === tag).length
  const upTo = total.exact ? "" : "at most "
  return [
    titleOf(plan),
    "",
    table(["", "step", "artifact", ""], rows(plan.nodes, seen, code, seconds)),
    "",
    `${upTo}${count(total.steps)} steps: ${tally("Cached")} done, ${tally("WillRun")} will run, ${tally("NotKnownYet")} known once their inputs are there`,
    `${upTo}${count(total.optimizerSteps)} optimizer steps on ${count(total.tokens)} tokens, ${count(total.parameters)} parameters, ${bytes(total.diskBytes)} on disk${total.flops > 0 ? `, ${operations(total.flops)}` : ""}`,
    ...computing(forecast, now),
  ].join("\n")
}

/** The plan as it was recorded, without standing: the same text for the same experiment. */
export const planText = (nodes: ReadonlyArray<Node>, indent = ""): string =>
  nodes
    .map((node) => {
      const from = Object.entries(node.inputs)
        .filter(([, refs]) => refs.length > 0)
        .map(([name, refs]) => `${name}=${refs.map(showRef).join(",")}`)
        .join("  ")
      const line = `${indent}${node.id}  ${node.label}${from === "" ? "" : `  ${from}`}`
      return node.body === undefined ? line : `${line}\n${planText(node.body.nodes, `${indent}  `)}`
    })
    .join("\n")

const showRef = (ref: Node["inputs"][string][number]): string =>
  `${ref._tag === "Item" ? "item" : ref.step}${ref.part === undefined ? "" : `#${ref.part}`}`
