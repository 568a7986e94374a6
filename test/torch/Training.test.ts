/** The worker trains: same numbers as PyTorch's own models, same files as the embedded engine, same bits after an interruption. */
import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import { afterAll, assert, beforeAll, describe, it } from "vitest"
import type { TrainEvent, TrainRequest } from "../../src/engine/Engine.ts"
import * as Safetensors from "../../src/engine/Safetensors.ts"
import { type Architecture, tensors } from "../../src/model/Architecture.ts"
import type { CheckpointState } from "../../src/model/Checkpoint.ts"
import { canonicalJson } from "../../src/model/Digest.ts"
import { stream } from "../../src/model/Random.ts"
import {
  type GoldenModel,
  goldenRequest,
  goldenRows,
  gpt2,
  LENGTH,
  llama,
  norm,
  STEPS,
  writeTokens,
} from "../engine/golden.ts"
import { KEY_BIAS } from "../engine/torch.ts"
import { temporaryFolder } from "../temporary.ts"
import {
  type Answer,
  answerOf,
  arithmetic,
  environment,
  type Line,
  near,
  python,
  run,
  runnable,
  steps,
  TOLERANCE,
  titled,
  Worker,
} from "./worker.ts"

const golden = async (
  model: GoldenModel = gpt2,
): Promise<{ readonly folder: string; readonly request: TrainRequest }> => {
  const folder = temporaryFolder()
  return { folder, request: (await Effect.runPromise(goldenRequest(folder, model))).request }
}

const tensorsIn = (path: string) => Effect.runPromise(Safetensors.read(path))
const state = (path: string) => JSON.parse(readFileSync(join(path, "state.json"), "utf8")) as CheckpointState
const bytesOf = (path: string): ReadonlyMap<string, string> =>
  new Map(readdirSync(path).map((name) => [name, readFileSync(join(path, name)).toString("base64")]))
const last = (request: TrainRequest) => join(request.checkpoints.folder, `step_${request.endStep}`)
const into = (request: TrainRequest, folder: string): TrainRequest => ({
  ...request,
  checkpoints: { ...request.checkpoints, folder: join(folder, "checkpoints") },
  resume: { ...request.resume, folder: join(folder, "resume") },
})

/** As many steps, on the same rows again and again. */
const lengthened = (request: TrainRequest, folder: string, endStep: number): TrainRequest => {
  const order = join(folder, "long.bin")
  writeFileSync(
    order,
    Uint32Array.from({ length: 4 * endStep }, (_, i) => i % 80),
  )
  return { ...request, order, endStep, checkpoints: { ...request.checkpoints, at: [endStep] } }
}

const finished = (answer: Answer): Answer => {
  assert.strictEqual(answer.error, undefined, JSON.stringify(answer.error))
  assert.deepStrictEqual(Object.keys(answer.result ?? {}), ["step", "interrupted"], answer.notes.join("\n"))
  return answer
}

describe.skipIf(!runnable)(titled("the PyTorch worker begins"), () => {
  const glibc = runnable && run("import platform; print(platform.libc_ver()[0])") === "glibc\n"

  it.skipIf(!glibc)(
    `with its allocator and its threads as they serve it, but for what somebody has set${glibc ? "" : " (skipped: glibc alone has these)"}`,
    () => {
      const begun = (more: NodeJS.ProcessEnv) =>
        JSON.parse(
          run(
            `
import json, os, sys
from exp_torch import __main__ as program, protocol
names = ("MALLOC_MMAP_MAX_", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
protocol.serve = lambda: print(json.dumps([os.environ.get(name) for name in names]))
sys.argv = ["exp_torch"]
program.main()`,
            { MALLOC_MMAP_MAX_: undefined, MALLOC_TRIM_THRESHOLD_: undefined, MALLOC_TOP_PAD_: undefined, ...more },
          ),
        )
      const none = { GOMP_SPINCOUNT: undefined, OMP_WAIT_POLICY: undefined }
      assert.deepStrictEqual(begun(none), ["0", "2000", null])
      assert.deepStrictEqual(begun({ ...none, OMP_WAIT_POLICY: "active" }), ["0", null, "active"])
      assert.deepStrictEqual(begun({ ...none, GOMP_SPINCOUNT: "7", MALLOC_TOP_PAD_: "1" }), [null, "7", null])
    },
  )
})

