"""Starts the worker with one thing wrong that people get wrong: `python faults.py NAME`. A parity test that cannot see
it sees nothing."""

from __future__ import annotations

import sys
from typing import Any, Callable

import torch.nn.functional as F

from exp_torch import __main__, model, optimizer


def erf_gelu() -> None:
    """GPT-2 has the tanh form."""
    gelu = F.gelu
    F.gelu = lambda x, approximate="tanh": gelu(x)


def layer_norm_epsilon() -> None:
    layer_norm = F.layer_norm
    F.layer_norm = lambda x, shape, weight=None, bias=None, eps=1e-5: layer_norm(x, shape, weight, bias, 1e-6)


def rms_norm_epsilon() -> None:
    make = model.RmsNorm.__init__
    model.RmsNorm.__init__ = lambda self, width, epsilon: make(self, width, 1e-5)


def short_window() -> None:
    """The last position misses the first one."""
    attend = model.attend
    model.attend = lambda queries, keys, values, window: attend(queries, keys, values, 63)


def _adamw(**wrong: Any) -> Callable[[], None]:
    def make() -> None:
        adamw = optimizer.adamw
        optimizer.adamw = lambda *tensors, **options: adamw(*tensors, **{**options, **wrong})

    return make


FAULTS: dict[str, Callable[[], None]] = {
    "nothing": lambda: None,
    "the erf form of gelu": erf_gelu,
    "another epsilon in layer norm": layer_norm_epsilon,
    "another epsilon in RMS norm": rms_norm_epsilon,
    "a window that is one short": short_window,
    "forgotten weight decay": _adamw(weight_decay=0.0),
    "another epsilon in Adam": _adamw(eps=1e-6),
    "decay of biases and norms": _adamw(weight_decay=0.1),
}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    __main__.main()
