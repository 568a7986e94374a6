/**
 * Hashing and writing of a release's weights: speed beside `sha256sum` and `cp` in the same run, peak memory, and how often a byte is
 * read after it was written.
 *
 *     npx node bench/hashing.ts [gigabytes] [folder]
 *
 * A checkpoint of 4 GB (unless told) is written, then in a process of its own each: released (copied, given the header that
 * `transformers` asks for, hashed as often as a release asks, hashed once more as the store does at its commit), written as a checkpoint
 * for PyTorch and held against what that should be, hashed by us, hashed by `sha256sum`, and looked through as `exp verify` does. The page cache is what it is: every reader finds the file as warm as the
 * one before, and `read a written byte` counts the bytes that the process read from files (Linux, /proc/self/io). Peak memory is
 * VmHWM. Prints JSON.
 */
import { spawnSync } from "node:child_process"
import {
  closeSync,
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  rmSync,
  statSync,
  writeSync,
} from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Effect } from "effect"
import { type Architecture, parameterCount, tensors } from "../src/model/Architecture.ts"
import { checkSums, sha256OfFile, writeSums } from "../src/release/Sums.ts"
import { Tensor, writeTorchFile } from "../src/release/TorchFile.ts"
import { readWeightsHeader, writeTransformersWeights } from "../src/release/Weights.ts"
import { hashFile, sync } from "../src/store/Files.ts"
import { torchProblems } from "../src/verification/TorchFile.ts"

const GIGA = 1e9

/** As deep as it takes to be of this size. */
const architectureOf = (bytes: number): Architecture => {
  const of = (layers: number): Architecture => ({
    family: "gpt2",
    layers,
    width: 2048,
    heads: 16,
    context: 1024,
    vocabulary: 32_000,
  })
  const [one, two] = [parameterCount(of(1)), parameterCount(of(2))]
  return of(Math.max(1, Math.round((bytes / 4 - one) / (two - one)) + 1))
}

/** Finite numbers that differ from place to place, without a random stream to wait for. */
const writeCheckpoint = (path: string, architecture: Architecture): void => {
  const entries: Record<string, unknown> = { __metadata__: { format: "exp" } }
  let offset = 0
  for (const { name, shape } of tensors(architecture)) {
    const bytes = 4 * shape.reduce((a, b) => a * b, 1)
    entries[name] = { dtype: "F32", shape, data_offsets: [offset, offset + bytes] }
    offset += bytes
  }
  const header = Buffer.from(JSON.stringify(entries))
  const prefix = Buffer.alloc(8)
  prefix.writeBigUInt64LE(BigInt(header.length))
  const piece = Float32Array.from({ length: 1 << 20 }, (_, i) => Math.sin(i * 0.37) * 0.02)
  const bytes = Buffer.from(piece.buffer)
  const file = openSync(path, "w")
  writeSync(file, prefix)
  writeSync(file, header)
  for (let done = 0; done < offset; done += bytes.length) {
    piece[0] = done
    writeSync(file, bytes, 0, Math.min(bytes.length, offset - done))
  }
  closeSync(file)
}

const bytesRead = (): number => Number(/^rchar: (\d+)$/m.exec(readFileSync("/proc/self/io", "utf8"))?.[1] ?? 0)
const peakBytes = (): number =>
  1024 * Number(/^VmHWM:\s*(\d+) kB$/m.exec(readFileSync("/proc/self/status", "utf8"))?.[1] ?? 0)
const seconds = async (work: () => Promise<unknown>): Promise<number> => {
  const start = performance.now()
  await work()
  return (performance.now() - start) / 1000
}
const run = <A, E>(effect: Effect.Effect<A, E, NodeServices.NodeServices>): Promise<A> =>
  Effect.runPromise(effect.pipe(Effect.provide(NodeServices.layer)))

