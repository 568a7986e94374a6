"""Learning rates, the twin of `src/model/LrSchedule.ts` (which tells the conventions)."""

from __future__ import annotations

import math
from typing import Any

_FACTORS = {
    "linear": lambda u: 1 - u,
    "1-sqrt": lambda u: 1 - math.sqrt(u),
    "cosine": lambda u: 0.5 * (1 + math.cos(math.pi * u)),
    "square": lambda u: 1 - u * u,
}


def lr_at(schedule: dict[str, Any], step: int) -> float:
    """Learning rate of step `step` (0-based index of the step about to be taken)."""
    peak, decay = schedule["peakLr"], schedule.get("decay")
    if decay is not None and step >= decay["startStep"]:
        u = min(1, (step - decay["startStep"] + 1) / decay["steps"])
        if decay["shape"] == "exp":
            return peak * (decay["finalLr"] / peak) ** u
        return decay["finalLr"] + (peak - decay["finalLr"]) * _FACTORS[decay["shape"]](u)
    if step < schedule["warmupSteps"]:
        return peak * (step + 1) / schedule["warmupSteps"]
    return peak
