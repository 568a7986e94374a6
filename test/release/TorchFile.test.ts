/** The checkpoint for PyTorch: that PyTorch reads it (where there is one), that every zip reader can, and that it is the same bytes. */
import { spawnSync } from "node:child_process"
import { createHash } from "node:crypto"
import {
  closeSync,
  existsSync,
  ftruncateSync,
  openSync,
  readFileSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs"
import { join } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Schema } from "effect"
import type { Shape } from "../../src/model/Architecture.ts"
import { stream } from "../../src/model/Random.ts"
import { modelConfig, torchCheckpoint } from "../../src/release/Export.ts"
import { float, prettyJson } from "../../src/release/Json.ts"
import { Tensor, torchFile, type Value, writeTorchFile } from "../../src/release/TorchFile.ts"
import { readWeightsHeader, writeTransformersWeights } from "../../src/release/Weights.ts"
import { temporaryFolder } from "../temporary.ts"
import { randomModel } from "./gguf/model.ts"
import { readZip } from "./zip.ts"

const program = process.env["EXP_PYTHON"] ?? "python3"
const skipped =
  spawnSync(program, ["-c", "import torch, transformers"]).status === 0
    ? ""
    : ` (skipped: \`${program}\` cannot import torch and transformers; set EXP_PYTHON)`
const withPython = skipped === "" ? it.effect : it.effect.skip

/** What PyTorch says of each job. */
const asked = (jobs: ReadonlyArray<object>): ReadonlyArray<unknown> => {
  const run = spawnSync(program, [new URL("../python/torch_file.py", import.meta.url).pathname], {
    input: JSON.stringify(jobs),
    encoding: "utf8",
    maxBuffer: 1 << 28,
  })
  assert.strictEqual(run.status, 0, run.stderr)
  return run.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line))
}

/** Bytes that differ from place to place. */
const weights = Buffer.from(Array.from({ length: 20_000 }, (_, i) => stream(5, "bytes").word(i) & 0xff))
const fromMemory = (offset: number, into: Uint8Array) => {
  into.set(weights.subarray(offset, offset + into.length))
}
const inMemory = (value: Value, stem = "small"): Buffer => {
  const pieces: Array<Buffer> = []
  for (const { bytes } of torchFile(stem, value, fromMemory)) pieces.push(Buffer.from(bytes))
  return Buffer.concat(pieces)
}

/** A few axes, short ones and empty ones among them. */
const Axes = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 6 }))).check(Schema.isMaxLength(4))
const Kinds = Schema.Literals(["F32", "F16", "BF16"])
const Tensors = Schema.Record(Schema.String, Schema.Struct({ kind: Kinds, shape: Axes }))
const Facts = Schema.Record(
  Schema.String,
  Schema.Union([
    Schema.Null,
    Schema.Boolean,
    Schema.Int,
    Schema.String,
    Schema.Array(Schema.Union([Schema.Int, Schema.String])),
    Schema.Record(Schema.String, Schema.Int),
  ]),
)

const laidOut = (tensors: typeof Tensors.Type): Readonly<Record<string, Tensor>> => {
  let offset = 0
  return Object.fromEntries(
    Object.entries(tensors).map(([name, { kind, shape }]) => {
      const tensor = new Tensor(kind, shape, offset)
      offset += tensor.bytes
      return [name, tensor]
    }),
  )
}

const DTYPES = { F32: "torch.float32", F16: "torch.float16", BF16: "torch.bfloat16" } as const

/** What `torch_file.py` tells of a value that came back as it was. */
const told = (value: Value): unknown => {
  if (value instanceof Tensor)
    return {
      tensor: [
        DTYPES[value.kind],
        value.shape,
        weights.subarray(value.offset, value.offset + value.bytes).toString("hex"),
      ],
    }
  if (typeof value === "number" && !Number.isSafeInteger(value)) return { float: value }
  if (value === null || typeof value !== "object") return value
  if (Array.isArray(value)) return value.map(told)
  if ("value" in value && Object.getPrototypeOf(value) !== Object.prototype) return { float: value.value }
  const members = Object.entries(value as Readonly<Record<string, Value>>)
  return { dict: members.map(([key, member]) => [key, told(member)]) }
}