describe.skipIf(!runnable)(titled("the PyTorch worker trains"), () => {
  let worker: Worker
  beforeAll(async () => {
    worker = new Worker()
    await worker.ready
  })
  afterAll(() => worker.close())

  for (const model of [gpt2, llama])
    it(`a ${model.architecture.family} as transformers does: losses, gradient norms, weights`, async () => {
      const { request } = await golden(model)
      const { events } = finished(await worker.train(request))
      const taken = steps(events)
      const { train } = model.golden
      assert.strictEqual(taken.length, STEPS)
      taken.forEach((step, i) => {
        near(step.loss, train.losses[i]!, TOLERANCE, `loss of step ${i + 1}`)
        near(step.gradNorm, train.grad_norm_before_clip[i]!, TOLERANCE, `gradient norm of step ${i + 1}`)
        assert.strictEqual(step.tokensSeen, (i + 1) * 4 * 64)
        assert.strictEqual(step.lr, 3e-4)
      })
      const weights = await tensorsIn(join(last(request), "model.safetensors"))
      // a key's bias moves all of a row's scores alike, which softmax does not see: its gradient is rounding, which Adam makes steps of
      for (const [name, expected] of Object.entries(train.final_weight_norms))
        near(norm(weights.get(name)!.data), expected, name.endsWith("attn.c_attn.bias") ? KEY_BIAS : TOLERANCE, name)
    })

  it("writes checkpoints byte for byte as the embedded engine does", async () => {
    const { folder, request } = await golden()
    const { events } = finished(
      await worker.train({ ...request, endStep: 3, checkpoints: { ...request.checkpoints, at: [3] } }),
    )
    const event = events.find(({ _tag }) => _tag === "Checkpoint") as Extract<TrainEvent, { _tag: "Checkpoint" }>
    assert.strictEqual(readFileSync(join(event.path, "state.json"), "utf8"), `${canonicalJson(event.state)}\n`)
    assert.deepStrictEqual(readdirSync(event.path).sort(), ["model.safetensors", "optimizer.safetensors", "state.json"])
    for (const [file, sha256] of [
      ["model.safetensors", event.state.modelSha256],
      ["optimizer.safetensors", event.state.optimizerSha256],
    ] as const) {
      const copy = join(folder, file)
      const found = await tensorsIn(join(event.path, file))
      const written = await Effect.runPromise(Safetensors.write(copy, [...found.values()]))
      assert.strictEqual(written.sha256, sha256)
      assert.isTrue(readFileSync(copy).equals(readFileSync(join(event.path, file))))
    }
    assert.deepStrictEqual(
      { ...event.state, modelSha256: "", optimizerSha256: "" },
      {
        ...{ step: 3, tokensSeen: 768, rowCursor: 12, rowsPerStep: 4, seed: 1, modelSha256: "", optimizerSha256: "" },
        ...{ architecture: request.architecture, schedule: request.schedule, optimizer: request.optimizer },
        engine: { name: "torch", numerics: 1, precision: "fp32" },
      },
    )
  })

  const shapes: ReadonlyArray<Architecture> = [
    { family: "gpt2", layers: 2, width: 96, heads: 3, context: 48, vocabulary: 1111 },
    {
      ...{ family: "llama", layers: 3, width: 64, heads: 4, keyValueHeads: 2, feedForwardWidth: 100, context: 64 },
      ...{ vocabulary: 777, ropeTheta: 10_000, normEpsilon: 1e-5, tiedHead: false },
    },
  ]
  for (const architecture of shapes)
    it(`draws the weights of a ${architecture.family} that \`src/model\` defines`, async () => {
      const { request } = await golden()
      const fresh: TrainRequest = {
        ...request,
        ...{ architecture, from: { _tag: "Fresh" }, seed: 77, endStep: 1 },
        ...writeTokens(temporaryFolder(), goldenRows.slice(0, 4 * 33), 33, 256),
        // so small a rate leaves the weights as drawn
        schedule: { peakLr: 1e-30, warmupSteps: 0 },
        checkpoints: { ...request.checkpoints, at: [1], moments: false },
      }
      finished(await worker.train(fresh))
      assert.isFalse(existsSync(join(last(fresh), "optimizer.safetensors")))
      const drawn = await tensorsIn(join(last(fresh), "model.safetensors"))
      assert.strictEqual(drawn.size, tensors(architecture).length)
      for (const { name, shape, init } of tensors(architecture)) {
        const { data } = drawn.get(name)!
        assert.strictEqual(
          data.length,
          shape.reduce((a, b) => a * b, 1),
        )
        const random = stream(77, `weights:${name}`)
        const other = data.findIndex((value, i) =>
          "constant" in init
            ? Math.abs(value - init.constant) > 1e-29
            : value !== Math.fround(random.normal(i) * init.normal),
        )
        assert.strictEqual(other, -1, `${name}[${other}]`)
      }
    })

  it("goes on from a checkpoint as if it had never stopped", async () => {
    const { folder, request } = await golden()
    const whole = finished(await worker.train(request))
    const half = { ...into(request, join(folder, "half")), endStep: 9 }
    const first = finished(await worker.train({ ...half, checkpoints: { ...half.checkpoints, at: [9] } }))
    const rest = into({ ...request, from: { _tag: "Checkpoint", path: last(half) } }, join(folder, "rest"))
    const second = finished(await worker.train(rest))
    assert.deepStrictEqual([...arithmetic(first.events), ...arithmetic(second.events)], arithmetic(whole.events))
    assert.deepStrictEqual(bytesOf(last(rest)), bytesOf(last(request)))
  })

  it("leaves a resume point when it is cancelled, with the events since the one before, and goes on to the same bytes", async () => {
    const { folder, request: short } = await golden()
    const request = lengthened(short, folder, 80)
    finished(await worker.train(request))
    const whole = bytesOf(last(request))
    const cut = into(request, join(folder, "cut"))
    const answer = finished(
      await worker.train(cut, {}, ({ event }) => {
        if (event?._tag === "Step" && event.step === 4) worker.cancel()
      }),
    )
    const { step, interrupted } = answer.result as { step: number; interrupted: boolean }
    assert.isTrue(interrupted)
    assert.isAtLeast(step, 4)
    assert.deepStrictEqual(readdirSync(cut.resume.folder).sort(), ["events.ndjson", `step_${step}`])
    const lines = readFileSync(join(cut.resume.folder, "events.ndjson"), "utf8").trim().split("\n")
    assert.deepStrictEqual(
      lines.map((line) => JSON.parse(line)),
      steps(answer.events),
    )
    const rest = { ...cut, from: { _tag: "Checkpoint", path: join(cut.resume.folder, `step_${step}`) } } as const
    finished(await worker.train(rest))
    assert.deepStrictEqual(bytesOf(last(rest)), whole)
  })

  it("writes resume points on its schedule and keeps only the newest, with what a stopped process left gone", async () => {
    const { request } = await golden()
    mkdirSync(join(request.resume.folder, ".step_2.1234.tmp"), { recursive: true })
    const { events } = finished(
      await worker.train({
        ...request,
        endStep: 4,
        resume: { ...request.resume, everySeconds: 0 },
        checkpoints: { ...request.checkpoints, at: [2] },
      }),
    )
    assert.deepStrictEqual(
      events.map(({ _tag, step }) => `${_tag} ${step}`),
      [...["Step 1", "ResumePoint 1", "Step 2", "Checkpoint 2", "ResumePoint 2", "Step 3", "ResumePoint 3", "Step 4"]],
    )
    assert.deepStrictEqual(readdirSync(request.resume.folder).sort(), ["events.ndjson", "step_3"])
    // those since the resume point before, and those of the last checkpoint that was kept
    const lines = readFileSync(join(request.resume.folder, "events.ndjson"), "utf8").trim().split("\n")
    assert.deepStrictEqual(
      lines.map((line) => (JSON.parse(line) as { step: number }).step),
      [2, 3],
    )
  })

  it("stops at a loss that is not a number, and at one that jumps, naming step and rows", async () => {
    const { folder, request } = await golden()
    const wild = await worker.train({
      ...request,
      schedule: { peakLr: 1e30, warmupSteps: 0 },
      optimizer: { ...request.optimizer, weightDecay: 0 },
    })
    assert.strictEqual(wild.error?._tag, "TrainingDiverged")
    const step = wild.error!["step"] as number
    assert.isAtMost(step, 3)
    assert.deepStrictEqual(
      wild.error!["rows"],
      [0, 1, 2, 3].map((row) => 4 * (step - 1) + row),
    )
    assert.match(
      wild.error!["what"] as string,
      /^the loss is (NaN|Infinity|[\d.e+]+), the gradient norm (NaN|Infinity)/,
    )
    assert.isFalse(existsSync(request.resume.folder))

    const rows = new Int32Array(30 * 4 * LENGTH).fill(7)
    rows.set(goldenRows.subarray(0, 8 * 4 * LENGTH), 22 * 4 * LENGTH)
    const files = writeTokens(join(folder, "jump"), rows, LENGTH, 256)
    const jump = await worker.train({ ...request, ...files, endStep: 30, schedule: { peakLr: 3e-3, warmupSteps: 5 } })
    assert.strictEqual(jump.error?._tag, "TrainingDiverged")
    assert.strictEqual(jump.error!["step"], 23)
    assert.match(jump.error!["what"] as string, /jumped to [\d.]+ from a mean of [\d.]+ over the last 22 steps/)
  })

  it("gives the same losses however the step is cut, recomputed, or its moments are kept", async () => {
    const { request } = await golden()
    const losses = async (settings: Readonly<Record<string, unknown>>) =>
      steps(finished(await worker.train(into(request, temporaryFolder()), settings)).events).map(({ loss }) => loss)
    const plain = await losses({})
    for (const settings of [
      { microBatchRows: 1 },
      { microBatchRows: 3 },
      { activationCheckpointing: true },
      { deterministic: true },
      { threads: 1 },
    ]) {
      const found = await losses(settings)
      found.forEach((loss, i) => {
        near(loss, plain[i]!, TOLERANCE, `${JSON.stringify(settings)}, step ${i + 1}`)
      })
    }
    // where moments lie makes no difference at all
    assert.deepStrictEqual(await losses({ offloadOptimizer: true }), plain)
    const eight = await losses({ optimizerState: "8bit" })
    assert.notDeepEqual(eight, plain)
    eight.forEach((loss, i) => {
      near(loss, plain[i]!, 5e-3, `8-bit moments, step ${i + 1}`)
    })
    assert.deepStrictEqual(await losses({ optimizerState: "8bit", offloadOptimizer: true }), eight)
  })

  it("learns in half precision as in full, within what the precision allows, and goes on to the same bytes", async () => {
    const { folder, request } = await golden()
    const plain = steps(finished(await worker.train(request)).events)
    for (const settings of [
      { precision: "bf16" },
      { precision: "fp16" },
      { precision: "bf16", optimizerState: "8bit" },
    ]) {
      const name = Object.values(settings).join("-")
      const whole = into(request, join(folder, name))
      const found = steps(finished(await worker.train(whole, settings)).events)
      found.forEach(({ loss }, i) => {
        near(loss, plain[i]!.loss, 0.05, `${name}, step ${i + 1}`)
      })
      assert.notStrictEqual(found[5]!.loss, plain[5]!.loss)
      const half = { ...into(request, join(folder, `${name}-half`)), endStep: 9 }
      finished(await worker.train({ ...half, checkpoints: { ...half.checkpoints, at: [9] } }, settings))
      const rest = into({ ...request, from: { _tag: "Checkpoint", path: last(half) } }, join(folder, `${name}-rest`))
      finished(await worker.train(rest, settings))
      assert.deepStrictEqual(bytesOf(last(rest)), bytesOf(last(whole)), name)
      assert.strictEqual(
        state(last(whole)).engine.precision,
        settings.optimizerState === undefined ? settings.precision : `${settings.precision}+adam8bit`,
      )
    }
  })

  it("computes an fp16 step again when its gradient overflows, and remembers the scale at a resume point", async () => {
    const { folder, request } = await golden()
    const spoken = (name: string, more: Partial<TrainRequest>) =>
      worker.train({ ...into(request, join(folder, name)), ...more }, { precision: "fp16" })
    const first = into(request, join(folder, "a"))
    finished(await spoken("a", { endStep: 3, resume: { ...first.resume, everySeconds: 0 } }))
    const point = join(first.resume.folder, "step_2")
    const worker2 = JSON.parse(readFileSync(join(point, "worker.json"), "utf8")) as {
      lossScale: number
      goodSteps: number
    }
    assert.strictEqual(worker2.goodSteps, 2)
    assert.strictEqual(worker2.lossScale, 65_536)
    // a scale no gradient survives comes down until one does, and no step is lost
    writeFileSync(join(point, "worker.json"), JSON.stringify({ ...worker2, lossScale: 2 ** 40 }))
    const { events } = finished(
      await spoken("b", {
        from: { _tag: "Checkpoint", path: point },
        resume: { folder: join(folder, "b"), everySeconds: 0 },
        endStep: 5,
      }),
    )
    assert.deepStrictEqual(
      steps(events).map(({ step }) => step),
      [3, 4, 5],
    )
    const after = JSON.parse(readFileSync(join(folder, "b", "step_4", "worker.json"), "utf8")) as { lossScale: number }
    assert.isBelow(after.lossScale, 2 ** 40)
    assert.isAtLeast(after.lossScale, 1)
  })

  for (const [title, settings, tolerance] of [
    ["with activations computed twice", { activationCheckpointing: true }, TOLERANCE],
    ["in bf16 with moments in eight bits", { precision: "bf16", optimizerState: "8bit" }, 0.05],
  ] as const)
    it(`compiles whole, without a break in the graph, ${title}`, { timeout: 180_000 }, async () => {
      const { folder, request } = await golden(llama)
      const path = join(folder, "request.json")
      const wanted = { device: "cpu", compile: true, ...settings }
      writeFileSync(path, JSON.stringify({ kind: "train", request: { ...request, endStep: 3 }, settings: wanted }))
      // what is traced is PyTorch's work and ours; what its C++ compiler makes of it takes minutes and is PyTorch's alone
      const lines = run(`
import torch
compile = torch.compile
torch.compile = lambda *args, **options: compile(*args, backend="aot_eager", **options)
from exp_torch.protocol import do_file
assert do_file(${JSON.stringify(path)}) == 0
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2
`)
      const found = steps(
        answerOf(
          lines
            .trim()
            .split("\n")
            .map((line) => JSON.parse(line) as Line),
        ).events,
      )
      assert.lengthOf(found, 3)
      found.forEach(({ loss }, i) => {
        near(loss, llama.golden.train.losses[i]!, tolerance, `step ${i + 1}`)
      })
    })

  it("says what being deterministic costs on this device", async () => {
    const { request } = await golden()
    const { notes } = finished(await worker.train({ ...request, endStep: 1 }, { deterministic: true }))
    assert.lengthOf(notes, 1)
    assert.match(notes[0]!, /^deterministic: [\d.]+ ms a micro-batch, [\d.]+ ms without: [+-]\d+ %$/)
    assert.lengthOf(finished(await worker.train({ ...request, endStep: 1 })).notes, 0)
  })

  it("says what memory was wanting, what is damaged, and what it was asked wrongly, and goes on working", async () => {
    const { request } = await golden()
    const huge = { ...request.architecture, width: 2 ** 17, heads: 2, vocabulary: 2 ** 30 }
    const memory = await worker.train({ ...request, architecture: huge, from: { _tag: "Fresh" } })
    assert.strictEqual(memory.error?.["kind"], "memory", JSON.stringify(memory.error))
    assert.match(memory.error!["hint"] as string, /8bit/)

    const other = await worker.train({ ...request, architecture: { ...request.architecture, layers: 3 } })
    assert.strictEqual(other.error?._tag, "CheckpointUnreadable")
    assert.strictEqual(other.error!["problem"], "its layers is 2, the request wants 3")

    const folder = request.from._tag === "Checkpoint" ? request.from.path : ""
    const written = readFileSync(join(folder, "state.json"), "utf8")
    const windowed = { ...state(folder), architecture: { ...request.architecture, slidingWindow: 16 } }
    writeFileSync(join(folder, "state.json"), canonicalJson(windowed))
    const narrower = await worker.train(request)
    assert.strictEqual(narrower.error?.["problem"], "its slidingWindow is 16, the request wants none")
    writeFileSync(join(folder, "state.json"), written)
    const padded = { ...request.architecture, paddingId: 0 } as TrainRequest["architecture"]
    assert.strictEqual(
      (await worker.train({ ...request, architecture: padded })).error?.["problem"],
      "its paddingId is absent, the request wants 0",
    )

    for (const [noted, problem] of [
      ["[]", "`worker.json` is no object"],
      ['{"device":7}', "`worker.json`: `device` is 7"],
      ['{"plan":{"micro_batch_rows":0,"recomputed_blocks":0,"offloaded":false}}', "`worker.json`: `plan` is "],
      ['{"plan":{"micro_batch_rows":1,"recomputed_blocks":0}}', "`worker.json`: `plan` is "],
      ['{"lossScale":"large"}', '`worker.json`: `lossScale` is "large"'],
      ['{"lossScale":Infinity}', "`worker.json`: `lossScale` is Infinity"],
      ['{"goodSteps":', "worker.json: "],
    ] as const) {
      writeFileSync(join(folder, "worker.json"), noted)
      const { error } = await worker.train(request)
      assert.strictEqual(error?._tag, "CheckpointUnreadable", noted)
      assert.include(error!["problem"] as string, problem)
    }
    rmSync(join(folder, "worker.json"))

    const model = join(folder, "model.safetensors")
    const bytes = readFileSync(model)
    bytes[bytes.length - 5]! ^= 1
    writeFileSync(model, bytes)
    assert.match((await worker.train(request)).error!["problem"] as string, /sha256/)
    writeFileSync(model, bytes.subarray(0, bytes.length - 4))
    assert.match((await worker.train(request)).error!["problem"] as string, /the header promises/)

    const wrong = await worker.train(request, { precission: "bf16" })
    assert.deepStrictEqual(wrong.error, {
      ...{ _tag: "EngineFailed", engine: "torch", doing: "reading the settings" },
      ...{ problem: "there is no setting `precission`", hint: "did you mean `precision`?" },
    })
    assert.match(
      (await worker.train(request, { device: "cuda", precision: 16 })).error!["problem"] as string,
      /`precision` is 16/,
    )
    assert.match((await worker.ask("dream", {})).error!["problem"] as string, /no kind `dream`/)
    const longer = await worker.train({ ...request, from: { _tag: "Fresh" }, endStep: 21 })
    assert.match(longer.error!["problem"] as string, /the order has 80 rows, 21 steps of 4 read more/)
    finished(await worker.train({ ...request, from: { _tag: "Fresh" }, endStep: 1 }))
  })
})

