import * as fs from "node:fs"
import { join } from "node:path"
import { assert, it } from "vitest"
import { exp, root, start } from "../cli/command.ts"
import { temporaryFolder } from "../temporary.ts"

const source = (path: string): string => JSON.stringify(join(root, "src", path))

const endless = `import { Effect } from "effect"
import { experiment } from "exp"
import { Corpus } from ${source("model/Artifact.ts")}
import * as Step from ${source("plan/Step.ts")}

const step = Step.make("step", {
  version: 1,
  params: {},
  inputs: {},
  output: (ref) => new Corpus(ref, { languages: ["en"], trainSources: ["a"], evaluateSources: [] }),
  run: (work) => Effect.gen(function* () {
    work.note("waits")
    yield* Effect.sleep("1 hour")
    return undefined
  }),
})

export default experiment("endless", function* () {
  return yield* step({})
})
`

it("exp ls tells a run that goes on from one that was killed and could not say so any more", async () => {
  const folder = temporaryFolder()
  fs.writeFileSync(join(folder, "endless.ts"), endless)
  const outcomes = async () => {
    const { out } = await exp(folder, "ls", "--json")
    return JSON.parse(out).map(({ outcome }: { outcome: string }) => outcome)
  }
  const first = start(folder, "run", "endless.ts")
  await first.said("waits")
  assert.deepStrictEqual(await outcomes(), ["running"])
  first.child.kill("SIGKILL")
  await first.ended
  const [killed] = JSON.parse((await exp(folder, "ls", "--json")).out)
  assert.strictEqual(killed.outcome, "killed")
  assert.match((await exp(folder, "show", killed.name)).out, /_endless: killed\n/)

  const second = start(folder, "run", "endless.ts")
  await second.said("waits")
  assert.deepStrictEqual(await outcomes(), ["killed", "running"])
  second.child.kill("SIGINT")
  await second.ended
  assert.deepStrictEqual(await outcomes(), ["killed", "interrupted"])
})
