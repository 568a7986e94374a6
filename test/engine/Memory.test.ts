import { execFileSync } from "node:child_process"
import { assert, describe, expect, it, onTestFinished } from "vitest"
import { totalOf } from "../../src/engine/Components.ts"
import { type MemoryQuestion, remedyFor, trainingMemory } from "../../src/engine/Memory.ts"
import { type Heap, openHeap } from "../../src/engine/tfjs/Kernels.ts"
import { wasmModel } from "../../src/engine/tfjs/Model.ts"
import { laneCount, laneRows, trainMemoryBytes } from "../../src/engine/tfjs/TrainMemory.ts"
import { packageFolder } from "../../src/engine/torch/Environment.ts"
import { type Architecture, parameterCount } from "../../src/model/Architecture.ts"
import { defaultOptimizer } from "../../src/model/Checkpoint.ts"
import { onLinux, titledOnLinux } from "../processes.ts"
import { temporaryFolder } from "../temporary.ts"
import { python, skipped } from "./torch.ts"
import type { Training } from "./trainingChild.ts"

const gpt2 = (layers: number, width: number, context: number, vocabulary: number): Architecture => ({
  family: "gpt2",
  layers,
  width,
  heads: width / 32,
  context,
  vocabulary,
})
const llama = (layers: number, width: number, tiedHead: boolean): Architecture => ({
  family: "llama",
  layers,
  width,
  heads: width / 32,
  keyValueHeads: 1,
  feedForwardWidth: 3 * width,
  ropeTheta: 10_000,
  normEpsilon: 1e-5,
  tiedHead,
  context: 128,
  vocabulary: 2048,
})
const GIB = 2 ** 30
const host = (gibibytes: number) => ({ device: "host", hostBytes: gibibytes * GIB }) as const
const gpu = (gibibytes: number) => ({ device: "gpu", gpuBytes: gibibytes * GIB, hostBytes: 64 * GIB }) as const
const tfjs = { name: "tfjs", precision: "fp32" }
const torch = (precision: string) => ({ name: "torch", precision })

const ask = (question: Partial<MemoryQuestion>): MemoryQuestion => {
  const architecture = question.architecture ?? gpt2(4, 256, 256, 4096)
  return {
    numerics: tfjs,
    architecture,
    rowsPerStep: 16,
    length: architecture.context,
    room: host(24),
    workers: 2,
    ...question,
  }
}

/** The 136 M, 1.06 B and 1.3 B shapes of the reference releases. */
const small: Architecture = { family: "gpt2", layers: 12, width: 768, heads: 12, context: 2500, vocabulary: 64_000 }
const apt: Architecture = {
  family: "llama",
  layers: 20,
  width: 2048,
  heads: 16,
  keyValueHeads: 16,
  feedForwardWidth: 5632,
  ropeTheta: 10_000,
  normEpsilon: 1e-6,
  tiedHead: false,
  context: 2048,
  vocabulary: 8000,
}
const polish: Architecture = { family: "gpt2", layers: 28, width: 1920, heads: 16, context: 1024, vocabulary: 50_000 }

/** Counts what is allocated on a heap and not yet freed; gives the most that it came to. */
const heldAtMost = ({ backend: { wasm } }: Heap): (() => number) => {
  const calls = wasm as { _malloc: (bytes: number) => number; _free: (address: number) => void }
  // each replaces itself when it is called for the first time
  calls._free(calls._malloc(64))
  const { _malloc: malloc, _free: free } = calls
  onTestFinished(() => {
    Object.assign(calls, { _malloc: malloc, _free: free })
  })
  const sizes = new Map<number, number>()
  let held = 0
  let most = 0
  calls._malloc = (bytes) => {
    const address = malloc(bytes)
    sizes.set(address >>> 0, bytes)
    held += bytes
    most = Math.max(most, held)
    return address
  }
  calls._free = (address) => {
    held -= sizes.get(address >>> 0) ?? 0
    sizes.delete(address >>> 0)
    free(address)
  }
  return () => most
}

