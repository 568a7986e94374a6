import { readFileSync, writeFileSync } from "node:fs"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { decodeStatement } from "../../src/release/Provenance.ts"
import { assembled } from "./assembled.ts"

const COMMIT = "0123456789abcdef0123456789abcdef01234567"

/** The same release, its first two sources brought from the hub. */
const fromTheHub = (datasets: ReadonlyArray<string>) =>
  assembled({}, (input) => {
    const path = `${input.artifacts.corpus}/inventory.json`
    const inventory = JSON.parse(readFileSync(path, "utf8"))
    for (const [index, repository] of ["our-org/wiki", "our-org/wiki"].entries())
      inventory.sources[index].dataset = {
        repository,
        commit: COMMIT,
        files: [{ path: `${index}.parquet`, bytes: 7, sha256: "f".repeat(64) }],
      }
    writeFileSync(path, JSON.stringify(inventory))
    return { ...input, datasets }
  })

describe("a release of texts that came from data sets of the hub", () => {
  it.effect("names them in the card, in NOTICE and in the statement, with their commits", () =>
    Effect.gen(function* () {
      const out = yield* fromTheHub(["google/wiki40b"])
      const text = (name: string) => readFileSync(`${out}/${name}`, "utf8")
      assert.deepStrictEqual(JSON.parse(text("release.json")).datasets, ["google/wiki40b", "our-org/wiki"])
      assert.match(text("README.md"), /^datasets:\n {2}- "?google\/wiki40b"?\n {2}- "?our-org\/wiki"?$/m)
      assert.include(text("NOTICE"), `  data set: our-org/wiki at ${COMMIT}, 1 of its files\n`)
      assert.strictEqual(JSON.parse(text("corpus_inventory.json")).sources[1].dataset.files[0].path, "1.parquet")
      const statement = yield* decodeStatement(text("provenance.json"))
      assert.deepStrictEqual(
        statement.predicate.buildDefinition.resolvedDependencies?.find(({ name }) => name === "datasets/wiki-it"),
        {
          name: "datasets/wiki-it",
          uri: "git+https://huggingface.co/datasets/our-org/wiki",
          digest: { gitCommit: COMMIT },
        },
      )
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )
})
