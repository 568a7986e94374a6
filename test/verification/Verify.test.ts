import { createHash } from "node:crypto"
import { cpSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect } from "effect"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { writeSums } from "../../src/release/Sums.ts"
import { checkArithmetic } from "../../src/verification/Arithmetic.ts"
import { checkCard } from "../../src/verification/Card.ts"
import type { Finding } from "../../src/verification/Finding.ts"
import { checkMeasurements } from "../../src/verification/Measurements.ts"
import { openRelease } from "../../src/verification/Release.ts"
import { artifacts, embedded, exp } from "../endToEnd/experiment.ts"
import { damageIn, filesIn, findingsOf, makeKey, place, realRelease, run, signWith, stateOf, wrongIn } from "./world.ts"

const { path, remove } = place()
afterAll(remove)
let made: Awaited<ReturnType<typeof realRelease>>
beforeAll(async () => {
  made = await realRelease(path)
}, 300_000)

let copies = 0
/** A copy that may be changed. */
const copy = (): string => {
  const folder = join(path, `copy-${++copies}`)
  cpSync(made.release, folder, { recursive: true })
  return folder
}

/** Changes a file, and writes the sums anew as whoever wants to deceive would. */
const deceive = async (name: string, change: (text: string) => string): Promise<string> => {
  const folder = copy()
  const text = readFileSync(join(folder, name), "utf8")
  const changed = change(text)
  expect(changed, name).not.toBe(text)
  writeFileSync(join(folder, name), changed)
  await run(writeSums(folder).pipe(Effect.provide(NodeServices.layer)))
  const statement = join(folder, "provenance.json")
  const sha256 = (bytes: string | Buffer) => createHash("sha256").update(bytes).digest("hex")
  writeFileSync(statement, readFileSync(statement, "utf8").replace(sha256(text), sha256(changed)))
  await run(writeSums(folder).pipe(Effect.provide(NodeServices.layer)))
  return folder
}

const offline = { store: "/nowhere" }

/** What the card and the arithmetic find, or the model itself. */
const said = (folder: string, measure: boolean): Promise<ReadonlyArray<Finding>> =>
  run(
    Effect.gen(function* () {
      const release = yield* openRelease(folder)
      const files = release.files!
      if (measure) return yield* checkMeasurements(release, files, { ...offline, corpus: undefined, say: () => {} })
      return [...(yield* checkCard(release)), ...(yield* checkArithmetic(release, files))]
    }).pipe(Effect.scoped),
  )

describe("a release as an experiment made it", () => {
  it("has nothing wrong, in the store that made it, measured and trained again to the last bit", async () => {
    const findings = await findingsOf(made.release, {
      store: made.store,
      replay: { fromNothing: () => Effect.succeed(undefined) },
    })
    expect(wrongIn(findings)).toEqual([])
    for (const check of ["hashes", "card", "arithmetic", "consistency", "weights", "measurements", "replay"])
      expect(stateOf(findings, check)["ok"], check).toBeGreaterThan(0)
    const said = findings.map(({ what, detail }) => `${what}: ${detail}`).join("\n")
    expect(said).toMatch(/losses of validation documents: \d+ documents of the store, pack-\w+: to the last bit/)
    expect(said).toMatch(/validation losses: \d+ figures: to the last bit/)
    expect(said).toMatch(/holdout losses: \d+ figures: to the last bit/)
    expect(said).toMatch(/probes: \d+ probes: ranks and probabilities to the last bit/)
    for (const set of ["benchmark", "tuning", "holdout"])
      expect(said).toMatch(new RegExp(`${set} samples: \\d+ texts, token by token the same`))
    expect(said).toMatch(/tail: trained again from step \d+: \d+ steps, losses and gradient norms to the last bit/)
    expect(said).toMatch(/weights: trained again they have the same bytes, sha256 [0-9a-f]{16}…/)
  }, 240_000)

  it("is checked without its store too: what is not in the folder is skipped, and says what it needs", async () => {
    const findings = await findingsOf(copy(), offline)
    expect(wrongIn(findings)).toEqual([])
    expect(findings.filter(({ state }) => state === "skipped").map(({ check, what }) => `${check}: ${what}`)).toEqual([
      "signature: provenance.dsse.json",
      "arithmetic: other figures",
      "measurements: losses",
      ...(stateOf(findings, "measurements")["skipped"] === 2 ? ["measurements: greedy texts of the training"] : []),
      "replay: all",
    ])
  }, 120_000)

  it("has its losses measured again on texts that somebody has, and not on others", async () => {
    const findings = await findingsOf(copy(), { ...offline, corpus: embedded })
    expect(wrongIn(findings)).toEqual([])
    for (const what of ["losses of validation documents", "losses of holdout documents"])
      expect(findings.find((one) => one.what === what)?.detail, what).toMatch(/documents of .*corpus: to the last bit/)
    for (const what of ["validation losses", "holdout losses"])
      expect(findings.find((one) => one.what === what)?.detail, what).toMatch(/figures: to the last bit/)
    const others = join(path, "others")
    cpSync(embedded, others, { recursive: true })
    writeFileSync(join(others, "wiki_en.jsonl"), `${readFileSync(join(others, "wiki_en.jsonl"), "utf8")}\n`)
    const beside = await findingsOf(copy(), { ...offline, corpus: others })
    expect(wrongIn(beside)).toEqual([])
    expect(beside.find(({ what }) => what === "losses")?.detail).toMatch(
      /wiki_en\.jsonl is not the file that the release/,
    )
  }, 240_000)
})

