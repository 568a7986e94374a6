import { execFile } from "node:child_process"
import * as fs from "node:fs"
import { join } from "node:path"
import { promisify } from "node:util"
import { assert, beforeAll, describe, it } from "vitest"
import { exp } from "../cli/command.ts"
import { temporaryFolder } from "../temporary.ts"
import { cases, type Judged } from "./experiments.ts"

describe("an experiment file that is hostile or broken is refused by name", () => {
  let judged: ReadonlyArray<Judged> = []
  beforeAll(async () => {
    const child = [join(import.meta.dirname, "experiments.ts"), process.env["EXP_HOSTILE_SEED"] ?? "1"]
    const { stdout } = await promisify(execFile)(process.execPath, child, { timeout: 60_000, maxBuffer: 1 << 26 })
    judged = stdout
      .trimEnd()
      .split("\n")
      .map((line) => JSON.parse(line))
  })

  it.for(cases.map(({ title }, index) => [title, index] as const))("%s", ([title, index]) => {
    assert.strictEqual(judged[index]?.title, title)
    assert.isUndefined(judged[index]?.wrong)
  })

  it("and so are two hundred mutations of the hero that are no experiment any more", () => {
    const mutated = judged.slice(cases.length)
    assert.lengthOf(mutated, 200)
    assert.deepStrictEqual(
      mutated.filter(({ wrong }) => wrong !== undefined),
      [],
    )
    assert.isAbove(mutated.filter(({ message }) => message !== undefined).length, 20)
  })
})

describe("the command line, given such a file,", () => {
  const fine = `import { corpus, experiment } from "exp"
export default experiment("hostile", { seed: 1 }, function* () {
  return yield* corpus({ from: "texts", train: { en: ["web_en"] } })
})
`
  it.for<readonly [string, string | Uint8Array, ReadonlyArray<string>, RegExp]>([
    [
      "a loop without end",
      `while (true) {}\n${fine}`,
      [],
      /^error: hostile\.ts: it was not done after 3 s\n {2}hint: /,
    ],
    [
      "a loop of promises that nobody waits for",
      `void (async () => { for (;;) await null })()\n${fine}`,
      [],
      /^error: hostile\.ts: it was not done after 3 s\n {2}hint: /,
    ],
    [
      "an exit to come, that would look like success",
      `setTimeout(() => process.exit(0), 100)\n${fine}`,
      [],
      /^error: hostile\.ts: it leaves something running: Timeout\n {2}hint: /,
    ],
    [
      "an exit that looks like success",
      `process.exit(0)\n${fine}`,
      [],
      /^error: hostile\.ts:1: it calls `process\.exit/,
    ],
    ["a binary file", Buffer.alloc(2000, 0xff), [], /^error: hostile\.ts: it is not UTF-8 text\n {2}hint: /],
    [
      "a program that throws",
      fine.replace("return", 'throw new Error("mine")\n//'),
      [],
      /^error: hostile\.ts:3: mine\n {2}hint: /,
    ],
    [
      "a setting that every object has",
      fine,
      ["--set", "__proto__=1"],
      /no parameter is called `__proto__`\n {2}hint: /,
    ],
    [
      "more complaints than anybody reads",
      `${fine}${"const a: number = 'x'\n".repeat(100)}`,
      [],
      /does not type-check; nothing was run\n(hostile\.ts\(.*\n){20}… and \d+ lines more\n {2}hint: /,
    ],
  ])("says so of %s, and starts no run", async ([, content, args, says]) => {
    const folder = temporaryFolder()
    fs.writeFileSync(join(folder, "hostile.ts"), content)
    const { code, out, err } = await exp(folder, "run", "hostile.ts", ...args)
    assert.deepStrictEqual([code, out], [1, ""])
    assert.match(err, says)
    const left = fs.existsSync(join(folder, "runs")) ? fs.readdirSync(join(folder, "runs")) : []
    assert.deepStrictEqual(left, left.length === 0 ? [] : [".cache"])
  })
})
