/** The library that the worker is compared with, in the same Python. */
import { spawnSync } from "node:child_process"
import { fileURLToPath } from "node:url"
import { assert } from "vitest"
import { can } from "../engine/torch.ts"
import { environment, python, runnable } from "./worker.ts"

/** Whether it is there. */
export const library = runnable && can("transformers")
export const titledBeside = (title: string): string =>
  library ? title : `${title} (skipped: \`${python}\` cannot import torch and transformers; set EXP_TORCH_PYTHON)`

/** What `transformers` makes of a task. */
export const peer = <A>(task: unknown): A => {
  const { status, stdout, stderr } = spawnSync(
    python,
    [fileURLToPath(new URL("transformers_peer.py", import.meta.url))],
    {
      env: environment(),
      input: JSON.stringify(task),
      encoding: "utf8",
      maxBuffer: 2 ** 30,
    },
  )
  assert.strictEqual(status, 0, stderr)
  return JSON.parse(stdout) as A
}
