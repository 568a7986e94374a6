"""AdamW with decoupled decay on matrices only (Loshchilov and Hutter, arXiv 1711.05101): PyTorch's fused kernel on
moments that may be held in eight bits, in the memory of the host, or both; weights whose fp32 is on the host come along
with them.

In eight bits (the idea: Dettmers et al., arXiv 2110.02861) a block of 256 numbers shares one fp32 scale, its largest
magnitude; each number is a level of a logarithmic scale below that, so its relative error is the same from the largest
down to the smallest: 3.5 % for the first moment (127 levels over four decades), 3.2 % for the second (254 over seven).
The steps are small enough that 0.9 of a first and 0.95 of a second moment never rounds back to where it was. A second
moment that is not zero never becomes zero: that would make its update huge. Encoding what was decoded gives the same
codes, so a checkpoint, which is fp32, loses nothing more.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any, Callable, ContextManager, Iterator

import torch
from torch import Tensor
from torch.optim.adamw import adamw

BLOCK = 256
_PIECE = {"cpu": 1 << 19, "other": 1 << 23}
"""Elements updated at once where moments are unpacked or fetched: 2 MiB in fp32, which a core's cache holds, or 32."""

_FIRST_LEVELS, _SECOND_LEVELS = 127, 255
_FIRST_STEP = 4 * math.log(10) / (_FIRST_LEVELS - 1)
_SECOND_STEP = 7 * math.log(10) / (_SECOND_LEVELS - 1)


@dataclass(frozen=True)
class Slot:
    """A tensor to learn, or this process's part of it.

    `weight`: fp32, updated in place; where it lies on the host (`Host.take`), `copy` is what the device computes with,
    in half precision, and follows it. `gradient` gives that of the step, fp32.
    """

    name: str
    weight: Tensor
    decayed: bool
    gradient: Callable[[], Tensor]
    copy: Tensor | None = None


def _blocks(x: Tensor) -> Tensor:
    """[n] -> [blocks, 256], the last filled up with zeros."""
    return torch.nn.functional.pad(x, (0, -x.numel() % BLOCK)).view(-1, BLOCK)


def _level(magnitude: Tensor, step: float, levels: int) -> Tensor:
    """Of a share of the block's largest, in 1 … levels. Zero gives 1 too."""
    return levels - (-magnitude.clamp(min=1e-30).log() / step).round().clamp(max=levels - 1)


