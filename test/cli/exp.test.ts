import * as fs from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { afterAll, afterEach, assert, beforeEach, describe, expect, it } from "vitest"
import { temporaryFolder } from "../temporary.ts"
import { exp, experimentText, root, shown, start, writeCorpus } from "./command.ts"

let folder: string
beforeEach(() => {
  folder = temporaryFolder()
})

// Type checks that passed are remembered by content: what one test had checked, the others need not wait for.
const remembered = fs.mkdtempSync(join(tmpdir(), "exp-test-"))
afterAll(() => fs.rmSync(remembered, { recursive: true }))
const checked = () => join(folder, "runs/.cache/typecheck")
beforeEach(() => fs.cpSync(remembered, checked(), { recursive: true }))
afterEach(() => {
  if (fs.existsSync(checked())) fs.cpSync(checked(), remembered, { recursive: true })
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
    expect(shown(await exp(folder, "--help"))).toMatchInlineSnapshot(`
      "exit 0
      DESCRIPTION
        One typed experiment file becomes a released language model

      USAGE
        exp <subcommand> [flags]

      GLOBAL FLAGS
        --help, -h                                                          Show help information
        --version, -v                                                       Show version information
        --wizard                                                            Start wizard mode for a command
        --completions <bash|zsh|fish|powershell|sh|pwsh>                    Print shell completion script (choices: bash, zsh, fish, powershell, sh, pwsh)
        --log-level <all|trace|debug|info|warn|warning|error|fatal|none>    Sets the minimum log level (choices: all, trace, debug, info, warn, warning, error, fatal, none)

      SUBCOMMANDS
        plan        Show what an experiment would do: what is done, what will run, what it costs
        forecast    Say what an experiment will take here: memory, time, energy; or what a run took
        run         Run an experiment: do what its plan asks for and the store lacks
        ls          List runs
        show        Show a run: its steps, its winner, its release
        why         Say why a step will run: what differs from the nearest result in the store
        diff        Compare two runs: what went in, and what came out
        tag         Give a run a name, or list the names there are
        check       Check that everything in the store is there and whole
        gc          Remove from the store what no run and no tag leads to
        resume      Prove that interrupted training is the training that was never interrupted, bit for bit
        publish     Publish a release to the Hugging Face Hub, whole or not at all
        verify      Check a release: bytes, signature, card, arithmetic, weights, measurements
        sign        Sign a copy of a release
        keys        The key that signs releases
        setup       Install what is not part of this package
        doctor      Say what this machine has, and what is missing"
    `)
  })

  it("says what a command takes", async () => {
    expect(shown(await exp(folder, "run", "--help"))).toMatchInlineSnapshot(`
      "exit 0
      DESCRIPTION
        Run an experiment: do what its plan asks for and the store lacks

      USAGE
        exp run [flags] <experiment>

      ARGUMENTS
        experiment string    an experiment file, such as experiments/small-en-it.ts

      FLAGS
        --set string           name=value: a parameter of the experiment
        --engine choice        who computes; by default what the experiment says, else tfjs; auto: torch where it is installed (choices: tfjs, torch, auto)
        --precision string     of the torch engine: fp32, bf16 or fp16, with +adam8bit or +deterministic
        --engine-set string    name=value: how the torch engine uses this machine, such as microBatchRows=4
        --runs string          where runs and the store live
        --json                 for machines: JSON instead of text
        --jobs, -j integer     steps side by side at most, where they fit
        --until string         stop after this step: a kind, a label or an id

      GLOBAL FLAGS
        --help, -h                                                          Show help information
        --version, -v                                                       Show version information
        --wizard                                                            Start wizard mode for a command
        --completions <bash|zsh|fish|powershell|sh|pwsh>                    Print shell completion script (choices: bash, zsh, fish, powershell, sh, pwsh)
        --log-level <all|trace|debug|info|warn|warning|error|fatal|none>    Sets the minimum log level (choices: all, trace, debug, info, warn, warning, error, fatal, none)"
    `)
  })

  it("suggests the command that was meant", async () => {
    expect(shown(await exp(folder, "pln"))).toMatchInlineSnapshot(`
      "exit 2
      stderr:
      error: \`exp\` has no command \`pln\`
        hint: did you mean \`plan\`?"
    `)
  })

  it("says what is wrong with a command line, and leaves standard output to what was asked for", async () => {
    const lines: ReadonlyArray<ReadonlyArray<string>> = [
      ["plan"],
      ["plan", "tiny.ts", "other.ts"],
      ["plan", "tiny.ts", "--runs"],
      ["plan", "tiny.ts", "--engine", "gpu"],
      ["run", "tiny.ts", "--job", "2"],
      ["run", "tiny.ts", "--jobs", "0"],
      ["run", "tiny.ts", "--jobs", "many"],
      ["publish", "release"],
      ["keys", "nwe"],
    ]
    const said: Array<string> = []
    for (const line of lines) said.push(`exp ${line.join(" ")}\n${shown(await exp(folder, ...line))}`)
    expect(said.join("\n\n")).toMatchInlineSnapshot(`
      "exp plan
      exit 2
      stderr:
      error: \`exp plan\` needs \`<experiment>\`
        hint: \`exp plan --help\` lists what there is

      exp plan tiny.ts other.ts
      exit 2
      stderr:
      error: \`exp plan\` does not take \`other.ts\`
        hint: \`exp plan --help\` lists what there is

      exp plan tiny.ts --runs
      exit 2
      stderr:
      error: \`--runs\` needs a value
        hint: \`exp plan --help\` lists what there is

      exp plan tiny.ts --engine gpu
      exit 2
      stderr:
      error: \`--engine gpu\`: expected \`tfjs\` or \`torch\` or \`auto\`
        hint: \`exp plan --help\` lists what there is

      exp run tiny.ts --job 2
      exit 2
      stderr:
      error: \`exp run\` has no flag \`--job\`
        hint: did you mean \`--jobs\`?

      exp run tiny.ts --jobs 0
      exit 2
      stderr:
      error: \`--jobs 0\`: expected a value greater than 0
        hint: \`exp run --help\` lists what there is

      exp run tiny.ts --jobs many
      exit 2
      stderr:
      error: \`--jobs many\`: expected a number
        hint: \`exp run --help\` lists what there is

      exp publish release
      exit 2
      stderr:
      error: \`exp publish\` needs \`--to\`
        hint: \`exp publish --help\` lists what there is

      exp keys nwe
      exit 2
      stderr:
      error: \`exp keys\` has no command \`nwe\`
        hint: did you mean \`new\`?"
    `)
  })

  it("does not say of a release that it is wrong where it was asked wrongly", async () => {
    // 1 is what a script that checks a release takes for tampering
    assert.strictEqual((await exp(folder, "verify", "release", "--bogus")).code, 2)
    assert.strictEqual((await exp(folder, "verify")).code, 2)
  })

  it.each(["0", "-1", "1.5", "many"])("refuses %s jobs", async (jobs) => {
    const { code, err } = await exp(folder, "run", "tiny.ts", "--jobs", jobs)
    assert.strictEqual(code, 2)
    assert.include(err, "--jobs")
  })
})

