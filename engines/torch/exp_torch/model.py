"""
The models, as `src/model/Architecture.ts` names them: parameters carry the canonical tensor names and layouts (those of
Hugging Face `transformers`), in canonical order, so a checkpoint is a `state_dict` and nothing is renamed on the way.

    model = build(architecture)          # parameters are uninitialised: whoever asks fills them hidden = model(ids)
    # [batch, length] -> [batch, length, width], after the final norm logits = model.head(hidden)          # apart, so
    that cross-entropy need not hold batch x length x vocabulary at once

Nothing in `forward` depends on values, only on shapes: it compiles whole (`fullgraph=True`) and can be captured.
`model.blocks` is a `ModuleList`, for FSDP2 to wrap and for training to compile one by one; `model.recomputed_blocks`
is how many of the first blocks keep no activations for the backward pass.

A block is split where positions meet: `project` gives queries, keys and values, `finish` takes what attention made of
them. Decoding with a cache (`attention.py`) puts another attention between the same two halves.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .products import linear

Architecture = dict[str, Any]

Rotation = tuple[Tensor, Tensor]
"""Cosine and sine, fp32 [length, head width] or [batch, 1, length, head width]."""

LAYER_NORM_EPSILON = 1e-5


def build(architecture: Architecture) -> "Decoder":
    """A model of this architecture with uninitialised fp32 parameters."""
    family = architecture["family"]
    if family == "gpt2":
        return Gpt2(architecture)
    if family == "llama":
        return Llama(architecture)
    raise ValueError(f"there is no model family `{family}`: gpt2, llama")


class Decoder(nn.Module):
    """What both families share: a pre-norm stack of blocks between an embedding and a head."""

    architecture: Architecture
    dtype: torch.dtype | None = None
    """Of the arithmetic, where it is not that of the parameters: training keeps them in fp32, layers cast what they
    use."""

    @property
    def blocks(self) -> nn.ModuleList:
        raise NotImplementedError

    @property
    def recomputed_blocks(self) -> int:
        """Blocks whose activations are computed again on the way back."""
        return sum(block.recomputed for block in self.blocks)

    @recomputed_blocks.setter
    def recomputed_blocks(self, count: int) -> None:
        for i, block in enumerate(self.blocks):
            block.recomputed = i < count

    @property
    def head_weight(self) -> nn.Parameter:
        """[vocabulary, width]; the embedding table where the head is tied."""
        raise NotImplementedError

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        """[..., length] ids at `positions` (of a shape that broadcasts to that of ids) -> [..., length, width]"""
        raise NotImplementedError

    def rotation(self, positions: Tensor) -> Rotation | None:
        """What `Block.project` needs to know of the positions; None where the embedding has told it all."""
        raise NotImplementedError

    def final_norm(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def fill_buffers(self) -> None:
        """Computes what is neither parameter nor stored; to be called after `to_empty` of a model built on the meta
        device."""

    def head(self, hidden: Tensor) -> Tensor:
        """[..., width] -> logits [..., vocabulary]"""
        return F.linear(hidden, self.head_weight.to(hidden.dtype))

    def forward(self, ids: Tensor) -> Tensor:
        """[batch, length] -> hidden states [batch, length, width] after the final norm; positions count from 0 in every
        row."""
        positions = torch.arange(ids.shape[1], device=ids.device)
        x = self.embed(ids, positions)
        if self.dtype is not None:
            x = x.to(self.dtype)
        rotation = self.rotation(positions)
        for block in self.blocks:
            x = block(x, rotation)
        return self.final_norm(x)


class Block(nn.Module):
    """One layer: positions meet in attention, everything else is done row by row."""

    window: int | None = None
    recomputed: bool = False

    def project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        """[batch, length, width] -> queries [batch, heads, length, head width], keys and values [batch, key-value
        heads, ...]"""
        raise NotImplementedError

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The block's input and what attention made of its queries [batch, heads, length, head width] -> the block's
        output"""
        raise NotImplementedError

    def forward(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        # inside what is compiled, so that the compiler knows what it need not keep; nothing here draws random numbers
        if self.recomputed and torch.is_grad_enabled():
            return checkpoint(self._compute, x, rotation, use_reentrant=False, preserve_rng_state=False)
        return self._compute(x, rotation)

    def _compute(self, x: Tensor, rotation: Rotation | None) -> Tensor:
        queries, keys, values = self.project(x, rotation)
        return self.finish(x, attend(queries, keys, values, self.window))


def attend(queries: Tensor, keys: Tensor, values: Tensor, window: int | None) -> Tensor:
    """Causal attention of the last positions of texts; position i sees j with i - window < j <= i.

    queries [batch, heads, length, head width]; keys and values [batch, key-value heads, at least length, head width]
    """
    length, seen_length = queries.shape[2], keys.shape[2]
    grouped = queries.shape[1] != keys.shape[1]
    # CUDA's fused kernels read a shared key-value head in place; others fall back to holding length x length
    in_place = grouped and queries.is_cuda
    if grouped and not in_place:
        times = queries.shape[1] // keys.shape[1]
        keys, values = keys.repeat_interleave(times, 1), values.repeat_interleave(times, 1)
    if length == seen_length and (window is None or window >= length):
        return F.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=in_place)
    # compared, not subtracted: length x length of booleans, where distances would be eight bytes each
    at = torch.arange(seen_length - length, seen_length, device=queries.device)[:, None]
    other = torch.arange(seen_length, device=queries.device)[None, :]
    seen = other <= at if window is None else (other <= at) & (other > at - window)
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, enable_gqa=in_place)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[batch, length, heads * head width] -> [batch, heads, length, head width]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x: Tensor) -> Tensor:
    """[batch, heads, length, head width] -> [batch, length, heads * head width]"""
    return x.transpose(1, 2).flatten(2)


