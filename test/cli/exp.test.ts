import * as fs from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { assert, beforeEach, describe, expect, it } from "vitest"
import { temporaryFolder } from "../temporary.ts"
import { exp, experimentText, root, shown, start, writeCorpus } from "./command.ts"

let folder: string
beforeEach(() => {
  folder = temporaryFolder()
})

const write = (name: string, text: string): void => fs.writeFileSync(join(folder, name), text)
const tiny = (): void => {
  writeCorpus(folder)
  write("tiny.ts", experimentText())
}
const artifacts = (): ReadonlyArray<string> =>
  fs.existsSync(join(folder, "runs/store"))
    ? fs.readdirSync(join(folder, "runs/store")).filter((name) => !name.startsWith("."))
    : []

describe("exp", () => {
  it("says what it can do", async () => {
    expect(shown(await exp(folder, "--help"))).toMatchInlineSnapshot()
  })

  it("says what a command takes", async () => {
    expect(shown(await exp(folder, "run", "--help"))).toMatchInlineSnapshot()
  })

  it("suggests the command that was meant", async () => {
    expect(shown(await exp(folder, "pln"))).toMatchInlineSnapshot()
  })

  it.each(["0", "-1", "1.5", "many"])("refuses %s jobs", async (jobs) => {
    const { code, err } = await exp(folder, "run", "tiny.ts", "--jobs", jobs)
    assert.strictEqual(code, 1)
    assert.include(err, "--jobs")
  })
})

describe("exp plan", () => {
  it("shows what would be done before, and what is done after, and makes nothing", async () => {
    tiny()
    expect(shown(await exp(folder, "plan", "tiny.ts"))).toMatchInlineSnapshot()
    assert.deepStrictEqual(artifacts(), [])
    assert.strictEqual((await exp(folder, "run", "tiny.ts")).code, 0)
    expect(shown(await exp(folder, "plan", "tiny.ts", "--set", "vocabulary=310"))).toMatchInlineSnapshot()
  })

  it("leaves a damaged artifact where it is", async () => {
    tiny()
    await exp(folder, "run", "tiny.ts")
    const before = artifacts()
    const damaged = before.find((name) => name.startsWith("tokenizer"))!
    fs.appendFileSync(join(folder, "runs/store", damaged, "tokenizer.json"), " ")
    assert.match((await exp(folder, "plan", "tiny.ts")).out, /done +corpus .*\nwill run +tokenizer/)
    assert.deepStrictEqual(artifacts(), before)
  })

  it("says it to machines as one JSON object", async () => {
    tiny()
    const { code, out } = await exp(folder, "plan", "tiny.ts", "--json", "--set", "seed=3")
    assert.strictEqual(code, 0)
    const { parameters, steps, total } = JSON.parse(out)
    assert.deepStrictEqual(parameters, { vocabulary: 300, seed: 3 })
    assert.deepStrictEqual(
      steps.map((step: { kind: string; standing: { _tag: string } }) => [step.kind, step.standing._tag]),
      [
        ["corpus", "WillRun"],
        ["tokenizer", "NotKnownYet"],
      ],
    )
    assert.strictEqual(total.steps, 2)
  })

  it("says which file is missing when a corpus is not there", async () => {
    write("tiny.ts", experimentText())
    expect(shown(await exp(folder, "plan", "tiny.ts"))).toMatchInlineSnapshot()
  })
})

