"""fp32 weights on disk, byte for byte as `src/engine/Safetensors.ts` writes them (its head tells the format).

The `safetensors` library sorts tensors its own way and pads its own way, so the same tensors would not be the same
bytes; writing the format takes thirty lines. A file that is read is believed in nothing.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable, Iterable

import numpy as np
import torch
from torch import Tensor

_MAX_HEADER_BYTES = 100_000_000
_PIECE_BYTES = 1 << 24


class Damaged(Exception):
    """What is wrong with a file, in words."""


def _header(tensors: list[tuple[str, tuple[int, ...]]]) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in tensors:
        size = 4 * math.prod(shape)
        entries[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    padded = text.ljust(-(-len(text) // 8) * 8)
    return len(padded).to_bytes(8, "little") + padded


@dataclass(frozen=True)
class Source:
    """A tensor to be written. `produce` gives it in fp32 on the CPU, when its turn comes: no more than one need be
    there at a time."""

    name: str
    shape: tuple[int, ...]
    produce: Callable[[], Tensor]


def in_order(sources: Iterable[Source]) -> list[Source]:
    """As they lie in a file: sorted by the UTF-16 code units of their names."""
    return sorted(sources, key=lambda source: source.name.encode("utf-16-be"))


def write(path: Path, sources: Iterable[Source]) -> str:
    """Writes tensors and waits until they are on disk. Gives the file's sha256."""
    ordered = in_order(sources)
    digest = hashlib.sha256()
    with open(path, "wb") as file:

        def put(part: Any) -> None:
            digest.update(part)
            file.write(part)

        put(_header([(source.name, source.shape) for source in ordered]))
        for source in ordered:
            flat = memoryview(source.produce().contiguous().numpy().astype("<f4", copy=False).reshape(-1)).cast("B")
            for first in range(0, len(flat), _PIECE_BYTES):
                put(flat[first : first + _PIECE_BYTES])
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _natural(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _entry(name: str, entry: Any) -> tuple[tuple[int, ...], int, int]:
    """Shape and data offsets of a header's entry."""
    if not isinstance(entry, dict):
        raise Damaged(f"the entry of `{name}` is not an object")
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if entry.get("dtype") != "F32":
        raise Damaged(f'`{name}` has dtype {json.dumps(entry.get("dtype"))}, expected "F32"')
    if not isinstance(shape, list) or not all(map(_natural, shape)):
        raise Damaged(f"the shape of `{name}` is not a list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_natural, offsets)):
        raise Damaged(f"`{name}` has no two data offsets")
    if offsets[1] - offsets[0] != 4 * math.prod(shape):
        raise Damaged(f"`{name}` has {offsets[1] - offsets[0]} bytes, its shape {shape} needs {4 * math.prod(shape)}")
    return tuple(shape), offsets[0], offsets[1]


def _read_header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    if size < 8:
        raise Damaged(f"the file has {size} bytes, not even the length of a header")
    length = int.from_bytes(file.read(8), "little")
    if length > min(size - 8, _MAX_HEADER_BYTES):
        raise Damaged(f"the header would have {length} bytes, the file has {size}")
    try:
        header = json.loads(file.read(length).decode("utf-8"))
    except ValueError as error:
        raise Damaged(f"the header is not JSON: {str(error)[:300]}") from None
    if not isinstance(header, dict):
        raise Damaged("the header is not a JSON object")
    return header, 8 + length


def read(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, mapped into memory rather than read: copy what must outlive a change of the file."""
    size = path.stat().st_size
    with open(path, "rb") as file:
        header, start = _read_header(file, size)
    found = {name: _entry(name, entry) for name, entry in header.items() if name != "__metadata__"}
    position = start
    for name, (_, first, last) in sorted(found.items(), key=lambda item: item[1][1:]):
        if start + first < position:
            raise Damaged(f"`{name}` overlaps the tensor before it")
        if start + first > position:
            raise Damaged(f"{start + first - position} bytes before `{name}` belong to no tensor")
        position = start + last
    if position > size:
        raise Damaged(f"the header promises {position} bytes, the file has {size}")
    if position < size:
        raise Damaged(f"{size - position} bytes at the end belong to no tensor")
    # copy-on-write: PyTorch knows no tensors that must not be written to
    data = np.memmap(path, np.uint8, "c")
    return {
        name: torch.from_numpy(data[start + first : start + last].view("<f4").reshape(shape))
        for name, (shape, first, last) in found.items()
    }


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()
