import * as fs from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import { assert, describe, expect, it } from "vitest"
import * as RunFolder from "../../src/run/RunFolder.ts"
import * as Tags from "../../src/run/Tags.ts"
import { exp } from "../cli/command.ts"
import { runNames, shown, world } from "./world.ts"

describe("exp tag", () => {
  it("names a run, lists the names, and takes one away", async () => {
    const folder = await world()
    const [run] = runNames(folder)
    expect(shown(await exp(folder, "tag"))).toMatchInlineSnapshot(`
      "exit 0
      no tags in \`runs\`
        hint: \`exp tag RUN NAME\` gives a run a name"
    `)
    expect(shown(await exp(folder, "tag", run!, "best-so-far"))).toMatchInlineSnapshot(`
      "exit 0
      best-so-far is <minute>_fake"
    `)
    expect(shown(await exp(folder, "tag"))).toMatchInlineSnapshot(`
      "exit 0
      tag  run
      best-so-far  <minute>_fake"
    `)
    assert.strictEqual(JSON.parse((await exp(folder, "show", "best-so-far", "--json")).out).name, run)
    expect(shown(await exp(folder, "tag", "--remove", "best-so-fra"))).toMatchInlineSnapshot(`
      "exit 1
      stderr:
      error: tag \`best-so-fra\`: there is no such tag
        hint: did you mean \`best-so-far\`?"
    `)
    expect(shown(await exp(folder, "tag", "--remove", "best-so-far"))).toMatchInlineSnapshot(`
      "exit 0
      removed: best-so-far named <minute>_fake"
    `)
    assert.deepStrictEqual(fs.readdirSync(join(folder, "runs/tags")), [])
  })

  it("refuses names that cannot name a file, or look like a run's", async () => {
    const runs = join(await world(), "runs")
    const [run] = RunFolder.list(runs)
    for (const name of ["../up", "a/b", "", ".hidden", "-", "x".repeat(101), "a\u0000b", "202601010000_run"]) {
      const refused = await Effect.runPromise(Effect.flip(Tags.add(runs, run!.name, name)))
      assert.match(refused.message, /\n {2}hint: /, name)
    }
    assert.isFalse(fs.existsSync(join(runs, "tags")))
  })

  it("does not move a tag from one run to another unasked", async () => {
    const folder = await world()
    await exp(folder, "tag", runNames(folder)[0]!, "mine")
    await exp(folder, "run", "fake.ts", "--json")
    const refused = await exp(folder, "tag", runNames(folder)[1]!, "mine")
    expect(shown(refused)).toMatchInlineSnapshot(`
      "exit 1
      stderr:
      error: tag \`mine\`: it already names <minute>_fake
        hint: take it away first: \`exp tag --remove mine\`"
    `)
  })
})

describe("exp diff", () => {
  it("shows what went into two runs, and what came out", async () => {
    const folder = await world()
    const [first] = runNames(folder)
    fs.writeFileSync(join(folder, "texts.txt"), "A dog sleeps in the sun.")
    await exp(folder, "run", "fake.ts", "--json", "--set", "rate=0.2")
    const second = runNames(folder).find((name) => name !== first)!
    await exp(folder, "tag", first!, "before")
    // the sources may be edited while the test runs
    const said = shown(await exp(folder, "diff", "before", second)).replace(/\n *code .*/, "")
    expect(said).toMatchInlineSnapshot(`
      "exit 0
      A  <minute>_fake
      B  <minute>_fake

      what went in
        A  B
      parameter \`rate\`  0.1  0.2
      sha256 of \`texts\`  <sha256>  <sha256>
      train 0→4: parameter \`rate\`  0.1  0.2

      what came out
        step  A  B
      differs  corpus  corpus-<key 1>  corpus-<key 2>
      differs  train 0→4  train-<key 3>  train-<key 4>
      differs  benchmark  benchmark-<key 5>  benchmark-<key 6>
      differs  benchmark  benchmark-<key 7>  benchmark-<key 8>
      differs  select  select-<key 9>  select-<key 10>
      differs  release  release-<key 11>  release-<key 12>

      select: \`step 4\` won in both

      winner  A  B  B − A
      val_loss_mixed  4.7000 [4.6000, 4.8000]  4.8000 [4.7000, 4.9000]  +0.1000
      winner: 1 metric is equal

      winner on the holdout  A  B  B − A
      val_loss_mixed  4.7000 [4.6000, 4.8000]  4.8000 [4.7000, 4.9000]  +0.1000

      release: 1 of 2 files differ: release/README.md"
    `)
    const found = JSON.parse((await exp(folder, "diff", first!, second, "--json")).out)
    assert.deepStrictEqual(found.parameters, [{ path: "rate", a: 0.1, b: 0.2 }])
    assert.deepInclude(found.releases, { label: "release", files: 2, differ: ["release/README.md"] })
  })

  it("says of equal runs that they are equal", async () => {
    const folder = await world()
    await exp(folder, "run", "fake.ts", "--json")
    const [a, b] = runNames(folder)
    expect(shown(await exp(folder, "diff", a!, b!))).toMatchInlineSnapshot(`
      "exit 0
      A  <minute>_fake
      B  <minute>_fake

      the same went in

      what came out
      6 steps are the same artifact in both

      select: \`step 4\` won in both

      winner: 2 metrics are equal

      winner on the holdout: 1 metric is equal

      release: all 2 files are byte-equal, but for clock, machine and git in provenance.json"
    `)
  })

  it("asks what run was meant", async () => {
    const folder = await world()
    await exp(folder, "tag", runNames(folder)[0]!, "baseline")
    expect(shown(await exp(folder, "diff", "baseline", "basline"))).toMatchInlineSnapshot(`
      "exit 1
      stderr:
      error: there is no run \`basline\`
        hint: did you mean \`baseline\`?"
    `)
  })
})
