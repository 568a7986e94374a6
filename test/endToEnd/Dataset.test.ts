import { readdirSync, readFileSync, statSync } from "node:fs"
import { join } from "node:path"
import { gunzipSync } from "node:zlib"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { sha256 } from "../../src/model/Digest.ts"
import { noSharedData, sharedData } from "../data/texts.ts"
import { table } from "../hub/dataset.ts"
import { HubServer } from "../hub/HubServer.ts"
import { artifacts, bytesBelow, exp, finished, start, temporaryFolder, write } from "./experiment.ts"

const place = temporaryFolder()
let server: HubServer
/** An address where nobody answers any more. */
let nobody: string
beforeAll(async () => {
  server = await HubServer.start({ accounts: {} })
  const gone = await HubServer.start({ accounts: {} })
  nobody = gone.endpoint
  await gone.stop()
})
afterAll(async () => {
  await server.stop()
  place.remove()
})

const env = () => ({ HF_ENDPOINT: server.endpoint, HF_TOKEN: "", HF_HOME: place.path })

const texts = (language: string, from: number, documents: number): ReadonlyArray<string> =>
  Array.from(
    { length: documents },
    (_, index) =>
      `${language} ${from + index}: ${sha256(`${language}${from + index}`)
        .match(/.{4}/g)!
        .join(" ")}.`,
  )

const experiment = ({ revision = "main", web = "most: { documents: 100 }" } = {}): string => `
import { corpus, dataset, experiment, pack, tokenizer } from "exp"

export default experiment("from-the-hub", {}, function* () {
  const wiki = { repository: "our-org/wiki", revision: "main", license: "CC-BY-SA-3.0", markup: "wiki40b" } as const
  const sources = yield* dataset({
    sources: {
      web_en: {
        repository: "our-org/web", revision: ${JSON.stringify(revision)}, files: "data/**/*.parquet", id: "id", language: "en",
        license: "ODC-By-1.0", attribution: "Web, by our organization", terms: "https://example.org/terms", ${web}
      },
      wiki_it: { ...wiki, files: "it/train-*.parquet" },
    },
  })
  const texts = yield* corpus({
    texts: sources,
    train: { en: ["web_en"], it: ["wiki_it"] },
    evaluate: { code: ["code"] },
    rights: { wiki_it: { attribution: "the authors of Wikipedia" } },
    split: { validation: 0.1, holdout: 0.1, minimumDocuments: 2 },
  })
  const words = yield* tokenizer({ corpus: texts, vocabulary: 400 })
  yield* pack({ corpus: texts, tokenizer: words, context: 64 })
})
`

const article = (text: string) => `\n_START_ARTICLE_\nTitolo\n_START_PARAGRAPH_\n${text}`

const seed = (): string => {
  const ids = texts("en", 0, 60).map((_, index) => `<urn:uuid:${index}>`)
  server.seedDataset("our-org/wiki", { "it/train-0.parquet": table({ text: texts("it", 0, 50).map(article) }, "GZIP") })
  return server.seedDataset("our-org/web", {
    "data/a/0.parquet": table({ id: ids, text: texts("en", 0, 60) }),
    "data/b/0.parquet": table({ id: ids.map((id) => `${id}b`), text: texts("en", 60, 60) }, "ZSTD"),
  })
}

const made = (stdout: string) => [...stdout.matchAll(/^ {2}made {5}(\S+(?: \S+)?) {2}/gm)].map(([, label]) => label)

