import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "vitest"
import { exp } from "../cli/command.ts"
import { temporaryFolder } from "../temporary.ts"

const canary = "hf_canaryCanaryCanary0123456789abcdef"

const withEnvironment = async <A>(values: Readonly<Record<string, string>>, use: () => Promise<A>): Promise<A> => {
  const before = { ...process.env }
  Object.assign(process.env, values)
  try {
    return await use()
  } finally {
    process.env = before
  }
}

describe("exp doctor", () => {
  it("says what there is, and for what is missing what to do, and never what the token is", async () => {
    const folder = temporaryFolder()
    const { code, out, err } = await withEnvironment({ HF_TOKEN: canary, EXP_PYTHON: "/no/such/python" }, () =>
      exp(folder, "doctor"),
    )
    assert.strictEqual(code, 0)
    assert.notInclude(out + err, canary)
    assert.match(out, /^ok +Node +\d+\.\d+/m)
    assert.match(out, /^ok +engine tfjs.* +.*\d+ workers, \d+ GFLOP\/s/m)
    assert.match(out, /^– +Python +`\/no\/such\/python` does not answer\n +hint: /m)
    assert.match(out, /^ok +HF token +present in HF_TOKEN$/m)
    assert.match(out, /^ok +disk +.*free/m)
  })

  it("says of an engine that does not start what it said last, and what to do", async () => {
    const folder = temporaryFolder()
    const python = join(folder, "python")
    writeFileSync(python, '#!/bin/sh\necho "there is no torch here" >&2\nexit 1\n', { mode: 0o755 })
    const { code, out } = await withEnvironment({ EXP_TORCH_PYTHON: python }, () => exp(folder, "doctor"))
    assert.strictEqual(code, 0)
    assert.match(
      out,
      /^! +engine torch +starting: the worker ended with exit code 1: there is no torch here\n {2}hint: \S/m,
    )
  })

  it("says it to machines as one JSON list", async () => {
    const folder = temporaryFolder()
    const { code, out } = await withEnvironment({ HF_TOKEN: canary }, () => exp(folder, "doctor", "--json"))
    assert.strictEqual(code, 0)
    assert.notInclude(out, canary)
    const findings = JSON.parse(out) as ReadonlyArray<{ what: string; state: string; hint?: string }>
    for (const { what, state, hint } of findings)
      if (state !== "ok") assert.isString(hint, `${what} is ${state}: what to do?`)
  })
})
