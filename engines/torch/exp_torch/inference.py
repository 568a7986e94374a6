"""
Forward only. A text's numbers depend on its tokens and on nothing else: not on what is computed beside it, nor on its
place there.

Texts are rows one behind the other, without padding: whatever is done row by row sees them all at once, and only
attention, where positions meet, knows where a text begins. Bits hold still because
- on a CPU in fp32 products go to oneDNN with weights packed once, whose sums for a row do not depend on how many rows
  there are (MKL's do, and on some processors it is two to three times slower); activations are fused into them, since a
  vectorised function rounds otherwise at the ragged end of an array, and where that is depends on the rows before;
- attention over a whole text has the shape of that text; with a cache, keys are padded to a multiple of `CACHE_BLOCK`,
  beyond which masked keys add exact zeros to sums that keep their order;
- a prompt goes through the layers in pieces cut at fixed positions (`generate.py`), so it does not matter whether a
  piece was computed for it or for another prompt that begins alike. Elsewhere (CUDA, MPS, half precision, processors
  without oneDNN) a product's kernel is chosen by its shape: there the batch can move the last bits, and with them a
  token whose rival is as likely to the last digit.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import EngineFailed
from .model import Decoder, Gpt2Block, LlamaBlock, Rotation, attend

CACHE_BLOCK = 64
"""Keys of a cache are looked at in multiples of this many."""

Mixing = Callable[[int, Tensor, Tensor], Tensor]
"""(layer, queries [rows, heads, head width], keys and values [rows, 2, key-value heads, head width]) -> mixed [rows,
width]"""

Seen = Callable[[int, int, Tensor], Sequence[Tensor]]
"""(layer, number of the run, its own keys and values [texts, length, 2, key-value heads, head width]) -> the keys and
the values that it looks at, each [texts, key-value heads, at least length, head width]"""

_ROWS = {"cpu": 4096, "cuda": 16384}
"""Tokens that go through the layers at once."""

Item = TypeVar("Item")


@contextlib.contextmanager
def looking() -> Iterator[None]:
    """No gradients; and not cuDNN's attention, which makes a plan for every new shape: here there are as many as texts
    have lengths."""
    enabled = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(False)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(enabled)


def alone(_layer: int, _run: int, own: Tensor) -> Tensor:
    """`Seen` of texts with nothing before them."""
    return own.permute(2, 0, 3, 1, 4)


class Inference:
    """A model made ready for looking only; weights are read now, so what is trained afterwards does not show."""

    def __init__(self, model: Decoder) -> None:
        self.architecture = model.architecture
        self.device = model.head_weight.device
        self.dtype: torch.dtype = getattr(model, "dtype", None) or model.head_weight.dtype
        # there is no float64 on MPS: what is summed and drawn from logits is then done on the host
        self.draws_on = torch.device("cpu") if self.device.type == "mps" else self.device
        self.heads: int = model.architecture["heads"]
        self.key_value_heads: int = model.architecture.get("keyValueHeads", self.heads)
        self.head_width: int = model.architecture["width"] // self.heads
        self.vocabulary: int = model.architecture["vocabulary"]
        self.window: int | None = model.architecture.get("slidingWindow")
        # the model keeps this (`ready`), so this must not keep the model: both would stay in memory until a collector
        # comes by
        self._model = weakref.proxy(model)
        with torch.no_grad():
            self._layers = [_layer(block, self.dtype) for block in model.blocks]
            self._head = _Head(model.head_weight[: self.vocabulary], self.dtype)

    def hidden(self, ids: Tensor, positions: Tensor, mix: Mixing) -> Tensor:
        """[rows] ids at their positions -> [rows, width] after the final norm."""
        x = self._model.embed(ids, positions).to(self.dtype)
        rotation = _signed(self._model.rotation(positions))
        for i, layer in enumerate(self._layers):
            queries, keys_values = layer.project(x, rotation)
            x = layer.finish(x, mix(i, queries, keys_values))
        return self._model.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """[rows, width] -> fp32 [rows, vocabulary], on `draws_on`"""
        return self._head(hidden).to(self.draws_on)

    def texts(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Hidden states of whole texts one behind the other, [rows, width]; those of one length stand together, in the
        order given."""
        lengths = [len(text) for text in texts]
        if lengths != sorted(lengths):
            raise ValueError("texts are to come in order of their lengths")
        ids = torch.tensor([token for text in texts for token in text], device=self.device)
        positions = torch.cat([torch.arange(length, device=self.device) for length in lengths])
        return self.hidden(ids, positions, self.mixing(runs_of(lengths), alone))

    def mixing(self, runs: Sequence[tuple[int, int]], seen: Seen) -> Mixing:
        """Attention of rows that come in runs: (how many texts, rows of each)."""

        def mix(layer: int, queries: Tensor, keys_values: Tensor) -> Tensor:
            mixed = []
            first = 0
            for run, (count, length) in enumerate(runs):
                rows = slice(first, first + count * length)
                first = rows.stop
                keys, values = seen(layer, run, keys_values[rows].unflatten(0, (count, length)))
                one = queries[rows].unflatten(0, (count, length)).transpose(1, 2)
                mixed.append(attend(one, keys, values, self.window).transpose(1, 2).flatten(2).flatten(0, 1))
            return mixed[0] if len(mixed) == 1 else torch.cat(mixed)

        return mix


