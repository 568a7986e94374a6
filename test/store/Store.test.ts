import { type ChildProcess, spawn } from "node:child_process"
import * as fs from "node:fs"
import { join } from "node:path"
import { Effect, Result } from "effect"
import { assert, describe, expect, it, onTestFinished } from "vitest"
import { listFiles, Store, type Workplace } from "../../src/store/Store.ts"
import { temporaryFolder } from "../temporary.ts"
import { flip, forgeStat } from "./damage.ts"
import { draft } from "./draft.ts"

type Api = Store["Service"]

const inStore = <A, E>(root: string, use: (store: Api) => Effect.Effect<A, E>): Promise<Result.Result<A, E>> =>
  Effect.gen(function* () {
    return yield* use(yield* Store)
  }).pipe(Effect.provide(Store.layer(root)), Effect.result, Effect.runPromise)

const fill = ({ out }: Workplace) =>
  Effect.sync(() => {
    fs.mkdirSync(join(out, "below"), { recursive: true })
    fs.writeFileSync(join(out, "a.txt"), "first")
    fs.writeFileSync(join(out, "below/b.txt"), "second")
    return {}
  })

const once = { resumable: false, onWait: () => {} }
const makeIt = (store: Api) => store.make(draft(), once, fill)
const name = draft().artifact

/** A store with one artifact in it. */
const stocked = async () => {
  const root = temporaryFolder()
  await inStore(root, makeIt)
  return { root, folder: join(root, name) }
}

const errorOf = (result: Result.Result<unknown, unknown>) =>
  Result.isFailure(result) && result.failure instanceof Error ? result.failure : assert.fail("it did not fail")

const failures: ReadonlyArray<readonly [string, (place: Workplace) => Effect.Effect<{}, Error>]> = [
  ["fails", () => Effect.fail(new Error("no"))],
  ["is interrupted", () => Effect.interrupt],
  ["has a bug", () => Effect.die(new TypeError("undefined is not a function"))],
  ...(["ENOSPC", "EIO", "EMFILE", "EACCES"] as const).map(
    (code) =>
      [
        `meets ${code}`,
        () => Effect.die(Object.assign(new Error(`${code}: write`), { code, syscall: "write", errno: -1 })),
      ] as const,
  ),
  [
    "leaves a link instead of a file",
    ({ out }) =>
      Effect.sync(() => {
        fs.symlinkSync("a.txt", join(out, "link"))
        return {}
      }),
  ],
]

