/** The checkpoint for PyTorch held against the release around it. `EXP_FAULT_BYTES=1000` flips some thousand bits. */
import { cpSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { stream } from "../../src/model/Random.ts"
import { torchFile } from "../../src/release/TorchFile.ts"
import { checkContents } from "../../src/verification/Contents.ts"
import type { Finding } from "../../src/verification/Finding.ts"
import { openRelease, type Release } from "../../src/verification/Release.ts"
import { checkTorchFile } from "../../src/verification/TorchFile.ts"
import { assembled } from "../release/assembled.ts"
import { readZip } from "../release/zip.ts"
import { findingsOf, place, run, wrongIn } from "./world.ts"

const ASKED = process.env["EXP_FAULT_BYTES"]
const ROUNDS = ASKED === undefined ? 2 : Math.ceil((ASKED === "all" ? 1000 : Number(ASKED)) / 100)
const FILE = "tiny-en-it-step_45.pt"

const { path, remove } = place()
afterAll(remove)
const release = join(path, "release")
const without = join(path, "without")
let bytes: Buffer
beforeAll(async () => {
  const made = (to: string, torchCheckpoint: boolean) =>
    Effect.scoped(
      Effect.map(
        assembled({}, (input) => ({ ...input, torchCheckpoint })),
        (made) => cpSync(made, to, { recursive: true }),
      ),
    )
  await run(made(release, true))
  await run(made(without, false))
  bytes = readFileSync(join(release, FILE))
}, 60_000)

const checked = (folder: string) =>
  run(Effect.scoped(Effect.flatMap(openRelease(folder), (release) => checkTorchFile(release, release.files!))))

const told = (findings: ReadonlyArray<Finding>): ReadonlyArray<string> =>
  wrongIn(findings).map((line) => line.replace(`weights: ${FILE}: `, ""))

/** What is wrong with these bytes in the place of the release's. */
const wrongWith = async (changed: Buffer): Promise<ReadonlyArray<string>> => {
  writeFileSync(join(release, FILE), changed)
  try {
    return told(await checked(release))
  } finally {
    writeFileSync(join(release, FILE), bytes)
  }
}

describe("a checkpoint for PyTorch", () => {
  it("is made again from the release, byte for byte", async () => {
    expect(await checked(release)).toEqual([
      {
        check: "weights",
        what: FILE,
        state: "ok",
        detail: "made again from weights, configuration and state, byte for byte",
      },
    ])
  })

  it("is looked at by whoever verifies a release, and where it is wrong the model is not loaded", async () => {
    const changed = Buffer.from(bytes)
    changed[bytes.length >> 1]! ^= 1
    writeFileSync(join(release, FILE), changed)
    try {
      const findings = await findingsOf(release)
      const of = (check: string, what: string) => findings.filter((one) => one.check === check && one.what === what)
      expect(of("hashes", FILE).map(({ state }) => state)).toContain("wrong")
      expect(of("weights", FILE)).toHaveLength(1)
      expect(of("weights", FILE)[0]!.detail).toMatch(/first at byte \d+ of the file$/)
      expect(of("measurements", "all")[0]!.detail).toBe("the bytes are not those that were released")
    } finally {
      writeFileSync(join(release, FILE), bytes)
    }
  })

  it("is found to be another by one flipped bit, wherever it is: content, header, padding, sum, list", async () => {
    const records = readZip(bytes)
    const starts = [0, ...records.map(({ offset }) => offset), ...records.map((one) => one.offset + one.bytes.length)]
    const edges = [...new Set([...starts, bytes.length])].sort((a, b) => a - b)
    const random = stream(20_261_122, "flips in pt")
    let drawn = 0
    const flip = Effect.fnUntraced(function* (opened: Release, from: number, to: number) {
      const at = from + Math.floor(random.uniform(drawn++) * (to - from))
      const changed = Buffer.from(bytes)
      changed[at]! ^= 1 << (random.word(drawn++) % 8)
      writeFileSync(join(release, FILE), changed)
      const found = told(yield* checkTorchFile(opened, opened.files!))
      expect(found, `byte ${at}`).toHaveLength(1)
      expect(found[0]).toMatch(new RegExp(`^\`.+\` is not what the release gives, first at byte ${at} of the file$`))
    })
    const all = Effect.gen(function* () {
      const opened = yield* openRelease(release)
      for (let round = 0; round < ROUNDS; round++)
        for (const [i, from] of edges.slice(0, -1).entries()) yield* flip(opened, from, edges[i + 1]!)
    })
    try {
      await run(Effect.scoped(all))
    } finally {
      writeFileSync(join(release, FILE), bytes)
    }
  }, 600_000)

  it("is named by the tensors that differ, or by what stands beside them", async () => {
    const stranger = Array.from(
      torchFile(FILE.slice(0, -3), { format: 1 }, () => {}),
      ({ bytes }) => Buffer.from(bytes),
    )
    expect((await wrongWith(Buffer.concat(stranger)))[0]).toMatch(/^`data\.pkl` is not what/)
    const embedding = readZip(bytes).find(({ name }) => name.endsWith("/data/0"))!
    const changed = Buffer.from(bytes)
    changed.writeFloatLE(3.5, embedding.offset + 400)
    expect(await wrongWith(changed)).toEqual([
      `\`transformer.wte.weight\` is not what the release gives, first at byte ${embedding.offset + 400} of the file`,
    ])
  })

  it("is refused when its pickle calls something else, however well it fits", async () => {
    const harmless = "ctorch._utils\n_rebuild_tensor_v2\n"
    const at = bytes.indexOf(harmless)
    const changed = Buffer.from(bytes)
    changed.write("cposix\nsystem\n", at)
    expect((await wrongWith(changed))[0]).toBe(
      `\`data.pkl\` is not what the release gives, first at byte ${at + 1} of the file`,
    )
  })

  it("is refused when it is longer, cut short, empty, or gone", async () => {
    const [longer] = await wrongWith(Buffer.concat([bytes, Buffer.from("PK")]))
    expect(longer).toBe(`it has ${bytes.length + 2} bytes, and follows with ${bytes.length}`)
    expect(await wrongWith(bytes.subarray(0, bytes.length - 1))).toEqual([
      `\`directory\` is not what the release gives, first at byte ${bytes.length - 1} of the file`,
      `it has ${bytes.length - 1} bytes, and follows with ${bytes.length}`,
    ])
    expect((await wrongWith(Buffer.alloc(0))).at(-1)).toBe("and 31 others")
    rmSync(join(release, FILE))
    expect(wrongIn(await checked(release))).toEqual([
      `weights: ${FILE}: is missing: release.json says that it is there`,
    ])
    writeFileSync(join(release, FILE), bytes)
  })

  it("is a stranger in a release that says it has none", async () => {
    const strangers = async (folder: string) =>
      wrongIn(
        await run(
          Effect.scoped(Effect.flatMap(openRelease(folder), (release) => checkContents(release, release.files!))),
        ),
      ).filter((line) => line.includes("no release of"))
    expect(await strangers(release)).toEqual([])
    expect(await strangers(without)).toEqual([])
    writeFileSync(join(without, FILE), bytes)
    expect(await strangers(without)).toEqual([`consistency: ${FILE}: no release of \`exp\` has a file of this name`])
  })
})
