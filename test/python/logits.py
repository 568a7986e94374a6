# SPDX-License-Identifier: Apache-2.0
"""Logits and greedy continuations by Hugging Face transformers, folder by folder.

Reads [{"folder", "texts": [ids], "new"}] on standard input; writes a line of JSON for each, and float32 logits to <folder>/logits.bin.
"""

import json
import os
import sys
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

import torch
from transformers import AutoModelForCausalLM


@torch.no_grad()
def answer(folder: str, texts: list[list[int]], new: int) -> dict[str, object]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    logits = [model(torch.tensor([ids])).logits[0] for ids in texts]
    torch.cat(logits).numpy().tofile(os.path.join(folder, "logits.bin"))
    continued = []
    for ids in texts:
        text = list(ids)
        for _ in range(new):
            text.append(int(model(torch.tensor([text])).logits[0, -1].argmax()))
        continued.append(text[len(ids) :])
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"class": type(model).__name__, "parameters": parameters, "greedy": continued}


for request in json.load(sys.stdin):
    print(json.dumps(answer(**request)))
