"""How a model ranks the continuation it is asked for, as `probe` of `src/engine/tfjs/worker.ts`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .errors import EngineFailed
from .inference import Inference, check_ids, in_groups, looking, ready, rows_at_once
from .processors import log_normaliser

_TOP = 5


def answer(request: dict[str, Any], session: Any) -> list[dict[str, Any]]:
    """`ProbeRequest` -> `ProbeResult`s in the order of the probes."""
    return _probe(ready(session.load(request["checkpoint"]).model), request["probes"])


@looking()
def _probe(inference: Inference, probes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    context = inference.architecture["context"]
    for i, probe in enumerate(probes):
        _check(f"probe {i}", probe, inference.vocabulary, context)
    # as lm-evaluation-harness: too long a text loses its beginning
    inputs = [[*probe["context"], *probe["target"]][-(context + 1) : -1] for probe in probes]
    results: list[dict[str, Any]] = [{}] * len(probes)
    order = sorted(range(len(probes)), key=lambda i: len(inputs[i]))
    for group in in_groups(order, lambda i: len(inputs[i]), rows_at_once(inference.device)):
        hidden = inference.texts([inputs[i] for i in group])
        end = 0
        for i in group:
            end += len(inputs[i])
            target = probes[i]["target"]
            results[i] = _result(inference.logits(hidden[end - len(target) : end]), target)
    return results


def _check(name: str, probe: dict[str, Any], vocabulary: int, context: int) -> None:
    check_ids("probing", name, [*probe["context"], *probe["target"]], vocabulary)
    if len(probe["context"]) == 0 or len(probe["target"]) == 0:
        raise EngineFailed("probing", f"{name} has an empty context or target", "begin contexts with BOS")
    if len(probe["target"]) > context:
        raise EngineFailed("probing", f"the target of {name} is longer than the context", "use a shorter target")


def _result(logits: Tensor, target: Sequence[int]) -> dict[str, Any]:
    """`logits` [targets, vocabulary]: each row is what its target is judged by."""
    targets = torch.tensor(target, device=logits.device)
    log_probabilities = logits.gather(1, targets[:, None])[:, 0].double() - log_normaliser(logits)
    first = logits[0]
    wanted = first[targets[0]]
    return {
        "rank": 1 + int((first > wanted).sum()),
        "ties": int((first == wanted).sum()) - 1,
        "probability": math.exp(float(log_probabilities[0])),
        "logProbabilities": log_probabilities.tolist(),
        "top": _likeliest(first),
    }


def _likeliest(logits: Tensor) -> list[dict[str, Any]]:
    """The first tokens by probability, best first, equal ones by id."""
    edge = logits.topk(min(_TOP, len(logits))).values[-1]
    ids = (logits >= edge).nonzero()[:, 0]
    values, order = logits[ids].sort(dim=-1, descending=True, stable=True)
    normaliser = float(log_normaliser(logits[None])[0])
    return [
        {"id": int(ids[at]), "probability": math.exp(float(value) - normaliser)}
        for value, at in zip(values[:_TOP], order[:_TOP])
    ]
