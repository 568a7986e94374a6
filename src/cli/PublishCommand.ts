/**
 * `exp publish`: a release goes to the hub, whole or not at all.
 */
import { existsSync } from "node:fs"
import { dirname, join, relative, resolve } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import { endpointSetting } from "../hub/Endpoint.ts"
import { keyFor } from "../hub/Envelope.ts"
import { staying } from "../hub/Foreign.ts"
import { madeBefore, maySign, withKeyless } from "../hub/Keyless.ts"
import { counting } from "../hub/Progress.ts"
import { type PublishEvent, type PublishOptions, publish as publishRelease } from "../hub/Publication.ts"
import { type ReleaseContent, readRelease, withFile } from "../hub/ReleaseFiles.ts"
import { type Change, compare } from "../hub/Standing.ts"
import { findToken } from "../hub/Token.ts"
import { ENVELOPE } from "../release/Signature.ts"
import { BUNDLE } from "../release/Sigstore.ts"
import { SUMS } from "../release/Sums.ts"
import { resolveRun } from "../run/Tags.ts"
import { NotFound } from "./Errors.ts"
import { noRelease, placesOf } from "./Releases.ts"
import { bytes, count, table } from "./Table.ts"

export interface PublishSettings {
  readonly target: string
  readonly to: string
  readonly private: boolean
  readonly dryRun: boolean
  readonly endpoint: string | undefined
  readonly tag: string | undefined
  readonly collection: string | undefined
  readonly supersedes: string | undefined
  readonly readBack: boolean
  /** File of a signing key; by default the user's own, where there is one. */
  readonly key: string | undefined
  /** Whether it goes with a signature of Sigstore's, by an identity. */
  readonly keyless: boolean
  readonly signingConfig: string | undefined
  readonly runs: string
  readonly json: boolean
}

