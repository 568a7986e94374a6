import { createHash, randomBytes } from "node:crypto"
import { appendFileSync, existsSync, readFileSync, statSync, truncateSync, utimesSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect, it } from "vitest"
import { fileSum } from "../../src/data/FileSum.ts"
import { temporaryFolder } from "../temporary.ts"

const sha256 = (bytes: Uint8Array): string => createHash("sha256").update(bytes).digest("hex")

/** Of 64 MB, nearly all of it a hole: from this size sums are kept. */
const large = (folder: string, name: string): string => {
  const path = join(folder, name)
  writeFileSync(path, randomBytes(1000))
  truncateSync(path, 1 << 26)
  return path
}

const WRONG = "0".repeat(64)
/** The line of a file as an earlier process kept it, with another sum: who believes it has not read the file. */
const lineOf = (path: string, sum = WRONG): string => {
  const { dev, ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true })
  const line = `${dev}:${ino}:${size}:${mtimeNs}:${ctimeNs} ${sum}`
  return `${line} ${sha256(Buffer.from(line)).slice(0, 16)}\n`
}

describe("the sum of a file", () => {
  it("is its sha256, whatever its size", async () => {
    const folder = temporaryFolder()
    for (const bytes of [0, 1, 1 << 20, 3_000_001]) {
      const path = join(folder, `${bytes}`)
      const content = randomBytes(bytes)
      writeFileSync(path, content)
      expect(await fileSum(path)).toBe(sha256(content))
    }
    await expect(fileSum(join(folder, "none"))).rejects.toThrow("ENOENT")
  })

  it("is told again of other bytes of the same length and time", async () => {
    const path = join(temporaryFolder(), "a")
    const then = new Date(2020, 1, 1)
    for (const content of ["one", "two", "six"].map((text) => Buffer.from(text))) {
      writeFileSync(path, content)
      utimesSync(path, then, then)
      expect(await fileSum(path)).toBe(sha256(content))
    }
  })

  it("of a large file is kept for the next process, which reads the file no more", async () => {
    const folder = temporaryFolder()
    const path = large(folder, "a")
    const kept = join(folder, "cache", "sums")
    const sum = await fileSum(path, { kept })
    expect(sum).toBe(sha256(readFileSync(path)))
    expect(readFileSync(kept, "utf8")).toBe(lineOf(path, sum))

    const other = large(folder, "b")
    const before = join(folder, "before")
    writeFileSync(before, lineOf(other))
    expect(await fileSum(other, { kept: before })).toBe(WRONG)
    // unless every byte is asked for, which mends the note too
    const real = sha256(readFileSync(other))
    expect(await fileSum(other, { kept: before, fresh: true })).toBe(real)
    expect(await fileSum(other, { kept: before })).toBe(real)
    expect(readFileSync(before, "utf8").split("\n")[1]).toContain(real)
  })

  it("is not believed where a kept line has rotted, nor of a file that was touched since", async () => {
    const folder = temporaryFolder()
    for (const [name, spoil] of [
      ["rotted", (line: string) => line.replace(WRONG, `1${WRONG.slice(1)}`)],
      ["torn", (line: string) => line.slice(0, 90)],
      ["strange", () => "\u0000 not a line\n"],
    ] as const) {
      const path = large(folder, name)
      const kept = join(folder, `${name}.sums`)
      writeFileSync(kept, spoil(lineOf(path)))
      expect(await fileSum(path, { kept })).toBe(sha256(readFileSync(path)))
    }
    const path = large(folder, "touched")
    const kept = join(folder, "touched.sums")
    writeFileSync(kept, lineOf(path))
    appendFileSync(path, "more")
    expect(await fileSum(path, { kept })).toBe(sha256(readFileSync(path)))
  })

  it("of a small file is kept nowhere, and one that cannot be kept is told all the same", async () => {
    const folder = temporaryFolder()
    const small = join(folder, "small")
    writeFileSync(small, "a")
    await fileSum(small, { kept: join(folder, "sums") })
    expect(existsSync(join(folder, "sums"))).toBe(false)
    const path = large(folder, "a")
    expect(await fileSum(path, { kept: join(small, "sums") })).toBe(sha256(readFileSync(path)))
  })
})
