/**
 * Is the store whole? Every artifact's manifest and files, by stat or by hashing every byte; what runs name and the store lacks;
 * and what lies about unfinished.
 */
import { existsSync, lstatSync, mkdirSync, readdirSync, renameSync, rmSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import { Store } from "../store/Store.ts"
import { ifFree, isArtifactName, type Leftover, setAside, unfinished } from "./Leftovers.ts"
import { type Mention, mentionsOf } from "./Mentions.ts"
import { readRecord } from "./RunFolder.ts"

export interface Damaged {
  readonly artifact: string
  readonly problem: string
  /** Where it was moved. */
  readonly movedTo?: string
  /** What makes it anew. */
  readonly command?: string
}

export interface Lost {
  readonly artifact: string
  /** Runs, tags and artifacts that name it. */
  readonly namedBy: ReadonlyArray<string>
  readonly command?: string
}

export interface StoreReport {
  readonly artifacts: number
  readonly bytes: number
  /** Whether every byte was hashed. */
  readonly read: boolean
  readonly damaged: ReadonlyArray<Damaged>
  readonly lost: ReadonlyArray<Lost>
  /** A journal that cannot be read: what its run uses is not known. */
  readonly unreadable?: string
  /** Things in the store's folder that no store puts there. */
  readonly strange: ReadonlyArray<string>
  readonly unfinished: ReadonlyArray<Leftover>
  readonly setAside: ReadonlyArray<Pick<Leftover, "name" | "path" | "bytes">>
}

const quoted = (text: string): string => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`)

/** The command line that does a run again; `where`: the runs folder as it was given, if it is not `runs`. */
const commandOf = (folder: string, where: string | undefined): string | undefined => {
  const record = readRecord(folder)
  if (record === undefined) return undefined
  const settings = Object.entries(record.parameters).map(([name, value]) => `--set ${quoted(`${name}=${value}`)}`)
  return [
    "exp run",
    quoted(record.file),
    ...settings,
    ...(where === undefined ? [] : [`--runs ${quoted(where)}`]),
  ].join(" ")
}

/** Moves an artifact into `.damaged`, unless somebody is making it anew already or has done so. */
const moveAside = (
  root: string,
  artifact: string,
  problem: (artifact: string) => Effect.Effect<string | undefined, Error>,
) =>
  ifFree(
    root,
    artifact,
    Effect.gen(function* () {
      if ((yield* problem(artifact)) === undefined) return undefined
      const grave = join(root, ".damaged")
      mkdirSync(grave, { recursive: true })
      let n = 1
      while (existsSync(join(grave, `${artifact}.${n}`))) n++
      const target = join(grave, `${artifact}.${n}`)
      renameSync(join(root, artifact), target)
      rmSync(join(root, ".stat", `${artifact}.json`), { force: true })
      return target
    }),
  ).pipe(Effect.map(Option.getOrUndefined))

export const check = Effect.fn("Check.check")(function* (
  runs: string,
  options: {
    readonly readData: boolean
    readonly repair: boolean
    /** The runs folder as commands are to name it; by default not at all. */
    readonly where?: string
  },
) {
  const store = yield* Store
  const { root } = store
  const read = yield* Effect.result(mentionsOf(runs))
  const mentions = Result.isSuccess(read) ? read.success : new Map<string, ReadonlyArray<Mention>>()
  const entries = existsSync(root) ? readdirSync(root).filter((name) => !name.startsWith(".")) : []
  const names = entries.filter((name) => isArtifactName(name) && lstatSync(join(root, name)).isDirectory()).sort()

  const problemOf = (artifact: string): Effect.Effect<string | undefined, Error> =>
    options.readData
      ? store.verify(artifact).pipe(
          Effect.as(undefined),
          Effect.catchTag("ArtifactDamaged", ({ problem }) => Effect.succeed(problem)),
        )
      : Effect.gen(function* () {
          let said: string | undefined
          yield* store.find(artifact, (problem) => {
            said = problem
          })
          return said
        })
  const commandFor = (artifact: string): { readonly command?: string } => {
    for (const { by } of mentions.get(artifact)?.toReversed() ?? []) {
      const command = commandOf(join(runs, by), options.where)
      if (command !== undefined) return { command }
    }
    return {}
  }

  const damaged: Array<Damaged> = []
  for (const artifact of names) {
    const problem = yield* problemOf(artifact)
    if (problem === undefined) continue
    const movedTo = options.repair ? yield* moveAside(root, artifact, problemOf) : undefined
    damaged.push({ artifact, problem, ...(movedTo !== undefined && { movedTo }), ...commandFor(artifact) })
  }

  const whole = yield* store.list()
  const wanted = new Map<string, Set<string>>()
  const want = (artifact: string, by: string): void =>
    void wanted.set(artifact, (wanted.get(artifact) ?? new Set()).add(by))
  for (const [artifact, all] of mentions) for (const { by, made } of all) if (made) want(artifact, by)
  for (const { artifact, inputs, chosen } of whole)
    for (const input of [...Object.values(inputs).flat(), ...(chosen ? [chosen] : [])]) want(input.artifact, artifact)
  const known = new Set([...names, ...damaged.map(({ artifact }) => artifact)])
  const lost = [...wanted]
    .filter(([artifact]) => !known.has(artifact))
    .map(([artifact, by]) => {
      const own = commandFor(artifact)
      const first = [...by].map(commandFor).find(({ command }) => command !== undefined)
      return { artifact, namedBy: [...by].sort(), ...(own.command === undefined ? first : own) }
    })
    .sort((a, b) => (a.artifact < b.artifact ? -1 : 1))

  return {
    artifacts: names.length,
    bytes: whole.flatMap(({ files }) => files).reduce((sum, { bytes }) => sum + bytes, 0),
    read: options.readData,
    damaged,
    lost,
    ...(Result.isFailure(read) && { unreadable: read.failure.message }),
    strange: entries.filter((name) => !names.includes(name)).sort(),
    unfinished: yield* unfinished(root),
    setAside: setAside(root),
  } satisfies StoreReport
})
