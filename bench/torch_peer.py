"""What the PyTorch worker is measured against, asked step by step over standard input by `bench/torch.ts`.

    python bench/torch_peer.py peer SHAPE.json      # a plain training loop, as one writes it in an afternoon
    python bench/torch_peer.py bare SHAPE.json      # the worker's own step without the worker around it

A line {"steps": n} answers {"seconds": [...]}, one for each step; {"matmul": n} answers {"gflops": ...} of n³ products of PyTorch's; {"peak": true} the
allocator's peak since the start, in bytes. SHAPE.json: {"architecture", "context", "microBatchRows", "rowsPerStep", "device", "settings"}.

The plain loop is GPT-2 or LLaMA with PyTorch's own modules: SDPA, AdamW fused, gradients accumulated over micro-batches, F.cross_entropy on all logits; on a
GPU bf16 by autocast and torch.compile of the whole model; on the CPU fp32, not compiled.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OPTIMIZER = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weightDecay": 0.1, "clipNorm": 1}


class Attention(nn.Module):
    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        self.heads, width = shape["heads"], shape["width"]
        self.gpt2 = shape["family"] == "gpt2"
        self.shared = shape.get("keyValueHeads") or self.heads
        inner = width // self.heads * self.shared
        self.qkv = nn.Linear(width, width + 2 * inner, bias=self.gpt2)
        self.out = nn.Linear(width, width, bias=self.gpt2)
        self.sizes = (width, inner, inner)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        head = self.sizes[0] // self.heads
        q, k, v = (part.unflatten(-1, (-1, head)).transpose(1, 2) for part in self.qkv(x).split(self.sizes, -1))
        if angles is not None:
            q, k = turned(q, *angles), turned(k, *angles)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.shared != self.heads)
        return self.out(mixed.transpose(1, 2).flatten(2))


def turned(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return (x * cosine + torch.cat((-second, first), -1) * sine).to(x.dtype)


class Mlp(nn.Module):
    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        width, self.gpt2 = shape["width"], shape["family"] == "gpt2"
        inner = 4 * width if self.gpt2 else shape["feedForwardWidth"]
        self.up = nn.Linear(width, inner, bias=self.gpt2)
        self.down = nn.Linear(inner, width, bias=self.gpt2)
        self.gate = None if self.gpt2 else nn.Linear(width, inner, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(F.gelu(self.up(x), approximate="tanh"))
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        norm = nn.LayerNorm if shape["family"] == "gpt2" else nn.RMSNorm
        self.first, self.attention = norm(shape["width"]), Attention(shape)
        self.second, self.mlp = norm(shape["width"]), Mlp(shape)

    def forward(self, x: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor:
        x = x + self.attention(self.first(x), angles)
        return x + self.mlp(self.second(x))


class Plain(nn.Module):
    def __init__(self, shape: dict[str, Any]) -> None:
        super().__init__()
        gpt2, width = shape["family"] == "gpt2", shape["width"]
        self.tokens = nn.Embedding(shape["vocabulary"], width)
        self.positions = nn.Embedding(shape["context"], width) if gpt2 else None
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape["layers"]))
        self.norm = (nn.LayerNorm if gpt2 else nn.RMSNorm)(width)
        self.head = nn.Linear(width, shape["vocabulary"], bias=False)
        if gpt2 or shape["tiedHead"]:
            self.head.weight = self.tokens.weight
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
        head = width // shape["heads"]
        exponents = torch.arange(0, head, 2).float() / head
        angle = torch.arange(shape["context"]).float()[:, None] / 10_000**exponents[None, :]
        self.register_buffer("cosine", torch.cat((angle, angle), -1).cos(), persistent=False)
        self.register_buffer("sine", torch.cat((angle, angle), -1).sin(), persistent=False)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        length = ids.shape[1]
        x = self.tokens(ids)
        angles = None
        if self.positions is not None:
            x = x + self.positions(torch.arange(length, device=ids.device))
        else:
            angles = self.cosine[:length], self.sine[:length]
        for layer in self.layers:
            x = layer(x, angles)
        logits = self.head(self.norm(x))
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


def rows_of(shape: dict[str, Any]) -> Tensor:
    torch.manual_seed(1)
    return torch.randint(shape["architecture"]["vocabulary"], (shape["rowsPerStep"], shape["context"] + 1))


def peer(shape: dict[str, Any], device: torch.device) -> Callable[[], None]:
    model: Any = Plain(shape["architecture"]).to(device)
    decayed = [parameter for parameter in model.parameters() if parameter.dim() > 1]
    others = [parameter for parameter in model.parameters() if parameter.dim() < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    gpu = device.type == "cuda"
    if gpu:
        model = torch.compile(model)
    parts = rows_of(shape).to(device).split(shape["microBatchRows"])

    def arithmetic() -> AbstractContextManager[Any]:
        return torch.autocast("cuda", torch.bfloat16) if gpu else nullcontext()

    def step() -> None:
        for part in parts:
            with arithmetic():
                loss = model(part[:, :-1], part[:, 1:]) / len(parts)
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()

    return step


def bare(shape: dict[str, Any], device: torch.device) -> Callable[[], None]:
    from exp_torch import settings
    from exp_torch.memory import Plan
    from exp_torch.parallel import Group
    from exp_torch.session import open_session
    from exp_torch.session import Kept
    from exp_torch.trainer import Arithmetic, Trainer

    chosen = settings.parse({**shape["settings"], "device": device.type})
    session = open_session(chosen, lambda _: None, lambda: False, Group(), Kept())
    arithmetic = Arithmetic(session.dtype, device.type == "cuda", chosen.optimizerState == "8bit")
    sizes = (shape["rowsPerStep"], shape["context"])
    trainer = Trainer(shape["architecture"], OPTIMIZER, *sizes, device, arithmetic, Group(), False)
    trainer.initialise(1)
    recomputed = shape["architecture"]["layers"] if chosen.activationCheckpointing is True else 0
    trainer.arrange(Plan(shape["microBatchRows"], recomputed, chosen.offloadOptimizer is True))
    rows = rows_of(shape).to(device)
    taken = 0

    def step() -> None:
        nonlocal taken
        taken += 1
        trainer.step(rows, 1e-4, taken, 1.0)

    return step


def matmul(size: int, device: torch.device) -> float:
    """10⁹ operations a second: the median of seven products."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    took = []
    for _ in range(9):
        began = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        took.append(time.perf_counter() - began)
    return 2 * size**3 / statistics.median(took[2:]) / 1e9


def main() -> None:
    kind, path = sys.argv[1:3]
    with open(path, encoding="utf-8") as file:
        shape = json.load(file)
    device = torch.device(shape["device"])
    step = {"peer": peer, "bare": bare}[kind](shape, device)
    for line in sys.stdin:
        asked = json.loads(line)
        if "matmul" in asked:
            answer: dict[str, Any] = {"gflops": matmul(asked["matmul"], device)}
        elif "peak" in asked:
            answer = {"bytes": torch.cuda.max_memory_allocated() if device.type == "cuda" else 0}
        else:
            seconds = []
            for _ in range(asked["steps"]):
                began = time.perf_counter()
                step()
                seconds.append(time.perf_counter() - began)
            answer = {"seconds": seconds}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
