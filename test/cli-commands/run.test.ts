import * as fs from "node:fs"
import { totalmem } from "node:os"
import { join } from "node:path"
import { assert, expect, it } from "vitest"
import { exp, experimentText, root, shown, start, writeCorpus } from "../cli/command.ts"
import { temporaryFolder } from "../temporary.ts"

const source = (path: string): string => JSON.stringify(join(root, "src", path))

/** Steps that take half a core each, write half of their file, and wait for a file `go` before they write the rest. */
const patient = `import { appendFileSync, existsSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect, Schema } from "effect"
import { each, experiment } from "exp"
import { Corpus } from ${source("model/Artifact.ts")}
import * as Step from ${source("plan/Step.ts")}

const step = Step.make("step", {
  version: 1,
  params: { n: Schema.Int },
  inputs: {},
  output: (ref) => new Corpus(ref, { languages: ["en"], trainSources: ["a"], evaluateSources: [] }),
  label: ({ n }) => \`step \${n}\`,
  resources: () => ({ cpus: 0.5 }),
  run: (work) => Effect.gen(function* () {
    writeFileSync(join(work.out, "half.txt"), "one ")
    work.note("waits")
    while (!existsSync("go")) yield* Effect.sleep("10 millis")
    appendFileSync(join(work.out, "half.txt"), "two")
    return undefined
  }).pipe(Effect.onInterrupt(() => Effect.sync(() => appendFileSync("interrupted", \`\${work.label}\\n\`)))),
})

export default experiment("patient", function* () {
  yield* each([1, 2, 3, 4], function* (n) {
    return yield* step({ n })
  })
})
`

it("exp run stops every step of those side by side when it is interrupted, and the same command goes on", async () => {
  const folder = temporaryFolder()
  fs.writeFileSync(join(folder, "patient.ts"), patient)
  const running = start(folder, "run", "patient.ts", "--jobs", "2")
  await running.said("step 2: waits")
  running.child.kill("SIGINT")
  const { code, out } = await running.ended
  assert.strictEqual(code, 130)
  assert.include(out, "interrupted: what was finished is kept")
  const interrupted = fs.readFileSync(join(folder, "interrupted"), "utf8").trim().split("\n").sort()
  assert.deepStrictEqual(interrupted, ["step 1", "step 2"])
  const store = join(folder, "runs/store")
  assert.deepStrictEqual(
    fs.readdirSync(store).filter((name) => !name.startsWith(".")),
    [],
  )

  fs.writeFileSync(join(folder, "go"), "")
  const again = await exp(folder, "run", "patient.ts", "--jobs", "2", "--json")
  assert.strictEqual(again.code, 0, again.err)
  const events = again.out
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))
  const first = events[0]
  assert.strictEqual(first.jobs, 2)
  assert.isAtLeast(first.machine.cpus, 1)
  assert.isAbove(first.machine.memoryBytes, 1e8)
  const begun = events.filter(({ event }) => event === "StepStarted")
  assert.lengthOf(begun, 4)
  for (const { resources } of begun) assert.deepStrictEqual(resources, { cpus: 0.5, memoryBytes: 0, gpus: 0 })
  const made = fs.readdirSync(store).filter((name) => name.startsWith("step-"))
  assert.lengthOf(made, 4)
  for (const name of made) assert.strictEqual(fs.readFileSync(join(store, name, "half.txt"), "utf8"), "one two")
})

const training = (name: string, model: string, steps: number): string =>
  experimentText()
    .replace('"tiny"', `"${name}"`)
    .replace("import { corpus, experiment, tokenizer }", "import { corpus, experiment, pack, tokenizer, train }")
    .replace(
      "return yield* tokenizer({ corpus: texts, vocabulary: set.vocabulary })",
      `const words = yield* tokenizer({ corpus: texts, vocabulary: set.vocabulary })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 16 })
  const rates = { peakLr: 1e-3, warmupSteps: 1 }
  return yield* train({ tokens, model: ${model}, rowsPerStep: 2, steps: ${steps}, ...rates, keepEvery: ${steps}, seed: 1 })`,
    )

it("exp run that is interrupted says whether a training was saved, or why not, and goes on from what was", async () => {
  const folder = temporaryFolder()
  writeCorpus(folder)
  fs.writeFileSync(join(folder, "long.ts"), training("long", "{ layers: 1, width: 8, heads: 1 }", 100_000))
  const interrupted = async (before: (workplace: string) => void = () => {}) => {
    const running = start(folder, "run", "long.ts")
    await running.said("/100,000 steps")
    const unfinished = join(folder, "runs/store/.tmp")
    const [name] = fs.readdirSync(unfinished).filter((one) => one.startsWith("train-"))
    before(join(unfinished, name!))
    running.child.kill("SIGINT")
    const { code, out, err } = await running.ended
    assert.strictEqual(code, 130)
    assert.strictEqual(err, "")
    assert.match(out, /interrupted: what was finished is kept\n {2}hint: the same command goes on from there\n$/)
    return out
  }

  const saved = await interrupted()
  const step = Number(/train 0→100000: saved at step (\d+)\n/.exec(saved)?.[1])
  assert.isAbove(step, 0)

  // a file where the folder of resume points would be: it cannot be written to
  let resume = ""
  const unsaved = await interrupted((workplace) => {
    resume = join(workplace, "scratch/resume")
    fs.renameSync(resume, `${resume}-aside`)
    fs.writeFileSync(resume, "")
  })
  assert.include(unsaved, `goes on from step ${step}\n`)
  assert.match(
    unsaved,
    /train 0→100000: what it did last could not be saved: EEXIST.*resume'\n {2}hint: mend that first; the same command goes on/,
  )
  assert.notMatch(unsaved, /saved at/)

  fs.rmSync(resume)
  fs.renameSync(`${resume}-aside`, resume)
  assert.include(await interrupted(), `goes on from step ${step}\n`)
}, 120_000)

/** A training of a model that no machine here holds. */
const vast = training("vast", "{ layers: 1000, width: 65_536, heads: 1024 }", 4)

it("exp plan shows what steps need, and exp run refuses what this machine cannot hold before anything begins", async () => {
  const folder = temporaryFolder()
  writeCorpus(folder)
  fs.writeFileSync(join(folder, "vast.ts"), vast)
  const planned = await exp(folder, "plan", "vast.ts")
  assert.match(planned.out, /train 0→4 .* on disk, all cores, \d\.\d\d PB of memory\n/)
  const asJson = JSON.parse((await exp(folder, "plan", "vast.ts", "--json")).out)
  assert.deepStrictEqual(asJson.steps[0].resources, { cpus: 1, memoryBytes: 0, gpus: 0 })
  assert.strictEqual(asJson.steps.at(-1).resources.cpus, "all")
  assert.isAbove(asJson.steps.at(-1).resources.memoryBytes, totalmem())

  const refused = await exp(folder, "run", "vast.ts")
  expect(shown(refused)).toMatchInlineSnapshot(`
    "exit 1
    stderr:
    error: train 0→4 does not fit: weights, moments and 1 gradient take 1.44 PB, WebAssembly addresses 4.29 GB
      hint: choose a smaller width, or a machine with more memory: fewer rows or layers are not enough"
  `)
  assert.deepStrictEqual(
    fs.readdirSync(join(folder, "runs")).filter((name) => !name.startsWith(".")),
    [],
  )
})