describe("the in-process engine's memory", () => {
  it("has the shared part that its layout has, to the byte but for alignment", () => {
    for (const rowsPerStep of [1, 3, 16]) {
      const architecture = gpt2(2, 64, 64, 512)
      const without = { ...trainingMemory(ask({ architecture, rowsPerStep, workers: 0 })).parts, runtime: 0 }
      const shared = trainMemoryBytes(architecture, laneCount(rowsPerStep, 64))
      assert.closeTo(totalOf(without), shared, 8192)
    }
  })

  it.each([
    ["narrow", gpt2(2, 64, 64, 512), 8],
    ["of a wide vocabulary", gpt2(2, 64, 128, 8192), 8],
    ["deep", gpt2(6, 128, 256, 1024), 8],
    ["of one row", gpt2(2, 128, 128, 2048), 1],
    ["a LLaMA", llama(3, 96, false), 8],
    ["a LLaMA with a tied table", llama(2, 128, true), 32],
  ] as const)(
    "is what a worker's heap holds at once while it trains and measures, to 2%%: %s",
    async (_, architecture, rowsPerStep) => {
      const { context, vocabulary } = architecture
      const heap = await openHeap()
      const held = heldAtMost(heap)
      const model = wasmModel(heap, architecture)
      onTestFinished(() => model.dispose())
      const lanes = laneCount(rowsPerStep, context)
      const [first, last] = laneRows(lanes - 1, lanes, rowsPerStep)
      const rows = Int32Array.from({ length: (last - first) * (context + 1) }, (_, i) => (i * 7919) % vocabulary)
      const target = new Float32Array(parameterCount(architecture))
      model.load(target)
      // what measuring takes is kept, and the next step comes on top of it
      model.losses(rows.subarray(0, context + 1))
      model.gradient(rows, last - first, 1, target)
      const { parts } = trainingMemory(ask({ architecture, rowsPerStep, workers: 1 }))
      const foretold = totalOf({ ...parts, runtime: 0 }) - trainMemoryBytes(architecture, lanes)
      const most = held()
      assert.closeTo(foretold / most, 1, 0.02, `${foretold} bytes foretold, ${most} held`)
    },
  )

  it("refuses what WebAssembly cannot address, whatever the machine has", () => {
    const { lacks } = trainingMemory(ask({ architecture: small, room: host(1000) }))
    expect(lacks).toMatchInlineSnapshot(
      `"weights, moments and 8 gradients take 7.62 GB, WebAssembly addresses 4.29 GB"`,
    )
  })
})

describe.skipIf(!onLinux)(titledOnLinux("a training in a process of its own"), () => {
  /** In bytes: by a child that trains, and by the forecast. */
  const memoryOf = (architecture: Architecture) => {
    const training: Training = { architecture, rowsPerStep: 8, steps: 4, workers: 2 }
    const child = new URL("trainingChild.ts", import.meta.url).pathname
    const told = execFileSync(process.execPath, [child, temporaryFolder(), JSON.stringify(training)])
    const { parts } = trainingMemory(ask({ architecture, rowsPerStep: 8, workers: 2 }))
    return { held: Number(told.toString()), foretold: totalOf(parts) }
  }

  it("holds no more than is foretold, and by its size so much more than another", { timeout: 240_000 }, () => {
    const less = memoryOf(gpt2(2, 64, 64, 512))
    const more = memoryOf(gpt2(4, 192, 128, 6144))
    // the forecast is of the whole program, and of a heap with the garbage of thousands of steps
    assert.isAtMost(less.held, less.foretold)
    assert.isAtMost(more.held, more.foretold)
    // what the program takes is in both: left are 324 MB of what the arithmetic needs, and what V8 happens to hold, up to 30 MB
    const [held, foretold] = [more.held - less.held, more.foretold - less.foretold]
    assert.closeTo(held / foretold, 1, 0.15, `${foretold} bytes foretold, ${held} held`)
  })
})

