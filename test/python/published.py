# SPDX-License-Identifier: Apache-2.0
"""Writes small models as people publish them: `published.py FOLDER`. A GPT-2 in halves, a LLaMA in shards of brains, a Mistral."""

import os
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

TEXTS = ["The capital of Italy is Rome.", "La capitale d'Italia è Roma, e non Milano.", "One, two, three: 1 2 3"] * 20


def tokenizer(special: list[str], size: int) -> PreTrainedTokenizerFast:
    library = Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    library.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=library, bos_token=special[0], eos_token=special[-1])


def write(folder: str, model, words: PreTrainedTokenizerFast, dtype: torch.dtype, shard: str = "1GB") -> None:
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        # large enough that a fault shows
        parameter.data.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    model.tie_weights()
    model.to(dtype).save_pretrained(folder, max_shard_size=shard)
    words.save_pretrained(folder)


def main(folder: str) -> None:
    one = tokenizer(["<|endoftext|>"], 300)
    two = tokenizer(["<s>", "</s>"], 320)
    ids = {"bos_token_id": two.bos_token_id, "eos_token_id": two.eos_token_id}
    gpt2 = GPT2Config(n_layer=2, n_embd=32, n_head=4, n_positions=80, vocab_size=len(one), bos_token_id=0, eos_token_id=0)
    write(os.path.join(folder, "gpt2"), GPT2LMHeadModel(gpt2), one, torch.float16)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    llama = LlamaConfig(**shape, **ids, intermediate_size=80, vocab_size=len(two) + 4, max_position_embeddings=96, pad_token_id=1)
    write(os.path.join(folder, "llama"), LlamaForCausalLM(llama), two, torch.bfloat16, "30KB")
    mistral = MistralConfig(**shape, **ids, intermediate_size=80, vocab_size=len(two), max_position_embeddings=96, sliding_window=9, tie_word_embeddings=True)
    write(os.path.join(folder, "mistral"), MistralForCausalLM(mistral), two, torch.float32)


main(sys.argv[1])