describe("a figure that was made better, with sums and statement written anew", () => {
  const cases: ReadonlyArray<readonly [what: string, file: string, change: (text: string) => string, check: RegExp]> = [
    [
      "a loss in the card",
      "README.md",
      (text) => text.replace(/(\d)\.(\d{4})\b/, (_, whole, rest) => `${whole}.${Number(rest) === 1 ? "0002" : "0001"}`),
      /^card: README\.md/m,
    ],
    [
      "the number of parameters",
      "training_config.json",
      (text) => text.replace(/"parameters": (\d+)/, (_, n) => `"parameters": ${Number(n) + 1}`),
      /^arithmetic: parameters: training_config\.json: \d+, not \d+/m,
    ],
    [
      "the tokens seen",
      "training_config.json",
      (text) => text.replace(/"tokens_seen": (\d+)/, (_, n) => `"tokens_seen": ${Number(n) * 2}`),
      /^arithmetic: tokens: tokens seen: \d+, not \d+/m,
    ],
    [
      "the loss of a document",
      "benchmark_scores.json",
      (text) => text.replace(/"nll": (\d+)\./, (_, n) => `"nll": ${Number(n) - 1}.`),
      /^arithmetic: sources: \w+: loss: /m,
    ],
    [
      "a mixed loss",
      "benchmark_metrics.json",
      (text) => text.replace(/("val_loss_mixed": \{\s*"value": )(\d+)/, (_, head, n) => `${head}${Number(n) - 1}`),
      /^arithmetic: mixed losses: validation: /m,
    ],
    [
      "a perplexity",
      "benchmark_source_losses.json",
      (text) => text.replace(/"perplexity": (\d)/, (_, n) => `"perplexity": ${(Number(n) % 9) + 1}`),
      /^arithmetic: perplexities: validation, \w+: /m,
    ],
    [
      "a probe",
      `probe`,
      (text) => text.replace(/"correct_token_probability": [\d.e-]+/, '"correct_token_probability": 0.5'),
      /^measurements: probes: /m,
    ],
    [
      "a sampled text",
      "holdout_generations.jsonl",
      (text) => text.replace(/"token_ids":\[(\d+)/, (_, id) => `"token_ids":[${Number(id) === 300 ? 301 : 300}`),
      /^measurements: holdout samples: /m,
    ],
  ]
  for (const [what, name, change, check] of cases)
    it(`is found: ${what}`, async () => {
      const file = name === "probe" ? filesIn(made.release).find((one) => /^probe_step/.test(one))! : name
      const folder = await deceive(file, change)
      // whoever deceives so well is not found by the bytes
      expect(await damageIn(folder)).toEqual([])
      expect(wrongIn(await said(folder, check.source.startsWith("^measurements"))).join("\n")).toMatch(check)
    }, 120_000)
})

describe("exp verify", () => {
  it("reads like a table, and its exit status says it all", async () => {
    const folder = copy()
    const XDG_CONFIG_HOME = join(path, "config")
    const env = { XDG_CONFIG_HOME, EXP_SIGNING_KEY: "" }
    const key = await exp(path, ["keys", "new", "--json"], env)
    expect(key.code).toBe(0)
    const { keyid, publicPath } = JSON.parse(key.stdout)
    const signed = await exp(path, ["sign", folder], env)
    expect(signed.stdout).toBe(
      `${folder}/provenance.dsse.json\nsigned by ${keyid}: whoever holds this key says that these bytes were made so (SLSA Build L1); it proves nothing about the machine\n`,
    )
    const fine = await exp(path, ["verify", folder, "--runs", "elsewhere", "--key", publicPath], env)
    expect(fine.stderr).toBe("")
    expect(fine.code).toBe(0)
    expect(fine.stdout).toMatch(/^check +what\nhashes +ok +SHA256SUMS +\d+ files, each with the bytes it names/)
    expect(fine.stdout).toMatch(new RegExp(`signature +ok +${keyid.slice(0, 16)} +signed by ${keyid}, a key you know`))
    expect(fine.stdout).toMatch(/\nsmallest: \d+ ok, 0 wrong, \d+ skipped\n$/)

    // somebody who does not know the key
    const stranger = await exp(path, ["verify", folder, "--runs", "elsewhere", "--json"], {
      ...env,
      XDG_CONFIG_HOME: path,
    })
    expect(stranger.code).toBe(0)
    const report = JSON.parse(stranger.stdout)
    expect(report.findings.find(({ check }: { check: string }) => check === "signature")).toMatchObject({
      state: "skipped",
      detail: expect.stringMatching(/^signed by [0-9a-f]{64}, which you do not know/),
    })
    // and somebody who asks for another's
    const other = await makeKey(path, "other")
    const asked = await exp(path, ["verify", folder, "--runs", "elsewhere", "--key", other.publicPath], env)
    expect(asked.code).toBe(1)
    expect(asked.stdout).toMatch(/signature +WRONG|WRONG +provenance\.dsse\.json +none of its signatures is of/)

    const bytes = readFileSync(join(folder, "model.safetensors"))
    bytes[bytes.length - 1]! ^= 1
    writeFileSync(join(folder, "model.safetensors"), bytes)
    const damaged = await exp(path, ["verify", folder, "--runs", "elsewhere"], env)
    expect(damaged.code).toBe(1)
    expect(damaged.stdout).toMatch(/WRONG +model\.safetensors +has other bytes than SHA256SUMS says/)
    expect(damaged.stdout).toMatch(/measurements +– +all +the bytes are not those that were released/)
    expect(damaged.stderr).toMatch(/^error: smallest: \d+ things are wrong\n {2}hint: do not use it/)
  }, 240_000)

  it("finds the release of a run by the run's name, and signs nothing in the store", async () => {
    const { stdout } = await exp(path, ["ls", "--runs", "runs", "--json"])
    const name = /\d{12}_smallest/.exec(stdout)![0]
    const verified = await exp(path, ["verify", name, "--runs", "runs"], { XDG_CONFIG_HOME: join(path, "none") })
    expect(verified.stderr).toBe("")
    expect(verified.code).toBe(0)
    const refused = await exp(path, ["sign", join(artifacts(made.runs, "release")[0]!, "release")])
    expect(refused.code).toBe(1)
    expect(refused.stderr).toMatch(
      /it lies in the store, where nothing is ever changed\n {2}hint: sign a copy: `cp -r /,
    )
  }, 240_000)

  it("ends with 2 when there is nothing it could check", async () => {
    for (const [target, problem] of [
      ["nothing-here", /no run is called|nothing-here/],
      [path, /it is no release: it has none of release\.json, SHA256SUMS, provenance\.json/],
    ] as const) {
      const { code, stderr } = await exp(path, ["verify", target, "--runs", "runs"])
      expect(stderr).toMatch(problem)
      expect(code).toBe(2)
    }
    const key = await exp(path, ["verify", made.release, "--key", join(path, "absent.pem")])
    expect(key.stderr).toMatch(/absent\.pem: there is no such file/)
    expect(key.code).toBe(2)
  }, 60_000)

  it("trains everything again from nothing, with the release's own experiment and somebody's copy of the texts", async () => {
    const folder = copy()
    expect(JSON.parse(readFileSync(join(folder, "release.json"), "utf8")).parameters).toEqual({ seed: 9 })
    await signWith(folder, await makeKey(path, "third"))
    const { code, stdout, stderr } = await exp(path, [
      "verify",
      folder,
      "--runs",
      "fresh",
      "--replay",
      "--corpus",
      embedded,
    ])
    expect(stderr).toBe("")
    expect(code).toBe(0)
    expect(stdout).toMatch(/replay +ok +training +\d+ steps, losses and gradient norms to the last bit/)
    expect(stdout).toMatch(
      /ok +tail +trained again from step \d+: \d+ steps, losses and gradient norms to the last bit/,
    )
    expect(stdout).toMatch(/ok +weights +trained again they have the same bytes/)
  }, 300_000)
})