const llama = { family: "llama", layers: 2, width: 64, heads: 4, keyValueHeads: 2 } as const
const shapes: Readonly<Record<string, Shape>> = {
  GPT2LMHeadModel: { layers: 2, width: 64, heads: 4 },
  LlamaForCausalLM: { ...llama, ropeTheta: 500_000 },
  "LlamaForCausalLM, tied": { ...llama, tiedHead: true },
  MistralForCausalLM: { ...llama, keyValueHeads: 1, slidingWindow: 20 },
}

/** A random model as a release has it, with its checkpoint for PyTorch. */
const released = Effect.fnUntraced(function* (shape: Shape) {
  const folder = temporaryFolder()
  const { architecture, checkpoint, request } = yield* randomModel(folder, { ...shape, context: 64 })
  const header = yield* readWeightsHeader(request.weights, architecture)
  yield* writeTransformersWeights(request.weights, join(folder, "model.safetensors"), header)
  writeFileSync(join(folder, "config.json"), prettyJson(modelConfig(architecture, request.ids)))
  const state = JSON.parse(readFileSync(join(checkpoint, "state.json"), "utf8"))
  const facts = { name: "random", license: "CC0-1.0", experiment: "random" }
  const value = torchCheckpoint({ release: facts, state, tokens: request.ids } as never, header)
  const path = join(folder, "random-step_0.pt")
  yield* writeTorchFile({ weights: request.weights, stem: "random-step_0", value }, path)
  return { path, folder, state }
})

interface Beside {
  readonly damaged: string | null
  readonly ways: Readonly<Record<string, Readonly<Record<string, unknown>>>>
}

