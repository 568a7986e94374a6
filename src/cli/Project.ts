/**
 * What every command that reads an experiment needs: the file loaded, its parameters set, its plan, and the store it works in.
 */
import { join, resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import { KeptSums } from "../data/FileSum.ts"
import { type Asked, type Chosen, choose, embedded, layerOf } from "../engine/Engines.ts"
import type { Plan } from "../plan/Plan.ts"
import { Store } from "../store/Store.ts"
import { type ExperimentFile, load, plan } from "./ExperimentFile.ts"

export class BadSetting extends Schema.TaggedError<BadSetting>()("BadSetting", { setting: Schema.String }) {
  override get message() {
    return `\`--set ${this.setting}\` is not name=value\n  hint: write \`--set seed=7\``
  }
}

export interface Project {
  readonly file: ExperimentFile
  readonly plan: Plan
}

const settings = (pairs: ReadonlyArray<string>): Effect.Effect<Readonly<Record<string, string>>, BadSetting> =>
  Effect.gen(function* () {
    const values: Record<string, string> = Object.create(null)
    for (const pair of pairs) {
      const at = pair.indexOf("=")
      if (at <= 0) return yield* new BadSetting({ setting: pair })
      values[pair.slice(0, at)] = pair.slice(at + 1)
    }
    return values
  })

export const open = Effect.fn("Project.open")(function* (file: string, set: ReadonlyArray<string>, runs: string) {
  const given = yield* settings(set)
  const loaded = yield* load(file, resolve(runs, ".cache", "typecheck"))
  return { file: loaded, plan: yield* plan(loaded, given) } satisfies Project
})

/** What of the parameters is set otherwise than the experiment file has it: with these the file gives this plan. */
export const setValues = ({ file, plan }: Project): Plan["parameters"] =>
  Object.fromEntries(
    Object.entries(plan.parameters).filter(([name, value]) => value !== file.experiment.defaults[name]),
  )

/** Who computes this project: what the command line asks for goes before what the experiment says. */
export const engineOf = ({ plan }: Project, asked: Asked) => choose(asked, plan.engine)

/** The services a run works with. This and `src/main.ts` are where layers are chosen. */
export const services = (runs: string, engine: Chosen = embedded) =>
  Layer.mergeAll(
    Store.layer(join(resolve(runs), "store")),
    layerOf(engine),
    Layer.succeed(KeptSums, join(resolve(runs), ".cache", "sums")),
  )