describe("an experiment file", () => {
  it("with a type error is refused with the compiler's words before anything runs", async () => {
    tiny()
    write("tiny.ts", experimentText("many"))
    expect(shown(await exp(folder, "run", "tiny.ts"))).toMatchInlineSnapshot()
    assert.deepStrictEqual(fs.readdirSync(join(folder, "runs")), [".cache"])
  })

  it("with a type error in a file it imports is refused too", async () => {
    tiny()
    write("part.ts", "export const vocabulary: number = 'many'\n")
    write(
      "tiny.ts",
      `import { vocabulary } from "./part.ts"\n${experimentText().replace("set.vocabulary", "vocabulary")}`,
    )
    const refused = await exp(folder, "run", "tiny.ts")
    assert.strictEqual(refused.code, 1)
    assert.include(refused.err, "part.ts(1,14): error TS2322")
    write("part.ts", "export const vocabulary: number = 300\n")
    assert.strictEqual((await exp(folder, "plan", "tiny.ts")).code, 0)
  })

  it("is checked once for what it says, wherever it is and whatever its time", async () => {
    tiny()
    const passed = () => fs.readdirSync(join(folder, "runs/.cache/typecheck"))
    await exp(folder, "plan", "tiny.ts")
    const [mark] = passed()
    assert.lengthOf(passed(), 1)
    const path = join(folder, "runs/.cache/typecheck", mark!)
    const before = fs.statSync(path).mtimeMs
    fs.utimesSync(join(folder, "tiny.ts"), 1, 1)
    fs.renameSync(join(folder, "tiny.ts"), join(folder, "renamed.ts"))
    await exp(folder, "plan", "renamed.ts")
    assert.deepStrictEqual(passed(), [mark])
    assert.strictEqual(fs.statSync(path).mtimeMs, before)
    write("renamed.ts", `${experimentText()}// more\n`)
    await exp(folder, "plan", "renamed.ts")
    assert.lengthOf(passed(), 2)
  })

  it.each<readonly [string, string, string | undefined]>([
    ["that is not there", "nope.ts", undefined],
    ["that is no experiment", "three.ts", "export default 3\n"],
    ["that exports nothing", "nothing.ts", "export {}\n"],
  ])("%s is refused with a hint", async (_, name, text) => {
    if (text !== undefined) write(name, text)
    const said = await exp(folder, "run", name)
    assert.strictEqual(said.code, 1)
    assert.match(said.err, /^error: .*\n {2}hint: .*\n$/)
    assert.isFalse(fs.existsSync(join(folder, "runs/store")))
  })

  it.each([
    ["--set", "sede=2"],
    ["--set", "seed"],
    ["--set", "seed=two"],
    ["--until", "sweep"],
  ])("is not run with a wrong %s %s", async (...args) => {
    tiny()
    expect(`${args.join(" ")}\n${shown(await exp(folder, "run", "tiny.ts", ...args))}`).toMatchSnapshot()
    assert.deepStrictEqual(artifacts(), [])
  })
})

