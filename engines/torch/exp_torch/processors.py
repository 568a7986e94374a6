"""
From logits to the next token of many texts at once: the rules of `src/engine/LogitsProcessors.ts`, which are those of
Hugging Face `transformers` (repetition penalty, no-repeat n-gram; sampling only: temperature, top-k, top-p), and its
draw by the inverse distribution function.

Numbers as there: scores and softmax terms are rounded to fp32 after each operation, running sums are fp64, equal scores
go by index. Only what can be drawn is ever sorted: the largest few are taken first, and where they turn out not to be
enough (ties at the edge, more than that within top-p), more are taken for the texts that need them.

Penalty and n-grams touch tokens of the text only. They are done in place and undone after the draw, so no second array
of texts × vocabulary is held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

NOT_A_NUMBER = -1
ALL_BANNED = -2

_FIRST = 64
"""Tokens looked at first where only top-p cuts."""
_SPARE = 8
"""Tokens looked at beyond the k-th, to see ties with it."""
_BLOCK = 128
"""Neighbouring tokens whose weights are summed together before the whole vocabulary is."""


@dataclass(frozen=True)
class Candidates:
    """Tokens that may be drawn, [texts, some]; scores are after all processors, -inf where a processor banned the
    token."""

    ids: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Texts:
    """What was said before the tokens to be drawn.

    tokens: int64 [texts, at least longest]; beyond a text's own length its first token is repeated, which changes
    nothing lengths: int64 [texts]
    """

    tokens: Tensor
    lengths: Tensor


class Sampler:
    """Draws for one preset (`DecodingPreset` of `src/model/Decoding.ts`)."""

    def __init__(self, preset: dict[str, Any]) -> None:
        self.samples: bool = preset["doSample"]
        self._penalty: float = preset["repetitionPenalty"]
        self._ngram: int = preset["noRepeatNgramSize"]
        self._temperature: float = preset["temperature"] if self.samples else 1.0
        self._top_k: int = preset["topK"] if self.samples else 0
        self._top_p: float = preset["topP"] if self.samples else 1.0
        self._wanted = _FIRST

    @property
    def looks_back(self) -> bool:
        """Whether `draw` reads the texts at all."""
        return self._penalty != 1 or self._ngram > 0

    def draw(self, logits: Tensor, texts: Texts | None, uniforms: Tensor | None) -> tuple[Tensor, Tensor]:
        """
        fp32 [texts, vocabulary], float64 [texts] in [0, 1) -> int64 [texts], and log p of each under the untempered
        model, float64. A text whose logits are broken gets `NOT_A_NUMBER`, one that can draw nothing `ALL_BANNED`.
        Logits are left as they were.
        """
        largest = logits.amax(-1, keepdim=True)
        normaliser = log_normaliser(logits, largest)
        before = self._look_back(logits, texts)
        token = self._greedy(logits) if not self.samples else self._sample(logits, uniforms)
        if before is not None:
            logits.scatter_(1, texts.tokens, before)
        log_probability = logits.gather(1, token.clamp(min=0)[:, None])[:, 0].double() - normaliser
        return torch.where(largest[:, 0] < torch.inf, token, NOT_A_NUMBER), log_probability

    def process(self, logits: Tensor, texts: Texts) -> Tensor:
        """Scores [texts, vocabulary] after all processors, -inf where banned: what is compared with others'
        processors."""
        scores = logits.clone()
        self._look_back(scores, texts)
        if not self.samples:
            return scores
        candidates = self._candidates(scores)
        if candidates is None:
            return _tempered(scores, self._temperature)
        return torch.full_like(scores, -torch.inf).scatter_(1, candidates.ids, candidates.scores)

    def _look_back(self, scores: Tensor, texts: Texts | None) -> Tensor | None:
        """Repetition penalty, then banned n-grams, in place; the scores of the texts' own tokens as they were."""
        if not self.looks_back:
            return None
        before = scores.gather(1, texts.tokens)
        if self._penalty != 1:
            factor = _on(scores, self._penalty)
            scores.scatter_(1, texts.tokens, torch.where(before < 0, before * factor, before / factor))
        if self._ngram > 0:
            ban_repeated(scores, texts, self._ngram)
        return before

    def _greedy(self, scores: Tensor) -> Tensor:
        # the first of the largest, as argmax promises
        best = scores.argmax(-1)
        return torch.where(scores.gather(1, best[:, None])[:, 0] == -torch.inf, ALL_BANNED, best)

    def _sample(self, scores: Tensor, uniforms: Tensor) -> Tensor:
        candidates = self._candidates(scores)
        if candidates is None:
            return _draw_any(_tempered(scores, self._temperature), uniforms)
        # the running sum goes by id
        ids, order = candidates.ids.sort(-1)
        return _draw(ids, candidates.scores.gather(1, order), uniforms)

    def _candidates(self, scores: Tensor) -> Candidates | None:
        """What temperature, top-k and top-p leave; None where neither of the last two is asked for."""
        vocabulary = scores.shape[1]
        if 0 < self._top_k < vocabulary:
            return self._of_top_k(scores)
        if self._top_p < 1:
            return self._of_top_p(scores)
        return None

    def _of_top_k(self, scores: Tensor) -> Candidates:
        vocabulary = scores.shape[1]
        count = min(vocabulary, self._top_k + _SPARE)
        while True:
            found = _largest(scores, count, self._temperature)
            edge = found.scores[:, self._top_k - 1, None]
            # ties with the k-th stay: the last one seen must lie below it
            if count == vocabulary or not bool(((found.scores[:, -1:] >= edge) & (edge > -torch.inf)).any()):
                break
            count = min(vocabulary, 8 * count)
        kept = found.scores.masked_fill(found.scores < edge, -torch.inf)
        if self._top_p < 1:
            weights = _weights(kept)
            kept = _cut(kept, _shares(weights, weights.sum(-1, keepdim=True)), self._top_p)
        return Candidates(found.ids, kept)

    def _of_top_p(self, scores: Tensor) -> Candidates:
        vocabulary = scores.shape[1]
        total = _total_weight(scores, self._temperature)
        count = min(vocabulary, self._wanted)
        while True:
            found = _largest(scores, count, self._temperature)
            shares = _shares(_weights(found.scores), total)
            # what was not looked at counts as one token below all others
            rest = (total / total.float() - shares.sum(-1, keepdim=True)).clamp(min=0) if count < vocabulary else 0
            kept = _cut(found.scores, shares, self._top_p, rest)
            # the last one seen must have been cut, and none equal to it kept
            last_kept = kept.masked_fill(kept == -torch.inf, torch.inf).amin(-1)
            if count == vocabulary or not bool((last_kept <= found.scores[:, -1]).any()):
                return Candidates(found.ids, kept)
            count = min(vocabulary, 4 * count)
            self._wanted = max(self._wanted, min(count, vocabulary // 4))


def log_normaliser(logits: Tensor, largest: Tensor | None = None) -> Tensor:
    """fp32 [rows, vocabulary] -> float64 [rows]: log of the sum of exponentials."""
    largest = logits.amax(-1, keepdim=True) if largest is None else largest
    total = (logits - largest).exp_().sum(-1)
    return total.double().log_() + largest[:, 0].double()


def ban_repeated(scores: Tensor, texts: Texts, size: int) -> None:
    """-inf, in place, for every token that followed a text's last `size` - 1 tokens anywhere in it."""
    width = texts.tokens.shape[1]
    if width < size:
        return
    windows = texts.tokens.unfold(1, size, 1)
    device = scores.device
    offsets = torch.arange(1 - size, 0, device=device)
    suffix = texts.tokens.gather(1, (texts.lengths[:, None] + offsets).clamp(min=0))
    inside = torch.arange(size, width + 1, device=device) <= texts.lengths[:, None]
    matches = (windows[:, :, :-1] == suffix[:, None, :]).all(-1) & inside
    # a token may follow several times, matching and not: the least of what is said of it holds
    verdict = torch.where(matches, -torch.inf, torch.inf).to(scores.dtype)
    scores.scatter_reduce_(1, windows[:, :, -1], verdict, "amin")


def _tempered(scores: Tensor, temperature: float) -> Tensor:
    if temperature == 1:
        return scores
    # by an array on the device: CUDA multiplies by the reciprocal of a plain number, which rounds otherwise
    return scores / _on(scores, temperature)


def _on(scores: Tensor, number: float) -> Tensor:
    """A number in fp32 where the scores are, filled there: copying it from the host would wait for the device."""
    return torch.full((), number, dtype=torch.float32, device=scores.device)


def _largest(scores: Tensor, count: int, temperature: float) -> Candidates:
    """The `count` largest, tempered, in descending order; equal ones by descending index."""
    if count == scores.shape[1]:
        tempered = _tempered(scores, temperature)
        # stable: equal ones stay in ascending order of index until all is turned round
        values, ids = tempered.sort(dim=-1, stable=True)
        return Candidates(ids.flip(-1), values.flip(-1))
    values, ids = _top(scores, count)
    values = _tempered(values, temperature)
    ids, order = ids.sort(-1, descending=True)
    values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    return Candidates(ids.gather(1, order), values)


def _top(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest in any order. Of a large vocabulary, only blocks whose maximum is among the `count` largest
    can hold them."""
    vocabulary = scores.shape[1]
    blocks = vocabulary // _BLOCK
    if blocks < 2 * count or vocabulary % _BLOCK:
        return scores.topk(count, -1)
    parts = scores.unflatten(-1, (blocks, _BLOCK))
    promising = parts.amax(-1).topk(count, -1, sorted=False).indices
    values = parts.gather(1, promising[:, :, None].expand(-1, -1, _BLOCK)).flatten(1)
    values, within = values.topk(count, -1)
    ids = promising.gather(1, within // _BLOCK) * _BLOCK + within % _BLOCK
    return values, ids


def _weights(scores: Tensor) -> Tensor:
    """exp(score - largest), rounded to fp32; float64. Rows hold their largest score in the first column."""
    return (scores - scores[:, :1]).double().exp_().float().double()


def _total_weight(scores: Tensor, temperature: float) -> Tensor:
    """float64 [rows, 1]: the sum of all weights."""
    tempered = _tempered(scores, temperature)
    weights = (tempered - tempered.amax(-1, keepdim=True)).exp_()
    return _block_sums(weights).sum(-1, keepdim=True)


def _block_sums(weights: Tensor) -> Tensor:
    """fp32 [rows, vocabulary] -> float64 [rows, blocks]: of neighbours in fp32, where few are added, so little is
    lost."""
    rows, vocabulary = weights.shape
    whole = vocabulary // _BLOCK * _BLOCK
    sums = weights[:, :whole].unflatten(-1, (-1, _BLOCK)).sum(-1).double()
    if whole == vocabulary:
        return sums
    return torch.cat((sums, weights[:, whole:].sum(-1, keepdim=True).double()), -1)


def _shares(weights: Tensor, total: Tensor) -> Tensor:
    """Probabilities, rounded to fp32, in float64."""
    return (weights.float() / total.float()).double()


def _cut(scores: Tensor, shares: Tensor, top_p: float, rest: Tensor | int = 0) -> Tensor:
    """Bans, in ascending order, while the running sum of shares is at most 1 - p; the largest stays. Rows are in
    descending order."""
    running = (shares.flip(-1).cumsum(-1) + rest).flip(-1)
    banned = running.float() <= _on(scores, 1 - top_p)
    banned[:, 0] = False
    return scores.masked_fill(banned, -torch.inf)


def _draw(ids: Tensor, scores: Tensor, uniforms: Tensor) -> Tensor:
    """The first id, in the order given, whose running sum of weights exceeds uniform x their total."""
    largest = scores.amax(-1, keepdim=True)
    weights = (scores - largest).double().exp_().float().double()
    running = weights.cumsum(-1)
    # a uniform just below 1 may reach the total by rounding: then the last that has a weight
    last = (running < running[:, -1:]).sum(-1)
    first = (running <= (uniforms * running[:, -1])[:, None]).sum(-1)
    drawn = ids.gather(1, torch.minimum(first, last)[:, None])[:, 0]
    return torch.where(largest[:, 0] == -torch.inf, ALL_BANNED, drawn)


def _draw_any(scores: Tensor, uniforms: Tensor) -> Tensor:
    """The same over the whole vocabulary: first a block, then a token in it."""
    largest = scores.amax(-1, keepdim=True)
    weights = (scores - largest).exp_()
    vocabulary = weights.shape[1]
    sums = _block_sums(weights)
    running = sums.cumsum(-1)
    target = uniforms[:, None] * running[:, -1:]
    last = (running < running[:, -1:]).sum(-1, keepdim=True)
    block = torch.minimum((running <= target).sum(-1, keepdim=True), last)
    before = running.gather(1, block) - sums.gather(1, block)
    columns = block * _BLOCK + torch.arange(_BLOCK, device=scores.device)
    inside = weights.gather(1, columns.clamp(max=vocabulary - 1)).double() * (columns < vocabulary)
    within = inside.cumsum(-1) + before
    final = (within < within[:, -1:]).sum(-1)
    first = (within <= target).sum(-1)
    drawn = columns.gather(1, torch.minimum(first, final)[:, None])[:, 0]
    return torch.where(largest[:, 0] == -torch.inf, ALL_BANNED, drawn)
