import { readdirSync, readFileSync } from "node:fs"
import { join, resolve } from "node:path"
import { describe, expect, it } from "vitest"

const root = resolve(import.meta.dirname, "..")
const read = (path: string): string => readFileSync(join(root, path), "utf8")

describe("the README", () => {
  const readme = read("README.md")

  it("shows the hero as it is in the repository", () => {
    expect(readme).toContain(`\`\`\`ts\n${read("experiments/small-en-it.ts")}\`\`\``)
  })

  it("shows a hero that is read in a minute", () => {
    expect(read("experiments/small-en-it.ts").trimEnd().split("\n").length).toBeLessThan(35)
  })

  it("links only to what is there", () => {
    const missing = [...readme.matchAll(/\]\((?!https?:)([^)#]+)\)/g)]
      .map(([, target]) => target!)
      .filter((target) => !readdirSync(join(root, target, "..")).includes(target.split("/").at(-1)!))
    expect(missing).toEqual([])
  })

  it("names every command there is", () => {
    const main = read("src/main.ts")
    const commands = [...main.matchAll(/Command\.make\(\s*"([a-z]+)"/g)]
      .map(([, name]) => name!)
      .filter((name) => name !== "exp")
    expect(commands.length).toBeGreaterThan(4)
    for (const name of commands) expect(readme, name).toMatch(new RegExp(`\`exp (keys |setup )?${name}\\b`))
  })
})
