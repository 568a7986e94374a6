"""What `transformers` makes of the same weights: one task on standard input, its answer on standard output.

Run with the worker's package on the path. Each task says below what it is asked and what it answers.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from exp_torch.model import build
from exp_torch.processors import Sampler, Texts
from safetensors.torch import load_file

Json = dict[str, Any]


def library_model(architecture: Json) -> torch.nn.Module:
    """The library's model of the same shape, its weights not yet set."""
    shape = {"vocab_size": architecture["vocabulary"], "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
    if architecture["family"] == "gpt2":
        names = {"n_layer": "layers", "n_embd": "width", "n_head": "heads", "n_positions": "context"}
        config = transformers.GPT2Config(**shape, **{name: architecture[ours] for name, ours in names.items()})
        return transformers.GPT2LMHeadModel(config).eval()
    names = {
        **{"num_hidden_layers": "layers", "hidden_size": "width", "num_attention_heads": "heads"},
        **{"num_key_value_heads": "keyValueHeads", "intermediate_size": "feedForwardWidth"},
        **{"rms_norm_eps": "normEpsilon", "max_position_embeddings": "context"},
    }
    shape |= {name: architecture[ours] for name, ours in names.items()}
    shape |= {"tie_word_embeddings": architecture["tiedHead"], "pad_token_id": architecture.get("paddingId")}
    shape |= {"rope_parameters": {"rope_theta": architecture["ropeTheta"], "rope_type": "default"}}
    if "slidingWindow" in architecture:
        config = transformers.MistralConfig(**shape, sliding_window=architecture["slidingWindow"])
        return transformers.MistralForCausalLM(config).eval()
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape)).eval()


def filled(architecture: Json, seed: int = 0) -> tuple[torch.nn.Module, torch.nn.Module]:
    """Ours and the library's with the same weights: random ones, large enough that every operation shows."""
    ours = build(architecture)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(0, 0.2, generator=generator)
            if parameter.dim() == 1:
                parameter.add_(1)
    library = library_model(architecture)
    missing, unexpected = library.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    library.tie_weights()
    return ours, library


def models(task: Json) -> Json:
    """{"architectures"} -> for each: names and shapes, largest differences of logits and of gradients relative to their
    largest."""
    return {"models": [model_beside_library(architecture) for architecture in task["architectures"]]}


