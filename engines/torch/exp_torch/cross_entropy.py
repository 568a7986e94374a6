"""Cross-entropy that never holds its logits.

The loss of a language model needs logits of every token against the whole vocabulary: at 6 x 2500 tokens and 64,000 entries 3.84 GB in
fp32, twice that with their gradient. Here tokens are taken in pieces: the logits of a piece, their loss and at once their gradient with
respect to hidden states and head, so that a piece is all there ever is. The gradient of softmax is scaled inside its exponent
(s·softmax(x) = exp(x − logΣ + log s)), which saves a pass over the piece.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any, Callable

import torch
from torch import Tensor

from .products import multiply

IGNORED = -1
"""Target of a position that does not count."""

_PIECE_BYTES = {"cpu": 1 << 23, "other": 1 << 28}
"""Of fp32 logits in a piece. A CPU's cache holds the small piece; a GPU wants large products."""
_LEAST_TOKENS = 256
"""Below it, adding up the gradient of the head costs more than the logits do."""


def piece_tokens(device: torch.device, vocabulary: int) -> int:
    return max(_LEAST_TOKENS, _PIECE_BYTES.get(device.type, _PIECE_BYTES["other"]) // (4 * vocabulary))


def _differentiate(logits: Tensor, targets: Tensor, vocabulary: int, log_scale: Tensor, fused: bool = False) -> tuple[Tensor, Tensor]:
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
        # a comparison in every column is free inside a loop that is there anyway; writing to some columns would end that loop
        return nll, (gradient - torch.where(torch.arange(logits.shape[1], device=logits.device) == wanted, one, 0.0)).to(dtype)
    gradient.scatter_(1, wanted, gradient.gather(1, wanted) - one)
    return nll, gradient.to(dtype)


_compiled: Callable[..., tuple[Tensor, Tensor]] | None = None


def differentiate(compiled: bool) -> Callable[..., tuple[Tensor, Tensor]]:
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
    """Forward gives Σ −log p; backward gives `scale` times its gradient, which was computed on the way."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, vocabulary: int, log_scale: Tensor, work: Callable[..., tuple[Tensor, Tensor]]
    ) -> Tensor:
        """`hidden` [tokens, width]; `head` [rows of at least `vocabulary`, width]; `targets` int64 [tokens]; `log_scale` fp32 scalar."""
        matrix = head.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        hidden_gradient = torch.empty_like(hidden)
        head_gradient = torch.zeros(head.shape, dtype=torch.float32, device=head.device)
        size = piece_tokens(hidden.device, head.shape[0])
        for first in range(0, hidden.shape[0], size):
            piece = hidden[first : first + size]
            nll, gradient = work(multiply(piece, matrix.t()), targets[first : first + size], vocabulary, log_scale)
            total += nll
            hidden_gradient[first : first + size] = multiply(gradient, matrix)
            _add_product(head_gradient, gradient, piece)
        ctx.save_for_backward(hidden_gradient, head_gradient)
        ctx.head_dtype = head.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        hidden_gradient, head_gradient = ctx.saved_tensors
        return hidden_gradient * outer[0].to(hidden_gradient.dtype), (head_gradient * outer[0]).to(ctx.head_dtype), None, None, None, None
