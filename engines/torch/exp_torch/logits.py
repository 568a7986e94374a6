"""Logits at every position of one sequence: what an exported model is compared with."""

from __future__ import annotations

import base64
from typing import Any

import torch

from .errors import EngineFailed
from .inference import check_ids, looking, ready
from .losses import logit_blocks


@looking()
def answer(request: dict[str, Any], session: Any) -> dict[str, Any]:
    """`{"shape": [length, vocabulary], "float32": base64, little endian}`"""
    inference = ready(session.load(request["checkpoint"]).model)
    ids = request["ids"]
    check_ids("computing logits", "the sequence", ids, inference.vocabulary)
    context = inference.architecture["context"]
    if not 0 < len(ids) <= context:
        raise EngineFailed("computing logits", f"{len(ids)} tokens do not fit 1 to {context}", "cut the sequence")
    hidden = inference.texts([ids])
    rows = [inference.logits(hidden[block]).cpu() for block in logit_blocks(inference, len(ids))]
    values = torch.cat(rows).numpy().astype("<f4", copy=False)
    return {"shape": list(values.shape), "float32": base64.b64encode(values.tobytes()).decode()}
