/**
 * A plan as text: one line a step, indented under a fan-out; what is done, what will run, what is not known yet, and what it costs.
 */
import { forecastOf } from "../plan/Forecast.ts"
import type { Node, Plan } from "../plan/Plan.ts"
import { ordinary } from "../plan/Resources.ts"
import { oneByOne, type Standing, type Survey } from "../run/Peek.ts"
import { bytes, count, table } from "./Table.ts"

const marks: Record<Standing["_tag"], string> = { Cached: "done", WillRun: "will run", NotKnownYet: "later" }

const facts = (node: Node): string => {
  const { parameters, optimizerSteps, tokens, diskBytes } = node.forecast
  const { cpus, memoryBytes, gpus } = node.resources ?? ordinary
  return [
    parameters !== undefined && `${count(parameters)} parameters`,
    optimizerSteps !== undefined && `${count(optimizerSteps)} steps`,
    tokens !== undefined && `${count(tokens)} tokens`,
    diskBytes !== undefined && `${bytes(diskBytes)} on disk`,
    cpus === "all" ? "all cores" : cpus !== ordinary.cpus && `${cpus} cores`,
    memoryBytes > 0 && `${bytes(memoryBytes)} of memory`,
    gpus > 0 && `${gpus} GPUs`,
  ]
    .filter(Boolean)
    .join(", ")
}

const rows = (
  nodes: ReadonlyArray<Node>,
  seen: Survey,
  code: string,
  indent: string,
): ReadonlyArray<ReadonlyArray<string>> =>
  nodes.flatMap((node) => {
    const here = seen.standing.get(node.id) ?? { _tag: "NotKnownYet" }
    const otherCode = here._tag === "Cached" && here.code !== code ? " (by other code)" : ""
    const own = [
      node.body === undefined ? marks[here._tag] + otherCode : "",
      indent + node.label,
      here._tag === "NotKnownYet" ? "" : here.artifact,
      facts(node),
    ]
    return [own, ...rows(seen.copies.get(node.id) ?? node.body?.nodes ?? [], seen, code, `${indent}  `)]
  })

export const renderPlan = (plan: Plan, seen: Survey, code: string): string => {
  const total = forecastOf(plan.nodes)
  const parameters = Object.entries(plan.parameters).map(([name, value]) => `${name}=${value}`)
  const steps = oneByOne(plan.nodes, seen.copies).filter(({ body }) => body === undefined)
  const tally = (tag: Standing["_tag"]) =>
    steps.filter(({ id }) => (seen.standing.get(id)?._tag ?? "NotKnownYet") === tag).length
  const upTo = total.exact ? "" : "at most "
  return [
    `${plan.experiment}${parameters.length > 0 ? `  (${parameters.join(", ")})` : ""}`,
    "",
    table(["", "step", "artifact", ""], rows(plan.nodes, seen, code, "")),
    "",
    `${upTo}${count(total.steps)} steps: ${tally("Cached")} done, ${tally("WillRun")} will run, ${tally("NotKnownYet")} known once their inputs are there`,
    `${upTo}${count(total.optimizerSteps)} optimizer steps on ${count(total.tokens)} tokens, ${count(total.parameters)} parameters, ${bytes(total.diskBytes)} on disk`,
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
