# SPDX-License-Identifier: Apache-2.0
"""Checks a release folder with Hugging Face transformers: see README.md beside this file."""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
warnings.filterwarnings("ignore")

import tokenizers
import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

LOGIT_TOLERANCE = 1e-4

# What a family's configuration says of its shape and its special tokens.
SHAPE = ["vocab_size", "bos_token_id", "eos_token_id", "pad_token_id"]
SHAPE += ["n_positions", "n_embd", "n_layer", "n_head"]
SHAPE += ["hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "sliding_window", "rms_norm_eps"]

rows = []


def row(what, passed, figure):
    rows.append((what, bool(passed), figure))


def attempt(what):
    """A check that raises is a check that failed."""

    def decorate(check):
        try:
            check()
        except Exception as error:  # noqa: BLE001
            row(what, False, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[:160])
        return check

    return decorate


def read(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("reference", nargs="?", help='{"texts": [{"text"?, "ids", "logits_last", "greedy"}]} as the engine has it')
    arguments = parser.parse_args()
    folder = os.path.abspath(arguments.folder)
    texts = read(arguments.reference)["texts"] if arguments.reference else []
    torch.manual_seed(0)

    config = read(os.path.join(folder, "config.json"))
    generation = read(os.path.join(folder, "generation_config.json"))
    facts = read(os.path.join(folder, "release.json"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = tokenizers.Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))

    @attempt("parameters and ids as config.json has them")
    def _():
        shape = model.config
        wanted = {key: config[key] for key in SHAPE if key in config}
        found = {key: getattr(shape, key) for key in wanted}
        training = read(os.path.join(folder, "training_config.json"))
        count = sum(parameter.numel() for parameter in model.parameters())
        row("parameters and ids as config.json has them", found == wanted and count == training["parameters"], f"{count} parameters")

    @attempt("head tied to the embedding, or not")
    def _():
        tied = model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
        row("head tied to the embedding, or not", tied == config["tie_word_embeddings"], "same storage" if tied else "two tensors")

    @attempt("weights equal the checkpoint's own file")
    def _():
        from safetensors.torch import load_file

        release = read(os.path.join(folder, "release.json"))
        native = load_file(os.path.join(folder, f"{release['name']}-step_{release['released_step']}.safetensors"))
        loaded = model.state_dict()
        unequal = [name for name, tensor in native.items() if not torch.equal(loaded[name], tensor)]
        row("weights equal the checkpoint's own file", not unequal, f"{len(native)} tensors, {len(unequal)} unequal")

    for number, text in enumerate(texts):
        label = json.dumps(text.get("text", ""), ensure_ascii=False)[:40] if text.get("text") else f"text {number}"

        @attempt(f"logits of {label}")
        def _():
            with torch.no_grad():
                logits = model(torch.tensor([text["ids"]])).logits[0, -1].double()
            wanted = torch.tensor(text["logits_last"], dtype=torch.float64)
            difference = (logits - wanted).abs().max().item()
            row(f"logits of {label}", difference <= LOGIT_TOLERANCE, f"max |difference| {difference:.2e}, max |logit| {wanted.abs().max().item():.2f}")

        if text.get("greedy"):

            @attempt(f"greedy continuation of {label}")
            def _():
                ids = list(text["ids"])
                for expected in text["greedy"]:
                    with torch.no_grad():
                        ids.append(model(torch.tensor([ids])).logits[0, -1].argmax().item())
                    if ids[-1] != expected:
                        break
                stepped = ids[len(text["ids"]) :]
                row(f"greedy continuation of {label}", stepped == text["greedy"], f"{len(stepped)} of {len(text['greedy'])} tokens one by one")

            @attempt(f"generate(greedy) of {label}")
            def _():
                inputs = torch.tensor([text["ids"]])
                # Every setting is named: the release's own would otherwise fill the gaps.
                settings = GenerationConfig(
                    do_sample=False,
                    max_new_tokens=len(text["greedy"]),
                    bos_token_id=config["bos_token_id"],
                    eos_token_id=config["eos_token_id"],
                    pad_token_id=config["pad_token_id"],
                )
                held, model.generation_config = model.generation_config, settings
                try:
                    output = model.generate(inputs, attention_mask=torch.ones_like(inputs))[0].tolist()[len(text["ids"]) :]
                finally:
                    model.generation_config = held
                wanted = text["greedy"]
                if config["eos_token_id"] in wanted:
                    wanted = wanted[: wanted.index(config["eos_token_id"]) + 1]
                row(f"generate(greedy) of {label}", output == wanted, f"{len(output)} tokens with the cache")

        if text.get("text"):

            @attempt(f"ids of {label}")
            def _():
                # Ids cut out of a document need not be what its text alone is encoded as: then `text_ids` says it.
                wanted = [config["bos_token_id"], *text["text_ids"]] if "text_ids" in text else text["ids"]
                own = [tokenizer.bos_token_id] + tokenizer.encode(text["text"], add_special_tokens=False)
                automatic = tokenizer(text["text"])["input_ids"]
                library = plain.encode(text["text"]).ids
                # A tokenizer that came with published weights may leave BOS to whoever calls it.
                itself = (own, own[1:]) if "base" in facts else (own,)
                back = tokenizer.decode(own[1:], clean_up_tokenization_spaces=False)
                row(
                    f"ids of {label}",
                    own == wanted and automatic in itself and library in itself and back == text["text"],
                    f"{len(own)} ids; by hand, by itself, by tokenizers; and back",
                )

    @attempt("generation_config.json loads as it is written")
    def _():
        loaded = model.generation_config
        unequal = [key for key, value in generation.items() if getattr(loaded, key, None) != value or type(getattr(loaded, key)) is not type(value)]
        # transformers refuses an int here only when it first samples with it.
        unequal += [f"{key} is no float" for key in ("temperature", "top_p", "repetition_penalty") if key in generation and type(generation[key]) is not float]
        with tempfile.TemporaryDirectory() as folder_of_copy:
            loaded.save_pretrained(folder_of_copy)
        row("generation_config.json loads as it is written", not unequal, ", ".join(unequal) or f"{len(generation)} settings; saves again")

    @attempt("generate() with it stays in the context")
    def _():
        inputs = torch.tensor([[tokenizer.bos_token_id]])
        output = model.generate(inputs, attention_mask=torch.ones_like(inputs))
        new = output.shape[1] - 1
        row("generate() with it stays in the context", 0 < new <= generation["max_new_tokens"], f"{new} new tokens")

    @attempt("tokenizer knows BOS, EOS, padding and its longest input")
    def _():
        found = (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length)
        wanted = (config["bos_token_id"], config["eos_token_id"], config["pad_token_id"], config.get("n_positions", config.get("max_position_embeddings")))
        row("tokenizer knows BOS, EOS, padding and its longest input", found == wanted, str(found))

    @attempt("quick start of the card runs")
    def _():
        with open(os.path.join(folder, "README.md"), encoding="utf-8") as file:
            section = re.search(r"^## Quick start$(.*?)(?=^## )", file.read(), re.MULTILINE | re.DOTALL)
        block = re.search(r"^```python\n(.*?)^```$", section.group(1), re.MULTILINE | re.DOTALL).group(1)
        with tempfile.TemporaryDirectory() as copy:
            inside = os.path.join(copy, "release")
            shutil.copytree(folder, inside)
            done = subprocess.run([sys.executable, "-c", block], cwd=inside, capture_output=True, text=True, timeout=300)
        said = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
        row("quick start of the card runs", done.returncode == 0 and said, (said[-1] if said else "it printed nothing")[:80])

    checkpoint = os.path.join(folder, f"{facts['name']}-step_{facts['released_step']}.pt")
    if os.path.exists(checkpoint):

        @attempt("checkpoint for PyTorch loads as the card says, and is the model")
        def _():
            with open(os.path.join(folder, "README.md"), encoding="utf-8") as file:
                section = re.search(r"^## PyTorch checkpoint$(.*?)(?=^## )", file.read(), re.MULTILINE | re.DOTALL)
            block = re.search(r"^```python\n(.*?)^```$", section.group(1), re.MULTILINE | re.DOTALL).group(1)
            names, here = {}, os.getcwd()
            os.chdir(folder)
            try:
                exec(compile(block, "README.md", "exec"), names)
            finally:
                os.chdir(here)
            wanted, found = model.state_dict(), names["model"].state_dict()
            unequal = [name for name in wanted if not torch.equal(wanted[name], found[name])]
            inputs = torch.tensor([texts[0]["ids"] if texts else [tokenizer.bos_token_id]])
            with torch.no_grad():
                same = torch.equal(model(inputs).logits, names["model"](inputs).logits)
            step = names["checkpoint"]["state"]["step"]
            passed = found.keys() == wanted.keys() and not unequal and same and step == facts["released_step"]
            row("checkpoint for PyTorch loads as the card says, and is the model", passed, f"{len(found)} tensors, {len(unequal)} unequal, step {step}")

    print(f"{folder}\ntransformers {transformers.__version__}, torch {torch.__version__}, tokenizers {tokenizers.__version__}")
    width = max(len(what) for what, _, _ in rows)
    for what, passed, figure in rows:
        print(f"{'ok  ' if passed else 'FAIL'}  {what:<{width}}  {figure}")
    failed = sum(not passed for _, passed, _ in rows)
    print(f"{len(rows) - failed} of {len(rows)} checks passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
