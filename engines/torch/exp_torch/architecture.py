"""The shape of a model and what follows from it: tensors in canonical order, parameters, floating-point work.

The twin of `src/model/Architecture.ts`, which tells why. An architecture is the JSON object itself: its words are those
of the request.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

Architecture = dict[str, Any]

DEVIATION = 0.02
"""Standard deviation of fresh matrices; those that write into the residual stream get it divided by √(2·layers)."""


@dataclass(frozen=True)
class TensorSpec:
    """`decayed`: weight decay applies (matrices only). Fresh values are N(0, `deviation`²), or all `constant`."""

    name: str
    shape: tuple[int, ...]
    decayed: bool
    deviation: float | None
    constant: float | None

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def _matrix(name: str, rows: int, columns: int, deviation: float = DEVIATION) -> TensorSpec:
    return TensorSpec(name, (rows, columns), True, deviation, None)


def _vector(name: str, size: int, constant: float) -> TensorSpec:
    return TensorSpec(name, (size,), False, None, constant)


def _gpt2(architecture: Architecture) -> list[TensorSpec]:
    width, layers = architecture["width"], architecture["layers"]
    residual = DEVIATION / math.sqrt(2 * layers)
    found = [
        _matrix("transformer.wte.weight", architecture["vocabulary"], width),
        _matrix("transformer.wpe.weight", architecture["context"], width),
    ]
    for i in range(layers):
        at = f"transformer.h.{i}"
        found += [
            _vector(f"{at}.ln_1.weight", width, 1),
            _vector(f"{at}.ln_1.bias", width, 0),
            _matrix(f"{at}.attn.c_attn.weight", width, 3 * width),
            _vector(f"{at}.attn.c_attn.bias", 3 * width, 0),
            _matrix(f"{at}.attn.c_proj.weight", width, width, residual),
            _vector(f"{at}.attn.c_proj.bias", width, 0),
            _vector(f"{at}.ln_2.weight", width, 1),
            _vector(f"{at}.ln_2.bias", width, 0),
            _matrix(f"{at}.mlp.c_fc.weight", width, 4 * width),
            _vector(f"{at}.mlp.c_fc.bias", 4 * width, 0),
            _matrix(f"{at}.mlp.c_proj.weight", 4 * width, width, residual),
            _vector(f"{at}.mlp.c_proj.bias", width, 0),
        ]
    return [*found, _vector("transformer.ln_f.weight", width, 1), _vector("transformer.ln_f.bias", width, 0)]


def _llama(architecture: Architecture) -> list[TensorSpec]:
    width, layers, inner = architecture["width"], architecture["layers"], architecture["feedForwardWidth"]
    keys = key_value_width(architecture)
    residual = DEVIATION / math.sqrt(2 * layers)
    found = [_matrix("model.embed_tokens.weight", architecture["vocabulary"], width)]
    for i in range(layers):
        at = f"model.layers.{i}"
        found += [
            _vector(f"{at}.input_layernorm.weight", width, 1),
            _matrix(f"{at}.self_attn.q_proj.weight", width, width),
            _matrix(f"{at}.self_attn.k_proj.weight", keys, width),
            _matrix(f"{at}.self_attn.v_proj.weight", keys, width),
            _matrix(f"{at}.self_attn.o_proj.weight", width, width, residual),
            _vector(f"{at}.post_attention_layernorm.weight", width, 1),
            _matrix(f"{at}.mlp.gate_proj.weight", inner, width),
            _matrix(f"{at}.mlp.up_proj.weight", inner, width),
            _matrix(f"{at}.mlp.down_proj.weight", width, inner, residual),
        ]
    found.append(_vector("model.norm.weight", width, 1))
    if not architecture["tiedHead"]:
        found.append(_matrix("lm_head.weight", architecture["vocabulary"], width))
    return found


_FAMILIES = {"gpt2": _gpt2, "llama": _llama}


def tensors(architecture: Architecture) -> list[TensorSpec]:
    """All tensors in canonical order: that of initial weights, of flat buffers and of optimizer state."""
    return _FAMILIES[architecture["family"]](architecture)


def key_value_width(architecture: Architecture) -> int:
    return architecture["width"] // architecture["heads"] * architecture["keyValueHeads"]


def tables(architecture: Architecture) -> tuple[str, ...]:
    """Names of the tensors that have one row for each token of the vocabulary."""
    if architecture["family"] == "gpt2":
        return ("transformer.wte.weight",)
    return ("model.embed_tokens.weight",) + (() if architecture["tiedHead"] else ("lm_head.weight",))


def parameter_count(architecture: Architecture) -> int:
    return sum(spec.elements for spec in tensors(architecture))


def training_flops_per_token(architecture: Architecture, length: int | None = None) -> int:
    """6·N_matmul + 12·layers·width·length, forward and backward; the head counts once, lookups not at all.

    `length`: tokens in a row, by default the context. A sliding window makes no difference to this figure by
    convention.
    """
    read = {"transformer.wte.weight", "transformer.wpe.weight", "model.embed_tokens.weight"}
    multiplied = sum(spec.elements for spec in tensors(architecture) if spec.decayed and spec.name not in read)
    if "lm_head.weight" not in tables(architecture):
        multiplied += architecture["vocabulary"] * architecture["width"]
    attention = 12 * architecture["layers"] * architecture["width"] * (length or architecture["context"])
    return 6 * multiplied + attention
