/**
 * A published model, as Hugging Face `transformers` has it in a folder, made the start of a training:
 *
 * | file                                           | what                                                              |
 * |------------------------------------------------|-------------------------------------------------------------------|
 * | `model.safetensors`                            | its weights, exactly, in fp32 under canonical names, in one file   |
 * | `pretrained.json`                              | `Pretrained`: its architecture, and the files it was read from     |
 * | `tokenizer.json`, `tokenizer_config.json`      | its tokenizer, and which tokens begin, end and pad a text          |
 *
 * Weights are read from `model.safetensors`, or from the shards that `model.safetensors.index.json` names, in F32, F16 or BF16; a few
 * rows at a time, so that a model of any size costs little memory.
 */
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { tokenizerOf } from "../data/Tokenizer.ts"
import * as Safetensors from "../engine/Safetensors.ts"
import { Architecture, complete, type Shape, tensors } from "../model/Architecture.ts"
import { architectureOf, type Config } from "../model/Pretrained.ts"
import { Weights } from "../release/gguf/Source.ts"
import { sha256OfFile } from "../release/Sums.ts"
import { bytesBelow, requireDisk } from "../store/Disk.ts"
import { bytesOf, openFiles } from "./Files.ts"
import { pathProblem } from "./Paths.ts"
import type { Patience } from "./Requests.ts"

export class PretrainedUnfit extends Schema.TaggedError<PretrainedUnfit>()("PretrainedUnfit", {
  path: Schema.String,
  problem: Schema.String,
  hint: Schema.String,
}) {
  override get message() {
    return `${this.path}: ${this.problem}\n  hint: ${this.hint}`
  }
}

export const Pretrained = Schema.Struct({
  /** `context`: the positions it was published with. */
  architecture: Architecture,
  /** By name, what it was read from. */
  files: Schema.Record(Schema.String, Schema.String),
  /** `org/name` with a `revision` where it came from the hub, else the name of its folder. */
  name: Schema.String,
  revision: Schema.optionalKey(Schema.String),
  license: Schema.optionalKey(Schema.String),
})
export type Pretrained = typeof Pretrained.Type

const WEIGHTS = "model.safetensors"
const INDEX = "model.safetensors.index.json"
const TOKENIZER = ["tokenizer.json", "tokenizer_config.json"]
const MOST_FILES = 10_000
const MAX_JSON = 64 << 20

/** Weights as Python objects: reading them may run whatever whoever packed them wished. */
const PICKLED = /(?:^|\/)(?:pytorch_model.*\.bin|consolidated.*\.pth|.*\.(?:ckpt|pt|pth|pkl))$/
const UNPICKLED =
  "name a commit that has `model.safetensors` (the hub's own pull requests convert many), or load it with transformers where you trust it, `save_pretrained(…)`, and take that folder as `from`"

const WHOLE = "a folder as `save_pretrained` of transformers writes it is wanted, with weights as safetensors"

const TOKENIZED =
  "write it with transformers, beside the weights in a folder that `from` names: `AutoTokenizer.from_pretrained(…).save_pretrained(…)`"

const refuse = (path: string, problem: string, hint: string = WHOLE) => new PretrainedUnfit({ path, problem, hint })
const isObject = (value: unknown): value is Config =>
  typeof value === "object" && value !== null && !Array.isArray(value)
const words = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))

const readJson = (path: string): Config => {
  const { size } = statSync(path)
  if (size > MAX_JSON) throw new Error(`it has ${size} bytes`)
  const value: unknown = JSON.parse(readFileSync(path, "utf8"))
  if (!isObject(value)) throw new Error("it holds no object")
  return value
}
const json = (path: string, hint?: string): Effect.Effect<Config, PretrainedUnfit> =>
  Effect.try({ try: () => readJson(path), catch: (cause) => refuse(path, words(cause), hint) })

/** Names of the files that weights are in, by an index or without one. */
const shardsOf = (index: Config | undefined): ReadonlyArray<string> => {
  if (index === undefined) return [WEIGHTS]
  const names = Object.values((index["weight_map"] ?? {}) as Config)
  return [...new Set(names.filter((name): name is string => typeof name === "string"))].toSorted()
}