describe("exp run", () => {
  it("makes what is lacking, then nothing, and ls and show tell of both", async () => {
    tiny()
    expect(shown(await exp(folder, "run", "tiny.ts"))).toMatchInlineSnapshot()
    expect(shown(await exp(folder, "run", "tiny.ts"))).toMatchInlineSnapshot()
    expect(shown(await exp(folder, "ls")).replaceAll(/ +/g, " ")).toMatchInlineSnapshot()
    const [first] = fs.readdirSync(join(folder, "runs")).filter((name) => name.endsWith("_tiny"))
    expect(shown(await exp(folder, "show", first!))).toMatchInlineSnapshot()
    assert.deepStrictEqual(fs.readdirSync(join(folder, "runs", first!)).sort(), [
      "artifacts",
      "experiment.ts",
      "journal.ndjson",
      "plan.json",
      "plan.txt",
      "run.json",
    ])
    assert.strictEqual(fs.readFileSync(join(folder, "runs", first!, "experiment.ts"), "utf8"), experimentText())
    assert.isTrue(fs.existsSync(join(folder, "runs", first!, "artifacts/tokenizer/manifest.json")))
  })

  it("speaks NDJSON to machines, and ends with the folders", async () => {
    tiny()
    const { code, out, err } = await exp(folder, "run", "tiny.ts", "--json", "--until", "tokenizer")
    assert.deepStrictEqual([code, err], [0, ""])
    const events = out
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line))
    assert.deepStrictEqual(
      events.map(({ event, label }) => [event, label]).filter(([event]) => event !== "StepProgress"),
      [
        ["RunStarted", undefined],
        ["StepStarted", "corpus"],
        ["StepFinished", "corpus"],
        ["StepStarted", "tokenizer"],
        ["StepFinished", "tokenizer"],
        ["RunFinished", undefined],
      ],
    )
    const { run, folder: where, releases, made, cached } = events.at(-1)
    assert.deepStrictEqual([made, cached, releases], [2, 0, []])
    assert.strictEqual(fs.realpathSync(where), fs.realpathSync(join(folder, "runs", run)))
    assert.strictEqual(JSON.parse(fs.readFileSync(join(where, "run.json"), "utf8")).outcome, "finished")
  })

  it("fails with the step's name and what is wrong, keeps what was finished, and says so in its record", async () => {
    writeCorpus(folder)
    write(
      "slow.ts",
      ownStep(
        "throw Object.assign(new Error('ENOSPC: no space left on device, write'), { code: 'ENOSPC', syscall: 'write' })",
      ),
    )
    const said = await exp(folder, "run", "slow.ts")
    expect(
      shown(said).replaceAll(fs.realpathSync(folder), "<folder>").replaceAll(folder, "<folder>"),
    ).toMatchInlineSnapshot()
    const [name] = fs.readdirSync(join(folder, "runs")).filter((one) => one.endsWith("_slow"))
    const record = JSON.parse(fs.readFileSync(join(folder, "runs", name!, "run.json"), "utf8"))
    assert.strictEqual(record.outcome, "failed")
    assert.deepStrictEqual(
      record.steps.map(({ label, made }: { label: string; made: boolean }) => [label, made]),
      [["corpus", true]],
    )
  })

  it("shows the stack of what nobody expected, and still says in its record that it failed", async () => {
    writeCorpus(folder)
    write("slow.ts", ownStep("throw new TypeError('undefined is not a model')"))
    const said = await exp(folder, "run", "slow.ts")
    assert.strictEqual(said.code, 1)
    assert.match(said.err, /^error: TypeError: undefined is not a model\n\s+at .*slow\.ts/)
    const [name] = fs.readdirSync(join(folder, "runs")).filter((one) => one.endsWith("_slow"))
    assert.strictEqual(JSON.parse(fs.readFileSync(join(folder, "runs", name!, "run.json"), "utf8")).outcome, "failed")
  })

  it.each(["SIGINT", "SIGTERM"] as const)("stopped by %s says how to go on, and goes on from there", async (signal) => {
    writeCorpus(folder)
    write("slow.ts", ownStep("yield* Effect.sleep('1 hour')"))
    const running = start(folder, "run", "slow.ts")
    await running.said("running  slow")
    running.child.kill(signal)
    const said = await running.ended
    assert.strictEqual(said.code, 130)
    expect(shown(said)).toMatchSnapshot()
    expect(shown(await exp(folder, "ls")).replaceAll(/ +/g, " ")).toMatchSnapshot()
    assert.deepStrictEqual(
      artifacts().map((name) => name.split("-")[0]),
      ["corpus"],
    )
    const again = start(folder, "run", "slow.ts")
    await again.said("done     corpus")
    await again.said("running  slow")
  })
})

describe("exp ls and exp show", () => {
  it("say so when nothing was run", async () => {
    expect(shown(await exp(folder, "ls"))).toMatchInlineSnapshot()
    expect(shown(await exp(folder, "ls", "--json"))).toMatchInlineSnapshot()
    expect(shown(await exp(folder, "show", "some-run"))).toMatchInlineSnapshot()
  })
})

/** An experiment with a step kind of its own, which does `what` after a corpus was made. */
const ownStep = (what: string): string => `import { Effect } from "effect"
import { corpus, experiment } from "exp"
import { Corpus, Decoding } from "${pathToFileURL(join(root, "src/model/Artifact.ts")).pathname}"
import * as Step from "${pathToFileURL(join(root, "src/plan/Step.ts")).pathname}"

const slow = Step.make("slow", {
  version: 1,
  params: {},
  inputs: { corpus: Corpus },
  output: (ref) => new Decoding(ref),
  run: () =>
    Effect.gen(function* () {
      ${what}
      return undefined
    }),
})

export default experiment("slow", function* () {
  const split = { validation: 0.2, holdout: 0.2, minimumDocuments: 1 }
  const texts = yield* corpus({ from: "texts", train: { en: ["web_en"], it: ["web_it"] }, split })
  return yield* slow({ corpus: texts })
})
`
