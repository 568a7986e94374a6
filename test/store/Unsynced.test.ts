import * as fs from "node:fs"
import { join } from "node:path"
import { Context, Effect, Exit, Layer, Result, Scope } from "effect"
import { assert, describe, it, onTestFinished } from "vitest"
import { arm } from "../../src/store/Failpoint.ts"
import { Store } from "../../src/store/Store.ts"
import { temporaryFolder } from "../temporary.ts"
import { flip, forgeStat } from "./damage.ts"
import { draft } from "./draft.ts"

/** A store that stays open until it is closed, or until its process would have died. */
const opened = async (root: string) => {
  const scope = Effect.runSync(Scope.make())
  const store = Context.get(await Effect.runPromise(Layer.buildWithScope(Store.layer(root), scope)), Store)
  return { store, close: () => Effect.runPromise(Scope.close(scope, Exit.void)) }
}

const makeOf = (
  store: Store["Service"],
  size: number,
  options: { readonly resumable: boolean; readonly millis?: number },
) =>
  Effect.runPromise(
    store.make(draft({ size }), { resumable: options.resumable, onWait: () => {} }, ({ out }) =>
      Effect.sleep(options.millis ?? 0).pipe(
        Effect.map(() => {
          fs.writeFileSync(join(out, "a.txt"), `content ${size}`)
          return {}
        }),
      ),
    ),
  )

const nameOf = (size: number) => draft({ size }).artifact
const notes = (root: string): ReadonlyArray<string> =>
  fs.existsSync(join(root, ".stat")) ? fs.readdirSync(join(root, ".stat")).sort() : []
const noteOf = (size: number) => `${nameOf(size)}.json`

describe("what was made in an instant", () => {
  it("is in its place at once, and noted when it is on disk: on being settled, and when the store is closed", async () => {
    const root = temporaryFolder()
    const { store, close } = await opened(root)
    await makeOf(store, 1, { resumable: false })
    assert.isTrue(fs.existsSync(join(root, nameOf(1), "manifest.json")))
    assert.deepStrictEqual(notes(root), [])
    await Effect.runPromise(store.settle)
    assert.deepStrictEqual(notes(root), [noteOf(1)])
    await makeOf(store, 2, { resumable: false })
    await close()
    assert.deepStrictEqual(notes(root), [noteOf(1), noteOf(2)].sort())
  })

  it("is written out once a second of work has come together", async () => {
    const root = temporaryFolder()
    const { store, close } = await opened(root)
    onTestFinished(close)
    await makeOf(store, 1, { resumable: false, millis: 400 })
    await makeOf(store, 2, { resumable: false, millis: 400 })
    assert.deepStrictEqual(notes(root), [])
    await makeOf(store, 3, { resumable: false, millis: 400 })
    assert.deepStrictEqual(notes(root), [noteOf(1), noteOf(2), noteOf(3)].sort())
  })

  it("is believed by its bytes alone until then, whatever its times say", async () => {
    const root = temporaryFolder()
    const { store } = await opened(root)
    await makeOf(store, 1, { resumable: false })
    // as a power cut leaves it: the name, the size and the times are there, the bytes are not. Nobody closes the first store
    flip(join(root, nameOf(1), "a.txt"), 0)
    const after = await opened(root)
    onTestFinished(after.close)
    const problems: Array<string> = []
    const found = await Effect.runPromise(after.store.find(nameOf(1), (problem) => problems.push(problem)))
    assert.isUndefined(found)
    assert.match(problems.join(), /does not have the bytes/)
  })

  it("is noted by whoever finds it whole after its maker was killed", async () => {
    const root = temporaryFolder()
    const { store } = await opened(root)
    await makeOf(store, 1, { resumable: false })
    const after = await opened(root)
    assert.isDefined(await Effect.runPromise(after.store.find(nameOf(1))))
    assert.deepStrictEqual(notes(root), [])
    await after.close()
    assert.deepStrictEqual(notes(root), [noteOf(1)])
  })

  it("is noted as it was when it was looked at, not as it became before it was written out", async () => {
    const root = temporaryFolder()
    const { store, close } = await opened(root)
    await makeOf(store, 1, { resumable: false })
    fs.writeFileSync(join(root, nameOf(1), "a.txt"), "Content 1")
    await close()
    const after = await opened(root)
    onTestFinished(after.close)
    assert.isUndefined(await Effect.runPromise(after.store.find(nameOf(1))))
  })

  it.each(["syncfs", "sync, where the system has no program for all at once"])(
    "is written out together, by %s",
    async (how) => {
      const root = temporaryFolder()
      const { store, close } = await opened(root)
      onTestFinished(close)
      const path = process.env["PATH"]
      if (how !== "syncfs") process.env["PATH"] = temporaryFolder()
      onTestFinished(() => {
        process.env["PATH"] = path
      })
      for (let size = 0; size < 10; size++) await makeOf(store, size, { resumable: false })
      await Effect.runPromise(store.settle)
      assert.lengthOf(notes(root), 10)
    },
  )

  it("is not noted when the disk refuses it: the step that waited for it says so, and the next try succeeds", async () => {
    const root = temporaryFolder()
    const { store, close } = await opened(root)
    onTestFinished(close)
    onTestFinished(() => void arm(undefined))
    await makeOf(store, 1, { resumable: false })
    // the operations of writing one artifact out: two opened files and three folders come before the first sync
    arm({ action: "EIO", nth: 6 })
    const refused = await Effect.runPromise(Effect.result(store.settle))
    assert.isTrue(Result.isFailure(refused))
    assert.deepStrictEqual(notes(root), [])
    await Effect.runPromise(store.settle)
    assert.deepStrictEqual(notes(root), [noteOf(1)])
  })
})

describe("what took long, or can be gone on with", () => {
  it.each([
    ["half a second", { resumable: false, millis: 550 }],
    ["resumable", { resumable: true }],
  ] as const)("is on disk before it is in its place, and noted at once: %s", async (_, options) => {
    const root = temporaryFolder()
    const { store, close } = await opened(root)
    onTestFinished(close)
    await makeOf(store, 1, options)
    assert.deepStrictEqual(notes(root), [noteOf(1)])
    // and so its stat is taken for it
    flip(join(root, nameOf(1), "a.txt"), 0)
    forgeStat(root, nameOf(1))
    assert.isDefined(await Effect.runPromise(store.find(nameOf(1))))
  })
})
