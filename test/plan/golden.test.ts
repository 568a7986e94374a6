import { execFileSync } from "node:child_process"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { Effect } from "effect"
import { assert, describe, expect, it } from "vitest"
import smallEnIt from "../../experiments/small-en-it.ts"
import { planText } from "../../src/cli/PlanText.ts"
import { type Experiment, plan } from "../../src/plan/Plan.ts"
import { temporaryFolder } from "../temporary.ts"

const textOf = (experiment: Experiment) => planText(Effect.runSync(plan(experiment)).nodes)
const root = join(import.meta.dirname, "../..")

/** A change here is a change of what experiments mean: every artifact after it is made anew. */
describe("the plan of experiments/small-en-it.ts", () => {
  it("is this one", () => {
    expect(textOf(smallEnIt)).toMatchInlineSnapshot(`
      "corpus-1743fb6f6c93  corpus
      tokenizer-c3979a6ff3cd  tokenizer  corpus=corpus-1743fb6f6c93
      pack-c408f710bf0a  pack  corpus=corpus-1743fb6f6c93  tokenizer=tokenizer-c3979a6ff3cd
      train-78b512d41252  train 0→300  tokens=pack-c408f710bf0a
      decay-665144bd4398  decay 200→280  from=train-78b512d41252#step_200
      benchmark-b1c544c6f37c  benchmark step_220  model=decay-665144bd4398#step_220
      benchmark-e03a03dd5144  benchmark step_240  model=decay-665144bd4398#step_240
      benchmark-2f2aba5af0a6  benchmark step_260  model=decay-665144bd4398#step_260
      benchmark-ac77ee8f659b  benchmark step_280  model=decay-665144bd4398#step_280
      decay-c226d106caf4  decay 300→380  from=train-78b512d41252#step_300
      benchmark-d44edf442c52  benchmark step_320  model=decay-c226d106caf4#step_320
      benchmark-e264ed002c17  benchmark step_340  model=decay-c226d106caf4#step_340
      benchmark-47f9fce09ade  benchmark step_360  model=decay-c226d106caf4#step_360
      benchmark-3e6ae0f3eb31  benchmark step_380  model=decay-c226d106caf4#step_380
      select-36852c57c605  select by val_loss_mixed  among=benchmark-b1c544c6f37c,benchmark-e03a03dd5144,benchmark-2f2aba5af0a6,benchmark-ac77ee8f659b,benchmark-d44edf442c52,benchmark-e264ed002c17,benchmark-47f9fce09ade,benchmark-3e6ae0f3eb31
      sweep-09b480f67be9  sweep decoding  model=select-36852c57c605
      release-713d274bf47f  release small-en-it  model=select-36852c57c605  decoding=sweep-09b480f67be9"
    `)
  })

  it("is the same in another folder, time zone and language", () => {
    const url = (path: string) => pathToFileURL(join(root, path)).href
    const script = `
      import { Effect } from "${url("node_modules/effect/dist/index.js")}"
      import experiment from "${url("experiments/small-en-it.ts")}"
      import { planText } from "${url("src/cli/PlanText.ts")}"
      import { plan } from "${url("src/plan/Plan.ts")}"
      process.stdout.write(planText(Effect.runSync(plan(experiment)).nodes))`
    const text = execFileSync(process.execPath, ["--input-type=module", "-e", script], {
      cwd: temporaryFolder(),
      env: { ...process.env, TZ: "Asia/Kathmandu", LANG: "tr_TR.UTF-8", LC_ALL: "tr_TR.UTF-8" },
      encoding: "utf8",
    })
    assert.strictEqual(text, textOf(smallEnIt))
  })
})

it("importing what experiments may import loads no engine, template, git, hub or parquet module, and none of what steps do", () => {
  const script = `
    import { registerHooks } from "node:module"
    const loaded = []
    registerHooks({ load: (url, context, next) => { loaded.push(url); return next(url, context) } })
    await import(${JSON.stringify(pathToFileURL(join(root, "src/index.ts")).href)})
    process.stdout.write(JSON.stringify(loaded))`
  const loaded: ReadonlyArray<string> = JSON.parse(
    execFileSync(process.execPath, ["--input-type=module", "-e", script], { encoding: "utf8" }),
  )
  const here = `${pathToFileURL(root).href}/`
  const packages = loaded.flatMap((url) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(url)?.[1] ?? [])
  const folders = loaded.flatMap((url) =>
    url.startsWith(`${here}src/`) ? (url.slice(here.length).match(/^src\/[^/]+(?=\/)/) ?? []) : [],
  )
  expect([...new Set(packages)].sort()).toMatchInlineSnapshot(`
    [
      "effect",
    ]
  `)
  expect([...new Set(folders)].sort()).toMatchInlineSnapshot(`
    [
      "src/model",
      "src/plan",
      "src/steps",
    ]
  `)
})
