"""Losses of documents, as `measure` of `src/engine/tfjs/TfjsEngine.ts` defines them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .inference import Inference, Watch, check_ids, in_groups, looking, ready, rows_at_once
from .model import Decoder
from .processors import log_normaliser

_DOING = "measuring losses"

SPECIALS = (0, 1, 2)
"""What `textNll` leaves out where a request does not say: the first ids of this project's tokenizers."""

_LOGIT_BYTES = {True: 16 << 20, False: 1 << 28}
"""Of the logits held at once, on a CPU and elsewhere."""


def answer(request: dict[str, Any], session: Any) -> list[dict[str, Any]]:
    """`LossesRequest` -> `DocumentLoss`es in the order of the documents."""
    inference = ready(session.load(request["checkpoint"]).model)
    given = request.get("specialIds")
    specials = SPECIALS if given is None else given
    return _measure(inference, request["documents"], specials, Watch(session, _DOING, "windows"))


def measure(
    model: Decoder, documents: Sequence[dict[str, Any]], specials: Iterable[int]
) -> list[dict[str, Any]]:
    """The same for a model as it is now."""
    return _measure(Inference(model), documents, specials, Watch(None, _DOING, "windows"))


@looking()
def _measure(
    inference: Inference, documents: Sequence[dict[str, Any]], specials: Iterable[int], watch: Watch
) -> list[dict[str, Any]]:
    """Windows of at most `context` targets without overlap, each beginning with the last token of the one before."""
    context = inference.architecture["context"]
    windows: list[tuple[int, int, Sequence[int]]] = []
    for owner, document in enumerate(documents):
        ids = document["ids"]
        check_ids(_DOING, f"document {document['id']}", ids, inference.vocabulary)
        windows += [(owner, first, ids[first : first + context + 1]) for first in range(0, len(ids) - 1, context)]
    # those of one length stand together; a document's windows keep their order when they are added up below
    order = sorted(range(len(windows)), key=lambda w: len(windows[w][2]))
    nlls: list[Tensor] = [torch.empty(0)] * len(windows)
    done = 0
    for group in in_groups(order, lambda w: len(windows[w][2]) - 1, rows_at_once(inference.device)):
        found = target_nlls(inference, [windows[w][2] for w in group])
        for w, nll in zip(group, found):
            nlls[w] = nll
        done += len(group)
        watch(done, len(windows))
    special = torch.tensor(sorted(set(specials)), dtype=torch.int64)
    losses = [{"id": document["id"], "nll": 0.0, "tokens": 0, "textNll": 0.0} for document in documents]
    for (owner, _, ids), nll in zip(windows, nlls):
        plain = ~torch.isin(torch.tensor(ids[1:]), special)
        losses[owner]["nll"] += float(nll.sum())
        losses[owner]["tokens"] += len(ids) - 1
        losses[owner]["textNll"] += float(nll[plain].sum())
    return losses


def target_nlls(inference: Inference, texts: Sequence[Sequence[int]]) -> list[Tensor]:
    """-log p, in nats, of every token but the first: float64 [length - 1] on the host for each text. Texts come in
    order of length."""
    hidden = inference.texts([text[:-1] for text in texts])
    targets = torch.tensor([token for text in texts for token in text[1:]], device=inference.draws_on)
    found = torch.empty(len(targets), dtype=torch.float64, device=inference.draws_on)
    for rows in logit_blocks(inference, len(targets)):
        logits = inference.logits(hidden[rows])
        found[rows] = log_normaliser(logits) - logits.gather(1, targets[rows, None])[:, 0].double()
    return list(found.cpu().split([len(text) - 1 for text in texts]))


def logit_blocks(inference: Inference, rows: int) -> list[slice]:
    """All rows, in slices whose logits are held at once."""
    size = max(16, _LOGIT_BYTES[inference.device.type == "cpu"] // (4 * inference.vocabulary))
    return [slice(first, min(rows, first + size)) for first in range(0, rows, size)]
