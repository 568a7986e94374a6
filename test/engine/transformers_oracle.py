"""Processed scores of random logit rows by transformers: reads requests on standard input, writes kept ids and scores."""

import json
import sys

import torch
import transformers
from transformers import (
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

request = json.load(sys.stdin)
rows = torch.frombuffer(bytearray(open(request["logits"], "rb").read()), dtype=torch.float32)
rows = rows.reshape(-1, request["vocabulary"])
out = []
for case in request["cases"]:
    preset = case["preset"]
    chain = LogitsProcessorList()
    if preset["repetitionPenalty"] != 1:
        chain.append(RepetitionPenaltyLogitsProcessor(float(preset["repetitionPenalty"])))
    if preset["noRepeatNgramSize"] > 0:
        chain.append(NoRepeatNGramLogitsProcessor(preset["noRepeatNgramSize"]))
    if preset["doSample"]:
        if preset["temperature"] != 1:
            chain.append(TemperatureLogitsWarper(float(preset["temperature"])))
        if preset["topK"] > 0:
            chain.append(TopKLogitsWarper(preset["topK"]))
        if preset["topP"] < 1:
            chain.append(TopPLogitsWarper(float(preset["topP"])))
    scores = chain(torch.tensor([case["previous"]]), rows[case["row"] : case["row"] + 1].clone())[0]
    kept = torch.nonzero(scores > float("-inf")).flatten()
    out.append(
        {
            "argmax": int(scores.argmax()),
            "ids": kept.tolist(),
            "scores": [float(x) for x in scores[kept]] if len(kept) <= 200 else None,
        }
    )
json.dump({"transformers": transformers.__version__, "torch": torch.__version__, "out": out}, sys.stdout)
