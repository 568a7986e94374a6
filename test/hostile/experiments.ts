/**
 * Experiment files that are broken, wrong or never end. In a child of its own (`node experiments.ts [seed]`): modules are loaded as
 * the command line loads them, and a case that brings the process down is seen. The compiler is left out here, so that what it would
 * find meets what comes after it.
 */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { Cause, Effect, Exit } from "effect"
import { evaluate, plan, read } from "../../src/cli/ExperimentFile.ts"
import { stream } from "../../src/model/Random.ts"

interface Case {
  readonly title: string
  /** Of the file; `hostile.ts` by default. */
  readonly name?: string
  /** What it says, or how it is made at a path. */
  readonly content: string | Uint8Array | ((path: string) => void)
  /** Given by `--set`. */
  readonly set?: Readonly<Record<string, string>>
  /** What the error says; undefined: the file is accepted. */
  readonly says: RegExp | undefined
}

const head =
  'import { benchmark, corpus, decay, each, experiment, pack, release, select, sweep, tokenizer, train } from "exp"\n'
const texts = 'const texts = yield* corpus({ from: "texts", train: { en: ["web_en"] } })\n'
const base = `${texts}const words = yield* tokenizer({ corpus: texts, vocabulary: 300 })
const tokens = yield* pack({ corpus: texts, tokenizer: words, context: 16 })
const base = yield* train({ tokens, model: { layers: 1, width: 16, heads: 2 }, steps: 8, rowsPerStep: 2, peakLr: 1e-2, warmupSteps: 2, keepEvery: 4, seed: 3 })
`
/** An experiment with this program. */
const program = (body: string, before = ""): string =>
  `${head}${before}\nexport default experiment("hostile", function* () {\n${body}\n})\n`
/** The same with parameters, written as they are in a file. */
const withParameters = (parameters: string, body = texts): string =>
  `${head}export default experiment("hostile", ${parameters} as any, function* (set: any) {\n${body}\n})\n`
const utf16 = (text: string): Uint8Array => Buffer.from(`\uFEFF${text}`, "utf16le")
const fine = program(base)

