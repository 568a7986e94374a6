/**
 * `exp publish`: a release goes to the hub, whole or not at all.
 */
import { existsSync } from "node:fs"
import { join, relative, resolve } from "node:path"
import * as Console from "effect/Console"
import * as Effect from "effect/Effect"
import { endpointSetting } from "../hub/Endpoint.ts"
import { envelopeFor } from "../hub/Envelope.ts"
import {
  type Change,
  compare,
  type PublishEvent,
  type PublishOptions,
  publish as publishRelease,
} from "../hub/Publication.ts"
import { readRelease } from "../hub/ReleaseFiles.ts"
import { findToken } from "../hub/Token.ts"
import { ENVELOPE } from "../release/Signature.ts"
import { SUMS } from "../release/Sums.ts"
import { resolveRun } from "../run/Tags.ts"
import { NotFound } from "./Errors.ts"
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
  readonly runs: string
  readonly json: boolean
}

/** The release folder that a folder, a run's name, a run's folder or a tag means. */
const releaseFolder = (runs: string, target: string) =>
  Effect.gen(function* () {
    for (const folder of [resolve(target), join(resolve(target), "release")])
      if (existsSync(join(folder, SUMS))) return folder
    const { name, record } = yield* resolveRun(runs, target)
    // where the run's store is now, wherever it was when the run ended
    const folders = record.steps
      .filter(({ artifact }) => artifact.startsWith("release-"))
      .map(({ artifact }) => join(runs, "store", artifact, "release"))
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

/** Lines of progress, at most one each second while a transfer goes on. */
const progress = (write: (text: string) => void) => {
  let files = 0
  let done = 0
  let total = { files: 0, bytes: 0 }
  let shown = 0
  const counted = new Set<string>()
  const file = (verb: string, path: string, size: number): void => {
    if (counted.has(path)) return
    counted.add(path)
    files++
    done += size
    const now = performance.now()
    if (files < total.files && now - shown < 1000) return
    shown = now
    write(`  ${verb}  ${files}/${total.files} files · ${bytes(done)} of ${bytes(total.bytes)} · ${path}`)
  }
  return (event: PublishEvent): void => {
    switch (event._tag) {
      case "Sending":
        // what earlier commits sent counts on; what has to be sent again does not count twice
        total = { files: files + event.files, bytes: done + event.bytes }
        break
      case "ReadingBack":
        files = 0
        done = 0
        total = event
        counted.clear()
        break
      case "File":
        if (event.state === "sent") file("sent     ", event.path, event.bytes)
        break
      case "ReadBack":
        file("read back", event.path, event.bytes)
        break
      case "Did":
        write(`  ${event.text}`)
    }
  }
}

export const publish = Effect.fn("exp publish")(function* (settings: PublishSettings) {
  const folder = yield* releaseFolder(resolve(settings.runs), settings.target)
  const endpoint = yield* endpointSetting(settings.endpoint)
  const token = yield* findToken
  const envelope = yield* envelopeFor(folder, settings.key)
  const content = yield* readRelease(folder, token, envelope)
  // what is for people goes aside when a machine reads along
  const write = (text: string) => void (settings.json ? process.stderr : process.stdout).write(`${text}\n`)
  write(
    `release   ${content.name}: ${count(content.files.length)} files, ${bytes(content.bytes)}, ${content.digest.slice(0, 12)}`,
  )
  write(
    content.files.some(({ path }) => path === ENVELOPE)
      ? `signed    ${ENVELOPE}`
      : "unsigned  `exp keys new` makes a key to sign with",
  )
  const options: PublishOptions = { ...settings, report: progress(write) }
  const { layer } = yield* Effect.promise(() => import("../hub/HuggingFace.ts"))
  const hub = layer({ endpoint, token, watch: { waiting: (text) => write(`  ${text}`) } })

  if (settings.dryRun) {
    const { repository, changes } = yield* Effect.provide(compare(content, options), hub)
    const left = changes.filter(({ change }) => change !== "same")
    if (settings.json)
      return yield* Console.log(
        JSON.stringify({
          endpoint,
          repository: settings.to,
          exists: repository !== undefined,
          release: content.digest,
          changes,
        }),
      )
    yield* Console.log(changesText(changes))
    const would =
      repository === undefined
        ? `would make ${endpoint}/${settings.to} (${settings.private ? "private" : "public"})`
        : left.length === 0
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