describe("an experiment on data sets of the hub", () => {
  let commit: string
  beforeAll(() => {
    commit = seed()
    write(place.path, "main.ts", experiment())
  })

  it("is planned without the network, which says what cannot be known yet, and is refused in words by a run", async () => {
    const away = { ...env(), HF_ENDPOINT: nobody }
    const plan = await exp(place.path, ["plan", "main.ts"], away)
    expect([plan.code, plan.stderr]).toEqual([0, ""])
    expect(plan.stdout).toMatch(/later +dataset web_en +not known yet: needs the network/)
    expect(plan.stdout).toContain("0 will run, 5 known once their inputs are there")
    const why = await exp(place.path, ["why", "main.ts", "dataset web_en"], away)
    expect(why.stdout).toBe("dataset web_en is not known yet: `dataset web_en` needs the network\n")
    const run = await exp(place.path, ["run", "main.ts"], away)
    expect(run.code).toBe(1)
    expect(run.stderr).toBe(
      `error: dataset web_en: which commit \`main\` of our-org/web is cannot be told: ${new URL(nobody).host} cannot be reached (ECONNREFUSED)\n  hint: run again when the hub answers, or name a commit as \`revision\`: then nothing is asked\n`,
    )
    write(place.path, "pinned.ts", experiment({ revision: commit }))
    const pinned = await exp(place.path, ["plan", "pinned.ts"], away)
    expect(pinned.stdout).toMatch(/will run +dataset web_en +dataset-[0-9a-f]{16}/)
  }, 120_000)

  it("is made, recorded and never brought again, and a branch that moves brings its own source alone", async () => {
    const first = await exp(place.path, ["run", "main.ts"], env())
    expect([first.code, first.stderr]).toEqual([0, ""])
    expect(made(first.stdout)).toEqual(["dataset web_en", "dataset wiki_it", "corpus", "tokenizer", "pack"])
    expect(first.stdout).toContain(`\`main\` of our-org/web is ${commit}`)

    const runs = join(place.path, "runs")
    const inventory = JSON.parse(readFileSync(join(artifacts(runs, "corpus")[0]!, "inventory.json"), "utf8"))
    const [web, wiki, code] = inventory.sources
    expect([web.source, wiki.source, code.source]).toEqual(["web_en", "wiki_it", "code"])
    expect(web.licenses).toEqual({ "ODC-By-1.0": 100 })
    expect([web.attributions, web.terms]).toEqual([["Web, by our organization"], ["https://example.org/terms"]])
    expect([wiki.licenses, wiki.attributions]).toEqual([{ "CC-BY-SA-3.0": 50 }, ["the authors of Wikipedia"]])
    const sums = server.sums("datasets/our-org/web", commit)
    expect(web.dataset).toEqual({
      repository: "our-org/web",
      commit,
      files: ["data/a/0.parquet", "data/b/0.parquet"].map((path) => ({
        path,
        bytes: server.read("datasets/our-org/web", commit, path)!.length,
        sha256: sums[path],
      })),
    })
    expect(code.dataset).toBeUndefined()
    const documents = readFileSync(join(artifacts(runs, "corpus")[0]!, "documents/web_en.jsonl"), "utf8").split("\n")
    expect(JSON.parse(documents[0]!)).toMatchObject({ id: "web_en:<urn:uuid:0>", text: texts("en", 0, 1)[0] })
    const italian = readFileSync(join(artifacts(runs, "corpus")[0]!, "documents/wiki_it.jsonl"), "utf8").split("\n")
    expect(JSON.parse(italian[0]!)).toMatchObject({ id: "wiki_it:1", text: `Titolo\n\n${texts("it", 0, 1)[0]}` })

    const requests = server.seen.length
    const again = await exp(place.path, ["run", "main.ts"], env())
    expect(again.stdout).toContain("nothing to do")
    expect(server.seen.slice(requests).every(({ url }) => url.includes("/revision/"))).toBe(true)
    // the commit that was found, written down, is the same step: and nothing is asked
    write(
      place.path,
      "pinned.ts",
      experiment({ revision: commit }).replace('revision: "main"', `revision: "${"f".repeat(40)}"`),
    )
    const pinned = await exp(place.path, ["plan", "pinned.ts"], { ...env(), HF_ENDPOINT: nobody })
    expect(pinned.stdout).toMatch(/^done.* dataset web_en +dataset-/m)

    server.seedDataset("our-org/web", { "data/0.parquet": table({ id: ["new"], text: ["a new first one"] }) })
    const moved = await exp(place.path, ["run", "main.ts"], env())
    expect(made(moved.stdout)).toEqual(["dataset web_en", "corpus", "tokenizer", "pack"])
    seed()
  }, 240_000)

  it("that is killed in a download goes on in it, to the same bytes", async () => {
    const big = Array.from({ length: 4000 }, (_, index) => texts("big", index, 1)[0]!)
    const commit = server.seedDataset("our-org/big", {
      "data/0.parquet": table({ id: big.slice(0, 300), text: big.slice(0, 300) }),
      "data/1.parquet": table({ id: big, text: big }, "UNCOMPRESSED"),
    })
    const source = experiment({ revision: commit, web: "" }).replace("our-org/web", "our-org/big")
    write(place.path, "big.ts", source)
    const whole = await exp(place.path, ["run", "big.ts", "--runs", "whole", "--until", "dataset"], env())
    expect([whole.code, whole.stderr]).toEqual([0, ""])
    for (const signal of ["SIGKILL", "SIGINT"] as const) {
      server.drip = { bytes: 20_000, milliseconds: 10 }
      const child = start(place.path, ["run", "big.ts", "--runs", signal, "--until", "dataset"], env())
      const outcome = finished(child)
      const tmp = join(place.path, signal, "store/.tmp")
      const half = () =>
        (statSync(tmp, { throwIfNoEntry: false }) ? readdirSync(tmp) : [])
          .map((name) => join(tmp, name, "scratch/00001.download"))
          .find((path) => (statSync(path, { throwIfNoEntry: false })?.size ?? 0) > 60_000)
      while (half() === undefined && child.exitCode === null) await new Promise((resolve) => setTimeout(resolve, 20))
      child.kill(signal)
      const { code, stdout } = await outcome
      server.drip = undefined
      if (signal === "SIGINT") expect(stdout).toContain("the same command goes on from there")
      else expect(code).toBe(null)
      const there = statSync(half()!).size
      const before = server.seen.length
      const rest = await exp(place.path, ["run", "big.ts", "--runs", signal, "--until", "dataset"], env())
      expect([rest.code, rest.stderr]).toEqual([0, ""])
      expect(rest.stdout).toContain("1 of 2 files were taken before")
      const ranges = server.seen
        .slice(before)
        .flatMap(({ place, headers }) => (place === "storage" ? [headers.range] : []))
      // the rest of the one it was in, and the other data set
      expect(ranges).toEqual([`bytes=${there}-`, undefined])
      const [cut] = artifacts(join(place.path, signal), "dataset")
      const [same] = artifacts(join(place.path, "whole"), "dataset")
      expect(bytesBelow(cut!, (path) => path === "manifest.json")).toEqual(
        bytesBelow(same!, (path) => path === "manifest.json"),
      )
    }
  }, 240_000)
})

