import * as fs from "node:fs"
import { join } from "node:path"
import { assert, describe, expect, it } from "vitest"
import { exp } from "../cli/command.ts"
import { artifacts, hanging, runNames, shown, world } from "./world.ts"

const store = (folder: string, ...path: ReadonlyArray<string>) => join(folder, "runs/store", ...path)

/** Changes a byte of a file so that its size stays. */
const flip = (path: string): void => {
  const bytes = fs.readFileSync(path)
  bytes[0]! ^= 1
  fs.writeFileSync(path, bytes)
}

/** As a disk does that rots: the bytes change, and nothing that is noted of the file. */
const rot = (folder: string, artifact: string, file: string): void => {
  flip(store(folder, artifact, file))
  const notes = store(folder, ".stat", `${artifact}.json`)
  const noted = JSON.parse(fs.readFileSync(notes, "utf8"))
  const { size, mtimeNs, ctimeNs, ino } = fs.statSync(store(folder, artifact, file), { bigint: true })
  noted[file] = { bytes: Number(size), mtime: `${mtimeNs}`, ctime: `${ctimeNs}`, inode: `${ino}` }
  fs.writeFileSync(notes, JSON.stringify(noted))
}

describe("exp check", () => {
  it("says that all is whole", async () => {
    const folder = await world()
    expect(shown(await exp(folder, "check"))).toMatchInlineSnapshot(`
      "exit 0
      6 artifacts, <size>: 6 whole, by size, times and inode"
    `)
    expect(shown(await exp(folder, "check", "--read-data"))).toMatchInlineSnapshot(`
      "exit 0
      6 artifacts, <size>: 6 whole, every byte hashed"
    `)
  })

  it("has nothing to say where nothing was run", async () => {
    const folder = await world()
    fs.rmSync(join(folder, "runs"), { recursive: true })
    expect(shown(await exp(folder, "check"))).toMatchInlineSnapshot(`
      "exit 0
      0 artifacts, <size>: 0 whole, by size, times and inode"
    `)
    assert.isFalse(fs.existsSync(join(folder, "runs")))
  })

  it("lists what is damaged, sets it aside when told, and the command it names mends the store", async () => {
    const folder = await world()
    const [corpus] = artifacts(folder, "corpus")
    const [release] = artifacts(folder, "release")
    flip(store(folder, corpus!, "texts.txt"))
    fs.rmSync(store(folder, release!, "release/LICENSE"))
    expect(shown(await exp(folder, "check"))).toMatchInlineSnapshot(`
      "exit 1
      6 artifacts, <size>: 4 whole, by size, times and inode

      damaged  what is wrong  made anew by
      corpus-<key 1>  \`texts.txt\` does not have the bytes it was stored with  exp run fake.ts --set steps=4 --set rate=0.1
      release-<key 2>  \`release/LICENSE\` is missing  exp run fake.ts --set steps=4 --set rate=0.1
      stderr:
      error: the store is not whole: 2 damaged
        hint: \`exp check --repair\` sets what is damaged aside, then \`exp run fake.ts --set steps=4 --set rate=0.1\` makes them anew"
    `)
    assert.include(artifacts(folder), corpus)
    expect(shown(await exp(folder, "check", "--repair"))).toMatchInlineSnapshot(`
      "exit 1
      6 artifacts, <size>: 4 whole, by size, times and inode

      damaged  what is wrong  made anew by
      corpus-<key 1>  \`texts.txt\` does not have the bytes it was stored with  set aside  exp run fake.ts --set steps=4 --set rate=0.1
      release-<key 2>  \`release/LICENSE\` is missing  set aside  exp run fake.ts --set steps=4 --set rate=0.1

      set aside  size
      corpus-<key 1>.1 <size>  was damaged: \`exp gc\` removes it
      release-<key 2>.1 <size>  was damaged: \`exp gc\` removes it
      stderr:
      error: the store is not whole: 2 damaged
        hint: \`exp run fake.ts --set steps=4 --set rate=0.1\` makes them anew"
    `)
    assert.notInclude(artifacts(folder), corpus)
    expect(shown(await exp(folder, "check"))).toMatchInlineSnapshot(`
      "exit 1
      4 artifacts, <size>: 4 whole, by size, times and inode

      not there  named by  made anew by
      corpus-<key 1>  <minute>_fake, train-<key 2>  exp run fake.ts --set steps=4 --set rate=0.1
      release-<key 3>  <minute>_fake  exp run fake.ts --set steps=4 --set rate=0.1

      set aside  size
      corpus-<key 1>.1 <size>  was damaged: \`exp gc\` removes it
      release-<key 3>.1 <size>  was damaged: \`exp gc\` removes it
      stderr:
      error: the store is not whole: 2 not there
        hint: \`exp run fake.ts --set steps=4 --set rate=0.1\` makes them anew"
    `)
    assert.strictEqual((await exp(folder, "run", "fake.ts", "--set", "steps=4", "--set", "rate=0.1", "--json")).code, 0)
    expect(shown(await exp(folder, "check", "--read-data"))).toMatchInlineSnapshot(`
      "exit 0
      6 artifacts, <size>: 6 whole, every byte hashed

      set aside  size
      corpus-<key 1>.1 <size>  was damaged: \`exp gc\` removes it
      release-<key 2>.1 <size>  was damaged: \`exp gc\` removes it"
    `)
  })

  it("finds with --read-data what no stat shows", async () => {
    const folder = await world()
    // a copy has other inodes: the first look notes them
    assert.strictEqual((await exp(folder, "check", "--read-data")).code, 0)
    rot(folder, artifacts(folder, "corpus")[0]!, "texts.txt")
    assert.strictEqual((await exp(folder, "check")).code, 0)
    const { code, out } = await exp(folder, "check", "--read-data", "--json")
    assert.strictEqual(code, 1)
    assert.deepStrictEqual(
      JSON.parse(out).damaged.map((one: { problem: string }) => one.problem),
      ["`texts.txt` does not have the bytes it was stored with"],
    )
  })

  it("tells a manifest that was changed, and one that is not there", async () => {
    const folder = await world()
    flip(store(folder, artifacts(folder, "corpus")[0]!, "manifest.json"))
    fs.rmSync(store(folder, artifacts(folder, "train")[0]!, "manifest.json"))
    const { code, out } = await exp(folder, "check", "--json")
    assert.strictEqual(code, 1)
    assert.deepStrictEqual(
      JSON.parse(out).damaged.map((one: { problem: string }) => one.problem),
      ["`manifest.json` cannot be read", "`manifest.json` is missing"],
    )
  })

  it("tells a journal that cannot be read", async () => {
    const folder = await world()
    fs.writeFileSync(join(folder, "runs", runNames(folder)[0]!, "journal.ndjson"), "{nonsense\n")
    const { code, err } = await exp(folder, "check")
    assert.strictEqual(code, 1)
    assert.match(err, /journal.ndjson: .*\n {2}hint: /)
  })

  it("tells what runs name and nobody has, and what does not belong there", async () => {
    const folder = await world()
    fs.rmSync(store(folder, artifacts(folder, "train")[0]!), { recursive: true })
    fs.writeFileSync(store(folder, "notes.txt"), "mine")
    expect(shown(await exp(folder, "check"))).toMatchInlineSnapshot(`
      "exit 1
      5 artifacts, <size>: 5 whole, by size, times and inode

      not there  named by  made anew by
      train-<key 1>  <minute>_fake and 2 more  exp run fake.ts --set steps=4 --set rate=0.1

      does not belong here: notes.txt
      stderr:
      error: the store is not whole: 1 not there
        hint: \`exp run fake.ts --set steps=4 --set rate=0.1\` makes it anew"
    `)
  })

  it("tells interrupted work that can be gone on from, and work in progress", async () => {
    const folder = await world()
    const running = await hanging(folder)
    const during = JSON.parse((await exp(folder, "check", "--json")).out)
    assert.deepStrictEqual(
      during.unfinished.map((one: { state: string }) => one.state),
      ["being made"],
    )
    running.child.kill("SIGKILL")
    await running.ended
    fs.mkdirSync(store(folder, ".tmp/sweep-0123456789abcdef/out"), { recursive: true })
    expect(shown(await exp(folder, "check"))).toMatchInlineSnapshot(`
      "exit 0
      6 artifacts, <size>: 6 whole, by size, times and inode

      unfinished  size
      sweep-<key 1> <size>  nothing can go on from it: \`exp gc\` removes it
      train-<key 2> <size>  resumable: \`exp run\` goes on from it"
    `)
    assert.lengthOf(runNames(folder), 2)
  })
})
