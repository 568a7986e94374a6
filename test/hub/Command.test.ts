import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, expect, it } from "vitest"
import { start as begin, finished, type Outcome, publishing, exp as start } from "../endToEnd/experiment.ts"
import { temporaryFolder } from "../temporary.ts"
import { type HubServer, KINDS } from "./HubServer.ts"
import { small } from "./release.ts"
import { CANARY, startHub } from "./world.ts"

/** `exp` as a user of this hub starts it, with nothing of this machine's own user. */
const exp = (
  server: HubServer,
  folder: string,
  args: ReadonlyArray<string>,
  env: NodeJS.ProcessEnv = { HF_TOKEN: CANARY },
): Promise<Outcome> => start(folder, args, environment(server, folder, env))

const environment = (server: HubServer, folder: string, env: NodeJS.ProcessEnv): NodeJS.ProcessEnv => ({
  HF_TOKEN: "",
  HF_ENDPOINT: server.endpoint,
  HF_HOME: join(folder, "home"),
  HOME: join(folder, "home"),
  XDG_CONFIG_HOME: join(folder, "home/config"),
  NO_COLOR: "1",
  ...env,
})

const shown = (server: HubServer, folder: string, { code, stdout, stderr }: Outcome): string =>
  [`exit ${code}`, stdout.trimEnd(), ...(stderr === "" ? [] : [`stderr: ${stderr.trimEnd()}`])]
    .join("\n")
    .replaceAll(server.endpoint, "<hub>")
    .replaceAll(folder, "<here>")
    .replaceAll(/\b[0-9a-f]{40}\b/g, "<commit>")
    .replaceAll(/^ {2}checked .*\n/gm, "")
    // how many of these lines there are, and which file comes last, depends on how long things take
    .replaceAll(/^ {2}(sent|read back) +(\d+)\/(?!\2 ).*\n/gm, "")
    .replaceAll(/^( {2}(?:sent|read back) .*) · .*$/gm, "$1")

