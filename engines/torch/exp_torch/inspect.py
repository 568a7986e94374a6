"""What this engine is, here: `EngineReport` of `src/engine/Engine.ts`."""

from __future__ import annotations

import time
from typing import Any

import torch

from .devices import describe, synchronise
from .inference import Product

_SECONDS = 0.15


def answer(request: dict[str, Any], session: Any) -> dict[str, Any]:
    device = session.device
    on_cpu = device.type == "cpu"
    return {
        "engine": "torch",
        "backend": f"{describe(device)}, {torch.get_num_threads()} threads" if on_cpu else describe(device),
        "version": torch.__version__,
        "workers": torch.get_num_threads() if on_cpu else max(1, torch.cuda.device_count()),
        "matmulGflops": _matmul_gflops(device, session.dtype),
    }


@torch.inference_mode()
def _matmul_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of square products in the arithmetic of the settings, in units of 10⁹."""
    size = 4096 if device.type == "cuda" else 1024
    product = Product(torch.rand(size, size, device=device), None, dtype)
    x = torch.rand(size, size, device=device, dtype=dtype)
    for _ in range(3):
        product(x)
    synchronise(device)
    rounds = 0
    began = time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        product(x)
        rounds += 1
        synchronise(device)
    return 2 * size**3 * rounds / (time.perf_counter() - began) / 1e9
