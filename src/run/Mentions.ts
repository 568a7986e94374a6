/**
 * Which artifacts somebody counts on: what runs and tags name. A run's journal says before a step begins which artifact it will
 * make, so what a run in progress is making or has found is named here from the first moment.
 */
import { existsSync, readdirSync, statSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Journal from "../store/Journal.ts"
import { readRecord } from "./RunFolder.ts"
import * as Tags from "./Tags.ts"

export class MentionsUnreadable extends Schema.TaggedError<MentionsUnreadable>()("MentionsUnreadable", {
  path: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `${this.path}: ${this.problem}\n  hint: what this run uses is not known; ${this.hint}`
  }
}

export interface Mention {
  readonly artifact: string
  /** The run or tag. */
  readonly by: string
  /** Whether it was there once; what a step only began to make may never have come to be. */
  readonly made: boolean
}

/** Runs that left anything to read, the newest last. */
const foldersOf = (runs: string): ReadonlyArray<string> =>
  !existsSync(runs)
    ? []
    : readdirSync(runs, { withFileTypes: true })
        .filter((entry) => entry.isDirectory() && entry.name !== "store" && entry.name !== "tags")
        .map((entry) => entry.name)
        .filter((name) => existsSync(join(runs, name, "journal.ndjson")) || existsSync(join(runs, name, "run.json")))
        .sort()

const ofRun = (runs: string, run: string): Effect.Effect<ReadonlyArray<Mention>, MentionsUnreadable> =>
  Effect.gen(function* () {
    const path = join(runs, run, "journal.ndjson")
    const events = yield* Effect.try({
      try: () => Journal.read(path) as ReadonlyArray<{ readonly _tag?: string; readonly artifact?: unknown }>,
      catch: (cause) =>
        new MentionsUnreadable({
          path,
          problem: cause instanceof Error ? cause.message : String(cause),
          hint: "restore the journal or move the run's folder away",
        }),
    })
    return [
      ...(readRecord(join(runs, run))?.steps ?? []).map(({ artifact }) => ({ artifact, by: run, made: true })),
      ...events.flatMap(({ _tag, artifact }) =>
        typeof artifact === "string" ? [{ artifact, by: run, made: _tag !== "StepStarted" }] : [],
      ),
    ]
  })

const stampOf = (path: string): string => {
  const stat = statSync(path, { throwIfNoEntry: false, bigint: true })
  return stat === undefined ? "absent" : `${stat.size} ${stat.mtimeNs} ${stat.ino}`
}

/** By artifact, who names it. Asked again, it reads what has changed since. */
export const mentionsOf = (
  runs: string,
): Effect.Effect<ReadonlyMap<string, ReadonlyArray<Mention>>, MentionsUnreadable> => {
  const read = new Map<string, { readonly stamp: string; readonly mentions: ReadonlyArray<Mention> }>()
  return Effect.gen(function* () {
    const byArtifact = new Map<string, Array<Mention>>()
    const add = (mention: Mention): void => {
      const known = byArtifact.get(mention.artifact) ?? []
      if (!known.some(({ by, made }) => by === mention.by && (made || !mention.made))) known.push(mention)
      byArtifact.set(mention.artifact, known)
    }
    for (const run of foldersOf(runs)) {
      const stamp = `${stampOf(join(runs, run, "journal.ndjson"))}, ${stampOf(join(runs, run, "run.json"))}`
      const before = read.get(run)
      const mentions = before?.stamp === stamp ? before.mentions : yield* ofRun(runs, run)
      read.set(run, { stamp, mentions })
      mentions.forEach(add)
    }
    for (const path of Tags.damaged(runs))
      return yield* new MentionsUnreadable({
        path,
        problem: "it does not have the bytes it was written with",
        hint: "restore the tag, or remove the file and tag the run anew",
      })
    for (const { name, artifacts } of Tags.list(runs))
      for (const artifact of artifacts) add({ artifact, by: `tag ${name}`, made: true })
    return byArtifact
  })
}