describe("exp publish", () => {
  it("shows what would change, publishes, and has nothing to do then", async () => {
    const server = await startHub()
    const folder = temporaryFolder()
    small(join(folder, "release"))
    const publish = ["publish", "release", "--to", "our-org/tiny"]
    const said = [
      await exp(server, folder, [...publish, "--dry-run"]),
      await exp(server, folder, publish),
      await exp(server, folder, publish),
    ]
    expect(said.map((one) => shown(server, folder, one)).join("\n\n")).toMatchInlineSnapshot(`
      "exit 0
      release   tiny: 8 files, 4.23 kB, dc8e5d93c394
      unsigned  \`exp keys new\` makes a key to sign with
           file                                    size
      new  README.md                              479 B
      new  SHA256SUMS                             592 B
      new  benchmark_metrics.json                  76 B
      new  holdout.json                            45 B
      new  model.safetensors                    3.00 kB
      new  release.json                            16 B
      new  reports/benchmark report #1 100%.md     10 B
      new  tiny-step_1.json                        11 B
      would make <hub>/our-org/tiny (public); nothing was sent

      exit 0
      release   tiny: 8 files, 4.23 kB, dc8e5d93c394
      unsigned  \`exp keys new\` makes a key to sign with
      to        <hub>/our-org/tiny
        made <hub>/our-org/tiny (public)
        sent       8/8 files · 4.23 kB of 4.23 kB
        read back  8/8 files · 4.23 kB of 4.23 kB
        every byte of 8 files read back from pull request 1
        merged pull request 1
        tagged release-dc8e5d93c394
      published <hub>/our-org/tiny
      revision  <commit>
      tag       release-dc8e5d93c394

      exit 0
      release   tiny: 8 files, 4.23 kB, dc8e5d93c394
      unsigned  \`exp keys new\` makes a key to sign with
      to        <hub>/our-org/tiny
      nothing to do: the hub has this release
      published <hub>/our-org/tiny
      revision  <commit>
      tag       release-dc8e5d93c394"
    `)
    const json = await exp(server, folder, [...publish, "--json"])
    const receipt = JSON.parse(json.stdout)
    assert.strictEqual(receipt.revision, server.repositories.get("our-org/tiny")!.refs.get("main"))
    assert.isFalse(receipt.changed)
    assert.lengthOf(receipt.files, 8)
  }, 120_000)

  it("a dry run shows what stays of other people's, the tag and the collection", async () => {
    const server = await startHub()
    server.seed("our-org/tiny", { "notes.md": "by hand\n" })
    const collection = "our-org/small-models-0123456789abcdef01234567"
    server.collections.set(collection, new Set())
    const folder = temporaryFolder()
    small(join(folder, "release"))
    const publish = ["publish", "release", "--to", "our-org/tiny", "--tag", "v1", "--collection", collection]
    const end = async (args: ReadonlyArray<string>) =>
      shown(server, folder, await exp(server, folder, args))
        .split("\n")
        .slice(-5)
        .join("\n")
    const before = await end([...publish, "--dry-run"])
    const done = await exp(server, folder, publish)
    assert.include(
      done.stdout,
      `\n  added to the collection ${collection}\n  not of the release, and stays: notes.md\n`,
    )
    expect(`${before}\n\n${await end([...publish, "--dry-run"])}`).toMatchInlineSnapshot(`
      "new  tiny-step_1.json                        11 B
      not of the release, and stays: notes.md
      tag       v1 (new)
      collected our-org/small-models-0123456789abcdef01234567 (to be added)
      would change <hub>/our-org/tiny (public); nothing was sent

      same  tiny-step_1.json                        11 B
      not of the release, and stays: notes.md
      tag       v1 (names this release already)
      collected our-org/small-models-0123456789abcdef01234567 (has it already)
      nothing would change at <hub>/our-org/tiny; nothing was sent"
    `)
    const { foreign, tag } = JSON.parse((await exp(server, folder, [...publish, "--dry-run", "--json"])).stdout)
    assert.deepStrictEqual(foreign, ["notes.md"])
    assert.deepStrictEqual(tag, { name: "v1", exists: true })
  }, 120_000)

  it("takes the token from the hub's own file, and says where it looked when there is none", async () => {
    const server = await startHub()
    const folder = temporaryFolder()
    small(join(folder, "release"))
    const publish = ["publish", "release", "--to", "our-org/tiny", "--private"]
    expect(shown(server, folder, await exp(server, folder, publish, {}))).toMatchInlineSnapshot(`
      "exit 1

      stderr: error: publish: there is no token for the hub (looked in HF_TOKEN, <here>/home/token)
        hint: make a token that may write at https://huggingface.co/settings/tokens, then set HF_TOKEN or run \`hf auth login\`"
    `)
    mkdirSync(join(folder, "home"))
    writeFileSync(join(folder, "home", "token"), "something else\n")
    const wrong = await exp(server, folder, publish, {})
    assert.include(wrong.stderr, "is none: it begins with `hf_`")
    assert.notInclude(wrong.stderr, "something else")
    assert.lengthOf(server.seen, 0)
    writeFileSync(join(folder, "home", "token"), `${CANARY}\n`)
    const { code, stderr } = await exp(server, folder, publish, {})
    assert.strictEqual(stderr, "")
    assert.strictEqual(code, 0)
    assert.isTrue(server.repositories.get("our-org/tiny")!.private)
  }, 120_000)

  it("lets the token be seen nowhere but in the header to the hub itself, whatever goes wrong", async () => {
    const server = await startHub({ slowSeconds: 0.1, multipartFrom: 2000, partSize: 1000 })
    const folder = temporaryFolder()
    small(join(folder, "release"))
    const said: Array<Outcome> = []
    for (const [index, kind] of KINDS.entries()) {
      // the commit that opens the pull request: the request with most to lose
      server.fail(kind === "403" ? 1 : 6, kind)
      said.push(
        await exp(server, folder, ["publish", "release", "--to", `our-org/tiny-${index}`, "--log-level", "all"]),
      )
      assert.isTrue(server.disarm() || kind === "a byte flipped", kind)
    }
    said.push(await exp(server, folder, ["publish", "release", "--to", "our-org/tiny", "--dry-run", "--json"]))
    said.push(await exp(server, folder, ["doctor", "--json"]))
    assert.isAbove(said.filter(({ code }) => code === 0).length, 8)
    for (const { stdout, stderr } of said) {
      assert.notInclude(stdout + stderr, CANARY)
      assert.notInclude(stdout + stderr, "X-Amz-Signature")
    }
    for (const { place, url, headers, body } of server.seen) {
      const { authorization, ...others } = headers
      assert.notInclude(url, CANARY)
      assert.notInclude(JSON.stringify(others), CANARY)
      assert.isFalse(body.includes(CANARY))
      assert.strictEqual(authorization, place === "hub" ? `Bearer ${CANARY}` : undefined)
    }
    assert.isAbove(server.seen.filter(({ place }) => place === "storage").length, 10)
    assert.deepStrictEqual(server.violations, [])
    for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true }))
      if (entry.isFile()) assert.isFalse(readFileSync(join(entry.parentPath, entry.name)).includes(CANARY), entry.name)
  }, 300_000)
})