const shardsIn = Effect.fnUntraced(function* (folder: string) {
  const index = join(folder, INDEX)
  if (!existsSync(folder))
    return yield* refuse(folder, "there is no such folder", "see that `from` names it from where `exp` is started")
  if (!existsSync(join(folder, WEIGHTS)) && !existsSync(index))
    return yield* refuse(
      folder,
      `it has neither \`${WEIGHTS}\` nor \`${INDEX}\``,
      "load it with transformers and `save_pretrained(…, safe_serialization=True)`",
    )
  const shards = shardsOf(existsSync(join(folder, WEIGHTS)) ? undefined : yield* json(index))
  const wrong = shards.find((name) => pathProblem(name) !== undefined || !existsSync(join(folder, name)))
  if (wrong !== undefined) return yield* refuse(index, `it names \`${wrong}\`, which is not there`)
  return shards
})

/** sha256 of what a training from this folder would read, by name. */
export const fingerprints = Effect.fn("hub.fingerprints")(function* (folder: string) {
  const shards = yield* shardsIn(folder)
  const names = ["config.json", ...TOKENIZER.filter((name) => existsSync(join(folder, name))), ...shards]
  const sums: Record<string, string> = {}
  for (const name of names)
    sums[name] = yield* sha256OfFile(join(folder, name)).pipe(Effect.mapError((cause) => refuse(folder, words(cause))))
  return sums as Readonly<Record<string, string>>
})

/** What went wrong with a download is told of the repository, not of the folder it was brought to. */
const named =
  (folder: string, name: string, revision: string | undefined) =>
  (error: PretrainedUnfit): PretrainedUnfit =>
    revision === undefined
      ? error
      : new PretrainedUnfit({ ...error, path: `${error.path.replace(folder, name)} at ${revision.slice(0, 12)}` })

export interface BringRequest {
  /** `org/name`. */
  readonly repository: string
  readonly commit: string
  /** As the experiment says it: what is another model is refused before its weights come. */
  readonly model: Shape
  readonly vocabulary: number
  readonly to: string
  readonly endpoint?: string | undefined
  readonly patience?: Partial<Patience> | undefined
  readonly say: (text: string) => void
  /** Megabytes of weights. */
  readonly progress: (done: number, total: number, detail: string) => void
}

const mb = (bytes: number): number => Math.round(bytes / 1e6)

/** What a training needs of a repository, brought to a folder; what is there already goes on. */
export const bringPublished = Effect.fn("hub.bringPublished")(
  function* (request: BringRequest) {
    const { commit, to, progress } = request
    const hub = yield* openFiles({ ...request, kind: "models", endpoint: request.endpoint })
    const listed = (yield* hub.list(commit, "", MOST_FILES)).filter(({ type }) => type === "file")
    const entries = new Map(listed.map((entry) => [entry.path, entry]))
    const lacks = (name: string, hint = WHOLE) => refuse(to, `it has no \`${name}\``, hint)
    const whole = entries.has(WEIGHTS)
    if (!whole && !entries.has(INDEX) && listed.some(({ path }) => PICKLED.test(path)))
      return yield* refuse(to, "its weights are pickled alone", UNPICKLED)
    for (const [name, hint] of [["config.json"], ["tokenizer.json", TOKENIZED]] as const)
      if (!entries.has(name)) return yield* lacks(name, hint)
    for (const name of ["config.json", ...TOKENIZER, ...(whole ? [] : [INDEX])]) {
      const entry = entries.get(name)
      if (entry === undefined) continue
      if (bytesOf(entry) > MAX_JSON) return yield* refuse(join(to, name), `it has ${bytesOf(entry)} bytes`)
      yield* hub.bring(commit, entry, join(to, name))
    }
    yield* judged({ ...request, folder: to })
    const index = whole || !entries.has(INDEX) ? undefined : yield* json(join(to, INDEX))
    const shards = shardsOf(index)
    const missing = shards.find((name) => pathProblem(name) !== undefined || !entries.has(name))
    if (missing !== undefined) return yield* lacks(missing)
    const total = shards.reduce((sum, name) => sum + bytesOf(entries.get(name)!), 0)
    yield* requireDisk(to, total - bytesBelow(to))
    let done = 0
    for (const [number, name] of shards.entries()) {
      const entry = entries.get(name)!
      const detail = `${name}${shards.length > 1 ? `, file ${number + 1} of ${shards.length}` : ""}`
      yield* hub.bring(commit, entry, join(to, name), (bytes) => progress(mb(done + bytes), mb(total), detail))
      done += bytesOf(entry)
    }
  },
  (bringing, { to, repository, commit }) =>
    Effect.catchTag(bringing, "PretrainedUnfit", (error) => Effect.fail(named(to, repository, commit)(error))),
)

