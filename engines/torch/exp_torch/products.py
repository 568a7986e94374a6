"""Products of fp32 matrices on the CPU, by the library that is fast on it.

PyTorch's own go to MKL, which on processors of other makers than Intel runs at half of what oneDNN, which PyTorch also
carries, reaches (measured on an AMD EPYC: 86 against 190 GFLOP/s a core). Which one is chosen depends on the maker of
the processor alone, not on a race: bits must not depend on what else a machine is doing.
"""

from __future__ import annotations

import os
import platform
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def _prefers_onednn() -> bool:
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            text = file.read(4096)
    except OSError:
        text = os.environ.get("PROCESSOR_IDENTIFIER", "GenuineIntel")
    return "GenuineIntel" not in text


_ONEDNN = _prefers_onednn()


def _fits(*operands: Tensor) -> bool:
    if torch.compiler.is_compiling() or not _ONEDNN:
        return False
    return all(one.dtype == torch.float32 and one.device.type == "cpu" and one.numel() > 0 for one in operands)


def _product(left: Tensor, right: Tensor, bias: Tensor | None = None) -> Tensor:
    """left [n, k] · rightᵀ [k, m] + bias [m]; any strides."""
    return torch.ops.mkldnn._linear_pointwise(left, right, bias, "none", [], "")


def multiply(left: Tensor, right: Tensor) -> Tensor:
    """[n, k] · [k, m]; no gradient."""
    return _product(left, right.t()) if _fits(left, right) else left @ right


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, inputs_first: bool) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.inputs_first, ctx.has_bias = inputs_first, bias is not None
        return _product(x, weight.t() if inputs_first else weight, bias)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        gradient = outer[0].flatten(0, -2)
        rows = x.flatten(0, -2)
        toward_x = _product(gradient, weight if ctx.inputs_first else weight.t()).view(x.shape)
        # laid out as the weight is: what is added to it need not be turned first
        toward_weight = _product(rows.t(), gradient.t()) if ctx.inputs_first else _product(gradient.t(), rows.t())
        return toward_x, toward_weight, gradient.sum(0) if ctx.has_bias else None, None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, inputs_first: bool = False) -> Tensor:
    """x [..., inputs] · weightᵀ + bias; `weight` [outputs, inputs], or the other way round where `inputs_first`."""
    if _fits(x, weight) and torch.is_grad_enabled():
        return _Linear.apply(x, weight, bias, inputs_first)
    return F.linear(x, weight.t() if inputs_first else weight, bias)