describe("exp plan", () => {
  it("shows what would be done before, and what is done after, and makes nothing", async () => {
    tiny()
    expect(shown(await exp(folder, "plan", "tiny.ts"))).toMatchInlineSnapshot(`
      "exit 0
      tiny  (vocabulary=300, seed=1)

                step       artifact
      will run  corpus     corpus-<key>
      later     tokenizer

      2 steps: 0 done, 1 will run, 1 known once their inputs are there
      0 optimizer steps on 0 tokens, 0 parameters, 0 B on disk"
    `)
    assert.deepStrictEqual(artifacts(), [])
    assert.strictEqual((await exp(folder, "run", "tiny.ts")).code, 0)
    expect(shown(await exp(folder, "plan", "tiny.ts", "--set", "vocabulary=310"))).toMatchInlineSnapshot(`
      "exit 0
      tiny  (vocabulary=310, seed=1)

                step       artifact
      done      corpus     corpus-<key>
      will run  tokenizer  tokenizer-<key>

      2 steps: 1 done, 1 will run, 0 known once their inputs are there
      0 optimizer steps on 0 tokens, 0 parameters, 0 B on disk"
    `)
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
    expect(shown(await exp(folder, "plan", "tiny.ts"))).toMatchInlineSnapshot(`
      "exit 1
      stderr:
      error: there is no file or folder \`texts\`
        hint: \`from\` is a folder of \`<source>.jsonl\` (or .jsonl.gz, .parquet, .txt), or one such file"
    `)
  })
})

