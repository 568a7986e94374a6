/**
 * What a plan costs before it runs: added up over its nodes, a fan-out of unknown length counted at its bound.
 */
import type { Forecast, Node } from "./Plan.ts"

export interface Total {
  readonly steps: number
  readonly optimizerSteps: number
  readonly tokens: number
  readonly flops: number
  readonly diskBytes: number
  /** Of the largest model. */
  readonly parameters: number
  /** False when a fan-out is counted at its bound. */
  readonly exact: boolean
}

const nothing: Total = { steps: 0, optimizerSteps: 0, tokens: 0, flops: 0, diskBytes: 0, parameters: 0, exact: true }

const add = (total: Total, forecast: Forecast, times: number): Total => ({
  steps: total.steps + times,
  optimizerSteps: total.optimizerSteps + times * (forecast.optimizerSteps ?? 0),
  tokens: total.tokens + times * (forecast.tokens ?? 0),
  flops: total.flops + times * (forecast.flops ?? 0),
  diskBytes: total.diskBytes + times * (forecast.diskBytes ?? 0),
  parameters: Math.max(total.parameters, forecast.parameters ?? 0),
  exact: total.exact,
})

export const forecastOf = (nodes: ReadonlyArray<Node>, times = 1): Total =>
  nodes.reduce((total, node) => {
    if (node.body === undefined) return add(total, node.forecast, times)
    const inner = forecastOf(node.body.nodes, times * node.body.atMost)
    return { ...add(total, inner, 1), steps: total.steps + inner.steps, exact: false }
  }, nothing)
