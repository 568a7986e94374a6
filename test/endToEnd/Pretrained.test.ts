/** Continued pre-training of a model that lies on a hub: brought, trained further, released, and that made again by somebody else. */
import { readdirSync, readFileSync } from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { HubServer } from "../hub/HubServer.ts"
import { published } from "../hub/published.ts"
import { artifacts, embedded, finished, start, temporaryFolder, write } from "./experiment.ts"

const place = temporaryFolder()
let server: HubServer
beforeAll(async () => {
  server = await HubServer.start({ accounts: {} })
})
afterAll(async () => {
  await server.stop()
  place.remove()
})

const model = "{ layers: 1, width: 32, heads: 2 }"
const continued = (commit: string): string => `
import { benchmark, corpus, decay, experiment, pack, pretrained, release, select, sweep, train } from "exp"

export default experiment("continued", { corpus: ${JSON.stringify(embedded)} }, function* (set) {
  const texts = yield* corpus({
    from: set.corpus, train: { en: ["wiki_en"], it: ["wiki_it"] },
    split: { validation: 0.15, holdout: 0.15, minimumDocuments: 10 },
  })
  const base = yield* pretrained({
    repository: "our-org/model", revision: "${commit}", license: "MIT", model: ${model}, vocabulary: 700,
  })
  const tokens = yield* pack({ corpus: texts, tokenizer: base.tokenizer, context: 32 })
  const run = yield* train({
    tokens, from: base, steps: 4, rowsPerStep: 4, peakLr: 1e-4, warmupSteps: 1, keepEvery: 2, validateEvery: 2, seed: 3,
  })
  const tail = yield* decay({ from: run.stableAt(4), steps: 2, finalLr: 1e-5, every: 2 })
  const best = yield* select({ among: [yield* benchmark({ model: tail.last, prompts: 3, maxNewTokens: 16 })], by: "val_loss_mixed" })
  const decoding = yield* sweep({ model: best, tuningPrompts: 3, holdoutPrompts: 3, behaviourPrompts: 3, maxNewTokens: 16 })
  return yield* release({ model: best, decoding, name: "continued", license: "CC-BY-SA-4.0" })
})
`

const replayed = (stdout: string): string =>
  stdout
    .slice(stdout.indexOf("\nreplay"))
    .split("\n")
    .filter((line) => /^(replay)? +(ok|–|WRONG) /.test(line))
    .map((line) =>
      line
        .replace(/^replay/, "")
        .trim()
        .replaceAll(/ {2,}/g, "  "),
    )
    .join("\n")

describe("a model of the hub that is trained further", () => {
  it("is in the release by its commit, and a replay brings it again where nothing is there", {
    timeout: 600_000,
  }, async () => {
    const { folder } = await Effect.runPromise(published({ layers: 1, width: 32, heads: 2 }))
    const files = Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]))
    const commit = server.seedFiles("our-org/model", files)
    const env = { HF_ENDPOINT: server.endpoint, HF_TOKEN: "", HF_HOME: place.path, EXP_TORCH_PYTHON: "" }
    const on = (...args: ReadonlyArray<string>) => finished(start(place.path, args, env))
    write(place.path, "a.ts", continued(commit))

    server.fail(9, "answer cut short")
    const run = await on("run", "a.ts", "--runs", "runs")
    expect(run.stderr.includes("error:") ? run.stderr : run.code).toBe(0)
    expect(server.disarm()).toBe(true)
    const release = join(artifacts(join(place.path, "runs"), "release")[0]!, "release")
    expect(JSON.parse(readFileSync(join(release, "release.json"), "utf8")).base).toEqual({
      ...{ name: "our-org/model", revision: commit, license: "MIT" },
    })
    const again = await on("run", "a.ts", "--runs", "runs")
    expect(again.stdout).toMatch(/nothing to do: \d+ steps were done before/)

    const here = await on("verify", release, "--replay", "--runs", "runs")
    expect(here.code === 0 ? "" : here.stdout + here.stderr).toBe("")
    expect(replayed(here.stdout)).toMatch(
      /^ok {2}training .*\nok {2}tail {2}trained again from step 4: 2 steps, .*to the last bit\nok {2}weights .*same bytes/,
    )

    const before = server.seen.length
    const elsewhere = await on("verify", release, "--replay", "--corpus", embedded, "--runs", "others")
    expect(elsewhere.code === 0 ? "" : elsewhere.stdout + elsewhere.stderr).toBe("")
    expect(replayed(elsewhere.stdout)).toBe(replayed(here.stdout))
    expect(server.seen.slice(before).some(({ place }) => place === "storage")).toBe(true)

    await server.stop()
    const alone = await on("verify", release, "--replay", "--corpus", embedded, "--runs", "third")
    expect(alone.code === 0 ? "" : alone.stdout + alone.stderr).toBe("")
    expect(
      replayed(alone.stdout)
        .replaceAll(commit, "<commit>")
        .replace(/[\w.]+:\d+ cannot/, "<hub> cannot"),
    ).toMatchInlineSnapshot(
      `"–  check  it could not be done here: pretrained our-org/model: hub: GET /api/models/our-org/model/tree/<commit>?<left out>: <hub> cannot be reached (ECONNREFUSED) (tried 6 times)"`,
    )
  })
})
