/** How checkpoints are held against their base: by an engine that computes logits from the ids, and writes down what it is asked. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, symlinkSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Stream } from "effect"
import { afterAll } from "vitest"
import { Engine, type EngineReport } from "../../../src/engine/Engine.ts"
import { tokenDivergence } from "../../../src/evaluation/Divergence.ts"
import { type CompareRequest, compare } from "../../../src/release/gguf/Compare.ts"

const scratch = mkdtempSync(join(tmpdir(), "exp-compare-"))
afterAll(() => rmSync(scratch, { recursive: true, force: true }))

const vocabulary = 7
/** Its own numbers for each checkpoint: the sine of what is before a position, so no two rows are alike. */
const logitsOf = (checkpoint: string, ids: ReadonlyArray<number>): ReadonlyArray<Float32Array> =>
  ids.map((_, at) =>
    Float32Array.from({ length: vocabulary }, (_, v) =>
      Math.sin(checkpoint.length + v + ids.slice(0, at + 1).reduce((sum, id, i) => sum + id * (i + 1), 0)),
    ),
  )

const request: CompareRequest = {
  base: "base",
  checkpoints: ["a", "bb"],
  windows: [
    [1, 2, 3, 4, 5],
    [6, 5, 4],
    [3, 3],
    [0, 1, 2, 3, 4, 5, 6, 0],
  ],
  vocabulary,
  scratch,
  heldBytes: 1 << 20,
  begin: () => {},
}

/** What it found, and the checkpoints in the order in which they were asked for. */
const comparing = (more: Partial<CompareRequest> = {}) => {
  const asked: Array<string> = []
  const engine = Engine.of({
    numerics: { name: "written down", numerics: 1, precision: "fp32" },
    train: () => Stream.empty,
    losses: () => Effect.succeed([]),
    probe: () => Effect.succeed([]),
    generate: () => Effect.succeed([]),
    logits: ({ checkpoint, ids }) =>
      Effect.sync(() => {
        asked.push(checkpoint)
        return logitsOf(checkpoint, ids)
      }),
    inspect: Effect.succeed({} as EngineReport),
  })
  return compare({ ...request, ...more }).pipe(
    Effect.provideService(Engine, engine),
    Effect.map((found) => ({ found, asked })),
  )
}

const turns = (asked: ReadonlyArray<string>): ReadonlyArray<string> => asked.filter((one, i) => one !== asked[i - 1])

describe("checkpoints held against their base", () => {
  it.effect("are read one after another, each once, and give what both say of every target", () =>
    Effect.gen(function* () {
      const begun: Array<number> = []
      const { found, asked } = yield* comparing({ begin: (i) => begun.push(i) })
      assert.deepStrictEqual(turns(asked), ["base", "a", "bb"])
      assert.deepStrictEqual(begun, [0, 1])
      assert.deepStrictEqual(
        found,
        request.checkpoints.map((checkpoint) =>
          request.windows.map((ids) => {
            const base = logitsOf("base", ids.slice(0, -1))
            return logitsOf(checkpoint, ids.slice(0, -1)).map((logits, at) =>
              tokenDivergence(base[at]!, logits, ids[at + 1]!),
            )
          }),
        ),
      )
    }),
  )

  it.effect("take no more room on disk than they may, by the tokens there really are", () =>
    Effect.gen(function* () {
      const whole = yield* comparing()
      rmSync(join(scratch, "base.logits"))
      const heldBytes = 6 * 4 * vocabulary
      const portions = yield* comparing({ heldBytes })
      assert.deepStrictEqual(portions.found, whole.found)
      // four and two targets, one, and seven that are more than may be held and have to be
      assert.deepStrictEqual(turns(portions.asked), ["base", "a", "bb", "base", "a", "bb", "base", "a", "bb"])
      assert.deepStrictEqual(readdirSync(scratch), ["base.logits"])
      assert.strictEqual(statSync(join(scratch, "base.logits")).size, 7 * 4 * vocabulary)
    }),
  )

  it.effect("fail with the path and what to do where nothing can be written", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(comparing({ scratch: join(scratch, "absent") }))
      assert.strictEqual(error._tag, "GgufFailed")
      assert.match(error.message, /absent\/base\.logits: ENOENT.*\n {2}hint: look at free space and permissions/)
    }),
  )

  it.effect.skipIf(!existsSync("/dev/full"))("fail with the path and what to do where the disk is full", () =>
    Effect.gen(function* () {
      const full = join(scratch, "full")
      mkdirSync(full)
      symlinkSync("/dev/full", join(full, "base.logits"))
      const error = yield* Effect.flip(comparing({ scratch: full }))
      assert.match(error.message, /full\/base\.logits: ENOSPC.*\n {2}hint: look at free space and permissions/)
    }),
  )
})
