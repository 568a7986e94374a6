import { execFileSync } from "node:child_process"
import { writeFileSync } from "node:fs"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem } from "effect"
import { gatherProvenance, redact, redactDiff, redactRemote } from "../../src/release/Provenance.ts"
import { filesBelow } from "../../src/release/Sums.ts"
import { assembled } from "./assembled.ts"
import { provenance } from "./fixture.ts"

// Put together here, so that no scanner takes this file for a leak.
const CANARIES = [
  `hf_${"cAnaRy1234".repeat(3)}`,
  `ghp_${"cAnaRy1234".repeat(3)}`,
  `AKIA${"CANARY1234567890".slice(0, 16)}`,
  `sk-${"cAnaRy1234".repeat(3)}`,
  `xoxb-${"1234567890-canary"}`,
  `eyJ${"canary1234"}.eyJ${"canary1234"}.signature`,
  `Zm9v${"QmFyQ2FuYXJ5MTIz".repeat(3)}`,
]

const request = { started: "2026-11-21T10:00:00.000Z", finished: "2026-11-21T11:00:00.000Z", engine: provenance.engine }

describe("provenance", () => {
  it.effect("tells of a folder without git by a reason, not by a failure", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const found = yield* gatherProvenance({ ...request, repository: yield* fs.makeTempDirectoryScoped() })
      assert.isNull(found.git)
      assert.match(found.gitAbsent ?? "", /not a git repository/)
      assert.isNull(found.packageLockSha256)
      assert.isAbove(found.cores, 0)
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it.effect("lets no token into a release: not from the diff, a remote, a name, nor the environment", () =>
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const repository = yield* fs.makeTempDirectoryScoped()
      const git = (...words: ReadonlyArray<string>) =>
        execFileSync("git", ["-c", "user.name=t", "-c", "user.email=t@example.org", ...words], {
          cwd: repository,
          stdio: "pipe",
        })
      git("init", "-q", "-b", "main")
      writeFileSync(`${repository}/code.ts`, "export const a = 1\n")
      writeFileSync(`${repository}/.env`, "A=1\n")
      writeFileSync(`${repository}/package-lock.json`, "{}\n")
      git("add", ".")
      git("commit", "-q", "-m", "first")
      git("remote", "add", "origin", `https://me:${CANARIES[1]}@example.org/us/exp.git?key=${CANARIES[3]}`)
      writeFileSync(
        `${repository}/code.ts`,
        `export const a = 2\n${CANARIES.map((canary) => `// ${canary}\n`).join("")}const password = "hunter2canary"\n`,
      )
      writeFileSync(`${repository}/.env`, "PLAIN=plaincanary\n")
      writeFileSync(`${repository}/${CANARIES[0]}.txt`, CANARIES[0]!)

      const held = process.env["HF_TOKEN"]
      process.env["HF_TOKEN"] = `hf_${"environmentcanary".repeat(2)}`
      const found = yield* gatherProvenance({ ...request, repository }).pipe(
        Effect.ensuring(
          Effect.sync(() => {
            if (held === undefined) delete process.env["HF_TOKEN"]
            else process.env["HF_TOKEN"] = held
          }),
        ),
      )
      assert.isNull(found.gitAbsent)
      assert.strictEqual(found.git?.branch, "main")
      assert.isTrue(found.git?.dirty)
      assert.include(found.git?.diff, "+export const a = 2")
      assert.deepStrictEqual(found.git?.remotes, { origin: "https://example.org/us/exp.git" })
      assert.deepStrictEqual(found.git?.untracked, ["<redacted>.txt"])
      assert.match(found.packageLockSha256 ?? "", /^[0-9a-f]{64}$/)

      const out = yield* assembled({}, (input) => ({ ...input, provenance: found }))
      for (const file of yield* filesBelow(out)) {
        const text = Buffer.from(yield* fs.readFile(`${out}/${file}`)).toString("latin1")
        for (const canary of [...CANARIES, "hunter2canary", "plaincanary", "environmentcanary"])
          assert.notInclude(text, canary, file)
      }
    }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
  )

  it("takes out tokens and leaves code and digests", () => {
    for (const canary of CANARIES) assert.notInclude(redact(`before ${canary} after`), canary)
    const code = `const key = digest(step)\n+ "sha256": "${"0123456789abcdef".repeat(4)}"\n+ tokensSeen: 11520,\n`
    assert.strictEqual(redact(code), code)
  })

  it("leaves files out of a diff that exist to hold secrets", () => {
    const diff = "diff --git a/.env b/.env\n+A=plain\ndiff --git a/a.ts b/a.ts\n+const b = 1\n"
    assert.strictEqual(
      redactDiff(diff),
      "diff --git a/.env b/.env\n<left out: a file of this name may hold secrets>\ndiff --git a/a.ts b/a.ts\n+const b = 1\n",
    )
  })

  it("keeps where a remote is, and not who may go there", () => {
    assert.strictEqual(redactRemote("https://user:secret@example.org/a/b.git"), "https://example.org/a/b.git")
    assert.strictEqual(redactRemote("git@example.org:a/b.git"), "example.org:a/b.git")
    assert.strictEqual(redactRemote("ssh://git@example.org/a/b"), "ssh://example.org/a/b")
  })
})
