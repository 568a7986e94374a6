"""Trains on the card that is not there (`card/runtime.c`): from standard input a list of ways to train, to standard output what each of them held.

In: [{"architecture", "precision", "rowsPerStep", "microBatchRows", "recomputed", "offloaded", "compiled"}]. Out, for each: bytes at the peak that were
allocated and that were reserved, of the second of two steps; what that step launched, how often it waited for the device, what it fetched from there;
bytes that are still held when all of it is forgotten.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys

# as the worker's `__main__.py` sets it before PyTorch begins
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

import torch
from exp_torch.memory import Plan
from exp_torch.parallel import Group
from exp_torch.trainer import Arithmetic, Trainer

OPTIMIZER = {"beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weightDecay": 0.1, "clipNorm": 1}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

card = ctypes.CDLL("libcuda.so.1")


def counted() -> list[int]:
    found = (ctypes.c_long * 3)()
    card.card_counts(found)
    return list(found)


def train(asked: dict) -> dict:
    shape, (precision, *eight) = asked["architecture"], asked["precision"].split("+")
    device = torch.device("cuda", 0)
    arithmetic = Arithmetic(DTYPES[precision], asked["compiled"], bool(eight))
    rows, context = asked["rowsPerStep"], shape["context"]
    trainer = Trainer(shape, OPTIMIZER, rows, context, device, arithmetic, Group(), False)
    blocks = shape["layers"] if asked["recomputed"] else 0
    trainer.arrange(Plan(asked["microBatchRows"], blocks, asked["offloaded"]))
    torch.cuda.empty_cache()
    data = torch.zeros(rows, context + 1, dtype=torch.int64, device=device)
    trainer.step(data, 1e-4, 1, 1.0)
    torch.cuda.reset_peak_memory_stats()
    before = counted()
    trainer.step(data, 1e-4, 2, 1.0)
    launches, waits, fetches = (now - then for now, then in zip(counted(), before))
    peak = {"allocated": torch.cuda.max_memory_allocated(), "reserved": torch.cuda.max_memory_reserved()}
    return {**peak, "launches": launches, "waits": waits, "fetches": fetches}


def freed() -> None:
    gc.collect()
    torch.cuda.empty_cache()


found = []
for asked in json.load(sys.stdin):
    held = train(asked)
    freed()
    found.append({**held, "left": torch.cuda.memory_allocated()})
print(json.dumps(found), flush=True)
# PyTorch's threads may not survive the interpreter
os._exit(0)