describe("a checkpoint for PyTorch", () => {
  withPython(
    `gives, however it is loaded, the bits of the safetensors and a model with the same logits${skipped}`,
    () =>
      Effect.gen(function* () {
        const models = yield* Effect.forEach(Object.values(shapes), released)
        const answers = asked(models) as ReadonlyArray<Beside>
        for (const [m, [name, shape]] of Object.entries(shapes).entries()) {
          const { damaged, ways } = answers[m]!
          assert.isNull(damaged, name)
          const tied = shape.family !== "llama" || shape.tiedHead === true
          const expected = {
            keys: ["format", "name", "license", "experiment", "config", "state", "model"],
            beyond: tied ? ["lm_head.weight"] : [],
            unequal: [],
            tied,
            tiedInModel: tied,
            class: name.split(",")[0],
            sameLogits: true,
            sameConfig: true,
            state: models[m]!.state,
          }
          assert.deepStrictEqual(Object.keys(ways), ["read", "mapped", "mapped, offsets worked out"])
          for (const [way, { unaligned, ...found }] of Object.entries(ways)) {
            assert.deepStrictEqual(found, expected, `${name}, ${way}`)
            if (way.startsWith("mapped")) assert.deepStrictEqual(unaligned, [], name)
          }
        }
      }).pipe(Effect.provide(NodeServices.layer)),
    300_000,
  )

  withPython(`gives back every value and shape that was put in${skipped}`, () =>
    Effect.sync(() => {
      const folder = temporaryFolder()
      const shared = new Tensor("F32", [3, 2], 8)
      const numbers = [
        0,
        1,
        255,
        256,
        65_535,
        65_536,
        -1,
        2 ** 31 - 1,
        2 ** 31,
        -(2 ** 31),
        -(2 ** 31) - 1,
        2 ** 53 - 1,
      ]
      const axes = [[], [0], [1], [7], [0, 3], [3, 0], [2, 0, 5], [2, 3], [1, 1, 1, 1, 2], [2, 1, 4, 3]]
      const values: ReadonlyArray<Value> = [
        null,
        "",
        [],
        {},
        shared,
        { integers: numbers, floats: [float(0), float(1), float(-0), 0.1, 1e-300, 5e-324, 1.5e308, float(2 ** 40)] },
        { texts: ["", "plain", "ünïcödé", "日本語", "🦊", "a\nb\u0000c", "x".repeat(70_000)], "": true, no: false },
        { deep: [[[{ a: [{ b: null }] }]], []], one: shared, same: shared },
        Object.fromEntries(
          (["F32", "F16", "BF16"] as const).flatMap((kind) =>
            axes.map((shape) => [`${kind} ${shape}`, new Tensor(kind, shape, 0)] as const),
          ),
        ),
        Object.fromEntries(Array.from({ length: 3000 }, (_, i) => [`m${i}`, i])),
      ]
      const jobs = values.map((value, i) => {
        const path = join(folder, `value ${i}.pt`)
        writeFileSync(path, inMemory(value, `value ${i}`))
        return { path }
      })
      for (const [i, answer] of asked(jobs).entries())
        for (const [way, found] of Object.entries(answer as object))
          assert.deepStrictEqual(found, told(values[i]!), `value ${i}, ${way}`)
    }),
  )

  it.effect.prop(
    "is a zip whose every byte is accounted for, with tensors where they can be mapped",
    [Tensors, Facts],
    ([given, facts]) =>
      Effect.sync(() => {
        const model = laidOut(given)
        const stored = Object.values(model)
        const records = readZip(inMemory({ facts, model }, "s"))
        assert.deepStrictEqual(
          records.map(({ name }) => name),
          [
            ...["data.pkl", ".format_version", ".storage_alignment", "byteorder"],
            ...stored.map((_, i) => `data/${i}`),
            ...["version", ".data/serialization_id"],
          ].map((name) => `s/${name}`),
        )
        for (const [i, tensor] of stored.entries()) {
          const { bytes, offset } = records[4 + i]!
          assert.strictEqual(offset % 64, 0)
          assert.isTrue(bytes.equals(weights.subarray(tensor.offset, tensor.offset + tensor.bytes)))
        }
        assert.match(records.at(-1)!.bytes.toString(), /^\d{40}$/)
      }),
  )

  it.effect.prop("is the same bytes for the same value, and other bytes for another", [Facts, Facts], ([a, b]) =>
    Effect.sync(() => {
      const [one, other] = [inMemory(a), inMemory(b)]
      assert.isTrue(one.equals(inMemory(structuredClone(a))))
      assert.strictEqual(one.equals(other), JSON.stringify(a) === JSON.stringify(b))
    }),
  )

  it("has the bytes it always had", () => {
    const embedding = new Tensor("F32", [5, 4], 0)
    const half = new Tensor("F16", [3], 80)
    const value = {
      format: 1,
      config: { vocab_size: 5, epsilon: float(1e-5), bias: null, tied: true, names: ["a", "è"] },
      model: { "wte.weight": embedding, half, brain: new Tensor("BF16", [0, 2], 86), "lm_head.weight": embedding },
    }
    const file = inMemory(value)
    assert.strictEqual(file.length, 2447)
    assert.strictEqual(
      createHash("sha256").update(file).digest("hex"),
      "ae3524595abe57943563f83a0c44a44a1aeef9432398266b4d9308088ddf1272",
    )
  })

  const unzip = spawnSync("unzip", ["-v"]).status === 0 ? "" : " (skipped: there is no `unzip`)"
  it.skipIf(unzip !== "")(`is sound to unzip${unzip}`, () => {
    const path = join(temporaryFolder(), "small.pt")
    writeFileSync(
      path,
      inMemory({ model: { weight: new Tensor("F32", [40, 30], 3), none: new Tensor("F32", [0], 0) } }),
    )
    const { status, stdout } = spawnSync("unzip", ["-t", path], { encoding: "utf8" })
    assert.strictEqual(status, 0, stdout)
    assert.match(stdout, /No errors detected/)
  })

  it("holds more tensors than narrow fields count", () => {
    const COUNT = 65_600
    const model = Object.fromEntries(
      Array.from({ length: COUNT }, (_, i) => [`t${i}`, new Tensor("F16", [1], i % 9999)]),
    )
    const file = inMemory(model, "many")
    assert.strictEqual(file.readUInt16LE(file.length - 22 + 10), 0xffff)
    const records = readZip(file)
    assert.strictEqual(records.length, COUNT + 6)
    if (skipped === "") {
      const path = join(temporaryFolder(), "many.pt")
      writeFileSync(path, file)
      const [answer] = asked([{ path, at: { t0: [0], t65599: [0] } }]) as ReadonlyArray<{ numbers: unknown }>
      const half = (at: number) => new Float16Array(Uint8Array.from(weights.subarray(at, at + 2)).buffer)[0]!
      assert.deepStrictEqual(answer!.numbers, [[half(0)], [half(65_599 % 9999)]])
    }
  }, 240_000)

  withPython(
    `holds tensors longer than 4 GiB, and such that lie behind them${skipped}`,
    () =>
      Effect.sync(() => {
        const COUNT = 2 ** 30 + 5
        const long = new Tensor("F32", [COUNT], 0)
        const behind = new Tensor("F32", [3], long.bytes)
        // zeros, but for the last of the long one and the three behind it
        const last = Buffer.from(Float32Array.of(7, 11, 12, 13).buffer)
        const read = (offset: number, into: Uint8Array) => {
          into.fill(0)
          const at = long.bytes - 4 - offset
          if (at < into.length)
            into.set(
              at < 0 ? last.subarray(-at, into.length - at) : last.subarray(0, into.length - at),
              Math.max(0, at),
            )
        }
        const path = join(temporaryFolder(), "long.pt")
        const zeros = Buffer.alloc(1 << 20)
        const file = openSync(path, "w")
        let at = 0
        for (const { bytes } of torchFile("long", { long, behind }, read)) {
          if (bytes.length < zeros.length || !zeros.equals(bytes)) writeSync(file, bytes, 0, bytes.length, at)
          at += bytes.length
        }
        ftruncateSync(file, at)
        closeSync(file)
        const [answer] = asked([{ path, at: { long: [0, COUNT - 2, COUNT - 1], behind: [0, 1, 2] } }])
        const { numbers, sizes } = answer as { numbers: unknown; sizes: Readonly<Record<string, number>> }
        assert.deepStrictEqual(numbers, [
          [0, 0, 7],
          [11, 12, 13],
        ])
        assert.strictEqual(sizes["long/data/0"], 4 * COUNT)
        assert.strictEqual(sizes["long/.data/serialization_id"], 40)
      }),
    240_000,
  )

  it.effect("leaves nothing where it cannot be written whole, and never writes over a file", () =>
    Effect.gen(function* () {
      const folder = temporaryFolder()
      const [source, to] = [join(folder, "weights"), join(folder, "made.pt")]
      writeFileSync(source, Buffer.alloc(8_000_000))
      const value = { model: { a: new Tensor("F32", [1_000_000], 0), b: new Tensor("F32", [1_000_000], 4_000_000) } }
      const making = { weights: source, stem: "made", value }

      const fiber = yield* Effect.forkChild(writeTorchFile(making, to))
      while (!existsSync(to)) yield* Effect.yieldNow
      yield* Fiber.interrupt(fiber)
      assert.isFalse(existsSync(to), "interrupted")

      yield* writeTorchFile(making, to)
      const whole = readFileSync(to)
      const there = yield* Effect.flip(writeTorchFile(making, to))
      assert.strictEqual(there._tag, "ReleaseFileFailed")
      assert.isTrue(readFileSync(to).equals(whole))

      truncateSync(source, 7_000_000)
      const short = yield* Effect.flip(writeTorchFile(making, `${to}.2`))
      assert.strictEqual(short.message.split("\n")[0], `release: ${source}: it ends at 7000000, within a tensor`)
      assert.isFalse(existsSync(`${to}.2`), "cut short")

      const full = yield* Effect.flip(writeTorchFile(making, "/dev/full/made.pt"))
      assert.strictEqual(full._tag, "ReleaseFileFailed")
    }),
  )
})
