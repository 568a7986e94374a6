/**
 * What a quantised file costs, as the step that makes it and whoever checks it measure it: what is really in the file, held against the
 * weights it was made from, over whole documents.
 */
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Safetensors from "../../engine/Safetensors.ts"
import { summariseDivergence, type TokenDivergence } from "../../evaluation/Divergence.ts"
import type { CheckpointState } from "../../model/Checkpoint.ts"
import type { QuantisationLoss } from "../../model/Report.ts"
import { attempt, NO_ROOM } from "./Gguf.ts"
import { openGguf, readTensors } from "./Reader.ts"

/** What is in a GGUF file, as a checkpoint that engines read. */
export const unpack = Effect.fn("gguf.unpack")(function* (
  path: string,
  checkpoint: string,
  state: CheckpointState,
  config: Readonly<Record<string, unknown>>,
  names: ReadonlySet<string>,
) {
  const read = yield* Effect.scoped(Effect.flatMap(openGguf(path), (file) => readTensors(file, config, names)))
  yield* attempt(checkpoint, NO_ROOM, () => mkdirSync(checkpoint, { recursive: true }))
  const { sha256 } = yield* Safetensors.write(join(checkpoint, "model.safetensors"), read)
  const { optimizerSha256: _, ...rest } = state
  const about = join(checkpoint, "state.json")
  yield* attempt(about, NO_ROOM, () => writeFileSync(about, `${JSON.stringify({ ...rest, modelSha256: sha256 })}\n`))
})

export interface Window {
  readonly language: string
  /** Of these all but the last are read, all but the first are targets. */
  readonly ids: ReadonlyArray<number>
}

/** Windows of whole documents, as losses are measured in. */
export const windowsOf = (
  documents: ReadonlyArray<{ readonly language: string; readonly ids: ArrayLike<number> }>,
  context: number,
): ReadonlyArray<Window> =>
  documents.flatMap(({ language, ids: all }) => {
    const ids = Array.from(all)
    const windows: Array<Window> = []
    for (let first = 0; first + 1 < ids.length; first += context)
      windows.push({ language, ids: ids.slice(first, first + context + 1) })
    return windows
  })

/** Figures of one file over all texts and over each language, from every target of each window. */
export const lossesOf = (
  targets: ReadonlyArray<ReadonlyArray<TokenDivergence>>,
  windows: ReadonlyArray<Window>,
): Readonly<Record<string, QuantisationLoss>> => {
  const languages = [...new Set(windows.map(({ language }) => language))].toSorted()
  const targetsIn = (language: string) => targets.filter((_, w) => windows[w]!.language === language).flat()
  return {
    all: summariseDivergence(targets.flat()),
    ...Object.fromEntries(languages.map((language) => [language, summariseDivergence(targetsIn(language))])),
  }
}
