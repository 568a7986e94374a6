"""
What `transformers` needs for the same continuations: one line of JSON a question on standard input, one a answer on standard output.

    python torchDecoding_peer.py CHECKPOINT

{"prompts": token ids, "batch": prompts in a call of `generate`, "preset", "maxNewTokens"} -> {"seconds", "tokens"}. Prompts of a batch are of one
length, so nothing is padded and both sides compute the same.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
import transformers
from safetensors.torch import load_file

Json = dict[str, Any]


def model_of(folder: str) -> torch.nn.Module:
    with open(f"{folder}/state.json") as file:
        shape = json.load(file)["architecture"]
    names = {"n_layer": "layers", "n_embd": "width", "n_head": "heads", "n_positions": "context", "vocab_size": "vocabulary"}
    config = transformers.GPT2Config(**{name: shape[ours] for name, ours in names.items()}, bos_token_id=0, eos_token_id=None)
    model = transformers.GPT2LMHeadModel(config).eval()
    model.load_state_dict(load_file(f"{folder}/model.safetensors"), strict=False)
    model.tie_weights()
    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def arguments(preset: Json) -> Json:
    given: Json = {"do_sample": preset["doSample"], "repetition_penalty": float(preset["repetitionPenalty"])}
    given["no_repeat_ngram_size"] = preset["noRepeatNgramSize"]
    if preset["doSample"]:
        given |= {"temperature": preset["temperature"], "top_k": preset["topK"], "top_p": preset["topP"]}
    return given


@torch.inference_mode()
def answer(model: torch.nn.Module, question: Json) -> Json:
    prompts, batch, tokens = question["prompts"], question["batch"], 0
    torch.manual_seed(0)
    began = time.perf_counter()
    for first in range(0, len(prompts), batch):
        ids = torch.tensor(prompts[first : first + batch], device=model.device)
        made = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=question["maxNewTokens"],
            pad_token_id=0,
            **arguments(question["preset"]),
        )
        tokens += made.shape[0] * (made.shape[1] - ids.shape[1])
    return {"seconds": time.perf_counter() - began, "tokens": tokens}


if __name__ == "__main__":
    transformers.utils.logging.set_verbosity_error()
    peer = model_of(sys.argv[1])
    for line in sys.stdin:
        print(json.dumps(answer(peer, json.loads(line))), flush=True)