describe("exp publish, interrupted", () => {
  it("leaves main as it was, says so, and the same command goes on from there", async () => {
    const server = await startHub({ slowSeconds: 30 })
    server.seed("our-org/tiny", {})
    const before = server.sums("our-org/tiny")
    const folder = temporaryFolder()
    small(join(folder, "release"))
    const publish = ["publish", "release", "--to", "our-org/tiny"]
    // the object of the second commit: the pull request is open by then
    const nth = 15
    server.fail(nth, "slow")
    const child = begin(folder, publish, environment(server, folder, { HF_TOKEN: CANARY }))
    const ended = finished(child)
    while (server.count < nth) await new Promise((resolve) => setTimeout(resolve, 20))
    child.kill("SIGINT")
    const { code, stderr } = await ended
    assert.strictEqual(code, 130)
    assert.include(stderr, "interrupted: `main` is as it was")
    assert.deepStrictEqual(server.sums("our-org/tiny"), before)
    server.disarm()
    const again = await exp(server, folder, publish)
    assert.strictEqual(again.code, 0)
    assert.include(again.stdout, "merged pull request 1")
    assert.lengthOf(server.repositories.get("our-org/tiny")!.discussions, 1)
  }, 120_000)
})

describe("the step `publish`", () => {
  it("publishes what the run released, leaves a receipt, is done once, and `exp publish RUN` knows it", async () => {
    const server = await startHub()
    const folder = temporaryFolder()
    const experiment = publishing("private: true")
    assert.include(experiment, "publish({ release: bundle")
    writeFileSync(join(folder, "smallest.ts"), experiment)
    const first = await exp(server, folder, ["run", "smallest.ts"])
    assert.strictEqual(first.stderr, "")
    assert.strictEqual(first.code, 0)
    const { private: isPrivate, refs } = server.repositories.get("our-org/smallest")!
    assert.isTrue(isPrivate)
    const [artifact] = readdirSync(join(folder, "runs/store")).filter((name) => name.startsWith("publish-"))
    const receipt = JSON.parse(readFileSync(join(folder, "runs/store", artifact!, "receipt.json"), "utf8"))
    assert.strictEqual(receipt.revision, refs.get("main"))
    assert.include(first.stdout, "unsigned: `exp keys new` makes a key to sign with")
    assert.include(first.stdout, `published ${receipt.url}\nrevision  ${receipt.revision}\n`)
    for (const { path, sha256 } of receipt.files)
      assert.strictEqual(server.sums("our-org/smallest")[path], sha256, path)

    const asked = server.seen.length
    const again = await exp(server, folder, ["run", "smallest.ts"])
    assert.include(again.stdout, "nothing to do")
    assert.lengthOf(server.seen, asked)

    const [run] = readdirSync(join(folder, "runs")).filter((name) => /_smallest$/.test(name))
    const published = await exp(server, folder, ["publish", run!, "--to", "our-org/smallest"])
    assert.include(published.stdout, "nothing to do: the hub has this release")

    const plan = await exp(await startHub(), folder, ["plan", "smallest.ts", "--json"])
    assert.strictEqual(plan.code, 0)
    const { steps } = JSON.parse(plan.stdout) as { steps: ReadonlyArray<{ kind: string; standing: { _tag: string } }> }
    assert.deepStrictEqual(
      steps.filter(({ standing }) => standing._tag !== "Cached").map(({ kind }) => kind),
      ["publish"],
      "another hub is another publication",
    )
  }, 300_000)
})
