import { mkdirSync, readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { sha256 } from "../../src/model/Digest.ts"
import { flip, forgeStat } from "../store/damage.ts"
import { exp, smallest, temporaryFolder, write } from "./experiment.ts"

const place = temporaryFolder()
afterAll(() => place.remove())

const texts = join(place.path, "texts")
const records = (language: string, license: string, attribution?: string): string =>
  Array.from({ length: 80 }, (_, index) =>
    JSON.stringify({
      text: `Text number ${index} of ${language}: ${sha256(`${index}`).match(/.{4}/g)!.join(" ")}.`,
      lang: language,
      license,
      attribution,
    }),
  ).join("\n")

/** The smallest experiment on our own texts, with what its release says of licences as parameters. */
const experiment = smallest({ from: texts })
  .replace("seed: 7 }", 'seed: 7, license: "CC0-1.0", reason: "" }')
  .replace(
    'license: "CC0-1.0" })',
    "license: set.license, ...(set.reason !== '' && { licensing: { override: set.reason } }) })",
  )

const stored = (): ReadonlyArray<string> =>
  readdirSync(join(place.path, "runs/store")).filter((name) => /^[a-z]+-[0-9a-f]{16}$/.test(name))

describe("a release that its texts do not allow", () => {
  it("is refused when the texts are there, before anything is made of them, and planned no further", async () => {
    mkdirSync(texts)
    write(texts, "wiki_en.jsonl", records("en", "CC-BY-SA-3.0", "English contributors"))
    write(texts, "wiki_it.jsonl", records("it", "CC0-1.0"))
    write(texts, "books_en.jsonl", records("en", "CC-BY-NC-ND-4.0", "a publisher"))
    write(place.path, "experiment.ts", experiment)
    const before = await exp(place.path, ["plan", "experiment.ts"])
    expect([before.code, before.stderr]).toEqual([0, ""])

    const run = await exp(place.path, ["run", "experiment.ts"])
    expect(run.code).toBe(1)
    expect(run.stderr).toContain(
      [
        'release: "CC0-1.0" is not possible for the texts it is trained on',
        "  wiki_en: CC-BY-SA-3.0 (80 documents), share-alike: may go on only under CC-BY-SA-3.0 or a later version of it",
        '  hint: CC-BY-SA-4.0 or CC-BY-SA-3.0 would do; or take out `wiki_en`; or write why the rule does not hold: `licensing: { override: "…" }`',
      ].join("\n"),
    )
    expect(run.stderr).not.toContain("books_en")
    expect(stored().map((name) => name.split("-")[0])).toEqual(["corpus"])

    const plan = await exp(place.path, ["plan", "experiment.ts"])
    expect(plan.code).toBe(1)
    expect(plan.stdout).toContain("release smallest")
    expect(plan.stderr).toContain("wiki_en: CC-BY-SA-3.0 (80 documents), share-alike")
  }, 120_000)

  it("passes under a licence that they allow, and with a reason", async () => {
    const plan = (...set: ReadonlyArray<string>) =>
      exp(place.path, ["plan", "experiment.ts", ...set.flatMap((each) => ["--set", each])])
    expect((await plan("license=CC-BY-SA-4.0")).code).toBe(0)
    expect((await plan("reason=Our lawyers hold that these weights reproduce no text")).code).toBe(0)
    const short = await plan("reason=because")
    expect(short.code).toBe(1)
    expect(short.stderr).toContain("licensing.override")
    const misspelt = await plan("license=CC-BY-SA-40")
    expect(misspelt.code).toBe(1)
    expect(misspelt.stderr).toContain("did you mean `CC-BY-SA-4.0`?")
  }, 120_000)

  it("is not refused for what rotted in the store: that is made again first", async () => {
    const store = join(place.path, "runs/store")
    const corpus = stored().find((name) => name.startsWith("corpus-"))!
    const path = join(store, corpus, "inventory.json")
    flip(path, readFileSync(path, "utf8").indexOf("CC-BY-SA-3.0"))
    forgeStat(store, corpus)
    const set = ["--set", "license=CC-BY-SA-4.0"]
    const plan = await exp(place.path, ["plan", "experiment.ts", ...set])
    expect([plan.code, plan.stderr]).toEqual([0, ""])
    const run = await exp(place.path, ["run", "experiment.ts", ...set, "--until", "tokenizer"])
    expect([run.code, run.stderr]).toEqual([0, expect.not.stringContaining("error")])
    expect(readFileSync(path, "utf8")).toContain("CC-BY-SA-3.0")
  }, 120_000)
})
