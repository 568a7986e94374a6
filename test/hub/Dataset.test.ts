import { appendFileSync, readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { gzipSync } from "node:zlib"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect } from "effect"
import { assert, describe, expect, it } from "vitest"
import { folderOf, matcher } from "../../src/hub/Dataset.ts"
import { openFiles } from "../../src/hub/Files.ts"
import { append } from "../../src/store/Journal.ts"
import { bring, table, workplace } from "./dataset.ts"
import { type HubServer, KINDS } from "./HubServer.ts"
import { CANARY, startHub } from "./world.ts"

/** Three files of four documents, a reader's note, and files of another language. */
const files: Readonly<Record<string, Uint8Array>> = {
  ...Object.fromEntries(
    [0, 1, 2].map((file) => {
      const names = [0, 1, 2, 3].map((row) => `${file}.${row}`)
      return [
        `data/${file}.parquet`,
        table({ id: names, text: names.map((name) => `Documento ${name}. ${"Così è. ".repeat(file + 1)}`) }),
      ] as const
    }),
  ),
  "README.md": Buffer.from("# Web\n"),
  "other/0.parquet": table({ id: ["x"], text: ["not asked for"] }),
}

const seeded = async (settings = {}): Promise<{ readonly server: HubServer; readonly commit: string }> => {
  const server = await startHub({ pageSize: 2, slowSeconds: 0.05, ...settings })
  return { server, commit: server.seedDataset("our-org/web", files) }
}

const documentsOf = (brought: { readonly files: () => Readonly<Record<string, string>> }) =>
  brought
    .files()
    ["web_it.jsonl"]!.split("\n")
    .slice(0, -1)
    .map((line) => JSON.parse(line) as { readonly id?: string; readonly text: string })

const downloads = (server: HubServer) => server.seen.filter(({ place }) => place === "storage")

