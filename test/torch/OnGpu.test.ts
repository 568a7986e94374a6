/** What the worker does on a GPU alone, as far as a machine without one can tell: by parts that compute anywhere, and by tensors that have a device but no numbers. */
import { assert, describe, it } from "vitest"
import { run, runnable, titled } from "./worker.ts"

describe.skipIf(!runnable)(titled("the PyTorch worker made for a GPU"), { timeout: 240_000 }, () => {
  it("attends to a cache in four dimensions as it does in three", () => {
    const found = JSON.parse(
      run(`
import json
from types import SimpleNamespace
import torch
from exp_torch.attention import Cache, fused
generator = torch.Generator().manual_seed(1)
def random(*shape): return torch.randn(shape, generator=generator).bfloat16()
found = []
for heads, key_value_heads, window in ((4, 4, None), (6, 2, None), (6, 2, 9)):
    architecture = {"layers": 1}
    inference = SimpleNamespace(architecture=architecture, device=torch.device("cpu"), dtype=torch.bfloat16, head_width=16, heads=heads, key_value_heads=key_value_heads, window=window)
    cache = Cache(inference, 5, 70)
    lengths = [3, 20, 64]
    for place, length in enumerate(lengths):
        cache._layers[0][:, place, :, :length] = random(2, key_value_heads, length, 16)
        cache.show(place, length)
    rows, positions = torch.arange(3), torch.tensor(lengths)
    for _ in range(4):
        step = cache.step(rows, positions, int(positions.max()) + 1)
        queries, keys_values = random(3, heads, 16), random(3, 2, key_value_heads, 16)
        three = cache.attend(step, 0, queries, keys_values)
        keys, values = cache._layers[0][:, :3, :, : step.longest]
        found.append(float((fused(queries, keys, values, step.mask) - three).abs().max()))
        # what each text sees is counted by hand
        seen = (cache._mask[:3] == 0).sum(-1)
        wanted = positions + 1 if window is None else (positions + 1).clamp(max=window)
        found.append(int((seen != wanted[:, None]).sum()))
        positions = positions + 1
print(json.dumps(found))`),
    ) as ReadonlyArray<number>
    assert.lengthOf(found, 24)
    for (const off of found) assert.strictEqual(off, 0)
  })

  it("draws without waiting for the device to take a number, and looks at texts without a plan for every length", () => {
    const found = JSON.parse(
      run(`
import json
import torch
from torch.overrides import TorchFunctionMode
from torch._subclasses.fake_tensor import FakeTensorMode
from exp_torch import inference, processors
asked = []
class Watch(TorchFunctionMode):
    def __torch_function__(self, function, types, arguments=(), options=None):
        asked.append(getattr(function, "__name__", ""))
        return function(*arguments, **(options or {}))
preset = {"doSample": True, "temperature": 0.7, "topK": 0, "topP": 1, "repetitionPenalty": 1.2, "noRepeatNgramSize": 3}
gpu = torch.device("cuda")
with FakeTensorMode(), Watch():
    texts = processors.Texts(torch.zeros(4, 9, dtype=torch.int64, device=gpu), torch.full((4,), 9, device=gpu))
    uniforms = torch.zeros(4, dtype=torch.float64, device=gpu)
    token, _ = processors.Sampler(preset).draw(torch.zeros(4, 512, device=gpu), texts, uniforms)
    scores, shares = torch.zeros(4, 64, device=gpu), torch.zeros(4, 64, dtype=torch.float64, device=gpu)
    processors._cut(scores, shares, 0.9)
cudnn = torch.backends.cuda.cudnn_sdp_enabled
with inference.looking():
    inside = [cudnn(), torch.is_inference_mode_enabled()]
print(json.dumps({"device": token.device.type, "copied": asked.count("tensor") + asked.count("item"), "asked": len(asked), "inside": inside, "after": [cudnn(), torch.is_inference_mode_enabled()]}))`),
    )
    assert.strictEqual(found.device, "cuda")
    assert.isAbove(found.asked, 20)
    assert.strictEqual(found.copied, 0)
    assert.deepStrictEqual(
      [found.inside, found.after],
      [
        [false, true],
        [true, false],
      ],
    )
  })

  it("keeps the attention that alone can do fp32 and windows where arithmetic is deterministic", () => {
    const found = run(`
import torch
from exp_torch.session import switch_determinism
kernels = torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.mem_efficient_sdp_enabled, torch.backends.cuda.cudnn_sdp_enabled
for deterministic in (True, False):
    switch_determinism(deterministic)
    print(*(enabled() for enabled in kernels))`)
    assert.strictEqual(found, "True True False\nTrue True True\n")
  })

  it("goes on without compiling, and says why, where nothing can be compiled", () => {
    const found = JSON.parse(
      run(
        `
import json
from types import SimpleNamespace
import torch
from exp_torch import devices
from exp_torch.parallel import Group
from exp_torch.settings import Settings
from exp_torch.train import Run
problem = devices.compiler_problem(torch.device("cpu"))
lines = []
def compiles(wanted, device, found):
    devices.compiler_problem = lambda device: found
    run = object.__new__(Run)
    run.session, run.group = SimpleNamespace(settings=Settings(compile=wanted), device=torch.device(device)), Group()
    run.say = lines.append
    return run._compiles()
ways = [("auto", "cuda", None), ("auto", "cuda", problem), (True, "cuda", problem), (False, "cuda", None), ("auto", "cpu", None)]
print(json.dumps({"problem": problem, "chosen": [compiles(*way) for way in ways], "notes": [line["note"] for line in lines]}))`,
        { CXX: "/nowhere/c++" },
      ),
    )
    assert.include(found.problem, "/nowhere/c++")
    assert.deepStrictEqual(found.chosen, [true, false, true, false, false])
    assert.lengthOf(found.notes, 2)
    assert.match(found.notes[0], /^layers are compiled anew/)
    assert.match(found.notes[1], /^layers are not compiled, which costs speed: .*\/nowhere\/c\+\+/)
  })

  it("forgets the graphs of another model, and keeps those of the same", () => {
    const found = run(`
import torch
from torch._dynamo.eval_frame import _debug_get_cache_entry_list
compile = torch.compile
torch.compile = lambda *args, **options: compile(*args, backend="eager", **options)
from exp_torch import model
from exp_torch.memory import Plan
from exp_torch.parallel import Group
from exp_torch.trainer import Arithmetic, Trainer
adam = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weightDecay": 0.1, "clipNorm": 1}
for width in (16, 16, 32, 16):
    shape = {"family": "gpt2", "layers": 1, "width": width, "heads": 2, "context": 8, "vocabulary": 30}
    trainer = Trainer(shape, adam, 2, 8, torch.device("cpu"), Arithmetic(torch.float32, True, False), Group(), False)
    trainer.initialise(1)
    trainer.arrange(Plan(2, 0, False))
    made = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    trainer.rehearse(2, 1)
    made = torch._dynamo.utils.counters["stats"]["unique_graphs"] - made
    print(made > 0, len(_debug_get_cache_entry_list(model.Block.forward.__code__)))`)
    assert.strictEqual(found, "True 1\nFalse 1\nTrue 1\nTrue 1\n")
  })

  it("takes the words of NVIDIA's libraries for want of memory, and a laptop's card for what it is: unknown", () => {
    const found = JSON.parse(
      run(`
import json
from exp_torch.devices import peak_flops
from exp_torch.errors import typed
words = ["CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling \`cublasCreate(handle)\`", "Triton Error [CUDA]: out of memory", "CUDA error: device-side assert triggered"]
names = ["NVIDIA GeForce RTX 4080", "NVIDIA GeForce RTX 4080 SUPER", "NVIDIA GeForce RTX 3080 Ti Laptop GPU"]
print(json.dumps([[typed(RuntimeError(one), "training").json().get("kind") for one in words], [peak_flops(name, "bf16") for name in names]]))`),
    )
    assert.deepStrictEqual(found, [
      ["memory", "memory", null],
      [97.5e12, 104.4e12, null],
    ])
  })

  it("leaves alone how PyTorch is to give out memory where somebody has said so, by either name", () => {
    const code = `
import json, os, sys
sys.argv = ["exp_torch"]
from exp_torch import __main__ as program, protocol
program._surrounded = lambda: None
protocol.serve = lambda: print(os.environ.get("PYTORCH_ALLOC_CONF"), os.environ["CUBLAS_WORKSPACE_CONFIG"])
program.main()`
    const none = { PYTORCH_ALLOC_CONF: undefined, PYTORCH_CUDA_ALLOC_CONF: undefined }
    const own = process.platform === "linux" ? "expandable_segments:True" : "None"
    assert.strictEqual(run(code, none), `${own} :4096:8\n`)
    const older = { ...none, PYTORCH_CUDA_ALLOC_CONF: "backend:native" }
    assert.strictEqual(run(code, older), "None :4096:8\n")
    const newer = { ...none, PYTORCH_ALLOC_CONF: "backend:native" }
    assert.strictEqual(run(code, newer), "backend:native :4096:8\n")
  })
})