describe("making an artifact", () => {
  it("commits it whole, with a manifest of every file", async () => {
    const { root, folder } = await stocked()
    assert.deepStrictEqual(listFiles(folder), ["a.txt", "below/b.txt", "manifest.json"])
    expect(fs.readFileSync(join(folder, "manifest.json"), "utf8")).toMatchInlineSnapshot(`
      "{"artifact":"thing-dcb5f9511ac56b89","code":"4a1933b06cf695fcff4acaba1fdbaa7f10ce109d3c7f57bbf62f6bb572658de8","digest":"b2a63ab5fe2277c50b60f7464772a5212c610c687d2bbc7d41fec771124fa602","files":[{"bytes":5,"path":"a.txt","sha256":"a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e"},{"bytes":6,"path":"below/b.txt","sha256":"16367aacb67a4a017c8da8ab95682ccb390863780f7114dda0a0e0c55644c7c4"}],"format":1,"identity":"dcb5f9511ac56b89d321c85f9a92155fcd5893a2733b284af801dd72f5bf1138","inputs":{"from":[{"artifact":"other-0123456789abcdef","identity":"d448c0e0f65da7948e3edb7805b5272b54f75f427c33333157324b626f5ca51f","part":"step_3"}]},"key":"dcb5f9511ac56b89d321c85f9a92155fcd5893a2733b284af801dd72f5bf1138","kind":"thing","params":{"size":1},"version":1}
      "
    `)
    assert.deepStrictEqual(fs.readdirSync(join(root, ".tmp")), [])
  })

  it("does not make what is there", async () => {
    const { root } = await stocked()
    const again = await inStore(root, (store) => store.make(draft(), once, () => Effect.die("made twice")))
    assert.isTrue(Result.isSuccess(again) && !again.success.made)
  })

  it.each(failures)("leaves nothing when its maker %s, and succeeds the next time", async (_, fail) => {
    const root = temporaryFolder()
    await inStore(root, (store) =>
      store.make(draft(), once, (place) => Effect.andThen(fill(place), fail(place))),
    ).catch(() => "died")
    assert.isFalse(fs.existsSync(join(root, name)))
    const next = await inStore(root, makeIt)
    assert.isTrue(Result.isSuccess(next) && next.success.made)
    assert.isTrue(Result.isSuccess(await inStore(root, (store) => store.verify(name))))
    assert.deepStrictEqual(listFiles(join(root, name)), ["a.txt", "below/b.txt", "manifest.json"])
  })

  it("says what to do when the disk is full", async () => {
    const root = temporaryFolder()
    const [, full] = failures.find(([title]) => title === "meets ENOSPC")!
    const result = await inStore(root, (store) => store.make(draft(), once, full))
    expect(errorOf(result).message.replace(root, "<root>")).toMatchInlineSnapshot(`
      "store, <root>/thing-dcb5f9511ac56b89: ENOSPC: write
        hint: the disk is full: free some room and run again, nothing is lost"
    `)
  })

  it("gives an empty workplace on to the next step, with the draft of that step in it, and none to what left something", async () => {
    const root = temporaryFolder()
    const seen: Array<{ readonly inode: number; readonly size: unknown; readonly scratch: ReadonlyArray<string> }> = []
    const make = (store: Api, size: number, left: ReadonlyArray<string> = []) =>
      store.make(draft({ size }), once, (place) =>
        Effect.suspend(() => {
          const above = join(place.out, "..")
          const { params } = JSON.parse(fs.readFileSync(join(above, "draft.json"), "utf8"))
          seen.push({ inode: fs.statSync(above).ino, size: params.size, scratch: fs.readdirSync(place.scratch) })
          for (const file of left) fs.writeFileSync(join(place.scratch, file), "left")
          return fill(place)
        }),
      )
    await inStore(root, (store) =>
      Effect.gen(function* () {
        yield* make(store, 1)
        yield* make(store, 2, ["note"])
        yield* make(store, 3)
        // somebody collects garbage: the spare workplace is gone
        for (const spare of fs.readdirSync(join(root, ".tmp")))
          fs.rmSync(join(root, ".tmp", spare), { recursive: true })
        yield* make(store, 4)
        for (const size of [1, 2, 3, 4]) yield* store.verify(draft({ size }).artifact)
      }),
    )
    assert.deepStrictEqual(
      seen.map(({ size, scratch }) => ({ size, scratch })),
      [1, 2, 3, 4].map((size) => ({ size, scratch: [] })),
    )
    assert.strictEqual(seen[1]!.inode, seen[0]!.inode)
    assert.deepStrictEqual(fs.readdirSync(join(root, ".tmp")), [])
  })

  it("keeps what an interrupted attempt left for a resumable kind, and drops it for others", async () => {
    for (const resumable of [true, false]) {
      const root = temporaryFolder()
      const seen: Array<ReadonlyArray<string>> = []
      for (const _attempt of [1, 2])
        await inStore(root, (store) =>
          store.make(draft(), { ...once, resumable }, ({ out, scratch }) =>
            Effect.suspend(() => {
              seen.push([...fs.readdirSync(out), ...fs.readdirSync(scratch)])
              fs.writeFileSync(join(out, "half.txt"), "half")
              fs.writeFileSync(join(scratch, "resume"), "12")
              return Effect.fail(new Error("interrupted"))
            }),
          ),
        )
      assert.deepStrictEqual(seen, [[], resumable ? ["half.txt", "resume"] : []])
    }
  })
})

