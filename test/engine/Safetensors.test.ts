import { readdirSync, readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { parseHeader, read, write } from "../../src/engine/Safetensors.ts"
import { temporary } from "../temporary.ts"

const tensor = (name: string, shape: ReadonlyArray<number>, first = 0) => ({
  name,
  shape,
  data: Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, (_, i) => first + i / 3),
})
const golden = new URL("../golden/engines/gpt2.safetensors", import.meta.url).pathname

describe("safetensors", () => {
  it.effect("come back as they were written, in whatever order and from shared memory", () =>
    Effect.gen(function* () {
      const folder = yield* temporary
      const shared = new Float32Array(new SharedArrayBuffer(16)).fill(2.5)
      const tensors = [
        tensor("b", [3, 5]),
        tensor("a", [7], 9),
        tensor("empty", [0, 4]),
        { name: "c", shape: [2, 2], data: shared },
      ]
      const first = yield* write(join(folder, "deep", "one"), tensors)
      const second = yield* write(join(folder, "two"), tensors.toReversed())
      assert.strictEqual(first.sha256, second.sha256)
      const bytes = readFileSync(join(folder, "two"))
      assert.deepStrictEqual(bytes, readFileSync(join(folder, "deep", "one")))
      assert.strictEqual(bytes.length, first.bytes)
      assert.strictEqual(bytes.readBigUInt64LE(0) % 8n, 0n)
      assert.isTrue(
        bytes
          .toString("utf8", 8)
          .startsWith('{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[7],"data_offsets":[0,28]}'),
      )
      const found = yield* read(join(folder, "two"))
      for (const { name, shape, data } of tensors)
        assert.deepStrictEqual(found.get(name), { name, shape, data: Float32Array.from(data) })
      assert.deepStrictEqual(readdirSync(folder).sort(), ["deep", "two"])
    }),
  )

  it.effect("of Hugging Face's own library are read", () =>
    Effect.gen(function* () {
      const found = yield* read(golden)
      assert.deepStrictEqual(found.get("transformer.wte.weight")!.shape, [256, 64])
      const again = yield* write(join(yield* temporary, "again"), [...found.values()])
      // ours differs by its metadata at most: the tensors are in the same order
      assert.isAtMost(Math.abs(again.bytes - readFileSync(golden).length), 64)
    }),
  )

  it.effect("may be placed in memory of the reader", () =>
    Effect.gen(function* () {
      const path = join(yield* temporary, "x")
      yield* write(path, [tensor("a", [4])])
      const place = new Float32Array(new SharedArrayBuffer(16))
      yield* read(path, () => place)
      assert.deepStrictEqual([...place], [...tensor("a", [4]).data])
      const error = yield* Effect.flip(read(path, () => place.subarray(1)))
      assert.strictEqual(error.problem, "`a` does not fit")
    }),
  )

  it.effect("that lie are refused", () =>
    Effect.gen(function* () {
      const folder = yield* temporary
      const path = join(folder, "x")
      const problems: Array<string> = []
      const lie = Effect.fnUntraced(function* (header: unknown, data = 8, length?: bigint) {
        const json = Buffer.from(typeof header === "string" ? header : JSON.stringify(header))
        const prefix = Buffer.alloc(8)
        prefix.writeBigUInt64LE(length ?? BigInt(json.length))
        writeFileSync(path, Buffer.concat([prefix, json, Buffer.alloc(data)]))
        problems.push((yield* Effect.flip(read(path))).problem)
      })
      const entry = (from: number, to: number, shape: ReadonlyArray<unknown> = [(to - from) / 4], dtype = "F32") => ({
        dtype,
        shape,
        data_offsets: [from, to],
      })
      writeFileSync(path, "1234")
      problems.push((yield* Effect.flip(read(path))).problem)
      yield* lie({}, 0, 1n << 40n)
      yield* lie("{no json", 0)
      yield* lie("[]", 0)
      yield* lie({ a: 1 })
      yield* lie({ __metadata__: { format: 1 } })
      yield* lie({ a: entry(0, 8, [2], "BF16") })
      yield* lie({ a: entry(0, 8, [-2]) })
      yield* lie({ a: entry(0, 8, [2 ** 40, 2 ** 40]) })
      yield* lie({ a: { dtype: "F32", shape: [2], data_offsets: [0] } })
      yield* lie({ a: entry(8, 0, []) })
      yield* lie({ a: entry(0, 8), b: entry(4, 8) })
      yield* lie({ a: entry(4, 8) })
      yield* lie({ a: entry(0, 16) })
      yield* lie({ a: entry(0, 4) })
      assert.deepStrictEqual(problems, [
        "the file has 4 bytes, not even the length of a header",
        "the header would have 1099511627776 bytes, the file has 10",
        problems[2]!,
        "the header is not a JSON object",
        "the entry of `a` is not an object",
        "metadata `format` is not a string",
        '`a` has dtype "BF16", expected "F32"',
        "the shape of `a` is not a list of sizes",
        "`a` has 8 bytes, its shape [1099511627776, 1099511627776] needs 4.835703278458517e+24",
        "`a` has no two data offsets",
        "`a` has -8 bytes, its shape [] needs 4",
        "`b` overlaps the tensor before it",
        "4 bytes before `a` belong to no tensor",
        "the header promises 79 bytes, the file has 71",
        "4 bytes at the end belong to no tensor",
      ])
      assert.match(problems[2]!, /^the header is not JSON/)
      const missing = yield* Effect.flip(read(join(folder, "missing")))
      assert.match(missing.message, /ENOENT.*\n {2}hint: /s)
    }),
  )

  it.effect("that cannot be written leave nothing behind", () =>
    Effect.gen(function* () {
      const folder = yield* temporary
      const twice = yield* Effect.flip(write(join(folder, "x"), [tensor("a", [1]), tensor("a", [1])]))
      assert.strictEqual(twice.problem, "two tensors are named `a`")
      const short = yield* Effect.flip(write(join(folder, "x"), [{ ...tensor("a", [2]), shape: [3] }]))
      assert.match(short.problem, /2 numbers/)
      assert.deepStrictEqual(readdirSync(folder), [])
    }),
  )

  it("headers may say more than we need", () => {
    const header = {
      __metadata__: { format: "pt", made: "by hand" },
      a: { dtype: "F32", shape: [1], data_offsets: [0, 4] },
    }
    assert.deepStrictEqual(parseHeader(JSON.stringify(header), 100, 104), {
      tensors: [{ name: "a", shape: [1], offset: 100, elements: 1, end: 104 }] as never,
      metadata: { format: "pt", made: "by hand" },
    })
  })
})