// every one of these starts PyTorch anew
describe.skipIf(!runnable)(titled("the PyTorch worker as a process"), { timeout: 120_000 }, () => {
  it("does the request of a file, and nothing but lines is on its standard output", async () => {
    const { folder, request } = await golden()
    const path = join(folder, "request.json")
    const spoken = (settings: Readonly<Record<string, unknown>>) => {
      writeFileSync(path, JSON.stringify({ kind: "train", request: { ...request, endStep: 2 }, settings }))
      const { status, stdout } = spawnSync(python, ["-m", "exp_torch", path], { env: environment(), encoding: "utf8" })
      const lines = stdout
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as Line)
      return { status, hello: lines[0]!.hello, ...answerOf(lines) }
    }
    const done = spoken({ device: "cpu" })
    assert.strictEqual(done.status, 0)
    assert.deepStrictEqual(done.result, { step: 2, interrupted: false })
    assert.strictEqual(done.hello?.protocol, 1)
    const failed = spoken({ device: "tpu" })
    assert.strictEqual(failed.status, 1)
    assert.strictEqual(failed.error?._tag, "EngineFailed")
  })

  it("says of a file that is no request what is wrong with it, in a line", () => {
    const folder = temporaryFolder()
    const refused = (name: string, content?: string | Uint8Array): string => {
      const path = join(folder, name)
      if (content !== undefined) writeFileSync(path, content)
      const { status, stdout } = spawnSync(python, ["-m", "exp_torch", path], { env: environment(), encoding: "utf8" })
      const lines = stdout.trim().split("\n")
      assert.strictEqual(status, 1, name)
      const { error } = answerOf(lines.map((line) => JSON.parse(line) as Line))
      assert.strictEqual(error?._tag, "EngineFailed")
      assert.match(error!["hint"] as string, /PROTOCOL\.md/)
      return error!["problem"] as string
    }
    assert.match(refused("absent.json"), /absent\.json.*No such file/)
    assert.match(refused("cut.json", '{"kind": "train", "requ'), /cut\.json: Unterminated string/)
    assert.match(refused("bytes.json", Uint8Array.of(0x7b, 0xff, 0xfe)), /bytes\.json: .*codec can't decode/)
    assert.match(refused("list.json", "[1]"), /list\.json: it is not an object/)
  })

  it("gives up a request that is told so before its turn", async () => {
    const { folder, request } = await golden()
    const long = lengthened(request, folder, 4000)
    const one = new Worker()
    await one.ready
    // request and word in one write
    one.child.stdin.cork()
    const first = one.train(into(long, join(folder, "first")))
    one.cancel()
    const second = one.train(into(long, join(folder, "second")))
    // the first one is at work when this comes
    one.cancel()
    one.child.stdin.uncork()
    const third = one.train(into({ ...request, endStep: 1 }, join(folder, "third")))
    for (const answer of [await first, await second]) {
      const { step, interrupted } = finished(answer).result as { step: number; interrupted: boolean }
      assert.isTrue(interrupted)
      assert.isBelow(step, 20)
    }
    assert.deepStrictEqual(finished(await third).result, { step: 1, interrupted: false })
    await one.close()
  })

  for (const signal of ["SIGINT", "SIGTERM"] as const)
    it(`ends in a resume point on ${signal}`, async () => {
      const { folder, request } = await golden()
      const long = lengthened(request, folder, 20_000)
      const one = new Worker()
      const answer = finished(
        await one.train(long, {}, ({ event }) => {
          if (event?._tag === "Step" && event.step === 3) one.child.kill(signal)
        }),
      )
      const { step, interrupted } = answer.result as { step: number; interrupted: boolean }
      assert.isTrue(interrupted)
      assert.strictEqual(state(join(request.resume.folder, `step_${step}`)).step, step)
      assert.strictEqual(await one.exited, 0)
    })

  it("ends at once, in the middle of a step, when its input ends", async () => {
    const { folder, request } = await golden()
    const long = lengthened(request, folder, 100_000)
    const one = new Worker()
    void one.train(long, {}, ({ event }) => {
      if (event?._tag === "Step" && event.step === 3) one.child.stdin.end()
    })
    assert.strictEqual(await one.exited, 0)
    assert.isFalse(existsSync(request.resume.folder))
  })

  it("answers lines that are none", async () => {
    const one = new Worker()
    const answer = new Promise<Line>((resolve) => {
      one.child.stdout.on("data", (chunk: Buffer) => {
        const found = chunk
          .toString()
          .split("\n")
          .find((text) => text.includes("every line is one JSON object"))
        if (found !== undefined) resolve(JSON.parse(found) as Line)
      })
    })
    one.child.stdin.write("what?\n")
    assert.strictEqual((await answer).error?._tag, "EngineFailed")
    await one.close()
  })
})