def model_beside_library(architecture: Json) -> Json:
    ours, library = filled(architecture)
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(architecture["vocabulary"], (3, architecture["context"]), generator=generator)
    logits, expected = ours.head(ours(ids)), library(input_ids=ids, use_cache=False).logits

    def gradients(model: torch.nn.Module, scores: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        F.cross_entropy(scores[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).backward()
        return {name: parameter.grad for name, parameter in model.named_parameters()}

    found, wanted = gradients(ours, logits), gradients(library, expected)
    relative = {name: largest(found[name] - wanted[name]) / largest(wanted[name]) for name in found}
    ours.recomputed_blocks = 1
    recomputed = gradients(ours, ours.head(ours(ids)))
    whole = torch.compile(ours, fullgraph=True, backend="eager")
    ours.recomputed_blocks = 0
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = ours.head(ours(ids))
    return {
        "tensors": [[name, list(tensor.shape)] for name, tensor in ours.state_dict().items()],
        "logits": largest(logits - expected) / largest(expected),
        "gradients": max(relative.values()),
        "recomputed": max(largest(recomputed[name] - found[name]) for name in found),
        "compiled": largest(whole(ids) - ours(ids)),
        "bf16": largest(half.float() - logits) / largest(logits),
    }


def largest(values: torch.Tensor) -> float:
    return float(values.detach().abs().max())


def chain_of(preset: Json) -> transformers.LogitsProcessorList:
    chain = transformers.LogitsProcessorList()
    if preset["repetitionPenalty"] != 1:
        chain.append(transformers.RepetitionPenaltyLogitsProcessor(float(preset["repetitionPenalty"])))
    if preset["noRepeatNgramSize"] > 0:
        chain.append(transformers.NoRepeatNGramLogitsProcessor(preset["noRepeatNgramSize"]))
    if preset["doSample"]:
        if preset["temperature"] != 1:
            chain.append(transformers.TemperatureLogitsWarper(float(preset["temperature"])))
        if preset["topK"] > 0:
            chain.append(transformers.TopKLogitsWarper(preset["topK"]))
        if preset["topP"] < 1:
            chain.append(transformers.TopPLogitsWarper(float(preset["topP"])))
    return chain


def texts_of(previous: list[list[int]]) -> Texts:
    """As the worker holds them: beyond its end a text repeats its first token."""
    longest = max(len(ids) for ids in previous)
    rows = [ids + [ids[0] if ids else 0] * (longest - len(ids)) for ids in previous]
    return Texts(torch.tensor(rows), torch.tensor([len(ids) for ids in previous]))


def processors(task: Json) -> Json:
    """
    {"logits": file of fp32 [rows, vocabulary], "vocabulary", "previous": token ids before each row, "uniforms",
    "presets"} -> for each preset `drawn`: our tokens; `scores`: the largest difference of a score to the library's;
    `differently`: rows where other scores are left; `near`: how far from 1 - p, at most, the running sum is where they
    differ.
    """
    data = bytearray(open(task["logits"], "rb").read())
    logits = torch.frombuffer(data, dtype=torch.float32).reshape(-1, task["vocabulary"])
    uniforms = torch.tensor(task["uniforms"], dtype=torch.float64)
    texts = texts_of(task["previous"])
    return {"presets": [processors_of(preset, logits, texts, task["previous"], uniforms) for preset in task["presets"]]}


def scores(task: Json) -> Json:
    """{"cases": [{"preset", "scores", "previous"}]} -> {"scores"}: ours after all processors, null where banned."""

    def processed(case: Json) -> list[float | None]:
        scores = torch.tensor([case["scores"]], dtype=torch.float32)
        found = Sampler(case["preset"]).process(scores, texts_of([case["previous"]]))
        return [None if value == -torch.inf else value for value in found[0].tolist()]

    return {"scores": [processed(case) for case in task["cases"]]}


def processors_of(
    preset: Json, logits: torch.Tensor, texts: Texts, previous: list[list[int]], uniforms: torch.Tensor
) -> Json:
    sampler, chain = Sampler(preset), chain_of(preset)
    before = logits.clone()
    found = sampler.process(logits, texts)
    drawn, _ = sampler.draw(logits, texts, uniforms)
    assert torch.equal(before, logits), "the logits were not left as they were"
    expected = torch.cat([chain(torch.tensor([ids]), logits[i : i + 1].clone()) for i, ids in enumerate(previous)])
    left, wanted = found > -torch.inf, expected > -torch.inf
    # equal scores are interchangeable: the library's sort does not say which of them comes first, ours does
    same = (found.sort(-1).values == expected.sort(-1).values).all(-1)
    odd = (~same).nonzero()[:, 0].tolist()
    return {
        "drawn": drawn.tolist(),
        "scores": largest((found - expected)[left & wanted]),
        "differently": len(odd),
        "near": max((nearness(preset, logits[i], previous[i], left[i] != wanted[i]) for i in odd), default=0.0),
    }


def nearness(preset: Json, row: torch.Tensor, previous: list[int], odd: torch.Tensor) -> float:
    """How far from 1 - p the running sum is, in double precision, at the tokens that one of two left and the other did
    not."""
    scores = chain_of({**preset, "topP": 1})(torch.tensor([previous]), row[None].clone())[0]
    ascending, order = scores.sort(stable=True)
    running = ascending.double().softmax(-1).cumsum(-1)
    return float((running[odd[order]] - (1 - preset["topP"])).abs().min())


def greedy(task: Json) -> Json:
    """{"checkpoint", "prompts", "preset", "maxNewTokens", "eosId"} -> {"tokens"} of `generate`, prompt by prompt."""
    architecture = json.load(open(f"{task['checkpoint']}/state.json"))["architecture"]
    library = library_model(architecture)
    library.load_state_dict(load_file(f"{task['checkpoint']}/model.safetensors"), strict=False)
    library.tie_weights()
    preset = task["preset"]
    return {
        "tokens": [
            library.generate(
                torch.tensor([prompt]),
                # BOS may be the padding token too: without a mask the library would leave it out
                attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
                do_sample=False,
                max_new_tokens=task["maxNewTokens"],
                eos_token_id=task["eosId"],
                pad_token_id=0,
                repetition_penalty=float(preset["repetitionPenalty"]),
                no_repeat_ngram_size=preset["noRepeatNgramSize"],
            )[0, len(prompt) :].tolist()
            for prompt in task["prompts"]
        ]
    }


def losses(task: Json) -> Json:
    """{"checkpoint", "documents": token ids} -> {"nlls"}: sums over all targets, window by window, of the library's
    logits."""
    architecture = json.load(open(f"{task['checkpoint']}/state.json"))["architecture"]
    library = library_model(architecture)
    library.load_state_dict(load_file(f"{task['checkpoint']}/model.safetensors"), strict=False)
    library.tie_weights()
    context = architecture["context"]

    def nll(window: list[int]) -> float:
        logits = library(input_ids=torch.tensor([window[:-1]]), use_cache=False).logits[0]
        return float(F.cross_entropy(logits.double(), torch.tensor(window[1:]), reduction="sum"))

    return {
        "nlls": [
            sum(nll(ids[first : first + context + 1]) for first in range(0, len(ids) - 1, context))
            for ids in task["documents"]
        ]
    }


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    tasks = {task.__name__: task for task in (models, processors, scores, greedy, losses)}
    with torch.no_grad() if asked["task"] != "models" else torch.enable_grad():
        json.dump({"transformers": transformers.__version__, **tasks[asked["task"]](asked)}, sys.stdout)