describe("PyTorch's memory on a GPU", () => {
  const parts = (question: Partial<MemoryQuestion>) =>
    trainingMemory(ask({ room: gpu(80), architecture: small, rowsPerStep: 96, ...question })).parts

  it("is 16 bytes a parameter, 18 in half precision, and what half as many bits save", () => {
    const held = ({ weights, gradients, optimizer }: ReturnType<typeof parts>) =>
      Math.round((10 * (weights + gradients + optimizer)) / 136_128_000) / 10
    assert.strictEqual(held(parts({ numerics: torch("fp32") })), 16)
    assert.strictEqual(held(parts({ numerics: torch("bf16") })), 18)
    assert.strictEqual(held(parts({ numerics: torch("bf16+adam8bit") })), 12)
    const settings = { offloadOptimizer: true }
    // what passes through the stages does not grow with the model
    const moved = { ...parts({ numerics: torch("bf16"), settings }), optimizer: 0 }
    // tables and vectors stay in fp32, of the layers' 85 million only what is multiplied by
    assert.strictEqual(held(moved), 7.5)
    assert.isBelow(parts({ numerics: torch("bf16"), settings }).optimizer, 2 ** 28)
  })

  it("leaves a twentieth of 12 GiB free with 1.3 billion parameters, whose fp32 is on the host", () => {
    const settings = { microBatchRows: 4 }
    const { parts, host, lacks } = trainingMemory(
      ask({ numerics: torch("fp16+adam8bit"), architecture: polish, rowsPerStep: 256, room: gpu(12), settings }),
    )
    assert.isUndefined(lacks)
    assert.isBelow(totalOf(parts), 0.95 * 12 * GIB)
    const parameters = 1_337_000_000
    assert.closeTo(parts.gradients, 4 * parameters, 0.01 * parameters)
    assert.isBelow(parts.weights, 2.5 * parameters)
    // moments of 8 bits, and the layers' fp32
    assert.closeTo(host!.weights + host!.optimizer, 4 * 28 * 12 * 1920 ** 2 + 2.03 * parameters, 0.01 * parameters)
    // two processes keep theirs, because gradients are exchanged as they come
    const two = { ...settings, processes: 2, sharding: "ddp", offloadOptimizer: true } as const
    const question = ask({ numerics: torch("fp16+adam8bit"), architecture: polish, room: gpu(12), settings: two })
    assert.isAbove(trainingMemory(question).parts.weights, 4 * parameters)
  })

  it("is shared out over several GPUs where one cannot hold it", () => {
    const question = ask({ numerics: torch("bf16"), architecture: apt, rowsPerStep: 64, room: gpu(12) })
    const settings = { processes: 4, offloadOptimizer: false }
    const { how, lacks } = trainingMemory({ ...question, settings })
    assert.isUndefined(lacks)
    assert.include(how.join(), "weights and moments shared out over 4 processes")
    assert.isDefined(trainingMemory({ ...question, settings: { ...settings, sharding: "ddp" } }).lacks)
  })

  it("never holds micro-batch × context × vocabulary", () => {
    const settings = { microBatchRows: 6 }
    const { logits } = parts({ numerics: torch("bf16"), settings })
    assert.isBelow(logits, (6 * 2500 * 64_000 * 4) / 3)
  })

  it("is kept below the card by taking fewer rows, then computing activations twice, then moving moments", () => {
    const how = (architecture: Architecture, gibibytes: number, precision: string) =>
      trainingMemory(ask({ numerics: torch(precision), architecture, rowsPerStep: 96, room: gpu(gibibytes) }))
    const rows = [8, 12, 16, 24].map((gibibytes) => Number(/\d+/.exec(how(small, gibibytes, "bf16").how[0]!)![0]))
    assert.deepStrictEqual(
      rows,
      rows.toSorted((a, b) => a - b),
    )
    assert.isAbove(rows[3]!, rows[0]!)
    expect(how(small, 16, "bf16").lacks).toBeUndefined()
    expect(how(apt, 24, "bf16").lacks).toBeUndefined()
    expect(how(polish, 12, "fp16")).toMatchObject({
      how: ["micro-batches of 10 rows", "activations computed twice", "moments in the machine's memory"],
    })
    expect(how(polish, 12, "fp16").lacks).toBeUndefined()
    expect(how(polish, 8, "fp16").lacks).toMatch(/^it takes [\d.]+ GB, the GPU has 8\.59 GB$/)
  })
})

