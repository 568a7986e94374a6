/** What only CUDA does, on a card whose kernels do nothing: memory by PyTorch's own allocator, waits for the device, whole requests. */
import { spawnSync } from "node:child_process"
import { writeFileSync } from "node:fs"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { Effect } from "effect"
import { assert, beforeAll, describe, it } from "vitest"
import { totalOf } from "../../src/engine/Components.ts"
import { trainingMemory } from "../../src/engine/Memory.ts"
import type { Architecture } from "../../src/model/Architecture.ts"
import { standardPresets } from "../../src/model/Decoding.ts"
import { goldenRequest, gpt2, llama } from "../engine/golden.ts"
import { suiteFolder, temporaryFolder } from "../temporary.ts"
import { buildable, buildCard, titledOnCard } from "./card.ts"
import { environment, python, steps, Worker } from "./worker.ts"

interface Way {
  readonly architecture: Architecture
  readonly precision: string
  readonly rowsPerStep: number
  readonly microBatchRows: number
  readonly recomputed: boolean
  readonly offloaded: boolean
  readonly compiled: boolean
}

interface Held {
  readonly allocated: number
  readonly reserved: number
  readonly launches: number
  readonly waits: number
  readonly fetches: number
  readonly left: number
}

/** 136 million parameters at 6 × 2500 tokens, and 1.06 billion. */
const reference: Architecture = {
  ...{ family: "gpt2", layers: 12, width: 768, heads: 12, vocabulary: 64_000, context: 2500 },
}
const apt: Architecture = {
  ...{ family: "llama", layers: 20, width: 2048, heads: 16, keyValueHeads: 16, feedForwardWidth: 5632, context: 2048 },
  ...{ vocabulary: 8000, ropeTheta: 10_000, normEpsilon: 1e-6, tiedHead: false },
}
const small: Architecture = { family: "gpt2", layers: 4, width: 256, heads: 4, vocabulary: 4096, context: 512 }
const grouped: Architecture = {
  ...{ family: "llama", layers: 4, width: 512, heads: 8, keyValueHeads: 2, feedForwardWidth: 1408, context: 1024 },
  ...{ vocabulary: 16_384, ropeTheta: 10_000, normEpsilon: 1e-6, tiedHead: true },
}

const plain = { precision: "bf16", rowsPerStep: 8, recomputed: false, offloaded: false, compiled: false }
const ladder = [
  { recomputed: false, offloaded: false },
  { recomputed: true, offloaded: false },
  { recomputed: true, offloaded: true },
]

const foretold = ({ architecture, precision, ...way }: Way): number => {
  const { parts } = trainingMemory({
    ...{ numerics: { name: "torch", precision }, architecture, rowsPerStep: way.rowsPerStep },
    length: architecture.context,
    room: { device: "gpu", gpuBytes: 1e12, hostBytes: 1e12 },
    settings: {
      ...{ microBatchRows: way.microBatchRows, activationCheckpointing: way.recomputed },
      ...{ offloadOptimizer: way.offloaded, compile: way.compiled },
    },
  })
  return totalOf({ ...parts, runtime: 0 })
}

