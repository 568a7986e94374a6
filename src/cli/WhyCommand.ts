/**
 * `exp why`: which parameter, input, version or engine makes a step run again.
 */
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import type { Asked } from "../engine/Engines.ts"
import { type Reason, why as reasonsFor } from "../run/Why.ts"
import { fieldName, valueText } from "./FieldText.ts"
import { engineOf, open, services } from "./Project.ts"
import { table } from "./Table.ts"

export interface WhySettings {
  readonly file: string
  readonly step: string
  readonly set: ReadonlyArray<string>
  readonly engines: Asked
  readonly runs: string
  readonly json: boolean
}

const fieldTable = (reason: Reason & { readonly _tag: "WillRun" }): string =>
  table(
    ["", "stored", "now"],
    reason.fields.map((field) => [fieldName(field), valueText(field.a), valueText(field.b)]),
  )
    .split("\n")
    .map((line) => `  ${line}`)
    .join("\n")

type Waits = Reason & { readonly _tag: "Waits" }

const waiting = (reasons: ReadonlyArray<Waits>, labelOf: (step: string) => string): string => {
  const labels = reasons.map(({ label }) => label).join(", ")
  const [are, them] = reasons.length === 1 ? ["is", "it"] : ["are", "them"]
  return `${labels} ${are} not known yet: before ${them}, ${labelOf(reasons[0]!.for)} will run`
}

/** Steps that wait for the same one are said together. */
const all = (reasons: ReadonlyArray<Reason>, labelOf: (step: string) => string): string =>
  reasons
    .flatMap((reason) => {
      if (reason._tag !== "Waits") return [text(reason, labelOf)]
      const together = reasons.filter((one): one is Waits => one._tag === "Waits" && one.for === reason.for)
      return together[0] === reason ? [waiting(together, labelOf)] : []
    })
    .join("\n\n")

const text = (reason: Reason, labelOf: (step: string) => string): string => {
  const { label } = reason
  switch (reason._tag) {
    case "Cached":
      return `${label} is done: ${reason.artifact}${
        reason.otherCode ? "\n  made by other code, and reused: the version of its kind is the same" : ""
      }`
    case "Damaged":
      return `${label} will run: ${reason.artifact} is damaged, ${reason.problem}`
    case "First":
      return `${label} will run: the store has no other \`${reason.kind}\``
    case "Waits":
      return waiting([reason], labelOf)
    case "FansOut":
      return `${label} cannot run: \`${reason.of}\` has more items than the plan allows\n  hint: raise \`atMost\``
    case "Unseen":
      return `${label} is not known yet: \`${reason.of}\` ${reason.lacks}`
    case "WillRun": {
      const differs =
        reason.fields.length === 0
          ? "which differs in nothing that was recorded"
          : `which differs in ${reason.fields.length === 1 ? "one field" : `${reason.fields.length} fields`}`
      const goesOn = reason.elastic ? "\n  it goes on from there: these change how far and how often, not what" : ""
      return (
        [
          `${label} will run; nearest in the store is ${reason.nearest}, ${differs}`,
          ...(reason.fields.length === 0 ? [] : [fieldTable(reason)]),
        ].join("\n") + goesOn
      )
    }
  }
}

export const why = Effect.fn("exp why")(function* (settings: WhySettings) {
  const project = yield* open(settings.file, settings.set, settings.runs)
  const { plan } = project
  const engine = yield* engineOf(project, settings.engines)
  const reasons = yield* reasonsFor(plan.nodes, settings.step).pipe(Effect.provide(services(settings.runs, engine)))
  if (settings.json) return yield* Console.log(JSON.stringify({ experiment: plan.experiment, steps: reasons }))
  const labelOf = (step: string) => reasons.find((reason) => reason.step === step)?.label ?? step
  yield* Console.log(all(reasons, labelOf))
})
