import * as fs from "node:fs"
import { join } from "node:path"
import { assert, describe, expect, it } from "vitest"
import { exp, type Said } from "../cli/command.ts"
import { artifacts, hanging, interrupted, runNames, shown, world } from "./world.ts"

const unfinished = (folder: string): ReadonlyArray<string> => fs.readdirSync(join(folder, "runs/store/.tmp"))
const forget = (folder: string, run: string): void => fs.rmSync(join(folder, "runs", run), { recursive: true })
const gc = (folder: string, ...args: ReadonlyArray<string>) => exp(folder, "gc", ...args)

/** A second run with another rate, beside the first. */
const another = async (folder: string): Promise<string> => {
  const [first] = runNames(folder)
  assert.strictEqual((await exp(folder, "run", "fake.ts", "--json", "--set", "rate=0.2")).code, 0)
  return runNames(folder).find((name) => name !== first)!
}

describe("exp gc", () => {
  it("removes nothing that a run leads to", async () => {
    const folder = await world()
    const before = artifacts(folder)
    expect(shown(await gc(folder))).toMatchInlineSnapshot(`
      "exit 0
      nothing to remove; 6 artifacts ( <size>) are in use"
    `)
    assert.deepStrictEqual(artifacts(folder), before)
  })

  it("removes what only a deleted run led to, and says beforehand what that would be", async () => {
    const folder = await world()
    const before = artifacts(folder)
    const run = await another(folder)
    const both = artifacts(folder)
    forget(folder, run)
    const promised = await gc(folder, "--dry-run")
    expect(shown(promised)).toMatchInlineSnapshot(`
      "exit 0
        what  size  why
      would go  benchmark-<key 1> <size>  no run or tag leads to it
      would go  benchmark-<key 2> <size>  no run or tag leads to it
      would go  release-<key 3> <size>  no run or tag leads to it
      would go  select-<key 4> <size>  no run or tag leads to it
      would go  train-<key 5> <size>  no run or tag leads to it

      would free <size>; 6 artifacts ( <size>) stay"
    `)
    assert.deepStrictEqual(artifacts(folder), both)
    const named = (said: Said) => said.out.match(/\b[a-z]+-[0-9a-f]{16}\b/g)
    assert.deepStrictEqual(named(await gc(folder)), named(promised))
    assert.deepStrictEqual(artifacts(folder), before)
    assert.deepStrictEqual(unfinished(folder), [])
    assert.strictEqual((await exp(folder, "check")).code, 0)
    assert.match((await exp(folder, "run", "fake.ts", "--json")).out, /"made":0,/)
  })

  it("keeps what a tagged run used, its folder deleted or not, until the tag is taken away", async () => {
    const folder = await world()
    const run = await another(folder)
    await exp(folder, "tag", run, "keep-me")
    forget(folder, run)
    assert.match((await gc(folder)).out, /nothing to remove/)
    await exp(folder, "tag", "--remove", "keep-me")
    assert.match((await gc(folder, "--json")).out, /"why":"no run or tag leads to it"/)
  })

  it("keeps interrupted work that can be gone on from, and the next run goes on from it", async () => {
    const folder = await world()
    await interrupted(folder)
    expect(shown(await gc(folder))).toMatchInlineSnapshot(`
      "exit 0
        what  size  why
      kept  train-<key 1> <size>  interrupted: \`exp run\` goes on from it

      nothing to remove; 6 artifacts ( <size>) are in use"
    `)
    assert.match((await exp(folder, "run", "fake.ts", "--set", "rate=0.2", "--json")).out, /goes on from step 1/)
  })

  it("removes interrupted work when what it was made from goes too", async () => {
    const folder = await world()
    await interrupted(folder)
    for (const run of runNames(folder)) forget(folder, run)
    const { out } = await gc(folder)
    assert.match(out, /what it was made from is not kept/)
    assert.deepStrictEqual([artifacts(folder), unfinished(folder)], [[], []])
  })

  it("does not hurt a run beside it, which finishes as if alone", async () => {
    const folder = await world()
    const [first] = runNames(folder)
    const running = await hanging(folder, "--json")
    forget(folder, first!)
    const removed = JSON.parse((await gc(folder, "--json")).out)
    assert.includeMembers(
      removed.kept.map((one: { why: string }) => one.why),
      ["being made now", "a train is being made and may go on from it"],
    )
    assert.lengthOf(artifacts(folder, "corpus"), 1)
    assert.lengthOf(artifacts(folder, "release"), 0)
    fs.rmSync(join(folder, "hang"))
    const { code, out } = await running.ended
    assert.strictEqual(code, 0)
    assert.notMatch(out, /damaged/)
    assert.strictEqual((await exp(folder, "check", "--read-data")).code, 0)
  })

  it("removes nothing while it cannot tell what a run uses", async () => {
    const folder = await world()
    const [run] = runNames(folder)
    fs.writeFileSync(join(folder, "runs", run!, "journal.ndjson"), "{nonsense\n")
    const before = artifacts(folder)
    const { code, err } = await gc(folder)
    assert.strictEqual(code, 1)
    assert.match(err, /what this run uses is not known/)
    assert.deepStrictEqual(artifacts(folder), before)
  })

  it("removes nothing while a tag is not as it was written", async () => {
    const folder = await world()
    await exp(folder, "tag", runNames(folder)[0]!, "kept")
    const path = join(folder, "runs/tags/kept.json")
    const whole = fs.readFileSync(path)
    const before = artifacts(folder)
    for (const position of [0, 20, whole.length - 30, whole.length - 1]) {
      const changed = Buffer.from(whole)
      changed[position]! ^= 1
      fs.writeFileSync(path, changed)
      const { code, err } = await gc(folder)
      assert.strictEqual(code, 1)
      assert.match(err, /kept\.json: it does not have the bytes .*\n {2}hint: .*restore the tag/)
    }
    assert.deepStrictEqual(artifacts(folder), before)
  })

  it("finishes what an earlier collection was killed at, and empties what was set aside", async () => {
    const folder = await world()
    fs.mkdirSync(join(folder, "runs/store/.tmp/.removed-train-0123456789abcdef-1"), { recursive: true })
    fs.mkdirSync(join(folder, "runs/store/.damaged/train-0123456789abcdef.1"), { recursive: true })
    assert.strictEqual((await gc(folder)).code, 0)
    assert.deepStrictEqual([unfinished(folder), fs.readdirSync(join(folder, "runs/store/.damaged"))], [[], []])
  })
})
