import { mkdirSync, symlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { commit } from "@huggingface/hub"
import { Effect } from "effect"
import { assert, describe, expect, it } from "vitest"
import type { PublishEvent } from "../../src/hub/Publication.ts"
import { temporaryFolder } from "../temporary.ts"
import type { HubServer } from "./HubServer.ts"
import { cardOf, files, small, sum, write } from "./release.ts"
import { CANARY, comparing, contentOf, expected, owner, publishing, refusalOf, run, startHub, target } from "./world.ts"

const released = (version = "1", matter = {}): string => small(join(temporaryFolder(), "release"), version, matter)

const mainOf = (server: HubServer, name = target.to) => {
  const { ".gitattributes": _, ...main } = server.sums(name)
  return main
}

const changing = (server: HubServer): ReadonlyArray<string> =>
  server.seen
    .filter(({ method, url }) => method !== "GET" && method !== "HEAD" && !/\/(preupload|objects\/batch)/.test(url))
    .map(({ method, url }) => `${method} ${url.replace(/\?.*/, "").replaceAll(/[0-9a-f]{40,}/g, "<sha>")}`)

/** Publishing, and a dry run of it. */
const ways = [
  (...given: Parameters<typeof publishing>) => Effect.asVoid(publishing(...given)),
  (...given: Parameters<typeof comparing>) => Effect.asVoid(comparing(...given)),
]

/** Publishes until all that is missing is the merge, as a command that is killed there. */
const untilMerge = async (server: HubServer, folder: string): Promise<void> => {
  const stopped = await run(
    server,
    Effect.exit(
      publishing(folder, {
        report: (event) => {
          if (event._tag === "Did" && event.text.startsWith("every byte")) throw new Error("stop")
        },
      }),
    ),
  )
  assert.strictEqual(stopped._tag, "Failure")
}

describe("publishing", () => {
  it("makes the repository, opens a pull request, fills it, reads it back, merges and tags", async () => {
    const server = await startHub()
    const folder = released()
    const done: Array<string> = []
    const report = (event: PublishEvent) => void (event._tag === "Did" && done.push(event.text))
    const { receipt, changed } = await run(server, publishing(folder, { report }))
    assert.isTrue(changed)
    assert.deepStrictEqual(mainOf(server), expected(await run(server, contentOf(folder))))
    assert.strictEqual(receipt.revision, server.repositories.get(target.to)!.refs.get("main"))
    assert.strictEqual(server.repositories.get(target.to)!.tags.get(receipt.tag), receipt.revision)
    expect(changing(server)).toMatchInlineSnapshot(`
      [
        "POST /api/repos/create",
        "POST /api/models/our-org/tiny/commit/main",
        "PUT /objects/<sha>",
        "POST /api/models/our-org/tiny/commit/refs%2Fpr%2F1",
        "POST /api/models/our-org/tiny/discussions/1/merge",
        "POST /api/models/our-org/tiny/tag/<sha>",
      ]
    `)
    expect(done.map((text) => text.replaceAll(server.endpoint, "<hub>"))).toMatchInlineSnapshot(`
      [
        "made <hub>/our-org/tiny (public)",
        "every byte of 8 files read back from pull request 1",
        "merged pull request 1",
        "tagged release-dc8e5d93c394",
      ]
    `)
  })

  it("has nothing to do when it was done, and says where it is", async () => {
    const server = await startHub()
    const folder = released()
    const first = await run(server, publishing(folder))
    server.seen.length = 0
    const { receipt, changed } = await run(server, publishing(folder))
    assert.isFalse(changed)
    assert.deepStrictEqual(receipt, first.receipt)
    assert.deepStrictEqual(changing(server), [])
  })

  it("replaces an earlier release in one step, removes what only that one had, and leaves other people's files", async () => {
    const server = await startHub()
    await run(server, publishing(released("1")))
    const folder = released("2")
    const { changes } = await run(server, comparing(folder))
    assert.deepStrictEqual(
      changes.filter(({ change }) => change !== "same").map(({ path, change }) => `${change} ${path}`),
      [
        "changed SHA256SUMS",
        "changed model.safetensors",
        "changed reports/benchmark report #1 100%.md",
        "removed tiny-step_1.json",
        "new tiny-step_2.json",
      ],
    )
    await run(server, publishing(folder))
    assert.deepStrictEqual(mainOf(server), expected(await run(server, contentOf(folder))))
    assert.lengthOf(server.mains, 3, "empty, the first, the second")
  })

  it("sends no object that the hub has", async () => {
    const server = await startHub()
    await run(server, publishing(released()))
    server.seen.length = 0
    await run(server, publishing(released(), { to: "our-org/again" }))
    assert.deepStrictEqual(
      server.seen.filter(({ place, method }) => place === "storage" && method !== "GET"),
      [],
    )
  })

  it("a dry run sends nothing, and compares file by file", async () => {
    const server = await startHub()
    const { repository, changes } = await run(server, comparing(released()))
    assert.isUndefined(repository)
    assert.deepStrictEqual([...new Set(changes.map(({ change }) => change))], ["new"])
    assert.deepStrictEqual([...new Set(server.seen.map(({ method }) => method))], ["GET"])
    assert.strictEqual(server.repositories.size, 0)
  })

  it("makes a private repository when asked, and never publishes to a public one then", async () => {
    const server = await startHub()
    await run(server, publishing(released(), { private: true }))
    assert.isTrue(server.repositories.get(target.to)!.private)
    server.seed("our-org/open", {})
    server.seen.length = 0
    assert.match(
      await refusalOf(server, publishing(released(), { private: true, to: "our-org/open" })),
      /^our-org\/open: it is public, and the release is to be private\n {2}hint: /,
    )
    assert.deepStrictEqual(changing(server), [])
  })

  it("large files go in parts, and an empty one of their kind goes with the commit", async () => {
    const server = await startHub({ multipartFrom: 1000, partSize: 700 })
    const folder = write(join(temporaryFolder(), "release"), { ...files(), "empty.safetensors": "" })
    await run(server, publishing(folder))
    assert.deepStrictEqual(mainOf(server), expected(await run(server, contentOf(folder))))
    const parts = server.seen.filter(({ place, method }) => place === "storage" && method === "PUT")
    assert.lengthOf(parts, 5)
  })

  it("files of the same bytes are sent once", async () => {
    const server = await startHub()
    const { "model.safetensors": weights, ...rest } = files()
    const folder = write(join(temporaryFolder(), "release"), {
      ...rest,
      "model.safetensors": weights!,
      "tiny-step_1.safetensors": weights!,
    })
    await run(server, publishing(folder))
    assert.lengthOf(
      server.seen.filter(({ place, method }) => place === "storage" && method === "PUT"),
      1,
    )
    assert.deepStrictEqual(mainOf(server), expected(await run(server, contentOf(folder))))
  })

  it("a pull request of the same name by somebody else is left alone", async () => {
    const other = "hf_otherOtherOtherOtherOther0123456789"
    const server = await startHub({
      accounts: { [CANARY]: owner, [other]: { ...owner, name: "eve" } },
    })
    const folder = released()
    server.seed(target.to, {})
    const repository = server.repositories.get(target.to)!
    const { digest } = await run(server, contentOf(folder))
    const head = repository.refs.get("main")!
    repository.discussions.push({
      num: 1,
      title: `Publish tiny (release ${digest.slice(0, 32)})`,
      author: "eve",
      base: head,
      status: "open",
    })
    repository.refs.set("refs/pr/1", head)
    await run(server, publishing(folder))
    assert.deepStrictEqual(
      repository.discussions.map(({ author, status }) => `${author} ${status}`),
      ["eve open", "ada merged"],
    )
  })

  it("never merges a pull request that somebody put another file into", async () => {
    const server = await startHub()
    const folder = released()
    server.seed(target.to, {})
    await untilMerge(server, folder)
    const repository = server.repositories.get(target.to)!
    const branch = repository.commits.get(repository.refs.get("refs/pr/1")!)!
    const tree = new Map(branch.tree).set("pytorch_model.bin", [...branch.tree.values()][0]!)
    repository.commits.set("0".repeat(40), { ...branch, tree })
    repository.refs.set("refs/pr/1", "0".repeat(40))
    await run(server, publishing(folder))
    assert.deepStrictEqual(
      repository.discussions.map(({ status }) => status),
      ["closed", "merged"],
    )
    assert.deepStrictEqual(mainOf(server), expected(await run(server, contentOf(folder))))
  })

  it("closes its pull request when main has changed under it, and merges another without sending objects again", async () => {
    const server = await startHub()
    server.seed(target.to, { "README.md": "old\n" })
    const folder = released()
    await untilMerge(server, folder)
    await commit({
      repo: { type: "model", name: target.to },
      hubUrl: server.endpoint,
      accessToken: CANARY,
      title: "somebody else's",
      operations: [{ operation: "addOrUpdate", path: "README.md", content: new Blob(["newer\n"]) }],
    })
    server.seen.length = 0
    await run(server, publishing(folder))
    assert.deepStrictEqual(
      server.repositories.get(target.to)!.discussions.map(({ status }) => status),
      ["closed", "merged"],
    )
    assert.deepStrictEqual(mainOf(server), expected(await run(server, contentOf(folder))))
    assert.deepStrictEqual(
      server.seen.filter(({ place, method }) => place === "storage" && method !== "GET"),
      [],
    )
  })

  it("by several processes at once ends as by one", async () => {
    const server = await startHub()
    const folder = released()
    const all = await Promise.all([1, 2, 3].map(() => run(server, publishing(folder))))
    assert.deepStrictEqual(mainOf(server), expected(await run(server, contentOf(folder))))
    assert.lengthOf(server.mains, 2, "empty, and the release")
    assert.lengthOf([...new Set(all.map(({ receipt }) => receipt.revision))], 1)
    await run(server, publishing(folder))
    const left = server.repositories.get(target.to)!.discussions.map(({ status }) => status)
    assert.lengthOf(
      left.filter((status) => status === "merged"),
      1,
    )
    assert.notInclude(left, "open")
  })

  it("adds to a collection, once", async () => {
    const server = await startHub()
    const collection = "our-org/small-models-0123456789abcdef01234567"
    server.collections.set(collection, new Set())
    const folder = released()
    await run(server, publishing(folder))
    assert.isTrue((await run(server, publishing(folder, { collection }))).changed)
    assert.isFalse((await run(server, publishing(folder, { collection }))).changed)
    assert.deepStrictEqual([...server.collections.get(collection)!], [target.to])
  })

  it("asks the predecessor by pull request to name its new version, once, and changes no other line of its card", async () => {
    const server = await startHub()
    const card = cardOf({ tags: ["old # 'one'"] }).replace("license:", "# a remark\nlicense:")
    server.seed("our-org/older", { "README.md": card })
    const folder = released()
    await run(server, publishing(folder, { supersedes: "our-org/older" }))
    // before anything is sent, and when it is to be changed
    assert.lengthOf(
      server.seen.filter(({ url }) => url.startsWith("/our-org/older/resolve/")),
      2,
    )
    await run(server, publishing(folder, { supersedes: "our-org/older" }))
    const older = server.repositories.get("our-org/older")!
    assert.deepStrictEqual(
      older.discussions.map(({ title, status }) => `${status}: ${title}`),
      ["open: New version: our-org/tiny"],
    )
    const edited = server.read("our-org/older", "refs/pr/1", "README.md")!.toString()
    assert.strictEqual(edited.replace('new_version: "our-org/tiny"\n', ""), card)
    assert.notStrictEqual(edited, card)
    assert.strictEqual(server.read("our-org/older", "main", "README.md")!.toString(), card)
  })

  it("asks no predecessor a second time that declined", async () => {
    const server = await startHub()
    server.seed("our-org/older", { "README.md": cardOf() })
    const folder = released()
    await run(server, publishing(folder, { supersedes: "our-org/older" }))
    const older = server.repositories.get("our-org/older")!
    older.discussions[0]!.status = "closed"
    const done: Array<string> = []
    const report = (event: PublishEvent) => void (event._tag === "Did" && done.push(event.text))
    assert.isFalse((await run(server, publishing(folder, { supersedes: "our-org/older", report }))).changed)
    assert.lengthOf(older.discussions, 1)
    assert.deepStrictEqual(done, [
      "our-org/older was asked before to name our-org/tiny, and the pull request was closed: not asked again",
    ])
  })

  it("a predecessor's card that cannot be edited is found before anything is sent", async () => {
    const server = await startHub()
    server.seed("our-org/older", { "README.md": "---\n{ license: mit }\n---\n" })
    const message = await refusalOf(server, publishing(released(), { supersedes: "our-org/older" }))
    assert.match(message, /^our-org\/older: its card's front matter cannot be given a new version/)
    assert.deepStrictEqual(changing(server), [])
  })

  it("removes the signature of the release before, which was not made over this one", async () => {
    const server = await startHub()
    await run(server, publishing(released("1")))
    server.push(target.to, "main", { "provenance.dsse.json": "{}\n" })
    const folder = released("2")
    await run(server, publishing(folder))
    assert.deepStrictEqual(mainOf(server), expected(await run(server, contentOf(folder))))
  })
})

describe("a push between the last look and the merge", () => {
  const pushedIn = async (ref: string, file: string, text = "pushed in\n") => {
    const server = await startHub()
    const folder = released()
    server.seed(target.to, { "notes.md": "by hand\n" })
    server.beforeMerge = () => void server.push(target.to, ref, { [file]: text })
    const message = await refusalOf(server, publishing(folder))
    return {
      server,
      folder,
      message: message.replaceAll(server.endpoint, "<hub>").replaceAll(/[0-9a-f]{40}/g, "<commit>"),
    }
  }

  it("is told of, with what it changed and what to do, and the release gets no tag", async () => {
    const { server, folder, message } = await pushedIn("refs/pr/1", "evil.py")
    expect(message).toMatchInlineSnapshot(`
      "our-org/tiny: somebody pushed while pull request 1 was merged; besides the release, \`main\` has now been changed in
        evil.py
        hint: look at <hub>/our-org/tiny/commit/<commit> and take out what does not belong there, then run the same command again: the release has no tag yet"
    `)
    assert.strictEqual(server.repositories.get(target.to)!.tags.size, 0)
    assert.match(await refusalOf(server, publishing(folder)), /would be loaded with it: evil\.py/)
    assert.strictEqual(server.repositories.get(target.to)!.tags.size, 0)
  })

  it("is told of whichever file it changes, to a file of the release, of somebody else's or of the hub's, and on `main` too", async () => {
    for (const [ref, file] of [
      ["refs/pr/1", "release.json"],
      ["refs/pr/1", "notes.md"],
      ["refs/pr/1", ".gitattributes"],
      ["main", "more.md"],
    ] as const) {
      const { message } = await pushedIn(ref, file)
      assert.match(message, new RegExp(`has now been changed in\\n {2}${file.replaceAll(".", "\\.")}\\n`), file)
    }
  })

  it("is noticed when the merge's answer is lost", async () => {
    const folder = released()
    const prepared = async () => {
      const server = await startHub()
      server.seed(target.to, {})
      return server
    }
    const whole = await prepared()
    await run(whole, publishing(folder))
    const server = await prepared()
    server.beforeMerge = () => void server.push(target.to, "refs/pr/1", { "evil.py": "" })
    server.fail(whole.seen.findIndex(({ url }) => url.endsWith("/merge")) + 1, "answer lost")
    assert.match(await refusalOf(server, publishing(folder)), /has now been changed in\n {2}evil\.py\n/)
    assert.isTrue(server.disarm())
  })

  it("what the hub itself adds to `.gitattributes` for a large file of the release is no such change", async () => {
    const { server, message } = await pushedIn(
      "refs/pr/1",
      ".gitattributes",
      "*.safetensors filter=lfs\nreports/benchmark[[:space:]]report[[:space:]]#1[[:space:]]100%.md filter=lfs diff=lfs merge=lfs -text\n",
    )
    assert.strictEqual(message, "nothing was refused")
    assert.strictEqual(server.repositories.get(target.to)!.tags.size, 1)
  })

  it("into `.gitattributes` earlier than that closes the pull request", async () => {
    const server = await startHub()
    server.seed(target.to, {})
    const folder = released()
    await untilMerge(server, folder)
    server.push(target.to, "refs/pr/1", { ".gitattributes": "*.json merge=ours\n" })
    await run(server, publishing(folder))
    assert.deepStrictEqual(
      server.repositories.get(target.to)!.discussions.map(({ status }) => status),
      ["closed", "merged"],
    )
    assert.deepStrictEqual(server.read(target.to, "main", ".gitattributes")!.toString(), "*.safetensors filter=lfs\n")
  })
})

describe("the tag and the collection that were asked for", () => {
  it("a tag of another revision is found before anything is sent, and never moved", async () => {
    const server = await startHub()
    await run(server, publishing(released("1"), { tag: "v1" }))
    const { tags } = server.repositories.get(target.to)!
    const before = new Map(tags)
    server.seen.length = 0
    for (const doing of ways)
      assert.match(await refusalOf(server, doing(released("2"), { tag: "v1" })), /the tag `v1` names another revision/)
    assert.deepStrictEqual(changing(server), [])
    assert.deepStrictEqual(tags, before)
  })

  it("a tag of this very release is no obstacle, whatever other people committed since", async () => {
    const server = await startHub()
    const folder = released()
    const first = await run(server, publishing(folder, { tag: "v1" }))
    server.push(target.to, "main", { "notes.md": "by hand\n" })
    const { receipt, changed } = await run(server, publishing(folder, { tag: "v1" }))
    assert.isFalse(changed)
    assert.deepStrictEqual(receipt, first.receipt)
  })

  it("a collection that is not there, or is somebody else's, is found before anything is sent", async () => {
    const server = await startHub()
    const folder = released()
    const collection = "our-org/none-0123456789abcdef01234567"
    assert.match(await refusalOf(server, publishing(folder, { collection })), /there is no collection `our-org\/none-/)
    const theirs = "their-org/some-0123456789abcdef01234567"
    server.collections.set(theirs, new Set())
    assert.match(
      await refusalOf(server, publishing(folder, { collection: theirs })),
      /ada may not write to the collections of `their-org`/,
    )
    assert.strictEqual(server.repositories.size, 0)
  })
})

describe("files of other people", () => {
  it("are named, and stay", async () => {
    const server = await startHub()
    server.seed(target.to, { "notes.md": "by hand\n", "images/a.svg": "" })
    const folder = released()
    const { foreign } = await run(server, comparing(folder))
    assert.deepStrictEqual(foreign, ["images/a.svg", "notes.md"])
    await run(server, publishing(folder))
    assert.strictEqual(server.read(target.to, "main", "notes.md")!.toString(), "by hand\n")
  })

  it("that would be loaded with the release are refused before anything is sent", async () => {
    for (const file of [
      "adapter_config.json",
      "pytorch_model.bin",
      "a.pt",
      "a.pkl",
      "modeling_x.py",
      "onnx/model.onnx",
      "other.safetensors",
      "model.safetensors.index.json",
    ]) {
      const server = await startHub()
      server.seed(target.to, { [file]: "x" })
      for (const doing of ways)
        assert.include(
          await refusalOf(server, doing(released())),
          `our-org/tiny: it has files that are not of the release and would be loaded with it: ${file}\n  hint: delete them`,
        )
      assert.deepStrictEqual(changing(server), [])
    }
  })
})

describe("before anything is sent", () => {
  const refused = async (folder: string, options: Parameters<typeof publishing>[1] = {}, settings = {}) => {
    const server = await startHub(settings)
    const message = await refusalOf(server, publishing(folder, options))
    assert.deepStrictEqual(changing(server), [])
    assert.strictEqual(server.repositories.size, 0)
    return message.replaceAll(folder, "<release>").replaceAll(server.endpoint, "<hub>")
  }

  it("a file whose bytes are not what SHA256SUMS says, one that is missing and one that is new are found", async () => {
    const folder = released()
    writeFileSync(join(folder, "release.json"), '{"name":"tiny" }\n')
    writeFileSync(join(folder, "more.txt"), "")
    expect(await refused(folder)).toMatchInlineSnapshot(`
      "<release> cannot be published
        release.json has other bytes than SHA256SUMS says
        more.txt has no line in SHA256SUMS
        hint: make the release again: \`exp check\`, then \`exp run\`"
    `)
  })

  it("symbolic links, hidden files and names that are none on Windows are refused", async () => {
    const folder = released()
    symlinkSync("/etc/hostname", join(folder, "link.txt"))
    writeFileSync(join(folder, ".env"), "SECRET=1\n")
    mkdirSync(join(folder, "aux"))
    writeFileSync(join(folder, "aux", "a.txt"), "")
    writeFileSync(join(folder, "readme.md"), "")
    expect(await refused(sum(folder))).toMatchInlineSnapshot(`
      "<release> cannot be published
        link.txt is a symbolic link
        ".env": it is hidden: its name begins with a dot
        "aux/a.txt": one of its names is a device of Windows
        "README.md" and "readme.md" are one file where case or accents make no difference
        hint: take out or rename what does not belong there"
    `)
  })

  it("tokens are found wherever they are, across pieces of a large file and in weights too", async () => {
    const folder = released()
    const long = Buffer.alloc((1 << 20) + 20, 46)
    long.write("hf_abcdefghijklmnopqrstuvwxyz01234567", (1 << 20) - 10)
    writeFileSync(join(folder, "notes.txt"), long)
    writeFileSync(join(folder, "tiny.gguf"), Buffer.concat([Buffer.alloc(1000, 255), Buffer.from(CANARY)]))
    writeFileSync(join(folder, "key.txt"), "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2Vw\n-----END PRIVATE KEY-----\n")
    expect(await refused(sum(folder))).toMatchInlineSnapshot(`
      "<release> cannot be published
        key.txt contains what looks like a private key
        notes.txt contains what looks like a Hugging Face token
        tiny.gguf contains what looks like the very token it would be published with
        hint: revoke it, take it out of where it came from, and make the release again"
    `)
  })

  it("a card that the Hub would refuse is refused here, each fault by its field", async () => {
    const folder = released("1", {
      license: "my-licence",
      language: ["en", "english"],
      library_name: "transformer",
      pipeline_tag: "text_generation",
      datasets: ["a b"],
      base_model: "llama",
      new_version: "our-org/tiny-2",
    })
    expect(await refused(folder)).toMatchInlineSnapshot(`
      "<release> cannot be published
        front matter: license: the Hub has no \`my-licence\` in its list; use \`other\` with license_name and license_link
        front matter: language: \`english\` is no language code (ISO 639)
        front matter: pipeline_tag: the Hub has no \`text_generation\` for texts; did you mean text-generation?
        front matter: library_name: \`transformer\` loads no release of ours; did you mean transformers?
        front matter: datasets: \`a b\` names no data set
        front matter: base_model or new_version: \`llama\` is not of the form org/name
        hint: the card is made from the experiment's parameters: change them and run again"
    `)
  })

  it("a metric that was measured and is not in the card, or is there with another value, is found", async () => {
    const folder = write(join(temporaryFolder(), "release"), {
      ...files(),
      "benchmark_metrics.json": '{"metrics":{"val_loss_mixed":{"value":5.26},"val_loss_it":{"value":5}}}\n',
    })
    expect(await refused(folder)).toMatchInlineSnapshot(`
      "<release> cannot be published
        front matter: model-index: \`val_loss_mixed\` is 5.25, in benchmark_metrics.json it is 5.26
        front matter: model-index: \`val_loss_it\` of benchmark_metrics.json is not there
        hint: the card is made from the experiment's parameters: change them and run again"
    `)
  })

  it("scores in `.eval_results/` must be of the documented form", async () => {
    const folder = write(join(temporaryFolder(), "release"), {
      ...files(),
      ".eval_results/mine.yaml": "- dataset: { id: mine }\n  value: high\n",
    })
    expect(await refused(folder)).toMatchInlineSnapshot(`
      "<release> cannot be published
        .eval_results/mine.yaml: 0.dataset.task_id: Missing key
        .eval_results/mine.yaml: 0.value: Expected number
        hint: the card is made from the experiment's parameters: change them and run again"
    `)
    const good = write(join(temporaryFolder(), "release"), {
      ...files(),
      ".eval_results/gpqa.yaml": "- dataset:\n    id: Idavidrein/gpqa\n    task_id: gpqa_diamond\n  value: 0.412\n",
    })
    const server = await startHub()
    await run(server, publishing(good))
    assert.isDefined(server.read(target.to, "main", ".eval_results/gpqa.yaml"))
  })

  it("a token that may only read, is somebody else's or has no right to write here is told so", async () => {
    const folder = released()
    const account = (changes: object) => ({ accounts: { [CANARY]: { ...owner, ...changes } } })
    const write = [{ entity: { type: "org", name: "another" }, permissions: ["repo.write"] }]
    const read = [{ entity: { type: "org", name: "our-org" }, permissions: ["repo.content.read"] }]
    const said = [
      await refused(folder, {}, account({ role: "read" })),
      await refused(folder, { to: "their-org/tiny" }),
      await refused(folder, {}, account({ orgs: [{ name: "our-org", roleInOrg: "read" }] })),
      await refused(folder, {}, account({ role: "fineGrained", scoped: write })),
      await refused(folder, {}, account({ role: "fineGrained", scoped: read })),
      await refused(folder, {}, { accounts: {} }),
      await refused(folder, { to: "our-org/tiny..git" }),
    ]
    expect(said.join("\n")).toMatchInlineSnapshot(`
      "publish to our-org/tiny: the token may only read
        hint: make one with the role write at https://huggingface.co/settings/tokens
      publish to their-org/tiny: the token is ada's, who is no member of \`their-org\`
        hint: publish to ada/tiny or our-org/tiny
      publish to our-org/tiny: ada may only read in \`our-org\`
        hint: ask one of its admins for the role write
      publish to our-org/tiny: the fine-grained token may not make repositories of \`our-org\`
        hint: give it \`repo.write\` for our-org at https://huggingface.co/settings/tokens
      publish to our-org/tiny: the fine-grained token may not make repositories of \`our-org\`
        hint: give it \`repo.write\` for our-org at https://huggingface.co/settings/tokens
      publish to <hub>: the hub does not take the token (401): Invalid username or password.
        hint: make a new token at https://huggingface.co/settings/tokens, then set HF_TOKEN or run \`hf auth login\`
      publish to our-org/tiny..git: it cannot name a repository
        hint: repositories are called org/name, of letters, digits, \`-\`, \`_\` and \`.\`"
    `)
    const scoped = [{ entity: { type: "org", name: "our-org" }, permissions: ["repo.write"] }]
    const server = await startHub(account({ role: "fineGrained", scoped }))
    assert.isTrue((await run(server, publishing(folder))).changed)
  })
})
