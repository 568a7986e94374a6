/** The smallest folder that is a release: eight files, so that a test can publish it a thousand times. */
import { createHash } from "node:crypto"
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { statementOf } from "../../src/release/Provenance.ts"
import { provenance } from "../release/fixture.ts"

const sha256 = (content: string | Buffer): string => createHash("sha256").update(content).digest("hex")

/** Bytes that look like weights, the same for the same seed. */
const weights = (seed: string, size: number): Buffer =>
  Buffer.concat(
    Array.from({ length: Math.ceil(size / 32) }, (_, n) => createHash("sha256").update(`${seed}${n}`).digest()),
  ).subarray(0, size)

export const cardOf = (matter: Readonly<Record<string, unknown>> = {}): string => {
  const data = {
    license: "cc0-1.0",
    language: ["en", "it"],
    library_name: "transformers",
    pipeline_tag: "text-generation",
    "model-index": [
      {
        name: "tiny",
        results: [
          {
            task: { type: "text-generation" },
            dataset: { type: "tiny-validation", name: "validation" },
            metrics: [
              { type: "val_loss_mixed", value: 5.25 },
              { type: "val_loss_en", value: 5.125 },
            ],
          },
          {
            task: { type: "text-generation" },
            dataset: { type: "tiny-holdout", name: "holdout" },
            metrics: [{ type: "val_loss_mixed", value: 5.5 }],
          },
        ],
      },
    ],
    ...matter,
  }
  return `---\n${Object.entries(data)
    .map(([name, value]) => `${name}: ${JSON.stringify(value)}\n`)
    .join("")}---\n\n# tiny\n`
}

export const files = (
  version = "1",
  matter: Readonly<Record<string, unknown>> = {},
): Readonly<Record<string, string | Buffer>> => ({
  "README.md": cardOf(matter),
  "release.json": '{"name":"tiny"}\n',
  "benchmark_metrics.json": '{"metrics":{"val_loss_mixed":{"value":5.25},"val_loss_en":{"value":5.125}}}\n',
  "holdout.json": '{"metrics":{"val_loss_mixed":{"value":5.5}}}\n',
  "reports/benchmark report #1 100%.md": `version ${version}\n`,
  [`tiny-step_${version}.json`]: `{"step":${version}}\n`,
  "model.safetensors": weights(version, 3000),
})

export const write = (folder: string, content: Readonly<Record<string, string | Buffer>>): string => {
  rmSync(folder, { recursive: true, force: true })
  for (const [path, bytes] of Object.entries(content)) {
    mkdirSync(join(folder, path, ".."), { recursive: true })
    writeFileSync(join(folder, path), bytes)
  }
  return sum(folder)
}

/** Writes `SHA256SUMS` of whatever lies there. */
export const sum = (folder: string): string => {
  const paths = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name !== "SHA256SUMS")
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
    .sort()
  writeFileSync(
    join(folder, "SHA256SUMS"),
    paths.map((path) => `${sha256(readFileSync(join(folder, path)))}  ${path}\n`).join(""),
  )
  return folder
}

export const small = (folder: string, version = "1", matter: Readonly<Record<string, unknown>> = {}): string =>
  write(folder, files(version, matter))

/** The same with a statement over its files. */
export const stated = (folder: string, version = "1"): string => {
  small(folder, version)
  const paths = readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && entry.name !== "SHA256SUMS")
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1))
  const statement = statementOf({
    subjects: paths.map((name) => ({ name, sha256: sha256(readFileSync(join(folder, name))) })),
    experiment: "tiny",
    experimentSha256: "1".repeat(64),
    parameters: { version },
    keys: {},
    texts: [],
    provenance,
  })
  writeFileSync(join(folder, "provenance.json"), `${JSON.stringify(statement)}\n`)
  return sum(folder)
}