class Conv1D(nn.Module):
    """A linear layer whose weight lies as [inputs, outputs], as GPT-2 has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype), inputs_first=True)


class Linear(nn.Module):
    """A linear layer without bias, weight [outputs, inputs]; unlike `nn.Linear` it spends no time on values that are
    replaced."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight.to(x.dtype))


class Table(nn.Module):
    """An embedding table [rows, width]; looking up `padding_id` teaches its row nothing."""

    def __init__(self, rows: int, width: int, padding_id: int | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, width))
        self.padding_id = padding_id

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight, self.padding_id)


class LayerNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.bias = nn.Parameter(torch.empty(width))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.layer_norm(x, weight.shape, weight, bias, LAYER_NORM_EPSILON)


class RmsNorm(nn.Module):
    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        # the mean of squares is taken in fp32 whatever x is, as in the published models
        exact = x.float()
        scaled = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + self.epsilon)
        return self.weight.to(x.dtype) * scaled.to(x.dtype)


class Gpt2(Decoder):
    """GPT-2, pre-layer-norm: learned positions, `gelu_new`, biases, tied head (`GPT2LMHeadModel`)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        width, heads = architecture["width"], architecture["heads"]
        self.transformer = nn.Module()
        self.transformer.wte = Table(architecture["vocabulary"], width)
        self.transformer.wpe = Table(architecture["context"], width)
        self.transformer.h = nn.ModuleList(Gpt2Block(width, heads) for _ in range(architecture["layers"]))
        self.transformer.ln_f = LayerNorm(width)

    @property
    def blocks(self) -> nn.ModuleList:
        return self.transformer.h

    @property
    def head_weight(self) -> nn.Parameter:
        return self.transformer.wte.weight

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.transformer.wte(ids) + self.transformer.wpe(positions)

    def rotation(self, positions: Tensor) -> None:
        return None

    def final_norm(self, x: Tensor) -> Tensor:
        return self.transformer.ln_f(x)


class Gpt2Block(Block):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = LayerNorm(width)
        self.attn = nn.Module()
        self.attn.c_attn = Conv1D(width, 3 * width)
        self.attn.c_proj = Conv1D(width, width)
        self.ln_2 = LayerNorm(width)
        self.mlp = nn.Module()
        self.mlp.c_fc = Conv1D(width, 4 * width)
        self.mlp.c_proj = Conv1D(4 * width, width)

    def project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        queries, keys, values = self.attn.c_attn(self.ln_1(x)).chunk(3, -1)
        return split_heads(queries, self.heads), split_heads(keys, self.heads), split_heads(values, self.heads)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.attn.c_proj(join_heads(mixed))
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x)), approximate="tanh"))


class Llama(Decoder):
    """LLaMA and Mistral: rotary positions, SwiGLU, RMSNorm, shared key-value heads, no bias (`LlamaForCausalLM`)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        width = architecture["width"]
        self.model = nn.Module()
        # transformers' LLaMA keeps the row of `pad_token_id` from learning as an input, where a model names one
        self.model.embed_tokens = Table(architecture["vocabulary"], width, architecture.get("paddingId"))
        self.model.layers = nn.ModuleList(LlamaBlock(architecture) for _ in range(architecture["layers"]))
        self.model.norm = RmsNorm(width, architecture["normEpsilon"])
        if not architecture["tiedHead"]:
            self.lm_head = Linear(width, architecture["vocabulary"])
        head_width = width // architecture["heads"]
        self.register_buffer("cosine", torch.empty(architecture["context"], head_width), persistent=False)
        self.register_buffer("sine", torch.empty(architecture["context"], head_width), persistent=False)
        self.fill_buffers()

    def fill_buffers(self) -> None:
        # in fp32 step by step, as transformers does it: an angle of thousands is not exact, and both must be off by the
        # same
        context, head_width = self.cosine.shape
        device = self.cosine.device
        if device.type == "meta":
            # numbers that nobody will see would take PyTorch 150 MB of modules to pretend
            return
        exponents = torch.arange(0, head_width, 2, dtype=torch.int64, device=device).float() / head_width
        frequencies = 1.0 / (self.architecture["ropeTheta"] ** exponents)
        angles = torch.arange(context, dtype=torch.float32, device=device)[:, None] * frequencies[None, :]
        angles = torch.cat((angles, angles), -1)
        self.cosine.copy_(angles.cos())
        self.sine.copy_(angles.sin())

    @property
    def blocks(self) -> nn.ModuleList:
        return self.model.layers

    @property
    def head_weight(self) -> nn.Parameter:
        return self.model.embed_tokens.weight if self.architecture["tiedHead"] else self.lm_head.weight

    def embed(self, ids: Tensor, positions: Tensor) -> Tensor:
        return self.model.embed_tokens(ids)

    def rotation(self, positions: Tensor) -> Rotation:
        return self.cosine[positions], self.sine[positions]

    def final_norm(self, x: Tensor) -> Tensor:
        return self.model.norm(x)


