/** Published models brought from a hub on loopback, whatever happens on the way. */
import { mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect, Result } from "effect"
import { assert, describe, expect, it } from "vitest"
import { bringPublished, type PublishedRequest, takePublished } from "../../src/hub/Pretrained.ts"
import type { Shape } from "../../src/model/Architecture.ts"
import { temporaryFolder } from "../temporary.ts"
import { type HubServer, KINDS } from "./HubServer.ts"
import { shape as llama, published } from "./published.ts"
import { CANARY, hasty, startHub, userWith } from "./world.ts"

const gpt2: Shape = { layers: 2, width: 32, heads: 4 }
const mistral: Shape = { ...llama, slidingWindow: 48 }

const filesIn = (folder: string): Readonly<Record<string, Uint8Array>> =>
  Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]))

/** Somebody's model, in two shards, beside what a training has no use for. */
const filesOf = async (shape: Shape, changes = {}): Promise<Readonly<Record<string, Uint8Array>>> => {
  const { folder } = await Effect.runPromise(published(shape, changes))
  return {
    ...filesIn(folder),
    "README.md": Buffer.from("# A model\n"),
    "pytorch_model.bin": Buffer.from("pickled"),
    "onnx/model.onnx": Buffer.alloc(1000),
  }
}

const smallShape: Shape = { layers: 1, width: 16, heads: 2 }
let made: ReturnType<typeof filesOf> | undefined
const small = () => (made ??= filesOf(smallShape))

interface Asked {
  readonly model?: Shape
  readonly vocabulary?: number
  readonly to?: string
  readonly token?: string
  readonly signal?: AbortSignal
  readonly repository?: string
}

/** Brings a model and takes it over, as the step does. */
const bring = async (server: HubServer, commit: string, asked: Asked = {}) => {
  const { model = smallShape, vocabulary = 700, to = join(temporaryFolder(), "scratch"), token = "", signal } = asked
  const { repository = "our-org/model" } = asked
  const out = join(temporaryFolder(), "out")
  mkdirSync(to, { recursive: true })
  const said: Array<string> = []
  const about: PublishedRequest["about"] = { name: repository, revision: commit, license: "MIT" }
  const result = await Effect.runPromise(
    bringPublished({
      ...{ repository, commit, model, vocabulary, to, endpoint: server.endpoint, patience: hasty },
      say: () => {},
      progress: (done, total, detail) => void said.push(`${done} of ${total} MB, ${detail}`),
    }).pipe(
      Effect.andThen(takePublished({ folder: to, about, model, vocabulary, out })),
      Effect.result,
      Effect.provide(userWith(token)),
    ),
    signal === undefined ? {} : { signal },
  )
  return {
    tag: Result.isFailure(result) ? result.failure._tag : undefined,
    refused: Result.isFailure(result) ? result.failure.message : undefined,
    files: () =>
      Object.fromEntries(
        Object.entries(filesIn(out)).map(([name, bytes]) => [name, Buffer.from(bytes).toString("base64")]),
      ),
    said,
  }
}

const seeded = async (files: Promise<Readonly<Record<string, Uint8Array>>> = small(), is = {}) => {
  const server = await startHub({ pageSize: 4, slowSeconds: 0.05 })
  return { server, commit: server.seedFiles("our-org/model", await files, is) }
}

const paths = (server: HubServer, from = 0): ReadonlyArray<string> =>
  server.seen.slice(from).flatMap(({ url }) => /\/resolve\/[^/]+\/(.*)$/.exec(url)?.[1] ?? [])
const weighed = (server: HubServer) => server.seen.filter(({ place }) => place === "storage")

