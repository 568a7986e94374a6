"""The rows of a run, mapped from the token shards: memory does not grow with the corpus. Formats:
`src/model/Corpus.ts`."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import EngineFailed

_DTYPES = {"uint16": np.dtype("<u2"), "uint32": np.dtype("<u4")}


@dataclass(frozen=True)
class _Shard:
    """`start`: position of its first token among all training tokens."""

    file: str
    start: int
    tokens: np.ndarray


class BadRows(Exception):
    """What is wrong with tokens or order, in words."""


def _map(path: Path, dtype: np.dtype) -> np.ndarray:
    # an empty file cannot be mapped
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.empty(0, dtype)


class Rows:
    def __init__(self, folder: str, order: str) -> None:
        self.index: dict[str, Any] = json.loads((Path(folder) / "tokens.json").read_text("utf-8"))
        self.context: int = self.index["context"]
        self._shards: list[_Shard] = []
        start = 0
        for shard in self.index["shards"]:
            if shard["part"] == "train":
                self._shards.append(self._open(Path(folder), shard, start))
                start += shard["tokens"]
        size = Path(order).stat().st_size
        if size % 4:
            raise BadRows(f"{order} has {size} bytes, not a whole number of uint32")
        self._order = _map(Path(order), np.dtype("<u4"))

    def _open(self, folder: Path, shard: dict[str, Any], start: int) -> _Shard:
        dtype = _DTYPES[self.index["dtype"]]
        path = folder / shard["file"]
        size, expected = path.stat().st_size, shard["tokens"] * dtype.itemsize
        if size != expected:
            raise BadRows(f"{shard['file']} has {size} bytes, `tokens.json` says {expected}")
        return _Shard(shard["file"], start, _map(path, dtype))

    @property
    def ordered(self) -> int:
        """Rows in the order file."""
        return len(self._order)

    def numbers(self, first: int, count: int) -> list[int]:
        """Row numbers [first, first + count) of the order."""
        return self._order[first : first + count].tolist()

    def tokens(self, rows: list[int]) -> np.ndarray:
        """int64 [rows, context + 1]"""
        found = np.empty((len(rows), self.context + 1), np.int64)
        for target, row in zip(found, rows):
            self._read(self._position(row), target)
        wrong = np.argwhere(found >= self.index["vocabulary"])
        if len(wrong):
            row, at = wrong[0]
            vocabulary = self.index["vocabulary"]
            raise BadRows(f"row {rows[row]} has token {found[row, at]}, the vocabulary ends at {vocabulary}")
        return found

    def _position(self, row: int) -> int:
        for source in self.index["sources"]:
            if source["firstRow"] <= row < source["firstRow"] + source["rows"]:
                return source["startToken"] + (row - source["firstRow"]) * self.context
        raise BadRows(f"row {row} is not a row of any source")

    def _read(self, position: int, target: np.ndarray) -> None:
        done = 0
        for shard in self._shards:
            first = position + done - shard.start
            if done < len(target) and 0 <= first < len(shard.tokens):
                part = shard.tokens[first : first + len(target) - done]
                target[done : done + len(part)] = part
                done += len(part)
        if done < len(target):
            raise BadRows(f"the training tokens end before position {position + len(target)}")


def open_rows(request: dict[str, Any]) -> Rows:
    """The rows of a request, checked against its model and its steps."""
    doing = "opening the training rows"
    try:
        rows = Rows(request["tokens"], request["order"])
    except (OSError, ValueError, KeyError, BadRows) as error:
        hint = "run `exp run` again: what is damaged is made anew"
        raise EngineFailed(doing, f"{type(error).__name__}: {error}"[:500], hint) from None
    model, index = request["architecture"], rows.index
    if index["context"] > model["context"] or index["vocabulary"] > model["vocabulary"]:
        raise EngineFailed(
            doing,
            f"tokens of context {index['context']} and vocabulary {index['vocabulary']} "
            f"for a model of {model['context']} and {model['vocabulary']}",
            "take context and vocabulary of the model from the tokens",
        )
    if rows.ordered < request["endStep"] * request["rowsPerStep"]:
        raise EngineFailed(
            doing,
            f"the order has {rows.ordered} rows, {request['endStep']} steps of {request['rowsPerStep']} read more",
            "write a longer order",
        )
    return rows


@dataclass(frozen=True)
class StepRows:
    """The rows of one step that this process computes. `numbers`: of all processes; `tokens`: int64 [own rows, context
    + 1]."""

    numbers: list[int]
    tokens: Tensor


class Prefetch:
    """Reads the rows of the next step while one is computed; on CUDA into pinned memory, copied without waiting."""

    def __init__(self, rows: Rows, rows_per_step: int, own: slice, device: torch.device) -> None:
        """`own`: which rows of a step are this process's."""
        self._rows, self._rows_per_step, self._own, self._device = rows, rows_per_step, own, device
        self._reader = ThreadPoolExecutor(1, "rows")
        self._next: tuple[int, Future[StepRows]] | None = None

    def _read(self, step: int) -> StepRows:
        numbers = self._rows.numbers(step * self._rows_per_step, self._rows_per_step)
        tokens = torch.from_numpy(self._rows.tokens(numbers[self._own]))
        return StepRows(numbers, tokens.pin_memory() if self._device.type == "cuda" else tokens)

    def take(self, step: int, last: int) -> StepRows:
        """The rows of step `step` (0-based), on the device; begins to read those after it where there are any before
        `last`."""
        ahead = self._next
        try:
            found = ahead[1].result() if ahead is not None and ahead[0] == step else self._read(step)
        except (OSError, BadRows) as error:
            doing = f"reading the rows of step {step + 1}"
            raise EngineFailed(doing, str(error)[:500], "look at the tokens artifact") from None
        self._next = (step + 1, self._reader.submit(self._read, step + 1)) if step + 1 < last else None
        return StepRows(found.numbers, found.tokens.to(self._device, non_blocking=True))

    def close(self) -> None:
        self._reader.shutdown(wait=True, cancel_futures=True)