describe("work that can be gone on with", () => {
  it("keeps the draft it is known by as it is: going on writes nothing that could tear it", async () => {
    const root = temporaryFolder()
    const stop = (store: Api) =>
      store.make(draft(), { ...once, resumable: true }, ({ scratch }) =>
        Effect.sync(() => fs.writeFileSync(join(scratch, "point"), "half")).pipe(
          Effect.andThen(Effect.fail("stopped")),
        ),
      )
    const path = join(root, ".tmp", name, "draft.json")
    const known = () => {
      const { ino, mtimeNs } = fs.statSync(path, { bigint: true })
      return { ino, mtimeNs, text: fs.readFileSync(path, "utf8") }
    }
    await inStore(root, stop)
    const before = known()
    await inStore(root, stop)
    assert.deepStrictEqual(known(), before)
    // one that was torn long ago is replaced
    fs.truncateSync(path, 10)
    await inStore(root, stop)
    assert.strictEqual(known().text, before.text)
  })
})

describe("a damaged artifact", () => {
  it("is found whichever byte of whichever file is flipped, the manifest's included", async () => {
    const { root, folder } = await stocked()
    const missed: Array<string> = []
    for (const path of listFiles(folder)) {
      const whole = fs.readFileSync(join(folder, path))
      for (let position = 0; position < whole.length; position++) {
        // another bit each time, so that all kinds of wrong bytes come up
        flip(join(folder, path), position, 1 << (position % 8))
        forgeStat(root, name)
        const verified = await inStore(root, (store) => store.verify(name))
        if (Result.isSuccess(verified)) missed.push(`${path} at ${position}`)
        fs.writeFileSync(join(folder, path), whole)
      }
    }
    assert.deepStrictEqual(missed, [])
    assert.isTrue(Result.isSuccess(await inStore(root, (store) => store.verify(name))))
  })

  it("is found when its manifest is spelled in another way", async () => {
    const { root, folder } = await stocked()
    const manifest = fs.readFileSync(join(folder, "manifest.json"), "utf8")
    for (const text of [manifest.trimEnd(), `${manifest} `, JSON.stringify(JSON.parse(manifest), null, 1)]) {
      fs.writeFileSync(join(folder, "manifest.json"), text)
      expect(errorOf(await inStore(root, (store) => store.verify(name))).message).toContain("was changed")
    }
  })

  it.each<readonly [string, (folder: string) => void]>([
    ["a file is truncated", (folder) => fs.truncateSync(join(folder, "a.txt"), 2)],
    ["a file is missing", (folder) => fs.rmSync(join(folder, "below/b.txt"))],
    ["a file is too many", (folder) => fs.writeFileSync(join(folder, "c.txt"), "")],
    ["files are swapped", (folder) => fs.renameSync(join(folder, "a.txt"), join(folder, "below/b.txt"))],
    [
      "a file is a link",
      (folder) => {
        fs.renameSync(join(folder, "a.txt"), join(folder, "..", "elsewhere"))
        fs.symlinkSync("../elsewhere", join(folder, "a.txt"))
      },
    ],
    ["the manifest is missing", (folder) => fs.rmSync(join(folder, "manifest.json"))],
    ["the manifest is empty", (folder) => fs.truncateSync(join(folder, "manifest.json"))],
    ["a byte is flipped", (folder) => flip(join(folder, "a.txt"), 1)],
  ])("counts as absent when %s, is moved aside by its maker and made again", async (_, damage) => {
    const { root, folder } = await stocked()
    damage(folder)
    const problems: Array<string> = []
    const found = await inStore(root, (store) => store.find(name, (problem) => problems.push(problem)))
    assert.deepStrictEqual(found, Result.succeed(undefined))
    assert.lengthOf(problems, 1)
    assert.isTrue(fs.existsSync(folder), "looking moves nothing")
    const next = await inStore(root, makeIt)
    assert.isTrue(Result.isSuccess(next) && next.success.made)
    assert.deepStrictEqual(fs.readdirSync(join(root, ".damaged")), [`${name}.1`])
    assert.isTrue(Result.isSuccess(await inStore(root, (store) => store.verify(name))))
  })

  it("whose stat is as it was is made again once its bytes were found wrong", async () => {
    const { root, folder } = await stocked()
    flip(join(folder, "a.txt"), 0)
    forgeStat(root, name)
    assert.isDefined(Result.getOrUndefined(await inStore(root, (store) => store.find(name))), "stat alone cannot tell")
    expect(errorOf(await inStore(root, (store) => store.verify(name))).message).toMatchInlineSnapshot(`
      "artifact thing-dcb5f9511ac56b89 is damaged: \`a.txt\` does not have the bytes it was stored with
        hint: \`exp run\` the experiment that made it: it is moved aside and made anew"
    `)
    const next = await inStore(root, makeIt)
    assert.isTrue(Result.isSuccess(next) && next.success.made)
  })

  it("is found in a store that read its manifest before it was changed", async () => {
    const { root, folder } = await stocked()
    const problems: Array<string> = []
    await inStore(root, (store) =>
      Effect.gen(function* () {
        assert.isDefined(yield* store.find(name))
        flip(join(folder, "manifest.json"), 20)
        assert.isUndefined(yield* store.find(name, (problem) => problems.push(problem)))
      }),
    )
    assert.lengthOf(problems, 1)
  })

  it("under the name of another is not taken for it", async () => {
    const { root, folder } = await stocked()
    const other = draft({ size: 2 }).artifact
    fs.cpSync(folder, join(root, other), { recursive: true })
    const problems: Array<string> = []
    await inStore(root, (store) => store.find(other, (problem) => problems.push(problem)))
    assert.deepStrictEqual(problems, ["`manifest.json` belongs to another artifact"])
  })
})