describe.skipIf(!buildable)(titledOnCard("the worker on a GPU whose kernels do nothing"), { timeout: 600_000 }, () => {
  const folder = suiteFolder()
  let withCard: (bytes: number) => NodeJS.ProcessEnv

  beforeAll(() => {
    withCard = buildCard(folder)
  })

  const train = (bytes: number, ways: ReadonlyArray<Way>): ReadonlyArray<Held> => {
    const { status, stdout, stderr } = spawnSync(
      python,
      [fileURLToPath(new URL("card_training.py", import.meta.url))],
      { env: environment(withCard(bytes)), input: JSON.stringify(ways), encoding: "utf8", maxBuffer: 2 ** 26 },
    )
    assert.strictEqual(status, 0, stderr)
    return JSON.parse(stdout)
  }

  it("waits for it once a step, whatever is computed twice or lies on the host, and gives all of its memory back", () => {
    const ways = [small, grouped, { ...grouped, slidingWindow: 256 }].flatMap((architecture) =>
      ["fp32", "bf16", "fp16", "bf16+adam8bit"].flatMap((precision) =>
        ladder.map((rung): Way => ({ ...plain, ...rung, architecture, precision, microBatchRows: 2 })),
      ),
    )
    const found = train(24e9, ways)
    found.forEach(({ waits, launches, left }, i) => {
      const what = JSON.stringify(ways[i])
      assert.strictEqual(waits, 1, what)
      assert.strictEqual(left, 0, what)
      assert.isAbove(launches, 100, what)
    })
  })

  it("takes of it no more than was foretold, and not much less", () => {
    const ways = [small, grouped, reference, apt].flatMap((architecture) =>
      ["bf16", "fp32", "bf16+adam8bit"].flatMap((precision) =>
        ladder
          // moments of a billion parameters are of the machine's true memory
          .filter(({ offloaded }) => !offloaded || architecture !== apt)
          .flatMap((rung) =>
            [1, 4].map((microBatchRows): Way => ({ ...plain, ...rung, architecture, precision, microBatchRows })),
          ),
      ),
    )
    const found = train(100e9, ways)
    found.forEach(({ allocated, reserved }, i) => {
      const told = foretold(ways[i]!)
      const what = `${JSON.stringify(ways[i])}: ${told / 1e6} MB foretold, ${allocated / 1e6} held of ${reserved / 1e6}`
      // what libraries work in is some 20 MB whatever the model
      assert.isAtMost(reserved, 1.02 * told + 30e6, what)
      assert.isAtMost(told, 1.6 * allocated, what)
    })
  })

  it("holds the published sizes on cards of 16 and 24 GB", () => {
    const [one] = train(16e9, [{ ...plain, architecture: reference, rowsPerStep: 24, microBatchRows: 6 }])
    const [other] = train(24e9, [{ ...plain, architecture: apt, recomputed: true, microBatchRows: 4 }])
    assert.isBelow(one!.reserved, 9e9)
    assert.isBelow(other!.reserved, 21e9)
  })

  it("compiles its blocks with Triton, and holds less for it", () => {
    const way: Way = { ...plain, architecture: { ...grouped, layers: 2 }, microBatchRows: 4 }
    const [eager, compiled] = train(24e9, [way, { ...way, compiled: true }])
    assert.isBelow(compiled!.launches, eager!.launches)
    assert.isBelow(compiled!.reserved, 1.02 * foretold({ ...way, compiled: true }) + 30e6)
    assert.strictEqual(compiled!.waits, 1)
  })

  for (const [settings, model] of [
    [{ precision: "bf16" }, gpt2],
    [{ precision: "fp16", optimizerState: "8bit", offloadOptimizer: true }, llama],
    [{ precision: "fp32", deterministic: true, activationCheckpointing: true }, llama],
  ] as const)
    it(`answers every request there: ${Object.entries(settings)
      .map((pair) => pair.join("="))
      .join(", ")}`, async () => {
      const { request } = await Effect.runPromise(goldenRequest(temporaryFolder(), model))
      const worker = new Worker(withCard(4e9))
      const wanted = { ...settings, device: "cuda", compile: false }
      const documents = [9, 40, 64].map((length, i) => ({ id: `d${i}`, ids: Array(length).fill(i + 1) }))
      const measured = {
        ...request,
        validation: { everySteps: 10, documents },
        samples: { everySteps: 20, prompts: [[1, 2, 3]], maxNewTokens: 5 },
        // whole once more after the tenth step
        resume: { ...request.resume, everySeconds: 0 },
      }
      const trained = await worker.train(measured, wanted)
      assert.isUndefined(trained.error, worker.errors)
      assert.lengthOf(steps(trained.events), request.endStep)
      const kinds = new Set(trained.events.map(({ _tag }) => _tag))
      assert.sameMembers([...kinds], ["Step", "Validation", "Samples", "Checkpoint", "ResumePoint"])
      assert.match(trained.notes.join("\n"), /micro-batch 4 of 4 rows: 0\.\d of 4\.0 GB/)
      const checkpoint = join(request.checkpoints.folder, `step_${request.endStep}`)

      const ask = async (kind: string, asked: object): Promise<ReadonlyArray<Record<string, unknown>>> => {
        const { result, error } = await worker.ask(kind, { checkpoint, ...asked }, wanted)
        assert.isUndefined(error, `${kind}: ${JSON.stringify(error)} ${worker.errors}`)
        return result as ReadonlyArray<Record<string, unknown>>
      }
      assert.lengthOf(await ask("losses", { documents }), 3)
      assert.lengthOf(await ask("probe", { probes: [{ context: [1, 2], target: [3, 4] }] }), 1)
      const prompts = [1, 2, 3].map((first) => ({ id: `p${first}`, ids: [first, 5, 6] }))
      for (const preset of standardPresets) {
        const drawn = await ask("generate", { prompts, preset, maxNewTokens: 8, seed: 1 })
        for (const { tokens } of drawn) assert.lengthOf(tokens as ReadonlyArray<number>, 8, preset.name)
      }

      const again = await worker.train({ ...measured, from: { _tag: "Checkpoint", path: checkpoint } }, wanted)
      assert.isUndefined(again.error, worker.errors)
      assert.lengthOf(steps(again.events), 0)
      await worker.close()
      assert.strictEqual(await worker.exited, 0)
    })

  it("tells of it what its sensors say, once a second", async () => {
    const { request } = await Effect.runPromise(goldenRequest(temporaryFolder()))
    const worker = new Worker(withCard(4e9))
    const order = join(temporaryFolder(), "order.bin")
    writeFileSync(
      order,
      Uint32Array.from({ length: 4 * 2000 }, (_, i) => i % 80),
    )
    const { lines, error } = await worker.train(
      { ...request, order, endStep: 2000 },
      { device: "cuda", compile: false },
    )
    await worker.close()
    assert.isUndefined(error, worker.errors)
    const told = lines.find(({ device }) => device?.["watts"] !== undefined)?.device
    assert.include(told, { watts: 285, utilisation: 0.97, celsius: 64 })
    assert.isAbove(told!["mfu"]!, 0)
    assert.isAtLeast(told!["peakReservedBytes"]!, told!["peakMemoryBytes"]!)
    assert.isAtLeast(told!["peakMemoryBytes"]!, told!["memoryBytes"]!)
  })

  it("is refused what it has no room for, with what would make it fit", async () => {
    const { request } = await Effect.runPromise(goldenRequest(temporaryFolder()))
    const worker = new Worker(withCard(8e6))
    const { error } = await worker.train(request, { device: "cuda", compile: false, offloadOptimizer: false })
    await worker.close()
    assert.strictEqual(error!["kind"], "memory", JSON.stringify(error))
    assert.match(String(error!["hint"]), /offloadOptimizer/)
  })
})