def encode_first(x: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 [n] -> int8 [blocks, 256], fp32 [blocks, 1]. What is nearer to nothing than to the last level is nothing."""
    x = _blocks(x)
    scale = x.abs().amax(1, keepdim=True)
    share = x.abs() / scale.clamp(min=1e-38)
    nothing = share < 0.5 * math.exp(-(_FIRST_LEVELS - 1) * _FIRST_STEP)
    level = torch.where(nothing, 0.0, _level(share, _FIRST_STEP, _FIRST_LEVELS))
    return (level * x.sign()).to(torch.int8), scale


def decode_first(codes: Tensor, scale: Tensor) -> Tensor:
    level = codes.float()
    magnitude = torch.exp((level.abs() - _FIRST_LEVELS) * _FIRST_STEP) * scale
    return torch.where(codes == 0, 0.0, magnitude * level.sign())


def encode_second(x: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 [n], none negative -> uint8 [blocks, 256], fp32 [blocks, 1]"""
    x = _blocks(x)
    scale = x.amax(1, keepdim=True)
    level = _level(x / scale.clamp(min=1e-38), _SECOND_STEP, _SECOND_LEVELS)
    return torch.where(x == 0, 0.0, level).to(torch.uint8), scale


def decode_second(codes: Tensor, scale: Tensor) -> Tensor:
    return torch.where(codes == 0, 0.0, torch.exp((codes.float() - _SECOND_LEVELS) * _SECOND_STEP) * scale)


def _pack(first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
    return *encode_first(first), *encode_second(second)


def _unpack(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    return decode_first(a, b).view(-1), decode_second(c, d).view(-1)


class Host:
    """Memory of the host that the device copies from and to while it computes: page-locked beside a GPU.

    Cut from large pieces, because PyTorch rounds every page-locked allocation up to a power of two.
    """

    _CHUNK = 1 << 28
    _ALIGNMENT = 256

    def __init__(self, device: torch.device) -> None:
        self._pinned = device.type == "cuda"
        self._chunk = torch.empty(0, dtype=torch.uint8)
        self._used = 0

    def take(self, shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Uninitialised. It is given back with the last tensor of its chunk."""
        if not self._pinned:
            return torch.empty(shape, dtype=dtype)
        size = math.prod(shape) * dtype.itemsize
        if self._used + size > self._chunk.numel():
            self._chunk = torch.empty(max(size, self._CHUNK), dtype=torch.uint8, pin_memory=True)
            self._used = 0
        first, self._used = self._used, -(-(self._used + size) // self._ALIGNMENT) * self._ALIGNMENT
        return self._chunk[first : first + size].view(dtype).view(shape)


@dataclass
class _Piece:
    """Elements [first, first + size) of a slot's flat weight.

    `held` is what is kept of their moments; where that is on the host and the weight is too, the weight is its last.
    """

    slot: Slot
    first: int
    size: int
    held: tuple[Tensor, ...]

    def of(self, tensor: Tensor) -> Tensor:
        """Its part of a tensor of the slot's shape."""
        return tensor.view(-1)[self.first : self.first + self.size]


class _Stages:
    """Two places on the device for what lies on the host: one is filled while the other is computed on.

    They are there from the beginning, so a step finds no less memory than the one before. All copies are of one stream,
    in the order they are asked for: what a stage had goes back to the host before anything else comes into it.
    """

    def __init__(self, pieces: list[_Piece], device: torch.device) -> None:
        kinds = max((piece.held for piece in pieces), key=len, default=())
        sizes = [max(p.held[k].numel() for p in pieces if len(p.held) > k) for k in range(len(kinds))]
        dtypes = [kind.dtype for kind in kinds]
        self._stages = [
            tuple(torch.empty(size, dtype=dtype, device=device) for size, dtype in zip(sizes, dtypes)) for _ in range(2)
        ]
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._arrived = [torch.cuda.Event(), torch.cuda.Event()] if self._stream is not None else []
        if self._stream is not None:
            # whoever had this memory before may still be computing in it
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def _copying(self) -> ContextManager[Any]:
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def _views(self, turn: int, piece: _Piece) -> tuple[Tensor, ...]:
        return tuple(place[: one.numel()].view(one.shape) for place, one in zip(self._stages[turn % 2], piece.held))

    def fetch(self, turn: int, piece: _Piece) -> None:
        """Begins to bring a piece; turns count from 0 in every update."""
        with self._copying():
            for here, there in zip(self._views(turn, piece), piece.held):
                here.copy_(there, non_blocking=True)
            if self._stream is not None:
                self._arrived[turn % 2].record(self._stream)

    def take(self, turn: int, piece: _Piece) -> tuple[Tensor, ...]:
        """What was fetched for this turn, to be computed on and changed."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_event(self._arrived[turn % 2])
        return self._views(turn, piece)

    def put_back(self, turn: int, piece: _Piece) -> None:
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with self._copying():
            for here, there in zip(self._views(turn, piece), piece.held):
                there.copy_(here, non_blocking=True)

    def finish(self) -> None:
        """Nothing that is computed afterwards is computed before all is back."""
        if self._stream is not None:
            torch.cuda.current_stream(self._device).wait_stream(self._stream)

    def settle(self) -> None:
        """Waits until all is back."""
        if self._stream is not None:
            self._stream.synchronize()


class AdamW:
    """Moments of all slots, and the update. `step` of every tensor is that of the run: all learn from the first step
    on."""

    def __init__(
        self, slots: list[Slot], optimizer: dict[str, Any], eight_bits: bool, offloaded: bool, compiled: bool
    ) -> None:
        self.slots, self.eight_bits, self.offloaded = slots, eight_bits, offloaded
        self._options = {"amsgrad": False, "maximize": False, "eps": optimizer["epsilon"]}
        self._betas = {"beta1": optimizer["beta1"], "beta2": optimizer["beta2"]}
        self._decay = optimizer["weightDecay"]
        self._device = next((slot.weight.device for slot in slots if slot.copy is None), slots[0].weight.device)
        self._pack = torch.compile(_pack, dynamic=True) if compiled else _pack
        self._unpack = torch.compile(_unpack, dynamic=True) if compiled else _unpack
        self._moments = 4 if eight_bits else 2
        """Tensors that two moments are held in."""
        self._whole = not (eight_bits or offloaded)
        host = Host(self._device) if offloaded else None
        self._pieces = [piece for slot in slots for piece in self._cut(slot, host)]
        self._stages = _Stages(self._pieces, self._device) if offloaded else None

    def _cut(self, slot: Slot, host: Host | None) -> Iterator[_Piece]:
        count = slot.weight.numel()
        size = count if self._whole else _PIECE.get(self._device.type, _PIECE["other"])
        for first in range(0, count, max(1, size)):
            here = min(size, count - first)
            layout = self._layout(here)
            if host is None:
                held = tuple(torch.zeros(shape, dtype=dtype, device=self._device) for shape, dtype in layout)
            else:
                held = tuple(host.take(shape, dtype).zero_() for shape, dtype in layout)
            piece = _Piece(slot, first, here, held)
            if slot.copy is not None:
                piece.held += (piece.of(slot.weight),)
            yield piece

    def _layout(self, count: int) -> list[tuple[tuple[int, ...], torch.dtype]]:
        """What the moments of so many elements are held in; all zeros are moments of zero."""
        if not self.eight_bits:
            return [((count,), torch.float32)] * 2
        blocks = -(-count // BLOCK)
        codes, scales = (blocks, BLOCK), (blocks, 1)
        return [(codes, torch.int8), (scales, torch.float32), (codes, torch.uint8), (scales, torch.float32)]

    def _packed(self, first: Tensor, second: Tensor) -> tuple[Tensor, ...]:
        return self._pack(first, second) if self.eight_bits else (first, second)

    def _unpacked(self, held: tuple[Tensor, ...], size: int) -> tuple[Tensor, Tensor]:
        first, second = self._unpack(*held[: self._moments]) if self.eight_bits else held[:2]
        return first[:size], second[:size]

    def update(self, lr: float, step: int, divisor: Tensor, skip: Tensor) -> None:
        """Takes step `step` (1-based). Gradients are divided by `divisor`; nothing happens where `skip` is 1. Both fp32
        scalars on the device."""
        if self._whole:
            self._update_whole(lr, step, divisor, skip)
            return
        stages, pieces = self._stages, self._pieces
        if stages is not None and pieces:
            stages.fetch(0, pieces[0])
        for turn, piece in enumerate(pieces):
            if stages is not None and turn + 1 < len(pieces):
                stages.fetch(turn + 1, pieces[turn + 1])
            held = piece.held if stages is None else stages.take(turn, piece)
            self._update_piece(piece, held, lr, step, divisor, skip)
            if stages is not None:
                stages.put_back(turn, piece)
        if stages is not None:
            stages.finish()

    def _update_piece(
        self, piece: _Piece, held: tuple[Tensor, ...], lr: float, step: int, divisor: Tensor, skip: Tensor
    ) -> None:
        """On the device; `held` is changed in place."""
        slot = piece.slot
        weight = piece.of(slot.weight) if slot.copy is None else held[-1]
        first, second = self._unpacked(held, piece.size)
        gradient = piece.of(slot.gradient().contiguous())
        self._fused([weight], [gradient], [first], [second], slot.decayed, lr, step, divisor, skip)
        if self.eight_bits:
            for target, source in zip(held, self._packed(first, second)):
                target.copy_(source)
        if slot.copy is not None:
            piece.of(slot.copy).copy_(weight)

    def _update_whole(self, lr: float, step: int, divisor: Tensor, skip: Tensor) -> None:
        for decayed in (True, False):
            pieces = [piece for piece in self._pieces if piece.slot.decayed is decayed]
            if not pieces:
                continue
            weights = [piece.slot.weight.view(-1) for piece in pieces]
            gradients = [piece.slot.gradient().reshape(-1) for piece in pieces]
            firsts, seconds = [piece.held[0] for piece in pieces], [piece.held[1] for piece in pieces]
            self._fused(weights, gradients, firsts, seconds, decayed, lr, step, divisor, skip)

    def _fused(
        self,
        weights: list[Tensor],
        gradients: list[Tensor],
        firsts: list[Tensor],
        seconds: list[Tensor],
        decayed: bool,
        lr: float,
        step: int,
        divisor: Tensor,
        skip: Tensor,
    ) -> None:
        # the kernel counts each tensor's steps itself
        steps = list(torch.full((len(weights),), step - 1.0, device=self._device).unbind())
        decay = self._decay if decayed else 0.0
        adamw(
            *(weights, gradients, firsts, seconds, [], steps),
            **{"fused": True, "grad_scale": divisor, "found_inf": skip, "lr": lr, "weight_decay": decay},
            **self._options,
            **self._betas,
        )

    def settle(self) -> None:
        """Waits until what lies on the host is that of the last update."""
        if self._stages is not None:
            self._stages.settle()

    def moments(self, slot: Slot) -> tuple[Tensor, Tensor]:
        """fp32, in the shape of the slot's weight, on the device or the host."""
        self.settle()
        mine = [piece for piece in self._pieces if piece.slot is slot]
        unpacked = [self._unpacked(tuple(one.to(self._device) for one in p.held), p.size) for p in mine]
        parts = list(zip(*unpacked)) or [(slot.weight.new_empty(0),)] * 2
        first, second = (torch.cat(part).view(slot.weight.shape) for part in parts)
        return first, second

    def set_moments(self, slot: Slot, first: Tensor, second: Tensor) -> None:
        """From fp32 tensors of the shape of the slot's weight, wherever they are."""
        for piece in self._pieces:
            if piece.slot is slot:
                packed = self._packed(*(piece.of(x).to(self._device) for x in (first, second)))
                for target, source in zip(piece.held, packed):
                    target.copy_(source)