def ready(model: Decoder) -> Inference:
    """For a model that does not change any more: made ready once, and forgotten with it."""
    found = model.__dict__.get("_inference")
    if found is None:
        found = model.__dict__["_inference"] = Inference(model)
    return found


class Watch:
    """Tells whoever asked how far a request is, at most once a second, and gives it up when they do not want it any
    more."""

    def __init__(self, session: Any, doing: str, unit: str) -> None:
        """`session` is None where nobody is told: in the middle of a training."""
        self._session, self._doing, self._unit = session, doing, unit
        self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        if self._session is None:
            return
        if self._session.cancelled():
            raise EngineFailed(self._doing, f"given up after {done} of {total} {self._unit}", "ask again")
        if time.monotonic() - self._told >= 1:
            self._told = time.monotonic()
            self._session.progress(done, total, self._unit)


def runs_of(lengths: Sequence[int]) -> list[tuple[int, int]]:
    """[3, 3, 5] -> [(2, 3), (1, 5)]: how often each length comes in a row."""
    runs: list[tuple[int, int]] = []
    for length in lengths:
        count = runs.pop()[0] if runs and runs[-1][1] == length else 0
        runs.append((count + 1, length))
    return runs


def rows_at_once(device: torch.device) -> int:
    """Tokens that go through the layers at once."""
    return _ROWS.get(device.type, 4096)


def in_groups(items: Iterable[Item], rows_of: Callable[[Item], int], most: int) -> list[list[Item]]:
    """Items that come to at most `most` rows together; one longer than that stands alone."""
    groups: list[list[Item]] = []
    rows = most
    for item in items:
        if rows + rows_of(item) > most:
            groups.append([])
            rows = 0
        groups[-1].append(item)
        rows += rows_of(item)
    return groups


def check_ids(doing: str, name: str, ids: Sequence[int], vocabulary: int) -> None:
    """Refuses what is no token of the model."""
    for token in ids:
        if not (isinstance(token, int) and 0 <= token < vocabulary):
            raise EngineFailed(
                doing,
                f"token {token} of {name} is not in the vocabulary of {vocabulary}",
                "encode with the tokenizer that the checkpoint was trained with",
            )


