/** Who computes: what a command line and an experiment may say of it, and how the Python for it is made. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, assert, describe, expect, it } from "vitest"
import { exp, type Said } from "../cli/command.ts"
import { python, skipped } from "../engine/torch.ts"
import { wheels } from "../engine/wheels.ts"
import { temporaryFolder } from "../temporary.ts"

const withEnvironment = async <A>(values: NodeJS.ProcessEnv, use: () => Promise<A>): Promise<A> => {
  const before = { ...process.env }
  for (const [name, value] of Object.entries(values))
    if (value === undefined) delete process.env[name]
    else process.env[name] = value
  try {
    return await use()
  } finally {
    process.env = before
  }
}

const experiment = (first: string): string => `import { corpus, engine, experiment, pack, tokenizer, train } from "exp"

export default experiment("asks", function* () {
  ${first}
  const texts = yield* corpus({ from: "texts", train: { en: ["web_en"] } })
  const words = yield* tokenizer({ corpus: texts, vocabulary: 300 })
  const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 16 })
  yield* train({
    tokens, model: { layers: 1, width: 8, heads: 1 }, steps: 2, rowsPerStep: 1, peakLr: 1e-3, warmupSteps: 0, keepEvery: 2, seed: 1,
  })
})
`

/** A folder with an experiment in it, and the one text that it reads. */
const write = (folder: string, name: string, first: string): void => {
  mkdirSync(join(folder, "texts"), { recursive: true })
  writeFileSync(join(folder, "texts", "web_en.jsonl"), '{"id":"a","text":"A cat sleeps in the sun."}\n')
  writeFileSync(join(folder, name), experiment(first))
}

