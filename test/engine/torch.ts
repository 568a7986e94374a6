/** The Python that tests of the torch engine run in; where there is none, they say so. */
import { execFileSync } from "node:child_process"
import { packageFolder } from "../../src/engine/torch/Environment.ts"

export const program = process.env["EXP_TORCH_PYTHON"] ?? process.env["EXP_PYTHON"] ?? "python3"

/** Whether that Python imports these. */
export const can = (imports: string): boolean => {
  try {
    execFileSync(program, ["-s", "-c", `import ${imports}`], {
      env: { ...process.env, PYTHONPATH: packageFolder, PYTHONDONTWRITEBYTECODE: "1" },
      stdio: "ignore",
      timeout: 120_000,
    })
    return true
  } catch {
    return false
  }
}

/** Undefined where it cannot work. */
export const python: string | undefined = can("torch, numpy, exp_torch") ? program : undefined

/** How much the norm of a tensor that holds a key's bias may differ: see `keyBias` of `contract.ts`. */
export const KEY_BIAS = 2e-4

/** For the titles of tests that need it. */
export const skipped =
  python === undefined ? ` (skipped: \`${program}\` cannot import torch; set EXP_TORCH_PYTHON)` : ""