/** A published tensor by its canonical name: GPT-2 is also published without the prefix. */
const locate = (shards: ReadonlyArray<Weights>) => (name: string) => {
  for (const found of [name, name.replace(/^transformer\./, "")])
    for (const shard of shards) if (shard.tensors.has(found)) return { shard, found }
  return undefined
}

/** Of old files: masks, often of truth values, and frequencies, which are no weights. */
const DERIVED = /\.attn\.(masked_)?bias$|rotary_emb\.inv_freq$/

/** The tensors of an architecture, as the files have them. Throws what is wrong. */
const streamed = (architecture: Architecture, shards: ReadonlyArray<Weights>): ReadonlyArray<Safetensors.Streamed> => {
  const find = locate(shards)
  const used = new Set<string>()
  const of = (name: string, shape: ReadonlyArray<number>): Safetensors.Streamed => {
    const place = find(name)
    if (place === undefined) throw new Error(`tensor \`${name}\` is missing`)
    used.add(place.found)
    const tensor = place.shard.streamed(place.found, name)
    if (tensor.shape.join() !== shape.join())
      throw new Error(`\`${name}\` is [${tensor.shape.join(", ")}], \`config.json\` wants [${shape.join(", ")}]`)
    return tensor
  }
  const all = tensors(architecture).map(({ name, shape }) => of(name, shape))
  // transformers 4 ignores a head beside a tied embedding, 5 uses it: only where it makes no difference
  const table = all.find(({ name }) => /wte|embed_tokens/.test(name))!
  if (!used.has("lm_head.weight") && find("lm_head.weight") !== undefined) {
    const head = of("lm_head.weight", table.shape)
    if (!equal(head, table)) throw new Error("it has a head of its own beside a tied embedding")
  }
  const extra = shards.flatMap(({ tensors }) => [...tensors.keys()]).filter((name) => !used.has(name))
  if (extra.length > 0) throw new Error(`tensors the architecture does not have: ${extra.slice(0, 5).join(", ")}`)
  return all
}

/** Row by row. */
const equal = (a: Safetensors.Streamed, b: Safetensors.Streamed): boolean => {
  const [rows, width] = a.shape as [number, number]
  const [x, y] = [new Float32Array(width), new Float32Array(width)]
  for (let row = 0; row < rows; row++) {
    a.fill(row * width, x)
    b.fill(row * width, y)
    if (x.some((value, i) => value !== y[i])) return false
  }
  return true
}

/** How a shape is written in an experiment: without what is so by default. */
const written = (architecture: Architecture): string => {
  const { context: _, vocabulary: __, paddingId: ___, ...shape } = architecture as Architecture & { paddingId?: number }
  const spare: Readonly<Record<string, unknown>> = {
    ...complete({ family: "llama", layers: shape.layers, width: shape.width, heads: shape.heads }, 1, 1),
    family: "gpt2",
    layers: 0,
    width: 0,
    heads: 0,
  }
  const said = Object.entries(shape).filter(([key, value]) => spare[key] !== value)
  return `{ ${said.map(([key, value]) => `${key}: ${JSON.stringify(value)}`).join(", ")} }`
}

/** The experiment says what the model is, so that a plan knows; here it is seen whether that is so. */
const checkShape = (path: string, architecture: Architecture, model: Shape, vocabulary: number) => {
  const plain = (one: Architecture) => ({ ...one, paddingId: undefined })
  const asked = complete(model, architecture.context, architecture.vocabulary)
  const same = JSON.stringify(plain(asked)) === JSON.stringify(plain(architecture))
  return same && vocabulary === architecture.vocabulary
    ? Effect.void
    : refuse(
        path,
        "it is another model than the experiment says",
        `write \`model: ${written(architecture)}, vocabulary: ${architecture.vocabulary}\``,
      )
}

/**
 * Which tokens begin, end and pad a text: by the tokenizer's own settings, or where they do not say it by the ids of `config.json`.
 * Nothing else of the settings is taken: they name classes that only some versions of transformers have.
 */
