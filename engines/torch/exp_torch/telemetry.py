"""What a device says of itself while it trains: NVIDIA's management library where there is one, else its `nvidia-smi`,
else nothing. Memory: on a GPU what PyTorch's allocator has given out, and taken; on the host what the process resides
in.
"""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import subprocess
import sys
import time
from typing import Any, Protocol

import torch

from .devices import describe, peak_flops

Reading = dict[str, float]
"""`utilisation` (0 to 1), `watts`, `celsius`: those that are known."""


class _Utilisation(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Source(Protocol):
    def read(self) -> Reading: ...


class ManagementLibrary:
    """NVML by its C interface; raises OSError where it is not there or does not know the GPU."""

    def __init__(self, uuid: str, library: Any = None) -> None:
        self._library = library if library is not None else ctypes.CDLL("libnvidia-ml.so.1")
        self._handle = ctypes.c_void_p()
        if self._library.nvmlInit_v2() != 0:
            raise OSError("NVML does not start")
        if self._library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(self._handle)) != 0:
            raise OSError(f"NVML knows no GPU {uuid}")

    def read(self) -> Reading:
        reading: Reading = {}
        utilisation, value = _Utilisation(), ctypes.c_uint()
        if self._library.nvmlDeviceGetUtilizationRates(self._handle, ctypes.byref(utilisation)) == 0:
            reading["utilisation"] = utilisation.gpu / 100
        if self._library.nvmlDeviceGetPowerUsage(self._handle, ctypes.byref(value)) == 0:
            reading["watts"] = value.value / 1000
        if self._library.nvmlDeviceGetTemperature(self._handle, 0, ctypes.byref(value)) == 0:
            reading["celsius"] = float(value.value)
        return reading


class ManagementProgram:
    """`nvidia-smi`, where the library cannot be opened (Windows, containers). Slow: asked for at most every ten
    seconds."""

    _FIELDS = ("utilization.gpu", "power.draw", "temperature.gpu")
    _NAMES = ("utilisation", "watts", "celsius")

    def __init__(self, uuid: str, program: str) -> None:
        query = f"--query-gpu={','.join(self._FIELDS)}"
        self._command = [program, f"--id={uuid}", query, "--format=csv,noheader,nounits"]
        self._read_at = float("-inf")
        self._reading: Reading = {}

    def read(self) -> Reading:
        now = time.monotonic()
        if now - self._read_at >= 10:
            self._read_at = now
            self._reading = self._ask()
        return self._reading

    def _ask(self) -> Reading:
        try:
            said = subprocess.run(self._command, capture_output=True, text=True, timeout=5, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return {}
        reading: Reading = {}
        for name, word in zip(self._NAMES, said.strip().split(",")):
            try:
                reading[name] = float(word)
            except ValueError:
                # "[N/A]": this card does not tell
                continue
        if "utilisation" in reading:
            reading["utilisation"] /= 100
        return reading


def source_of(device: torch.device) -> Source | None:
    if device.type != "cuda":
        return None
    uuid = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    try:
        return ManagementLibrary(uuid)
    except (OSError, AttributeError):
        program = shutil.which("nvidia-smi")
        return ManagementProgram(uuid, program) if program else None


class Telemetry:
    """Speed, memory and sensors, at most once a second."""

    def __init__(
        self, device: torch.device, precision: str, flops_per_token: int, devices: int, source: Source | None
    ) -> None:
        """`devices`: over how many the tokens are spread."""
        peak = peak_flops(describe(device), precision)
        self._device, self._source = device, source
        self._tokens_at_peak = peak * devices / flops_per_token if peak else None
        self._since = time.monotonic()
        self._tokens = 0

    def step(self, tokens: int) -> dict[str, float] | None:
        """Counts a step of so many tokens; a reading when the last one is a second old."""
        self._tokens += tokens
        now = time.monotonic()
        if now - self._since < 1:
            return None
        speed = self._tokens / (now - self._since)
        self._since, self._tokens = now, 0
        sensors = self._source.read() if self._source else {}
        return {"tokensPerSecond": speed, **self._efficiency(speed), **self.memory(), **sensors}

    def _efficiency(self, tokens_per_second: float) -> dict[str, float]:
        return {"mfu": tokens_per_second / self._tokens_at_peak} if self._tokens_at_peak else {}

    def memory(self) -> dict[str, float]:
        """Held now, and at most since `forget_peak`."""
        if self._device.type == "cuda":
            now, most = torch.cuda.memory_allocated(self._device), torch.cuda.max_memory_allocated(self._device)
            taken = torch.cuda.max_memory_reserved(self._device)
            return {"memoryBytes": now, "peakMemoryBytes": most, "peakReservedBytes": taken}
        if self._device.type == "mps":
            return {"memoryBytes": torch.mps.current_allocated_memory()}
        return _resident()


def forget_peak(device: torch.device) -> None:
    """What was held at most is counted anew: a worker does more than one request."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


def _resident() -> dict[str, float]:
    """Memory of this process: Linux tells at any time, others its peak since it began."""
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            said = dict(line.split(":", 1) for line in file if ":" in line)
        now, most = (1024 * int(said[name].split()[0]) for name in ("VmRSS", "VmHWM"))
        return {"memoryBytes": now, "peakMemoryBytes": most}
    except (OSError, KeyError, ValueError):
        pass
    try:
        import resource
    except ImportError:
        return {}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peakMemoryBytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
