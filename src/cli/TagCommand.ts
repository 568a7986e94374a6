/**
 * `exp tag`: give a run a name, take the name away, or list the names there are.
 */
import { resolve } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import * as Tags from "../run/Tags.ts"
import { NotFound } from "./Errors.ts"
import { table } from "./Table.ts"

export interface TagSettings {
  readonly run: string | undefined
  readonly name: string | undefined
  readonly remove: string | undefined
  readonly runs: string
  readonly json: boolean
}

export const tag = Effect.fn("exp tag")(function* (settings: TagSettings) {
  const runs = resolve(settings.runs)
  const { run, name, remove, json } = settings
  const say = (value: unknown, text: string) => Console.log(json ? JSON.stringify(value) : text)
  if (remove !== undefined) {
    if (run !== undefined)
      return yield* new Tags.TagRefused({
        tag: remove,
        problem: `\`--remove\` takes the tag alone, not \`${run}\` too`,
        hint: `\`exp tag --remove ${remove}\``,
      })
    const tag = yield* Tags.remove(runs, remove)
    return yield* say({ removed: tag }, `removed: ${tag.name} named ${tag.run}`)
  }
  if (run !== undefined && name !== undefined) {
    const tag = yield* Tags.add(runs, run, name)
    return yield* say(tag, `${tag.name} is ${tag.run}`)
  }
  if (run !== undefined)
    return yield* new NotFound({
      what: `which name is \`${run}\` to have?`,
      hint: `\`exp tag ${run} best-so-far\``,
    })
  const all = Tags.list(runs)
  if (all.length === 0 && !json)
    return yield* Console.log(`no tags in \`${settings.runs}\`\n  hint: \`exp tag RUN NAME\` gives a run a name`)
  yield* say(
    all,
    table(
      ["tag", "run"],
      all.map((one) => [one.name, one.run]),
    ),
  )
})
