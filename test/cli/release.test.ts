import { mkdirSync, renameSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, beforeEach, describe, expect, it } from "vitest"
import { temporaryFolder } from "../temporary.ts"
import { exp, shown } from "./command.ts"

let folder: string
beforeEach(() => {
  folder = temporaryFolder()
})

/** What is printed of each, with where this machine keeps things left out. */
const told = async (...lines: ReadonlyArray<ReadonlyArray<string>>): Promise<string> => {
  const said: Array<string> = []
  for (const line of lines) said.push(`exp ${line.join(" ")}\n${shown(await exp(folder, ...line))}`)
  return said.join("\n\n").replaceAll(folder, "<here>")
}

describe("a name that was to be a release", () => {
  it("is told from a folder that is there and is none", async () => {
    mkdirSync(join(folder, "notes"))
    expect(
      await told(
        ["verify", "nothing"],
        ["verify", "notes"],
        ["publish", "nothing", "--to", "our-org/tiny"],
        ["publish", "notes", "--to", "our-org/tiny"],
      ),
    ).toMatchInlineSnapshot(`
      "exp verify nothing
      exit 2
      stderr:
      error: there is no folder, run or tag \`nothing\`
        hint: nothing was run yet

      exp verify notes
      exit 2
      stderr:
      error: notes: it is no release: it has none of release.json, SHA256SUMS, provenance.json
        hint: a release is the folder that \`exp run\` names at its end

      exp publish nothing --to our-org/tiny
      exit 1
      stderr:
      error: there is no folder, run or tag \`nothing\`
        hint: nothing was run yet

      exp publish notes --to our-org/tiny
      exit 1
      stderr:
      error: \`notes\` is no release: it has no SHA256SUMS
        hint: a release is the folder that \`exp run\` names at its end"
    `)
  })

  it("is not looked at without the texts that were asked for", async () => {
    expect(await told(["verify", "notes", "--corpus", "texts"])).toMatchInlineSnapshot(`
      "exp verify notes --corpus texts
      exit 2
      stderr:
      error: there is no file or folder \`texts\`
        hint: \`--corpus\` names the folder of the texts that the release was made from"
    `)
  })
})

describe("exp keys show", () => {
  it("says how to make the key that is not there", async () => {
    const { code, err } = await exp(folder, "keys", "show", "--key", join(folder, "none.pem"))
    assert.strictEqual(code, 1)
    expect(err.replaceAll(folder, "<here>").trim()).toMatchInlineSnapshot(`
      "error: there is no key <here>/none.pem
        hint: \`exp keys new\` makes one; \`--key\` or \`EXP_SIGNING_KEY\` names another"
    `)
  })
})

describe("exp show", () => {
  it("tells what came out of a run that is named by its folder, wherever its runs have been moved to", async () => {
    const name = "202601021205_small"
    const made = join(folder, "made")
    const release = join(made, "store/release-0123456789abcdef/release")
    mkdirSync(release, { recursive: true })
    mkdirSync(join(made, name))
    writeFileSync(join(release, "README.md"), "# small\n\n## Limitations\n\n- It is small.\n\n## Files\n")
    const steps = [{ step: "release-0", label: "release small", artifact: "release-0123456789abcdef", made: true }]
    const startedAt = "2026-01-02T12:05:00.000Z"
    const record = { experiment: "small", file: "small.ts", parameters: {}, startedAt, finishedAt: startedAt, steps }
    writeFileSync(join(made, name, "run.json"), JSON.stringify({ ...record, outcome: "finished", releases: [release] }))
    renameSync(made, join(folder, "moved"))
    expect(await told(["show", `moved/${name}`])).toMatchInlineSnapshot(`
      "exp show moved/202601021205_small
      exit 0
      <minute>_small: finished
      small.ts, started <time>, took <duration>

            step           artifact
      made  release small  release-0123456789abcdef

      honest reading, as the model card has it:
      - It is small.

      release  moved/store/release-0123456789abcdef/release"
    `)
  })
})