describe("a data set of the hub", () => {
  it("comes here file by file in the order of their paths, and says which bytes of what it is", async () => {
    const { server, commit } = await seeded()
    const place = workplace()
    const brought = await bring(server, commit, {
      ...place,
      id: "id",
      rights: { license: "ODC-By-1.0", attribution: "Web, by our organization" },
      language: "it",
    })
    assert.isUndefined(brought.refused)
    assert.deepStrictEqual(
      documentsOf(brought).map(({ id }) => id),
      [0, 1, 2].flatMap((file) => [0, 1, 2, 3].map((row) => `${file}.${row}`)),
    )
    const index = JSON.parse(brought.files()["dataset.json"]!)
    const sums = server.sums("datasets/our-org/web", commit)
    assert.deepStrictEqual(
      index.files.map(({ path, sha256 }: { path: string; sha256: string }) => [path, sha256]),
      [0, 1, 2].map((file) => [`data/${file}.parquet`, sums[`data/${file}.parquet`]]),
    )
    const { files: _, ...rest } = index
    expect(rest).toEqual({
      source: "web_it",
      language: "it",
      repository: "our-org/web",
      commit,
      text: "text",
      id: "id",
      rights: { license: "ODC-By-1.0", attribution: "Web, by our organization" },
      documents: 12,
      textBytes: documentsOf(brought).reduce((sum, { text }) => sum + Buffer.byteLength(text), 0),
      bounded: false,
    })
    // nothing that was downloaded stays, and only what was asked for was; of what was taken there is a line a file
    assert.deepStrictEqual(readdirSync(place.scratch), ["taken.ndjson"])
    assert.lengthOf(readFileSync(join(place.scratch, "taken.ndjson"), "utf8").trimEnd().split("\n"), 3)
    assert.lengthOf(downloads(server), 3)
  })

  it("ends where the bound is reached, and fetches no file after that", async () => {
    const { server, commit } = await seeded()
    const five = await bring(server, commit, { most: { documents: 5 } })
    assert.deepStrictEqual([documentsOf(five).length, downloads(server).length], [5, 2])
    assert.strictEqual(JSON.parse(five.files()["dataset.json"]!).bounded, true)
    const sizes = documentsOf(five).map(({ text }) => Buffer.byteLength(text))
    const megabytes = (sizes.slice(0, 3).reduce((sum, size) => sum + size) + 1) / 1e6
    const bytes = await bring(server, commit, { most: { megabytes } })
    assert.lengthOf(documentsOf(bytes), 3)
    const none = await bring(server, commit, { most: { megabytes: 1e-6 } })
    expect(none.refused).toBe(
      "our-org/web: its first document is larger than all that may be taken\n  hint: raise `most`",
    )
  })

  it("may be of several kinds of files in several folders", async () => {
    const server = await startHub()
    const commit = server.seedDataset("our-org/web", {
      "b/1.jsonl.gz": gzipSync('{"text":"tre"}\n{"text":"quattro"}\n'),
      "a/x/2.txt": Buffer.from("due\n"),
      "a/1.json": Buffer.from('{"text":"uno"}\n'),
      "c/1.jsonl": Buffer.from('{"text":"no"}\n'),
    })
    const brought = await bring(server, commit, { files: ["b/*", "a/**"] })
    assert.deepStrictEqual(
      documentsOf(brought).map(({ text }) => text),
      ["uno", "due", "tre", "quattro"],
    )
  })

  it("is asked for without the token, which goes to gated ones alone and never to where large files lie", async () => {
    const { server, commit } = await seeded()
    assert.isUndefined((await bring(server, commit, { token: CANARY })).refused)
    assert.isTrue(server.seen.every(({ headers }) => headers.authorization === undefined))

    server.seedDataset("our-org/web", {}, { gated: true })
    const before = server.seen.length
    const open = await bring(server, commit, { token: CANARY })
    assert.isUndefined(open.refused)
    const shown = server.seen.slice(before).filter(({ headers }) => headers.authorization !== undefined)
    assert.isTrue(shown.length > 0 && shown.every(({ url }) => url.includes("/resolve/")))
    assert.deepStrictEqual(server.violations, [])

    const { refused } = await bring(server, commit)
    expect(refused!.replace(server.endpoint, "<hub>")).toMatchInlineSnapshot(`
      "hub: download data/0.parquet of our-org/web: 401: it is open to those who accepted its terms
        hint: accept them at <hub>/datasets/our-org/web, then set HF_TOKEN or run \`hf auth login\`"
    `)
  })

  it("has the same bytes after any single failure of any request, at once or with the same command again", async () => {
    const { server, commit } = await seeded()
    const whole = (await bring(server, commit, { id: "id" })).files()
    const requests = server.count
    assert.isAbove(requests, 6)
    let happened = 0
    for (const kind of KINDS)
      for (let nth = 1; nth <= requests; nth++) {
        const place = workplace()
        server.fail(nth, kind)
        const first = await bring(server, commit, { ...place, id: "id" })
        if (server.disarm()) happened++
        // only what a server means for good is told to somebody, and nothing secret with it
        if (first.refused !== undefined) {
          assert.include(["403"], kind, first.refused)
          assert.include(first.refused, "\n  hint: ")
          assert.notInclude(first.refused, "X-Amz-Signature")
        }
        const last = first.refused === undefined ? first : await bring(server, commit, { ...place, id: "id" })
        assert.deepStrictEqual(last.files(), whole, `${kind}, request ${nth}`)
      }
    assert.isAbove(happened, 50)
    assert.deepStrictEqual(server.violations, [])
  })

  it("goes on where a connection broke, asking for the rest alone", async () => {
    const { server, commit } = await seeded()
    const [, first] = Object.entries(files)[0]!
    const whole = (await bring(server, commit)).files()
    const before = server.seen.length
    const listing = server.seen.findIndex(({ place }) => place === "storage")
    server.fail(listing + 1, "answer cut short")
    assert.deepStrictEqual((await bring(server, commit)).files(), whole)
    assert.isTrue(server.disarm())
    const ranges = server.seen
      .slice(before)
      .filter(({ place }) => place === "storage")
      .map(({ headers }) => headers.range)
    assert.deepStrictEqual(ranges, [undefined, `bytes=${first.length >> 1}-`, undefined, undefined])
  })

  it("goes on where an attempt was interrupted: no file twice, and of the one it was in what is missing", async () => {
    const { server } = await seeded()
    const long = Array.from({ length: 3000 }, (_, row) => `${row} ${Math.sin(row)} ${Math.cos(row)}`)
    const commit = server.seedDataset("our-org/web", {
      "data/1.parquet": table({ text: long, id: long }, "UNCOMPRESSED"),
    })
    const whole = (await bring(server, commit)).files()
    const place = workplace()
    server.drip = { bytes: 10_000, milliseconds: 2 }
    const stop = new AbortController()
    const watch = setInterval(() => {
      const half = join(place.scratch, "00001.download")
      if (readdirSync(place.scratch).includes("00001.download") && readFileSync(half).length > 50_000) stop.abort()
    }, 5)
    await expect(bring(server, commit, { ...place, signal: stop.signal })).rejects.toThrow()
    clearInterval(watch)
    server.drip = undefined
    const there = readFileSync(join(place.scratch, "00001.download")).length
    // what an attempt wrote after the last file that is done counts for nothing
    appendFileSync(join(place.out, "web_it.jsonl"), '{"text":"half a docu')
    const before = server.seen.length
    const rest = await bring(server, commit, place)
    assert.deepStrictEqual(rest.files(), whole)
    assert.deepStrictEqual(rest.said, ["1 of 3 files were taken before"])
    const ranges = server.seen
      .slice(before)
      .filter(({ place }) => place === "storage")
      .map(({ headers }) => headers.range)
    assert.deepStrictEqual(ranges, [`bytes=${there}-`, undefined])
  })

  it("is begun anew where what lies there is something else", async () => {
    const { server, commit } = await seeded()
    const brought = workplace()
    const whole = (await bring(server, commit, brought)).files()
    const lines = readFileSync(join(brought.scratch, "taken.ndjson"))
    for (const spoil of [
      ({ scratch }: ReturnType<typeof workplace>) =>
        writeFileSync(join(scratch, "00000.download"), "x".repeat(1 << 20)),
      ({ scratch }: ReturnType<typeof workplace>) =>
        writeFileSync(join(scratch, "00000.download"), "not its beginning"),
      ({ scratch }: ReturnType<typeof workplace>) => writeFileSync(join(scratch, "taken.ndjson"), '{"commit":\n'),
      ({ scratch }: ReturnType<typeof workplace>) => append(join(scratch, "taken.ndjson"), { commit, end: 99 }),
      // whole, and of documents that are not there
      ({ scratch }: ReturnType<typeof workplace>) => writeFileSync(join(scratch, "taken.ndjson"), lines),
      ({ scratch, out }: ReturnType<typeof workplace>) => {
        writeFileSync(join(scratch, "taken.ndjson"), lines)
        writeFileSync(join(out, "web_it.jsonl"), whole["web_it.jsonl"]!.slice(0, -1))
      },
      ({ out }: ReturnType<typeof workplace>) => writeFileSync(join(out, "web_it.jsonl"), "left over\n"),
    ]) {
      const place = workplace()
      spoil(place)
      assert.deepStrictEqual((await bring(server, commit, place)).files(), whole)
    }
  })

  it("goes on after the last line that is whole, and believes no line of another commit", async () => {
    const { server, commit } = await seeded()
    const place = workplace()
    const whole = (await bring(server, commit, place)).files()
    const state = join(place.scratch, "taken.ndjson")
    const lines = readFileSync(state, "utf8")
    for (const torn of [lines.slice(0, -1), lines.slice(0, -20)]) {
      writeFileSync(state, torn)
      const rest = await bring(server, commit, place)
      assert.deepStrictEqual([rest.files(), rest.said], [whole, ["2 of 3 files were taken before"]])
      assert.strictEqual(readFileSync(state, "utf8"), lines)
    }
    const later = server.seedDataset("our-org/web", { "data/0.parquet": files["data/1.parquet"]! })
    assert.notStrictEqual(later, commit)
    const anew = await bring(server, later, place)
    assert.deepStrictEqual(anew.said, [])
    assert.deepStrictEqual(anew.files(), (await bring(server, later)).files())
  })

  it("is refused when what comes is not what is listed, however often it is asked for", async () => {
    for (const wrong of [
      (bytes: Buffer) => bytes.fill(0, 10, 11),
      (bytes: Buffer) => bytes.subarray(0, -9),
      (bytes: Buffer) => Buffer.concat([bytes, Buffer.from("more")]),
    ]) {
      const { server, commit } = await seeded()
      const oid = server.sums("datasets/our-org/web", commit)["data/1.parquet"]!
      server.objects.set(oid, wrong(Buffer.from(server.objects.get(oid)!)))
      const { tag, refused } = await bring(server, commit)
      assert.strictEqual(tag, "DownloadDamaged")
      expect(refused).toMatch(
        /^our-org\/web: data\/1\.parquet: it (has other bytes than the hub lists|broke off after \d+ of \d+ bytes|has more than the \d+ bytes the hub lists)\n {2}hint: /,
      )
      assert.isAtMost(downloads(server).length, 9)
    }
  })

  it("is refused whole when its listing has names that lead elsewhere or a size that no disk has", async () => {
    for (const path of ["data/../../x.parquet", "data/a\u202eb.parquet", "data//x.parquet", "data/x\n.parquet"]) {
      const { server } = await seeded()
      const commit = server.seedDataset("our-org/web", { [path]: files["data/0.parquet"]! })
      const { tag, refused } = await bring(server, commit, { files: ["data/**"] })
      assert.strictEqual(tag, "ListingHostile", path)
      expect(refused!.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\u202e]/u)
      assert.lengthOf(downloads(server), 0)
    }
    const { server, commit } = await seeded()
    const tree = server.repositories.get("datasets/our-org/web")!.commits.get(commit)!.tree as Map<string, object>
    tree.set("data/0.parquet", { ...tree.get("data/0.parquet"), bytes: 2 ** 52 })
    expect(await bring(server, commit)).toMatchObject({
      tag: "DiskFull",
      refused: expect.stringMatching(/ are needed\n {2}hint: free /),
    })
  })

  it("is not listed to its end where it has more files than are taken, and the refusal blames no answer", async () => {
    const { server, commit } = await seeded()
    const listing = (below: string, most: number) =>
      Effect.gen(function* () {
        const hub = yield* openFiles({
          kind: "datasets",
          repository: "our-org/web",
          endpoint: server.endpoint,
          say: () => {},
        })
        return (yield* hub.list(commit, below, most)).filter(({ type }) => type === "file").length
      }).pipe(
        Effect.catch((error) => Effect.succeed(error.message)),
        Effect.provide(NodeServices.layer),
        Effect.runPromise,
      )
    assert.strictEqual(await listing("data", 3), 3)
    // pages are of two: the third file is on the last of them
    expect(await listing("data", 2)).toBe(
      "our-org/web lists more than 2 files in `data`: nothing was fetched of it\n  hint: see that it is the repository you mean; of a data set, name a folder of fewer in `files`",
    )
    const before = server.count
    expect(await listing("data", 0)).toMatch(/^our-org\/web lists more than 0 files /)
    assert.strictEqual(server.count - before, 1)
  })

  it("says what is missing: the repository, its files, or a reader for them", async () => {
    const { server, commit } = await seeded()
    const refusals = [
      await bring(server, commit, { repository: "our-org/wb" }),
      await bring(server, "0".repeat(40)),
      await bring(server, commit, { files: ["date/*.parquet"] }),
      await bring(server, commit, { files: ["data/*.jsonl"] }),
      await bring(server, commit, { files: ["*"] }),
    ]
    expect(
      refusals
        .map(({ refused }) => refused!.replaceAll(commit, "<commit>").replaceAll(commit.slice(0, 12), "<commit>"))
        .join("\n"),
    ).toMatchInlineSnapshot(`
      "hub: look at our-org/wb: 401: there is no such repository or revision, or it is private
        hint: see that it is spelled so; what is private needs HF_TOKEN or \`hf auth login\`
      hub: look at our-org/web: 404: there is no such repository or revision, or it is private
        hint: see that it is spelled so; what is private needs HF_TOKEN or \`hf auth login\`
      our-org/web: it has no file like \`date/*.parquet\` at <commit>
        hint: see what it has at https://huggingface.co/datasets/our-org/web/tree/<commit>
      our-org/web: it has no file like \`data/*.jsonl\` at <commit>
        hint: it has 3 others, such as \`data/0.parquet\`
      our-org/web/README.md: no reader for this extension
        hint: files may be .parquet, .jsonl, .json, both also with .gz, or .txt: name those alone in \`files\`"
    `)
  })

  it("tells how far it is by files and bytes, and never goes back", async () => {
    const { server, commit } = await seeded()
    const long = "Una frase che si ripete. ".repeat(2000)
    const big = server.seedDataset("our-org/web", {
      "data/1.parquet": table({ text: Array.from({ length: 100 }, (_, row) => `${row}${long}`) }, "UNCOMPRESSED"),
    })
    for (const most of [{}, { megabytes: 4 }]) {
      const { progress } = await bring(server, big, { most })
      assert.isAbove(progress.length, 5)
      progress.reduce((before, now) => {
        assert.isAtLeast(now.done, before.done)
        assert.isAtMost(now.done, now.total)
        return now
      })
      expect(progress.at(-1)!.detail).toMatch(/^file [23] of 3, data\/[12]\.parquet: \d of \d MB$/)
    }
    assert.notStrictEqual(big, commit)
  })
})

