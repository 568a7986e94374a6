import { createHash } from "node:crypto"
import { cpSync, readFileSync, truncateSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect } from "effect"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { writeSums } from "../../src/release/Sums.ts"
import { findingsOf, place, signedRelease, wrongIn } from "./world.ts"

const { path, remove } = place()
afterAll(remove)
let release: string
beforeAll(async () => {
  release = (await signedRelease(path)).release
}, 60_000)

const sha256 = (bytes: string | Buffer): string => createHash("sha256").update(bytes).digest("hex")

let copies = 0
const copy = (): string => {
  const folder = join(path, `copy-${++copies}`)
  cpSync(release, folder, { recursive: true })
  return folder
}

/** The file with other content, statement and sums made to fit: what a stranger would send. */
const sent = async (name: string, content: string | Buffer | ((text: string) => string)): Promise<string> => {
  const folder = copy()
  const file = join(folder, name)
  const before = readFileSync(file)
  const after = typeof content === "function" ? content(before.toString("utf8")) : content
  writeFileSync(file, after)
  const statement = join(folder, "provenance.json")
  if (file !== statement)
    writeFileSync(statement, readFileSync(statement, "utf8").replace(sha256(before), sha256(after)))
  await Effect.runPromise(writeSums(folder).pipe(Effect.provide(NodeServices.layer)))
  return folder
}

/** Looked through to the end, with something found, before long and in little memory. */
const endures = async (folder: string): Promise<string> => {
  const before = process.memoryUsage().rss
  const start = performance.now()
  const found = wrongIn(await findingsOf(folder))
  expect(performance.now() - start).toBeLessThan(60_000)
  expect(process.memoryUsage().rss - before).toBeLessThan(1.5e9)
  expect(found).not.toEqual([])
  return found.join("\n")
}

const payloads: ReadonlyArray<readonly [what: string, content: string | Buffer]> = [
  ["nothing", ""],
  ["brackets without an end", "[".repeat(200_000)],
  ["brackets with an end", "[".repeat(100_000) + "]".repeat(100_000)],
  ["objects in objects", `${'{"a":'.repeat(50_000)}1${"}".repeat(50_000)}`],
  ["no UTF-8", Buffer.from([0xff, 0xfe, 0x00, 0xd8])],
  ["a prototype", '{"__proto__":{"polluted":true},"constructor":{"prototype":{"polluted":true}}}'],
  ["numbers beyond numbers", '{"format":1e999,"step":-1e999}'],
]

describe("a release that a stranger made to harm", () => {
  for (const [what, content] of payloads)
    it(`is looked through to the end when a file holds ${what}`, async () => {
      for (const name of ["release.json", "provenance.json", "provenance.dsse.json", "metrics.jsonl", "tokenizer.json"])
        await endures(await sent(name, content))
      expect(({} as { polluted?: boolean }).polluted).toBeUndefined()
    }, 240_000)

  it("is not believed in its number of layers", async () => {
    const bomb = (text: string) => text.replace(/"layers": ?\d+/g, '"layers": 900000000')
    expect(await endures(await sent("training_config.json", bomb))).toMatch(/it says that it has 900000000 layers/)
    const state = readFileSync(join(release, "SHA256SUMS"), "utf8").match(/\S+-step_\d+\.json/)![0]
    expect(await endures(await sent(state, bomb))).toMatch(/it says that it has 900000000 layers/)
  }, 60_000)

  it("is not read into memory when a text of it is as long as weights", async () => {
    const folder = copy()
    truncateSync(join(folder, "prompts.json"), 3e8)
    const damaged = await endures(folder)
    expect(damaged).toMatch(/prompts\.json: has other bytes than SHA256SUMS says/)
    expect(damaged).not.toMatch(/no text of a release/)
    const long = await sent("prompts.json", Buffer.alloc(1 << 27, " "))
    expect(await endures(long)).toMatch(/prompts\.json has 134217728 bytes: no text of a release is so long/)
  }, 120_000)

  it("cannot lead a check out of its folder by the names it says", async () => {
    const folder = await sent("release.json", (text) =>
      text.replace(/"name": "[^"]*"/, '"name": "../../../etc/passwd"'),
    )
    expect(await endures(folder)).toMatch(/name and template may have letters, digits/)
    const sums = copy()
    writeFileSync(join(sums, "SHA256SUMS"), `${"0".repeat(64)}  ../../../../etc/passwd\n`)
    expect(await endures(sums)).toMatch(/etc\/passwd: is missing: SHA256SUMS names it/)
  }, 120_000)

  it("with weights that promise more than they hold is refused by their header", async () => {
    const header = Buffer.alloc(8)
    header.writeBigUInt64LE(2n ** 62n)
    expect(await endures(await sent("model.safetensors", header))).toMatch(
      /weights: model\.safetensors: not a safetensors file/,
    )
  }, 60_000)
})
