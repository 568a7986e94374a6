"""How a step is cut into micro-batches, and what else is given up to make them fit.

On the CPU by a rule on the request alone, so that two machines cut alike. On a GPU by trying: two small micro-batches tell what a row costs,
the largest that should fit is tried, and less while it does not. What is given up when nothing fits goes from cheap to dear: activations are
computed twice (a third more work), then moments live in the memory of the host.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Callable, Iterator

from .architecture import Architecture
from .settings import Settings

_CPU_TOKENS = 4096
_CPU_BYTES = 2 << 30
_CPU_BYTES_PER_ELEMENT = 136
"""Of activations, for each of layers · width · tokens in fp32."""

_GPU_TOKENS = 1 << 16
"""More tokens at once make no product faster."""
_ENOUGH_TOKENS = 2048
"""Fewer leave a GPU idle: recomputing activations is cheaper."""
_SAFE = 0.94
"""Share of the memory that a guess may fill: the rest is fragmentation."""

GIB = 2**30


@dataclass(frozen=True)
class Plan:
    """How a step is computed. `recomputed_blocks`: blocks whose activations are computed again on the way back."""

    micro_batch_rows: int
    recomputed_blocks: int
    offloaded: bool

    def json(self) -> dict[str, Any]:
        return asdict(self)


def rows_on_cpu(architecture: Architecture, context: int, rows: int) -> int:
    """Rows of a micro-batch, of `rows` that a process has in a step."""
    row_bytes = context * architecture["layers"] * architecture["width"] * _CPU_BYTES_PER_ELEMENT
    return even(max(1, min(rows, _CPU_TOKENS // context, _CPU_BYTES // row_bytes)), rows)


def even(most: int, rows: int) -> int:
    """At most `most`, so that `rows` fall into as few parts as with `most`, of sizes as equal as can be."""
    return -(-rows // -(-rows // most))


def parts(rows: int, count: int) -> list[slice]:
    """`rows` in `count` parts whose sizes differ by at most one; empty ones last."""
    larger = rows % count
    size = rows // count
    starts = [i * size + min(i, larger) for i in range(count + 1)]
    return [slice(first, last) for first, last in zip(starts, starts[1:])]


Attempt = Callable[[int], int | None]
"""Takes a micro-batch of so many rows for a try; peak bytes, or None where memory ran out."""


def largest_that_fits(most: int, limit: int, attempt: Attempt, verify: bool) -> int:
    """Rows in the largest micro-batch up to `most` whose peak stays below `limit` bytes; 0 when not even one row does.

    `verify`: the guess itself is tried. Several processes cannot: where one runs out of memory, the others would wait for it for ever.
    """
    one = attempt(1)
    if one is None or one > limit:
        return 0
    two = attempt(2) if most > 1 else None
    if two is None or two > limit:
        return 1
    guess = min(most, 1 + int(_SAFE * limit - one) // max(1, two - one))
    while guess > 2:
        guess = even(guess, most) if guess < most else most
        peak = attempt(guess) if verify else 0
        if peak is not None and peak <= limit:
            return guess
        guess -= max(1, guess // 16)
    return 2


def ladder(settings: Settings, blocks: int) -> Iterator[tuple[int, bool]]:
    """(recomputed blocks, offloaded) from cheap to dear, as far as the settings leave a choice."""
    recomputed = {"auto": (0, blocks), True: (blocks,), False: (0,)}[settings.activationCheckpointing]
    offloaded = {"auto": (False, True), True: (True,), False: (False,)}[settings.offloadOptimizer]
    for host in offloaded:
        for count in recomputed:
            if not (host and count == 0 and len(recomputed) > 1 and len(offloaded) > 1):
                yield count, host


def find_plan(
    settings: Settings, blocks: int, context: int, rows: int, limit: int, arrange: Callable[[int, bool], Attempt], verify: bool
) -> Plan | None:
    """The cheapest way that keeps the GPU busy, else the one with the largest micro-batch; None when nothing fits."""
    most = max(1, min(rows, _GPU_TOKENS // context))
    best: Plan | None = None
    for recomputed, offloaded in ladder(settings, blocks):
        if settings.microBatchRows is not None:
            wanted = min(settings.microBatchRows, rows)
            peak = arrange(recomputed, offloaded)(wanted)
            found = wanted if peak is not None and peak <= limit else 0
        else:
            found = largest_that_fits(most, limit, arrange(recomputed, offloaded), verify)
        if found > (best.micro_batch_rows if best else 0):
            best = Plan(found, recomputed, offloaded)
        if found == rows or found * context >= _ENOUGH_TOKENS:
            break
    return best


def gibibytes(count: float) -> str:
    return f"{count / GIB:.1f}"
