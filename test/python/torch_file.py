# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of ours as PyTorch and its users read them.

Reads a list of jobs on standard input and writes a line of JSON for each:

  {"path"}            what `torch.load(weights_only=True)` gives, in each of its ways of reading
  {"path", "folder"}  a checkpoint held against the release in the folder: bits of the tensors, and logits once they are loaded
  {"path", "at"}      single numbers, by tensor and index, of a file too large to be printed
"""

import json
import os
import sys
import warnings
import zipfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Where storages begin is worked out and looked up, and has to be the same.
os.environ["TORCH_SERIALIZATION_DEBUG"] = "1"
warnings.filterwarnings("ignore")

import torch
from torch.utils.serialization import config


def ways(path):
    yield "read", torch.load(path, weights_only=True)
    yield "mapped", torch.load(path, weights_only=True, mmap=True)
    with config.patch("load.calculate_storage_offsets", True):
        yield "mapped, offsets worked out", torch.load(path, weights_only=True, mmap=True)


def bits(tensor):
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()).hex()


def told(value):
    if isinstance(value, torch.Tensor):
        return {"tensor": [str(value.dtype), list(value.shape), bits(value)]}
    if isinstance(value, float):
        return {"float": value}
    if isinstance(value, list):
        return [told(item) for item in value]
    if isinstance(value, dict):
        return {"dict": [[key, told(member)] for key, member in value.items()]}
    assert value is None or isinstance(value, (bool, int, str)), type(value)
    return value


@torch.no_grad()
def beside(path, folder):
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    stored = load_file(os.path.join(folder, "model.safetensors"))
    released = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(24).unsqueeze(0) % released.config.vocab_size
    wanted = released(ids).logits
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        settings = json.load(file)
    found = {}
    for way, checkpoint in ways(path):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**checkpoint["config"])).eval()
        named = checkpoint["model"]
        head = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        missing, unexpected = model.load_state_dict(named, strict=True)
        embedding = next(iter(named.values()))
        found[way] = {
            "keys": list(checkpoint),
            "beyond": sorted(named.keys() - stored.keys()),
            "unequal": [name for name in stored if bits(stored[name]) != bits(named[name])] + missing + unexpected,
            "unaligned": [name for name, tensor in named.items() if tensor.numel() > 0 and tensor.data_ptr() % 64 != 0],
            "tied": named["lm_head.weight"].data_ptr() == embedding.data_ptr() if "lm_head.weight" in named else None,
            "tiedInModel": head[0].data_ptr() == head[1].data_ptr(),
            "class": type(model).__name__,
            "sameLogits": torch.equal(model(ids).logits, wanted),
            "sameConfig": checkpoint["config"] == settings,
            "state": checkpoint["state"],
        }
    return {"ways": found, "damaged": zipfile.ZipFile(path).testzip()}


def numbers(path, at):
    with config.patch("load.calculate_storage_offsets", True):
        tensors = torch.load(path, weights_only=True, mmap=True)
    offsets = {info.filename: info.file_size for info in zipfile.ZipFile(path).infolist()}
    return {"numbers": [[tensors[name][index].item() for index in indices] for name, indices in at.items()], "sizes": offsets}


for job in json.load(sys.stdin):
    if "folder" in job:
        answer = beside(job["path"], job["folder"])
    elif "at" in job:
        answer = numbers(job["path"], job["at"])
    else:
        answer = {way: told(value) for way, value in ways(job["path"])}
    print(json.dumps(answer))
