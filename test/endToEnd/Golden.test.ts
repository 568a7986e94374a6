import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { digest } from "../../src/model/Digest.ts"
import { artifacts, exp, root, smallest, temporaryFolder, write } from "./experiment.ts"

const place = temporaryFolder()
afterAll(() => place.remove())

const golden = join(root, "test/golden/steps.json")
/** Whether relaxed SIMD fuses multiply and add here; where that cannot be told it most likely does. */
const fuses =
  process.arch !== "x64" || !existsSync("/proc/cpuinfo") || /\bfma\b/.test(readFileSync("/proc/cpuinfo", "utf8"))
const COMPUTED = ["train", "decay", "benchmark", "select", "sweep"]
const KINDS = ["corpus", "tokenizer", "pack", ...(fuses ? COMPUTED : [])]

interface ManifestFile {
  readonly version: number
  readonly key: string
  readonly files: ReadonlyArray<{ readonly path: string; readonly sha256: string }>
}

/**
 * The version of a step kind is part of every key, and people raise it by hand. This test is what reminds them: it knows which bytes
 * each version made. Processors that do not fuse multiply and add compute other bits, so there only what does not compute is held.
 */
describe("a step kind whose bytes change", () => {
  it("has a new version", async () => {
    write(place.path, "smallest.ts", smallest())
    const { code, stderr } = await exp(place.path, ["run", "smallest.ts"])
    expect(stderr).toBe("")
    expect(code).toBe(0)
    const made = Object.fromEntries(
      KINDS.map((kind) => {
        const manifests: ReadonlyArray<ManifestFile> = artifacts(join(place.path, "runs"), kind).map((path) =>
          JSON.parse(readFileSync(join(path, "manifest.json"), "utf8")),
        )
        const bytes = manifests.map(({ key, files }) => [key, files.map(({ path, sha256 }) => [path, sha256])])
        return [kind, { version: manifests[0]!.version, bytes: digest(bytes) }]
      }),
    )
    if (process.env["EXP_GOLDEN"] === "write") writeFileSync(golden, `${JSON.stringify(made, null, 2)}\n`)
    const known = existsSync(golden) ? JSON.parse(readFileSync(golden, "utf8")) : {}
    for (const kind of KINDS)
      expect(
        made[kind],
        `\`${kind}\` makes other bytes than its version ${known[kind]?.version} did\n  hint: raise the version in src/steps/, or find what changed them by mistake; then EXP_GOLDEN=write npx vitest run test/endToEnd/Golden`,
      ).toEqual(known[kind])
  }, 240_000)
})
