/** Several processes train as one does: over gloo on the CPU, the same code that runs over NCCL. */
import { spawnSync } from "node:child_process"
import { readdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import type { TrainRequest } from "../../src/engine/Engine.ts"
import * as Safetensors from "../../src/engine/Safetensors.ts"
import { type GoldenModel, goldenRequest, gpt2, llama, STEPS } from "../engine/golden.ts"
import { descendants, gone } from "../processes.ts"
import { temporaryFolder } from "../temporary.ts"
import {
  answerOf,
  environment,
  type Line,
  near,
  python,
  run,
  runnable,
  type Settings,
  steps,
  TOLERANCE,
  titled,
  Worker,
} from "./worker.ts"

const golden = async (model: GoldenModel = gpt2): Promise<TrainRequest> =>
  (await Effect.runPromise(goldenRequest(temporaryFolder(), model))).request

const weightsIn = (path: string) => Effect.runPromise(Safetensors.read(join(path, "model.safetensors")))

const sameWeights = async (actual: string, expected: string, tolerance: number) => {
  const [found, wanted] = [await weightsIn(actual), await weightsIn(expected)]
  assert.deepStrictEqual([...found.keys()], [...wanted.keys()])
  for (const [name, { shape, data }] of wanted) {
    assert.deepStrictEqual(found.get(name)!.shape, shape)
    // see Training.test.ts: steps of a key's bias, the middle third, are made of rounding
    const third = data.length / 3
    const loose = (i: number) => name.endsWith("attn.c_attn.bias") && i >= third && i < 2 * third
    data.forEach((value, i) => {
      if (Math.abs(found.get(name)!.data[i]! - value) > (loose(i) ? 6e-3 : tolerance))
        assert.fail(`${name}[${i}] is ${found.get(name)!.data[i]}, of one process ${value}`)
    })
  }
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
          near(loss, train.losses[step - 1]!, TOLERANCE, `loss of step ${step}`)
          near(gradNorm, train.grad_norm_before_clip[step - 1]!, TOLERANCE, `norm of step ${step}`)
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
    for (const [settings, tolerance] of [
      [{ processes: 2, sharding: "ddp" }, TOLERANCE * 89],
      [{ processes: 2, sharding: "fsdp", optimizerState: "8bit" }, 0.05],
    ] as const) {
      const answer = await worker.train(measured, settings)
      assert.deepStrictEqual(
        answer.events.map(({ _tag, step }) => `${_tag} ${step}`),
        alone.events.map(({ _tag, step }) => `${_tag} ${step}`),
        JSON.stringify(answer.error),
      )
      answer.events.forEach((event, i) => {
        const other = alone.events[i]!
        if (event._tag === "Validation" && other._tag === "Validation") {
          near(event.losses[0]!.nll, other.losses[0]!.nll, tolerance, `nll of 89 tokens after step ${event.step}`)
          assert.strictEqual(event.losses[0]!.tokens, 89)
        }
        if (event._tag === "Samples" && other._tag === "Samples") assert.deepStrictEqual(event.tokens, other.tokens)
      })
    }
  })

  it("measure documents together, each to the bit as one process does", { timeout: 180_000 }, async () => {
    const request = await golden()
    // one has nothing to measure, and one is longer than all others together
    const documents = [3, 1, 40, 200, 17, 66, 2].map((length, d) => ({
      id: `document ${d}`,
      ids: Array.from({ length }, (_, i) => (d + i * 7) % 200),
    }))
    // so small a rate leaves the weights as they were
    const measured: TrainRequest = {
      ...request,
      ...{ endStep: 1, schedule: { peakLr: 1e-30, warmupSteps: 0 }, validation: { everySteps: 1, documents } },
      checkpoints: { ...request.checkpoints, at: [] },
    }
    const losses = async (settings: Settings) => {
      const { events, error } = await worker.train(measured, settings)
      const found = events.flatMap((event) => (event._tag === "Validation" ? [event.losses] : []))
      assert.lengthOf(found, 1, JSON.stringify(error))
      return found[0]!
    }
    const alone = await losses({})
    assert.deepStrictEqual(
      alone.map(({ id, tokens }) => [id, tokens]),
      documents.map(({ id, ids }) => [id, ids.length - 1]),
    )
    assert.deepStrictEqual(await losses({ processes: 3, sharding: "ddp" }), alone)
    assert.deepStrictEqual(await losses({ processes: 2, sharding: "fsdp" }), alone)
  })

  it("deal pieces of work so that none has much more than another, and every piece once", () => {
    const found = JSON.parse(
      run(`
import json
from exp_torch.parallel import Group
sizes = [5, 1, 1, 9, 3, 3, 0]
print(json.dumps([[Group(rank, size).dealt(sizes) for rank in range(size)] for size in (1, 3, 9)]))`),
    ) as ReadonlyArray<ReadonlyArray<ReadonlyArray<number>>>
    assert.deepStrictEqual(found[0], [[0, 1, 2, 3, 4, 5, 6]])
    assert.deepStrictEqual(found[1], [[3], [0, 1, 2], [4, 5, 6]])
    assert.deepStrictEqual(found[2]!.flat().toSorted(), [0, 1, 2, 3, 4, 5, 6])
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
      near(loss, gpt2.golden.train.losses[i]!, TOLERANCE, `loss of step ${i + 1}`)
    })
  })

  it("find one plan by the same tries, where one has less memory, or runs out of it, or has a clock that is slow", () => {
    const path = join(temporaryFolder(), "uneven.py")
    writeFileSync(
      path,
      `
import json, time
from types import SimpleNamespace
import torch
from exp_torch import parallel
from exp_torch.settings import Settings
from exp_torch.train import Run
from exp_torch.trainer import Arithmetic, Trainer
group, cpu = parallel.join("cpu"), torch.device("cpu")
shape = {"family": "gpt2", "layers": 2, "width": 32, "heads": 2, "context": 16, "vocabulary": 99}
optimizer = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weightDecay": 0.1, "clipNorm": 1}
trainer = Trainer(shape, optimizer, 16, 16, cpu, Arithmetic(torch.float32, False, False), group, True)
trainer.initialise(1)
gib, second, tries, notes = 2**30, group.rank == 1, [], []
total = (8 if second else 10) * gib
def peak(device):
    tries.append([trainer.plan.micro_batch_rows, trainer.plan.recomputed_blocks, trainer.plan.offloaded])
    if second and tries[-1][0] > 1 and tries[-1][1] == 0:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return gib + tries[-1][0] * (gib if second else gib // 2)
torch.cuda.get_device_properties = lambda device: SimpleNamespace(total_memory=total)
torch.cuda.mem_get_info = lambda device: (total, total)
torch.cuda.memory_reserved = lambda device: 0
torch.cuda.reset_peak_memory_stats = lambda device: None
torch.cuda.max_memory_reserved = peak
run = object.__new__(Run)
run.request, run.group, run.trainer = {"rowsPerStep": 16, "architecture": shape}, group, trainer
run.rows, run.say = SimpleNamespace(context=16), lambda line: None
run.session = SimpleNamespace(settings=Settings(), device=cpu, note=notes.append)
plan = run._found_plan(2, group.most_rows(16))
trainer.arrange(plan)
rehearse, rehearsed = trainer.rehearse, []
def noted(rows, times):
    rehearsed.append(rows)
    return rehearse(rows, times) + (2 if second else 0)
trainer.rehearse = noted
run._note_cost()
print(json.dumps({"plan": plan.json(), "tries": tries, "notes": notes, "rehearsed": len(rehearsed)}) + "\\n", end="", flush=True)
parallel.leave()
`,
    )
    const launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", path]
    const options = { env: environment(), encoding: "utf8", timeout: 120_000 } as const
    const { status, stdout, stderr } = spawnSync(python, launcher, options)
    assert.strictEqual(status, 0, stderr)
    const [one, other] = stdout
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line))
    assert.deepStrictEqual(one, other)
    assert.deepStrictEqual(one.plan, { micro_batch_rows: 4, recomputed_blocks: 2, offloaded: false })
    assert.deepStrictEqual(one.notes, ["micro-batch 4 of 8 rows: some 5.4 of 8.6 GB, activations computed twice"])
    // of each way one row and two, and the guess is left untried
    assert.deepStrictEqual(
      one.tries,
      [
        [0, false],
        [2, false],
        [2, true],
      ].flatMap(([blocks, offloaded]) => [1, 2].map((rows) => [rows, blocks, offloaded])),
    )
    // with and without deterministic arithmetic, one to get warm and one to be timed
    assert.strictEqual(one.rehearsed, 4)
  }, 180_000)

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
