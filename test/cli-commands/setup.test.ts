/** `exp setup torch` against an index of packages on loopback: what becomes of the environment when making it is ended half way. */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { createServer, type ServerResponse } from "node:http"
import type { AddressInfo } from "node:net"
import { join } from "node:path"
import { assert, describe, expect, it, onTestFinished } from "vitest"
import { type Said, type Started, start } from "../cli/command.ts"
import { python, skipped } from "../engine/torch.ts"
import { wheels } from "../engine/wheels.ts"
import { temporaryFolder } from "../temporary.ts"

/** A folder with a `python3` in it: a script, or one that is there. */
const pathOf = (folder: string, program: string): string => {
  const bin = join(folder, "programs")
  mkdirSync(bin)
  const path = join(bin, "python3")
  if (program.startsWith("#!")) writeFileSync(path, program, { mode: 0o755 })
  else symlinkSync(program, path)
  return bin
}

interface Index {
  readonly address: string
  /** From now on the second half of PyTorch does not come. */
  readonly hold: () => { readonly halfSent: Promise<void>; readonly hungUp: Promise<void> }
  readonly letGo: () => void
}

const startIndex = async (folder: string): Promise<Index> => {
  let held: { readonly sent: () => void; readonly gone: () => void } | undefined
  const wheel = (response: ServerResponse, name: string): void => {
    const bytes = readFileSync(join(folder, name))
    response.writeHead(200, { "Content-Length": String(bytes.length) })
    if (held === undefined || !name.startsWith("torch-")) return void response.end(bytes)
    response.on("close", held.gone)
    response.write(bytes.subarray(0, bytes.length >> 1), held.sent)
  }
  const server = createServer((request, response) => {
    const [, kind, name = ""] = (request.url ?? "").split("/")
    if (kind === "files") return wheel(response, name)
    const files = readdirSync(folder).filter((file) => file.startsWith(`${name}-`))
    response.writeHead(files.length > 0 ? 200 : 404, { "Content-Type": "text/html" })
    response.end(`<html>${files.map((file) => `<a href="/files/${file}">${file}</a>`).join("")}</html>`)
  })
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve))
  onTestFinished(() => {
    server.closeAllConnections()
    server.close()
  })
  return {
    address: `http://127.0.0.1:${(server.address() as AddressInfo).port}/simple/`,
    hold: () => {
      const half = Promise.withResolvers<void>()
      const hung = Promise.withResolvers<void>()
      held = { sent: half.resolve, gone: hung.resolve }
      return { halfSent: half.promise, hungUp: hung.promise }
    },
    letGo: () => {
      held = undefined
    },
  }
}

interface Place {
  readonly index: Index
  /** Where the environment comes to lie. */
  readonly environment: string
  readonly begin: (args: ReadonlyArray<string>, environment?: NodeJS.ProcessEnv) => Started
  readonly exp: (args: ReadonlyArray<string>, environment?: NodeJS.ProcessEnv) => Promise<Said>
}

/** A user who has a Python and nothing else, and an index. */
const place = async (): Promise<Place> => {
  const folder = temporaryFolder()
  const packages = join(folder, "packages")
  mkdirSync(packages)
  wheels(packages)
  const index = await startIndex(packages)
  const own = {
    ...{
      HOME: folder,
      XDG_DATA_HOME: join(folder, "data"),
      XDG_CACHE_HOME: join(folder, "cache"),
      PATH: "/usr/bin:/bin",
    },
    ...{ PIP_CONFIG_FILE: "/dev/null", PIP_INDEX_URL: index.address, PIP_RETRIES: "0", EXP_TORCH_PYTHON: "" },
  }
  const begin: Place["begin"] = (args, environment = {}) => {
    const before = { ...process.env }
    Object.assign(process.env, own, environment)
    delete process.env["PIP_FIND_LINKS"]
    try {
      return start(folder, ...args)
    } finally {
      process.env = before
    }
  }
  return {
    index,
    environment: join(folder, "data/exp/torch"),
    begin,
    exp: (args, environment) => begin(args, environment).ended,
  }
}

const setup = ["setup", "torch", "--cpu", "--python", python!]
const torchIn = (doctor: Said): string => /^\S+ +engine torch .*(?:\n {2}hint: .*)?/m.exec(doctor.out)?.[0] ?? ""