// one for all: what was type-checked once is not checked again
const folder = mkdtempSync(join(tmpdir(), "exp-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** Plans an experiment on a machine that has no Python for torch, or this one. */
const plan = (first: string, args: ReadonlyArray<string>, torch?: string): Promise<Said> => {
  write(folder, "asks.ts", first)
  return withEnvironment({ EXP_TORCH_PYTHON: torch, XDG_DATA_HOME: join(folder, "data") }, () =>
    exp(folder, "plan", "asks.ts", ...args),
  )
}
const engineOf = async (said: Promise<Said>) => {
  const { out, err } = await said
  assert.strictEqual(err, "")
  const { name, precision } = JSON.parse(out).engine
  return `${name} ${precision}`
}
const refused = async (said: Promise<Said>) => {
  const { code, err } = await said
  assert.strictEqual(code, 1)
  return err.trim()
}

describe("the engine of an experiment", () => {
  it("is tfjs, else what the experiment says, else what the command line says", async () => {
    assert.strictEqual(await engineOf(plan("", ["--json"])), "tfjs fp32")
    const says = 'yield* engine("torch", { precision: "bf16+adam8bit" })'
    assert.strictEqual(await engineOf(plan(says, ["--json"])), "torch bf16+adam8bit")
    assert.strictEqual(await engineOf(plan(says, ["--json", "--engine", "tfjs"])), "tfjs fp32")
    assert.strictEqual(await engineOf(plan(says, ["--json", "--precision", "fp16"])), "torch fp16")
    assert.strictEqual(await engineOf(plan("", ["--json", "--engine", "torch"])), "torch fp32")
  }, 240_000)

  it("is resolved from auto without starting anything, and why it is this one is printed", async () => {
    const absent = await plan("", ["--engine", "auto"])
    assert.match(
      absent.out,
      /^computed by tfjs fp32 \(`--engine` asks for auto, no Python environment was made for it\)$/m,
    )
    // any file will do: it is looked up, not tried
    const there = await plan('yield* engine("auto")', [], process.execPath)
    assert.match(there.out, /^computed by torch fp32 \(the experiment asks for auto, Python of EXP_TORCH_PYTHON\)$/m)
    assert.notMatch((await plan("", [])).out, /computed by/)
  })

  it("is said once, first, and in words that there are", async () => {
    const late = 'yield* corpus({ from: "texts", train: { en: ["web_en"] } })\n  yield* engine("torch")'
    assert.match(await refused(plan(late, [])), /engine: it comes after a step\n {2}hint: /)
    assert.match(await refused(plan('yield* engine("torch")\n  yield* engine("tfjs")', [])), /engine: it is said twice/)
    // what the compiler would refuse, a program in plain JavaScript may still do
    const wrong = 'yield* engine("torhc" as "torch")'
    assert.match(await refused(plan(wrong, [])), /there is no engine `torhc`\n {2}hint: did you mean `torch`\?/)
    assert.match(
      await refused(plan('yield* engine("tfjs", { precision: "bf16" })', [])),
      /tfjs computes in fp32, not in bf16/,
    )
    assert.match(await refused(plan('yield* engine("torch", { precision: "bf8" })', [])), /"bf8"|bf8/)
    for (const [args, words] of [
      [
        ["--precision", "bf16"],
        /`--precision bf16`: the tfjs.* computes in fp32 alone\n {2}hint: take `--engine torch`/,
      ],
      [["--engine", "torch", "--precision", "int4"], /`--precision int4`: it is no precision\n {2}hint: /],
      [
        ["--engine", "torch", "--engine-set", "microBatchRow=2"],
        /no setting `microBatchRow`\n {2}hint: did you mean `microBatchRows`\?/,
      ],
      [["--engine", "torch", "--engine-set", "threads=many"], /`--engine-set threads=many`: /],
      [["--engine", "torch", "--engine-set", "threads"], /it is not name=value/],
      [["--engine-set", "threads=2"], /it is a setting of the torch engine\n {2}hint: /],
    ] as const)
      assert.match(await refused(plan("", args)), words)
  }, 240_000)

  it("that is not installed is refused before anything is done", async () => {
    write(folder, "asks.ts", 'yield* engine("torch")')
    const { code, out, err } = await withEnvironment(
      { EXP_TORCH_PYTHON: undefined, XDG_DATA_HOME: join(folder, "data") },
      () => exp(folder, "run", "asks.ts"),
    )
    expect(code).toBe(1)
    expect(out).toBe("")
    expect(err).toMatchInlineSnapshot(`
      "error: torch engine, starting: no Python environment was made for it
        hint: \`exp setup torch\` makes one, or name a Python that has PyTorch in EXP_TORCH_PYTHON
      "
    `)
  })
})

describe.skipIf(python === undefined || process.platform === "win32")(`exp setup torch${skipped}`, () => {
  it("makes an environment whole or not at all, and finds it again", async () => {
    const folder = temporaryFolder()
    const packages = join(folder, "packages")
    mkdirSync(packages)
    const place = join(folder, "data", "exp", "torch")
    const setup = (...args: ReadonlyArray<string>) =>
      withEnvironment(
        {
          ...{ EXP_TORCH_PYTHON: undefined, XDG_DATA_HOME: join(folder, "data"), PATH: "/usr/bin:/bin" },
          ...{ PIP_NO_INDEX: "1", PIP_FIND_LINKS: packages, PIP_CONFIG_FILE: "/dev/null" },
        },
        () => exp(folder, ...args),
      )
    const failed = await setup("setup", "torch", "--cpu", "--python", python!)
    assert.strictEqual(failed.code, 1)
    assert.match(failed.err, /setting up torch: `.*pip install.*` ended with exit code 1\n {2}hint: /)
    assert.deepStrictEqual(readdirSync(place), ["lock"])

    wheels(packages)
    const made = await setup("setup", "torch", "--cpu", "--python", python!)
    assert.strictEqual(made.code, 0, made.err)
    assert.match(made.err, /^downloads PyTorch/m)
    assert.match(made.out, /^torch \d+\.\d+\.\S+ on \S+: .*\/exp\/torch$/m)
    assert.isTrue(existsSync(join(place, "venv")))
    const ready = readFileSync(join(place, "ready.json"), "utf8")

    const again = await setup("setup", "torch")
    assert.strictEqual(again.err, "")
    assert.match(again.out, /, as it was: /)
    assert.strictEqual(readFileSync(join(place, "ready.json"), "utf8"), ready)

    write(folder, "asks.ts", "")
    const planned = await setup("plan", "asks.ts", "--engine", "auto")
    assert.match(planned.out, /computed by torch fp32 \(`--engine` asks for auto, Python of exp setup torch\)/)
    const { out } = await setup("doctor")
    assert.match(out, /^ok +engine torch +torch .* of exp setup torch/m)
  }, 300_000)
})