export const cases: ReadonlyArray<Case> = [
  // what is no text, or no file
  { title: "a missing file", content: () => {}, says: /there is no such file/ },
  { title: "a folder", content: (path) => mkdirSync(path), says: /it is no file/ },
  { title: "a link to nowhere", content: (path) => symlinkSync("nowhere.ts", path), says: /there is no such file/ },
  { title: "a link to itself", content: (path) => symlinkSync(path, path), says: /cannot be|no such file/ },
  ...(process.platform === "linux"
    ? [
        {
          title: "a file that cannot be read",
          content: (path: string) => symlinkSync("/proc/self/mem", path),
          says: /it cannot be read/,
        },
      ]
    : []),
  { title: "an empty file", content: "", says: /default export is not an experiment/ },
  { title: "a file of another kind", name: "hostile.json", content: "{}", says: /no TypeScript file/ },
  {
    title: "a binary file",
    content: Buffer.from(Array.from({ length: 4096 }, (_, n) => (n * 197) % 256)),
    says: /not UTF-8/,
  },
  { title: "zero bytes", content: Buffer.alloc(4096), says: /hostile\.ts/ },
  { title: "UTF-16", content: utf16(fine), says: /not UTF-8/ },
  { title: "Latin-1", content: Buffer.from(program('throw "caff\xe8"'), "latin1"), says: /not UTF-8/ },
  { title: "a byte order mark before a whole experiment", content: `\uFEFF${fine}`, says: undefined },
  { title: "lines that end in CR LF", content: fine.replaceAll("\n", "\r\n"), says: undefined },
  { title: "ten megabytes", content: `${fine}${"// more\n".repeat(1_310_720)}`, says: /it has 10\.5 MB/ },
  { title: "a name with `#`, `?`, `%41` and spaces", name: "a #b?c %41.ts", content: fine, says: undefined },

  // what does not load
  { title: "a syntax error", content: `${fine}const const = 5\n`, says: /hostile\.ts:\d+: / },
  { title: "a file that ends in the middle", content: fine.slice(0, -20), says: /hostile\.ts:\d+: / },
  { title: "an enum, which cannot be stripped", content: `enum A { B }\n${fine}`, says: /enum/ },
  { title: "ten thousand brackets", content: "[".repeat(10_000), says: /hostile\.ts/ },
  { title: "no default export", content: "export const a = 5\n", says: /default export is not an experiment\n/ },
  ...(
    [
      ["a number", "5"],
      ["null", "null"],
      ["text", '"experiment"'],
      ["a function", "function* () {}"],
      ["a promise", "Promise.resolve(5)"],
      ["a list", "[]"],
      ["an object without prototype", "Object.create(null)"],
      ["what has the fields and not their types", '{ name: 5, program: "x", defaults: 3 }'],
      ["what throws when it is looked at", '{ get name() { throw new Error("looked at") }, program: 1, defaults: 1 }'],
    ] as const
  ).map(([what, text]) => ({
    title: `a default export that is ${what}`,
    content: `export default ${text}\n`,
    says: /default export is not an experiment|looked at/,
  })),
  { title: "an import of what is not there", content: `import { a } from "./absent.ts"\n${fine}`, says: /absent\.ts/ },
  {
    title: "an import of a package that is not there",
    content: `import "exp-no-such-package"\n${fine}`,
    says: /exp-no-such-package/,
  },
  {
    title: "an import of a name that `exp` lacks",
    content: `import { corpuss } from "exp"\ncorpuss\n${fine}`,
    says: /corpuss/,
  },
  {
    title: "an error while it loads",
    content: `${fine}\nthrow new Error("at the top")\n`,
    says: /hostile\.ts:\d+: at the top/,
  },
  {
    title: "a name used before it is there",
    content: `${head}a\nlet a = 5\n`,
    says: /hostile\.ts:2: Cannot access 'a'/,
  },
  { title: "a loop without end at the top", content: `${fine}while (true) {}\n`, says: /not done after 0\.3 s/ },
  { title: "a wait at the top", content: `${fine}await new Promise(() => {})\n`, says: /waits at its top level/ },
  {
    title: "`process.exit` at the top",
    content: `process.exit(0)\n${fine}`,
    says: /hostile\.ts:1: it calls `process\.exit\(0\)`/,
  },
  {
    title: "a wait without end that nobody waits for",
    content: `${fine}void (async () => { for (;;) await null })()\n`,
    says: /not done after 0\.3 s/,
  },
  {
    title: "a promise that fails when nobody looks",
    content: `${fine}void Promise.reject(new Error("later"))\n`,
    says: /later\n/,
  },
  {
    title: "an error in what it puts off",
    content: `${fine}queueMicrotask(() => { throw new Error("later") })\n`,
    says: /later\n/,
  },
  {
    title: "an error in its next tick",
    content: `${fine}process.nextTick(() => { throw new Error("later") })\n`,
    says: /later\n/,
  },
  {
    title: "an exit in what it puts off",
    content: `${fine}void Promise.resolve().then(() => process.exit(0))\n`,
    says: /it calls `process\.exit\(0\)`/,
  },
  { title: "a timer", content: `${fine}setTimeout(() => {}, 50)\n`, says: /leaves something running: Timeout/ },
  {
    title: "a timer for ever",
    content: `${fine}setInterval(() => {}, 1e9)\n`,
    says: /leaves something running: Timeout/,
  },
  {
    title: "a server",
    content: `import { createServer } from "node:net"\n${fine}createServer().listen(0)\n`,
    says: /leaves something running: \w+/,
  },
  {
    title: "a process",
    content: `import { spawn } from "node:child_process"\n${fine}spawn("sleep", ["3"])\n`,
    says: /leaves something running: \w+/,
  },
  {
    title: "a timer in the program",
    content: program(`setTimeout(() => {}, 50)\n${texts}`),
    says: /leaves something running: Timeout/,
  },
  {
    title: "a wait without end in the program that nobody waits for",
    content: program(`void (async () => { for (;;) await null })()\n${texts}`),
    says: /not done after 0\.3 s/,
  },
  {
    title: "a promise that was kept at once",
    content: `const a = Promise.resolve(5)\nvoid a.then((b) => b + 1)\n${fine}`,
    says: undefined,
  },

  // what the program does
  { title: "an error that is thrown", content: program('throw new Error("mine")'), says: /hostile\.ts:4: mine\n/ },
  { title: "text that is thrown", content: program('throw "mine"'), says: /it throws 'mine'/ },
  { title: "undefined that is thrown", content: program("throw undefined"), says: /it throws undefined/ },
  {
    title: "an object without prototype that is thrown",
    content: program("throw Object.create(null)"),
    says: /it throws/,
  },
  {
    title: "an error with a million characters",
    content: program('throw new Error("x".repeat(1e6))'),
    says: /x{300}…\n/,
  },
  {
    title: "an error whose message is no text",
    content: program('throw Object.assign(new Error("a"), { message: 5n })'),
    says: /it throws/,
  },
  { title: "an error thrown after steps", content: program(`${base}null.x`), says: /hostile\.ts:8: Cannot read/ },
  { title: "a loop without end", content: program("while (true) {}"), says: /not done after 0\.3 s/ },
  { title: "the same step without end", content: program(`while (true) { ${texts} }`), says: /not done after 0\.3 s/ },
  {
    title: "new steps without end",
    content: program(`${texts}for (let n = 300; ; n++) yield* tokenizer({ corpus: texts, vocabulary: n })`),
    says: /not done after 0\.3 s/,
  },
  {
    title: "nothing without end",
    content: program("while (true) yield* each([], function* () {})"),
    says: /not done after 0\.3 s/,
  },
  {
    title: "calls without end",
    content: program("const f = (): void => f()\nf()"),
    says: /hostile\.ts:4: Maximum call stack/,
  },
  {
    title: "`process.exit` in the program",
    content: program("process.exit(0)"),
    says: /it calls `process\.exit\(0\)`/,
  },
  {
    title: "a program that waits",
    content: `import { Effect } from "effect"\n${program('yield* Effect.sleep("1 hour")')}`,
    says: /waits for something/,
  },
  {
    title: "a program that waits for ever",
    content: `import { Effect } from "effect"\n${program("yield* Effect.never")}`,
    says: /waits for something/,
  },
  {
    title: "a program that fails with anything",
    content: `import { Effect } from "effect"\n${program("yield* Effect.fail(5)")}`,
    says: /it throws 5/,
  },
  {
    title: "a program that interrupts itself",
    content: `import { Effect } from "effect"\n${program("yield* Effect.interrupt")}`,
    says: /hostile\.ts/,
  },
  {
    title: "a program that is no generator",
    content: `${head}export default experiment("hostile", (() => 5) as any)\n`,
    says: /hostile\.ts/,
  },
  {
    title: "a program that is asynchronous",
    content: `${head}export default experiment("hostile", (async () => 5) as any)\n`,
    says: /hostile\.ts/,
  },
  { title: "`yield*` of a number", content: program("yield* 5"), says: /hostile\.ts:4: .*not iterable/ },
  {
    title: "a name that leaves the folder",
    content: fine.replace('"hostile"', '"../../etc"'),
    says: /cannot name a folder/,
  },
  { title: "a name with a line break", content: fine.replace('"hostile"', '"a\\nb"'), says: /cannot name a folder/ },

  // parameters of steps
  {
    title: "a parameter that does not exist",
    content: program('yield* corpus({ from: "texts", trian: {} })'),
    says: /corpus: there is no parameter `trian`\n {2}hint: did you mean `train`/,
  },
  { title: "no parameters at all", content: program("yield* corpus()"), says: /corpus: it is given no parameters/ },
  { title: "null for parameters", content: program("yield* corpus(null)"), says: /corpus: it is given no parameters/ },
  {
    title: "`__proto__` as a parameter",
    content: program('yield* corpus({ from: "texts", train: { en: ["a"] }, ["__proto__"]: 5 })'),
    says: /no parameter `__proto__`/,
  },
  {
    title: "`constructor` as a parameter",
    content: program('yield* corpus({ from: "texts", train: { en: ["a"] }, constructor: 5 })'),
    says: /no parameter `constructor`/,
  },
  ...(
    ["NaN", "Infinity", "-0", "0", "-1", "1.5", "300n", '"300"', "null", "[300]", "{}", "Symbol()", "2 ** 53"] as const
  ).map((value) => ({
    title: `a vocabulary of ${value}`,
    content: program(`${texts}yield* tokenizer({ corpus: texts, vocabulary: ${value} as any })`),
    says: /tokenizer: /,
  })),
  {
    title: "a parameter that throws when it is read",
    content: program('yield* corpus({ get from() { throw new Error("mine") }, train: {} })'),
    says: /mine/,
  },
  {
    title: "a parameter that holds itself",
    content: program('const train: any = { en: [] }\ntrain.en.push(train)\nyield* corpus({ from: "texts", train })'),
    says: /hostile\.ts/,
  },

  // handles
  {
    title: "a handle of another experiment",
    content: program(
      "yield* tokenizer({ corpus: stolen, vocabulary: 300 })",
      `import { Effect } from "effect"\nimport { plan } from ${JSON.stringify(join(import.meta.dirname, "../../src/plan/Plan.ts"))}\nlet stolen: any\nEffect.runSync(plan(experiment("other", function* () { stolen = yield* corpus({ from: "other", train: { en: ["a"] } }) })))`,
    ),
    says: /tokenizer: it is given an artifact that no step before it makes/,
  },
  {
    title: "a handle made by hand",
    content: program(
      'yield* tokenizer({ corpus: { _tag: "Corpus", ref: { _tag: "Output", step: "x" }, known: {} }, vocabulary: 300 })',
    ),
    says: /input `corpus` is not a `Corpus`/,
  },
  {
    title: "a handle of the wrong kind",
    content: program(`${base}yield* tokenizer({ corpus: base as any, vocabulary: 300 })`),
    says: /input `corpus` is not a `Corpus`/,
  },
  {
    title: "a handle whose reference was changed",
    content: program(
      `${texts}yield* tokenizer({ corpus: Object.assign(texts, { ref: { _tag: "Output", step: "corpus-000000000000" } }), vocabulary: 300 })`,
    ),
    says: /no step before it makes/,
  },
  {
    title: "a handle whose reference is null",
    content: program(`${texts}yield* tokenizer({ corpus: Object.assign(texts, { ref: null }), vocabulary: 300 })`),
    says: /hostile\.ts/,
  },
  {
    title: "a step that was not yielded",
    content: program('yield* tokenizer({ corpus: corpus({ from: "texts", train: { en: ["a"] } }), vocabulary: 300 })'),
    says: /after `yield\*`/,
  },
  {
    title: "a handle out of a fan-out's body",
    content: program(
      `${base}let out: any\nyield* each(base.stable, function* (from) { out = yield* decay({ from, steps: 2, finalLr: 0, every: 2 }); return out }, { atMost: 2 })\nyield* benchmark({ model: out.last })`,
    ),
    says: /benchmark: it is given an artifact that no step before it makes/,
  },
  {
    title: "the item of a fan-out outside it",
    content: program(
      `${base}let item: any\nyield* each(base.stable, function* (from) { item = from; return yield* decay({ from, steps: 2, finalLr: 0, every: 2 }) }, { atMost: 2 })\nyield* decay({ from: item, steps: 3, finalLr: 0, every: 3 })`,
    ),
    says: /decay: it is given an artifact that no step before it makes/,
  },
  {
    title: "a fan-out for one input",
    content: program(`${base}yield* decay({ from: base.stable as any, steps: 2, finalLr: 0, every: 2 })`),
    says: /input `from` is not a `StableCheckpoint`/,
  },
  {
    title: "a list that holds itself",
    content: program('const list: any[] = []\nlist.push(list)\nyield* select({ among: list, by: "val_loss_mixed" })'),
    says: /hostile\.ts/,
  },
  {
    title: "a fan-out over nothing",
    content: program("yield* each(undefined as any, function* () {})"),
    says: /hostile\.ts/,
  },
  {
    title: "a fan-out without an end",
    content: program(`${base}yield* each(base.stable, function* (from) { return from }, { atMost: Infinity })`),
    says: /`atMost` is Infinity/,
  },

  // parameters of the experiment
  {
    title: "a parameter that is not there",
    content: withParameters("{ seed: 1 }"),
    set: { sede: "2" },
    says: /no parameter is called `sede`\n {2}hint: did you mean `seed`/,
  },
  {
    title: "`--set __proto__`",
    content: withParameters("{ seed: 1 }"),
    set: Object.fromEntries([["__proto__", "2"]]),
    says: /no parameter is called `__proto__`/,
  },
  {
    title: "`--set constructor`",
    content: withParameters("{ seed: 1 }"),
    set: { constructor: "2" } as never,
    says: /no parameter is called `constructor`/,
  },
  {
    title: "`--set toString` of an experiment without parameters",
    content: fine,
    set: { toString: "2" } as never,
    says: /no parameter is called `toString`/,
  },
  ...(["two", "", "NaN", "Infinity", "1e999", "0x", "1,5", "__", "٣"] as const).map((text) => ({
    title: `a number set to "${text}"`,
    content: withParameters("{ seed: 1 }"),
    set: { seed: text },
    says: new RegExp(`\`--set seed=${text}\` is not a number`),
  })),
  {
    title: "a switch set to `yes`",
    content: withParameters("{ fast: true }"),
    set: { fast: "yes" },
    says: /is not a boolean/,
  },
  ...(["NaN", "Infinity", "5n", "null", "undefined", "{}", "[]", "() => 5", "Symbol()"] as const).map((value) => ({
    title: `a default of ${value}`,
    content: withParameters(`{ rate: ${value} }`),
    says: /parameter `rate` has no default that can be set/,
  })),
  {
    title: "a parameter called `__proto__` that is one",
    content: withParameters('{ ["__proto__"]: 5 }'),
    set: Object.fromEntries([["__proto__", "7"]]),
    says: undefined,
  },
  {
    title: "a parameter called `constructor`",
    content: withParameters("{ constructor: 5 }"),
    set: { constructor: "7" } as never,
    says: undefined,
  },
  { title: "parameters that are null", content: withParameters("null"), says: /hostile\.ts/ },
  {
    title: "a default that throws when it is read",
    content: withParameters('{ get seed() { throw new Error("mine") } }'),
    says: /mine/,
  },

  // what is the user's own right
  {
    title: "a child process and a file read",
    content: `import { execFileSync } from "node:child_process"\nimport { readFileSync } from "node:fs"\nexecFileSync(process.execPath, ["-e", ""])\nreadFileSync(import.meta.filename)\n${fine}`,
    says: undefined,
  },
]

