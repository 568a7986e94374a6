"""
Keys and values of texts that are being continued, and attention to them.

A text has a place: a row of `[places, key-value heads, capacity, head width]`, twice, for each layer. Those being
continued are at places 0 ... n-1, so that a step reads one view; a text that ends gives its place to a new one, or to
the last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .inference import CACHE_BLOCK, Inference


def rounded_up(tokens: int) -> int:
    """To whole cache blocks."""
    return -(-tokens // CACHE_BLOCK) * CACHE_BLOCK


def bytes_per_place(inference: Inference, capacity: int) -> int:
    """Of all layers' keys and values of one text."""
    layers = inference.architecture["layers"]
    element = torch.empty((), dtype=inference.dtype).element_size()
    return 2 * layers * inference.key_value_heads * rounded_up(capacity) * inference.head_width * element


class Cache:
    def __init__(self, inference: Inference, places: int, capacity: int) -> None:
        """`capacity` in tokens of the longest text."""
        capacity = rounded_up(capacity)
        self._inference = inference
        self._groups = inference.heads // inference.key_value_heads
        self._scale = inference.head_width**-0.5
        device, dtype = inference.device, inference.dtype
        shape = (2, places, inference.key_value_heads, capacity, inference.head_width)
        # zeros: what has not been written is multiplied by a probability of exactly 0, which only a finite number
        # survives
        self._layers = [torch.zeros(shape, device=device, dtype=dtype) for _ in range(inference.architecture["layers"])]
        # 0 where a key is seen, -inf where not; per key-value head, as the scores are laid out
        seen = (places, inference.key_value_heads, capacity)
        self._mask = torch.full(seen, float("-inf"), device=device, dtype=dtype)

    def write_prompt(self, layer: int, places: Tensor, start: int, keys_values: Tensor) -> None:
        """[texts, length, 2, key-value heads, head width] at positions `start` ... of each place."""
        length = keys_values.shape[1]
        self._layers[layer][:, places, :, start : start + length] = keys_values.permute(2, 0, 3, 1, 4)

    def prompt(self, layer: int, places: Tensor, end: int) -> tuple[Tensor, Tensor]:
        """Copies of keys and values [texts, key-value heads, end, head width]."""
        keys, values = self._layers[layer][:, places, :, :end]
        return keys, values

    def copy(self, source: Tensor, target: Tensor, start: int, end: int) -> None:
        """Positions start ... end of some places to others, in all layers."""
        for both in self._layers:
            both[:, target, :, start:end] = both[:, source, :, start:end]

    def move(self, source: int, target: int, length: int) -> None:
        """A whole text, and what it sees."""
        for both in self._layers:
            both[:, target, :, :length] = both[:, source, :, :length]
        self._mask[target] = self._mask[source]

    def show(self, place: int, length: int) -> None:
        """The next token of a text of `length` tokens sees all of them, or as many as the window holds."""
        self._mask[place] = float("-inf")
        window = self._inference.window
        # the next position is `length`: it sees itself and window - 1 before it
        self._mask[place, :, 0 if window is None else max(0, length - window + 1) : length] = 0

    def step(self, rows: Tensor, positions: Tensor, longest: int) -> "Step":
        """One more token for each of the first places: `positions` [n] are theirs, `longest` is one more than the
        largest."""
        return Step(self, rows, positions, longest)

    def attend(self, step: "Step", layer: int, queries: Tensor, keys_values: Tensor) -> Tensor:
        """[n, heads, head width] and [n, 2, key-value heads, head width] -> [n, width]; writes the keys and values."""
        both = self._layers[layer]
        both.permute(1, 3, 0, 2, 4).index_put_((step.rows, step.positions), keys_values)
        n = queries.shape[0]
        keys, values = both[:, :n, :, : step.longest]
        if queries.is_cuda and queries.dtype != torch.float32:
            return fused(queries, keys, values, step.mask)
        keys, values = keys.flatten(0, 1), values.flatten(0, 1)
        queries = queries.reshape(keys.shape[0], self._groups, -1)
        if queries.dtype == torch.float32:
            scores = torch.baddbmm(step.mask, queries, keys.transpose(1, 2), alpha=self._scale)
            mixed = torch.bmm(torch.softmax(scores, -1), values)
        else:
            # sums in fp32 between halves
            mixed = F.scaled_dot_product_attention(queries, keys, values, attn_mask=step.mask)
        return mixed.reshape(n, -1)


def fused(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Tensor:
    """[n, heads, head width], twice [n, key-value heads, seen, head width], [n * key-value heads, groups, seen] -> [n,
    width], the queries of a key-value head taken as if they were positions. CUDA's fused kernels want four dimensions:
    with three, all keys and values are first copied to fp32."""
    n, key_value_heads = keys.shape[:2]
    mask = mask.unflatten(0, (n, key_value_heads))
    mixed = F.scaled_dot_product_attention(queries.unflatten(1, (key_value_heads, -1)), keys, values, attn_mask=mask)
    return mixed.reshape(n, -1)


class Step:
    """What all layers need to know of a step."""

    def __init__(self, cache: Cache, rows: Tensor, positions: Tensor, longest: int) -> None:
        self.rows = rows
        self.positions = positions
        self.longest = rounded_up(longest)
        mask = cache._mask
        mask[rows, :, positions] = 0
        window = cache._inference.window
        if window is not None and longest > window:
            gone = positions - window
            # of a text that the window still holds, its first token stays; choosing texts would wait for the device
            verdict = torch.where(gone < 0, 0.0, float("-inf")).to(mask.dtype)
            mask[rows, :, gone.clamp(min=0)] = verdict[:, None].expand(-1, mask.shape[1])
        n = rows.shape[0]
        # one row of scores for each query that shares a key-value head
        seen = mask[:n, :, : self.longest].reshape(n * mask.shape[1], 1, self.longest)
        self.mask = seen.expand(-1, cache._groups, -1)