def _packs(weight: Tensor, dtype: torch.dtype) -> bool:
    return (
        weight.device.type == "cpu"
        and dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkldnn.enabled
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


class Product:
    """x @ weight.T + bias, with what is done to it at once: an activation, or another array added to or multiplied by
    it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        """`weight` [outputs, inputs]"""
        self._packed = _packs(weight, dtype)
        weight = weight.detach().to(dtype)
        self._bias = None if bias is None else bias.detach().to(dtype)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None) if self._packed else weight

    def __call__(self, x: Tensor) -> Tensor:
        return self._fused(x, "none", "") if self._packed else F.linear(x, self._weight, self._bias)

    def gelu(self, x: Tensor) -> Tensor:
        return self._fused(x, "gelu", "tanh") if self._packed else F.gelu(self(x), approximate="tanh")

    def silu(self, x: Tensor) -> Tensor:
        return self._fused(x, "swish", "") if self._packed else F.silu(self(x))

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return self._combined(x, other, "add") if self._packed else other + self(x)

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        return self._combined(x, other, "mul") if self._packed else other * self(x)

    def _fused(self, x: Tensor, activation: str, kind: str) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, activation, [], kind)

    def _combined(self, x: Tensor, other: Tensor, how: str) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, self._bias, how)


class _Head:
    """Logits in fp32, whatever the arithmetic: rounded to bf16 a hundred tokens would share a rank."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self._half = dtype if weight.is_cuda and dtype != torch.float32 else None
        if self._half:
            self._weight = weight.detach().to(dtype).t()
        else:
            self._product = Product(weight, None, torch.float32)

    def __call__(self, hidden: Tensor) -> Tensor:
        if self._half:
            # products of halves are exact in fp32, where they are summed: only the rounding of the sums is left out
            return torch.mm(hidden.to(self._half), self._weight, out_dtype=torch.float32)
        return self._product(hidden.float())


class _Gpt2Layer:
    def __init__(self, block: Gpt2Block, dtype: torch.dtype) -> None:
        self._heads = block.heads
        self._block = block
        self._attend, self._mix, self._up, self._down = (
            Product(layer.weight.t(), layer.bias, dtype)
            for layer in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
        )

    def project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        both = self._attend(self._block.ln_1(x)).view(x.shape[0], 3, self._heads, -1)
        return both[:, 0], both[:, 1:]

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = self._mix.plus(mixed, x)
        return self._down.plus(self._up.gelu(self._block.ln_2(x)), x)


class _LlamaLayer:
    def __init__(self, block: LlamaBlock, dtype: torch.dtype) -> None:
        self._block = block
        self._heads, self._key_value_heads = block.heads, block.key_value_heads
        attention, mlp = block.self_attn, block.mlp
        self._attend = Product(
            torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]), None, dtype
        )
        self._mix, self._gate, self._up, self._down = (
            Product(layer.weight, None, dtype)
            for layer in (attention.o_proj, mlp.gate_proj, mlp.up_proj, mlp.down_proj)
        )

    def project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor]:
        cosine, sine = rotation
        rows = x.shape[0]
        all_heads = self._attend(self._block.input_layernorm(x)).view(rows, self._heads + 2 * self._key_value_heads, -1)
        turned = all_heads[:, : self._heads + self._key_value_heads]
        turned = (turned * cosine + turned.roll(turned.shape[-1] // 2, -1) * sine).to(x.dtype)
        keys = turned[:, self._heads :]
        values = all_heads[:, self._heads + self._key_value_heads :]
        return turned[:, : self._heads], torch.stack((keys, values), 1)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = self._mix.plus(mixed, x)
        y = self._block.post_attention_layernorm(x)
        return self._down.plus(self._up.times(y, self._gate.silu(y)), x)


def _layer(block: Gpt2Block | LlamaBlock, dtype: torch.dtype) -> _Gpt2Layer | _LlamaLayer:
    return _Gpt2Layer(block, dtype) if isinstance(block, Gpt2Block) else _LlamaLayer(block, dtype)


def _signed(rotation: Rotation | None) -> Rotation | None:
    """For all heads of a row at once, the sine with the sign that the first half of a head takes it with."""
    if rotation is None:
        return None
    cosine, sine = rotation
    half = sine.shape[-1] // 2
    signed = torch.cat((-sine[..., :half], sine[..., half:]), -1)
    return cosine[:, None], signed[:, None]