export interface Judged {
  readonly title: string
  readonly seconds: number
  readonly message?: string
  /** What should not be. */
  readonly wrong?: string
}

const judge = async ({ title, name = "hostile.ts", content, set = {}, says }: Case): Promise<Judged> => {
  const folder = mkdtempSync(join(tmpdir(), "exp-hostile-"))
  try {
    const path = join(folder, name)
    if (typeof content === "function") content(path)
    else writeFileSync(path, content)
    const before = readdirSync(folder)
    const start = performance.now()
    const exit = await Effect.runPromiseExit(
      Effect.gen(function* () {
        yield* read(name, path)
        return yield* plan({ file: name, path, experiment: yield* evaluate(name, path) }, set)
      }),
    )
    const seconds = (performance.now() - start) / 1000
    const wrong = (problem: string): Judged => ({ title, seconds, wrong: problem })
    if (readdirSync(folder).join() !== before.join()) return wrong("it left files behind")
    if (Exit.isSuccess(exit)) return says === undefined ? { title, seconds } : wrong("it was accepted")
    const [reason, ...more] = exit.cause.reasons
    if (reason?._tag !== "Fail" || more.length > 0)
      return wrong(`no typed error: ${Cause.pretty(exit.cause).slice(0, 1000)}`)
    const { message } = reason.error
    if (says === undefined || !says.test(message)) return wrong(`it says: ${message}`)
    if (!message.startsWith(name)) return wrong(`it does not name the file: ${message}`)
    if (!/\n {2}hint: \S/.test(message)) return wrong(`it has no hint: ${message}`)
    if (message.length > 1000) return wrong(`a message of ${message.length} characters`)
    if (seconds > 5) return wrong(`it took ${seconds.toFixed(1)} s`)
    return { title, seconds, message }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** The hero with a piece taken out, doubled or changed: accepted, or refused like all others. */
const mutations = (seed: number, count: number): ReadonlyArray<Case> => {
  const hero = readFileSync(join(import.meta.dirname, "../../experiments/small-en-it.ts"))
  const random = stream(seed, "experiments")
  let drawn = 0
  const below = (end: number): number => Math.floor(random.uniform(drawn++) * end)
  return Array.from({ length: count }, (_, index) => {
    const at = below(hero.length)
    const to = Math.min(hero.length, at + 1 + below(40))
    const content = [
      () => hero.subarray(0, at),
      () => Buffer.concat([hero.subarray(0, at), hero.subarray(to)]),
      () => Buffer.concat([hero.subarray(0, to), hero.subarray(at)]),
      () => Buffer.concat([hero.subarray(0, at), Buffer.from([below(256)]), hero.subarray(at + 1)]),
    ][index % 4]!()
    return { title: `mutation ${index} of seed ${seed}`, content, says: /hostile\.ts/ }
  })
}

if (process.argv[1] === import.meta.filename) {
  process.env["EXP_PLAN_SECONDS"] = "0.3"
  const say = (judged: Judged): void => void process.stdout.write(`${JSON.stringify(judged)}\n`)
  for (const one of cases) say(await judge(one))
  for (const one of mutations(Number(process.argv[2] ?? 1), 200)) {
    const judged = await judge(one)
    say(judged.wrong === "it was accepted" ? { title: judged.title, seconds: judged.seconds } : judged)
  }
  // some of the cases leave timers and servers behind
  process.exit()
}
