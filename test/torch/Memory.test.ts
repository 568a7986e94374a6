/** What a training of the worker holds: where weights and moments lie makes no difference, and the forecast is what is taken. */
import { Effect } from "effect"
import { assert, describe, it } from "vitest"
import { totalOf } from "../../src/engine/Components.ts"
import { type MemoryQuestion, trainingMemory } from "../../src/engine/Memory.ts"
import type { Architecture } from "../../src/model/Architecture.ts"
import { goldenRequest } from "../engine/golden.ts"
import { onLinux, titledOnLinux } from "../processes.ts"
import { temporaryFolder } from "../temporary.ts"
import { run, runnable, titled, Worker } from "./worker.ts"

const gpt2: Architecture = { family: "gpt2", layers: 2, width: 64, heads: 4, context: 32, vocabulary: 300 }
const llama: Architecture = {
  ...{ family: "llama", layers: 2, width: 64, heads: 4, keyValueHeads: 2, feedForwardWidth: 176, context: 32 },
  ...{ vocabulary: 300, ropeTheta: 10_000, normEpsilon: 1e-6, tiedHead: false },
}

/** Opens every script: a trainer on the CPU, its weights and moments after some steps. */
const opening = `
import gc, json, weakref
import torch
from exp_torch import optimizer
from exp_torch.memory import Plan
from exp_torch.parallel import Group
from exp_torch.trainer import Arithmetic, Trainer
gpt2, llama = json.loads('${JSON.stringify([gpt2, llama])}')
adam = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weightDecay": 0.1, "clipNorm": 1}
def opened(shape, dtype, eight=False, compiled=False):
    trainer = Trainer(shape, adam, 6, 32, torch.device("cpu"), Arithmetic(dtype, compiled, eight), Group(), False)
    trainer.initialise(3)
    return trainer
def trained(trainer, plan, steps=2):
    trainer.arrange(plan)
    generator = torch.Generator().manual_seed(0)
    told = []
    for step in range(1, steps + 1):
        result = trainer.step(torch.randint(300, (6, 33), generator=generator), 1e-3, step, 1.0)
        told.append((result.loss, result.grad_norm))
    tensors = [source.produce().clone() for source in trainer.weights() + trainer.moments()]
    return told, [*tensors, trainer.evaluated()(torch.arange(20)[None])]
def same(one, other):
    return one[0] == other[0] and all(torch.equal(a, b) for a, b in zip(one[1], other[1], strict=True))
`