describe.skipIf(python === undefined || process.platform === "win32")(`exp setup torch${skipped}`, () => {
  it("leaves nothing that writes on when it is killed half way, and is whole when it is run again", async () => {
    const { index, environment, begin, exp } = await place()
    const { halfSent, hungUp } = index.hold()
    const killed = begin(setup)
    await halfSent
    killed.child.kill("SIGKILL")
    await killed.ended
    // what installs is gone too, and nobody told it but the end of its parent
    await hungUp
    assert.isTrue(existsSync(join(environment, "venv")))
    assert.match(
      torchIn(await exp(["doctor"])),
      /^– +engine torch +making its Python environment was broken off, or goes on\n {2}hint: .*`exp setup torch` makes it whole$/,
    )
    index.letGo()
    const made = await exp(setup)
    assert.strictEqual(made.code, 0, made.err)
    assert.deepStrictEqual(readdirSync(environment), ["lock", "ready.json", "venv"])
    assert.match(torchIn(await exp(["doctor"])), /^ok +engine torch +torch .* of exp setup torch/)
  }, 240_000)

  it("removes what it began when it is interrupted, and says how to go on", async () => {
    const { index, environment, begin } = await place()
    const { halfSent, hungUp } = index.hold()
    const interrupted = begin(setup)
    await halfSent
    interrupted.child.kill("SIGINT")
    const { code, err } = await interrupted.ended
    await hungUp
    assert.strictEqual(code, 130)
    assert.match(err, /\nbroken off: the same command begins anew\n$/)
    assert.deepStrictEqual(readdirSync(environment), ["lock"])
  }, 240_000)

  it("makes anew what lost its Python, and says so before", async () => {
    const { environment, exp } = await place()
    assert.strictEqual((await exp(setup)).code, 0)
    rmSync(join(environment, "venv/bin"), { recursive: true })
    assert.match(torchIn(await exp(["doctor"])), /the Python that its environment was made with is gone\n {2}hint: /)
    const again = await exp(["setup", "torch", "--cpu"], { PATH: `${pathOf(environment, python!)}:/usr/bin:/bin` })
    assert.strictEqual(again.code, 0, again.err)
    assert.notMatch(again.out, /as it was/)
  }, 240_000)

  it("says what is missing before anything is downloaded: a Python, a newer one, `venv` in it, a place to write", async () => {
    const { environment, exp } = await place()
    const answering = (said: string) => ({ PATH: pathOf(temporaryFolder(), `#!/bin/sh\necho ${said}\n`) })
    const refusals = [
      await exp(["setup", "torch"], { PATH: temporaryFolder() }),
      await exp(["setup", "torch"], answering("3.9 whole")),
      await exp(["setup", "torch"], answering("3.13 None")),
      await exp(["setup", "torch", "--python", "/no/such/python"]),
      await exp(["setup", "torch"], { XDG_DATA_HOME: "/dev/null" }),
    ]
    assert.isFalse(existsSync(join(environment, "venv")))
    for (const { code } of refusals) assert.strictEqual(code, 1)
    expect(refusals.map(({ err }) => err).join("")).toMatchInlineSnapshot(`
      "error: setting up torch: no Python answers
        hint: install Python 3.11 or newer with \`venv\` (Debian: python3-venv), name one with \`--python\`, or install uv
      error: setting up torch: \`python3\` is Python 3.9
        hint: install Python 3.11 or newer with \`venv\` (Debian: python3-venv), name one with \`--python\`, or install uv
      error: setting up torch: \`python3\` is Python 3.13 without \`venv\`
        hint: install Python 3.11 or newer with \`venv\` (Debian: python3-venv), name one with \`--python\`, or install uv
      error: setting up torch: \`/no/such/python\` does not answer
        hint: install Python 3.11 or newer with \`venv\` (Debian: python3-venv), name one with \`--python\`, or install uv
      error: setting up torch: ENOTDIR: not a directory, mkdir '/dev/null/exp/torch'
        hint: set XDG_DATA_HOME to a folder that can be written
      "
    `)
  }, 120_000)

  it("says which address to look at when an index does not answer, without the password in it", async () => {
    const { environment, exp } = await place()
    const closed = "http://ada:canary@127.0.0.1:9/simple"
    const named = await exp([...setup, "--index", closed])
    assert.match(
      named.err,
      /error: setting up torch: `.* --index-url http:\/\/127\.0\.0\.1:9\/simple torch.*` ended with exit code 1\n {2}hint: see that `--index` answers/,
    )
    assert.notInclude(named.err, "canary")
    const usual = await exp(setup, { PIP_INDEX_URL: "http://127.0.0.1:9/simple" })
    assert.match(usual.err, / ended with exit code 1\n {2}hint: see that a package index is in reach .*`--index URL`/)
    assert.deepStrictEqual(readdirSync(environment), ["lock"])
  }, 120_000)
})