/** The release folder that a folder, a run's name, a run's folder or a tag means. */
const releaseFolder = (runs: string, target: string) =>
  Effect.gen(function* () {
    for (const folder of [resolve(target), join(resolve(target), "release")])
      if (existsSync(join(folder, SUMS))) return folder
    const { name, folder: ran, record } = yield* Effect.mapError(resolveRun(runs, target), noRelease(target))
    const folders = placesOf(dirname(ran), record)
    const [folder, ...more] = folders.filter((one) => existsSync(join(one, SUMS)))
    if (folder === undefined)
      return yield* new NotFound({
        what: `the run \`${name}\` has no release${folders.length > 0 ? " in the store any more" : ""}`,
        hint:
          folders.length > 0 ? `\`exp run ${record.file}\` makes it again` : "its experiment ends without `release`",
      })
    if (more.length > 0)
      return yield* new NotFound({
        what: `the run \`${name}\` has ${more.length + 1} releases`,
        hint: `name the one: ${[folder, ...more].map((one) => `\`${relative(process.cwd(), one)}\``).join(" or ")}`,
      })
    return folder
  })

const MARKS: Record<Change["change"], string> = { new: "new", changed: "changed", same: "same", removed: "removed" }

const changesText = (changes: ReadonlyArray<Change>): string =>
  table(
    ["", "file", "size"],
    changes.map(({ path, change, bytes: size }) => [MARKS[change], path, bytes(size)]),
    ["left", "left", "right"],
  )

/** With the signature that a dry run does not make: what the hub has of one would not be removed, but another would take its place. */
const withBundle = (changes: ReadonlyArray<Change>, { files }: ReleaseContent): ReadonlyArray<Change> => {
  if (files.some(({ path }) => path === BUNDLE)) return changes
  const change = changes.some(({ path }) => path === BUNDLE) ? "changed" : "new"
  const others = changes.filter(({ path }) => path !== BUNDLE)
  return [...others, { path: BUNDLE, change, bytes: 0 } as const].sort((a, b) => (a.path < b.path ? -1 : 1))
}

/** Whether a second is over since it last was so, the first one since it was made. */
const everySecond = () => {
  let last = performance.now()
  return (): boolean => {
    const now = performance.now()
    if (now - last < 1000) return false
    last = now
    return true
  }
}

/** Lines of progress, at most one each second while a transfer goes on. */
const progress = (write: (text: string) => void) => {
  const count = counting()
  const now = everySecond()
  return (event: PublishEvent): void => {
    if (event._tag === "Did") return void write(`  ${event.text}`)
    const standing = count(event)
    if (standing === undefined) return
    const { doing, files, bytes: done, of, path } = standing
    if (now() || files === of.files)
      write(`  ${doing.padEnd(9)}  ${files}/${of.files} files · ${bytes(done)} of ${bytes(of.bytes)} · ${path}`)
  }
}

export const publish = Effect.fn("exp publish")(function* (settings: PublishSettings) {
  const folder = yield* releaseFolder(resolve(settings.runs), settings.target)
  const endpoint = yield* endpointSetting(settings.endpoint)
  const token = yield* findToken
  const key = yield* keyFor(settings.key)
  // what is for people goes aside when a machine reads along
  const write = (text: string) => void (settings.json ? process.stderr : process.stdout).write(`${text}\n`)
  let read = 0
  const now = everySecond()
  const told = (length: number) => {
    read += length
    if (now()) write(`  checked    ${bytes(read)}`)
  }
  const { signingConfig } = settings
  const signing = { signingConfig, terminal: process.stderr.isTTY === true, say: write }
  if (settings.keyless) yield* maySign(folder, signing)
  const unsigned = yield* readRelease(folder, token, { key, told, keyless: settings.keyless })
  const options: PublishOptions = { ...settings, report: progress(write) }
  const { layer } = yield* Effect.promise(() => import("../hub/HuggingFace.ts"))
  const hub = layer({ endpoint, token, watch: { waiting: (text) => write(`  ${text}`) } })
  // what goes into a public log is not for trying out
  const made = settings.keyless && settings.dryRun ? yield* madeBefore(folder, signing) : undefined
  const content =
    settings.keyless && !settings.dryRun
      ? yield* Effect.provide(withKeyless(unsigned, options, signing), hub)
      : made === undefined
        ? unsigned
        : withFile(unsigned, { path: BUNDLE, text: made.text })
  write(
    `release   ${content.name}: ${count(content.files.length)} files, ${bytes(content.bytes)}, ${content.digest.slice(0, 12)}`,
  )
  const signatures = [ENVELOPE, BUNDLE].filter((name) => content.files.some(({ path }) => path === name))
  write(
    signatures.length > 0 ? `signed    ${signatures.join(", ")}` : "unsigned  `exp keys new` makes a key to sign with",
  )

  if (settings.dryRun) {
    const standing = yield* Effect.provide(compare(content, options), hub)
    const { repository, foreign, tagged, collected } = standing
    const changes = settings.keyless ? withBundle(standing.changes, content) : standing.changes
    const isDone =
      changes.every(({ change }) => change === "same") &&
      collected !== false &&
      (settings.tag === undefined || tagged !== undefined)
    if (settings.json)
      return yield* Console.log(
        JSON.stringify({
          endpoint,
          repository: settings.to,
          exists: repository !== undefined,
          release: content.digest,
          changes,
          foreign,
          ...(settings.tag !== undefined && { tag: { name: settings.tag, exists: tagged !== undefined } }),
          ...(collected !== undefined && { collection: { name: settings.collection, has: collected } }),
        }),
      )
    yield* Console.log(changesText(changes))
    if (foreign.length > 0) yield* Console.log(staying(foreign))
    if (settings.tag !== undefined)
      yield* Console.log(`tag       ${settings.tag} (${tagged === undefined ? "new" : "names this release already"})`)
    if (collected !== undefined)
      yield* Console.log(`collected ${settings.collection} (${collected ? "has it already" : "to be added"})`)
    const would =
      repository === undefined
        ? `would make ${endpoint}/${settings.to} (${settings.private ? "private" : "public"})`
        : isDone
          ? `nothing would change at ${endpoint}/${settings.to}`
          : `would change ${endpoint}/${settings.to} (${repository.private ? "private" : "public"})`
    return yield* Console.log(`${would}; nothing was sent`)
  }

  write(`to        ${endpoint}/${settings.to}`)
  const { receipt, changed } = yield* publishRelease(content, options).pipe(
    Effect.provide(hub),
    Effect.onInterrupt(() =>
      Console.error("interrupted: `main` is as it was, or is the release\n  hint: the same command goes on from there"),
    ),
  )
  if (settings.json) return yield* Console.log(JSON.stringify({ ...receipt, changed }))
  if (!changed) yield* Console.log("nothing to do: the hub has this release")
  yield* Console.log(`published ${receipt.url}`)
  yield* Console.log(`revision  ${receipt.revision}${receipt.private ? " (private)" : ""}`)
  yield* Console.log(`tag       ${receipt.tag}`)
})
