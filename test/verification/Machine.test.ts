import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { Effect, Layer } from "effect"
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from "vitest"
import type { Finding } from "../../src/verification/Finding.ts"
import { embedded, exp } from "../endToEnd/experiment.ts"

const { breaking } = await vi.hoisted(() => import("./breaking.ts"))
const { Engine, EngineFailed } = await import("../../src/engine/Engine.ts")
const { verify } = await import("../../src/verification/Verify.ts")
const { options, ownTemporary, place, realRelease, run, stateOf, wrongIn } = await import("./world.ts")

/** `EXP_FAULT_OPERATIONS=all` fails each operation on a file in turn, in one of these ways (half an hour); else some of them. */
const ASKED = process.env["EXP_FAULT_OPERATIONS"]
const SOME = 18
const CODES = ["ENOSPC", "EMFILE", "EIO", "EACCES", "ENOMEM"]

const { path, remove } = place()
const temporary = ownTemporary(path)
afterAll(remove)
let release: string
beforeAll(async () => {
  release = (await realRelease(path)).release
}, 300_000)
afterEach(() => {
  breaking.at = 0
})

const keep = { ...options, corpus: embedded }

/** What is found, or why nothing could be. */
const outcome = () =>
  run(
    verify(release, keep).pipe(
      Effect.match({
        onSuccess: ({ findings }) => ({ findings, refused: undefined }),
        onFailure: (error) => ({ findings: [] as ReadonlyArray<Finding>, refused: error.message }),
      }),
    ),
  )

/** The same, with the n-th operation on a file of the release, or on one of our own, failing. */
const broken = async (at: number, code: string) => {
  const inside = [release, join(temporary, "exp-verify-")]
  Object.assign(breaking, { inside, count: 0, at, code, failed: undefined })
  const found = await outcome()
  breaking.at = 0
  return { ...found, operations: breaking.count, failed: breaking.failed }
}

const told = (findings: ReadonlyArray<Finding>) =>
  findings.map(({ check, what, state, detail }) => `${check} ${state} ${what}: ${detail}`).join("\n")

describe("a machine that fails while it checks", () => {
  it("never makes a release wrong, and never keeps to itself what it could not look at, whatever operation on a file fails", async () => {
    const clean = await broken(0, "EIO")
    expect(clean.refused).toBeUndefined()
    expect(wrongIn(clean.findings)).toEqual([])
    const { operations } = clean
    expect(operations).toBeGreaterThan(200)
    const places =
      ASKED === "all"
        ? Array.from({ length: operations }, (_, at) => [at + 1, CODES[at % CODES.length]!] as const)
        : Array.from(
            { length: SOME },
            (_, i) => [1 + Math.floor((i * operations) / SOME), CODES[i % CODES.length]!] as const,
          )
    const seen = { refused: 0, undone: 0, same: 0 }
    for (const [at, code] of places) {
      const { findings, refused, failed } = await broken(at, code)
      const place = `${code} at operation ${at} of ${operations}, ${failed}`
      expect(wrongIn(findings), place).toEqual([])
      if (refused !== undefined) {
        seen.refused++
        expect(refused, place).toMatch(/\n {2}hint: ./)
      } else if (findings.some(({ state }) => state === "undone")) seen.undone++
      else {
        // something else served as well, such as a copy where no link could be made
        expect(told(findings), place).toBe(told(clean.findings))
        seen.same++
      }
    }
    expect(seen.refused + seen.undone).toBeGreaterThan(places.length / 2)
    if (ASKED !== undefined) console.log(`${places.length} operations failed: ${JSON.stringify(seen)}`)
    const left = readdirSync(temporary).filter((name) => name.startsWith("exp-verify-"))
    expect(left, "folders left behind").toEqual([])
  }, 7_200_000)

  const kinds = ["absent", "died", "hung", "rubbish", "memory", "version"] as const
  for (const kind of kinds)
    it(`leaves measurements undone where the engine is ${kind}`, async () => {
      const failing = Layer.effect(
        Engine,
        Effect.map(Engine, (engine) => ({
          ...engine,
          probe: () =>
            new EngineFailed({
              engine: "torch",
              doing: "probing",
              problem: "it was made to fail",
              hint: "do this",
              kind,
            }),
        })),
      )
      const { findings } = await run(verify(release, options).pipe(Effect.provide(failing)))
      expect(wrongIn(findings)).toEqual([])
      expect(stateOf(findings, "measurements")).toEqual({ undone: 1 })
      expect(findings.find(({ state }) => state === "undone")?.detail).toBe(
        "it could not be done here: torch engine, probing: it was made to fail; do this",
      )
    }, 60_000)

  it("is told from a release that asks an engine for what cannot be done", async () => {
    const refusing = Layer.effect(
      Engine,
      Effect.map(Engine, (engine) => ({
        ...engine,
        probe: () =>
          new EngineFailed({
            engine: "tfjs",
            doing: "probing",
            problem: "token 900 is not in the vocabulary of 512",
            hint: "encode with the tokenizer of the checkpoint",
            kind: "refused",
          }),
      })),
    )
    const { findings } = await run(verify(release, options).pipe(Effect.provide(refusing)))
    expect(wrongIn(findings)).toEqual([
      "measurements: check: tfjs engine, probing: token 900 is not in the vocabulary of 512",
    ])
  }, 60_000)

  it("says so where the folder for temporary files is not there, or is taken away", async () => {
    const own = join(path, "own")
    try {
      process.env["TMPDIR"] = own
      const missing = await outcome()
      expect(missing.refused).toMatch(
        /could not be looked at: ENOENT.*\n {2}hint: see that the folder for temporary files/,
      )
      mkdirSync(own)
      const gone = await run(
        verify(release, {
          ...options,
          say: (text) => text.startsWith("making the card") && rmSync(own, { recursive: true }),
        }).pipe(Effect.flip),
      )
      expect(gone.message).toMatch(/the folder for temporary files was taken away/)
    } finally {
      process.env["TMPDIR"] = temporary
    }
  }, 60_000)
})