describe.skipIf(!runnable)(titled("the parts of the PyTorch worker"), { timeout: 120_000 }, () => {
  it("spell JSON and learning rates as `src/model` does", async () => {
    const { lrAt } = await import("../../src/model/LrSchedule.ts")
    const random = stream(1, "spelling")
    const numbers = Array.from({ length: 4000 }, (_, i) => (random.uniform(i) - 0.5) * 10 ** ((i % 60) - 30))
    const values = [
      ...numbers,
      1e21,
      1e-7,
      1e-6,
      5e-324,
      0,
      -0,
      2 ** 53,
      100,
      'ü\n\u2028"',
      null,
      true,
      { b: [1], a: {} },
    ]
    const schedules = (["linear", "1-sqrt", "cosine", "square", "exp"] as const).map((shape) => ({
      peakLr: 1e-3,
      warmupSteps: 7,
      decay: { startStep: 20, steps: 13, finalLr: 1e-5, shape },
    }))
    const code = `
import json, sys
from exp_torch.canonical_json import canonical_json
from exp_torch.schedule import lr_at
asked = json.loads(sys.stdin.read())
print(json.dumps({"texts": [canonical_json(value) for value in asked["values"]], "rates": [[lr_at(s, i) for i in range(40)] for s in asked["schedules"]]}))
`
    const { stdout, stderr } = spawnSync(python, ["-c", code], {
      env: environment(),
      encoding: "utf8",
      input: JSON.stringify({ values, schedules }),
    })
    assert.notStrictEqual(stdout, "", stderr)
    const said = JSON.parse(stdout) as { texts: ReadonlyArray<string>; rates: ReadonlyArray<ReadonlyArray<number>> }
    assert.deepStrictEqual(
      said.texts,
      JSON.parse(JSON.stringify(values)).map((value: unknown) => canonicalJson(value)),
    )
    schedules.forEach((schedule, s) => {
      said.rates[s]!.forEach((rate, i) => {
        near(rate, lrAt(schedule, i), 1e-18, `${schedule.decay.shape} at ${i}`)
      })
    })
  })

  it("hold moments in eight bits: close, never nothing for something, and the same again", () => {
    const found = JSON.parse(
      run(`
import json, torch
from exp_torch.optimizer import decode_first, decode_second, encode_first, encode_second
torch.manual_seed(0)
x = torch.randn(100_003) * torch.logspace(-6, 0, 100_003)
m, v = decode_first(*encode_first(x)).view(-1)[:x.numel()], decode_second(*encode_second(x * x)).view(-1)[:x.numel()]
block = x.abs().new_zeros(391 * 256); block[:x.numel()] = x.abs(); largest = block.view(-1, 256).amax(1).repeat_interleave(256)[:x.numel()]
big = x.abs() > largest * 1e-3
again_m, again_v = encode_first(m), encode_second(v)
zero = decode_second(*encode_second(torch.zeros(300)))
# beside a one, so that the block's scale stays
before = torch.cat((torch.ones(1), v[1:256] / v[1:256].amax() * 0.5))
decayed = torch.cat((torch.ones(1), before[1:] * 0.95))
print(json.dumps({
  "first": ((m - x).abs() / x.abs())[big].max().item(),
  "second": ((v - x * x).abs() / (x * x))[big].max().item(),
  "lost": ((v == 0) & (x != 0)).sum().item(),
  "again": bool((decode_first(*again_m).view(-1)[:x.numel()] == m).all() and (decode_second(*again_v).view(-1)[:x.numel()] == v).all()),
  "zero": zero.abs().max().item(),
  "moved": (encode_second(decayed)[0] != encode_second(before)[0])[0, 1:].float().mean().item(),
}))`),
    ) as Record<"first" | "second" | "lost" | "zero" | "moved", number> & { again: boolean }
    assert.isBelow(found.first, 0.038)
    assert.isBelow(found.second, 0.033)
    assert.strictEqual(found.lost, 0)
    assert.strictEqual(found.zero, 0)
    assert.isTrue(found.again)
    assert.isAbove(found.moved, 0.7)
  })

  it("find the largest micro-batch that fits, in few tries, and give up in order what makes it fit", () => {
    const found = JSON.parse(
      run(`
import json
from dataclasses import asdict
from exp_torch.memory import even, find_plan, largest_that_fits, parts
from exp_torch.settings import Settings
def card(fixed, row, limit, tries):
    def attempt(rows):
        tries.append(rows)
        peak = fixed + row * rows
        return peak if peak <= limit else None
    return attempt
tries = []
search = [asdict(largest_that_fits(96, 96, 1000, card(100, 130, 1000, tries), True)), tries]
none = largest_that_fits(96, 96, 1000, card(2000, 1, 1000, []), True)
all_rows = largest_that_fits(8, 8, 10_000, card(1, 1, 10_000, []), True).rows
untried = asdict(largest_that_fits(96, 96, 1000, card(100, 130, 1000, []), False))
# 20 of at most 32 rows fit: 264 rows fall into 14 parts
parted = largest_that_fits(264, 32, 1064, card(100, 45, 1064, []), True).rows
steps = []
def arrange(recomputed, offloaded):
    steps.append([recomputed, offloaded])
    return card(900 - 500 * offloaded, 300 - 150 * (recomputed > 0), 1000, [])
plan, fit = find_plan(Settings(), 12, 1024, 16, 1000, arrange, True)
searched, steps = steps, []
def roomy(recomputed, offloaded):
    steps.append([recomputed, offloaded])
    return card(100, 300, 1000, [])
given, _ = find_plan(Settings(microBatchRows=1), 12, 1024, 16, 1000, roomy, True)
print(json.dumps({"search": search, "none": none, "all": all_rows, "untried": untried, "parted": parted, "plan": plan.json(),
  "peak": fit.peak, "steps": searched, "given": given.json(), "once": steps,
  "even": [even(5, 96), even(96, 96), even(7, 20)], "parts": [[s.start, s.stop] for s in parts(10, 4)]}))`),
    )
    assert.deepStrictEqual(found.search[0], { rows: 6, peak: 880, tried: true })
    assert.isAtMost(found.search[1].length, 4)
    assert.isNull(found.none)
    assert.strictEqual(found.all, 8)
    assert.deepStrictEqual(found.untried, { rows: 6, peak: 880, tried: false })
    assert.strictEqual(found.parted, 19)
    assert.strictEqual(found.peak, 850)
    // what was given and fits is taken, however little it is
    assert.deepStrictEqual(found.given, { micro_batch_rows: 1, recomputed_blocks: 0, offloaded: false })
    assert.deepStrictEqual(found.once, [[0, false]])
    assert.deepStrictEqual(found.steps, [
      [0, false],
      [12, false],
      [12, true],
    ])
    assert.deepStrictEqual(found.plan, { micro_batch_rows: 3, recomputed_blocks: 12, offloaded: true })
    assert.deepStrictEqual(found.even, [5, 96, 7])
    assert.deepStrictEqual(found.parts, [
      [0, 3],
      [3, 6],
      [6, 8],
      [8, 10],
    ])
  })

  it("go on with a plan that was noted while settings and room allow it, and find another where they do not", () => {
    const found = JSON.parse(
      run(`
import json, torch
from types import SimpleNamespace
from exp_torch.memory import Plan
from exp_torch.settings import Settings
from exp_torch.train import Run
def goes_on(worker, processes=1, sharded=False, **settings):
    run = object.__new__(Run)
    run.request = {"rowsPerStep": 16, "architecture": {"layers": 12}}
    run.session = SimpleNamespace(settings=Settings(**settings), device=torch.device("cuda", 0))
    run.group = SimpleNamespace(size=processes, most_rows=lambda rows: rows // processes)
    run.trainer, run.sharded = None, sharded
    run._found_plan = lambda blocks, rows: "found anew"
    return run._plan(worker) != "found anew"
plain = {"plan": Plan(8, 0, False).json(), "memoryFraction": 0.8, "processes": 1, "sharded": False}
dear = {**plain, "plan": Plan(8, 12, True).json()}
print(json.dumps({
  "goes on": [goes_on(plain, memoryFraction=0.8), goes_on(plain), goes_on(plain, microBatchRows=8, memoryFraction=0.9), goes_on(plain, activationCheckpointing=False, offloadOptimizer=False), goes_on(dear, activationCheckpointing=True, offloadOptimizer=True)],
  "anew": [goes_on({}), goes_on(plain, microBatchRows=4), goes_on(plain, activationCheckpointing=True), goes_on(plain, offloadOptimizer=True), goes_on(dear, activationCheckpointing=False), goes_on(plain, memoryFraction=0.5), goes_on(plain, processes=2), goes_on(plain, sharded=True)],
}))`),
    ) as Readonly<Record<"goes on" | "anew", ReadonlyArray<boolean>>>
    assert.deepStrictEqual(
      found["goes on"],
      found["goes on"].map(() => true),
    )
    assert.deepStrictEqual(
      found.anew,
      found.anew.map(() => false),
    )
  })

  it("keep nothing of a measured model where other processes are to train", () => {
    const lines = run(`
import io, json
from exp_torch import protocol
worker = protocol.Worker(protocol.Output(io.BytesIO()), protocol.Interruption())
worker._kept.key, worker._kept.loaded = ("a model",), object()
class Ranks:
    def __init__(self, count, message):
        print(json.dumps([count, worker._kept.loaded is None, worker._kept.key]))
    def answer(self, say):
        return {}
    def kill(self):
        pass
protocol.Ranks = Ranks
assert worker.answer({"id": 1, "kind": "train", "request": {"rowsPerStep": 4}, "settings": {"device": "cpu", "processes": 2}})
`)
    assert.deepStrictEqual(JSON.parse(lines), [2, true, []])
  })

  it("take smaller micro-batches where memory runs out after all, and lose no step", async () => {
    const { folder, request } = await golden()
    const path = join(folder, "request.json")
    writeFileSync(
      path,
      JSON.stringify({ kind: "train", request: { ...request, endStep: 4 }, settings: { device: "cpu" } }),
    )
    const lines = run(`
import torch
from exp_torch import trainer
whole = trainer.LossModel.forward
def forward(self, rows, log_scale):
    if len(rows) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
    return whole(self, rows, log_scale)
trainer.LossModel.forward = forward
from exp_torch.protocol import do_file
assert do_file(${JSON.stringify(path)}) == 0
`)
    const answer = answerOf(
      lines
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as Line),
    )
    assert.deepStrictEqual(answer.notes, ["micro-batch 2 rows from now on: memory ran out with 4"])
    steps(answer.events).forEach(({ loss }, i) => {
      near(loss, gpt2.golden.train.losses[i]!, TOLERANCE, `step ${i + 1}`)
    })
  })

  it("read a GPU's sensors from NVIDIA's library, else from its program, and leave out what neither tells", () => {
    const folder = temporaryFolder()
    const program = join(folder, "nvidia-smi")
    writeFileSync(program, '#!/bin/sh\necho "$@" > "$0.asked"\necho "37, [N/A], 61"\n', { mode: 0o755 })
    const found = JSON.parse(
      run(`
import ctypes, json
from exp_torch.devices import peak_flops
from exp_torch.telemetry import ManagementLibrary, ManagementProgram
class Library:
    def nvmlInit_v2(self): return 0
    def nvmlDeviceGetHandleByUUID(self, uuid, handle): self.uuid = uuid.decode(); return 0
    def nvmlDeviceGetUtilizationRates(self, handle, into): into._obj.gpu = 93; return 0
    def nvmlDeviceGetPowerUsage(self, handle, into): into._obj.value = 161_500; return 0
    def nvmlDeviceGetTemperature(self, handle, sensor, into): return 3
library = Library()
reading = ManagementLibrary("GPU-1", library).read()
names = ["NVIDIA GeForce RTX 4060 Ti", "NVIDIA GeForce RTX 4060", "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB", "NVIDIA L4", "Somebody's GPU"]
print(json.dumps({"library": reading, "uuid": library.uuid, "program": ManagementProgram("GPU-1", ${JSON.stringify(program)}).read(),
  "peaks": [peak_flops(name, "bf16") for name in names]}))`),
    )
    assert.deepStrictEqual(found.library, { utilisation: 0.93, watts: 161.5 })
    assert.strictEqual(found.uuid, "GPU-1")
    assert.deepStrictEqual(found.program, { utilisation: 0.37, celsius: 61 })
    assert.include(
      readFileSync(`${program}.asked`, "utf8"),
      "--id=GPU-1 --query-gpu=utilization.gpu,power.draw,temperature.gpu",
    )
    assert.deepStrictEqual(found.peaks, [44.1e12, 30.2e12, 989.4e12, 312e12, 121e12, null])
  })

  it("put everything on the GPU, in whole tiles of the tensor cores, and take it back as checkpoints have it", () => {
    // tensors that have a device, a shape and a dtype, but no numbers: what would not fit together on a GPU does not fit here
    const lines = run(`
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from exp_torch.memory import Plan
from exp_torch.parallel import Group
from exp_torch.trainer import Arithmetic, Trainer
def to_empty(self, *, device, recurse=True):
    for module in self.modules():
        for name, one in [*module._parameters.items()]:
            module._parameters[name] = nn.Parameter(torch.empty(one.shape, device=device))
        for name, one in [*module._buffers.items()]:
            module._buffers[name] = torch.empty(one.shape, device=device)
nn.Module.to_empty = to_empty
optimizer = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weightDecay": 0.1, "clipNorm": 1}
size = {"layers": 2, "width": 64, "heads": 4, "context": 64, "vocabulary": 250}
shapes = [{"family": "gpt2", **size}, {"family": "llama", "keyValueHeads": 2, "feedForwardWidth": 176, "ropeTheta": 10000.0, "normEpsilon": 1e-6, "tiedHead": False, "slidingWindow": 16, **size}]
for shape in shapes:
    for dtype, eight in ((torch.float32, False), (torch.bfloat16, True), (torch.float16, False)):
        with FakeTensorMode(allow_non_fake_inputs=True):
            trainer = Trainer(shape, optimizer, 4, 64, torch.device("cuda", 0), Arithmetic(dtype, False, eight), Group(), False)
            trainer.arrange(Plan(2, 2, False))
            loss = trainer._loss_model(torch.zeros(4, 65, dtype=torch.int64, device="cuda"), torch.zeros((), device="cuda"))
            for parameter in trainer.model.parameters():
                parameter.grad = torch.empty_like(parameter)
            trainer.adamw.update(1e-3, 1, torch.ones((), device="cuda"), torch.zeros((), device="cuda"))
            hidden = trainer.evaluated()(torch.zeros(1, 9, dtype=torch.int64, device="cuda"))
            table = trainer.slots[0].weight
            print(str(loss.device), str(trainer._norm().dtype), list(table.shape), list(trainer.evaluated().head_weight.shape), hidden.dtype == dtype, [str(source.produce().device) + str(list(source.produce().shape)) for source in trainer.weights()[:1] + trainer.moments()[:1]])
`)
    const expected = "cuda:0 torch.float32 [256, 64] [250, 64] True ['cpu[250, 64]', 'cpu[250, 64]']"
    assert.deepStrictEqual(
      lines.trim().split("\n"),
      Array.from({ length: 6 }, () => expected),
    )
  })
})