describe("a pattern of paths", () => {
  it("stands for names, and for folders only where it says so", () => {
    const matches = (pattern: string, ...paths: ReadonlyArray<string>) => paths.filter(matcher(pattern))
    const paths = ["a.parquet", "data/a.parquet", "data/b/c.parquet", "data/b/c.parquet.txt", "date/a.parquet"]
    assert.deepStrictEqual(matches("*.parquet", ...paths), ["a.parquet"])
    assert.deepStrictEqual(matches("data/*.parquet", ...paths), ["data/a.parquet"])
    assert.deepStrictEqual(matches("data/**/*.parquet", ...paths), ["data/a.parquet", "data/b/c.parquet"])
    assert.deepStrictEqual(matches("dat?/a.parquet", ...paths), ["data/a.parquet", "date/a.parquet"])
    assert.deepStrictEqual(matches("**", ...paths), paths)
    assert.deepStrictEqual(matches("a.(parquet)|[b]+$", "a.(parquet)|[b]+$", "a.parquet"), ["a.(parquet)|[b]+$"])
  })

  it("lists no more of a repository than it needs", () => {
    assert.strictEqual(folderOf(["data/CC-MAIN-2024-*/0.parquet"]), "data")
    assert.strictEqual(folderOf(["data/a/*.parquet", "data/b/*.parquet"]), "data")
    assert.strictEqual(folderOf(["data/a/b/*.parquet", "data/a/*.parquet"]), "data/a")
    assert.strictEqual(folderOf(["it/*.parquet", "*.txt"]), "")
    assert.strictEqual(folderOf(["it/train.parquet"]), "it")
  })
})
