"""What there is to compute on, and how fast it could be at best."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from .errors import EngineFailed

_PEAK_TERAFLOPS: tuple[tuple[str, float, float], ...] = (
    ("B200", 2250, 80),
    ("B100", 1750, 60),
    ("GH200", 989.4, 67),
    ("H200", 989.4, 67),
    ("H100 NVL", 835, 60),
    ("H100 PCIe", 756, 51),
    ("H100", 989.4, 67),
    ("A100", 312, 19.5),
    ("A800", 312, 19.5),
    ("A40", 149.7, 37.4),
    ("A30", 165, 10.3),
    ("A10G", 70, 35),
    ("A10", 125, 31.2),
    ("L40S", 362, 91.6),
    ("L40", 181, 90.5),
    ("L4", 121, 30.3),
    ("V100", 125, 15.7),
    ("T4", 65, 8.1),
    ("RTX 6000 Ada", 364.2, 91.1),
    ("RTX A6000", 154.8, 38.7),
    ("RTX 5090", 209.5, 104.8),
    ("RTX 5080", 112.6, 56.3),
    ("RTX 5070 Ti", 87.9, 43.9),
    ("RTX 5070", 61.7, 30.9),
    ("RTX 5060 Ti", 47.4, 23.7),
    ("RTX 4090", 165.2, 82.6),
    ("RTX 4080 SUPER", 104.4, 52.2),
    ("RTX 4080", 97.5, 48.7),
    ("RTX 4070 Ti SUPER", 88.2, 44.1),
    ("RTX 4070 Ti", 80.2, 40.1),
    ("RTX 4070 SUPER", 71, 35.5),
    ("RTX 4070", 58.3, 29.1),
    ("RTX 4060 Ti", 44.1, 22.1),
    ("RTX 4060", 30.2, 15.1),
    ("RTX 3090 Ti", 80, 40),
    ("RTX 3090", 71, 35.6),
    ("RTX 3080 Ti", 68.2, 34.1),
    ("RTX 3080", 59.5, 29.8),
    ("RTX 3070", 40.6, 20.3),
    ("RTX 3060 Ti", 32.4, 16.2),
    ("RTX 3060", 25.5, 12.7),
    ("RTX 2080 Ti", 53.8, 13.4),
)
"""By name, longer names before shorter ones they contain: dense 16-bit tensor products summed in fp32, and fp32 ones,
in 10¹² operations a second, as their makers state them (GeForce cards sum in fp32 at half the advertised rate). Cards
of laptops share the names of faster ones: nothing is known of those."""


def peak_flops(name: str, precision: str) -> float | None:
    """Operations a second that a GPU of this name could do at best; None where it is not known."""
    for known, half, single in () if "Laptop" in name else _PEAK_TERAFLOPS:
        if re.search(rf"\b{re.escape(known)}(?!\w)", name):
            return 1e12 * (single if precision == "fp32" else half)
    return None


def automatic() -> str:
    """What `device: auto` means here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def choose(wanted: str, precision: str, local_rank: int = 0) -> torch.device:
    """The device of the settings; refuses one that is not there, or that cannot do the arithmetic."""
    name = automatic() if wanted == "auto" else wanted
    there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if name in there and not there[name]():
        look = "look at `nvidia-smi` and `exp doctor`, or " if name == "cuda" else ""
        problem = f"PyTorch {torch.__version__} sees no `{name}` device here"
        raise EngineFailed("choosing the device", problem, f"{look}use `device: auto`")
    if name == "cuda" and precision == "bf16" and not has_bf16(local_rank):
        problem = f"{torch.cuda.get_device_name(local_rank)} does not compute in bf16"
        raise EngineFailed("choosing the device", problem, "use `precision: fp16`")
    return torch.device(name, local_rank) if name == "cuda" else torch.device(name)


def has_bf16(gpu: int) -> bool:
    """Whether it multiplies bf16 itself."""
    return torch.cuda.get_device_capability(gpu) >= (8, 0)


def compiler_problem(device: torch.device) -> str | None:
    """Why nothing can be compiled for the device here, in its words: Triton is not there for every system, and it wants
    a C compiler and Python's headers. None where it can."""
    try:
        torch.compile(_one_more, fullgraph=True, dynamic=False)(torch.zeros(256, device=device))
    except Exception as error:
        # the cause comes last, after those who passed it on
        while error.__cause__ is not None:
            error = error.__cause__
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:300]
    return None


def _one_more(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def driver() -> str | None:
    """The version of NVIDIA's kernel module, where the system tells: containers and Windows hide it."""
    try:
        return Path("/sys/module/nvidia/version").read_text().strip()
    except OSError:
        return None


def synchronise(device: torch.device) -> None:
    """Waits for what was asked of the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def free_host_bytes() -> int | None:
    """Of the machine's memory; None where the system does not tell."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def describe(device: torch.device) -> str:
    """The GPU by name, else the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
