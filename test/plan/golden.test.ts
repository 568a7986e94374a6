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
      "corpus-853fb7b0de5b  corpus
      tokenizer-085bcb57d0e3  tokenizer  corpus=corpus-853fb7b0de5b
      pack-94b750eb6f68  pack  corpus=corpus-853fb7b0de5b  tokenizer=tokenizer-085bcb57d0e3
      train-a53d91356f2d  train 0→450  tokens=pack-94b750eb6f68
      decay-2832d83be20d  decay 300→400  from=train-a53d91356f2d#step_300
      benchmark-358420f6144a  benchmark step_325  model=decay-2832d83be20d#step_325
      benchmark-eb103cac5c31  benchmark step_350  model=decay-2832d83be20d#step_350
      benchmark-612926a90c71  benchmark step_375  model=decay-2832d83be20d#step_375
      benchmark-64a9c8c8d322  benchmark step_400  model=decay-2832d83be20d#step_400
      decay-874987c657cb  decay 450→550  from=train-a53d91356f2d#step_450
      benchmark-48cc1b9a1aec  benchmark step_475  model=decay-874987c657cb#step_475
      benchmark-538b9dcd0e4a  benchmark step_500  model=decay-874987c657cb#step_500
      benchmark-0d434e7669f9  benchmark step_525  model=decay-874987c657cb#step_525
      benchmark-c9f7bf4ac3c9  benchmark step_550  model=decay-874987c657cb#step_550
      select-d2ebafd8693b  select by val_loss_mixed  among=benchmark-358420f6144a,benchmark-eb103cac5c31,benchmark-612926a90c71,benchmark-64a9c8c8d322,benchmark-48cc1b9a1aec,benchmark-538b9dcd0e4a,benchmark-0d434e7669f9,benchmark-c9f7bf4ac3c9
      sweep-5fe6f927f8c6  sweep decoding  model=select-d2ebafd8693b
      release-ddbb78b6f810  release small-en-it  model=select-d2ebafd8693b  decoding=sweep-5fe6f927f8c6"
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
