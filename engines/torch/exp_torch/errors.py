"""What can go wrong, with the fields of the errors of the same names in `src/engine/Engine.ts`."""

from __future__ import annotations

import math
import re
from typing import Any

import torch


class WorkerError(Exception):
    """An error that travels: `fields` and its class name are what the other side gets."""

    fields: dict[str, Any]

    def __init__(self, **fields: Any) -> None:
        super().__init__(str(fields))
        self.fields = fields

    def json(self) -> dict[str, Any]:
        return {"_tag": type(self).__name__, **self.fields}


class EngineFailed(WorkerError):
    def __init__(self, doing: str, problem: str, hint: str, kind: str | None = None) -> None:
        """`kind` is `memory` where that was what was wanting."""
        super().__init__(engine="torch", doing=doing, problem=problem, hint=hint, **({"kind": kind} if kind else {}))


class CheckpointUnreadable(WorkerError):
    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path=path, problem=problem)


class TrainingDiverged(WorkerError):
    def __init__(self, step: int, what: str, rows: list[int]) -> None:
        """Which documents the rows belong to is known to whoever reads their table."""
        super().__init__(step=step, what=what, rows=rows, documents=[])


MEMORY_HINT = (
    "let the micro-batch be found (leave out `microBatchRows`), or set `activationCheckpointing: true`, "
    "`optimizerState: \"8bit\"` or `offloadOptimizer: true`"
)


def is_out_of_memory(error: BaseException) -> bool:
    """On a device, or on the host: PyTorch has a class for the first only, and NVIDIA's libraries have words of their
    own."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and bool(
        re.search(r"out of memory|can't allocate memory|DefaultCPUAllocator|STATUS_ALLOC_FAILED", str(error))
    )


def typed(error: BaseException, doing: str) -> WorkerError:
    """Any exception as an error that travels."""
    if isinstance(error, WorkerError):
        return error
    lines = str(error).strip().splitlines()
    words = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:500]
    if is_out_of_memory(error):
        return EngineFailed(doing, words, MEMORY_HINT, kind="memory")
    if isinstance(error, OSError):
        return EngineFailed(doing, words, "look at free space and permissions of the folder")
    return EngineFailed(doing, words, "run `exp doctor`; the lines before this one say where it happened")


def spelled(value: float, digits: int | None = None) -> str:
    """A number in words that both engines share: `NaN` and `Infinity` as JavaScript says them."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value) if digits is None else f"{value:.{digits}f}"