describe(`real texts${noSharedData === undefined ? "" : `, skipped: ${noSharedData}`}`, () => {
  it.skipIf(noSharedData !== undefined)(
    "come through the hub as they lie on this disk",
    async () => {
      const files = (folder: string, pattern: RegExp) =>
        Object.fromEntries(
          readdirSync(join(sharedData, folder))
            .filter((name) => pattern.test(name))
            .map((name) => [`${folder}/${name}`, readFileSync(join(sharedData, folder, name))]),
        )
      server.seedDataset("our-org/shared", { ...files("corpus", /_it\.parquet$/), ...files("tiny", /\.jsonl\.gz$/) })
      write(
        place.path,
        "shared.ts",
        `
import { corpus, dataset, experiment, pack, tokenizer } from "exp"
export default experiment("shared", {}, function* () {
  const shared = { repository: "our-org/shared", revision: "main", id: "id", license: "CC-BY-SA-4.0" }
  const sources = {
    all_it: { ...shared, files: "corpus/*_it.parquet", most: { megabytes: 6 } },
    tiny_en: { ...shared, files: ["tiny/web_en.jsonl.gz", "tiny/wiki_en.jsonl.gz"], language: "en" },
  }
  const texts = yield* corpus({ texts: yield* dataset({ sources }), train: { en: ["tiny_en"], it: ["all_it"] }, split: { validation: 0.1, holdout: 0.1, minimumDocuments: 5 } })
  yield* pack({ corpus: texts, tokenizer: yield* tokenizer({ corpus: texts, vocabulary: 1024 }), context: 128 })
})`,
      )
      const { code, stderr } = await exp(place.path, ["run", "shared.ts", "--runs", "shared"], env())
      expect([code, stderr]).toEqual([0, ""])
      const indexes = artifacts(join(place.path, "shared"), "dataset").map((path) =>
        JSON.parse(readFileSync(join(path, "dataset.json"), "utf8")),
      )
      const [tiny, all] = ["tiny_en", "all_it"].map((source) => indexes.find((index) => index.source === source))
      const lines = ["web_en", "wiki_en"].flatMap((source) =>
        gunzipSync(readFileSync(join(sharedData, "tiny", `${source}.jsonl.gz`)))
          .toString("utf8")
          .split("\n")
          .filter((line) => line !== ""),
      )
      expect([tiny.documents, tiny.bounded]).toEqual([lines.length, false])
      expect(all.bounded).toBe(true)
      expect(all.textBytes).toBeGreaterThan(5e6)
      expect(all.textBytes).toBeLessThanOrEqual(6e6)
      const path = artifacts(join(place.path, "shared"), "dataset").find((path) =>
        readdirSync(path).includes("tiny_en.jsonl"),
      )!
      const brought = readFileSync(join(path, "tiny_en.jsonl"), "utf8").split("\n").slice(0, -1)
      expect(brought.map((line) => JSON.parse(line).text)).toEqual(lines.map((line) => JSON.parse(line).text))
    },
    240_000,
  )
})
