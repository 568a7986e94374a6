/** The experiment of a release as a stranger's program. */
import { spawn } from "node:child_process"
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { setTimeout as sleep } from "node:timers/promises"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect } from "effect"
import { assert, describe, it } from "vitest"
import { cleanEnvironment, rerun } from "../../src/cli/Rerun.ts"
import { layer as engine } from "../../src/engine/Engines.ts"
import { embedded, root, smallest } from "../endToEnd/experiment.ts"
import { alive } from "../processes.ts"
import { temporaryFolder } from "../temporary.ts"

/** A folder with a program in it, and what comes of doing it again. */
const again = async (program: string) => {
  const folder = temporaryFolder()
  mkdirSync(join(folder, "release"))
  writeFileSync(join(folder, "release/experiment.ts"), program)
  const said: Array<string> = []
  const doing = rerun({
    runs: join(folder, "runs"),
    corpus: embedded,
    say: () => {},
    pass: (text) => void said.push(text),
  })(join(folder, "release"), { seed: 9 })
  const outcome = await Effect.runPromise(
    Effect.match(doing, { onFailure: ({ message }) => message, onSuccess: (store) => store }).pipe(
      Effect.provide(engine),
      Effect.provide(NodeServices.layer),
    ),
  )
  return { folder, said, outcome }
}

describe("the experiment of a release, done again", () => {
  it("is asked for its plan with none of the user's secrets, at a home of its own, and trained by steps of ours", async () => {
    const secrets = {
      HF_TOKEN: "hf_canaryCanaryCanary0123456789abcdef",
      AWS_SESSION: "canary-aws",
      NODE_OPTIONS: "--no-warnings",
      EXP_SIGNING_KEY: "/canary.pem",
      SSH_AUTH_SOCK: "/canary.sock",
    }
    Object.assign(process.env, secrets)
    try {
      const { folder, said, outcome } = await again(
        `import { writeFileSync } from "node:fs"\nwriteFileSync("env.json", JSON.stringify(process.env)); console.log("at " + process.cwd())\n${smallest({ steps: 4, decaySteps: 2 }).replaceAll("24, 24", "4, 4").replace("[12, 24]", "[4]").replace("keepEvery: 12", "keepEvery: 4")}`,
      )
      const home = join(folder, "runs/.cache/replay")
      assert.strictEqual(outcome, join(home, "store"))
      const environment: Record<string, string> = JSON.parse(readFileSync(join(home, "env.json"), "utf8"))
      assert.strictEqual(environment["HOME"], home)
      assert.include(said, `at ${home}`)
      for (const [name, value] of Object.entries(secrets)) {
        assert.notProperty(environment, name)
        assert.notInclude(Object.values(environment), value)
      }
      const kinds = readdirSync(join(home, "store")).map((name) => name.split("-")[0])
      assert.includeMembers(kinds, ["corpus", "tokenizer", "pack", "train"])
      assert.notInclude(kinds, "decay")
      const manifest = readdirSync(join(home, "store")).find((name) => name.startsWith("train-"))!
      assert.include(readFileSync(join(home, "store", manifest, "manifest.json"), "utf8"), '"seed"')
    } finally {
      for (const name of Object.keys(secrets)) delete process.env[name]
    }
  }, 240_000)

  it("ends in its own words where it has no plan, has one without a training, or never ends", async () => {
    const refused = async (program: string) => String((await again(program)).outcome)
    assert.match(
      await refused('throw new Error("\\u001b[31mno")'),
      /^the experiment of the release gives no plan to go by: .*: .*no.*\n {2}hint: /,
    )
    assert.notInclude(await refused('throw new Error("\\u001b[31mno")'), "\u001b")
    const texts =
      'import { corpus, experiment } from "exp"\nexport default experiment("texts", { seed: 1 }, function* () { return yield* corpus({ from: "x", train: { en: ["a"] } }) })'
    assert.match(await refused(texts), /its plan has no training that rests on steps of `exp` alone/)
    const forged = (params: object, inputs: object) => {
      const step = { id: "train-1", label: "train", kind: "train", params, inputs }
      const plan = JSON.stringify({ experiment: "forged", parameters: {}, steps: [step] })
      return `import { writeSync } from "node:fs"\nprocess.on("exit", () => writeSync(1, ${JSON.stringify(`${plan}\n`)}))\n${texts}`
    }
    for (const program of [forged({ steps: "4" }, { tokens: [] }), forged({}, {}), forged({}, { from: [] })])
      assert.match(await refused(program), /its plan gives `train` what that kind of step does not take/)
    assert.match(await refused("for (;;) {}\nexport default 1"), /it was not done after 3 s/)
  }, 240_000)

  it("ends with whoever asked it, even killed and in a loop without end", async () => {
    const folder = temporaryFolder()
    mkdirSync(join(folder, "release"))
    writeFileSync(
      join(folder, "release/experiment.ts"),
      'import { writeFileSync } from "node:fs"\nwriteFileSync("pid", String(process.pid))\nfor (;;) {}\nexport default 1\n',
    )
    const home = join(folder, "runs/.cache/replay")
    const asking = `
      import { Effect } from "effect"
      import { rerun } from ${JSON.stringify(join(root, "src/cli/Rerun.ts"))}
      const nothing = () => {}
      const doing = rerun({ runs: ${JSON.stringify(join(folder, "runs"))}, corpus: ".", say: nothing, pass: nothing })
      Effect.runPromise(doing(${JSON.stringify(join(folder, "release"))}, {}))`
    const parent = spawn(process.execPath, ["--input-type=module-typescript", "-e", asking], {
      cwd: root,
      env: { ...cleanEnvironment(process.env, folder), EXP_PLAN_SECONDS: "600" },
      stdio: "ignore",
    })
    const pid = await until(() => Number(readFileSync(join(home, "pid"), "utf8")))
    assert.isAbove(pid, 0)
    parent.kill("SIGKILL")
    assert.isTrue(await until(() => !alive(pid)))
  }, 120_000)
})

/** What it gives as soon as it is something; fails with the test's own time limit. */
const until = async <A>(look: () => A): Promise<A> => {
  for (;;) {
    try {
      const found = look()
      if (found) return found
    } catch {}
    await sleep(100)
  }
}
