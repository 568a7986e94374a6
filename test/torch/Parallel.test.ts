/** Several processes train as one does: over gloo on the CPU, the same code that runs over NCCL. */
import { spawnSync } from "node:child_process"
import { readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import type { TrainRequest } from "../../src/engine/Engine.ts"
import * as Safetensors from "../../src/engine/Safetensors.ts"
import { type GoldenModel, goldenRequest, gpt2, llama, STEPS } from "../engine/golden.ts"
import { temporaryFolder } from "../temporary.ts"
import { answerOf, environment, type Line, python, runnable, type Settings, steps, titled, Worker } from "./worker.ts"

const TOLERANCE = 2e-5

const golden = async (model: GoldenModel = gpt2): Promise<TrainRequest> =>
  (await Effect.runPromise(goldenRequest(temporaryFolder(), model))).request

const weightsIn = (path: string) => Effect.runPromise(Safetensors.read(join(path, "model.safetensors")))

const sameWeights = async (actual: string, expected: string, tolerance: number) => {
  const [found, wanted] = [await weightsIn(actual), await weightsIn(expected)]
  assert.deepStrictEqual([...found.keys()], [...wanted.keys()])
  for (const [name, { shape, data }] of wanted) {
    assert.deepStrictEqual(found.get(name)!.shape, shape)
    // see Training.test.ts: steps of a key's bias are made of rounding
    const most = name.endsWith("attn.c_attn.bias") ? 6e-3 : tolerance
    data.forEach((value, i) => {
      if (Math.abs(found.get(name)!.data[i]! - value) > most)
        assert.fail(`${name}[${i}] is ${found.get(name)!.data[i]}, of one process ${value}`)
    })
  }
}

/** Processes of this package that descend from one, by what the system tells of each; only Linux does. */
const descendants = (pid: number): ReadonlyArray<number> => {
  const parents = readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, "utf8")
        const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ")
        return state === "Z" ? [] : [[Number(name), Number(parent)] as const]
      } catch {
        return []
      }
    })
  const below = (of: number): ReadonlyArray<number> =>
    parents.flatMap(([one, parent]) => (parent === of ? [one, ...below(one)] : []))
  return below(pid)
}
const alive = (pid: number): boolean => {
  try {
    readlinkSync(`/proc/${pid}/exe`)
    return true
  } catch {
    return false
  }
}
const gone = async (pids: ReadonlyArray<number>): Promise<boolean> => {
  for (let waited = 0; waited < 10_000; waited += 50) {
    if (!pids.some(alive)) return true
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
  return false
}

describe.skipIf(!runnable)(titled("several processes of the PyTorch worker"), () => {
  let worker: Worker
  beforeAll(async () => {
    worker = new Worker()
    await worker.ready
  })
  afterAll(() => worker.close())

  const losses = async (request: TrainRequest, settings: Settings) => {
    const answer = await worker.train(request, settings)
    assert.deepStrictEqual(answer.result, { step: request.endStep, interrupted: false }, JSON.stringify(answer.error))
    return steps(answer.events)
  }

  for (const [sharding, model] of [
    ["ddp", gpt2],
    ["fsdp", gpt2],
    ["fsdp", llama],
  ] as const)
    it(`learn a ${model.architecture.family} as one does by ${sharding}, and leave a checkpoint that one goes on from`, {
      timeout: 180_000,
    }, async () => {
      const request = await golden(model)
      const half = { ...request, endStep: 12, checkpoints: { ...request.checkpoints, at: [12] } }
      // three processes of four rows, in micro-batches of one: one has a micro-batch more than the others have rows for
      const found = await losses(half, { processes: 3, sharding, microBatchRows: 1 })
      const { train } = model.golden
      const check = (taken: typeof found) => {
        for (const { step, loss, gradNorm } of taken) {
          assert.isAtMost(Math.abs(loss - train.losses[step - 1]!), TOLERANCE, `loss of step ${step}`)
          assert.isAtMost(
            Math.abs(gradNorm - train.grad_norm_before_clip[step - 1]!),
            TOLERANCE,
            `norm of step ${step}`,
          )
        }
      }
      check(found)
      const alone = { ...half, checkpoints: { ...half.checkpoints, folder: join(temporaryFolder(), "alone") } }
      await losses(alone, {})
      const path = join(half.checkpoints.folder, "step_12")
      await sameWeights(path, join(alone.checkpoints.folder, "step_12"), 1e-4)
      const rest = await losses({ ...request, from: { _tag: "Checkpoint", path } }, {})
      assert.strictEqual(rest.length, STEPS - 12)
      check(rest)
    })

  it("begin from one process's checkpoint, measure and sample like it", {
    timeout: 180_000,
  }, async () => {
    const request = await golden()
    const documents = [{ id: "a", ids: Array.from({ length: 90 }, (_, i) => 3 + ((i * 7) % 200)) }]
    const measured: TrainRequest = {
      ...request,
      endStep: 4,
      checkpoints: { ...request.checkpoints, at: [4] },
      validation: { everySteps: 2, documents },
      samples: { everySteps: 4, prompts: [[0, 5, 9]], maxNewTokens: 5 },
    }
    const alone = await worker.train(measured, {})
    for (const settings of [
      { processes: 2, sharding: "ddp" },
      { processes: 2, sharding: "fsdp", optimizerState: "8bit" },
    ]) {
      const answer = await worker.train(measured, settings)
      assert.deepStrictEqual(
        answer.events.map(({ _tag, step }) => `${_tag} ${step}`),
        alone.events.map(({ _tag, step }) => `${_tag} ${step}`),
        JSON.stringify(answer.error),
      )
      answer.events.forEach((event, i) => {
        const other = alone.events[i]!
        if (event._tag === "Validation" && other._tag === "Validation") {
          assert.isAtMost(Math.abs(event.losses[0]!.nll - other.losses[0]!.nll), 0.05)
          assert.strictEqual(event.losses[0]!.tokens, 89)
        }
        if (event._tag === "Samples" && other._tag === "Samples") assert.deepStrictEqual(event.tokens, other.tokens)
      })
    }
  })

  it("leave one resume point when they are told to stop", { timeout: 180_000 }, async () => {
    const request = await golden()
    const order = join(temporaryFolder(), "order.bin")
    writeFileSync(
      order,
      Uint32Array.from({ length: 4 * 20_000 }, (_, i) => i % 80),
    )
    for (const sharding of ["ddp", "fsdp"]) {
      const stopped = await worker.train(
        { ...request, order, endStep: 20_000, checkpoints: { ...request.checkpoints, at: [] } },
        { processes: 2, sharding },
        ({ event }) => {
          if (event?._tag === "Step" && event.step === 6) worker.cancel()
        },
      )
      const { step, interrupted } = stopped.result as { step: number; interrupted: boolean }
      assert.isTrue(interrupted)
      assert.deepStrictEqual(readdirSync(request.resume.folder).sort(), ["events.ndjson", `step_${step}`])
    }
  })

  it("tell the first thing that went wrong in any of them", { timeout: 180_000 }, async () => {
    const request = await golden()
    const wild = await worker.train(
      { ...request, schedule: { peakLr: 1e30, warmupSteps: 0 }, optimizer: { ...request.optimizer, weightDecay: 0 } },
      { processes: 2 },
    )
    assert.strictEqual(wild.error?._tag, "TrainingDiverged")
    assert.lengthOf(wild.error!["rows"] as ReadonlyArray<number>, 4)
    const many = await worker.train(request, { processes: 5 })
    assert.strictEqual(many.error!["problem"], "5 processes for 4 rows a step")
  })

  it("are also started by torchrun, and the first writes the lines", { timeout: 180_000 }, async () => {
    const request = await golden()
    const path = join(temporaryFolder(), "request.json")
    writeFileSync(
      path,
      JSON.stringify({ kind: "train", request: { ...request, endStep: 3 }, settings: { device: "cpu" } }),
    )
    const launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "exp_torch", path]
    const { status, stdout, stderr } = spawnSync(python, launcher, { env: environment(), encoding: "utf8" })
    assert.strictEqual(status, 0, stderr)
    const lines = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line) as Line)
    assert.lengthOf(
      lines.filter(({ hello }) => hello !== undefined),
      1,
    )
    const { events, result } = answerOf(lines)
    assert.deepStrictEqual(result, { step: 3, interrupted: false })
    steps(events).forEach(({ loss }, i) => {
      assert.isAtMost(Math.abs(loss - gpt2.golden.train.losses[i]!), TOLERANCE)
    })
  })

  it.skipIf(process.platform !== "linux")(
    `leave nobody behind when the worker is killed${process.platform === "linux" ? "" : " (skipped: only Linux tells whose child a process is)"}`,
    { timeout: 180_000 },
    async () => {
      const request = await golden()
      const order = join(temporaryFolder(), "order.bin")
      writeFileSync(
        order,
        Uint32Array.from({ length: 4 * 50_000 }, (_, i) => i % 80),
      )
      const long = { ...request, order, endStep: 50_000, checkpoints: { ...request.checkpoints, at: [] } }
      for (const end of [(one: Worker) => one.child.kill("SIGKILL"), (one: Worker) => one.child.stdin.end()]) {
        const one = new Worker()
        let family: ReadonlyArray<number> = []
        void one.train(long, { processes: 2 }, ({ event }) => {
          if (event?._tag !== "Step" || event.step !== 3) return
          family = descendants(one.child.pid!)
          end(one)
        })
        await one.exited
        assert.isAtLeast(family.length, 2)
        assert.isTrue(await gone(family), "they are still there")
      }
    },
  )
})