const tokenizerSettings = (settings: Config, tokenizer: Config, config: Config): Config => {
  const model = (tokenizer["model"] ?? {}) as Config
  const added = (tokenizer["added_tokens"] ?? []) as ReadonlyArray<{ readonly id: number; readonly content: string }>
  const contentOf = (id: unknown): string | undefined =>
    added.find((token) => token.id === id)?.content ??
    Object.entries((model["vocab"] ?? {}) as Config).find(([, other]) => other === id)?.[0]
  const named = ["bos", "eos", "pad"].flatMap((name) => {
    const said = settings[`${name}_token`]
    const content = (isObject(said) ? said["content"] : said) ?? contentOf(config[`${name}_token_id`])
    return typeof content === "string" ? [[`${name}_token`, content] as const] : []
  })
  return Object.fromEntries(named)
}

/** What the small files of a model say: whether it is the one that is meant, and what it reads. */
const judged = Effect.fnUntraced(function* (request: Pick<PublishedRequest, "folder" | "model" | "vocabulary">) {
  const { folder, model, vocabulary } = request
  const config = yield* json(join(folder, "config.json"))
  const found = architectureOf(config)
  if (Result.isFailure(found))
    return yield* refuse(join(folder, "config.json"), found.failure.problem, found.failure.hint)
  const architecture = found.success
  yield* checkShape(join(folder, "config.json"), architecture, model, vocabulary)
  const tokenizerFile = join(folder, "tokenizer.json")
  const tokenizer = yield* json(tokenizerFile, TOKENIZED)
  const settingsFile = join(folder, "tokenizer_config.json")
  const settings = tokenizerSettings(existsSync(settingsFile) ? yield* json(settingsFile) : {}, tokenizer, config)
  const loaded = yield* Effect.tryPromise({
    try: () => tokenizerOf(tokenizer, settings),
    catch: (cause) => refuse(tokenizerFile, words(cause), TOKENIZED),
  })
  if (loaded.vocabularySize > architecture.vocabulary)
    return yield* refuse(
      tokenizerFile,
      `it has ids up to ${loaded.vocabularySize - 1}, the model has ${architecture.vocabulary} rows of embeddings`,
      "resize the embeddings with transformers, or take the tokenizer that the model was published with",
    )
  return { architecture, settings, tokenizerFile }
})

export interface PublishedRequest {
  readonly folder: string
  readonly about: Pick<Pretrained, "name" | "revision" | "license">
  readonly model: Shape
  readonly vocabulary: number
  readonly out: string
}

/** Writes the artifact; the layout is above. */
export const takePublished = Effect.fn("hub.takePublished")(
  function* (request: PublishedRequest) {
    const { folder, out } = request
    const { architecture, settings, tokenizerFile } = yield* judged(request)
    const shards = yield* shardsIn(folder)
    const files = yield* fingerprints(folder)
    mkdirSync(out, { recursive: true })
    yield* Effect.acquireUseRelease(
      Effect.try({
        try: () => openAll(shards.map((name) => join(folder, name))),
        catch: (cause) => refuse(folder, words(cause)),
      }),
      (open) =>
        Effect.gen(function* () {
          const all = yield* Effect.try({
            try: () => streamed(architecture, open),
            catch: (cause) => refuse(folder, words(cause), "the weights are not those of `config.json`"),
          })
          yield* Safetensors.write(join(out, WEIGHTS), all)
        }),
      (open) =>
        Effect.sync(() => {
          for (const one of open) one.close()
        }),
    )
    const about: Pretrained = { ...request.about, architecture, files }
    writeFileSync(join(out, "tokenizer.json"), readFileSync(tokenizerFile))
    writeFileSync(join(out, "tokenizer_config.json"), `${JSON.stringify(settings, null, 2)}\n`)
    writeFileSync(join(out, "pretrained.json"), `${JSON.stringify(about, null, 2)}\n`)
    return about
  },
  (taking, { folder, about: { name, revision } }) =>
    Effect.catchTag(taking, "PretrainedUnfit", (error) => Effect.fail(named(folder, name, revision)(error))),
)

/** All of them, or none. */
const openAll = (paths: ReadonlyArray<string>): ReadonlyArray<Weights> => {
  const open: Array<Weights> = []
  try {
    for (const path of paths) open.push(new Weights(path, DERIVED))
  } catch (cause) {
    for (const one of open) one.close()
    throw cause
  }
  return open
}