describe("an experiment file", () => {
  it("with a type error is refused with the compiler's words before anything runs", async () => {
    tiny()
    write("tiny.ts", experimentText("many"))
    expect(shown(await exp(folder, "run", "tiny.ts"))).toMatchInlineSnapshot(`
      "exit 1
      stderr:
      error: tiny.ts does not type-check; nothing was run
      tiny.ts(6,44): error TS2322: Type 'string' is not assignable to type 'number'.
        hint: the compiler says file(line,column); mend the first, others often follow from it"
    `)
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
    fs.rmSync(checked(), { recursive: true })
    const passed = () => fs.readdirSync(checked())
    await exp(folder, "plan", "tiny.ts")
    const [mark] = passed()
    assert.lengthOf(passed(), 1)
    const path = join(checked(), mark!)
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
    expect(shown(await exp(folder, "run", "tiny.ts"))).toMatchInlineSnapshot(`
      "exit 0
      run <minute>_tiny: tiny, 2 steps
        running  corpus
        made     corpus <duration>
        running  tokenizer
        made     tokenizer <duration>
      finished: 2 steps made, 0 reused, <duration>
      run      runs/<minute>_tiny"
    `)
    expect(shown(await exp(folder, "run", "tiny.ts"))).toMatchInlineSnapshot(`
      "exit 0
      run <minute>_tiny: tiny, 2 steps
        done     corpus
        done     tokenizer
      nothing to do: 2 steps were done before ( <duration>)
      run      runs/<minute>_tiny"
    `)
    expect(shown(await exp(folder, "ls")).replaceAll(/ +/g, " ")).toMatchInlineSnapshot(`
      "exit 0
      run outcome steps made took parameters
      <minute>_tiny finished 2 2 <duration> vocabulary=300 seed=1
      <minute>_tiny finished 2 0 <duration> vocabulary=300 seed=1"
    `)
    const [first] = fs.readdirSync(join(folder, "runs")).filter((name) => name.endsWith("_tiny"))
    expect(shown(await exp(folder, "show", first!))).toMatchInlineSnapshot(`
      "exit 0
      <minute>_tiny: finished
      tiny.ts, started <time>, took <duration>

            step       artifact
      made  corpus     corpus-<key>
      made  tokenizer  tokenizer-<key>"
    `)
    assert.deepStrictEqual(fs.readdirSync(join(folder, "runs", first!)).sort(), [
      "artifacts",
      "experiment.ts",
      "journal.ndjson",
      "lock",
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
    ).toMatchInlineSnapshot(`
      "exit 1
      run <minute>_slow: slow, 2 steps
        running  corpus
        made     corpus <duration>
        running  slow
        failed   slow
      stderr:
      error: slow: store, <folder>/runs/store/slow-<key>: ENOSPC: no space left on device, write
        hint: the disk is full: free some room and run again, nothing is lost"
    `)
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
  it("show a run whose artifacts are no longer in the store", async () => {
    const run = join(folder, "runs/202601021205_small")
    fs.mkdirSync(run, { recursive: true })
    const steps = [{ step: "select-0", label: "select", artifact: "select-0123456789abcdef", made: true }]
    const startedAt = "2026-01-02T12:05:00.000Z"
    const record = { experiment: "small", file: "small.ts", parameters: {}, startedAt, finishedAt: startedAt }
    fs.writeFileSync(join(run, "run.json"), JSON.stringify({ ...record, outcome: "finished", releases: [], steps }))
    expect(shown(await exp(folder, "show", "202601021205_small"))).toMatchInlineSnapshot(`
      "exit 0
      <minute>_small: finished
      small.ts, started <time>, took <duration>

            step    artifact
      made  select  select-0123456789abcdef"
    `)
  })

  it("say so when nothing was run", async () => {
    expect(shown(await exp(folder, "ls"))).toMatchInlineSnapshot(`
      "exit 0
      no runs in \`runs\`
        hint: start one with \`exp run experiments/small-en-it.ts\`"
    `)
    expect(shown(await exp(folder, "ls", "--json"))).toMatchInlineSnapshot(`
      "exit 0
      []"
    `)
    expect(shown(await exp(folder, "show", "some-run"))).toMatchInlineSnapshot(`
      "exit 1
      stderr:
      error: there is no run \`some-run\`
        hint: nothing was run yet"
    `)
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
