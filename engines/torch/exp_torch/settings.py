"""What the user may set (`../PROTOCOL.md` has the table). A wrong word is an error that names the right ones, never a
default."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, fields
from typing import Any

from .errors import EngineFailed

_CHOICES: dict[str, tuple[Any, ...]] = {
    "precision": ("fp32", "bf16", "fp16"),
    "optimizerState": ("fp32", "8bit"),
    "deterministic": (False, True),
    "device": ("auto", "cpu", "cuda", "mps"),
    "compile": ("auto", True, False),
    "activationCheckpointing": ("auto", True, False),
    "offloadOptimizer": ("auto", True, False),
    "sharding": ("auto", "ddp", "fsdp"),
}
_COUNTS = ("microBatchRows", "processes", "threads")


@dataclass(frozen=True)
class Settings:
    precision: str = "fp32"
    optimizerState: str = "fp32"
    deterministic: bool = False
    device: str = "auto"
    compile: bool | str = "auto"
    microBatchRows: int | None = None
    activationCheckpointing: bool | str = "auto"
    offloadOptimizer: bool | str = "auto"
    processes: int = 1
    sharding: str = "auto"
    memoryFraction: float | None = None
    threads: int | None = None

    @property
    def numerics_precision(self) -> str:
        """`precision` of the engine's identity: what bears on results for good."""
        state = "" if self.optimizerState == "fp32" else "+adam8bit"
        return self.precision + state + ("+deterministic" if self.deterministic else "")


def _refuse(problem: str, hint: str) -> EngineFailed:
    return EngineFailed("reading the settings", problem, hint)


def _check(name: str, value: Any) -> None:
    if name in _CHOICES:
        # 1 == True in Python
        if not any(value is one or (isinstance(one, str) and value == one) for one in _CHOICES[name]):
            raise _refuse(f"`{name}` is {value!r}", f"use one of {', '.join(map(str, _CHOICES[name]))}")
    elif name in _COUNTS:
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise _refuse(f"`{name}` is {value!r}", "use a whole number from 1 up")
    elif isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= 1:
        raise _refuse(f"`{name}` is {value!r}", "use a share of the memory: above 0, at most 1")


def parse(raw: dict[str, Any] | None) -> Settings:
    """Checked settings; members that are null count as absent."""
    given = {name: value for name, value in (raw or {}).items() if value is not None}
    known = [field.name for field in fields(Settings)]
    for name, value in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
            raise _refuse(f"there is no setting `{name}`", hint)
        _check(name, value)
    return Settings(**given)
