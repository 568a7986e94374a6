"""Cross-entropy that never holds its logits.

The loss of a language model needs logits of every token against the whole vocabulary: at 6 x 2500 tokens and 64,000
entries 3.84 GB in fp32, twice that with their gradient. Here tokens are taken in pieces: the logits of a piece, their
loss and at once their gradient with respect to hidden states and head, so that a piece is all there ever is and no
product is computed twice. The gradient of softmax is scaled inside its exponent (s·softmax(x) = exp(x − logΣ + log s)),
which saves a pass over the piece.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Callable

import torch
from torch import Tensor

from .products import multiply

Work = Callable[..., tuple[Tensor, Tensor]]
"""What is done with the logits of a piece."""

IGNORED = -1
"""Target of a position that does not count."""

_CPU_ELEMENTS = 1 << 21
"""Of logits in a piece: its cache holds them."""
_ELEMENTS = 1 << 26
"""A GPU wants large products, and the gradient of the head is read and written once a piece. Compiled half precision
holds four bytes of each element where the other ways hold up to twelve: there a piece is twice as large."""
_LEAST_TOKENS = 256
"""Below it, adding up the gradient of the head costs more than the logits do."""
_TILE = 128
"""Tensor cores want whole tiles."""


def piece_tokens(device: torch.device, vocabulary: int, dtype: torch.dtype, compiled: bool) -> int:
    """Tokens whose logits are held at once."""
    if device.type == "cpu":
        return max(_LEAST_TOKENS, _CPU_ELEMENTS // vocabulary)
    elements = 2 * _ELEMENTS if compiled and dtype != torch.float32 else _ELEMENTS
    return max(_LEAST_TOKENS, elements // vocabulary // _TILE * _TILE)


def _differentiate(
    logits: Tensor, targets: Tensor, vocabulary: int, log_scale: Tensor, fused: bool = False
) -> tuple[Tensor, Tensor]:
    """Σ −log p of a piece, and scale · gradient in the dtype of the logits [tokens, rows of the head]."""
    dtype = logits.dtype
    logits = logits.float()
    if logits.shape[1] > vocabulary:
        # rows that only pad the table are no tokens
        logits[:, vocabulary:] = -math.inf
    counted = targets != IGNORED
    wanted = targets.clamp(min=0)[:, None]
    normaliser = torch.logsumexp(logits, -1)
    nll = torch.where(counted, normaliser - logits.gather(1, wanted)[:, 0], 0.0).sum()
    shift = torch.where(counted, normaliser - log_scale, math.inf)
    one = torch.where(counted, log_scale.exp(), 0.0)[:, None]
    gradient = logits.sub_(shift[:, None]).exp_()
    if fused:
        # a comparison in every column is free in a loop that is there anyway; writing to some columns would end that
        # loop
        columns = torch.arange(logits.shape[1], device=logits.device)
        return nll, (gradient - torch.where(columns == wanted, one, 0.0)).to(dtype)
    gradient.scatter_(1, wanted, gradient.gather(1, wanted) - one)
    return nll, gradient.to(dtype)


_compiled: Work | None = None


def differentiate(compiled: bool) -> Work:
    """The work on one piece; compiled, its passes over the logits become two."""
    global _compiled
    if not compiled:
        return _differentiate
    if _compiled is None:
        _compiled = torch.compile(partial(_differentiate, fused=True), dynamic=False)
    return _compiled


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += leftᵀ · right, summed in the fp32 of `total`."""
    if left.is_cuda and left.dtype == total.dtype:
        total.addmm_(left.t(), right)
    elif left.is_cuda:
        torch.addmm(total, left.t(), right, out_dtype=torch.float32, out=total)
    else:
        total.add_(multiply(left.t(), right))


class ChunkedCrossEntropy(torch.autograd.Function):
    """Forward gives Σ −log p; backward, once, gives `scale` times its gradient, which was computed on the way."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        vocabulary: int,
        log_scale: Tensor,
        work: Work,
        size: int,
    ) -> Tensor:
        """`hidden` [tokens, width]; `head` [rows of at least `vocabulary`, width]; `targets` int64 [tokens];
        `log_scale` fp32 scalar; `size`: tokens in a piece."""
        matrix = head.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        head_gradient = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        for first in range(0, hidden.shape[0], size):
            piece = hidden[first : first + size]
            nll, gradient = work(multiply(piece, matrix.t()), targets[first : first + size], vocabulary, log_scale)
            total += nll
            hidden_gradient[first : first + size] = multiply(gradient, matrix)
            _add_product(head_gradient, gradient, piece)
        # not by `save_for_backward`: backward may then use their memory, and they are gone when it has
        ctx.gradients = hidden_gradient, head_gradient
        ctx.head_dtype = head.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, head_gradient = ctx.gradients
        ctx.gradients = None
        hidden_gradient.mul_(outer[0])
        return hidden_gradient, head_gradient.mul_(outer[0]).to(ctx.head_dtype), None, None, None, None, None
