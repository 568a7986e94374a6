"""JSON in the one spelling of `src/model/Digest.ts`: sorted keys, no white space, numbers as JavaScript prints them."""

from __future__ import annotations

import json
import math
from typing import Any


def _number(value: float) -> str:
    """The shortest digits that read back the same, laid out by the rules of ECMAScript's Number::toString."""
    if not math.isfinite(value):
        raise ValueError(f"{value} has no JSON spelling")
    if value == 0:
        return "0"
    sign = "-" if value < 0 else ""
    mantissa, exponent = f"{abs(value)!r}e0".split("e")[:2]
    whole, _, fraction = mantissa.partition(".")
    digits = (whole + fraction).lstrip("0")
    # the value is 0.digits · 10^point
    point = len(whole) + int(exponent) if whole != "0" else int(exponent) - (len(fraction) - len(fraction.lstrip("0")))
    digits = digits.rstrip("0")
    count = len(digits)
    if count <= point <= 21:
        return sign + digits + "0" * (point - count)
    if 0 < point <= 21:
        return f"{sign}{digits[:point]}.{digits[point:]}"
    if -6 < point <= 0:
        return f"{sign}0.{'0' * -point}{digits}"
    scientific = digits if count == 1 else f"{digits[0]}.{digits[1:]}"
    return f"{sign}{scientific}e{'+' if point > 0 else '-'}{abs(point - 1)}"


def canonical_json(value: Any) -> str:
    """Members that are None count as absent, as `undefined` does there."""
    if isinstance(value, (bool, str)) or value is None:
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, int):
        return str(value) if abs(value) < 2**53 else _number(float(value))
    if isinstance(value, float):
        return _number(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(canonical_json, value))}]"
    if isinstance(value, dict):
        there = ((key, item) for key, item in value.items() if item is not None)
        members = sorted(there, key=lambda member: member[0].encode("utf-16-be"))
        spelled = (f"{json.dumps(key, ensure_ascii=False)}:{canonical_json(item)}" for key, item in members)
        return f"{{{','.join(spelled)}}}"
    raise ValueError(f"{type(value).__name__} has no JSON spelling")