describe.skipIf(!runnable)(titled("the memory of the PyTorch worker"), { timeout: 300_000 }, () => {
  it("may hold moments and the fp32 of matrices on the host: the bits are the same, and so they are when all moves back", () => {
    const found = JSON.parse(
      run(`${opening}
found = {}
full, bf16, fp16 = torch.float32, torch.bfloat16, torch.float16
for shape, dtype, eight in ((gpt2, full, True), (gpt2, bf16, False), (gpt2, bf16, True), (gpt2, fp16, False), (llama, bf16, False)):
    plain = trained(opened(shape, dtype, eight), Plan(2, 0, False))
    away = opened(shape, dtype, eight)
    moved = trained(away, Plan(2, 0, True))
    halves = [slot.name for slot in away.slots if slot.copy is not None]
    back = opened(shape, dtype, eight)
    back.arrange(Plan(2, 0, True))
    back.rehearse(2, 2)
    back._rehearse_update()
    back.forget_rehearsals()
    there = trained(back, Plan(2, 0, False))
    found[f"{shape['family']} {dtype} {eight}"] = [same(plain, moved), same(plain, there), len(halves)]
print(json.dumps(found))`),
    ) as Readonly<Record<string, readonly [boolean, boolean, number]>>
    assert.lengthOf(Object.keys(found), 5)
    for (const [what, [moved, back, halves]] of Object.entries(found)) {
      assert.isTrue(moved, what)
      assert.isTrue(back, what)
      const matrices = what.startsWith("gpt2") ? 2 * 4 : 2 * 7
      assert.strictEqual(halves, what.includes("float32") ? 0 : matrices, what)
    }
  })

  it("passes what is on the host through two stages, none of which is filled before it is free or read before it is full", () => {
    // copies of the stream are done as late as anybody has asked for, or all at once
    const found = JSON.parse(
      run(`${opening}
from torch.utils._python_dispatch import TorchDispatchMode
optimizer._PIECE["cpu"] = 2048
class Event:
    def record(self, stream):
        self.stream, self.at = stream, len(stream.asked)
class Stream:
    def __init__(self, late):
        self.late, self.asked, self.done = late, [], 0
    def until(self, at):
        while self.done < at:
            target, source = self.asked[self.done]
            self.done += 1
            target.copy_(source)
    def wait_stream(self, other): pass
    def synchronize(self): self.until(len(self.asked))
class Present:
    def wait_event(self, event): event.stream.until(event.at)
    def wait_stream(self, stream): stream.until(len(stream.asked))
class copying(TorchDispatchMode):
    def __init__(self, stream):
        super().__init__()
        self.stream = stream
    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        if function is torch.ops.aten.copy_.default and self.stream.late:
            self.stream.asked.append(arguments[:2])
            return arguments[0]
        return function(*arguments, **(options or {}))
torch.cuda.stream = copying
torch.cuda.current_stream = lambda device=None: Present()
found = {}
for late in (True, False):
    for eight in (False, True):
        plain = trained(opened(gpt2, torch.bfloat16, eight), Plan(2, 0, False))
        trainer = opened(gpt2, torch.bfloat16, eight)
        trainer.arrange(Plan(2, 0, True))
        stages = trainer.adamw._stages
        stages._stream, stages._arrived = Stream(late), [Event(), Event()]
        found[f"{late} {eight}"] = [same(plain, trained(trainer, Plan(2, 0, True))), len(trainer.adamw._pieces)]
print(json.dumps(found))`),
    ) as Readonly<Record<string, readonly [boolean, number]>>
    assert.lengthOf(Object.keys(found), 4)
    for (const [what, [equal, pieces]] of Object.entries(found)) {
      assert.isTrue(equal, what)
      assert.isAbove(pieces, 60)
    }
  })

  it("is of the GPU what products read, and of the host their fp32 and moments", () => {
    // tensors that have a device, a shape and a dtype, but no numbers
    const found = JSON.parse(
      run(`${opening}
import contextlib
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
class Silent:
    def __init__(self, *_): pass
    def __getattr__(self, name): return lambda *_: None
torch.cuda.Stream = torch.cuda.Event = torch.cuda.current_stream = Silent
torch.cuda.stream = lambda _: contextlib.nullcontext()
optimizer.Host.take = lambda self, shape, dtype: torch.empty(shape, dtype=dtype)
def to_empty(self, *, device, recurse=True):
    for module in self.modules():
        for name, one in [*module._parameters.items()]:
            module._parameters[name] = nn.Parameter(torch.empty(one.shape, device=device))
        for name, one in [*module._buffers.items()]:
            module._buffers[name] = torch.empty(one.shape, device=device)
nn.Module.to_empty = to_empty
found = []
for shape in (gpt2, llama):
    for eight in (False, True):
        with FakeTensorMode(allow_non_fake_inputs=True):
            cuda = torch.device("cuda", 0)
            trainer = Trainer(shape, adam, 6, 32, cuda, Arithmetic(torch.float16, False, eight), Group(), False)
            trainer.arrange(Plan(2, 2, True))
            loss = trainer._loss_model(torch.zeros(4, 33, dtype=torch.int64, device="cuda"), torch.zeros((), device="cuda"))
            for slot in trainer.slots:
                parameter = trainer.model.get_parameter(slot.name)
                full = torch.empty(parameter.shape, device="cuda")
                if slot.copy is None: parameter.grad = full
                else: trainer._sums[slot.name] = full
            trainer.adamw.update(1e-3, 1, torch.ones((), device="cuda"), torch.zeros((), device="cuda"))
            hidden = trainer.evaluated()(torch.zeros(1, 9, dtype=torch.int64, device="cuda"))
            halves = [slot for slot in trainer.slots if slot.copy is not None]
            where = {(str(slot.weight.device), str(slot.weight.dtype), str(slot.copy.device), str(slot.copy.dtype)) for slot in halves}
            held = {str(one.device) for piece in trainer.adamw._pieces for one in piece.held}
            written = {str(source.produce().device) for source in trainer.weights() + trainer.moments()}
            found.append([len(halves), sorted(where), sorted(held), sorted(written), str(loss.device), str(hidden.dtype), str(trainer._norm().device)])
print(json.dumps(found))`),
    )
    const places = [["cpu", "torch.float32", "cuda:0", "torch.float16"]]
    const expected = [places, ["cpu"], ["cpu"], "cuda:0", "torch.float16", "cuda:0"]
    assert.deepStrictEqual(found, [
      [8, ...expected],
      [8, ...expected],
      [14, ...expected],
      [14, ...expected],
    ])
  })

  it("is taken from large page-locked pieces, each tensor a place of its own", () => {
    const found = JSON.parse(
      run(`
import json, torch
from exp_torch import optimizer
empty, asked = torch.empty, []
def pinned(*size, pin_memory=False, **options):
    if pin_memory:
        asked.append(size[0])
    return empty(*size, **options)
torch.empty = pinned
optimizer.Host._CHUNK = 4096
host = optimizer.Host(torch.device("cuda", 0))
shapes = [((3, 5), torch.float32), ((7,), torch.uint8), ((), torch.float32), ((400,), torch.bfloat16), ((0,), torch.int8)] * 4 + [((2000,), torch.float32)]
taken = [host.take(shape, dtype).fill_(i) for i, (shape, dtype) in enumerate(shapes)]
print(json.dumps({"asked": asked, "kept": [bool((one == i).all()) for i, one in enumerate(taken)],
  "shapes": [list(one.shape) == list(shape) and one.dtype == dtype for one, (shape, dtype) in zip(taken, shapes)]}))`),
    ) as { asked: ReadonlyArray<number>; kept: ReadonlyArray<boolean>; shapes: ReadonlyArray<boolean> }
    assert.deepStrictEqual(found.asked, [4096, 4096, 8000])
    assert.notInclude(found.kept, false)
    assert.notInclude(found.shapes, false)
  })

  it.skipIf(!onLinux)(titledOnLinux("is told when a training ends, however short it was"), async () => {
    const worker = new Worker()
    const { request } = await Effect.runPromise(goldenRequest(temporaryFolder()))
    const { lines, error } = await worker.train({ ...request, endStep: 1 })
    assert.isUndefined(error, JSON.stringify(error))
    const { memoryBytes, peakMemoryBytes } = lines.findLast(({ device }) => device !== undefined)!.device!
    assert.isAbove(memoryBytes!, 50e6)
    assert.isAtLeast(peakMemoryBytes!, memoryBytes!)
    await worker.close()
  })

  it("compiles one block for all, recomputed or not, and hands over the gradients of a block at a time", () => {
    const found = JSON.parse(
      run(`${opening}
import torch._dynamo.utils
compile = torch.compile
torch.compile = lambda *args, **options: compile(*args, backend="aot_eager", **options)
found = {}
for shape in (gpt2, llama):
    for plan in (Plan(2, 0, False), Plan(2, 2, False), Plan(2, 2, True)):
        plain = trained(opened(shape, torch.bfloat16), plan)
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        trainer = opened(shape, torch.bfloat16, compiled=True)
        seen = []
        for i, block in enumerate(trainer.model.blocks):
            for parameter in block.parameters():
                parameter.register_post_accumulate_grad_hook(lambda _, i=i: seen.append(i))
        compiled = trained(trainer, plan)
        # the loss is compiled too
        graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
        off = max(abs(a[0] - b[0]) for a, b in zip(plain[0], compiled[0]))
        found[f"{shape['family']} {plan.recomputed_blocks} {plan.offloaded}"] = [graphs, off, seen[: len(seen) // 6]]
print(json.dumps(found))`),
    ) as Readonly<Record<string, readonly [number, number, ReadonlyArray<number>]>>
    assert.lengthOf(Object.keys(found), 6)
    for (const [what, [graphs, off, seen]] of Object.entries(found)) {
      assert.strictEqual(graphs, 2, what)
      assert.isBelow(off, 2e-3, what)
      // of a micro-batch: the last block's all come before the first of the one before it
      assert.deepStrictEqual(
        seen,
        seen.toSorted((a, b) => b - a),
        what,
      )
      assert.strictEqual(new Set(seen).size, 2, what)
    }
  })

  it("is given back by a try that ran out of it, and by one that fitted", () => {
    const found = JSON.parse(
      run(`${opening}
from exp_torch import trainer as module
emptied, alive = [], weakref.WeakSet()
torch.cuda.reset_peak_memory_stats = lambda device: None
torch.cuda.max_memory_reserved = lambda device: 7
whole = module.LossModel.forward
def forward(self, rows, log_scale):
    hidden = self.model(rows[:, :-1])
    alive.add(hidden)
    if len(rows) > 2:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return whole(self, rows, log_scale)
module.LossModel.forward = forward
trainer = opened(gpt2, torch.bfloat16)
found = []
gc.disable()
for offloaded in (False, True):
    for rows in (2, 3):
        peak = trainer.attempt(0, offloaded)(rows)
        held = [parameter.grad is not None for parameter in trainer.model.parameters()]
        found.append([peak, len(alive), any(held), len(trainer._sums)])
print(json.dumps(found))`),
    )
    assert.deepStrictEqual(found, [
      [7, 0, false, 0],
      [null, 0, false, 0],
      [7, 0, false, 0],
      [null, 0, false, 0],
    ])
  })

  it.skipIf(!onLinux)(titledOnLinux("is what was foretold, within a fifth"), () => {
    const wide = { ...llama, layers: 4, width: 256, heads: 4, keyValueHeads: 2, feedForwardWidth: 704, context: 256 }
    const shapes: ReadonlyArray<Architecture> = [
      { family: "gpt2", layers: 4, width: 256, heads: 4, context: 256, vocabulary: 4096 },
      { ...wide, vocabulary: 8000 },
    ]
    const ways = [
      { precision: "fp32", recompute: false, offload: false },
      { precision: "bf16", recompute: false, offload: false },
      { precision: "bf16", recompute: true, offload: false },
      { precision: "fp32+adam8bit", recompute: false, offload: true },
    ]
    const rows = 8
    const asked = shapes.flatMap((architecture) => ways.map((way) => ({ architecture, ...way })))
    // a process for each: what the one before had taken and given back would be used again
    const measured = JSON.parse(
      run(
        `
import json, os
import torch, torch._dynamo
from exp_torch import telemetry
from exp_torch.memory import Plan
from exp_torch.parallel import Group
from exp_torch.trainer import Arithmetic, Trainer
adam = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weightDecay": 0.1, "clipNorm": 1}
def grown(asked):
    shape, (precision, *eight) = asked["architecture"], asked["precision"].split("+")
    cpu = torch.device("cpu")
    # what any first step loads, whatever its size
    torch.zeros(8, 8, requires_grad=True).matmul(torch.zeros(8, 8)).sum().backward()
    telemetry.forget_peak(cpu)
    before = telemetry._resident()["memoryBytes"]
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    trainer = Trainer(shape, adam, 2 * ${rows}, shape["context"], cpu, Arithmetic(dtype, False, bool(eight)), Group(), False)
    trainer.initialise(1)
    trainer.arrange(Plan(${rows}, shape["layers"] if asked["recompute"] else 0, asked["offload"]))
    data = (torch.arange(2 * ${rows} * (shape["context"] + 1)) % 1000).view(2 * ${rows}, -1)
    for step in (1, 2): trainer.step(data, 1e-4, step, 1.0)
    return telemetry._resident()["peakMemoryBytes"] - before
found = []
for one in json.loads('${JSON.stringify(asked)}'):
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, str(grown(one)).encode())
        os._exit(0)
    found.append(int(os.read(read, 100)))
    os.wait()
print(json.dumps(found))`,
        { MALLOC_MMAP_MAX_: "0", MALLOC_TRIM_THRESHOLD_: "100000000000", MALLOC_TOP_PAD_: "268435456" },
      ),
    ) as ReadonlyArray<number>
    const loaded = 60e6
    asked.forEach(({ architecture, precision, recompute, offload }, i) => {
      const question: MemoryQuestion = {
        numerics: { name: "torch", precision },
        architecture,
        rowsPerStep: 2 * rows,
        length: architecture.context,
        room: { device: "host", hostBytes: 64e9 },
        settings: { microBatchRows: rows, activationCheckpointing: recompute, offloadOptimizer: offload },
      }
      const foretold = totalOf({ ...trainingMemory(question).parts, runtime: 0 }) + loaded
      const what = `${architecture.family} ${precision}: ${foretold / 1e6} MB foretold, ${measured[i]! / 1e6} taken`
      assert.isAtMost(measured[i]!, 1.2 * foretold, what)
      assert.isAtLeast(measured[i]!, 0.8 * foretold, what)
    })
  })
})