class LlamaBlock(Block):
    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        width, inner = architecture["width"], architecture["feedForwardWidth"]
        self.heads, self.key_value_heads = architecture["heads"], architecture["keyValueHeads"]
        self.window = architecture.get("slidingWindow")
        head_width = width // self.heads
        epsilon = architecture["normEpsilon"]
        self.input_layernorm = RmsNorm(width, epsilon)
        self.self_attn = nn.Module()
        self.self_attn.q_proj = Linear(width, width)
        self.self_attn.k_proj = Linear(width, self.key_value_heads * head_width)
        self.self_attn.v_proj = Linear(width, self.key_value_heads * head_width)
        self.self_attn.o_proj = Linear(width, width)
        self.post_attention_layernorm = RmsNorm(width, epsilon)
        self.mlp = nn.Module()
        self.mlp.gate_proj = Linear(width, inner)
        self.mlp.up_proj = Linear(width, inner)
        self.mlp.down_proj = Linear(inner, width)

    def project(self, x: Tensor, rotation: Rotation | None) -> tuple[Tensor, Tensor, Tensor]:
        x = self.input_layernorm(x)
        queries = split_heads(self.self_attn.q_proj(x), self.heads)
        keys = split_heads(self.self_attn.k_proj(x), self.key_value_heads)
        values = split_heads(self.self_attn.v_proj(x), self.key_value_heads)
        return rotate(queries, rotation), rotate(keys, rotation), values

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.self_attn.o_proj(join_heads(mixed))
        y = self.post_attention_layernorm(x)
        return x + self.mlp.down_proj(F.silu(self.mlp.gate_proj(y)) * self.mlp.up_proj(y))


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotary positions on [batch, heads, length, head width]: the first half of a head is turned against the second."""
    cosine, sine = rotation
    first, second = x.chunk(2, -1)
    return (x * cosine + torch.cat((-second, first), -1) * sine).to(x.dtype)