/** Node's settings by which a module is not found, or is no program: `name` is the end of its address, or what it is imported by. */
const without = (name: string, how: "missing" | "broken" | "dying"): NodeJS.ProcessEnv => {
  const hooks = join(path, `without-${name.replaceAll(/\W+/g, "-")}-${how}.mjs`)
  writeFileSync(
    hooks,
    `import { registerHooks } from "node:module"
const name = ${JSON.stringify(name)}
registerHooks({
  resolve: (specifier, context, next) =>
    ${how === "missing"} && (specifier === name || specifier.endsWith("/" + name))
      ? next("./there-is-no-such-module.js", context)
      : next(specifier, context),
  load: (url, context, next) =>
    ${how !== "missing"} && url.endsWith("/" + name)
      ? { format: "module", shortCircuit: true, source: ${how === "dying"} ? "process.exit(3)" : "export const = 1" }
      : next(url, context),
})
`,
  )
  return { NODE_OPTIONS: `--import=${pathToFileURL(hooks)}`, XDG_CONFIG_HOME: join(path, "none") }
}

describe("an installation that is broken", () => {
  const cases: ReadonlyArray<readonly [name: string, how: "missing" | "broken" | "dying", stdout: RegExp]> = [
    ["Arithmetic.ts", "missing", /arithmetic +FAILED +check +it could not be done here: a part of exp does not load/],
    ["Arithmetic.ts", "broken", /arithmetic +FAILED +check +it could not be done here: a part of exp does not load/],
    ["eld/large", "missing", /arithmetic +FAILED +check .*run `npm ci` again/],
    ["handlebars", "missing", /card +FAILED +check .*run `npm ci` again/],
    ["Gpt2.ts", "broken", /measurements +FAILED +check .*tfjs engine/],
    ["worker.ts", "dying", /measurements +FAILED +check .*tfjs engine.*a worker thread ended with exit code 3/],
  ]
  for (const [name, how, stdout] of cases)
    it(`is no fault of the release: ${name} is ${how}`, async () => {
      const found = await exp(path, ["verify", release, "--runs", "elsewhere"], without(name, how))
      expect(found.stdout).toMatch(stdout)
      expect(found.stdout).not.toMatch(/WRONG/)
      expect(found.stdout).toMatch(/ 0 wrong, \d+ skipped, \d could not be done here\n$/)
      expect(found.stderr).toMatch(
        /could not be checked here\n {2}hint: nothing was found against it, and not all was looked at/,
      )
      expect(found.code).toBe(2)
    }, 60_000)

  for (const [name, how] of [
    ["Verify.ts", "missing"],
    ["Hashes.ts", "broken"],
    ["main.ts", "broken"],
  ] as const)
    it(`is said before anything is looked at: ${name} is ${how}`, async () => {
      const found = await exp(path, ["verify", release], without(name, how))
      expect(found.stdout).toBe("")
      expect(found.stderr).toMatch(
        /^(?:error: a part of exp does not load|exp cannot start): .*\n {2}hint: run `npm ci` again\n$/,
      )
      expect(found.code).toBe(2)
    }, 60_000)

  it("is no fault of the release: an engine that was asked for is not there", async () => {
    const env = { EXP_TORCH_PYTHON: join(path, "no-python"), XDG_CONFIG_HOME: join(path, "none") }
    const found = await exp(path, ["verify", release, "--runs", "elsewhere", "--engine", "torch"], env)
    expect(found.stdout).toMatch(/measurements +FAILED +check /)
    expect(found.stdout).not.toMatch(/WRONG/)
    expect(found.code).toBe(2)
  }, 60_000)
})
