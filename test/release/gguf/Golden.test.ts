import { createHash } from "node:crypto"
import { existsSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { type FileType, fileTypes } from "../../../src/model/GgufType.ts"
import { ENCODING } from "../../../src/release/gguf/BlockTypes.ts"
import { importanceOf } from "../../../src/release/gguf/Importance.ts"
import { convert } from "../../../src/release/gguf/Writer.ts"
import { quantise } from "../../../src/steps/Quantise.ts"
import { temporaryFolder } from "../../temporary.ts"
import { randomModel } from "./model.ts"

const golden = new URL("../../golden/gguf_files.json", import.meta.url)

/** Nothing here depends on engine or processor: whoever changes a search or a key changes these sums, and raises the version. */
describe("a GGUF file whose bytes change", () => {
  it.live(
    "has a new version of `quantise`, and says by another encoding that it cannot be made again by what came before",
    () =>
      Effect.gen(function* () {
        const folder = temporaryFolder()
        const { request } = yield* randomModel(folder, { layers: 1, width: 256, heads: 4, context: 16 })
        const sums = Float64Array.from({ length: 256 }, (_, column) => 1 + (column % 7) ** 2)
        const columns = new Map(
          ["attn_qkv", "attn_output", "ffn_up"].map((name) => [`blk.0.${name}.weight`, importanceOf(sums)] as const),
        )
        const importance = { columns, dataset: "a test", rows: 1 }
        const made: Record<string, string> = {}
        const to = join(folder, "a.gguf")
        for (const type of Object.keys(fileTypes) as ReadonlyArray<FileType>) {
          yield* convert({ ...request, type, importance, to })
          made[type] = createHash("sha256").update(readFileSync(to)).digest("hex")
        }
        const { version } = quantise.definition
        const found = { version, encoding: ENCODING, sha256: made }
        if (process.env["EXP_GOLDEN"] === "write") writeFileSync(golden, `${JSON.stringify(found, null, 2)}\n`)
        const known = existsSync(golden) ? JSON.parse(readFileSync(golden, "utf8")) : {}
        assert.deepStrictEqual(
          found,
          known,
          "files of other bytes\n  hint: raise the version in src/steps/Quantise.ts, and ENCODING where blocks changed, or find what changed them by mistake; then EXP_GOLDEN=write npx vitest run test/release/gguf/Golden",
        )
      }),
  )
})
