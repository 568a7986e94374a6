"""What a user does with a published model: download it by name, load it by name, generate.

Usage: load_from_hub.py REPOSITORY, with HF_ENDPOINT, HF_TOKEN, HF_HOME and HF_HUB_DISABLE_XET=1 in the environment.
Prints one line of JSON. Nothing of ours is imported.
"""

import hashlib
import json
import pathlib
import sys

import torch
from huggingface_hub import HfApi, snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer


def main() -> None:
    (name,) = sys.argv[1:]
    folder = pathlib.Path(snapshot_download(name))
    sums = dict(reversed(line.split("  ", 1)) for line in (folder / "SHA256SUMS").read_text().splitlines())
    wrong = [
        path for path, want in sums.items() if hashlib.sha256((folder / path).read_bytes()).hexdigest() != want
    ]
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(name)
    (checkpoint,) = folder.glob("*.pt")
    tensors = torch.load(checkpoint, weights_only=True, mmap=True)["model"]
    held = model.state_dict()
    inputs = tokenizer("The capital of Italy is", return_tensors="pt")
    with torch.no_grad():
        out = model.generate(**inputs, do_sample=False, max_new_tokens=8)
    api = HfApi()
    refs = api.list_repo_refs(name)
    print(
        json.dumps(
            {
                "revision": folder.name,
                "files": len(sums),
                "wrong": wrong,
                "parameters": sum(p.numel() for p in model.parameters()),
                "new_tokens": int(out.shape[1] - inputs["input_ids"].shape[1]),
                "checkpoint_is_model": tensors.keys() == held.keys() and all(torch.equal(held[key], tensors[key]) for key in held),
                "large": sorted(one.path for one in api.list_repo_tree(name) if one.lfs is not None),
                "private": api.model_info(name).private,
                "tags": {tag.name: tag.target_commit for tag in refs.tags},
                "pull_requests": [one.status for one in api.get_repo_discussions(name)],
            }
        )
    )


main()
