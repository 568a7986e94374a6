/** A step that says how much it will write, and writes it. */
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect, Schema } from "effect"
import { Corpus } from "../../src/model/Artifact.ts"
import * as Step from "../../src/plan/Step.ts"
import type { Work } from "../../src/plan/Work.ts"

const known = { languages: ["en"], trainSources: ["a"], evaluateSources: [] }

export const MB = 1_000_000

/** What a test wants to happen before a blob is written, and after. */
export const around: { before: (work: Work) => Effect.Effect<void>; after: (work: Work) => Effect.Effect<void> } = {
  before: () => Effect.void,
  after: () => Effect.void,
}

export const blob = Step.make("blob", {
  version: 1,
  resumable: true,
  params: { megabytes: Schema.Int },
  inputs: {},
  output: (ref) => new Corpus(ref, known),
  label: ({ megabytes }) => `blob ${megabytes}`,
  forecast: ({ megabytes }) => ({ diskBytes: megabytes * MB }),
  run: (work) =>
    Effect.gen(function* () {
      yield* around.before(work)
      writeFileSync(join(work.out, "blob.bin"), Buffer.alloc((work.params["megabytes"] as number) * MB))
      yield* around.after(work)
      return undefined
    }),
})

/** Writes what its input weighs. */
export const copy = Step.make("copy", {
  version: 1,
  params: {},
  inputs: { of: Corpus },
  output: (ref) => new Corpus(ref, known),
  writes: (_, { of = 0 }) => of,
  run: (work) =>
    Effect.sync(() => void writeFileSync(join(work.out, "copy.txt"), "as much")).pipe(Effect.as(undefined)),
})
