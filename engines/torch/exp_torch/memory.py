"""How a step is cut into micro-batches, and what else is given up to make them fit.

On the CPU by a rule on the request alone, so that two machines cut alike. On a GPU by trying: two small micro-batches
tell what a row costs, the largest that should fit is tried, and less while it does not. What is given up when nothing
fits goes from cheap to dear: activations are computed twice (a third more work), then moments live in the memory of the
host, and in half precision the fp32 of the blocks' matrices with them (`trainer.py`).

`src/engine/torch/Memory.ts` reckons the same before anything is started.
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


@dataclass(frozen=True)
class Plan:
    """How a step is computed. `recomputed_blocks`: blocks whose activations are computed again on the way back;
    `offloaded`: moments, and masters where there are any, are on the host."""

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
"""Tries a micro-batch of so many rows; peak bytes, or None where memory ran out: the same in every process."""


@dataclass(frozen=True)
class Fit:
    """A micro-batch that fits. `peak`: its bytes; unless it was `tried`, what two smaller ones let expect."""

    rows: int
    peak: int
    tried: bool = True


def largest_that_fits(rows: int, most: int, limit: int, attempt: Attempt, verify: bool) -> Fit | None:
    """The largest micro-batch of at most `most` of `rows` rows whose peak stays below `limit` bytes; None when not even
    one row does.

    `verify`: the guess itself is tried. Several processes cannot: where one runs out of memory, the others would wait
    for it for ever.
    """
    one = attempt(1)
    if one is None or one > limit:
        return None
    two = attempt(2) if most > 1 else None
    if two is None or two > limit:
        return Fit(1, one)
    more = max(1, two - one)
    guess = min(most, 1 + int(_SAFE * limit - one) // more)
    while guess > 2:
        guess = even(guess, rows)
        peak = attempt(guess) if verify else one + (guess - 1) * more
        if peak is not None and peak <= limit:
            return Fit(guess, peak, verify)
        guess -= max(1, guess // 16)
    return Fit(2, two)


def shares_out(settings: Settings, processes: int, held: int, there: float) -> bool:
    """FSDP where asked for, or where one process with `there` bytes would not hold weights, gradients and moments."""
    if processes == 1 or settings.sharding != "auto":
        return processes > 1 and settings.sharding == "fsdp"
    return held > 0.7 * there


def ladder(settings: Settings, blocks: int) -> Iterator[tuple[int, bool]]:
    """(recomputed blocks, offloaded) from cheap to dear, as far as the settings leave a choice."""
    recomputed = {"auto": (0, blocks), True: (blocks,), False: (0,)}[settings.activationCheckpointing]
    offloaded = {"auto": (False, True), True: (True,), False: (False,)}[settings.offloadOptimizer]
    for host in offloaded:
        for count in recomputed:
            if not (host and count == 0 and len(recomputed) > 1 and len(offloaded) > 1):
                yield count, host


def find_plan(
    settings: Settings,
    blocks: int,
    context: int,
    rows: int,
    limit: int,
    arrange: Callable[[int, bool], Attempt],
    verify: bool,
) -> tuple[Plan, Fit] | None:
    """The cheapest way that keeps the GPU busy, else the one with the largest micro-batch; None when nothing fits."""
    most = max(1, min(rows, _GPU_TOKENS // context))
    given = settings.microBatchRows
    best: tuple[Plan, Fit] | None = None
    for recomputed, offloaded in ladder(settings, blocks):
        attempt = arrange(recomputed, offloaded)
        if given is None:
            found = largest_that_fits(rows, most, limit, attempt, verify)
        else:
            found = _given(min(given, rows), limit, attempt)
        if found is None:
            continue
        if best is None or found.rows > best[1].rows:
            best = Plan(found.rows, recomputed, offloaded), found
        if given is not None or found.rows == rows or found.rows * context >= _ENOUGH_TOKENS:
            break
    return best


def _given(rows: int, limit: int, attempt: Attempt) -> Fit | None:
    peak = attempt(rows)
    return None if peak is None or peak > limit else Fit(rows, peak)


def still_serves(plan: Plan, settings: Settings, rows: int) -> bool:
    """Whether a plan that was found before is one that these settings allow for `rows` rows."""
    return (
        (settings.microBatchRows is None or min(settings.microBatchRows, rows) == plan.micro_batch_rows)
        and settings.activationCheckpointing in ("auto", plan.recomputed_blocks > 0)
        and settings.offloadOptimizer in ("auto", plan.offloaded)
    )


def gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f}"
