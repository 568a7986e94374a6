import { spawn, spawnSync } from "node:child_process"
import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect } from "effect"
import { assert, describe, it } from "vitest"
import { assembled } from "../release/assembled.ts"
import { temporaryFolder } from "../temporary.ts"
import { CANARY, publishing, run, startHub } from "./world.ts"

const python = process.env["EXP_PYTHON"] ?? "python3"
const importable = spawnSync(python, ["-c", "import torch, transformers, huggingface_hub"]).status === 0
const script = join(import.meta.dirname, "../python/load_from_hub.py")

describe("huggingface_hub and transformers", () => {
  it.skipIf(!importable)(
    `download, check, load and generate from what was published, by its name alone${importable ? "" : ` (skipped: \`${python}\` cannot import torch, transformers and huggingface_hub; set EXP_PYTHON)`}`,
    async () => {
      const server = await startHub({ multipartFrom: 20_000, partSize: 10_000 })
      const { receipt } = await Effect.runPromise(
        Effect.gen(function* () {
          const folder = yield* assembled()
          return yield* Effect.promise(() => run(server, publishing(folder, { to: "our-org/tiny-it", private: true })))
        }).pipe(Effect.scoped, Effect.provide(NodeServices.layer)),
      )
      const said = await new Promise<{ readonly code: number | null; readonly out: string; readonly err: string }>(
        (resolve) => {
          const child = spawn(python, [script, "our-org/tiny-it"], {
            env: {
              PATH: process.env["PATH"],
              HF_HOME: temporaryFolder(),
              HF_ENDPOINT: server.endpoint,
              HF_TOKEN: CANARY,
              HF_HUB_DISABLE_XET: "1",
              HF_HUB_DISABLE_TELEMETRY: "1",
            },
          })
          let out = ""
          let err = ""
          child.stdout.on("data", (chunk) => {
            out += chunk
          })
          child.stderr.on("data", (chunk) => {
            err += chunk
          })
          child.on("close", (code) => resolve({ code, out, err }))
        },
      )
      assert.strictEqual(said.code, 0, said.err)
      const found = JSON.parse(said.out.trim().split("\n").at(-1)!)
      assert.deepStrictEqual(found.wrong, [])
      assert.strictEqual(found.files, receipt.files.length - 1)
      assert.strictEqual(found.revision, receipt.revision)
      assert.isAbove(found.parameters, 1000)
      assert.isAbove(found.new_tokens, 0)
      assert.isTrue(found.checkpoint_is_model)
      assert.includeMembers(found.large, [
        "model.safetensors",
        "tiny-en-it-step_45.pt",
        "tiny-en-it-step_45.safetensors",
      ])
      assert.isTrue(found.private)
      assert.deepStrictEqual(found.tags, { [receipt.tag]: receipt.revision })
      assert.deepStrictEqual(found.pull_requests, ["merged"])
      assert.deepStrictEqual(server.violations, [])
    },
    300_000,
  )
})
