import { createHash } from "node:crypto"
import { readFileSync } from "node:fs"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Schema } from "effect"
import { decodeStatement, ResourceDescriptor, statementOf } from "../../src/release/Provenance.ts"
import { filesBelow } from "../../src/release/Sums.ts"
import { assembled } from "./assembled.ts"
import { provenance } from "./fixture.ts"

const parts = {
  subjects: [{ name: "README.md", sha256: "0".repeat(64) }],
  experiment: "small",
  experimentSha256: "1".repeat(64),
  parameters: { seed: 9 },
  keys: { train: "2".repeat(64) },
  texts: [{ source: "web_en", sha256: "3".repeat(64) }],
  provenance,
}

type Tree = { [key: string]: unknown }

/** Paths of all members of a JSON value. */
const pathsOf = (value: unknown, at: ReadonlyArray<string> = []): ReadonlyArray<ReadonlyArray<string>> =>
  typeof value !== "object" || value === null
    ? []
    : Object.entries(value).flatMap(([key, inner]) => [[...at, key], ...pathsOf(inner, [...at, key])])

const without = (value: unknown, path: ReadonlyArray<string>): string => {
  const copy = structuredClone(value) as Tree
  const parent = path.slice(0, -1).reduce<Tree>((inner, key) => inner[key] as Tree, copy)
  if (Array.isArray(parent)) parent.splice(Number(path.at(-1)), 1)
  else delete parent[path.at(-1)!]
  return JSON.stringify(copy)
}

const accepted = (text: string) => Effect.map(Effect.exit(decodeStatement(text)), Exit.isSuccess)

describe("the statement of a release", () => {
  it.effect("is an in-toto statement with SLSA provenance, over every file but the sums and itself", () =>
    Effect.gen(function* () {
      const parameters = { seed: 9, corpus: "texts/tiny" }
      const out = yield* assembled({}, (input) => ({ ...input, experiment: { ...input.experiment, parameters } }))
      const statement = yield* decodeStatement(readFileSync(`${out}/provenance.json`, "utf8"))
      const expected = (yield* filesBelow(out)).filter((name) => !["provenance.json", "SHA256SUMS"].includes(name))
      assert.deepStrictEqual(
        statement.subject.map(({ name }) => name),
        expected,
      )
      for (const { name, digest } of statement.subject)
        assert.strictEqual(
          digest.sha256,
          createHash("sha256")
            .update(readFileSync(`${out}/${name}`))
            .digest("hex"),
        )
      const { buildDefinition, runDetails } = statement.predicate
      assert.strictEqual(buildDefinition.externalParameters["file"], "experiment.ts")
      assert.deepStrictEqual(buildDefinition.externalParameters["parameters"], parameters)
      assert.deepStrictEqual(JSON.parse(readFileSync(`${out}/release.json`, "utf8")).parameters, parameters)
      const inventory = JSON.parse(readFileSync(`${out}/corpus_inventory.json`, "utf8"))
      for (const { source, sha256 } of inventory.sources)
        assert.deepEqual(buildDefinition.resolvedDependencies?.find(({ name }) => name === `texts/${source}`)?.digest, {
          sha256,
        })
      assert.match(runDetails.builder.id, /^urn:exp:engine:/)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("is refused with any field more, and without any field that the standards or we ask for", () =>
    Effect.gen(function* () {
      const statement = statementOf(parts)
      assert.isTrue(yield* accepted(JSON.stringify(statement)))
      const optional: Array<string> = []
      for (const path of pathsOf(statement)) {
        if (yield* accepted(without(statement, path))) optional.push(path.join("."))
        if (typeof path.reduce<unknown>((inner, key) => (inner as Tree)[key], statement) !== "object") continue
        const more = structuredClone(statement) as unknown as Tree
        const inner = path.reduce((value: Tree, key) => value[key] as Tree, more)
        const open = /(?:externalParameters|internalParameters|parameters|keys|digest|version|remotes)$/.test(
          path.join("."),
        )
        if (inner === null || Array.isArray(inner) || open) continue
        inner["surprise"] = 1
        assert.isFalse(yield* accepted(JSON.stringify(more)), `surprise in ${path.join(".")}`)
      }
      const needed = pathsOf(statement)
        .map((path) => path.join("."))
        .filter((path) => !optional.includes(path))
      assert.includeMembers(needed, [
        "_type",
        "subject",
        "subject.0",
        "subject.0.name",
        "subject.0.digest",
        "subject.0.digest.sha256",
        "predicateType",
        "predicate",
        "predicate.buildDefinition",
        "predicate.buildDefinition.buildType",
        "predicate.buildDefinition.externalParameters",
        // without an address a dependency needs its digest
        "predicate.buildDefinition.resolvedDependencies.1.digest",
        "predicate.buildDefinition.resolvedDependencies.1.digest.sha256",
        "predicate.runDetails",
        "predicate.runDetails.builder",
        "predicate.runDetails.builder.id",
        "predicate.exp_run",
        "predicate.exp_run.engine.numerics",
      ])
      assert.includeMembers(optional, [
        "predicate.buildDefinition.internalParameters",
        "predicate.buildDefinition.resolvedDependencies",
        "predicate.buildDefinition.resolvedDependencies.0.name",
        "predicate.runDetails.builder.version",
        "predicate.runDetails.metadata",
        "predicate.runDetails.metadata.startedOn",
      ])
    }),
  )

  it.effect("is refused with a value that is not of its kind", () =>
    Effect.gen(function* () {
      const text = JSON.stringify(statementOf(parts))
      for (const [from, to] of [
        ["https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"],
        ["https://slsa.dev/provenance/v1", "https://slsa.dev/provenance/v0.2"],
        ["0".repeat(64), "0".repeat(63)],
        ["0".repeat(64), "A".repeat(64)],
        [provenance.started, "yesterday"],
        ["urn:exp:release:1", "release"],
      ] as const) {
        assert.isTrue(text.includes(from), from)
        assert.isFalse(yield* accepted(text.replace(from, to)), `${from} → ${to}`)
      }
      const twice = statementOf({ ...parts, subjects: [...parts.subjects, ...parts.subjects] })
      assert.isFalse(yield* accepted(JSON.stringify(twice)))
    }),
  )

  it("describes a resource by its address, its digest or its content, and not by a name alone", () => {
    const accepts = Schema.is(ResourceDescriptor)
    assert.isTrue(accepts({ uri: "git+https://example.org/us/exp" }))
    assert.isTrue(accepts({ digest: { gitCommit: "ab".repeat(20) } }))
    assert.isFalse(accepts({ name: "code" }))
    assert.isFalse(accepts({ name: "code", digest: {} }))
    assert.isFalse(accepts({ uri: "example.org/us/exp" }))
  })

  it("names a repository by an address that others can use, or by none", () => {
    const uriOf = (origin: string) => {
      const git = { ...provenance.git!, remotes: { origin } }
      return statementOf({ ...parts, provenance: { ...provenance, git } }).predicate.buildDefinition
        .resolvedDependencies![0]!.uri
    }
    assert.strictEqual(uriOf("https://example.org/us/exp.git"), "git+https://example.org/us/exp.git")
    assert.strictEqual(uriOf("ssh://example.org/us/exp.git"), "git+ssh://example.org/us/exp.git")
    assert.strictEqual(uriOf("example.org:us/exp.git"), "git+ssh://git@example.org/us/exp.git")
    assert.isUndefined(uriOf("/srv/exp"))
    assert.isUndefined(uriOf("../exp"))
    assert.isUndefined(uriOf("C:\\exp"))
  })
})
