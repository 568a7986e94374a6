import { copyFileSync, mkdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { artifacts, bytesBelow, embedded, exp, smallest, temporaryFolder, write } from "./experiment.ts"

const place = temporaryFolder()
afterAll(() => place.remove())

// Put together here, so that no scanner takes this file for a leak.
const token = (mark: string): string => `hf_${mark.repeat(24).slice(0, 30)}`
const canaries = {
  environment: token("Env1"),
  /** Of no known form: only its variable's name tells. */
  plain: "canary-in-plain-words",
  remote: `ghp_${"Remote1".repeat(4)}`,
  argument: token("Arg2"),
  record: token("Rec3"),
  address: "canaryuser:canarypassword",
}
const home = join(place.path, "home")
mkdirSync(home)
write(
  home,
  ".gitconfig",
  `[remote "canary"]\n\turl = https://me:${canaries.remote}@example.org/us/exp.git?key=${canaries.remote}\n`,
)
const environment = {
  HF_TOKEN: canaries.environment,
  MY_API_KEY: canaries.plain,
  // A remote in the user's own configuration is one of every repository.
  HOME: home,
  USERPROFILE: home,
}

const found = (): ReadonlyArray<string> =>
  Object.entries(bytesBelow(place.path, (path) => /^(?:texts|home|[^/]+\.ts)/.test(path))).flatMap(([path, bytes]) =>
    Object.entries(canaries)
      .filter(([, canary]) => bytes.includes(canary))
      .map(([name]) => `${path}: ${name}`),
  )

describe("secrets", () => {
  it("in environment and git remotes get into no file of a run, its store and its release", async () => {
    write(place.path, "smallest.ts", smallest())
    const { code, stdout, stderr } = await exp(place.path, ["run", "smallest.ts"], environment)
    expect([code, stderr]).toEqual([0, ""])
    expect(found()).toEqual([])
    for (const canary of Object.values(canaries)) expect(stdout).not.toContain(canary)
    const [release] = artifacts(join(place.path, "runs"), "release")
    const statement = JSON.parse(readFileSync(join(release!, "release/provenance.json"), "utf8"))
    // the canary was within reach: without it this test would show nothing
    if (statement.predicate.exp_run.git !== null)
      expect(statement.predicate.exp_run.git.remotes.canary).toBe("https://example.org/us/exp.git")
  }, 300_000)

  it("in an experiment or its parameters are refused before anything is run", async () => {
    const files = () => Object.keys(bytesBelow(place.path, (path) => path.startsWith("runs/.cache")))
    const before = files()
    for (const [source, given] of [
      [`${smallest()}// ${canaries.argument}\n`, []],
      [smallest(), ["--set", `corpus=${canaries.argument}`]],
      [smallest(), ["--set", `corpus=${canaries.plain}`]],
    ] as const) {
      write(place.path, "smallest.ts", source)
      const { code, stderr, stdout } = await exp(place.path, ["run", "smallest.ts", ...given], environment)
      expect(code).toBe(1)
      expect(stderr).toMatch(
        /holds what looks like (?:a Hugging Face token|the value of a secret environment variable)/,
      )
      expect(stderr + stdout).not.toContain(canaries.argument)
      expect(stderr + stdout).not.toContain(canaries.plain)
    }
    expect(files()).toEqual(before)
    expect(found()).toEqual([])
  }, 240_000)

  it("in what a step throws get into no journal and no record", async () => {
    const texts = join(place.path, "texts")
    mkdirSync(texts)
    const lines = readFileSync(join(embedded, "wiki_en.jsonl"), "utf8")
    for (const source of ["wiki_it", "books_en"])
      copyFileSync(join(embedded, `${source}.jsonl`), join(texts, `${source}.jsonl`))
    for (const [index, said] of [
      canaries.record,
      canaries.plain,
      `https://${canaries.address}@example.org`,
    ].entries()) {
      // the error names the language that a record says it has
      write(texts, "wiki_en.jsonl", `${JSON.stringify({ text: "x", lang: said, license: "CC0-1.0" })}\n${lines}`)
      write(place.path, "failing.ts", smallest({ from: texts }).replace('"smallest", {', `"failing-${index}", {`))
      const { code, stderr } = await exp(place.path, ["run", "failing.ts"], environment)
      expect(code).toBe(1)
      expect(stderr).toContain("`lang` is")
      expect(found()).toEqual([])
    }
    const journals = Object.entries(bytesBelow(join(place.path, "runs"))).filter(([path]) =>
      /failing-\d\/(?:journal\.ndjson|run\.json)$/.test(path),
    )
    expect(journals.length).toBe(6)
    for (const [path, bytes] of journals) expect(bytes.toString(), path).toContain("<redacted>")
  }, 240_000)
})