/** Starts `maker.ts`; `said` resolves when it has printed a word, `ended` when it is gone. */
const maker = (root: string, what: string, log?: string) => {
  const child: ChildProcess = spawn(
    process.execPath,
    [join(import.meta.dirname, "maker.ts"), root, what, ...(log === undefined ? [] : [log])],
    { stdio: ["ignore", "pipe", "inherit"] },
  )
  onTestFinished(() => void child.kill("SIGKILL"))
  let text = ""
  const waiting: Array<() => void> = []
  child.stdout!.on("data", (chunk) => {
    text += chunk
    for (const check of waiting) check()
  })
  return {
    child,
    said: (word: string) =>
      new Promise<void>((resolve) => {
        const check = () => {
          if (text.includes(word)) resolve()
        }
        waiting.push(check)
        check()
      }),
    ended: new Promise<string>((resolve) => child.on("close", () => resolve(text.trim().split("\n").join(" ")))),
  }
}

describe("processes", () => {
  it("that are killed in the middle leave nothing behind that the next one would trust or trip over", async () => {
    const root = temporaryFolder()
    const stuck = maker(root, "stuck")
    await stuck.said("begun")
    stuck.child.kill("SIGKILL")
    await stuck.ended
    assert.isFalse(fs.existsSync(join(root, name)))
    assert.isTrue(fs.existsSync(join(root, ".tmp", name, "out/a.txt")), "it was in the middle")
    assert.isTrue(fs.existsSync(join(root, ".lock", name)), "its lock file is still there")
    assert.strictEqual(await maker(root, "quick").ended, "begun made")
    assert.deepStrictEqual(listFiles(join(root, name)), ["a.txt", "b.txt", "manifest.json"])
  })

  it("that want the same artifact at once make it once", async () => {
    const root = temporaryFolder()
    const log = join(root, "..", `${name}-${process.pid}.log`)
    onTestFinished(() => fs.rmSync(log, { force: true }))
    const said = await Promise.all([1, 2, 3].map(() => maker(root, "slow", log).ended))
    assert.strictEqual(fs.readFileSync(log, "utf8"), "made\n")
    assert.lengthOf(
      said.filter((text) => text.endsWith("made")),
      1,
    )
    assert.lengthOf(
      said.filter((text) => text.endsWith("found")),
      2,
    )
  })

  it("wait for a live owner, even one that is stopped, and take over when it dies", async () => {
    const root = temporaryFolder()
    const owner = maker(root, "stuck")
    await owner.said("begun")
    owner.child.kill("SIGSTOP")
    const next = maker(root, "quick")
    await next.said("waiting")
    await new Promise((resolve) => setTimeout(resolve, 500))
    assert.isNull(next.child.exitCode)
    assert.isFalse(fs.existsSync(join(root, name)))
    owner.child.kill("SIGKILL")
    assert.strictEqual(await next.ended, "waiting begun made")
  })
})
