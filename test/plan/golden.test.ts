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
      "corpus-6445a97b89ca  corpus
      tokenizer-9aa8a5ccd162  tokenizer  corpus=corpus-6445a97b89ca
      pack-469697941dae  pack  corpus=corpus-6445a97b89ca  tokenizer=tokenizer-9aa8a5ccd162
      train-a03efe376381  train 0→300  tokens=pack-469697941dae
      decay-0b6bfbc45d1a  decay 200→280  from=train-a03efe376381#step_200
      benchmark-242cd3fc25c5  benchmark step_220  model=decay-0b6bfbc45d1a#step_220
      benchmark-fefff156b546  benchmark step_240  model=decay-0b6bfbc45d1a#step_240
      benchmark-88b95c296cbf  benchmark step_260  model=decay-0b6bfbc45d1a#step_260
      benchmark-1da2a923bf96  benchmark step_280  model=decay-0b6bfbc45d1a#step_280
      decay-875ebe343a4e  decay 300→380  from=train-a03efe376381#step_300
      benchmark-c2c7c3879c31  benchmark step_320  model=decay-875ebe343a4e#step_320
      benchmark-3c3beb7b30ea  benchmark step_340  model=decay-875ebe343a4e#step_340
      benchmark-3f10322facd3  benchmark step_360  model=decay-875ebe343a4e#step_360
      benchmark-883e51fec7ec  benchmark step_380  model=decay-875ebe343a4e#step_380
      select-a13d8e97aa5f  select by val_loss_mixed  among=benchmark-242cd3fc25c5,benchmark-fefff156b546,benchmark-88b95c296cbf,benchmark-1da2a923bf96,benchmark-c2c7c3879c31,benchmark-3c3beb7b30ea,benchmark-3f10322facd3,benchmark-883e51fec7ec
      sweep-2231001ab26a  sweep decoding  model=select-a13d8e97aa5f
      release-4b166644fd89  release small-en-it  model=select-a13d8e97aa5f  decoding=sweep-2231001ab26a"
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
