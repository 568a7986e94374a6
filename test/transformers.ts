/** Python with the library that releases are read by, where it is. */
import { spawnSync } from "node:child_process"
import { it } from "@effect/vitest"

export const program = process.env["EXP_PYTHON"] ?? "python3"

/** What a test's title says where it is not done. */
export const skipped =
  spawnSync(program, ["-c", "import torch, transformers"]).status === 0
    ? ""
    : ` (skipped: \`${program}\` cannot import torch and transformers; set EXP_PYTHON)`

export const withTransformers = skipped === "" ? it.live : it.live.skip