describe("the change that would make it fit", () => {
  const impossible: ReadonlyArray<Partial<MemoryQuestion>> = [
    { room: host((0.95 * totalOf(trainingMemory(ask({})).parts)) / GIB) },
    { architecture: small },
    { architecture: apt },
    {
      numerics: torch("bf16"),
      architecture: small,
      room: gpu(8),
      settings: { microBatchRows: 12, activationCheckpointing: false },
    },
    {
      numerics: torch("bf16"),
      architecture: small,
      room: gpu(4),
      settings: { activationCheckpointing: false, offloadOptimizer: false },
    },
    { numerics: torch("bf16"), architecture: apt, room: gpu(16), settings: { offloadOptimizer: false } },
    { numerics: torch("bf16+adam8bit"), architecture: apt, room: gpu(10), settings: { offloadOptimizer: false } },
    { numerics: torch("fp16"), architecture: polish, room: gpu(8) },
    { numerics: torch("fp32"), architecture: polish, room: host(16) },
  ]

  it("is the least there is, and with it the training fits", () => {
    const changes = impossible.map((question) => {
      assert.isDefined(trainingMemory(ask(question)).lacks)
      const remedy = remedyFor(ask(question))!
      assert.isUndefined(trainingMemory(remedy.question).lacks)
      return remedy.change
    })
    expect(changes).toMatchInlineSnapshot(`
      [
        "set EXP_WORKERS=1: slower, and the same bits",
        "take the PyTorch engine: \`--engine torch\`",
        "take the PyTorch engine: \`--engine torch\`, and recompute activations: \`--engine-set activationCheckpointing=true\`",
        "take fewer rows at once: \`--engine-set microBatchRows=8\`",
        "recompute activations: \`--engine-set activationCheckpointing=true\`",
        "keep moments of 8 bits: \`--precision bf16+adam8bit\`",
        "keep the moments in the machine's memory: \`--engine-set offloadOptimizer=true\`",
        "take 22 layers instead of 28",
        "recompute activations: \`--engine-set activationCheckpointing=true\`, and keep moments of 8 bits: \`--precision fp32+adam8bit\`",
      ]
    `)
  })

  it("is none where one layer of the shape is too much", () => {
    assert.isUndefined(remedyFor(ask({ architecture: apt, room: host(4) })))
  })
})

/** Bytes that three steps of the worker's own trainer make a process grow by. */
const grows = (architecture: Architecture, rows: number): number => {
  const script = `
import json, resource, sys
import torch
from exp_torch.memory import Plan
from exp_torch.parallel import Group
from exp_torch.trainer import Arithmetic, Trainer
shape, rows, optimizer = json.loads(sys.argv[1])
with open("/proc/self/statm") as file: before = int(file.read().split()[1]) * resource.getpagesize()
cpu = torch.device("cpu")
trainer = Trainer(shape, optimizer, rows, shape["context"], cpu, Arithmetic(torch.float32, False, False), Group(), False)
trainer.initialise(1)
trainer.arrange(Plan(rows, 0, False))
data = torch.ones((rows, shape["context"] + 1), dtype=torch.int64)
for step in (1, 2, 3): trainer.step(data, 1e-4, step, 1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before)
`
  const argument = JSON.stringify([architecture, rows, defaultOptimizer])
  const environment = { PYTHONPATH: packageFolder, MALLOC_MMAP_MAX_: "0" }
  return Number(
    execFileSync(python!, ["-c", script, argument], { env: { ...process.env, ...environment }, encoding: "utf8" }),
  )
}

describe.skipIf(python === undefined || process.platform !== "linux")(`PyTorch's memory on the host${skipped}`, () => {
  it("is what the worker's process grows to", { timeout: 240_000 }, () => {
    const architecture = gpt2(4, 256, 256, 4096)
    const settings = { microBatchRows: 8, activationCheckpointing: false }
    const question = ask({ numerics: torch("fp32"), architecture, rowsPerStep: 8, settings })
    const foretold = totalOf({ ...trainingMemory(question).parts, runtime: 0 })
    const grown = grows(architecture, 8)
    assert.isAtLeast(grown, 0.7 * foretold)
    assert.isAtMost(grown, 1.4 * foretold)
  })
})
