import { expect, it } from "@effect/vitest"
import type { Node } from "../../src/plan/Plan.ts"
import { frontier } from "../../src/run/Frontier.ts"

const node = (id: string, ...from: ReadonlyArray<string>): Node => ({
  id,
  label: id,
  definition: { kind: "k", version: 1, computes: false, elastic: [], transparent: false },
  params: {},
  inputs: { from: from.map((step) => ({ _tag: "Output", step })) },
  forecast: {},
})
const ids = (nodes: ReadonlyArray<Node>) => nodes.map(({ id }) => id)

it("lets a step begin when the last of its inputs is there, and not twice", () => {
  const [a, b, c, d] = [node("a"), node("b"), node("c", "a", "b", "a"), node("d", "c", "elsewhere")]
  const { first, after } = frontier([a, b, c, d])
  expect(ids(first)).toEqual(["a", "b"])
  expect(ids(after(a))).toEqual([])
  expect(ids(after(b))).toEqual(["c"])
  expect(ids(after(c))).toEqual(["d"])
  expect(ids(after(d))).toEqual([])
})

it("tells each step of a long plan once", () => {
  const all = Array.from({ length: 3000 }, (_, n) => node(`${n}`, ...(n < 10 ? [] : [`${n - 10}`, `${n - 9}`])))
  const { first, after } = frontier(all)
  const told = [...first]
  for (let n = 0; n < told.length; n++) told.push(...after(told[n]!))
  expect(told).toHaveLength(all.length)
  expect(new Set(told).size).toBe(all.length)
})
