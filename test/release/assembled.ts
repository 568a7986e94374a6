import { Effect, FileSystem } from "effect"
import { assembleRelease, type ReleaseInput } from "../../src/release/Bundle.ts"
import { type Fabrication, fabricate } from "./fixture.ts"

/** A release in a temporary folder that lives as long as the scope. */
export const assembled = Effect.fnUntraced(function* (
  options: Fabrication = {},
  change: (input: ReleaseInput) => ReleaseInput = (input) => input,
) {
  const fs = yield* FileSystem.FileSystem
  const folder = yield* fs.makeTempDirectoryScoped()
  const out = `${folder}/release`
  yield* fs.makeDirectory(out)
  yield* assembleRelease(change({ ...fabricate(`${folder}/artifacts`, options), out }))
  return out
})

/** The card without its table of files: what changes there is the sum of a file, not what the card says of it. */
export const withoutFiles = (card: string): string => card.replace(/^## Files$[\s\S]*?(?=^## )/m, "")
