"""Checkpoint folders, written and read as `src/engine/tfjs/CheckpointFolder.ts` does: each engine goes on from the
other's.

| file                    | what                                                                                     |
|-------------------------|------------------------------------------------------------------------------------------|
| `model.safetensors`     | fp32 weights under their canonical names                                                 |
| `optimizer.safetensors` | AdamW moments, `<name>.exp_avg` and `<name>.exp_avg_sq`, fp32 however they are held      |
| `state.json`            | where the run stood: `CheckpointState` of `src/model/Checkpoint.ts`, canonical JSON      |
| `worker.json`           | resume points of this engine only: what found itself (micro-batch, loss scale), so that  |
|                         | going on gives the same bits. Others ignore it                                           |
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Callable, Iterable

from torch import Tensor

from . import safetensors_file
from .architecture import Architecture, tensors
from .canonical_json import canonical_json
from .errors import CheckpointUnreadable
from .safetensors_file import Source

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
WORKER = "worker.json"
MOMENTS = ("exp_avg", "exp_avg_sq")

Named = dict[str, Tensor]

_NEEDED = (
    *("step", "tokensSeen", "rowCursor", "architecture", "schedule", "optimizer"),
    *("rowsPerStep", "seed", "engine", "modelSha256"),
)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def read_state(path: str) -> dict[str, Any]:
    """`state.json` of a checkpoint."""
    try:
        state = _read_json(Path(path) / STATE)
    except (OSError, ValueError) as error:
        raise CheckpointUnreadable(path, str(error)[:500]) from None
    missing = [name for name in _NEEDED if not isinstance(state, dict) or name not in state]
    if missing:
        raise CheckpointUnreadable(path, f"`{STATE}` has no `{missing[0]}`")
    return state


def _is_amount(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < math.inf


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_switch(value: Any) -> bool:
    return type(value) is bool


def _is_plan(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {"micro_batch_rows", "recomputed_blocks", "offloaded"}:
        return False
    rows, recomputed = value["micro_batch_rows"], value["recomputed_blocks"]
    return _is_count(rows) and rows > 0 and _is_count(recomputed) and _is_switch(value["offloaded"])


_NOTED: dict[str, Callable[[Any], bool]] = {
    **{"device": lambda value: isinstance(value, str), "plan": _is_plan},
    **{"memoryFraction": _is_amount, "processes": _is_count, "sharded": _is_switch},
    **{"lossScale": _is_amount, "goodSteps": _is_count},
}


def read_worker(path: str) -> dict[str, Any]:
    """What the worker noted for itself in a resume point; empty in any other checkpoint."""
    try:
        noted = _read_json(Path(path) / WORKER)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise CheckpointUnreadable(path, f"{WORKER}: {error}"[:500]) from None
    if not isinstance(noted, dict):
        raise CheckpointUnreadable(path, f"`{WORKER}` is no object")
    for name, fits in _NOTED.items():
        if name in noted and not fits(noted[name]):
            raise CheckpointUnreadable(path, f"`{WORKER}`: `{name}` is {json.dumps(noted[name])}"[:500])
    return noted


def _read_named(path: str, file: str, architecture: Architecture, sha256: str, suffixes: Iterable[str]) -> Named:
    """Every tensor that must be there, and nothing else."""
    try:
        found = safetensors_file.read(Path(path) / file)
        actual = safetensors_file.sha256_of(Path(path) / file)
    except (OSError, safetensors_file.Damaged) as error:
        raise CheckpointUnreadable(path, f"{file}: {error}"[:500]) from None
    expected = {f"{spec.name}{suffix}": spec.shape for suffix in suffixes for spec in tensors(architecture)}
    for name, tensor in found.items():
        if name not in expected:
            raise CheckpointUnreadable(path, f"{file}: `{name}` is not a tensor of this architecture")
        if tuple(tensor.shape) != expected[name]:
            shapes = f"shape {list(tensor.shape)}, not {list(expected[name])}"
            raise CheckpointUnreadable(path, f"{file}: `{name}` has {shapes}")
    for name in expected:
        if name not in found:
            raise CheckpointUnreadable(path, f"{file}: `{name}` is missing")
    if actual != sha256:
        raise CheckpointUnreadable(path, f"{file} has sha256 {actual}, `{STATE}` says {sha256}")
    return {name: found[name] for name in expected}


def read_weights(path: str, state: dict[str, Any]) -> Named:
    """fp32 CPU tensors by canonical name, in canonical order, mapped from the file."""
    return _read_named(path, MODEL, state["architecture"], state["modelSha256"], ("",))


def read_moments(path: str, state: dict[str, Any]) -> Named:
    """The same of `<name>.exp_avg` and `<name>.exp_avg_sq`."""
    if "optimizerSha256" not in state:
        raise CheckpointUnreadable(path, "it keeps weights only: training cannot go on from it")
    suffixes = [f".{moment}" for moment in MOMENTS]
    return _read_named(path, OPTIMIZER, state["architecture"], state["optimizerSha256"], suffixes)


def _sync_folder(path: Path) -> None:
    """A file or folder is not on disk before its folder is. Windows opens no folders."""
    if sys.platform == "win32":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a file and waits until it is on disk."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def replace_text(path: Path, text: str) -> None:
    """Whole or as it was before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    write_text(temporary, text)
    os.replace(temporary, path)
    _sync_folder(path.parent)


def checkpoint_name(step: int) -> str:
    return f"step_{step}"


def write(
    folder: str,
    state: dict[str, Any],
    weights: list[Source],
    moments: list[Source] | None,
    worker: dict[str, Any] | None = None,
) -> tuple[str, dict[str, Any]]:
    """Writes `<folder>/step_<n>`, whole or absent; an older one of that name is replaced. Gives its path and complete
    state."""
    path = Path(folder) / checkpoint_name(state["step"])
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    path.parent.mkdir(parents=True, exist_ok=True)
    # also what a process that was killed left half written
    for name in os.listdir(folder):
        if re.fullmatch(r"\.step_\d+\.\d+\.tmp", name):
            shutil.rmtree(path.parent / name, ignore_errors=True)
    temporary.mkdir()
    try:
        complete = {**state, "modelSha256": safetensors_file.write(temporary / MODEL, weights)}
        if moments is not None:
            complete["optimizerSha256"] = safetensors_file.write(temporary / OPTIMIZER, moments)
        if worker is not None:
            write_text(temporary / WORKER, f"{canonical_json(worker)}\n")
        write_text(temporary / STATE, f"{canonical_json(complete)}\n")
        _sync_folder(temporary)
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return str(path), complete


def forget_others(folder: str, step: int) -> None:
    """Leaves only this step in a folder of resume points."""
    for name in os.listdir(folder):
        if re.match(r"\.?step_\d+", name) and name != checkpoint_name(step):
            shutil.rmtree(Path(folder) / name, ignore_errors=True)