const jobs: Record<string, (folder: string, architecture: Architecture) => Promise<object>> = {
  async release(folder, architecture) {
    const source = join(folder, "checkpoint.safetensors")
    const out = join(folder, "release")
    mkdirSync(out)
    const [native, exported] = [join(out, "native.safetensors"), join(out, "model.safetensors")]
    const header = await run(readWeightsHeader(source, architecture))
    const writing = await seconds(async () => {
      copyFileSync(source, native)
      await run(writeTransformersWeights(source, exported, header))
    })
    const before = bytesRead()
    const hashing = await seconds(async () => {
      // consistency, the card's table, the statement, the sums
      for (let asked = 0; asked < 3; asked++) for (const path of [native, exported]) await run(sha256OfFile(path))
      await run(writeSums(out))
    })
    const committing = await seconds(async () => {
      for (const path of [native, exported]) await run(hashFile(path))
      await run(sync([native, exported], [out]))
    })
    const written = statSync(native).size + statSync(exported).size
    return {
      "written, GB": written / GIGA,
      "copying and writing, GB/s": written / GIGA / writing,
      "hashing for card, statement and sums, GB/s": written / GIGA / hashing,
      "hashing and syncing at the store's commit, GB/s": written / GIGA / committing,
      "read a written byte, times": (bytesRead() - before) / written,
      "peak memory, MB": peakBytes() / 1e6,
    }
  },
  async torch(folder, architecture) {
    const weights = join(folder, "checkpoint.safetensors")
    const to = join(folder, "checkpoint.pt")
    const header = await run(readWeightsHeader(weights, architecture))
    const model = Object.fromEntries(
      Array.from(header.tensors, ([name, { shape, data_offsets }]) => [
        name,
        new Tensor("F32", shape, header.dataOffset + data_offsets[0]),
      ]),
    )
    const making = { weights, stem: "checkpoint", value: { model } }
    const before = bytesRead()
    const writing = await seconds(() => run(writeTorchFile(making, to)))
    const { size } = statSync(to)
    const written = { "writing, GB/s": size / GIGA / writing, "read a byte, times": (bytesRead() - before) / size }
    const writingPeak = peakBytes()
    const checking = await seconds(async () => {
      const problems = await run(torchProblems(to, size, making))
      if (problems.length > 0) throw new Error(problems.join("\n"))
    })
    return {
      ...written,
      "peak memory of writing, MB": writingPeak / 1e6,
      "made again and compared, GB/s": size / GIGA / checking,
      "peak memory, MB": peakBytes() / 1e6,
    }
  },
  async hash(folder) {
    const path = join(folder, "release", "model.safetensors")
    const time = await seconds(() => run(sha256OfFile(path)))
    return { "GB/s": statSync(path).size / GIGA / time, "peak memory, MB": peakBytes() / 1e6 }
  },
  async check(folder) {
    const out = join(folder, "release")
    const bytes = statSync(join(out, "model.safetensors")).size + statSync(join(out, "native.safetensors")).size
    const before = bytesRead()
    const time = await seconds(() => run(checkSums(out)))
    return {
      "GB/s": bytes / GIGA / time,
      "read a byte, times": (bytesRead() - before) / bytes,
      "peak memory, MB": peakBytes() / 1e6,
    }
  },
}

const [job, ...rest] = process.argv.slice(2)
if (job !== undefined && Object.hasOwn(jobs, job)) {
  console.log(JSON.stringify(await jobs[job]!(rest[0]!, architectureOf(Number(rest[1]) * GIGA))))
} else {
  const gigabytes = Number(job ?? 4)
  const folder = mkdtempSync(join(rest[0] ?? tmpdir(), "exp-hashing-"))
  const child = (name: string): object => {
    const { stdout, stderr, status } = spawnSync(
      process.execPath,
      [fileURLToPath(import.meta.url), name, folder, String(gigabytes)],
      { encoding: "utf8" },
    )
    if (status !== 0) throw new Error(stderr)
    return JSON.parse(stdout)
  }
  const command = (program: string, ...args: ReadonlyArray<string>): number => {
    const start = performance.now()
    spawnSync(program, args, { stdio: "ignore" })
    return (performance.now() - start) / 1000
  }
  try {
    const source = join(folder, "checkpoint.safetensors")
    writeCheckpoint(source, architectureOf(gigabytes * GIGA))
    const size = statSync(source).size / GIGA
    const release = child("release")
    const exported = join(folder, "release", "model.safetensors")
    console.log(
      JSON.stringify(
        {
          "weights, GB": size,
          "cp, GB/s": size / command("cp", source, join(folder, "copy")),
          release,
          "checkpoint for PyTorch": child("torch"),
          "sha256sum, GB/s": size / command("sha256sum", exported),
          "hashing one file": child("hash"),
          "sha256sum --check, GB/s":
            (2 * size) / command("sh", "-c", `cd ${join(folder, "release")} && sha256sum --check SHA256SUMS`),
          "checking the sums of the folder": child("check"),
        },
        (_, value) => (typeof value === "number" ? Number(value.toPrecision(3)) : value),
        2,
      ),
    )
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
