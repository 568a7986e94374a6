"""What this engine is, here: `EngineReport` of `src/engine/Engine.ts`, and what a user wants to know of the device beside it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from .devices import describe
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
        **_memory(device),
        **_driver(device),
        "bf16": _bf16(device),
    }


@torch.inference_mode()
def _matmul_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations a second of square products in the arithmetic of the settings, in units of 10⁹."""
    size = 4096 if device.type == "cuda" else 1024
    product = Product(torch.rand(size, size, device=device), None, dtype)
    x = torch.rand(size, size, device=device, dtype=dtype)
    for _ in range(3):
        product(x)
    _finish(device)
    rounds = 0
    began = time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        product(x)
        rounds += 1
        _finish(device)
    return 2 * size**3 * rounds / (time.perf_counter() - began) / 1e9


def _finish(device: torch.device) -> None:
    """Waits for what was asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _memory(device: torch.device) -> dict[str, int]:
    """Bytes of the device, all and free."""
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return {"memoryBytes": total, "freeMemoryBytes": free}
    if device.type == "mps":
        total = torch.mps.recommended_max_memory()
        return {"memoryBytes": total, "freeMemoryBytes": total - torch.mps.driver_allocated_memory()}
    return host_memory()


def host_memory() -> dict[str, int]:
    """Bytes of the machine's memory, all and free; empty where the system does not tell."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        total, free = (int(lines[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    except (OSError, KeyError, ValueError):
        return {}
    return {"memoryBytes": total, "freeMemoryBytes": free}


def _driver(device: torch.device) -> dict[str, str]:
    if device.type != "cuda":
        return {}
    found = {"cuda": torch.version.cuda or ""}
    try:
        found["driver"] = Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        # containers and Windows hide it
        pass
    return found


def _bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 itself; a CPU does, fast or not."""
    return device.type == "cpu" or (device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0))
