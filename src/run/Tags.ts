/**
 * Tags: names that people give to runs, and the one place where a name on the command line becomes a run.
 *
 * `runs/tags/<name>.json`:
 *
 * | field       | what                                                                                           |
 * |-------------|------------------------------------------------------------------------------------------------|
 * | `run`       | name of the run's folder                                                                       |
 * | `artifacts` | what the run used, so that `exp gc` keeps it even when the run's folder was deleted            |
 * | `digest`    | sha256 of the canonical JSON of the fields above: a tag that rotted holds nothing back         |
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs"
import { basename, join, resolve } from "node:path"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { suggestion } from "../model/DidYouMean.ts"
import { canonicalJson, digest } from "../model/Digest.ts"
import { replace } from "../store/Files.ts"
import * as RunFolder from "./RunFolder.ts"

export class TagRefused extends Schema.TaggedError<TagRefused>()("TagRefused", {
  tag: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `tag \`${this.tag}\`: ${this.problem}\n  hint: ${this.hint}`
  }
}

export class RunNotFound extends Schema.TaggedError<RunNotFound>()("RunNotFound", {
  name: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `there is no run \`${this.name}\`\n  hint: ${this.hint}`
  }
}

const TagFile = Schema.Struct({ run: Schema.String, artifacts: Schema.Array(Schema.String) })
const decode = Schema.decodeUnknownOption(
  Schema.fromJsonString(Schema.Struct({ ...TagFile.fields, digest: Schema.String })),
)

const seal = (tag: typeof TagFile.Type): string => `${canonicalJson({ ...tag, digest: digest(tag) })}\n`

const unseal = (text: string): Option.Option<typeof TagFile.Type> =>
  decode(text).pipe(
    Option.map(({ run, artifacts }) => ({ run, artifacts })),
    Option.filter((tag) => seal(tag) === text),
  )

export interface Tag {
  readonly name: string
  readonly run: string
  readonly artifacts: ReadonlyArray<string>
}

const folderOf = (runs: string): string => join(runs, "tags")
const pathOf = (runs: string, name: string): string => join(folderOf(runs), `${name}.json`)

/** Letters, digits, `.`, `_` and `-`, not beginning as the name of a run does. */
const complaint = (name: string): string | undefined => {
  if (!/^[\p{L}\p{N}_][\p{L}\p{N}._-]{0,99}$/u.test(name)) return "it cannot name a file"
  if (/^\d{12}_/.test(name)) return "it looks like the name of a run"
  return undefined
}

const filesOf = (runs: string): ReadonlyArray<readonly [file: string, tag: Option.Option<typeof TagFile.Type>]> =>
  !existsSync(folderOf(runs))
    ? []
    : readdirSync(folderOf(runs))
        .filter((file) => file.endsWith(".json"))
        .sort()
        .map((file) => [file, unseal(readFileSync(join(folderOf(runs), file), "utf8"))])

export const list = (runs: string): ReadonlyArray<Tag> =>
  filesOf(runs).flatMap(([file, tag]) =>
    Option.isSome(tag) ? [{ name: file.slice(0, -".json".length), ...tag.value }] : [],
  )

/** Paths of tags that do not have the bytes they were written with. */
export const damaged = (runs: string): ReadonlyArray<string> =>
  filesOf(runs).flatMap(([file, tag]) => (Option.isNone(tag) ? [join(folderOf(runs), file)] : []))

export interface Run {
  readonly name: string
  readonly folder: string
  readonly record: RunFolder.RunRecord
}

/** The run that a name means: the path of a run's folder, a run's name, or a tag. */
export const resolveRun = (runs: string, name: string): Effect.Effect<Run, RunNotFound> =>
  Effect.gen(function* () {
    const tag = list(runs).find((one) => one.name === name)
    for (const folder of [resolve(name), join(runs, name), ...(tag === undefined ? [] : [join(runs, tag.run)])]) {
      const record = RunFolder.readRecord(folder)
      if (record !== undefined) return { name: basename(folder), folder, record }
    }
    if (tag !== undefined)
      return yield* new RunNotFound({
        name: tag.run,
        hint: `the tag \`${name}\` still names it: \`exp tag --remove ${name}\``,
      })
    const names = [...RunFolder.list(runs).map((one) => one.name), ...list(runs).map((one) => one.name)]
    return yield* new RunNotFound({
      name,
      hint: names.length === 0 ? "nothing was run yet" : suggestion(name, names),
    })
  })

export const add = Effect.fn("Tags.add")(function* (runs: string, run: string, name: string) {
  const problem = complaint(name)
  if (problem !== undefined)
    return yield* new TagRefused({
      tag: name,
      problem,
      hint: "up to 100 letters, digits, `.`, `_` and `-` make a name, such as `best-so-far`",
    })
  const { name: full, record } = yield* resolveRun(runs, run)
  const before = list(runs).find((one) => one.name === name)
  if (before !== undefined && before.run !== full)
    return yield* new TagRefused({
      tag: name,
      problem: `it already names ${before.run}`,
      hint: `take it away first: \`exp tag --remove ${name}\``,
    })
  mkdirSync(folderOf(runs), { recursive: true })
  const path = pathOf(runs, name)
  const artifacts = [...new Set(record.steps.map((step) => step.artifact))].sort()
  replace(path, seal({ run: full, artifacts }))
  return { name, run: full, artifacts } satisfies Tag
})

export const remove = Effect.fn("Tags.remove")(function* (runs: string, name: string) {
  const all = list(runs)
  const tag = all.find((one) => one.name === name)
  if (tag === undefined)
    return yield* new TagRefused({
      tag: name,
      problem: "there is no such tag",
      hint:
        all.length === 0
          ? "nothing is tagged yet"
          : suggestion(
              name,
              all.map((one) => one.name),
            ),
    })
  rmSync(pathOf(runs, name))
  return tag
})