describe("a published model of the hub", () => {
  it.each([
    ["a GPT-2", gpt2],
    ["a LLaMA", llama],
    ["a Mistral", mistral],
  ] as const)(
    "%s comes as it is there: configuration and tokenizer first, its shards, and nothing else",
    async (_, shape) => {
      const { server, commit } = await seeded(filesOf(shape))
      const brought = await bring(server, commit, { model: shape })
      assert.isUndefined(brought.refused)
      assert.deepStrictEqual(paths(server), [
        ...["config.json", "tokenizer.json", "model.safetensors.index.json"],
        ...["model-1.safetensors", "model-2.safetensors"],
      ])
      const { architecture, name, revision, license, files } = JSON.parse(
        Buffer.from(brought.files()["pretrained.json"]!, "base64").toString(),
      )
      assert.deepInclude(architecture, { ...shape, vocabulary: 700, context: 64 })
      assert.deepStrictEqual([name, revision, license], ["our-org/model", commit, "MIT"])
      const sums = server.sums("our-org/model", commit)
      assert.lengthOf(Object.keys(files), 4)
      for (const [path, sum] of Object.entries(files)) assert.strictEqual(sum, sums[path], path)
      expect(brought.said.at(-1)).toBe("0 of 0 MB, model-2.safetensors, file 2 of 2")
    },
  )

  it("has the same bytes after any single failure of any request, at once or with the same command again", async () => {
    const { server, commit } = await seeded()
    const whole = (await bring(server, commit)).files()
    const requests = server.count
    assert.isAbove(requests, 8)
    let happened = 0
    for (const kind of KINDS)
      for (let nth = 1; nth <= requests; nth++) {
        const to = join(temporaryFolder(), "scratch")
        server.fail(nth, kind)
        const first = await bring(server, commit, { to })
        if (server.disarm()) happened++
        // only what a server means for good is told to somebody, and nothing secret with it
        if (first.refused !== undefined) {
          assert.strictEqual(kind, "403", first.refused)
          assert.include(first.refused, "\n  hint: ")
          assert.notInclude(first.refused, "X-Amz-Signature")
        }
        const last = first.refused === undefined ? first : await bring(server, commit, { to })
        assert.deepStrictEqual(last.files(), whole, `${kind}, request ${nth}`)
      }
    assert.isAbove(happened, 60)
    assert.deepStrictEqual(server.violations, [])
  }, 120_000)

  it("goes on where it was interrupted, in the middle of a shard, and asks for the rest alone", async () => {
    const { server, commit } = await seeded(filesOf(gpt2))
    const whole = (await bring(server, commit, { model: gpt2 })).files()
    const to = join(temporaryFolder(), "scratch")
    server.drip = { bytes: 4000, milliseconds: 2 }
    const stop = new AbortController()
    const second = join(to, "model-2.safetensors")
    const watch = setInterval(() => {
      if ((statSync(second, { throwIfNoEntry: false })?.size ?? 0) > 10_000) stop.abort()
    }, 2)
    await expect(bring(server, commit, { model: gpt2, to, signal: stop.signal })).rejects.toThrow()
    clearInterval(watch)
    server.drip = undefined
    const there = statSync(second).size
    assert.isBelow(there, server.read("our-org/model", commit, "model-2.safetensors")!.length)
    const before = server.seen.length
    const rest = await bring(server, commit, { model: gpt2, to })
    assert.deepStrictEqual(rest.files(), whole)
    const ranges = server.seen
      .slice(before)
      .flatMap(({ place, headers }) => (place === "storage" ? [headers.range] : []))
    assert.deepStrictEqual(ranges, [`bytes=${there}-`])
  })

  it("is begun anew where what lies there is something else", async () => {
    const { server, commit } = await seeded()
    const whole = (await bring(server, commit)).files()
    const to = join(temporaryFolder(), "scratch")
    mkdirSync(to)
    for (const [name, text] of [
      ["config.json", "{}"],
      ["model-1.safetensors", "not its beginning"],
      ["model-2.safetensors", "x".repeat(1 << 20)],
    ] as const)
      writeFileSync(join(to, name), text)
    assert.deepStrictEqual((await bring(server, commit, { to })).files(), whole)
  })

  it("is refused when a shard is not what is listed, however often it is asked for", async () => {
    const { server, commit } = await seeded()
    const oid = server.sums("our-org/model", commit)["model-2.safetensors"]!
    const bytes = Buffer.from(server.objects.get(oid)!)
    bytes[bytes.length - 1]! ^= 1
    server.objects.set(oid, bytes)
    const { tag, refused } = await bring(server, commit)
    assert.strictEqual(tag, "DownloadDamaged")
    expect(refused).toMatch(/^our-org\/model: model-2\.safetensors: it has other bytes than the hub lists\n {2}hint: /)
    assert.isAtMost(weighed(server).length, 6)
  })

  it("that is gated is asked for with the token alone, and says what to do without", async () => {
    const { server, commit } = await seeded(small(), { gated: true })
    const without = await bring(server, commit)
    const others = await seeded(small(), { gated: ["somebody-else"] })
    const notLetIn = await bring(others.server, others.commit, { token: CANARY })
    const hidden = await bring(server, commit, { repository: "our-org/secret" })
    expect(
      [without, notLetIn, hidden]
        .map(({ refused }) => refused!.replaceAll(/http:\/\/127\.0\.0\.1:\d+/g, "<hub>"))
        .join("\n"),
    ).toMatchInlineSnapshot(`
      "hub: download config.json of our-org/model: 401: it is open to those who accepted its terms
        hint: accept them at <hub>/our-org/model, then set HF_TOKEN or run \`hf auth login\`
      hub: download config.json of our-org/model: 403: it is open to those who accepted its terms, and the owner of the token is none of them
        hint: accept them at <hub>/our-org/model as the owner of the token, which must be allowed to read gated repositories; some are opened by hand, and take days
      hub: look at our-org/secret: 401: there is no such repository or revision, or it is private
        hint: see that it is spelled so; what is private needs HF_TOKEN or \`hf auth login\`"
    `)
    assert.lengthOf([...weighed(server), ...weighed(others.server)], 0)
    assert.isUndefined((await bring(server, commit, { token: CANARY })).refused)
    assert.deepStrictEqual(server.violations, [])
  })

  it("that cannot be trained further is refused before its weights come, in words", async () => {
    const files = await small()
    const { "model.safetensors.index.json": index, "tokenizer.json": tokenizer, ...rest } = files
    const config = (changes: object) => ({
      ...files,
      "config.json": Buffer.from(
        JSON.stringify({ ...JSON.parse(Buffer.from(files["config.json"]!).toString()), ...changes }),
      ),
    })
    const cases: ReadonlyArray<readonly [Readonly<Record<string, Uint8Array>>, Asked?]> = [
      [Object.fromEntries(Object.entries(rest).filter(([name]) => !name.endsWith(".safetensors")))],
      [{ ...rest, "model.safetensors.index.json": index!, "tokenizer.model": Buffer.from("sentences") }],
      [config({ model_type: "qwen2" })],
      [config({ scale_attn_by_inverse_layer_idx: true })],
      [files, { model: gpt2 }],
      [files, { vocabulary: 699 }],
      [{ ...files, "tokenizer.json": Buffer.from('{"model":{"type":"Telepathy"}}') }],
      [{ ...files, "model.safetensors.index.json": Buffer.from('{"weight_map":{"a":"model-3.safetensors"}}') }],
      [{ ...files, "model.safetensors.index.json": Buffer.from('{"weight_map":{"a":"../../secret"}}') }],
      [{ ...files, "config.json": Buffer.alloc((64 << 20) + 1) }],
    ]
    const refusals: Array<string> = []
    for (const [files, asked] of cases) {
      const { server, commit } = await seeded(Promise.resolve(files))
      const { refused } = await bring(server, commit, asked)
      assert.lengthOf(
        server.seen.filter(({ url }) => /resolve\/.*\.(safetensors|bin)$/.test(url)),
        0,
      )
      refusals.push(refused!.replaceAll(commit.slice(0, 12), "<commit>"))
    }
    expect(refusals.join("\n")).toMatchInlineSnapshot(`
      "our-org/model at <commit>: its weights are pickled alone
        hint: name a commit that has \`model.safetensors\` (the hub's own pull requests convert many), or load it with transformers where you trust it, \`save_pretrained(…)\`, and take that folder as \`from\`
      our-org/model at <commit>: it has no \`tokenizer.json\`
        hint: write it with transformers, beside the weights in a folder that \`from\` names: \`AutoTokenizer.from_pretrained(…).save_pretrained(…)\`
      our-org/model/config.json at <commit>: \`model_type\` is "qwen2"
        hint: GPT-2, LLaMA and Mistral are trained further, as they were published, without changes of their arithmetic
      our-org/model/config.json at <commit>: \`scale_attn_by_inverse_layer_idx\` is true, which is not computed here
        hint: GPT-2, LLaMA and Mistral are trained further, as they were published, without changes of their arithmetic
      our-org/model/config.json at <commit>: it is another model than the experiment says
        hint: write \`model: { layers: 1, width: 16, heads: 2 }, vocabulary: 700\`
      our-org/model/config.json at <commit>: it is another model than the experiment says
        hint: write \`model: { layers: 1, width: 16, heads: 2 }, vocabulary: 700\`
      our-org/model/tokenizer.json at <commit>: Tokenizer must contain a "decoder" property
        hint: write it with transformers, beside the weights in a folder that \`from\` names: \`AutoTokenizer.from_pretrained(…).save_pretrained(…)\`
      our-org/model at <commit>: it has no \`model-3.safetensors\`
        hint: a folder as \`save_pretrained\` of transformers writes it is wanted, with weights as safetensors
      our-org/model at <commit>: it has no \`../../secret\`
        hint: a folder as \`save_pretrained\` of transformers writes it is wanted, with weights as safetensors
      our-org/model/config.json at <commit>: it has 67108865 bytes
        hint: a folder as \`save_pretrained\` of transformers writes it is wanted, with weights as safetensors"
    `)
  }, 60_000)
})
